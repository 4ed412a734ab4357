"""Log lines as they reach the stream: form, level, context, what libraries say, and what must never show."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd import telemetry
from chatd.telemetry import bind_context, configure_logging, get_logger
from tests.logs import own_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

log = get_logger("chatd.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("NO_COLOR", raising=False)
    with own_logging():
        yield


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# Form


def test_json_line_holds_time_level_event_logger_and_fields(stream: io.StringIO) -> None:
    log.info("room_created", room="r1", members=2)
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {"level": "info", "event": "room_created", "logger": "chatd.test", "room": "r1", "members": 2}


def test_field_named_like_a_part_of_the_line_does_not_replace_it(stream: io.StringIO) -> None:
    log.info("kept", level="x", logger="y", time="z")
    (line,) = lines(stream)
    assert (line["level"], line["logger"]) == ("info", "chatd.test")
    assert line["time"] != "z"


def test_value_that_json_does_not_know_is_shown_as_its_repr(stream: io.StringIO) -> None:
    log.info("odd", value={1}, error=OSError("x"))
    assert lines(stream)[0]["value"] == "{1}"
    assert lines(stream)[0]["error"] == "OSError('x')"


def test_console_line_is_coloured_at_a_terminal_only() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    configure_logging("info", "console", terminal)
    log.info("started", port=3001)
    configure_logging("info", "console", pipe)
    log.info("started", port=3001)
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b[" not in pipe.getvalue()
    assert re.search(r"Z \[info +\] started +\[chatd\.test\] port=3001\n", pipe.getvalue())


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    configure_logging("info", "auto", terminal)
    log.info("started")
    assert "\x1b[" not in terminal.getvalue()


def test_auto_is_console_at_a_terminal_and_json_otherwise() -> None:
    for stream, is_json in ((Terminal(), False), (io.StringIO(), True)):
        configure_logging("info", "auto", stream)
        log.info("started")
        assert stream.getvalue().startswith("{") is is_json


def test_text_from_outside_cannot_move_the_cursor_or_feign_a_line() -> None:
    terminal = io.StringIO()
    configure_logging("info", "console", terminal)
    log.info("refused\x1b[2J", path="/a\n2026 [info] all_is_well", name="été")
    assert terminal.getvalue().count("\n") == 1
    assert "\x1b" not in terminal.getvalue()
    assert "été" in terminal.getvalue()


# Level


def test_lines_below_the_level_are_not_written(stream: io.StringIO) -> None:
    configure_logging("warning", "json", stream)
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line["event"] for line in lines(stream)] == ["c", "d"]
    configure_logging("debug", "json", stream)
    log.debug("e")
    assert lines(stream)[-1]["event"] == "e"
    configure_logging("error", "json", stream)
    log.warning("f")
    log.error("g")
    assert [line["event"] for line in lines(stream)] == ["c", "d", "e", "g"]


def test_before_anything_is_configured_warnings_reach_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("quiet")
    log.warning("loud", token="t0ps3cret")
    error = capsys.readouterr().err
    assert "loud" in error
    assert "quiet" not in error
    assert "t0ps3cret" not in error


# Context


async def test_lines_of_a_connection_and_of_its_tasks_carry_its_id(stream: io.StringIO) -> None:
    async def task(event: str) -> None:
        await trio.lowlevel.checkpoint()
        log.info(event)
        await trio.to_thread.run_sync(log.info, f"{event}_thread")

    async def connection(name: str) -> None:
        bind_context(connection=name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, f"{name}_reader")
            nursery.start_soon(task, f"{name}_writer")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection, "c1")
        nursery.start_soon(connection, "c2")
    log.info("server")

    *of_connections, of_server = lines(stream)
    assert len(of_connections) == 8
    for line in of_connections:
        assert line["connection"] == line["event"].split("_")[0]
    assert "connection" not in of_server


# Defects


def test_defect_is_logged_with_its_traceback(stream: io.StringIO) -> None:
    try:
        raise ValueError("odd")
    except ValueError:
        log.exception("rule_failed", room="r1")
    (line,) = lines(stream)
    assert (line["level"], line["event"], line["room"]) == ("error", "rule_failed", "r1")
    assert "test_telemetry.py" in line["exception"]
    assert line["exception"].endswith("ValueError: odd")


def test_defect_from_a_group_is_logged_with_the_traceback_it_came_with(stream: io.StringIO) -> None:
    failures = [ValueError("odd"), KeyError("even")]
    try:
        raise ExceptionGroup("both", failures)
    except* ValueError as odd:
        log.exception("task_failed", exc_info=odd.exceptions[0])
    except* KeyError:
        log.exception("task_failed")
    first, second = lines(stream)
    assert first["exception"] == "ValueError: odd"
    assert "KeyError: 'even'" in second["exception"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_traceback_shows_no_local_variables(log_format: telemetry.LogFormat) -> None:
    stream = io.StringIO()
    configure_logging("info", log_format, stream)
    text = "hunter2"
    try:
        raise ValueError(len(text))
    except ValueError:
        log.exception("rule_failed")
    assert "ValueError: 7" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


# Libraries


def test_warnings_of_libraries_come_in_the_same_form(stream: io.StringIO) -> None:
    library = logging.getLogger("some.library")
    library.info("frame: %s", "secret content")
    library.warning("lost %d", 3)
    try:
        raise OSError("gone")
    except OSError:
        library.exception("failed")
    warning, failure = lines(stream)
    assert (warning["level"], warning["event"], warning["logger"]) == ("warning", "lost 3", "some.library")
    assert failure["level"] == "error"
    assert failure["exception"].endswith("OSError: gone")


def test_libraries_are_written_once_after_a_second_configuration(stream: io.StringIO) -> None:
    configure_logging("debug", "json", stream)
    logging.getLogger("some.library").debug("frame")
    logging.getLogger("some.library").warning("lost")
    assert [line["event"] for line in lines(stream)] == ["lost"]


# What must never show


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "access_token",
        "refreshToken",
        "tokens",
        "password",
        "new_password",
        "password_hash",
        "secret",
        "previousSecret",
        "content",
        "Authorization",
        "cookie",
        "metadata",
        "body",
    ],
)
def test_field_named_like_a_secret_is_redacted(stream: io.StringIO, name: str) -> None:
    bind_context(**{name: "t0ps3cret"})
    log.info("a", **{name: "t0ps3cret"})
    log.info("b", nested={"list": [{name: "t0ps3cret"}], "other": "seen"})
    log.info("c")
    assert "t0ps3cret" not in stream.getvalue()
    assert lines(stream)[0][name] == telemetry.REDACTED
    assert lines(stream)[1]["nested"] == {"list": [{name: telemetry.REDACTED}], "other": "seen"}


@pytest.mark.parametrize("name", ["content_length", "token_id", "body_bytes", "room"])
def test_field_that_only_speaks_of_one_is_not(stream: io.StringIO, name: str) -> None:
    log.info("a", **{name: "12"})
    assert lines(stream)[0][name] == "12"


# A stream that fails


class Broken(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_stream_that_cannot_be_written_to_ends_nobody() -> None:
    configure_logging("info", "json", Broken())
    log.info("lost")
    closed = io.StringIO()
    configure_logging("info", "json", closed)
    closed.close()
    log.info("lost")


def test_threads_do_not_mix_their_lines(stream: io.StringIO) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(trio.to_thread.run_sync, write_many, number)

    def write_many(number: int) -> None:
        for _ in range(50):
            log.info("line", number=number, padding="x" * 200)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        trio.run(main)
    finally:
        sys.setswitchinterval(interval)
    assert len(lines(stream)) == 1000
