"""A bus that does what a test says: it holds back, reorders between channels, drops and repeats what is published.

What is published waits in a channel (one a room, one a kind of notice and publisher) until the test lets it through;
subscribing takes its time. And a node's sessions behind such a bus, over a listed history whose events tell who is a
member, so that all of it runs under the mock clock.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import trio

from chatd.bus.hub import Hub, HubOptions, open_hub
from chatd.bus.local import LocalBus
from chatd.bus.port import Event, Notice
from chatd.chat.arrival import listen_to_rooms
from chatd.chat.context import Arrival, Chat
from chatd.chat.delivered import Deliveries
from chatd.chat.session import Line, Session
from chatd.chat.sessions import Sessions
from chatd.config import ResumeOptions, WebSocketOptions
from chatd.loader import open_loader
from chatd.protocol import Authenticate
from chatd.store.accounts import Standing
from chatd.store.rooms import OwnRoom, RoomRow
from chatd.upkeep import Followers, SecondLooks
from chatd.wire.outbox import Outbox
from tests.histories import ListedHistory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from chatd.bus.port import Ears

USUAL = HubOptions()
SEQS = re.compile(rb'"roomId":"(\w+)","seq":(\d+)')
NOTICE_OF = {"user_joined": "member_joined", "user_left": "member_left"}


class ScriptedBus(LocalBus):
    """`Bus` whose carrying is the test's to do; counts and budgets are those of one process."""

    def __init__(self, *, subscribing_s: float = 0.0) -> None:
        super().__init__(trio.current_time)
        self.is_out = False
        self.channels: dict[str, deque[Event | Notice]] = {}
        self.subscribed: set[str] = set()
        self._subscribing_s = subscribing_s
        self._changes: deque[Callable[[], None]] = deque()
        self.ears: Ears

    def attach(self, ears: Ears) -> None:
        self.ears = ears

    def publish(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.room_id in self.subscribed and not self.is_out:
                self.channels.setdefault(f"room {event.room_id}", deque()).append(event)

    def announce(self, notice: Notice) -> None:
        if not self.is_out:
            self.channels.setdefault(f"notices {notice.kind}", deque()).append(notice)

    async def subscribe(self, room_ids: Iterable[str]) -> None:
        """Takes effect in the order of the calls, each after the same time, like a pipeline to a slow server."""
        await self._change(partial(self.subscribed.update, set(room_ids)))

    async def unsubscribe(self, room_ids: Iterable[str]) -> None:
        await self._change(partial(self.subscribed.difference_update, set(room_ids)))

    async def _change(self, change: Callable[[], None]) -> None:
        self._changes.append(change)
        await trio.sleep(self._subscribing_s)
        self._changes.popleft()()

    # -- what the test does ---------------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[str]:
        """The channels in which something waits."""
        return [name for name, channel in self.channels.items() if channel]

    def carry(self, name: str, *, times: int = 1) -> None:
        """Let the first thing of a channel through, or lose it (0 times), or bring it several times."""
        item = self.channels[name].popleft()
        for _ in range(times):
            self.hear(item)

    def carry_all(self) -> None:
        while self.waiting:
            self.carry(self.waiting[0])

    def hear(self, item: Event | Notice) -> None:
        if isinstance(item, Notice):
            self.ears.hear_notice(item)
        else:
            self.ears.hear_events([item])

    def go(self) -> None:
        """The bus is lost with everything that waits."""
        self.is_out = True
        self.channels.clear()

    def come_back(self) -> None:
        self.is_out = False
        self.ears.hear_return()


class ListedMembers(ListedHistory):
    """A history that knows who is a member by its events, and of whom sign-ins are, as far as rules ask for that."""

    def __init__(self) -> None:
        super().__init__()
        #: Rooms with users who were in them from the start.
        self.first_members: set[tuple[str, str]] = set()
        self.revoked: set[str] = set()
        self.names: dict[str, str] = {}

    def stay_of(self, room_id: str, user_id: str) -> int | None:
        """The seq of the joining by which somebody is a member, `None` for nobody who is."""
        for event in reversed(self.rooms.get(room_id, [])):
            if event.subject == user_id and event.kind in NOTICE_OF:
                return event.seq if event.kind == "user_joined" else None
        return 0 if (room_id, user_id) in self.first_members else None

    async def by_id(self, room_id: str, *, asked_by: str) -> RoomRow | None:
        """As `Rooms.by_id`."""
        if room_id not in self.rooms:
            return None
        joined_seq = self.stay_of(room_id, asked_by)
        role = None if joined_seq is None else "member"
        row = RoomRow(room_id, "public", room_id, None, None, 0, 0, None, len(self.rooms[room_id]), role, joined_seq)
        await self._read("by_id", room_id)
        return row

    async def arrivals(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Arrival]:
        """As `upkeep.read_arrivals`."""
        found = {
            (session_id, user_id): Arrival(
                Standing(user_id, self.names.get(user_id, user_id), None, 1 if session_id in self.revoked else None),
                self._own_rooms(user_id),
            )
            for session_id, user_id in keys
        }
        await self._read("arrivals", *(user_id for _, user_id in keys))
        return found

    def _own_rooms(self, user_id: str) -> list[OwnRoom]:
        stays = [(room_id, self.stay_of(room_id, user_id)) for room_id in self.rooms]
        return [
            OwnRoom(room_id, room_id, "public", "member", len(self.rooms[room_id]), joined_at, 0)
            for room_id, joined_at in stays
            if joined_at is not None
        ]


@dataclass(eq=False)
class Device:
    """A session of this node, and the seqs that it heard of each room."""

    session: Session = field(init=False)
    heard: dict[str, list[int]] = field(default_factory=dict)
    closed: list[tuple[int, str]] = field(default_factory=list)
    #: Where it began to hear the rooms of which its user was a member then.
    arrived: dict[str, int] = field(default_factory=dict)

    def seqs(self, room_id: str) -> list[int]:
        return self.heard.get(room_id, [])


@dataclass
class Node:
    """A hub with its sessions behind a scripted bus."""

    chat: Chat
    hub: Hub
    bus: ScriptedBus
    history: ListedMembers

    async def arrive(self, user_id: str) -> Device:
        """A device of the user that hears all of the user's rooms from now on."""
        device = Device()
        outbox = Outbox(
            partial(_take, device), bound_bytes=10**6, on_waiting=_fail, on_overflow=_fail,
            on_broken=_fail,
        )  # fmt: skip
        line = Line(
            outbox=outbox, end=lambda code, reason: device.closed.append((code, reason)), refused=lambda _: None,
            authenticated=lambda: None, wait_for_space=trio.lowlevel.checkpoint, settled=lambda: None,
        )  # fmt: skip
        session = device.session = Session("connection", "", line)
        session.user_id = user_id
        session.session_ids = frozenset({f"sign-in of {user_id}"})
        self.chat.sessions.add(session)
        session.is_settling = True
        while True:
            changes = session.changes
            arrival = (await self.history.arrivals([(f"sign-in of {user_id}", user_id)])).popitem()[1]
            await self.hub.reach({own.room_id: own.last_seq for own in arrival.rooms})
            if changes == session.changes:
                break
        session.is_settling = False
        entries = listen_to_rooms(self.chat, session, arrival.rooms, Authenticate(token=""))
        device.arrived = {entry.room_id: entry.last_seq for entry in entries}
        session.has_arrived = True
        return device

    def commit(self, room_id: str, kind: str = "new_message", user_id: str | None = None) -> Event:
        """Store an event and publish it as another node does, with its notice."""
        event = self.history.append_nowait(room_id, kind, user_id)
        event = event._replace(body=b'{"roomId":"%s","seq":%d}' % (room_id.encode(), event.seq))
        self.history.rooms[room_id][-1] = event
        self.bus.publish([event])
        if user_id is not None and kind in NOTICE_OF:
            self.bus.announce(Notice(NOTICE_OF[kind], user_id, room_id, event.seq))  # type: ignore[arg-type]  # its values are kinds
        return event


def _fail() -> None:
    raise AssertionError("this socket takes everything")


def _take(device: Device, frames: bytes) -> int:
    for room, seq in SEQS.findall(frames):
        device.heard.setdefault(room.decode(), []).append(int(seq))
    return len(frames)


@asynccontextmanager
async def open_node(*rooms: str, options: HubOptions = USUAL, subscribing_s: float = 0.0) -> AsyncIterator[Node]:
    """A node over a history that has these rooms."""
    history, bus = ListedMembers(), ScriptedBus(subscribing_s=subscribing_s)
    for room_id in rooms:
        await history.add_room(room_id)
    followers, second_looks = Followers(), SecondLooks()
    async with (
        open_hub(bus, options, read_last_seqs=history.last_seqs, read_events=history.events_after) as hub,
        open_loader(history.arrivals) as arrivals,
        open_loader(history.events_of) as missed,
        trio.open_nursery() as nursery,
    ):
        chat = cast(
            "Chat",
            SimpleNamespace(
                hub=hub,
                bus=bus,
                rooms=history,
                messages=history,
                arrivals=arrivals,
                missed=missed,
                deliveries=Deliveries(hub),
                sessions=Sessions(hub, bus, follow=followers.queue, look_again=second_looks.queue),
                options=SimpleNamespace(websocket=WebSocketOptions(), resume=ResumeOptions()),
            ),
        )
        nursery.start_soon(followers.let_follow, chat)
        nursery.start_soon(second_looks.look, chat)
        yield Node(chat, hub, bus, history)
        nursery.cancel_scope.cancel()
