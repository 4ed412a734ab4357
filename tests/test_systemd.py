"""What systemd is told, by a whole daemon on a socket of the test's, and when the watchdog is fed.

The real systemd is in boot.py; it takes longer and is not everywhere.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from contextlib import closing
from subprocess import DEVNULL
from typing import TYPE_CHECKING

import pytest
import trio

from chatd.health import Health
from chatd.systemd import Systemd, does_its_part, status_line, take_systemd
from tests.daemon import CHATD, NO_FILE, Process, Program, environment, start_program
from tests.notified import open_told

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path


def start(folder: Path, address: str, **variables: str) -> AbstractAsyncContextManager[Process]:
    program = Program(CHATD.arguments, {"NOTIFY_SOCKET": address, **variables}, folder / "chatd.toml")
    program.config.touch()
    return start_program(program, folder / "data", limits=True)


async def test_life_of_a_daemon_is_told(tmp_path: Path) -> None:
    with open_told(tmp_path) as (address, told):
        async with start(tmp_path, address) as daemon:
            assert await told.next(but="WATCHDOG") == {"READY": "1", "STATUS": "Ready."}
            assert (await daemon.http("GET", "/readyz")).status == 200
            before = time.monotonic_ns() // 1000
            daemon.process.send_signal(signal.SIGHUP)
            reloading = await told.wait_for("RELOADING")
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            assert await told.next() == {"READY": "1"}
            daemon.process.terminate()
            assert await told.wait_for("STOPPING") == {"STOPPING": "1", "STATUS": "Draining."}
            with trio.fail_after(30):
                assert await daemon.process.wait() == 0


@pytest.mark.parametrize("looks", range(4))
async def test_stop_right_after_ready_is_clean(tmp_path: Path, looks: int) -> None:
    with open_told(tmp_path) as (address, told):
        program = [sys.executable, "-m", "chatd", "serve", "--config", str(NO_FILE)]
        variables = os.environ | environment(tmp_path / "data", limits=False) | {"NOTIFY_SOCKET": address}
        process = await trio.lowlevel.open_process(program, env=variables, stderr=DEVNULL)
        try:
            await told.wait_for("READY")
            for _ in range(looks):
                await trio.lowlevel.checkpoint()
            process.terminate()
            with trio.fail_after(30):
                assert await process.wait() == 0
        finally:
            process.kill()


async def test_refused_reload_ends_as_well(tmp_path: Path) -> None:
    with open_told(tmp_path) as (address, told):
        async with start(tmp_path, address) as daemon:
            await told.wait_for("READY")
            (tmp_path / "chatd.toml").write_text("[limits]\nnothing = 1\n")
            daemon.process.send_signal(signal.SIGHUP)
            await told.wait_for("RELOADING")
            assert await told.next() == {"READY": "1"}
            await daemon.wait_for_log("reload_refused")


async def test_status_says_connections_and_rates(tmp_path: Path) -> None:
    with open_told(tmp_path) as (address, told):
        async with start(tmp_path, address) as daemon:
            ada = await daemon.register("ada")
            await told.wait_for("READY")
            async with daemon.connect(ada) as client:
                await client.ask(type="send_message", roomId=await daemon.create_room(ada), content="hello")
                told_status = await told.wait_for("STATUS")
            assert re.fullmatch(
                r"1 connections, \d+\.\d messages and \d+\.\d deliveries a second", told_status["STATUS"]
            )


async def test_watchdog_is_fed_and_no_longer_when_the_loop_is_stopped(tmp_path: Path) -> None:
    with open_told(tmp_path) as (address, told):
        async with start(tmp_path, address, WATCHDOG_USEC="300000") as daemon:
            await told.wait_for("READY")
            for _ in range(3):
                assert await told.next() == {"WATCHDOG": "1"}
            daemon.process.send_signal(signal.SIGSTOP)
            with trio.fail_after(30):
                state = ""
                while not state.startswith("T"):
                    await trio.sleep(0.005)
                    state = daemon_state(daemon.process.pid)
            told.waiting()
            await trio.sleep(0.5)
            assert told.waiting() == []
            daemon.process.send_signal(signal.SIGCONT)
            assert await told.wait_for("WATCHDOG")


def daemon_state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123 - no path of the test's
        return file.read().rpartition(") ")[2]


async def test_watchdog_of_another_process_is_not_fed(tmp_path: Path) -> None:
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert take_systemd(environ).watchdog_s == 0
    environ = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}
    assert take_systemd(environ).watchdog_s == 1


def test_nothing_of_systemd_is_left_for_children() -> None:
    environ = {
        "NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "LISTEN_PID": "1", "LISTEN_FDS": "2",
        "LISTEN_FDNAMES": "http:websocket", "HOME": "/",
    }  # fmt: skip
    assert take_systemd(environ).sockets == {}
    assert environ == {"HOME": "/"}


def test_abstract_address_is_understood() -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        name = f"chatd-test-{os.getpid()}"
        sock.bind(f"\0{name}")
        Systemd(f"@{name}").tell(STATUS="Hello.")
        assert sock.recv(100) == b"STATUS=Hello."


def test_systemd_that_is_gone_hinders_nothing(tmp_path: Path) -> None:
    Systemd(str(tmp_path / "nobody")).tell(STATUS="Hello.")


def test_reload_before_it_is_ready_is_not_told(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        with Systemd(str(tmp_path / "notify")).reloading():
            pass
        with pytest.raises(BlockingIOError):
            sock.recv(100)


def test_status_line_reads() -> None:
    assert status_line(312, 187.04, 1870.4) == "312 connections, 187.0 messages and 1870.4 deliveries a second"


class Proofs:
    """Health on a clock of the test's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.health = Health(lambda: self.now, stale_after_s=10)

    def prove(self, *parts: str) -> None:
        for part in parts:
            self.health.prove(part)


def test_watchdog_is_fed_while_delivery_is_proven_and_not_while_a_part_of_the_daemon_is_stuck() -> None:
    proofs = Proofs()
    proofs.prove("database", "bus", "delivery")
    assert does_its_part(proofs.health)
    proofs.now = 11
    proofs.prove("database", "bus")
    assert not does_its_part(proofs.health)
    proofs.health.fail("delivery", "An event was not delivered within 5 s.")
    assert not does_its_part(proofs.health)
    proofs.prove("delivery")
    assert does_its_part(proofs.health)


def test_database_that_is_out_is_no_reason_to_drop_those_who_are_connected() -> None:
    proofs = Proofs()
    proofs.prove("database", "bus", "delivery")
    proofs.now = 11
    proofs.prove("bus")
    proofs.health.fail("database", "The database does not answer.")
    proofs.health.fail("delivery", "The database does not answer.")
    assert does_its_part(proofs.health)


def test_database_of_which_nothing_is_known_is_one() -> None:
    proofs = Proofs()
    proofs.prove("database", "bus", "delivery")
    proofs.now = 11
    proofs.prove("bus", "delivery")
    assert not does_its_part(proofs.health)


def test_drain_is_waited_for() -> None:
    proofs = Proofs()
    proofs.health.is_draining = True
    assert does_its_part(proofs.health)
