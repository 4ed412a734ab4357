"""From a new socket to its end when things go wrong on the way: resets, no descriptors left, nothing left behind."""

from __future__ import annotations

import resource
import socket
import struct
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.nursery import LINGER_S
from tests.daemon import start_process
from tests.rawclient import RawClient, message, open_raw, read_head, upgrade_request
from tests.stopped import StoppedDoor, open_door

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def reset(stream: trio.SocketStream) -> None:
    """Have this socket reset, instead of ended, when it is closed."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def assert_nothing_is_left(door: StoppedDoor) -> None:
    while door.door.admission.count:
        # It may still be in a query, which ends in a thread's time.
        await wait_all_tasks_blocked()
    assert door.door.connections == set()
    assert door.door.upgrading == set()
    assert door.door.admission.enter_address("127.0.0.1") is None


async def test_client_that_resets_at_any_point_leaves_nothing_behind(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock, LIMITS_CONNECTIONS_PER_ADDRESS="1") as door:
        *_, token = await door.sign_up()
        request = upgrade_request("x", {"Authorization": f"Bearer {token}"})
        for sent in (b"", request[:20], request, request + message(type="ping"), request + message(type="ping")[:5]):
            async with await trio.open_tcp_stream("127.0.0.1", door.port) as stream:
                if sent:
                    await stream.send_all(sent)
                await wait_all_tasks_blocked()
                reset(stream)
            await assert_nothing_is_left(door)
            door.door.admission.leave_address("127.0.0.1")
        assert not list(door.chat.sessions.of_user("anybody"))


async def test_reset_connection_is_counted_as_broken(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        async with door.connect() as (client, connection):
            reset(client.stream)
        await assert_nothing_is_left(door)
        assert connection.close_code == 1006


async def test_daemon_without_descriptors_says_so_once_and_serves_the_waiting_later(tmp_path: Path) -> None:
    async with start_process(tmp_path) as daemon, AsyncExitStack() as waiting:
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (60, 60))
        async with AsyncExitStack() as served:
            streams = []
            for _ in range(80):
                streams.append(await trio.open_tcp_stream("127.0.0.1", daemon.websocket_port))
                await (served if len(streams) <= 40 else waiting).enter_async_context(streams[-1])
                await streams[-1].send_all(upgrade_request("x"))
            told = await daemon.wait_for_log("accept_failed")
            assert "Too many open files" in told["detail"]
            assert (await read_head(streams[0])).status == 101
        # The first forty have gone and made room for those that waited.
        for stream in streams[40:60]:
            assert (await read_head(stream)).status == 101
        client = RawClient(streams[40])
        assert (await client.ask(type="ping"))["type"] == "pong"
        assert [line["event"] for line in daemon.log].count("accept_failed") == 1


async def test_half_open_connections_of_one_address_do_not_take_all_places(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with (
        open_door(tmp_path, mock_clock, LIMITS_CONNECTIONS="3", LIMITS_CONNECTIONS_PER_ADDRESS="2") as door,
        AsyncExitStack() as half_open,
    ):
        for _ in range(2):
            await half_open.enter_async_context(await trio.open_tcp_stream("127.0.0.1", door.port))
        await wait_all_tasks_blocked()
        async with await trio.open_tcp_stream("127.0.0.1", door.port) as third:
            answer = await read_head(third)
            assert (answer.status, answer.headers["retry-after"]) == (429, "10")
        assert door.door.admission.count == 2
        other = await trio.open_tcp_stream("127.0.0.1", door.port, local_address="127.0.0.2")
        async with other:
            await other.send_all(upgrade_request("x"))
            assert (await read_head(other)).status == 101


async def test_refused_clients_that_linger_are_bounded(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatd.nursery.MAX_LINGERING", 3)
    async with open_door(tmp_path, mock_clock, LIMITS_CONNECTIONS="1") as door, AsyncExitStack() as stack:
        for _ in range(2):
            streams = []
            for _ in range(6):
                streams.append(await trio.open_tcp_stream("127.0.0.1", door.port))
                await stack.enter_async_context(streams[-1])
                await wait_all_tasks_blocked()
            told = [bytes(await stream.receive_some())[:12] for stream in streams[-5:]]
            assert told == [b"HTTP/1.1 503"] * 3 + [b""] * 2
            assert door.door.admission.lingering == 3
            await stack.aclose()
            await door.jump(LINGER_S)
            await assert_nothing_is_left(door)
            assert door.door.admission.lingering == 0


async def test_many_connections_at_once_are_all_served(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door, trio.open_nursery() as nursery:

        async def ping(number: int) -> None:
            async with open_raw(door.port) as client:
                assert (await client.ask(type="ping", id=str(number)))["id"] == str(number)

        for number in range(200):
            nursery.start_soon(ping, number)
