"""What the daemon tells of itself when it is asked, or when something goes wrong or takes long."""

from __future__ import annotations

import io
import json
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from chatd import telemetry
from chatd.slow import SlowLog
from chatd.telemetry import Defects, configure_logging, fingerprint_of, get_logger
from tests.daemon import open_daemon, start_process
from tests.logs import own_logging

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = get_logger("tests")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    with own_logging():
        written = io.StringIO()
        configure_logging("debug", "json", written)
        yield written


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# Defects


def fail(value: str) -> None:
    raise ValueError(value)


def log_failure(value: str) -> None:
    try:
        fail(value)
    except ValueError:
        log.exception("failed", place="here")


def test_defect_is_told_with_its_traceback_once_and_then_counted(stream: io.StringIO) -> None:
    for value in ("first", "second", "third"):
        log_failure(value)
    first, second, third = lines(stream)
    assert "in fail" in str(first["exception"])
    assert "exception" not in second
    assert first["fingerprint"] == second["fingerprint"] == third["fingerprint"]
    assert (second["times"], third["times"], second["error"]) == (2, 3, "ValueError")
    assert second["place"] == "here"


def test_defects_of_different_places_are_told_apart(stream: io.StringIO) -> None:
    log_failure("x")
    nothing: dict[str, str] = {}
    try:
        nothing["x"]
    except KeyError:
        log.exception("failed")
    assert all("exception" in line for line in lines(stream))
    assert len({line["fingerprint"] for line in lines(stream)}) == 2


def test_traceback_is_told_again_after_an_hour() -> None:
    now = 0.0
    defects = Defects(lambda: now)
    error = ValueError("x")
    assert "exc_info" in defects.told({"exc_info": error})
    assert "exc_info" not in defects.told({"exc_info": error})
    now = 3601.0
    assert "exc_info" in defects.told({"exc_info": error})


def test_kinds_of_defects_that_are_remembered_are_bounded() -> None:
    defects = Defects(lambda: 0.0)
    for number in range(telemetry.MAX_DEFECTS + 10):
        defects.told({"exc_info": type(f"E{number}", (Exception,), {})()})
    assert len(defects._known) <= telemetry.MAX_DEFECTS


def test_group_of_one_has_the_fingerprint_of_what_is_in_it() -> None:
    error = ValueError("x")
    assert fingerprint_of(ExceptionGroup("g", [error])) == fingerprint_of(error)
    assert fingerprint_of(ExceptionGroup("g", [error, KeyError()])) != fingerprint_of(error)


# What takes long


def test_slow_operation_is_logged_and_counted_and_a_quick_one_is_not(stream: io.StringIO) -> None:
    slow = SlowLog(100)
    slow.note("rooms.by_id", 0.1)
    slow.note("rooms.by_id", 0.101, connection="c")
    [line] = lines(stream)
    assert (line["event"], line["what"], line["milliseconds"]) == ("slow_operation", "rooms.by_id", 101)
    assert line["connection"] == "c"
    assert slow.count == 1


def test_zero_logs_nothing(stream: io.StringIO) -> None:
    SlowLog(0).note("rooms.by_id", 1000)
    assert lines(stream) == []


async def test_slow_database_is_named_in_the_log_with_what_it_was_asked(tmp_path: Path, stream: io.StringIO) -> None:
    async with open_daemon(tmp_path, limits=False, TELEMETRY_SLOW_MS="1", AUTH_BCRYPT_COST="8") as daemon:
        await daemon.register("ada")
    slow = [line for line in lines(stream) if line["event"] == "slow_operation"]
    assert "POST /api/auth/register" in {line["what"] for line in slow}
    assert any(str(line["what"]).startswith("database: ") for line in slow)


# A connection's life


async def test_life_of_a_connection_is_in_the_log_from_begin_to_end(tmp_path: Path, stream: io.StringIO) -> None:
    async with open_daemon(tmp_path, limits=False) as daemon:
        ada = await daemon.register("ada")
        async with daemon.connect(ada) as client:
            await client.ask(type="ping")
            await client.send_text("no JSON")
            await client.wait_for("error")
        await trio.sleep(0.1)
    by_event = {line["event"]: line for line in lines(stream) if line.get("connection")}
    ended = by_event["disconnected"]
    assert by_event["connected"]["address"] == ended["address"] == "127.0.0.1"
    assert (ended["code"], ended["user"], ended["messages_read"], ended["refusals"]) == (1000, ada.id, 3, 1)
    assert int(str(ended["bytes_read"])) > 100
    assert int(str(ended["bytes_sent"])) > 100


async def test_connection_that_the_daemon_ends_has_its_reason_in_the_log(tmp_path: Path, stream: io.StringIO) -> None:
    async with (
        open_daemon(tmp_path, limits=False, WEBSOCKET_AUTH_TIMEOUT_S="0.1") as daemon,
        daemon.connect() as client,
    ):
        assert (await client.wait_closed())[0] == 4502
    [ended] = [line for line in lines(stream) if line["event"] == "disconnected"]
    assert (ended["code"], ended["reason"]) == (4502, "authentication timeout")
    assert "user" not in ended


# The dump


async def test_dump_tells_tasks_where_they_wait_and_numbers_and_the_daemon_goes_on(tmp_path: Path) -> None:
    async with start_process(tmp_path, limits=False) as daemon:
        ada = await daemon.register("ada")
        async with daemon.connect(ada), daemon.connect(ada) as client:
            daemon.process.send_signal(signal.SIGUSR1)
            ended = await daemon.wait_for_log("dump_ended")
            tasks = {line["task"]: line for line in daemon.log if line["event"] == "dump_task"}
            # Two clients and the canary.
            assert tasks["connection.Connection.beat"]["count"] == 3
            assert tasks["connection.Connection.beat"]["at"].startswith("connection.py:")
            assert ended["tasks"] >= sum(line["count"] for line in tasks.values())
            assert ended["parts"]["canary"] == "proven"
            [numbers] = [line for line in daemon.log if line["event"] == "dump_numbers"]
            assert numbers["chat_active_connections"] == 2
            assert (await client.ask(type="ping"))["type"] == "pong"
