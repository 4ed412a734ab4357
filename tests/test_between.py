"""What comes between while somebody catches up: a store that is out, another catch-up, a full socket, a stop."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from chatd.chat import rooms
from chatd.chat.catchup import catch_up, lengthen_tails
from chatd.chat.messages import Draft, Sender, post_message
from chatd.wire.frames import text_frame
from tests.daemon import open_daemon, start_process
from tests.rawclient import message
from tests.scripted import open_node
from tests.stopped import open_door, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from chatd.connection import Connection
    from tests.rawclient import RawClient
    from tests.stopped import StoppedDoor

SMALL = {"WEBSOCKET_OUTBOX_BYTES": "262144", "WEBSOCKET_MESSAGE_BYTES": "65536", "WEBSOCKET_AUTH_TIMEOUT_S": "1000"}
PADDING = text_frame(json.dumps({"type": "padding", "text": "x" * 9_000}).encode())


async def make_room(door: StoppedDoor, user_id: str, messages: int, *, content: str = "x") -> str:
    """A room of the user with so many messages, seqs from 1 on."""
    room = await rooms.create_room(door.chat, user_id, name="room", kind="public", topic=None, member_ids=())
    for _ in range(messages):
        draft = Draft(room.id, content, "text", None, None, None, None)
        await post_message(door.chat, Sender(user_id, "ada", "owner"), draft)
    return room.id


def fill(connection: Connection) -> None:
    """Put frames until more than half of the outbox waits."""
    while connection.session.outbox.waiting_bytes <= 140_000:
        connection.session.put(PADDING)


async def seqs_until(client: RawClient, last: int) -> list[int]:
    """The seqs of the messages that come, up to `last`."""
    seqs: list[int] = []
    while not seqs or seqs[-1] != last:
        told: Any = await client.receive_json()
        if told["type"] == "new_message":
            seqs.append(told["message"]["seq"])
    return seqs


async def test_member_whose_history_cannot_be_read_is_sent_away_to_resume(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Left alone it would hear nothing of the room and not know."""
    async with open_door(tmp_path, mock_clock, MESSAGES_TAIL="2", **SMALL) as door:
        user_id, _, token = await door.sign_up()
        room_id = await make_room(door, user_id, 10)
        async with door.connect(token) as (client, connection):
            with sqlite3.connect(tmp_path / "chatd.db") as database:
                database.execute("ALTER TABLE room_events RENAME TO gone")
            await client.send(message(type="join_room", roomId=room_id, afterSeq=0, id="j"))
            assert (await client.wait_closed())[0] == 1013
            assert connection.session.catching_up == {}


async def test_later_catch_up_takes_over_from_an_earlier_one(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock, MESSAGES_TAIL="2", **SMALL) as door:
        user_id, _, token = await door.sign_up()
        room_id = await make_room(door, user_id, 10)
        async with door.connect(token, receive_buffer=4096) as (client, connection):
            fill(connection)
            returned: list[bool] = []

            async def follow_from(after: int) -> None:
                returned.append(await catch_up(door.chat, connection.session, room_id, after))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow_from, 0)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(follow_from, 4)
                await trio.testing.wait_all_tasks_blocked()
                assert await seqs_until(client, 10) == [5, 6, 7, 8, 9, 10]
            assert sorted(returned) == [False, True]
            await client.send(message(type="send_message", roomId=room_id, content="live"))
            assert await seqs_until(client, 11) == [11]


async def test_what_is_read_while_somebody_changes_their_name_does_not_stay_in_the_tail() -> None:
    async with open_node("room") as node:
        node.history.first_members.add(("room", "ada"))
        for _ in range(9):
            node.commit("room", user_id="bob")
        device = await node.arrive("ada")
        room = node.hub.room("room")
        assert room is not None
        node.history.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(catch_up, node.chat, device.session, "room", 3)
            nursery.start_soon(lengthen_tails, node.chat, {"room": 4})
            await trio.testing.wait_all_tasks_blocked()
            node.hub.forget_tails("bob")
            node.history.gate.set()
        assert list(room.tail) == []
        # Nobody changed: it stays, and serves the next.
        asked = len(node.history.asked)
        for _ in range(2):
            assert await catch_up(node.chat, device.session, "room", 3)
        assert len(node.history.asked) == asked + 1
        assert device.seqs("room") == [4, 5, 6, 7, 8, 9] * 3


async def test_fresh_token_does_not_let_live_events_overtake_a_catch_up(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock, MESSAGES_TAIL="2", **SMALL) as door:
        user_id, _, token = await door.sign_up()
        room_id = await make_room(door, user_id, 10)
        async with door.connect(token, receive_buffer=4096) as (client, connection):
            fill(connection)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(catch_up, door.chat, connection.session, room_id, 4)
                await trio.testing.wait_all_tasks_blocked()
                await client.send(message(type="authenticate", token=token))
                await client.send(message(type="send_message", roomId=room_id, content="live"))
                assert await seqs_until(client, 11) == [5, 6, 7, 8, 9, 10, 11]


async def test_resume_of_many_rooms_waits_for_a_slow_line(tmp_path: Path, mock_clock: MockClock) -> None:
    """Each room alone fits the outbox at once, all of them do not."""
    async with open_door(tmp_path, mock_clock, **SMALL) as door:
        user_id, _, token = await door.sign_up()
        room_ids = [await make_room(door, user_id, 6, content="x" * 9_000) for _ in range(12)]
        async with door.connect(receive_buffer=4096) as (client, connection):
            fill(connection)
            resume = {"epoch": door.chat.epoch, "rooms": dict.fromkeys(room_ids, 0)}
            await client.send(message(type="authenticate", token=token, resume=resume))
            caught_up: list[str] = []
            while len(caught_up) < len(room_ids):
                told: Any = await client.receive_json()
                if told["type"] == "caught_up":
                    caught_up.append(told["roomId"])
            assert sorted(caught_up) == sorted(room_ids)
            assert connection.close_code == 1005


async def test_room_joined_elsewhere_in_the_middle_of_a_resume_waits_for_its_turn(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Its user had left it; the client does not know, and is still to be sent what it missed."""
    async with open_door(tmp_path, mock_clock, **SMALL) as door:
        ada, _, token = await door.sign_up()
        bob, *_ = await door.sign_up("bob")
        own = await make_room(door, ada, 6, content="x" * 9_000)
        joined = [await make_room(door, bob, 4) for _ in range(8)]
        async with (
            door.connect(token) as (elsewhere, _),
            door.connect(receive_buffer=4096) as (client, connection),
        ):
            fill(connection)
            resume = {"epoch": door.chat.epoch, "rooms": {own: 0, **dict.fromkeys(joined, 2)}}
            await client.send(message(type="authenticate", token=token, resume=resume))
            await wait_until(lambda: own in connection.session.catching_up)
            for room_id in joined:
                await elsewhere.send(message(type="join_room", roomId=room_id))
            await wait_until(lambda: connection.session.rooms.keys() >= set(joined))
            heard: dict[str, list[int]] = {}
            caught_up: list[str] = []
            while len(caught_up) <= len(joined):
                told: Any = await client.receive_json()
                if told["type"] == "caught_up":
                    caught_up.append(told["roomId"])
                elif told["type"] in {"new_message", "user_joined"}:
                    event = told.get("message", told)
                    heard.setdefault(event["roomId"], []).append(event["seq"])
            assert [heard[room_id] for room_id in joined] == [[3, 4, 5]] * len(joined)
            await elsewhere.send(message(type="send_message", roomId=joined[0], content="live"))
            assert await seqs_until(client, 6) == [6]


async def test_client_that_takes_nothing_is_given_up_although_it_sends(tmp_path: Path, mock_clock: MockClock) -> None:
    async with (
        open_door(tmp_path, mock_clock, **SMALL) as door,
        door.connect(receive_buffer=4096) as (client, connection),
    ):
        fill(connection)
        for _ in range(3):
            await client.send(message(type="ping"))
            await door.jump(9)
        assert connection.close_code == 1005
        await door.jump(4)
        assert connection.close_code == 4008


async def test_refused_requests_cost_as_much_as_others(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_REQUESTS_PER_MINUTE="10") as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        for refused in (
            {"type": "leave_room", "roomId": "nowhere"},
            {"type": "send_message", "roomId": "nowhere", "content": "x"},
            {"type": "send_message", "roomId": room, "content": "x", "replyTo": "nothing"},
        ):
            async with daemon.connect(ada) as client:
                codes = [(await client.ask(**refused))["code"] for _ in range(12)]
                # One request was the sign-in.
                assert codes[9:] == ["rate_limited"] * 3
                assert "rate_limited" not in codes[:9]
        async with daemon.connect() as stranger:
            codes = [(await stranger.ask(type="get_history", roomId=room))["code"] for _ in range(12)]
            assert codes == ["unauthenticated"] * 10 + ["rate_limited"] * 2


async def test_messages_under_way_at_a_stop_are_acknowledged_before_the_close(tmp_path: Path) -> None:
    async with start_process(tmp_path) as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            for number in range(200):
                await client.send(type="send_message", roomId=room, content=str(number), id=str(number))
            await client.wait_for("message_ack")
            daemon.process.terminate()
            assert (await client.wait_closed())[0] == 1012
            acknowledged = {told["messageId"] for told in client.inbox if told["type"] == "message_ack"}
        with trio.fail_after(30):
            assert await daemon.process.wait() == 0
    with sqlite3.connect(tmp_path / "chatd.db") as database:
        stored = {row[0] for row in database.execute("SELECT id FROM messages")}
    # The first acknowledgement was taken out of the inbox.
    assert len(stored - acknowledged) == 1
