"""How a daemon stops: everybody is told and closed with 1012, nobody holds it up, nothing acknowledged is lost."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.daemon import ON_BOTH_BACK_ENDS, ON_EMBEDDED, Client, Process, open_daemon, start_process
from tests.rawclient import message, open_raw

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS


async def wait_for_exit(daemon: Process, *, within_s: float) -> int:
    with trio.fail_after(within_s):
        return await daemon.process.wait()


async def wait_until_refused(port: int) -> None:
    with trio.fail_after(30):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                return


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_tells_everybody_to_come_back_at_a_time_of_their_own(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with start_process(tmp_path) as daemon, AsyncExitStack() as stack:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        clients: list[Client] = [await stack.enter_async_context(daemon.connect(ada)) for _ in range(9)]
        clients.append(await stack.enter_async_context(daemon.connect()))
        for count in range(50):
            await clients[0].send(type="send_message", roomId=room, content=str(count), id=str(count))
        daemon.process.send_signal(number)
        delays = []
        for client in clients:
            assert (await client.wait_closed())[0] == 1012
            # Behind it come at most the messages that were under way, and their acknowledgements.
            [told] = [each for each in client.inbox if each["type"] == "server_shutdown"]
            assert told["reason"]
            delays.append(told["reconnectAfterMs"])
        assert all(0 <= delay <= 1010 for delay in delays)
        assert len(set(delays)) > 3
        assert await wait_for_exit(daemon, within_s=5) == 0
    acknowledged = [told["messageId"] for told in clients[0].inbox if told["type"] == "message_ack"]
    async with open_daemon(tmp_path) as restarted:
        answer = await restarted.http("GET", f"/api/rooms/{room}/messages?limit=100", token=ada.token)
        stored = {kept["id"] for kept in answer.json()["messages"]}
        assert set(acknowledged) <= stored


async def test_nobody_new_is_let_in_while_the_daemon_stops(tmp_path: Path) -> None:
    async with start_process(tmp_path) as daemon, open_raw(daemon.websocket_port) as slow:
        daemon.process.terminate()
        assert (await slow.receive_json())["type"] == "server_shutdown"
        await wait_until_refused(daemon.websocket_port)
        assert (await slow.wait_closed())[0] == 1012
        assert await wait_for_exit(daemon, within_s=5) == 0


async def test_client_that_does_not_answer_does_not_hold_it_up_for_long(tmp_path: Path) -> None:
    async with (
        start_process(tmp_path, WEBSOCKET_CLOSE_TIMEOUT_S="0.3") as daemon,
        open_raw(daemon.websocket_port) as deaf,
    ):
        daemon.process.terminate()
        assert await wait_for_exit(daemon, within_s=3) == 0
        assert (await deaf.receive_json())["type"] == "server_shutdown"


async def test_connection_that_never_said_anything_does_not_hold_it_up(tmp_path: Path) -> None:
    async with (
        start_process(tmp_path) as daemon,
        open_raw(daemon.websocket_port) as client,
        await trio.open_tcp_stream("127.0.0.1", daemon.websocket_port),
    ):
        # Whoever came after it has been answered, so it has been accepted.
        async with open_raw(daemon.websocket_port):
            daemon.process.terminate()
            assert (await client.receive_json())["type"] == "server_shutdown"
        assert (await client.wait_closed())[0] == 1012
        assert await wait_for_exit(daemon, within_s=3) == 0


async def test_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with start_process(tmp_path) as daemon, open_raw(daemon.websocket_port) as deaf:
        daemon.process.terminate()
        assert (await deaf.receive_json())["type"] == "server_shutdown"
        daemon.process.terminate()
        assert await wait_for_exit(daemon, within_s=2) == 1


async def test_what_was_in_flight_and_is_sent_again_is_stored_once(tmp_path: Path) -> None:
    wanted = [f"key-{number}" for number in range(300)]

    def sent(room: str, key: str) -> dict[str, Any]:
        return {"type": "send_message", "roomId": room, "content": key, "clientMessageId": key}

    async with start_process(tmp_path) as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with open_raw(daemon.websocket_port, {"Authorization": f"Bearer {ada.token}"}) as client:
            await client.receive_json()
            await client.send(b"".join(message(**sent(room, key)) for key in wanted))
            assert (await client.receive_json())["type"] in {"message_ack", "new_message"}
            daemon.process.terminate()
            code, before = await client.wait_closed()
            assert code == 1012
            told = [found.json() for found in before]
            acknowledged = {each["clientMessageId"] for each in told if each["type"] == "message_ack"}
            assert await wait_for_exit(daemon, within_s=5) == 0
    async with open_daemon(tmp_path) as restarted, restarted.connect(ada) as again:
        for key in wanted:
            ack = await again.ask(**sent(room, key))
            assert ack["type"] == "message_ack"
            assert ack["duplicate"] or key not in acknowledged
        pages = [await again.ask(type="get_history", roomId=room, afterSeq=after, limit=100) for after in (0, 100, 200)]
        contents = [each["content"] for page in pages for each in page["messages"]]
        assert sorted(contents) == sorted(wanted)


@ON_EMBEDDED
async def test_departures_that_cannot_be_stored_do_not_spoil_the_end(tmp_path: Path) -> None:
    async with start_process(tmp_path) as daemon:
        ada = await daemon.register("ada")
        async with daemon.connect(ada):
            with closing(sqlite3.connect(tmp_path / "chatd.db")) as other:
                other.executescript(
                    "CREATE TRIGGER t BEFORE UPDATE OF last_seen_at ON users BEGIN SELECT no_such_function(); END;"
                )
            daemon.process.terminate()
            assert await wait_for_exit(daemon, within_s=5) == 0
    assert [line["event"] for line in daemon.log][-2:] == ["drained", "departures_not_stored"]
