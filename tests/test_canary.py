"""The canary: what keeps a message from being delivered makes the daemon not ready, and nobody sees the message."""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd import canary, nursery, server, upkeep
from chatd.bus.room import ActiveRoom
from chatd.config import TelemetryOptions
from chatd.store.journal import Journal
from chatd.systemd import Systemd
from tests.certificates import make_certificate
from tests.daemon import ON_BOTH_BACK_ENDS, ON_EMBEDDED, open_daemon
from tests.notified import open_told
from tests.servers import open_postgres, open_redis

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from chatd.store.acts import Act
    from chatd.store.entries import Entry
    from tests.daemon import Daemon

pytestmark = ON_BOTH_BACK_ENDS
#: Quick enough for a test, slow enough for a machine that has other things to do.
EVERY_S = "0.5"
PARTS = ("database", "bus", "delivery", "canary", "loop")


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path, TELEMETRY_CANARY_S=EVERY_S) as running:
        yield running


async def parts(daemon: Daemon) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = (await daemon.http("GET", "/readyz")).json()["parts"]
    return found


async def wait_until_stale(daemon: Daemon, part: str, *, within_s: float = 20) -> dict[str, Any]:
    """Ask until the part is said not to be ready."""
    return await _wait_until(daemon, part, is_ready=False, within_s=within_s)


async def wait_until_ready(daemon: Daemon, part: str = "canary", *, within_s: float = 30) -> dict[str, Any]:
    return await _wait_until(daemon, part, is_ready=True, within_s=within_s)


async def _wait_until(daemon: Daemon, part: str, *, is_ready: bool, within_s: float) -> dict[str, Any]:
    with trio.fail_after(within_s):
        while True:
            answer = await daemon.http("GET", "/readyz")
            found: dict[str, Any] = answer.json()["parts"].get(part, {"ready": False})
            if found["ready"] is is_ready:
                assert is_ready or answer.status == 503
                return found
            await trio.sleep(0.05)


async def test_daemon_that_says_it_listens_has_delivered_a_message_through_its_own_port(daemon: Daemon) -> None:
    canary = (await parts(daemon))["canary"]
    assert canary["ready"]
    assert "fault" not in canary


async def test_age_of_the_proof_is_told_and_begins_anew_with_each_beat(daemon: Daemon) -> None:
    ages = []
    for _ in range(30):
        ages.append((await parts(daemon))["canary"]["ageSeconds"])
        await trio.sleep(0.05)
    assert any(later < earlier for earlier, later in pairwise(ages))


async def test_nothing_of_the_canary_shows_to_users_or_in_their_numbers(daemon: Daemon) -> None:
    async def chat_numbers() -> list[str]:
        text = (await daemon.http("GET", "/metrics")).body.decode()
        watched = ("chat_messages", "chat_active", "chatd_active_rooms", "chatd_connections", "chatd_deliveries")
        return [line for line in text.splitlines() if line.startswith(watched)]

    ada = await daemon.register("ada")
    before = await chat_numbers()
    async with daemon.connect(ada) as client:
        rooms = (await daemon.http("GET", "/api/rooms", token=ada.token)).json()["rooms"]
        assert [room["name"] for room in rooms] == ["lobby"]
        assert (await daemon.http("GET", "/api/chats", token=ada.token)).json()["chats"] == []
        await trio.sleep(2 * float(EVERY_S))
        with pytest.raises(trio.TooSlowError):
            await client.receive(within_s=0.2)
    assert {str(name) for (name,) in daemon.rows("SELECT username FROM users")} == {"ada"}
    assert {str(name) for (name,) in daemon.rows("SELECT name FROM rooms")} == {"lobby"}
    assert daemon.rows("SELECT id FROM messages") == []
    with trio.fail_after(5):
        # Ada's own connection is counted; when it is gone, nothing is left but how many there have been.
        while (after := await chat_numbers()) != [
            line.replace("chatd_connections_total 0", "chatd_connections_total 1") for line in before
        ]:
            assert len(after) == len(before)
            await trio.sleep(0.05)


async def test_strangers_cannot_use_the_canarys_room(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    async with daemon.connect(ada) as client:
        for room_id in ("canary", "canary:0"):
            assert (await client.ask(type="send_message", roomId=room_id, content="x"))["code"] in (
                "not_found",
                "not_a_member",
            )
            assert (await client.ask(type="join_room", roomId=room_id))["code"] in ("not_found", "not_a_member")


async def test_limits_of_connections_do_not_count_the_canary(tmp_path: Path) -> None:
    limits = {
        "LIMITS_CONNECTIONS": "1",
        "LIMITS_CONNECTIONS_PER_ADDRESS": "1",
        "LIMITS_NEW_CONNECTIONS_PER_SECOND": "1",
    }
    async with open_daemon(tmp_path, limits=True, TELEMETRY_CANARY_S=EVERY_S, **limits) as daemon:
        ada = await daemon.register("ada")
        async with daemon.connect(ada):
            assert (await wait_until_ready(daemon))["ready"]


async def test_journal_that_commits_nothing_is_named_and_recovers(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, commit = trio.Event(), Journal._commit

    async def wait_and_commit(journal: Journal, entries: Sequence[Entry | Act], **options: int) -> None:
        await gate.wait()
        await commit(journal, entries, **options)

    monkeypatch.setattr(Journal, "_commit", wait_and_commit)
    assert (await wait_until_stale(daemon, "canary"))["fault"] == "It was read and is not committed yet."
    gate.set()
    await wait_until_ready(daemon)


async def test_deliver_task_that_is_stuck_is_named_and_recovers(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The task that serves large rooms, in whose way the canary goes as well.
    with monkeypatch.context() as patched:
        patched.setattr(ActiveRoom, "serve", lambda *_: True)
        found = await wait_until_stale(daemon, "canary")
        assert found["fault"] == "It was committed and has not come back from the bus."
    await wait_until_ready(daemon)


@ON_EMBEDDED
async def test_loop_that_stands_still_again_and_again_is_named_and_recovers(
    tmp_path: Path, back_ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "STALL_S", 0.3)
    monkeypatch.setattr(canary, "TICK_S", 0.1)
    async with open_daemon(tmp_path, TELEMETRY_CANARY_S=EVERY_S) as daemon:
        await wait_until_ready(daemon, "loop")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(block_the_loop)
            found = await wait_until_stale(daemon, "loop")
            assert re.fullmatch(r"It stood still for \d+\.\d s\.", found["fault"])
            nursery.cancel_scope.cancel()
        await wait_until_ready(daemon, "loop")


async def block_the_loop() -> None:
    """For much longer than is said to be too long, with a moment between in which others may ask."""
    while True:
        time.sleep(0.8)  # noqa: ASYNC251 - this is what is tested
        await trio.sleep(0.05)


def test_what_is_not_proven_any_more_is_said_within_ten_seconds() -> None:
    # What each part may take to be stale, as shipped, and a moment for who asks.
    assert upkeep.new_health(float).stale_after_s < 9
    assert canary.MISSES * TelemetryOptions().canary_s < 9
    assert canary.STALL_S + 4 * canary.TICK_S < 9


async def test_own_port_that_accepts_nobody_is_named_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, serve_socket = trio.Event(), nursery._serve_socket

    async def wait_and_serve(sock: socket.socket, peer: str, door: nursery.Door) -> None:
        await gate.wait()
        await serve_socket(sock, peer, door)

    monkeypatch.setattr(nursery, "_serve_socket", wait_and_serve)
    async with open_daemon(tmp_path, TELEMETRY_CANARY_S=EVERY_S) as daemon:
        # It listens although it could not prove that it delivers, and says so.
        assert (await wait_until_stale(daemon, "canary"))["fault"] == "It could not connect to the daemon's own port."
        gate.set()
        await wait_until_ready(daemon)


@ON_EMBEDDED
async def test_back_ends_that_stop_or_freeze_are_named_and_ready_again_when_they_are_back(
    tmp_path: Path, back_ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "UPKEEP_S", 0.5)
    with open_postgres() as postgres, open_redis() as redis, open_told(tmp_path) as (address, told):
        monkeypatch.setattr(server, "Systemd", lambda: Systemd(address, watchdog_s=0.6))
        options = {
            "DATABASE_URL": postgres.url(postgres.new_database()), "DATABASE_MIGRATE": "true",
            "DATABASE_TIMEOUT_S": "0.5", "BUS_URL": redis.url, "BUS_TIMEOUT_S": "0.5", "AUTH_SECRET": "s" * 32,
        }  # fmt: skip
        async with open_daemon(tmp_path / "data", limits=False, TELEMETRY_CANARY_S=EVERY_S, **options) as daemon:

            async def go_out_and_come_back(
                out: Sequence[Callable[[], None]], back: Sequence[Callable[[], None]], *named: str
            ) -> None:
                for name in PARTS:
                    await wait_until_ready(daemon, name)
                for act in out:
                    act()
                for name in named:
                    assert (await wait_until_stale(daemon, name))["fault"]
                for other in {"database", "bus"}.difference(named):
                    await wait_until_ready(daemon, other)
                # A restart would mend nothing: systemd goes on hearing that the daemon does its part.
                told.waiting()
                await told.wait_for("WATCHDOG")
                for act in back:
                    act()

            await go_out_and_come_back([redis.pause], [redis.resume], "bus", "delivery", "canary")
            await go_out_and_come_back([postgres.pause], [postgres.resume], "database", "canary")
            servers = redis, postgres
            await go_out_and_come_back(
                [each.kill for each in servers], [each.start for each in servers], "bus", "database", "canary"
            )
            for name in PARTS:
                await wait_until_ready(daemon, name)


async def test_canary_speaks_tls_where_its_port_does(tmp_path: Path) -> None:
    options = make_certificate(tmp_path).options("WEBSOCKET")
    async with open_daemon(tmp_path / "data", limits=False, TELEMETRY_CANARY_S=EVERY_S, **options) as daemon:
        found = await wait_until_ready(daemon)
        assert "fault" not in found


async def test_daemons_that_share_a_port_prove_themselves_each(tmp_path: Path, back_ends: str) -> None:
    if back_ends == "embedded":
        return  # Only nodes of one cluster share a port.
    async with open_daemon(tmp_path, limits=False, TELEMETRY_CANARY_S=EVERY_S, WEBSOCKET_REUSE_PORT="true") as one:
        port = str(one.websocket_port)
        options = {"WEBSOCKET_REUSE_PORT": "true", "WEBSOCKET_PORT": port, "TELEMETRY_CANARY_S": EVERY_S}
        async with open_daemon(tmp_path, limits=False, **options) as other:
            for daemon in (one, other) * 2:
                await wait_until_ready(daemon)
                await trio.sleep(float(EVERY_S))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with little space."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    assert mounted.returncode == 0, f"this test needs a disk of its own, which root may mount: {mounted.stderr}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@ON_EMBEDDED
async def test_full_disk_is_named_and_ready_again_when_there_is_space(
    small_disk: Path, back_ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "UPKEEP_S", 0.5)
    ballast = small_disk / "ballast"
    async with open_daemon(small_disk / "data", TELEMETRY_CANARY_S=EVERY_S) as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            with suppress(OSError), ballast.open("wb") as file:
                while file.write(bytes(65536)):
                    pass
            # What the log of the database has left over is used up by messages.
            while (await client.ask(type="send_message", roomId=room, content="x" * 9000))["type"] == "message_ack":
                pass
        found = await wait_until_stale(daemon, "database")
        assert "full" in found["fault"]
        await wait_until_stale(daemon, "canary")
        ballast.unlink()
        await wait_until_ready(daemon, "database")
        await wait_until_ready(daemon)
