"""What was delivered: written to a connection of a member, on any device. And who writes has read what was before.

Nothing of it is on the way of a message. Now and then `signals` lets this node look which of its rooms have new
messages, takes the users of their listeners, and moves many cursors by one statement; who moved is told in parts. So
many a second at most: under load each room is looked at more seldom, and what is told is the newest then.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.bus.port import Broadcast
from chatd.protocol import MessagesDelivered, encode
from chatd.records import format_time
from chatd.store.receipts import Mark

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chatd.bus.hub import Hub
    from chatd.bus.port import Event
    from chatd.bus.room import ActiveRoom
    from chatd.chat.context import Chat
    from chatd.chat.session import Session

#: Whoever waits beyond these is found with the next message, or at the next arrival.
MAX_WAITING: Final = 50_000


class Marks(NamedTuple):
    """Cursors that are to move: what was delivered, and what was read by who wrote behind it."""

    delivered: list[Mark]
    written: list[Mark]


class Deliveries:
    """What has reached members on this node and is not stored yet."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # Up to where each room was looked at; those with something new since, from there.
        self._looked: dict[str, int] = {}
        self._rooms: dict[str, int] = {}
        self._arrived: dict[tuple[Session, str], None] = {}
        self._delivered: dict[tuple[str, str], int] = {}
        self._written: dict[tuple[str, str], int] = {}

    def note_written(self, event: Event) -> None:
        """An event was stored here: who wrote a message has read what was before it."""
        if event.kind == "new_message" and event.subject is not None and len(self._written) < MAX_WAITING:
            self._written[event.room_id, event.subject] = event.seq

    def note_arrival(self, session: Session, room_ids: Iterable[str]) -> None:
        """A device is there for what its user has not read in these rooms, as soon as it hears them."""
        if len(self._arrived) < MAX_WAITING:
            self._arrived |= dict.fromkeys((session, room_id) for room_id in room_ids)

    def look(self) -> None:
        """Find the rooms with something new, and those who have come back to what was there."""
        looked: dict[str, int] = {}
        for room_id in self._hub.heard_rooms():
            room = self._hub.room(room_id)
            assert room is not None
            before = self._looked.get(room_id, room.opened_at)
            if room.position > before:
                self._rooms.setdefault(room_id, before)
            looked[room_id] = room.position
        self._looked = looked
        arrived, self._arrived = self._arrived, {}
        for session, room_id in arrived:
            room = self._hub.room(room_id)
            outbox = None if room is None else room.listeners.get(session)
            if room is not None and outbox is not None and outbox.is_empty:
                self._note_delivered(room_id, session.user_id, room.position)
            elif outbox is not None or room_id in session.catching_up:
                self._arrived[session, room_id] = None

    @property
    def has_some(self) -> bool:
        return bool(self._rooms or self._delivered or self._written)

    def take(self, count: int, *, max_members: int) -> Marks:
        """About so many cursors, those that have waited longest; they are the caller's to store, or to put back.

        A room with more users than `max_members` (0: any number) is passed over.
        """
        while self._rooms and len(self._delivered) < count:
            room_id = next(iter(self._rooms))
            self._look_into(room_id, self._rooms.pop(room_id), max_members)
        return Marks(_take(self._delivered, count), _take(self._written, count))

    def put_back(self, marks: Marks) -> None:
        """They could not be stored; where somebody is further by now, that counts."""
        for room_id, user_id, seq in marks.delivered:
            self._note_delivered(room_id, user_id, seq)
        for room_id, user_id, seq in marks.written:
            self._written[room_id, user_id] = max(seq, self._written.get((room_id, user_id), 0))

    def forget(self) -> None:
        """Nobody is to be told of deliveries."""
        for waiting in (self._looked, self._rooms, self._arrived, self._delivered):
            waiting.clear()

    def _look_into(self, room_id: str, before: int, max_members: int) -> None:
        room = self._hub.room(room_id)
        if room is None or (new := _new_messages(room, before)) is None:
            return
        seq, writers = new
        users: dict[str, bool] = {}
        for receiver, outbox in room.listeners.items():
            if not receiver.user_id:
                # The proof of delivery has a room that no store knows.
                continue
            # What waits for a socket has not been written.
            users[receiver.user_id] = outbox.is_empty or users.get(receiver.user_id, False)
            if max_members and len(users) > max_members:
                return
        for user_id, is_written in users.items():
            if not is_written:
                self._rooms_again(room_id, before)
            elif writers != {user_id}:
                self._note_delivered(room_id, user_id, seq)

    def _rooms_again(self, room_id: str, before: int) -> None:
        """Somebody reads slowly: the room is found again by the next look."""
        self._looked[room_id] = min(before, self._looked.get(room_id, before))

    def _note_delivered(self, room_id: str, user_id: str, seq: int) -> None:
        key = (room_id, user_id)
        if len(self._delivered) < MAX_WAITING:
            self._delivered[key] = max(seq, self._delivered.get(key, 0))


def _new_messages(room: ActiveRoom, before: int) -> tuple[int, set[str | None]] | None:
    """The newest message behind a seq and who wrote those behind it; `None` where there is no message.

    Where the tail does not reach back, the room's position, and nobody is known to have written.
    """
    events = room.events_after(before)
    if events is None:
        return room.position, set()
    messages = [event for event in events if event.kind == "new_message"]
    return (messages[-1].seq, {event.subject for event in messages}) if messages else None


def _take(waiting: dict[tuple[str, str], int], count: int) -> list[Mark]:
    taken = [Mark(room_id, user_id, seq) for (room_id, user_id), seq in islice(waiting.items(), count)]
    for room_id, user_id, _ in taken:
        del waiting[room_id, user_id]
    return taken


async def tell(chat: Chat, count: int) -> None:
    """Store so many cursors at most and tell who moved. Raises `Unavailable`; they wait for the next time then."""
    options = chat.options.receipts
    if not chat.options.features.receipts:
        chat.deliveries.forget()
    marks = chat.deliveries.take(count, max_members=options.delivered_max_members)
    if not marks.delivered and not marks.written:
        return
    now_ms = chat.clock()
    try:
        moved = await chat.receipts.deliver(
            marks.delivered, max_members=options.delivered_max_members, now_ms=now_ms, read=marks.written
        )
    except BaseException:
        chat.deliveries.put_back(marks)
        raise
    at = format_time(now_ms)
    chat.bus.broadcast(
        [
            Broadcast(
                [mark.room_id],
                encode(MessagesDelivered(room_id=mark.room_id, user_id=mark.user_id, seq=mark.seq, delivered_at=at)),
                about=mark.user_id,
            )
            for mark in moved
        ]
    )
