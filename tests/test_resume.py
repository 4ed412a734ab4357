"""Many who come back together: they share reads, nobody waits for a slow one, all end where they would have been."""

from __future__ import annotations

import copy
import random
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd.bus.room import MESSAGE_CHANGES
from chatd.chat.catchup import PAGE_EVENTS
from tests.counting import count_queries
from tests.daemon import ON_BOTH_BACK_ENDS, ON_EMBEDDED, open_daemon
from tests.rawclient import CLOSE, PING, PONG, RawClient, frame, message, open_raw, take_frame
from tests.test_catchup import epoch_of, events_in, fill, open_room, resume, seq_of
from tests.test_slow_readers import CONTENT, MESSAGES, slow_closes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon import Client, Daemon, SignedIn

pytestmark = ON_BOTH_BACK_ENDS

#: Queries that read events of rooms: two of them are one read.
READS = ("messages.of_stretches", "messages.events_of_stretches", "messages.after", "messages.events_after")
#: Bytes a second of a slow line.
SLOW_LINE = 20_000


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each query was given to a database of this process, by name."""
    counted: Counter[str] = Counter()
    count_queries(monkeypatch, counted)
    return counted


def reads(asked: Counter[str]) -> int:
    return sum(asked[name] for name in READS)


async def come_back(daemon: Daemon, user: SignedIn, epoch: str, rooms: dict[str, int]) -> list[dict[str, Any]]:
    """Resume rooms on a new connection: what came, up to the last room's `caught_up` or `resync`."""
    async with daemon.connect() as client:
        await client.send(type="authenticate", token=user.token, resume={"epoch": epoch, "rooms": rooms})
        told: list[dict[str, Any]] = []
        left = len(rooms)
        while left:
            told.append(await client.receive(within_s=30))
            left -= told[-1]["type"] in {"caught_up", "resync"}
        return told


# Reads are shared


@pytest.mark.parametrize("missed", [3, 99, 1000])
async def test_many_of_one_room_cost_as_many_reads_as_one_after_a_restart(
    tmp_path: Path, asked: Counter[str], missed: int
) -> None:
    """They come back at about the same place, some an event further than others."""
    async with open_room(tmp_path) as (daemon, _, bob, writer, room_id):
        await fill(writer, room_id, 1200)
        epoch = await epoch_of(daemon, bob)
    last, counts, heard = 1201, [], []
    for crowd in (1, 20):
        async with open_daemon(tmp_path) as daemon, trio.open_nursery() as nursery:
            asked.clear()

            async def resume_one(daemon: Daemon, after: int) -> None:
                told = await come_back(daemon, bob, epoch, {room_id: after})
                heard.append(events_in(told) == list(range(after + 1, last + 1)))

            for number in range(crowd):
                nursery.start_soon(resume_one, daemon, last - missed - number % 2)
        counts.append(reads(asked))
    assert heard == [True] * 21
    one, twenty = counts
    assert one <= 2 * (missed // PAGE_EVENTS + 2)
    # Those who come a moment later miss a read of the others now and then; each for itself would be twenty times.
    assert twenty <= 4 * one


async def test_where_nothing_was_missed_no_history_is_read(tmp_path: Path, asked: Counter[str]) -> None:
    async with open_daemon(tmp_path) as daemon:
        ada = await daemon.register("ada")
        rooms = {await daemon.create_room(ada, f"room {number}"): 0 for number in range(30)}
        epoch = await epoch_of(daemon, ada)
    async with open_daemon(tmp_path) as daemon:
        asked.clear()
        told = await come_back(daemon, ada, epoch, rooms)
        assert Counter(message["type"] for message in told) == {"authenticated": 1, "caught_up": 30}
        assert reads(asked) == 0
        assert sum(asked.values()) < 10


async def test_resume_of_a_thousand_rooms_reads_many_of_them_together(tmp_path: Path, asked: Counter[str]) -> None:
    """Half of them with something missed; and it is one request, which its replies do not add to."""
    async with open_daemon(tmp_path, LIMITS_REQUESTS_PER_MINUTE="3") as daemon:
        ada = await daemon.register("ada")
        rooms = [await daemon.create_room(ada, f"room {number}") for number in range(1000)]
        epoch = await epoch_of(daemon, ada)
        for room_id in rooms[::2]:
            path = f"/api/rooms/{room_id}/messages"
            assert (await daemon.http("POST", path, {"content": "missed"}, token=ada.token)).status == 201
    async with open_daemon(tmp_path, LIMITS_REQUESTS_PER_MINUTE="3") as daemon:
        asked.clear()
        async with daemon.connect() as client:
            await resume(client, ada, epoch, **dict.fromkeys(rooms, 0))
            caught_up = [await client.wait_for("caught_up", within_s=20) for _ in rooms]
            assert [told["roomId"] for told in caught_up] == rooms
            assert [told["seq"] for told in caught_up] == [1, 0] * 500
            assert [told["message"]["roomId"] for told in client.inbox] == rooms[::2]
            assert reads(asked) < 100
            assert sum(asked.values()) < 150
            assert (await client.ask(type="ping"))["type"] == "pong"


async def test_tail_that_was_read_serves_whoever_comes_later(tmp_path: Path, asked: Counter[str]) -> None:
    async with open_room(tmp_path) as (daemon, _, bob, writer, room_id):
        await fill(writer, room_id, 200)
        epoch = await epoch_of(daemon, bob)
    async with open_daemon(tmp_path) as daemon:
        asked.clear()
        for after in (160, 180, 200, 161):
            told = await come_back(daemon, bob, epoch, {room_id: after})
            assert events_in(told) == list(range(after + 1, 202))
        assert reads(asked) == 2
        # Further back: only what lies before it is read, as far as a tail goes.
        for after in (102, 102, 130):
            told = await come_back(daemon, bob, epoch, {room_id: after})
            assert events_in(told) == list(range(after + 1, 202))
        assert reads(asked) == 4


async def test_what_was_read_before_a_rename_is_not_kept(tmp_path: Path) -> None:
    async with open_room(tmp_path) as (daemon, ada, bob, writer, room_id):
        await fill(writer, room_id, 10)
        epoch = await epoch_of(daemon, bob)
    async with open_daemon(tmp_path) as daemon:
        await come_back(daemon, bob, epoch, {room_id: 1})
        answer = await daemon.http("PATCH", "/api/users/me", {"username": "lovelace"}, token=ada.token)
        assert answer.status == 200, answer.body
        told = await come_back(daemon, bob, epoch, {room_id: 1})
        names = {each["message"]["senderName"] for each in told if each["type"] == "new_message"}
        assert names == {"lovelace"}


# Same state


def state_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a client makes of a room's events: every message with every field, and who is in it."""
    messages: dict[str, Any] = {}
    members: set[str] = set()
    order = []
    for event in events:
        match event["type"]:
            case "new_message":
                messages[event["message"]["id"]] = event["message"]
                order.append(event["message"]["seq"])
                continue
            case "user_joined":
                members.add(event["userId"])
            case "user_left":
                members.discard(event["userId"])
            case kind if kind in MESSAGE_CHANGES:
                apply(event, messages.get(event.get("messageId") or event["message"]["id"]))
            case _:
                continue
        order.append(event["seq"])
    return {"messages": messages, "members": members, "order": order}


def apply(event: dict[str, Any], message: dict[str, Any] | None) -> None:
    """What docs/protocol.md says of events that are about a message which one has."""
    if message is None:
        return
    match event["type"]:
        case "message_edited":
            for field in ("content", "metadata", "editedAt", "deletedAt"):
                message.pop(field, None)
                if field in event["message"]:
                    message[field] = event["message"][field]
        case "message_deleted":
            for field in ("metadata", "attachment", "pinned", "reactions"):
                message.pop(field, None)
            message |= {"content": "", "deletedAt": event["deletedAt"]}
        case "message_pinned":
            message["pinned"] = True
        case "message_unpinned":
            message.pop("pinned", None)
        case "reaction_added" | "reaction_removed":
            reactions = message.setdefault("reactions", [])
            found = [reaction for reaction in reactions if reaction["emoji"] == event["emoji"]]
            if not found:
                found = [{"emoji": event["emoji"], "count": 0, "userIds": []}]
                reactions += found
            [reaction] = found
            reaction["count"] = event["count"]
            users = [user_id for user_id in reaction["userIds"] if user_id != event["userId"]]
            reaction["userIds"] = [*users, event["userId"]] if event["type"] == "reaction_added" else users
            reactions[:] = [reaction for reaction in reactions if reaction["count"]]
            if not reactions:
                del message["reactions"]


async def test_who_was_away_during_five_thousand_events_comes_to_the_state_of_who_stayed(
    tmp_path: Path, back_ends: str
) -> None:
    """Edits, deletions, reactions and pins among them; and it is the state that the store shows.

    So many on the embedded database, where they take half the time.
    """
    rounds = 49 if back_ends == "embedded" else 15
    async with open_room(tmp_path) as (daemon, _, bob, writer, room_id):
        eve = await daemon.register("eve")
        epoch = await epoch_of(daemon, bob)
        rand = random.Random(5)
        async with daemon.connect(bob) as stayed, daemon.connect(eve) as guest:
            sent: list[str] = []
            for number in range(rounds):
                await guest.ask(type="join_room", roomId=room_id)
                await fill(writer, room_id, 95)
                said = {"content": f"{number} é <b>", "metadata": {"n": number}, "messageType": "code"}
                acks = [await client.ask(type="send_message", roomId=room_id, **said) for client in (guest, writer)]
                sent += [ack["messageId"] for ack in acks]
                for _ in range(40):
                    await change(rand, rand.choice((guest, writer)), rand.choice(sent))
                if number % 2:
                    await guest.ask(type="leave_room", roomId=room_id)
            last = (await writer.ask(type="send_message", roomId=room_id, content="the last"))["seq"]
            while events_in(stayed.inbox)[-1:] != [last]:
                stayed.inbox.append(await stayed.receive())
        assert last >= 102 * rounds
        kinds = Counter(event["type"] for event in stayed.inbox)
        assert all(kinds[kind] > rounds // 10 for kind in MESSAGE_CHANGES), kinds
        state = state_of(stayed.inbox)
        assert state["order"] == list(range(2, last + 1))
        # From the beginning, and from somewhere in the middle with what was heard until then.
        for after in (1, rand.randrange(2, last), rand.randrange(2, last), last - 150):
            before = [event for event in stayed.inbox if events_in([event]) and seq_of(event) <= after]
            told = await come_back(daemon, bob, epoch, {room_id: after})
            assert [each["type"] for each in told].count("caught_up") == 1
            assert state_of(copy.deepcopy(before) + told) == state, after
        assert await kept_state(daemon, bob, room_id) == state["messages"]
    # After a restart all of it comes from the store.
    async with open_daemon(tmp_path) as daemon:
        assert state_of(await come_back(daemon, bob, epoch, {room_id: 1})) == state


async def change(rand: random.Random, client: Client, message_id: str) -> None:
    """Do something with a message; what may not be done, or does nothing, tells nobody."""
    often = ["edit_message", "add_reaction"]
    kind = rand.choice([*often, *often, "remove_reaction", "pin_message", "unpin_message", "delete_message"])
    fields: dict[str, Any] = {"messageId": message_id}
    if kind == "edit_message":
        fields["content"] = f"edited {rand.random()}"
    elif kind.endswith("reaction"):
        fields["emoji"] = rand.choice("👍🎉")
    elif kind == "delete_message" and rand.random() < 0.5:
        return
    await client.ask(type=kind, **fields)


async def kept_state(daemon: Daemon, user: SignedIn, room_id: str) -> dict[str, Any]:
    """Every message of a room as its history shows it."""
    messages: dict[str, Any] = {}
    before = 2**53
    while True:
        path = f"/api/rooms/{room_id}/messages?limit=100&beforeSeq={before}"
        page = (await daemon.http("GET", path, token=user.token)).json()
        messages |= {message["id"]: message for message in page["messages"]}
        if not page["hasMore"]:
            return messages
        before = page["beforeSeq"]


# Wherever and whenever


@pytest.mark.parametrize("back_ends", ["distributed"], indirect=True)
async def test_resume_on_another_node_misses_and_repeats_nothing_while_all_goes_on(tmp_path: Path) -> None:
    # Nodes of one database may share a folder. The tail holds what is written while the store is read, on any machine.
    async with open_daemon(tmp_path, MESSAGES_TAIL="40") as one, open_daemon(tmp_path, MESSAGES_TAIL="40") as two:
        ada, bob = await one.register("ada"), await one.register("bob")
        room_id = await one.create_room(ada, members=[bob.id])
        epoch = await epoch_of(two, bob)
        async with one.connect(ada) as writer, trio.open_nursery() as nursery:

            async def keep_writing() -> None:
                while True:
                    await fill(writer, room_id, 20)

            await fill(writer, room_id, 300)
            nursery.start_soon(keep_writing)
            position = 0
            for node in (two, one, two, two):
                async with node.connect() as client:
                    await resume(client, bob, epoch, **{room_id: position})
                    caught_up = await client.wait_for("caught_up")
                    heard = events_in(client.inbox)
                    heard += [seq_of(await client.wait_for("new_message")) for _ in range(30)]
                    assert heard == list(range(position + 1, heard[-1] + 1))
                    assert caught_up["seq"] <= heard[-1]
                    position = heard[-1]
            nursery.cancel_scope.cancel()


async def test_who_was_removed_meanwhile_is_told_so_and_what_is_left_is_replayed(tmp_path: Path) -> None:
    async with open_room(tmp_path) as (daemon, ada, bob, writer, room_id):
        other = await daemon.create_room(ada, "other", members=[bob.id])
        epoch = await epoch_of(daemon, bob)
        await fill(writer, room_id, 3)
        await fill(writer, other, 3)
        async with daemon.connect(bob) as client:
            await client.ask(type="leave_room", roomId=room_id)
        await fill(writer, room_id, 3)
        told = await come_back(daemon, bob, epoch, {room_id: 1, other: 0})
        [resync] = [each for each in told if each["type"] == "resync"]
        assert (resync["roomId"], resync["reason"]) == (room_id, "not_a_member")
        assert {each["message"]["roomId"] for each in told if each["type"] == "new_message"} == {other}
        assert events_in(told) == [1, 2, 3]


@ON_EMBEDDED
async def test_when_the_store_goes_out_amid_a_resume_the_client_is_sent_away_to_resume_again(tmp_path: Path) -> None:
    """It was told that it is authenticated: left alone it would hear nothing of its rooms and not know."""
    async with open_room(tmp_path) as (daemon, _, bob, writer, room_id):
        await fill(writer, room_id, 50)
        epoch = await epoch_of(daemon, bob)
    async with open_daemon(tmp_path) as daemon:
        with sqlite3.connect(tmp_path / "chatd.db") as database:
            database.execute("ALTER TABLE room_events RENAME TO gone")
        async with daemon.connect() as client:
            await resume(client, bob, epoch, **{room_id: 1})
            assert (await client.wait_closed())[0] == 1013
            assert "caught_up" not in {each["type"] for each in client.inbox}
        with sqlite3.connect(tmp_path / "chatd.db") as database:
            database.execute("ALTER TABLE gone RENAME TO room_events")
        assert events_in(await come_back(daemon, bob, epoch, {room_id: 1})) == list(range(2, 52))


# Slow lines


class SlowReader:
    """A client that takes so many bytes a second, and answers pings like any other."""

    def __init__(self, client: RawClient, bytes_per_s: int) -> None:
        self._client = client
        self._bytes_per_s = bytes_per_s
        self._data = b""
        self._taken = 0
        self._began = trio.current_time()

    async def read_until(self, last: str) -> list[Any]:
        """Every message up to one of that type; a close frame fails the test."""
        told: list[Any] = []
        while not told or told[-1]["type"] != last:
            while (taken := take_frame(self._data)) is None:
                await trio.sleep_until(self._began + self._taken / self._bytes_per_s)
                part = bytes(await self._client.stream.receive_some(self._bytes_per_s // 20))
                assert part, "the connection ended"
                self._taken += len(part)
                self._data += part
            found, self._data = taken
            assert found.opcode != CLOSE, found.close_code
            if found.opcode == PING:
                await self._client.send(frame(PONG, found.payload))
            else:
                told.append(found.json())
        return told


async def test_client_on_a_slow_line_resumes_and_stays_a_deaf_one_is_closed_and_others_notice_nothing(
    tmp_path: Path,
) -> None:
    """As with 20 kB/s and the usual times, all of it eight times as fast: the line takes longer than one may be silent.

    What a small receive buffer does not hold is still on the line. The client hears the server's pings at its end only.
    """
    quick = {"WEBSOCKET_HEARTBEAT_S": "2.5", "WEBSOCKET_DEAD_AFTER_S": "3.75", "WEBSOCKET_WRITE_TIMEOUT_S": "3"}
    async with open_room(tmp_path) as (daemon, _, bob, writer, room_id):
        for _ in range(20):
            await fill(writer, room_id, 100, content="x" * 300)
        large_id = await daemon.create_room(bob, "large")
        async with daemon.connect(bob) as bobs:
            for _ in range(MESSAGES // 100):
                await fill(bobs, large_id, 100, content=CONTENT[:9_900])
        epoch = await epoch_of(daemon, bob)
    async with (
        open_daemon(tmp_path, limits=False, **quick) as daemon,
        open_raw(daemon.websocket_port, receive_buffer=8192) as slow,
        open_raw(daemon.websocket_port, receive_buffer=4096) as deaf,
        trio.open_nursery() as nursery,
    ):
        for client, rooms in ((slow, {room_id: 1}), (deaf, {large_id: 0})):
            await client.send(message(type="authenticate", token=bob.token, resume={"epoch": epoch, "rooms": rooms}))
        heard: list[Any] = []

        async def read_slowly() -> None:
            reader = SlowReader(slow, 8 * SLOW_LINE)
            heard.extend(await reader.read_until("caught_up"))
            # It is not only about to be closed.
            await slow.send(message(type="ping"))
            await reader.read_until("pong")

        nursery.start_soon(read_slowly)
        while not heard:
            # Others come back meanwhile, at their own pace.
            told = await come_back(daemon, bob, epoch, {room_id: 1000})
            assert len(events_in(told)) == 1001
            await trio.sleep(0.5)
        assert events_in(heard) == list(range(2, 2002))
        with trio.fail_after(60):
            while not await slow_closes(daemon):  # noqa: ASYNC110 - the daemon tells nobody whom it has given up
                await trio.sleep(0.1)
