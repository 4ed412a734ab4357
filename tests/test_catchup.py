"""From somewhere in a room's past to live: joins and resumes through the real door, while messages keep flowing."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chatd.bus.port import Event
from chatd.bus.room import MESSAGE_CHANGES, ActiveRoom
from chatd.chat.catchup import PAGE_EVENTS, TAIL_STEP, stretch_behind
from chatd.store.messages import Stretch
from tests.daemon import open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import Client, Daemon, SignedIn

#: So short that most of what is missed comes from the store.
SHORT_TAIL = "5"
EVENTS = {"new_message", "user_joined", "user_left", *MESSAGE_CHANGES}


def seq_of(message: dict[str, Any]) -> int:
    return int(message["message"]["seq"] if message["type"] == "new_message" else message["seq"])


def events_in(messages: list[dict[str, Any]]) -> list[int]:
    return [seq_of(message) for message in messages if message["type"] in EVENTS]


def durable(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What has a seq: who comes online meanwhile is told live and never again."""
    return [message for message in messages if message["type"] == "new_message" or "seq" in message]


async def fill(client: Client, room_id: str, count: int, *, content: str = "message") -> None:
    """Send so many messages and wait for the last one's ack."""
    for number in range(count):
        await client.send(type="send_message", roomId=room_id, content=f"{content} {number}", id=str(number))
    with trio.fail_after(30):
        while (await client.wait_for("message_ack"))["id"] != str(count - 1):
            pass


@asynccontextmanager
async def open_room(
    folder: Path, *, tail: str = "100", max_events: str = "10000"
) -> AsyncIterator[tuple[Daemon, SignedIn, SignedIn, Client, str]]:
    """A daemon with ada connected in a room that bob is a member of as well: seq 1 is his joining."""
    async with open_daemon(folder, MESSAGES_TAIL=tail, RESUME_MAX_EVENTS=max_events) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, kind="public")
        async with daemon.connect(ada) as writer:
            async with daemon.connect(bob) as first:
                await first.ask(type="join_room", roomId=room_id)
            yield daemon, ada, bob, writer, room_id


async def resume(client: Client, user: SignedIn, epoch: str, **rooms: int) -> dict[str, Any]:
    """Authenticate with a resume of rooms by id; what `authenticated` says."""
    await client.send(type="authenticate", token=user.token, resume={"epoch": epoch, "rooms": rooms})
    return await client.wait_for("authenticated")


async def epoch_of(daemon: Daemon, user: SignedIn) -> str:
    async with daemon.connect(user) as client:
        return str(client.inbox[0]["epoch"])


@given(st.integers(0, 3000), st.integers(0, 100), st.data())
def test_what_is_read_begins_and_ends_at_the_same_places_for_all_who_ask_from_about_there(
    last: int, heard: int, data: st.DataObject
) -> None:
    room = ActiveRoom("room", last_seq=last, tail_events=100)
    room.offer([Event("room", seq, "new_message", b"{}") for seq in range(last + 1, last + heard + 1)])
    after = data.draw(st.integers(0, last))
    if after == last:
        return
    stretch = stretch_behind(room, after)
    assert stretch.after <= after < stretch.until <= last
    assert stretch.until - stretch.after <= PAGE_EVENTS + TAIL_STEP
    if stretch.until < last:
        # Deep down pages stand side by side.
        assert (stretch.after % PAGE_EVENTS, stretch.until % PAGE_EVENTS) == (0, 0)
    neighbour = min(stretch.after + TAIL_STEP - 1, last - 1)
    assert stretch_behind(room, neighbour) in {stretch, Stretch("room", neighbour - neighbour % TAIL_STEP, last)}


@pytest.mark.parametrize("tail", ["0", "5", "100"])
@pytest.mark.parametrize("after", [0, 1, 20, 29, 31])
async def test_a_resume_replays_all_that_was_missed_in_order_then_says_so_then_is_live(
    tmp_path: Path, tail: str, after: int
) -> None:
    """From the tail, from the store, and over both; also when nothing was missed."""
    async with open_room(tmp_path, tail=tail) as (daemon, _, bob, writer, room_id):
        await fill(writer, room_id, 30)
        epoch = await epoch_of(daemon, bob)
        async with daemon.connect() as client:
            told = await resume(client, bob, epoch, **{room_id: after})
            assert told["rooms"][0]["lastSeq"] == 31
            caught_up = await client.wait_for("caught_up")
            assert (caught_up["roomId"], caught_up["seq"]) == (room_id, 31)
            assert events_in(client.inbox) == list(range(after + 1, 32))
            await fill(writer, room_id, 1)
            assert seq_of(await client.wait_for("new_message")) == 32


async def test_a_replay_is_byte_for_byte_what_was_live(tmp_path: Path) -> None:
    async with open_room(tmp_path, tail=SHORT_TAIL) as (daemon, _, bob, writer, room_id):
        epoch = await epoch_of(daemon, bob)
        async with daemon.connect(bob) as live:
            await fill(writer, room_id, 20)
            await writer.ask(type="leave_room", roomId=room_id)
            while not any(message["type"] == "user_left" for message in live.inbox):
                live.inbox.append(await live.receive())
        async with daemon.connect() as client:
            await resume(client, bob, epoch, **{room_id: 1})
            await client.wait_for("caught_up")
        assert durable(client.inbox) == durable(live.inbox)
        # the owner's leaving is two events: who owns the room from now on comes first
        assert [seq_of(message) for message in durable(client.inbox)] == list(range(2, 24))


async def test_a_resume_twice_in_a_row_gives_the_same(tmp_path: Path) -> None:
    async with open_room(tmp_path, tail=SHORT_TAIL) as (daemon, _, bob, writer, room_id):
        await fill(writer, room_id, 12)
        epoch = await epoch_of(daemon, bob)
        async with daemon.connect() as client:
            for _ in range(2):
                client.inbox.clear()
                await resume(client, bob, epoch, **{room_id: 3})
                await client.wait_for("caught_up")
                assert events_in(client.inbox) == list(range(4, 14))


async def test_join_with_after_seq_replays_and_goes_live_also_on_a_live_connection(tmp_path: Path) -> None:
    async with open_room(tmp_path, tail=SHORT_TAIL) as (daemon, _, bob, writer, room_id):
        await fill(writer, room_id, 12)
        async with daemon.connect(bob) as client:
            caught_up = await client.ask(type="join_room", roomId=room_id, afterSeq=2)
            assert (caught_up["type"], caught_up["seq"]) == ("caught_up", 13)
            assert events_in(client.inbox) == list(range(3, 14))
            await fill(writer, room_id, 1)
            assert seq_of(await client.wait_for("new_message")) == 14


@pytest.mark.parametrize("how", ["resume", "join"])
async def test_nothing_is_missed_or_repeated_while_messages_keep_flowing(tmp_path: Path, how: str) -> None:
    async with open_room(tmp_path, tail=SHORT_TAIL) as (daemon, _, bob, writer, room_id):
        epoch = await epoch_of(daemon, bob)
        await fill(writer, room_id, 400)
        is_over = False

        async def keep_writing() -> None:
            while not is_over:
                await fill(writer, room_id, 5)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_writing)
            for after in (1, 150, 380):
                async with daemon.connect() as client:
                    live_from = 0
                    if how == "resume":
                        await resume(client, bob, epoch, **{room_id: after})
                        caught_up = await client.wait_for("caught_up")
                    else:
                        await client.send(type="authenticate", token=bob.token)
                        told = await client.wait_for("authenticated")
                        live_from = told["rooms"][0]["lastSeq"] + 1
                        caught_up = await client.ask(type="join_room", roomId=room_id, afterSeq=after)
                    heard = events_in(client.inbox)
                    if how == "join":
                        # The connection was live already: what it heard before the replay began comes first.
                        begins = heard.index(after + 1)
                        assert heard[:begins] == list(range(live_from, live_from + begins))
                        heard = heard[begins:]
                    assert heard == list(range(after + 1, caught_up["seq"] + 1))
                    live = [seq_of(await client.wait_for("new_message")) for _ in range(20)]
                    assert live == list(range(caught_up["seq"] + 1, caught_up["seq"] + 21))
            is_over = True


async def test_what_is_too_old_to_replay_is_told_and_live_goes_on(tmp_path: Path) -> None:
    async with open_room(tmp_path, max_events="10") as (daemon, _, bob, writer, room_id):
        await fill(writer, room_id, 30)
        epoch = await epoch_of(daemon, bob)
        async with daemon.connect() as client:
            await resume(client, bob, epoch, **{room_id: 20})
            told = await client.wait_for("resync")
            assert told == {"type": "resync", "roomId": room_id, "oldestSeq": 22, "seq": 31, "reason": "too_old"}
            await fill(writer, room_id, 1)
            assert seq_of(await client.wait_for("new_message")) == 32
            caught_up = await client.ask(type="join_room", roomId=room_id, afterSeq=22)
            assert caught_up["type"] == "caught_up"
            assert events_in(client.inbox) == list(range(23, 33))


@pytest.mark.parametrize(("epoch", "after"), [("another", 5), ("", 0), (None, 999)])
async def test_a_position_of_another_time_is_never_guessed(tmp_path: Path, epoch: str | None, after: int) -> None:
    async with open_room(tmp_path) as (daemon, _, bob, writer, room_id):
        await fill(writer, room_id, 9)
        known = await epoch_of(daemon, bob)
        async with daemon.connect() as client:
            await resume(client, bob, known if epoch is None else epoch, **{room_id: after})
            told = await client.wait_for("resync")
            assert (told["reason"], told["seq"], told["oldestSeq"]) == ("epoch_changed", 10, 1)
            assert events_in(client.inbox) == []
            await fill(writer, room_id, 1)
            assert seq_of(await client.wait_for("new_message")) == 11


async def test_who_is_no_member_any_more_hears_nothing_of_the_room(tmp_path: Path) -> None:
    async with open_room(tmp_path) as (daemon, _, bob, writer, room_id):
        epoch = await epoch_of(daemon, bob)
        async with daemon.connect(bob) as client:
            await client.ask(type="leave_room", roomId=room_id)
        await fill(writer, room_id, 3)
        async with daemon.connect() as client:
            told = await resume(client, bob, epoch, **{room_id: 1, "no-such-room": 1})
            assert told["rooms"] == []
            answers = [await client.wait_for("resync") for _ in range(2)]
            assert [answer["reason"] for answer in answers] == ["not_a_member"] * 2
            assert client.inbox == []


async def test_rooms_that_a_resume_does_not_name_are_live_at_once(tmp_path: Path) -> None:
    async with open_room(tmp_path) as (daemon, ada, bob, writer, room_id):
        epoch = await epoch_of(daemon, bob)
        other = await daemon.create_room(ada, "other", kind="private", members=[bob.id])
        await fill(writer, room_id, 3)
        async with daemon.connect() as client:
            await resume(client, bob, epoch, **{room_id: 2})
            await client.wait_for("caught_up")
            await fill(writer, other, 1)
            heard = await client.wait_for("new_message")
            assert (heard["message"]["roomId"], seq_of(heard)) == (other, 1)


async def test_a_resume_works_after_a_restart(tmp_path: Path) -> None:
    async with open_room(tmp_path) as (daemon, _, bob, writer, room_id):
        epoch = await epoch_of(daemon, bob)
        await fill(writer, room_id, 9)
    async with open_daemon(tmp_path) as daemon, daemon.connect() as client:
        await resume(client, bob, epoch, **{room_id: 4})
        assert (await client.wait_for("caught_up"))["seq"] == 10
        assert events_in(client.inbox) == list(range(5, 11))
