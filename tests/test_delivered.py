"""What was delivered: found by looking now and then, on every node, in small rooms, for whoever has a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd.bus.hub import HubOptions, open_hub
from chatd.bus.local import LocalBus
from chatd.bus.port import Event
from chatd.chat.delivered import Deliveries
from chatd.chat.session import CatchUp, Line, Session
from chatd.store.receipts import Mark
from chatd.wire.outbox import Outbox
from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, open_daemon
from tests.test_cluster import hear, open_nodes
from tests.test_direct import write
from tests.test_receipts import send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from chatd.bus.hub import Hub
    from tests.daemon import Client

#: Looked at so often that a test need not wait.
OFTEN = {"RECEIPTS_DELIVERED_EVERY_S": "0.02"}


def nothing(*_: object) -> None:
    pass


async def at_once() -> None:
    pass


class Socket:
    """Takes everything, or nothing while it is full."""

    is_full = False

    def send(self, data: bytes) -> int:
        if self.is_full:
            raise BlockingIOError
        return len(data)


def new_session(user_id: str, socket: Socket | None = None) -> Session:
    send = len if socket is None else socket.send
    outbox = Outbox(send, bound_bytes=10**6, on_waiting=nothing, on_overflow=nothing, on_broken=nothing)
    session = Session("c", "", Line(outbox, nothing, nothing, nothing, at_once, nothing))
    session.user_id = user_id
    return session


def said(seq: int, sender: str, room_id: str = "room") -> Event:
    return Event(room_id, seq, "new_message", b"{}", sender)


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    """A hub whose rooms are all at their begin."""

    async def read_last_seqs(room_ids: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(room_ids, 0)

    async def read_events(room_id: str, seq: int, limit: int) -> list[Event]:
        raise AssertionError((room_id, seq, limit))

    bus = LocalBus(trio.current_time)
    async with open_hub(bus, HubOptions(), read_last_seqs=read_last_seqs, read_events=read_events) as opened:
        await opened.activate(["room", "other"])
        yield opened


# -- who is found -------------------------------------------------------------------------------------------------


async def test_everybody_who_listens_has_got_what_others_wrote(hub: Hub) -> None:
    deliveries = Deliveries(hub)
    for name in ("ada", "bob", "cy", "bob"):
        hub.listen(new_session(name), "room", after=0)
    hub.hear_events([said(1, "ada"), said(2, "ada")])
    assert not deliveries.has_some
    deliveries.look()
    marks = deliveries.take(10, max_members=50)
    assert marks.delivered == [Mark("room", "bob", 2), Mark("room", "cy", 2)]
    deliveries.look()
    assert not deliveries.has_some
    hub.hear_events([said(3, "ada"), said(4, "bob"), Event("room", 5, "reaction_added", b"{}", "cy")])
    deliveries.look()
    assert {mark[1:] for mark in deliveries.take(10, max_members=50).delivered} == {("ada", 4), ("bob", 4), ("cy", 4)}


async def test_rooms_without_new_messages_are_passed_over(hub: Hub) -> None:
    deliveries = Deliveries(hub)
    hub.listen(new_session("ada"), "room", after=0)
    hub.hear_events([Event("room", 1, "user_joined", b"{}", "bob")])
    deliveries.look()
    assert deliveries.take(10, max_members=50) == ([], [])


async def test_a_listener_who_is_nobody_has_no_cursor(hub: Hub) -> None:
    deliveries = Deliveries(hub)
    hub.open_own_room("proof", new_session(""))
    hub.hear_events([Event("proof", 1, "proof", b"{}")])
    deliveries.look()
    assert deliveries.take(10, max_members=50) == ([], [])


async def test_rooms_with_too_many_users_are_passed_over(hub: Hub) -> None:
    deliveries = Deliveries(hub)
    for number in range(3):
        hub.listen(new_session(f"user{number}"), "room", after=0)
    for seq, max_members, count in ((1, 2, 0), (2, 3, 2), (3, 0, 2)):
        hub.hear_events([said(seq, "user0")])
        deliveries.look()
        assert len(deliveries.take(10, max_members=max_members).delivered) == count


async def test_what_waits_for_a_socket_is_not_delivered_yet(hub: Hub) -> None:
    deliveries, socket = Deliveries(hub), Socket()
    slow = new_session("bob", socket)
    hub.listen(slow, "room", after=0)
    socket.is_full = True
    hub.hear_events([said(1, "ada")])
    for _ in range(2):
        deliveries.look()
        assert deliveries.take(10, max_members=50).delivered == []
    socket.is_full = False
    slow.outbox.write()
    deliveries.look()
    assert deliveries.take(10, max_members=50).delivered == [Mark("room", "bob", 1)]


async def test_one_device_of_several_is_enough(hub: Hub) -> None:
    deliveries, socket = Deliveries(hub), Socket()
    socket.is_full = True
    hub.listen(new_session("bob"), "room", after=0)
    hub.listen(new_session("bob", socket), "room", after=0)
    hub.hear_events([said(1, "ada")])
    deliveries.look()
    assert deliveries.take(10, max_members=50).delivered == [Mark("room", "bob", 1)]


async def test_who_comes_back_has_got_what_was_there_as_soon_as_it_hears_the_room(hub: Hub) -> None:
    deliveries, session = Deliveries(hub), new_session("bob")
    hub.hear_events([said(1, "ada"), said(2, "ada")])
    session.catching_up["room"] = CatchUp(0, is_replay=True)
    deliveries.note_arrival(session, ["room", "other", "unknown"])
    deliveries.look()
    assert not deliveries.has_some
    del session.catching_up["room"]
    hub.listen(session, "room", after=2)
    deliveries.note_arrival(session, ["room"])
    deliveries.look()
    assert deliveries.take(10, max_members=50).delivered == [Mark("room", "bob", 2)]


async def test_much_is_taken_in_parts_the_longest_waiting_first_and_put_back_where_it_could_not_be_stored(
    hub: Hub,
) -> None:
    deliveries = Deliveries(hub)
    for room_id in ("room", "other"):
        for name in ("bob", "cy"):
            hub.listen(new_session(name), room_id, after=0)
        hub.hear_events([said(1, "ada", room_id)])
        deliveries.note_written(said(1, "ada", room_id))
    deliveries.look()
    first = deliveries.take(2, max_members=50)
    assert {mark.room_id for mark in first.delivered} == {"room"}
    assert first.written == [Mark("room", "ada", 1), Mark("other", "ada", 1)]
    deliveries.note_written(said(5, "ada"))
    deliveries.put_back(first)
    rest = deliveries.take(9, max_members=50)
    assert len(rest.delivered) == 4
    assert set(rest.written) == {Mark("room", "ada", 5), Mark("other", "ada", 1)}
    assert not deliveries.has_some


# -- through the door ---------------------------------------------------------------------------------------------


@ON_BOTH_BACK_ENDS
async def test_the_room_hears_to_whom_a_message_was_delivered(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, **OFTEN) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as speaker, daemon.connect(bob) as listener:
            await send(speaker, room_id)
            told = await speaker.heard("messages_delivered")
            assert (told["roomId"], told["userId"], told["seq"]) == (room_id, bob.id, 1)
            assert told["deliveredAt"].endswith("Z")
            await write(listener, ada)
            assert (await listener.heard("messages_delivered"))["userId"] == ada.id


@ON_BOTH_BACK_ENDS
async def test_rooms_hear_of_deliveries_also_while_somebody_always_writes(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, **OFTEN) as daemon:
        ada, bob, cyd = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
        quiet, busy = await daemon.create_room(ada, members=[bob.id]), await daemon.create_room(cyd)

        async def chatter(client: Client) -> None:
            while True:
                await send(client, busy)

        async with (
            daemon.connect(ada) as speaker, daemon.connect(bob), daemon.connect(cyd) as chatterer,
            trio.open_nursery() as nursery,
        ):  # fmt: skip
            nursery.start_soon(chatter, chatterer)
            for seq in (1, 2, 3):
                await send(speaker, quiet)
                while (await speaker.heard("messages_delivered"))["seq"] < seq:
                    pass
            nursery.cancel_scope.cancel()


@ON_BOTH_BACK_ENDS
async def test_who_was_away_is_delivered_to_on_coming_back(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, **OFTEN) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as speaker:
            async with daemon.connect(bob) as listener:
                epoch = listener.inbox[0]["epoch"]
            for resume in (None, {"epoch": epoch, "rooms": {room_id: 1}}):
                ack = await send(speaker, room_id)
                fields: dict[str, Any] = {} if resume is None else {"resume": resume}
                async with daemon.connect() as listener:
                    await listener.send(type="authenticate", token=bob.token, **fields)
                    await hear(speaker, "messages_delivered", userId=bob.id, seq=ack["seq"])


async def test_deliveries_on_one_node_are_told_on_the_others(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 2, limits=False, **OFTEN) as (one, other):
        ada, bob = await one.register("ada"), await one.register("bob")
        async with one.connect(ada) as speaker, other.connect(bob):
            ack = await write(speaker, bob)
            assert (await hear(speaker, "messages_delivered", userId=bob.id))["roomId"] == ack["roomId"]


async def test_nobody_is_told_of_deliveries_in_large_rooms(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, RECEIPTS_DELIVERED_MAX_MEMBERS="2", **OFTEN) as daemon:
        users = [await daemon.register(f"user{number}") for number in range(3)]
        large = await daemon.create_room(users[0], members=[user.id for user in users[1:]])
        small = await daemon.create_room(users[0], members=[users[1].id])
        async with daemon.connect(users[0]) as speaker, daemon.connect(users[1]):
            await send(speaker, large)
            await send(speaker, small)
            assert (await speaker.heard("messages_delivered"))["roomId"] == small


async def test_who_writes_has_read_what_was_before(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, **OFTEN) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as first, daemon.connect(bob) as second:
            await send(first, room_id)
            await send(second, room_id)
            await hear(second, "messages_delivered", userId=ada.id, seq=2)
        async with daemon.connect(bob) as client:
            [room] = [room for room in client.inbox[0]["rooms"] if room["roomId"] == room_id]
        assert (room["lastReadSeq"], room["unread"]) == (2, 0)


async def test_deliveries_that_are_switched_off_are_not_told(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, SERVER_FEATURES_RECEIPTS="false", **OFTEN) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as first, daemon.connect(bob) as second:
            await send(first, room_id)
            await second.heard("new_message")
            await send(second, room_id)
            await until_read(daemon, room_id)
            assert "messages_delivered" not in [message["type"] for message in first.inbox]
        # what was written counts, for the writer
        assert daemon.rows(f"SELECT delivered_seq FROM room_members WHERE user_id = '{ada.id}'") == [(1,)]


async def until_read(daemon: Daemon, room_id: str) -> None:
    """Wait until the cursors of those who wrote have moved, which the same look does."""
    for _ in range(500):
        if daemon.rows(f"SELECT MIN(read_seq) FROM room_members WHERE room_id = '{room_id}'") != [(0,)]:
            return
        await trio.sleep(0.01)
    pytest.fail("nobody looks at what was delivered")
