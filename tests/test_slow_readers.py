"""A client that stops reading costs its bound and no more, and nobody else notices (promise 6)."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

import trio

from tests.daemon import ON_BOTH_BACK_ENDS, Client, Daemon, Process, open_daemon, start_process
from tests.rawclient import message, open_raw

pytestmark = ON_BOTH_BACK_ENDS

CONTENT = "x" * 10_000
#: More of these than the kernel's buffers (4 MiB at the sender's side) and an outbox hold.
MESSAGES = 700


async def slow_closes(daemon: Daemon) -> int:
    """How many connections the daemon says it closed as slow readers."""
    text = (await daemon.http("GET", "/metrics")).body.decode()
    found = re.search(r'^chatd_closes_total{code="4008"} (\d+)', text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def seqs(told: list[Any]) -> list[int]:
    """The numbers of the messages among what was told, which must be without a hole or a repeat."""
    found = [each["message"]["seq"] for each in told if each["type"] == "new_message"]
    assert found == list(range(found[0], found[0] + len(found)))
    return found


async def tell(sender: Client, receiver: Client, room: str) -> float:
    """Send one message: the seconds until the other has heard it."""
    began = trio.current_time()
    await sender.send(type="send_message", roomId=room, content=CONTENT)
    receiver.inbox.append(await receiver.wait_for("new_message"))
    return trio.current_time() - began


async def test_client_that_stops_reading_is_closed_at_its_bound_and_can_resume(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, WEBSOCKET_OUTBOX_BYTES="200000", WEBSOCKET_CLOSE_TIMEOUT_S="60") as daemon:
        ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
        room = await daemon.create_room(ada, members=[bob.id, eve.id])
        headers = {"Authorization": f"Bearer {eve.token}"}
        async with daemon.connect(ada) as sender, daemon.connect(bob) as other:
            async with open_raw(daemon.websocket_port, headers, receive_buffer=4096) as slow:
                assert (await slow.receive_json())["type"] == "authenticated"
                took_s = [await tell(sender, other, room) for _ in range(MESSAGES)]
                # The slow one is at its bound for the second half; neither half feels it.
                assert median(took_s[MESSAGES // 2 :]) < 0.1
                code, before = await slow.wait_closed()
            assert code == 4008
            assert await slow_closes(daemon) == 1
            heard = seqs(other.inbox)
            assert len(heard) == MESSAGES
            got = seqs([found.json() for found in before])
            assert got == heard[: len(got)]
            assert len(got) < MESSAGES
        async with daemon.connect(eve) as again:
            await again.send(type="join_room", roomId=room, afterSeq=got[-1], id="resume")
            assert (await again.wait_for("caught_up"))["seq"] == heard[-1]
            assert seqs(again.inbox) == heard[len(got) :]


async def test_client_that_never_reads_again_is_cut_off(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, WEBSOCKET_OUTBOX_BYTES="65536", WEBSOCKET_CLOSE_TIMEOUT_S="0.2") as daemon:
        ada, eve = await daemon.register("ada"), await daemon.register("eve")
        room = await daemon.create_room(ada, members=[eve.id])
        headers = {"Authorization": f"Bearer {eve.token}"}
        async with (
            daemon.connect(ada) as sender,
            open_raw(daemon.websocket_port, headers, receive_buffer=4096),
        ):
            with trio.fail_after(60):
                while not await slow_closes(daemon):
                    for _ in range(20):
                        await tell(sender, sender, room)


async def test_page_that_was_asked_for_does_not_make_a_slow_reader(tmp_path: Path) -> None:
    """Many pages asked for at once are far more than the outbox; they come one after the other as they are read."""
    async with open_daemon(tmp_path, WEBSOCKET_OUTBOX_BYTES="200000") as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            for _ in range(50):
                await tell(client, client, room)
        headers = {"Authorization": f"Bearer {ada.token}"}
        async with open_raw(daemon.websocket_port, headers, receive_buffer=4096) as reader:
            assert (await reader.receive_json())["type"] == "authenticated"
            for number in range(100):
                await reader.send(message(type="get_history", roomId=room, id=str(number)))
            pages = [await reader.receive_json() for _ in range(100)]
            assert [page["id"] for page in pages] == [str(number) for number in range(100)]
            assert sum(len(page["messages"]) for page in pages) > 500


def resident_bytes(daemon: Process) -> int:
    return int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]) * 4096


async def test_memory_stays_bounded_whatever_the_slow_ones_miss(tmp_path: Path) -> None:
    async with start_process(tmp_path, WEBSOCKET_CLOSE_TIMEOUT_S="60") as daemon, AsyncExitStack() as stack:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        headers = {"Authorization": f"Bearer {ada.token}"}
        sender = await stack.enter_async_context(daemon.connect(ada))
        for _ in range(100):
            await tell(sender, sender, room)
        at_first = resident_bytes(daemon)
        slow = [
            await stack.enter_async_context(open_raw(daemon.websocket_port, headers, receive_buffer=4096))
            for _ in range(20)
        ]
        most = 0
        for _ in range(MESSAGES):
            await tell(sender, sender, room)
            most = max(most, resident_bytes(daemon))
        # Unbounded, 20 readers would hold more than 60 MB; each may hold 1 MiB.
        assert most - at_first < 20 * 1_048_576 + 16_000_000
        for client in slow:
            assert (await client.wait_closed())[0] == 4008
        assert await slow_closes(daemon) == 20
