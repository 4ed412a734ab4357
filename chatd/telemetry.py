"""Log lines: an event's name with fields, readable at a terminal, JSON otherwise, with the id of their connection.

The door to structlog. Everything logs through `get_logger(__name__)`; `__main__` says once where lines go. Numbers are
the business of `metrics`. Lines hold ids, never content, tokens or passwords: a field that is named like one is
redacted as a last line of defence.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from structlog.typing import EventDict, Processor, WrappedLogger

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
LogFormat: TypeAlias = Literal["auto", "console", "json"]

REDACTED: Final = "[redacted]"
_LEVELS: Final[dict[LogLevel, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
#: Seconds after which a defect's traceback is told again, and defects that are told apart.
TELL_AGAIN_S: Final = 3600.0
MAX_DEFECTS: Final = 1000
_SECRET_NAMES: Final = frozenset({"authorization", "body", "content", "cookie", "metadata"})
_SECRET_ENDINGS: Final = ("token", "tokens", "password", "secret", "passwordhash")


class Logger:
    """Writes lines under one name. A level that is switched off costs one comparison."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, /, **fields: object) -> None:
        if _output.level <= logging.DEBUG:
            _output.write("debug", self._name, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        if _output.level <= logging.INFO:
            _output.write("info", self._name, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        if _output.level <= logging.WARNING:
            _output.write("warning", self._name, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        _output.write("error", self._name, event, fields)

    def exception(self, event: str, /, *, exc_info: BaseException | Literal[True] = True, **fields: object) -> None:
        """Log a defect with the traceback of `exc_info`, by default of the exception that is being handled."""
        _output.write("error", self._name, event, {**fields, "exc_info": exc_info})


def get_logger(name: str) -> Logger:
    return Logger(name)


def bind_context(**ids: str) -> None:
    """Put these fields into every later line of this task and of the tasks that it starts from now on."""
    structlog.contextvars.bind_contextvars(**ids)


def bound(name: str) -> str:
    """A field of every line of this task, empty if there is none."""
    value: str = structlog.contextvars.get_contextvars().get(name, "")
    return value


def configure_logging(level: LogLevel, log_format: LogFormat, stream: TextIO) -> None:
    """Send all lines from `level` up to `stream`, those of libraries as well; may be called again, for another level.

    `auto` is `console` where the stream is a terminal, else `json`. A stream that cannot be written to loses lines and
    raises nothing: a full disk or a closed pipe must not end the daemon.
    """
    global _output  # noqa: PLW0603 one process has one log, and loggers are made before it is known where it goes
    _output = _Output(_LEVELS[level], _processors(log_format, stream), stream)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler())
    # below warning, libraries log the very frames that they carry
    root.setLevel(max(_output.level, logging.WARNING))


def change_level(level: LogLevel) -> None:
    """Send lines from another level up from now on, to where they are sent."""
    _output.level = _LEVELS[level]
    logging.getLogger().setLevel(max(_output.level, logging.WARNING))


class _Output:
    """Where lines go and what they look like. Threads may write at the same time."""

    def __init__(self, level: int, processors: Sequence[Processor], stream: TextIO | None) -> None:
        self.level = level
        self._processors = processors
        self._stream = stream
        self._lock = threading.Lock()
        self.defects = Defects()

    def write(self, level: LogLevel, logger: str, event: str, fields: Mapping[str, object]) -> None:
        if "exc_info" in fields:
            fields = self.defects.told(fields)
        head = {"time": _now(), "level": level, "event": event, "logger": logger}
        line: Any = {**head, **structlog.contextvars.get_contextvars(), **fields, **head}
        for processor in self._processors:
            line = processor(None, level, line)
        # the standard error of this moment, before it is configured: pytest replaces it for each test
        stream = self._stream or sys.stderr
        with self._lock:
            try:
                stream.write(f"{line}\n")
                stream.flush()
            except (OSError, ValueError):  # ValueError: the stream is closed
                return


class Defects:
    """What has gone wrong so far, by fingerprint: each defect's traceback is told once an hour, else only how often."""

    #: Of this process, whatever was configured meanwhile.
    count: ClassVar[int] = 0

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._known: dict[str, tuple[float, int]] = {}

    def told(self, fields: Mapping[str, object]) -> dict[str, object]:
        """The fields with the fingerprint of their exception, and without its traceback if that was told lately."""
        error = _exception_of(fields["exc_info"])
        if error is None:
            return dict(fields)
        Defects.count += 1
        fingerprint, now = fingerprint_of(error), self._seconds()
        told_at, times = self._known.get(fingerprint, (float("-inf"), 0))
        if now - told_at >= TELL_AGAIN_S:
            if len(self._known) >= MAX_DEFECTS:
                self._known.clear()
            self._known[fingerprint] = (now, 1)
            return {**fields, "fingerprint": fingerprint}
        self._known[fingerprint] = (told_at, times + 1)
        rest = {name: value for name, value in fields.items() if name != "exc_info"}
        return {**rest, "fingerprint": fingerprint, "error": type(error).__name__, "times": times + 1}


def fingerprint_of(error: BaseException) -> str:
    """The same for errors that come from the same place the same way: types and lines of code, no values."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    parts = [type(error).__name__]
    parts += [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-8:]]
    if isinstance(error, BaseExceptionGroup):
        parts += sorted(fingerprint_of(inner) for inner in error.exceptions)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def _exception_of(given: object) -> BaseException | None:
    if isinstance(given, BaseException):
        return given
    error = given[1] if isinstance(given, tuple) else sys.exc_info()[1]
    return error if isinstance(error, BaseException) else None


class _LibraryHandler(logging.Handler):
    """Writes what libraries log by the standard library in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        level: LogLevel = "error" if record.levelno >= logging.ERROR else "warning"
        fields = {"exc_info": record.exc_info} if record.exc_info else {}
        _output.write(level, record.name, record.getMessage(), fields)


def _processors(log_format: LogFormat, stream: TextIO) -> list[Processor]:
    at_terminal = stream.isatty()
    if log_format == "json" or (log_format == "auto" and not at_terminal):
        return [_redact, structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    return [_redact, _escape, _console(colors=at_terminal and not os.environ.get("NO_COLOR"))]


def _console(*, colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=colors,
        timestamp_key="time",
        sort_keys=False,
        # the default shows local variables where `rich` is installed, and with them content and passwords
        exception_formatter=structlog.dev.plain_traceback,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _redact(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    return {name: REDACTED if _is_secret(name) else _without_secrets(value) for name, value in line.items()}


def _without_secrets(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: REDACTED if _is_secret(str(name)) else _without_secrets(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(inner) for inner in value] if not _is_exc_info(value) else value
    return value


def _is_exc_info(value: list[Any] | tuple[Any, ...]) -> bool:
    return len(value) == 3 and isinstance(value[1], BaseException)


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    plain = name.replace("_", "").replace("-", "").lower()
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)


def _escape(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Text from outside must not move the cursor or feign another line."""
    return {
        name: repr(value)[1:-1] if isinstance(value, str) and not value.isprintable() else value
        for name, value in line.items()
    }


# Before anything is configured, what matters still reaches somebody.
_output = _Output(logging.WARNING, [_redact, _escape, _console(colors=False)], None)
