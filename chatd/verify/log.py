"""The log of a client: everything that it sent and was told, as `chatd.client` and the torture clients write it.

NDJSON. A line says whose the following ones are (`Head`), or what happened on a connection (`Line`); docs/verify.md
describes both. Logs are read line by line, however long they are; one that ends in the middle of a line is that of a
client that was killed.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from chatd.records import encode_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

#: `handed`: the client's user took an event from it.
What: TypeAlias = Literal["opens", "sent", "heard", "handed", "ends"]

#: How each head begins: what a killed client left of its last line may stand before it.
HEAD_START: Final = b'{"name":'
#: What msgspec raises for text that is not as it should be.
FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Head(msgspec.Struct, frozen=True):
    """The lines behind this one are those of a client of a user."""

    name: str
    user_id: str


class Line(msgspec.Struct, frozen=True):
    """At `at_s` on connection number `stay`, which grows from one to the next.

    Seconds since 1970, or of a run: their differences count. With `name` it is that client's, of whose lines others may
    stand between; without, that of the last head.
    """

    at_s: float
    stay: int
    what: What
    message: dict[str, Any]
    name: str | None = None


class LogFault(Exception):
    """A file is no log; `str()` is one sentence that says where."""


_head_decoder: Final = msgspec.json.Decoder(Head)
_line_decoder: Final = msgspec.json.Decoder(Line)


def read_log(path: Path, *, size: int, remark: Callable[[str], object]) -> Iterator[Head | Line]:
    """The lines of a log, as far as its first `size` bytes. Raises `LogFault`."""
    try:
        with path.open("rb") as file:
            yield from _read(file, path, size, remark)
    except OSError as error:
        raise LogFault(f"{path} cannot be read: {error.strerror or error}.") from error


def _read(file: IO[bytes], path: Path, left: int, remark: Callable[[str], object]) -> Iterator[Head | Line]:
    has_head = False
    for number, raw in enumerate(file, 1):
        line, left = raw[:left], left - len(raw)
        if line.isspace():
            continue
        try:
            read = _parse(line)
        except FAULTS as error:
            if left <= 0 and not line.endswith(b"\n"):
                remark(f"{path} ends in the middle of a line: its client was killed, or still writes.")
                return
            if (again := line.rfind(HEAD_START)) <= 0:
                raise LogFault(f"{path}:{number} is no line of a client's log: {error}.") from error
            try:
                read = _head_decoder.decode(line[again:])
            except FAULTS:
                raise LogFault(f"{path}:{number} is no line of a client's log: {error}.") from error
            remark(f"{path}:{number} ends in the middle of a line: its client was killed.")
        has_head = has_head or isinstance(read, Head)
        if not has_head:
            raise LogFault(f"{path}:{number}: the first line of a log says whose it is.")
        yield read
        if left <= 0:
            return


def _parse(line: bytes) -> Head | Line:
    try:
        return _line_decoder.decode(line)
    except msgspec.ValidationError:
        if not line.startswith(HEAD_START):
            raise
        return _head_decoder.decode(line)


def write_log(path: Path, head: Head, lines: Iterable[Line]) -> None:
    """A log of one client."""
    with path.open("wb") as file:
        file.write(encode_json(head) + b"\n")
        file.writelines(
            encode_json({"at_s": line.at_s, "stay": line.stay, "what": line.what, "message": line.message}) + b"\n"
            for line in lines
        )
