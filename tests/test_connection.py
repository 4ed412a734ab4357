"""The tasks of a connection, on a clock moved by hand: when it is pinged, warned, given up, and closed with what."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.connection import Connection
from chatd.wire.frames import text_frame
from tests.rawclient import CLOSE, PING, PONG, TEXT, Frame, RawClient, close, frame, message
from tests.stopped import is_silent, open_door, real_time_limit, wait_until

if TYPE_CHECKING:
    from pathlib import Path

QUIET = {"WEBSOCKET_HEARTBEAT_S": "10000", "WEBSOCKET_DEAD_AFTER_S": "20000"}
BAD = frame(TEXT, b"no JSON")


async def errors(client: RawClient, count: int) -> list[str]:
    """The codes of so many errors."""
    found = [await client.receive_json() for _ in range(count)]
    assert {each["type"] for each in found} == {"error"}
    return [each["code"] for each in found]


# Authentication


async def test_connection_that_does_not_authenticate_is_told_and_closed_at_five_seconds(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with open_door(tmp_path, mock_clock) as door, door.connect() as (client, _):
        assert (await client.ask(type="ping"))["type"] == "pong"
        await door.jump(4.99)
        assert is_silent(client)
        await door.jump(0.02)
        told = await client.receive_json()
        assert (told["type"], told["code"]) == ("auth_error", "unauthenticated")
        assert "5 s" in told["message"]
        assert await client.wait_closed() == (4502, [])


async def test_connection_that_authenticated_stays(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        *_, token = await door.sign_up()
        async with door.connect() as (client, _):
            await door.jump(4.9)
            assert (await client.ask(type="authenticate", token=token))["type"] == "authenticated"
            await door.jump(10)
            assert is_silent(client)


async def test_request_head_that_does_not_come_ends_the_wait_without_a_word(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with open_door(tmp_path, mock_clock) as door, await trio.open_tcp_stream("127.0.0.1", door.port) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\n")
        client = RawClient(stream)
        await door.jump(9.9)
        assert is_silent(client)
        await door.jump(0.2)
        assert await client.receive() is None
        assert door.door.admission.count == 0


# Expiry


async def test_connection_ends_when_its_token_expires(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock, AUTH_ACCESS_MINUTES="1", **QUIET) as door:
        *_, token = await door.sign_up()
        async with door.connect(token) as (client, _):
            await door.jump(59.9)
            assert is_silent(client)
            await door.jump(0.2)
            assert await client.wait_closed() == (4001, [])


async def test_fresh_token_of_the_same_user_extends_the_connection(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock, AUTH_ACCESS_MINUTES="1", **QUIET) as door:
        user_id, session_id, token = await door.sign_up()
        async with door.connect(token) as (client, _):
            await door.jump(50)
            fresh = door.chat.tokens.issue(user_id, session_id, door.chat.clock())
            assert (await client.ask(type="authenticate", token=fresh))["expiresAt"] == "2026-01-01T00:01:50.000Z"
            await door.jump(59.9)
            assert is_silent(client)
            await door.jump(0.2)
            assert await client.wait_closed() == (4001, [])


# Heartbeat


async def test_silent_connection_is_pinged_and_then_given_up(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        *_, token = await door.sign_up()
        async with door.connect(token) as (client, _):
            await door.jump(14.9)
            assert is_silent(client)
            await door.jump(5.2)
            assert await client.receive() == Frame(PING, b"")
            await door.jump(9.8)
            assert is_silent(client)
            await door.jump(0.2)
            assert await client.wait_closed() == (4009, [])


async def wait_unread(connection: Connection, count: int) -> None:
    """Wait until so many bytes have come to a connection that reads nothing."""
    while int.from_bytes(fcntl.ioctl(connection._socket, termios.FIONREAD, bytes(4)), sys.byteorder) < count:
        await trio.to_thread.run_sync(time.sleep, 0.001)


async def test_client_that_waits_for_a_slow_answer_lives_as_long_as_it_sends(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers to pings wait in the kernel behind the request that is being answered."""
    is_asked, may_answer = trio.Event(), trio.Event()

    async def answer_slowly(*_: object) -> None:
        is_asked.set()
        await may_answer.wait()

    async with open_door(tmp_path, mock_clock) as door:
        *_, token = await door.sign_up()
        async with door.connect(token) as (client, connection):
            monkeypatch.setattr("chatd.connection.dispatch", answer_slowly)
            await client.send(message(type="ping"))
            await is_asked.wait()
            for answers in (1, 2, 3):
                await door.jump(20.1)
                assert await client.receive() == Frame(PING, b"")
                await client.send(frame(PONG))
                await wait_unread(connection, answers * len(frame(PONG)))
                await door.jump(10)
                assert is_silent(client)
            # It has gone now; what it sent before is no sign of life for ever.
            await door.jump(20.1)
            assert await client.receive() == Frame(PING, b"")
            await door.jump(10)
            told = await client.receive()
            assert told is not None
            assert told.close_code == 4009
            may_answer.set()


@pytest.mark.parametrize("sign", [frame(PONG), frame(PING, b"x"), message(type="ping"), b"\x81"])
async def test_any_bytes_are_a_sign_of_life(tmp_path: Path, mock_clock: MockClock, sign: bytes) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        *_, token = await door.sign_up()
        async with door.connect(token) as (client, _):
            await door.jump(14)
            await client.send(sign)
            await door.jump(14.9)
            while not is_silent(client):
                found = await client.receive()
                assert found is not None
                assert found.opcode in {PONG, TEXT}
            await door.jump(5.2)
            assert await client.receive() == Frame(PING, b"")
            await door.jump(10)
            assert (await client.wait_closed())[0] == 4009


async def test_client_that_answers_pings_stays_for_ever(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        *_, token = await door.sign_up()
        async with door.connect(token) as (client, connection):
            for _ in range(20):
                await door.jump(20.1)
                assert await client.receive() == Frame(PING, b"")
                await door.jump(0.05)
                bytes_read = connection.bytes_read
                await client.send(frame(PONG))
                # A busy machine takes its time to carry it.
                await wait_until(lambda: connection.bytes_read > bytes_read)  # noqa: B023 - called before the next turn
            assert is_silent(client)


async def test_connections_that_came_together_are_not_pinged_together(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock, WEBSOCKET_AUTH_TIMEOUT_S="1000") as door, trio.open_nursery() as nursery:
        clients: list[RawClient] = []
        leave = trio.Event()

        async def stay() -> None:
            async with door.connect() as (client, _):
                clients.append(client)
                await leave.wait()

        for count in range(40):
            nursery.start_soon(stay)
            await wait_until(lambda: len(clients) > count)  # noqa: B023 - as above
        pinged = []
        for _ in range(21):
            pinged.append(sum(not is_silent(client) for client in clients))
            await door.jump(1)
        assert pinged[15] == 0
        assert pinged[20] == 40
        assert len(set(pinged)) >= 4
        leave.set()


# Refusals


async def test_refusals_are_warned_of_once_and_too_many_close_the_connection(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with open_door(tmp_path, mock_clock, LIMITS_REFUSALS_PER_MINUTE="20") as door, door.connect() as (client, _):
        for _ in range(10):
            await client.send(BAD)
            assert await errors(client, 1) == ["bad_message"]
        assert is_silent(client)
        await client.send(BAD)
        await errors(client, 1)
        warning = await client.receive_json()
        assert warning["message"].startswith("11 refusals within a minute: past 20")
        assert warning["temporary"] is True
        for _ in range(9):
            await client.send(BAD)
            await errors(client, 1)
        assert is_silent(client)
        await client.send(BAD)
        await errors(client, 1)
        assert await client.wait_closed() == (4503, [])


async def test_rate_limited_requests_close_with_another_code(tmp_path: Path, mock_clock: MockClock) -> None:
    options = {"LIMITS_REFUSALS_PER_MINUTE": "4", "LIMITS_REQUESTS_PER_MINUTE": "1"}
    async with open_door(tmp_path, mock_clock, **options) as door, door.connect() as (client, _):
        assert (await client.ask(type="ping"))["type"] == "pong"
        for _ in range(5):
            await client.send(message(type="ping"))
        code, before = await client.wait_closed()
        assert code == 4029
        assert {found.json()["code"] for found in before} == {"rate_limited"}


async def test_refusals_are_forgiven_after_a_quiet_minute(tmp_path: Path, mock_clock: MockClock) -> None:
    options = QUIET | {"LIMITS_REFUSALS_PER_MINUTE": "20", "WEBSOCKET_AUTH_TIMEOUT_S": "1000"}
    async with open_door(tmp_path, mock_clock, **options) as door, door.connect() as (client, _):
        for _ in range(3):
            for _ in range(20):
                await client.send(BAD)
                await wait_all_tasks_blocked()
            assert len(await errors(client, 21)) == 21
            await door.jump(60.1)
        assert is_silent(client)


async def test_refusals_of_one_read_are_answered_no_further_than_the_limit(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with open_door(tmp_path, mock_clock, LIMITS_REFUSALS_PER_MINUTE="20") as door, door.connect() as (client, _):
        await client.send(BAD * 500)
        code, before = await client.wait_closed()
        assert code == 4503
        assert 21 < len(before) < 25


async def test_no_limit_of_refusals_keeps_nothing_of_them(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door, door.connect() as (client, connection):
        for _ in range(50):
            await client.send(BAD)
            await errors(client, 1)
        assert len(connection._refusals) <= 1


# The end


async def test_client_that_does_not_answer_the_close_frame_is_cut_off(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock, **QUIET) as door, door.connect() as (client, connection):
        connection.end(4001, "first")
        connection.end(4009, "second")
        found = await client.receive()
        assert found == Frame(CLOSE, b"\x0f\xa1first")
        await door.jump(4.9)
        assert is_silent(client)
        await door.jump(0.2)
        assert await client.receive() is None
        assert (connection.close_code, len(door.door.connections)) == (4001, 0)


async def test_nothing_is_answered_after_the_close_frame(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door, door.connect() as (client, connection):
        connection.end(4001, "over")
        await client.send(message(type="ping") + frame(PING) + BAD)
        assert await client.wait_closed() == (4001, [])


async def test_message_that_comes_after_the_close_frame_is_not_stored(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        user_id, _, token = await door.sign_up()
        room = (await door.chat.rooms.visible(user_id, after="", limit=1, offset=0))[0].id
        async with door.connect(token) as (client, connection):
            assert (await client.ask(type="join_room", roomId=room))["type"] == "room_history"
            connection.end(4001, "over")
            await client.send(message(type="send_message", roomId=room, content="too late"))
            assert (await client.wait_closed())[0] == 4001
        async with door.connect(token) as (client, _):
            history = await client.ask(type="get_history", roomId=room)
            assert history["messages"] == []


async def test_close_of_the_client_is_answered_with_its_code(tmp_path: Path, mock_clock: MockClock) -> None:
    """What is answered where the client named no code is 1000; what is counted is that it named none."""
    closes = ((close(1000), 1000, 1000), (close(1001, b"bye"), 1001, 1001), (close(4321), 4321, 4321))
    async with open_door(tmp_path, mock_clock) as door:
        for data, answered, counted in (*closes, (frame(CLOSE), 1000, 1005)):
            async with door.connect() as (client, connection):
                await client.send(data)
                found = await client.receive()
                assert found is not None
                assert found.close_code == answered
                assert await client.receive() is None
                assert connection.close_code == counted


async def test_client_that_vanishes_is_counted_as_abnormal(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        async with door.connect() as (_, connection):
            pass
        await wait_all_tasks_blocked()
        assert connection.close_code == 1006
        assert not door.door.connections
        assert door.door.admission.count == 0


async def fill(client: RawClient, connection: Connection) -> int:
    """Send frames of 10 000 bytes until a quarter of the outbox waits; how many were sent."""
    count = 0
    while connection.session.outbox.waiting_bytes < 262_144:
        connection.session.put(text_frame(b"x" * 9_996))
        count += 1
    return count


async def test_fault_of_a_client_with_a_full_socket_still_gets_its_close_frame(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with open_door(tmp_path, mock_clock) as door, door.connect(receive_buffer=4096) as (client, connection):
        count = await fill(client, connection)
        await wait_all_tasks_blocked()
        await client.send(frame(TEXT, b"unmasked", mask=None))
        await wait_all_tasks_blocked()
        code, before = await client.wait_closed()
        assert code == 1002
        assert len(before) == count


async def test_slow_reader_hears_its_close_frame_instead_of_what_waits(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door, door.connect(receive_buffer=4096) as (client, connection):
        while connection.close_code != 4008:
            connection.session.put(text_frame(b"x" * 9_996))
        # What has begun to leave, and what the writer may have joined with it.
        assert connection.session.outbox.waiting_bytes < 80_000
        assert (await client.wait_closed())[0] == 4008


async def test_several_tasks_that_wait_for_space_all_go_on(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock, WEBSOCKET_OUTBOX_BYTES="262144") as door:
        ours, theirs = socket.socketpair()
        with ours, theirs, real_time_limit(10):
            ours.setblocking(False)
            theirs.setblocking(False)
            connection = Connection(ours, "", door.chat, door.door.options)
            while connection.session.outbox.waiting_bytes < 200_000:
                connection.session.put(b"x" * 20_000)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.write)
                async with trio.open_nursery() as waiting:
                    for _ in range(3):
                        waiting.start_soon(connection.session.line.wait_for_space)
                    await wait_all_tasks_blocked()
                    while connection.session.outbox.waiting_bytes > 131_072:
                        theirs.recv(65_536)
                        await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            trio.lowlevel.notify_closing(ours)


async def test_client_that_reads_nothing_while_it_is_waited_for_is_a_slow_reader(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with (
        open_door(
            tmp_path, mock_clock, WEBSOCKET_OUTBOX_BYTES="400000", WEBSOCKET_AUTH_TIMEOUT_S="1000", **QUIET
        ) as door,
        door.connect(receive_buffer=4096) as (client, connection),
        trio.open_nursery() as nursery,
    ):
        await fill(client, connection)
        nursery.start_soon(connection.session.line.wait_for_space)
        await door.jump(29.9)
        assert connection.close_code == 1005
        await door.jump(0.2)
        assert connection.close_code == 4008
