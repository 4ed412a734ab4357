"""The database, looked up by room and seq while logs go by.

The judges of logs are plain functions on a thread; what they look up is read by the loop that waits for the thread.
Whole pages are read and the last ones kept, since clients hear a room in order. What stays is a little for each room.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from chatd.records import format_time, parse_json
from chatd.verify.bits import Bits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chatd.store.inspection import Inspection, KeptEvent, KeptMessage, KeptRoom, Place

#: Seqs of a page, and pages that are kept.
PAGE_SEQS: Final = 256
PAGES: Final = 256


class Membership(NamedTuple):
    """A user's time in a room, by seq: from its `user_joined` to its `user_left`, both included, or for ever."""

    start: int
    end: int | None

    def holds(self, seq: int) -> bool:
        return self.start <= seq and (self.end is None or seq <= self.end)


class RoomTruth:
    """A room as it is, who was in it when, and which of its messages were acknowledged."""

    def __init__(self, kept: KeptRoom, memberships: Mapping[str, list[Membership]]) -> None:
        self.id = kept.id
        self.last_seq = kept.last_seq
        self.event_kind = "new_dm" if kept.kind == "direct" else "new_message"
        self._memberships = memberships
        self.acknowledged = Bits()
        #: Those of which it was said that they are new.
        self.told_new = Bits()

    def membership(self, user_id: str, seq: int) -> Membership | None:
        """The time in the room that a seq belongs to."""
        return next((time for time in self._memberships.get(user_id, ()) if time.holds(seq)), None)

    def is_member(self, user_id: str) -> bool:
        """Whether it is one at the end."""
        times = self._memberships.get(user_id)
        return times is not None and times[-1].end is None


class _Page(NamedTuple):
    messages: dict[int, KeptMessage]
    #: Other events, as they were sent.
    events: dict[int, dict[str, Any]]


class Truth:
    """Everything that was stored. To be used on a thread that Trio has started; `epoch` is the database's, if it says.

    All calls raise `Unavailable`.
    """

    def __init__(self, inspection: Inspection, epoch: str | None) -> None:
        self._inspection = inspection
        self.epoch = epoch
        self._rooms: dict[str, RoomTruth | None] = {}
        self._pages: OrderedDict[tuple[str, int], _Page] = OrderedDict()

    def room(self, room_id: str) -> RoomTruth | None:
        """A room, if there is one, deleted or not."""
        if room_id not in self._rooms:
            self._rooms[room_id] = trio.from_thread.run(self._read_room, room_id)
        return self._rooms[room_id]

    def message(self, room_id: str, seq: int) -> KeptMessage | None:
        return self._page(room_id, seq).messages.get(seq)

    def event(self, room_id: str, seq: int) -> dict[str, Any] | None:
        """An event that is no message, as it was sent."""
        return self._page(room_id, seq).events.get(seq)

    def of_key(self, sender_id: str, key: str) -> list[Place]:
        """Where the messages stand that are stored under a key."""
        return trio.from_thread.run(self._inspection.of_key, sender_id, key)

    def rooms_of(self, user_id: str) -> list[RoomTruth]:
        """Where a user is a member at the end."""
        room_ids: list[str] = []
        while page := trio.from_thread.run(self._read_rooms_of, user_id, room_ids[-1] if room_ids else ""):
            room_ids += page
        rooms = map(self.room, room_ids)
        return [room for room in rooms if room is not None and room.is_member(user_id)]

    async def _read_rooms_of(self, user_id: str, after: str) -> list[str]:
        return await self._inspection.rooms_of(user_id, after=after)

    @property
    def acknowledged(self) -> int:
        """Messages that were acknowledged and are where it was said."""
        return sum(room.acknowledged.count for room in self._rooms.values() if room is not None)

    def _page(self, room_id: str, seq: int) -> _Page:
        key = room_id, seq // PAGE_SEQS
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = trio.from_thread.run(self._read_page, *key)
            if len(self._pages) > PAGES:
                self._pages.popitem(last=False)
        else:
            self._pages.move_to_end(key)
        return page

    async def _read_page(self, room_id: str, number: int) -> _Page:
        start, end = number * PAGE_SEQS, (number + 1) * PAGE_SEQS
        messages = await self._inspection.messages(room_id, start, limit=PAGE_SEQS)
        events = await self._inspection.events(room_id, start - 1, limit=PAGE_SEQS)
        return _Page(
            {message.seq: message for message in reversed(messages) if message.seq < end},
            {event.seq: as_sent(event) for event in events if event.seq < end},
        )

    async def _read_room(self, room_id: str) -> RoomTruth | None:
        kept = await self._inspection.room(room_id)
        if kept is None:
            return None
        memberships: dict[str, list[Membership]] = {}
        seq, deleted_at_seq = 0, None
        while changes := await self._inspection.memberships(room_id, seq):
            for change in changes:
                if change.kind == "room_deleted":
                    deleted_at_seq = change.seq
                    continue
                times = memberships.setdefault(parse_json(change.body)["userId"], [])
                if change.kind == "user_joined":
                    times.append(Membership(change.seq, None))
                else:
                    # Who never joined was there from the start.
                    start = times.pop().start if times else 0
                    times.append(Membership(start, change.seq))
            seq = changes[-1].seq
        after = ""
        while members := await self._inspection.members(room_id, after=after):
            for member in members:
                memberships.setdefault(member.user_id, [Membership(0, None)])
            after = members[-1].user_id
        if deleted_at_seq is not None:
            # Its members' rows stay, and nobody is a member.
            for times in memberships.values():
                if times[-1].end is None:
                    times.append(Membership(times.pop().start, deleted_at_seq))
        return RoomTruth(kept, memberships)


def as_sent(event: KeptEvent) -> dict[str, Any]:
    """An event as it was sent; of an edit only which message it was about."""
    if event.kind == "message_edited":
        message = {"id": event.message_id}
        return {"type": event.kind, "roomId": event.room_id, "seq": event.seq, "message": message}
    sent: dict[str, Any] = parse_json(event.body)
    return sent


def differences(message: KeptMessage, told: Mapping[str, Any]) -> list[str]:
    """The fields in which a message is not told as it is kept. What may change is compared unless it did."""
    expected: dict[str, Any] = {
        "id": message.id,
        "roomId": message.room_id,
        "seq": message.seq,
        "senderId": message.sender_id,
        "messageType": message.message_type,
        "createdAt": format_time(message.created_at),
        "clientMessageId": message.client_message_id,
        "replyTo": message.reply_to,
    }
    if message.edited_at is None and message.deleted_at is None:
        expected["content"] = message.content
        expected["metadata"] = None if message.metadata is None else parse_json(message.metadata)
    return [name for name, value in expected.items() if told.get(name) != value]


def is_same_event(kept: Mapping[str, Any] | None, told: Mapping[str, Any]) -> bool:
    """Whether an event that is no message is told as it is kept; a message inside may have changed since."""
    if kept is None or kept == told:
        return kept is not None
    if "message" not in kept or "message" not in told:
        return False
    return all(kept[name] == told.get(name) for name in ("type", "roomId", "seq")) and kept["message"].get("id") == (
        told["message"].get("id")
    )
