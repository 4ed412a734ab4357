"""Hearing a room again after a long time, and hearing one that another device joined; on a clock that stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.bus.port import Notice
from chatd.chat.arrival import resume
from chatd.chat.catchup import follow
from chatd.chat.rooms import create_room
from chatd.errors import Unavailable
from chatd.protocol import Resume
from tests.rawclient import message
from tests.stopped import StoppedDoor, open_door

if TYPE_CHECKING:
    from pathlib import Path

    from chatd.chat.session import Session
    from tests.rawclient import RawClient

#: Messages of 9 kB, more of them than an outbox and the kernel's buffers hold.
LOUD = 700


async def make_room(door: StoppedDoor, user_id: str, *member_ids: str, kind: str = "private") -> str:
    room = await create_room(door.chat, user_id, name="room", kind=kind, topic=None, member_ids=member_ids)
    return room.id


async def receive(client: RawClient, kind: str) -> dict[str, Any]:
    """The next message of a type."""
    found: dict[str, Any] = await client.receive_json()
    while found["type"] != kind:
        found = await client.receive_json()
    return found


async def say(client: RawClient, room_id: str, content: str) -> None:
    await client.send(message(type="send_message", roomId=room_id, content=content))
    await receive(client, "message_ack")


async def wait_forgotten(door: StoppedDoor, room_id: str, client: RawClient) -> None:
    """Let time pass until the hub has forgotten a room that nobody listens to, while a client gives signs of life."""
    while door.chat.hub.room(room_id) is not None:
        await door.jump(5)
        await client.send(message(type="ping"))
        await receive(client, "pong")


@pytest.mark.parametrize("epoch", ["this", "another"])
async def test_a_resume_of_a_room_that_the_hub_forgot_is_served_by_its_epoch(
    tmp_path: Path, mock_clock: MockClock, epoch: str
) -> None:
    """The room becomes idle between `authenticated` and its turn, when other rooms take long to replay."""
    async with open_door(tmp_path, mock_clock) as door:
        user_id, _, token = await door.sign_up()
        room_id = await make_room(door, user_id)
        async with door.connect(token) as (client, connection):
            for number in range(3):
                await say(client, room_id, f"message {number}")
            door.chat.hub.unlisten(connection.session, [room_id])
            await wait_forgotten(door, room_id, client)
            known = door.chat.epoch if epoch == "this" else epoch
            await resume(door.chat, connection.session, Resume(epoch=known, rooms={room_id: 1}))
            if epoch == "this":
                assert [(await receive(client, "new_message"))["message"]["seq"] for _ in range(2)] == [2, 3]
                assert (await client.receive_json())["type"] == "caught_up"
            else:
                assert (await client.receive_json())["reason"] == "epoch_changed"
            await say(client, room_id, "live again")


async def test_a_device_hears_the_room_that_another_one_joins(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        owner_id, _, _ = await door.sign_up("owner")
        _, _, token = await door.sign_up()
        room_id = await make_room(door, owner_id, kind="public")
        async with door.connect(token) as (first, _), door.connect(token) as (second, _):
            assert (await first.ask(type="join_room", roomId=room_id))["type"] == "room_history"
            joined = await receive(second, "user_joined")
            assert (joined["roomId"], joined["seq"]) == (room_id, 1)
            await say(first, room_id, "hello")
            assert (await receive(second, "new_message"))["message"]["seq"] == 2


async def listeners_of(door: StoppedDoor, room_id: str) -> set[object]:
    await door.chat.hub.activate([room_id])
    room = door.chat.hub.room(room_id)
    assert room is not None
    return set(room.listeners)


async def test_following_is_not_given_up_because_another_room_was_joined_meanwhile(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        user_id, _, token = await door.sign_up()
        rooms = [await make_room(door, user_id) for _ in range(10)]
        async with door.connect(token) as (_, connection):
            session = connection.session
            for room_id in rooms:
                session.rooms.pop(room_id)
                door.chat.hub.unlisten(session, [room_id])
                session.following[room_id] = 0
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follow, door.chat, session, room_id)
                    # After two turns it has asked the store, whose thread has not answered yet.
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()
                    door.chat.bus.announce(Notice("member_joined", user_id, "some other room", seq=1))
                assert session in await listeners_of(door, room_id)


async def test_a_connection_that_has_ended_follows_nothing(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        user_id, _, token = await door.sign_up()
        room_id = await make_room(door, user_id)
        other_id = await make_room(door, user_id)
        async with door.connect(token) as (_, connection):
            session: Session = connection.session
            session.rooms.pop(room_id)
            session.rooms.pop(other_id)
            door.chat.hub.unlisten(session, [room_id, other_id])
            session.following.update({room_id: 0, other_id: 0})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, door.chat, session, room_id)
                await wait_all_tasks_blocked()
                door.chat.sessions.remove(session, 0)
        await follow(door.chat, session, other_id)
        assert session not in await listeners_of(door, room_id)
        assert session not in await listeners_of(door, other_id)


async def test_a_device_that_reads_nothing_holds_up_no_one_elses_following(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with open_door(tmp_path, mock_clock, WEBSOCKET_OUTBOX_BYTES="400000", MESSAGES_TAIL="0") as door:
        owner_id, _, owner_token = await door.sign_up("owner")
        slow_id, _, slow_token = await door.sign_up("slow")
        _, _, token = await door.sign_up("quick")
        loud = await make_room(door, owner_id, slow_id)
        public = await make_room(door, owner_id, kind="public")
        async with (
            door.connect(owner_token) as (owner, _),
            door.connect(slow_token, receive_buffer=4096) as (_, stuck),
        ):
            while stuck.session.outbox.waiting_bytes < 250_000:
                await say(owner, loud, "x" * 9000)
            async with door.connect(slow_token) as (slow_first, _):
                assert (await slow_first.ask(type="join_room", roomId=public))["type"] == "room_history"
                async with door.connect(token) as (first, _), door.connect(token) as (second, _):
                    assert (await first.ask(type="join_room", roomId=public))["type"] == "room_history"
                    joined = await receive(second, "user_joined")
                    assert joined["username"] == "quick"


async def test_a_resume_goes_on_across_a_leaving_and_joining_of_another_device(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """What is on its way stops for neither, and it is answered once, with all that is told before."""
    async with open_door(tmp_path, mock_clock, WEBSOCKET_OUTBOX_BYTES="400000", MESSAGES_TAIL="0") as door:
        owner_id, _, owner_token = await door.sign_up("owner")
        room_id = await make_room(door, owner_id, kind="public")
        _, _, token = await door.sign_up("ada")
        async with door.connect(token) as (first, _):
            assert (await first.ask(type="join_room", roomId=room_id))["type"] == "room_history"
        async with door.connect(owner_token) as (owner, _):
            for _ in range(LOUD):
                await say(owner, room_id, "x" * 9000)
        async with door.connect(token, receive_buffer=4096) as (slow, stuck), door.connect(token) as (first, _):
            await slow.send(message(type="join_room", roomId=room_id, afterSeq=0, id="resume"))
            while room_id not in stuck.session.catching_up or stuck.session.outbox.waiting_bytes < 200_000:
                await trio.lowlevel.checkpoint()
            for request in ("leave_room", "join_room"):
                await first.send(message(type=request, roomId=room_id, id=request))
                while (await first.receive_json()).get("id") != request:
                    pass
            await wait_all_tasks_blocked()
            told = [await slow.receive_json()]
            while told[-1]["type"] not in {"caught_up", "resync"}:
                told.append(await slow.receive_json())
    assert (told[-1]["type"], told[-1]["id"]) == ("caught_up", "resume")
    seqs = [each.get("message", each)["seq"] for each in told if each["type"] != "authenticated"]
    assert seqs == [*range(1, LOUD + 4), LOUD + 3]


async def test_a_joining_that_meets_a_following_comes_behind_all_that_is_on_its_way(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with open_door(tmp_path, mock_clock, WEBSOCKET_OUTBOX_BYTES="400000", MESSAGES_TAIL="0") as door:
        owner_id, _, owner_token = await door.sign_up("owner")
        slow_id, _, slow_token = await door.sign_up("slow")
        loud = await make_room(door, owner_id, slow_id)
        joined = await make_room(door, owner_id, slow_id)
        async with (
            door.connect(owner_token) as (owner, _),
            door.connect(slow_token, receive_buffer=4096) as (slow, stuck),
            trio.open_nursery() as nursery,
        ):
            session = stuck.session
            while session.outbox.waiting_bytes < 250_000:
                await say(owner, loud, "x" * 9000)
            # As if another device had joined before the first message, and this one hears of it only now.
            session.rooms.pop(joined)
            door.chat.hub.unlisten(session, [joined])
            for _ in range(LOUD):
                await say(owner, joined, "x" * 9000)
            session.following[joined] = 0
            nursery.start_soon(follow, door.chat, session, joined)
            while joined not in session.catching_up:
                await trio.lowlevel.checkpoint()
            told: list[dict[str, Any]] = []
            while session.catching_up[joined].position == 0:
                told.append(await slow.receive_json())
            await slow.send(message(type="join_room", roomId=joined))
            while not told or told[-1]["type"] != "room_history":
                told.append(await slow.receive_json())
            await say(owner, joined, "live")
            told.append(await slow.receive_json())
    followed = [each.get("message", each) for each in told if each["type"] != "authenticated"]
    assert [each["seq"] for each in followed if each["roomId"] == joined] == [*range(1, LOUD + 1), LOUD, LOUD + 1]


# A node that is behind: other nodes have told what it has not heard yet


async def fall_behind(door: StoppedDoor, room_id: str, client: RawClient, count: int) -> None:
    """Have so many messages stored of which this node does not hear."""
    await door.chat.bus.unsubscribe([room_id])
    for number in range(count):
        await say(client, room_id, f"unheard {number}")


@pytest.mark.parametrize("how", ["resume", "join"])
async def test_position_beyond_that_of_this_node_is_reached_from_the_store(
    tmp_path: Path, mock_clock: MockClock, how: str
) -> None:
    async with open_door(tmp_path, mock_clock, MESSAGES_TAIL="2") as door:
        user_id, _, token = await door.sign_up()
        room_id = await make_room(door, user_id)
        async with door.connect(token) as (client, connection):
            await say(client, room_id, "heard")
            await fall_behind(door, room_id, client, 4)
            mock_clock.rate = 1
            # Another node has told up to 4.
            if how == "resume":
                await resume(door.chat, connection.session, Resume(epoch=door.chat.epoch, rooms={room_id: 4}))
            else:
                await client.send(message(type="join_room", roomId=room_id, afterSeq=4))
            told = await receive(client, "caught_up")
            assert told["seq"] == 5
            await client.send(message(type="join_room", roomId=room_id, afterSeq=6))
            assert (await receive(client, "resync"))["reason"] == "epoch_changed"


async def test_who_arrives_is_told_the_positions_that_the_store_has(tmp_path: Path, mock_clock: MockClock) -> None:
    """What it has heard on another node is not to come again."""
    async with open_door(tmp_path, mock_clock) as door:
        user_id, _, token = await door.sign_up()
        room_id = await make_room(door, user_id)
        async with door.connect(token) as (client, _):
            await say(client, room_id, "heard")
            await fall_behind(door, room_id, client, 2)
            mock_clock.rate = 1
            async with door.connect() as (second, _):
                told = await second.ask(type="authenticate", token=token)
                assert [room["lastSeq"] for room in told["rooms"]] == [3]


async def test_history_shows_nothing_that_is_still_to_come_live(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        user_id, _, token = await door.sign_up()
        room_id = await make_room(door, user_id)
        async with door.connect(token) as (client, _):
            await say(client, room_id, "heard")
            await fall_behind(door, room_id, client, 2)
            mock_clock.rate = 1
            await client.send(message(type="get_history", roomId=room_id, afterSeq=1))
            live = [(await receive(client, "new_message"))["message"]["seq"] for _ in range(2)]
            page = await receive(client, "room_history")
            assert (live, page["seq"], [told["seq"] for told in page["messages"]]) == ([2, 3], 3, [2, 3])


async def test_who_leaves_hears_its_leaving_before_the_answer_also_where_the_bus_brings_nothing(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        user_id, _, token = await door.sign_up()
        room_id = await make_room(door, user_id)
        async with door.connect(token) as (client, connection):
            await say(client, room_id, "heard")
            await fall_behind(door, room_id, client, 1)
            mock_clock.rate = 1
            await client.send(message(type="leave_room", roomId=room_id, id="l"))
            assert (await receive(client, "new_message"))["message"]["seq"] == 2
            assert (await client.receive_json())["type"] == "user_left"
            assert (await client.receive_json())["type"] == "ok"
            assert not door.chat.hub.is_heard_by(connection.session, room_id)


# A room is there as soon as it is stored, whatever becomes of whoever made it


@pytest.mark.parametrize("how", ["cut off", "out"])
async def test_members_hear_a_conversation_whose_maker_is_lost_behind_the_commit(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        (_, _, ada_token), (bob_id, _, bob_token) = await door.sign_up("ada"), await door.sign_up("bob")
        add = door.chat.direct.add

        async def add_and_lose(*about: str, now_ms: int) -> None:
            await add(*about, now_ms=now_ms)
            if how == "out":
                raise Unavailable("The database is out: the connection was lost.")
            connection.end(1000, "")
            assert connection.scope is not None
            connection.scope.cancel()

        monkeypatch.setattr(door.chat.direct, "add", add_and_lose)
        async with door.connect(bob_token) as (bob, _), door.connect(ada_token) as (second, _):
            async with door.connect(ada_token) as (ada, connection):
                await ada.send(message(type="send_dm", recipientId=bob_id, content="hello", clientMessageId="1"))
                if how == "out":
                    assert (await receive(ada, "error"))["code"] == "unavailable"
                else:
                    assert await ada.receive() is not None
            async with door.connect(ada_token) as (ada, _):
                await ada.send(message(type="send_dm", recipientId=bob_id, content="hello", clientMessageId="1"))
                for client in (ada, second, bob):
                    assert (await receive(client, "new_dm"))["message"]["seq"] == 1
