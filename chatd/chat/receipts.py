"""What members have read: `mark_as_read`, who is told, and the receipts of one message.

A read cursor moves forward only. Marks that come together are one statement, each room hears of a member's newest one,
and what is unread follows by subtraction, whatever the room's size. A deleted message counts until the cursor is behind
its tombstone. Who writes has read everything before; `delivered` sees to that, with what was delivered.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from chatd.chat.changes import find_message, no_such_message
from chatd.chat.permissions import check_may
from chatd.errors import Refusal
from chatd.protocol import MarkAsRead, MessagesRead, Ok, encode
from chatd.records import ReadCursor, Receipt, format_time, format_time_or_none, parse_json
from chatd.store.receipts import Mark, MemberCursors, Read, Receipts, Sent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.bus.hub import Hub
    from chatd.bus.port import Seconds
    from chatd.bus.room import ActiveRoom
    from chatd.chat.context import Chat
    from chatd.chat.session import Session
    from chatd.clock import Clock
    from chatd.loader import Loader

#: By which nodes know the signal.
READ: Final = "read"
#: Readers of a room that a history names, those who read last.
MAX_NAMED: Final = 100
#: Rooms whose readers are remembered, and for how long: a signal may be lost.
MAX_ROOMS: Final = 2_000
FRESH_S: Final = 30.0


async def mark_as_read(chat: Chat, session: Session, message: MarkAsRead) -> Ok:
    """Move the user's read cursor in a room to a message, a seq, or the newest event; never back."""
    check_may(session.role_in(message.room_id), "read")
    await mark(chat, session.user_id, message.room_id, message_id=message.message_id, seq=message.seq)
    return Ok(id=message.id)


async def mark(chat: Chat, user_id: str, room_id: str, *, message_id: str | None, seq: int | None) -> None:
    """Move a member's read cursor, and tell the room if it moved; beyond the newest event it does not go."""
    if message_id is not None and seq is not None:
        raise Refusal("bad_message", "Give `messageId` or `seq`, not both.")
    if message_id is not None:
        seq = await chat.messages.seq_of(room_id, message_id)
        if seq is None:
            raise Refusal("not_found", "There is no message `messageId` in this room.")
    if seq is None:
        # What this node has told, and what it has stored itself; somebody may be writing at this moment.
        room = await chat.hub.read_own(room_id)
        seq = 0 if room is None else room.position
    moved = await chat.marks.get(Mark(room_id, user_id, seq))
    bound = chat.options.receipts.read_max_members
    if moved is not None and (not bound or moved.member_count <= bound):
        read_at = format_time(chat.clock())
        body = encode(MessagesRead(room_id=room_id, user_id=user_id, seq=moved.seq, read_at=read_at))
        # Also for the reader's other devices.
        chat.bus.signal(room_id, body, about="", kind=READ)


async def store_marks(receipts: Receipts, clock: Clock, marks: Sequence[Mark]) -> dict[Mark, Read]:
    """Store what many have read, of each member the newest mark; those marks that moved a cursor."""
    newest: dict[tuple[str, str], Mark] = {}
    for one in sorted(marks, key=lambda mark: mark.seq):
        newest[one.room_id, one.user_id] = one
    moved = await receipts.read(newest.values(), now_ms=clock())
    return {newest[key]: read for key, read in moved.items()}


# -- the readers that a history names -----------------------------------------------------------------------------


class _Readers:
    """The newest readers of one active room, whoever read last at the end."""

    __slots__ = ("is_whole", "room", "seqs", "until_s")

    def __init__(self, room: ActiveRoom, until_s: float) -> None:
        self.room = room
        self.until_s = until_s
        self.seqs: dict[str, int] = {}
        #: They have been read; before, these are those heard of meanwhile.
        self.is_whole = False

    def note(self, user_id: str, seq: int) -> None:
        self.seqs[user_id] = max(seq, self.seqs.pop(user_id, 0))
        if len(self.seqs) > MAX_NAMED:
            del self.seqs[next(iter(self.seqs))]

    def complete(self, found: dict[str, int]) -> None:
        """Put what was read, newest first, before what was heard."""
        heard, self.seqs = self.seqs, dict(reversed(found.items()))
        for user_id, seq in heard.items():
            self.note(user_id, seq)
        self.is_whole = True


class Cursors:
    """The read cursors of this node's active rooms: read once, then followed by what is heard."""

    def __init__(self, hub: Hub, load: Loader[str, dict[str, int]], *, seconds: Seconds) -> None:
        self._hub = hub
        self._load = load
        self._seconds = seconds
        self._rooms: dict[str, _Readers] = {}

    async def of(self, room_id: str) -> list[ReadCursor]:
        """Where the newest readers of an active room are; while the store is out, those of whom was heard."""
        room = self._hub.room(room_id)
        if room is None:
            return []
        readers, now = self._rooms.get(room_id), self._seconds()
        if readers is None or readers.room is not room or readers.until_s <= now:
            self._rooms.pop(room_id, None)
            readers = self._rooms[room_id] = _Readers(room, now + FRESH_S)
            if len(self._rooms) > MAX_ROOMS:
                del self._rooms[next(iter(self._rooms))]
        if not readers.is_whole:
            with suppress(Refusal):
                readers.complete(await self._load.get(room_id) or {})
        return [ReadCursor(user_id=user_id, seq=seq) for user_id, seq in reversed(readers.seqs.items())]

    def hear(self, room_id: str, body: bytes, _about: str, kind: str) -> None:
        """Follow what a node has told a room."""
        readers = self._rooms.get(room_id)
        if kind != READ or readers is None:
            return
        # Another program may publish on our channels.
        with suppress(ValueError, TypeError, KeyError):
            told = parse_json(body)
            readers.note(str(told["userId"]), int(told["seq"]))


async def read_cursors(chat: Chat, room_id: str) -> list[ReadCursor]:
    """Where the members of an active room are who read last."""
    return await chat.cursors.of(room_id) if chat.options.features.receipts else []


# -- the receipts of a message ------------------------------------------------------------------------------------


async def list_receipts(
    chat: Chat, user_id: str, message_id: str, *, after: str, limit: int, offset: int
) -> tuple[Sent, list[Receipt], bool]:
    """Where a message stands, who has got and read it, and whether there are more. Raises `Refusal`."""
    sent = await chat.receipts.sent(message_id, asked_by=user_id)
    if sent is None:
        await find_message(chat, user_id, message_id, "read")
        raise no_such_message()
    found = await chat.receipts.members(sent, after=after, limit=limit + 1, offset=offset)
    return sent, [_receipt(cursors, sent.seq) for cursors in found[:limit]], len(found) > limit


def _receipt(cursors: MemberCursors, seq: int) -> Receipt:
    """What a member's cursors say of one message; the times are those at which they came to where they are."""
    is_read, is_delivered = cursors.read_seq >= seq, cursors.delivered_seq >= seq
    return Receipt(
        user_id=cursors.user_id,
        username=cursors.username,
        status="read" if is_read else "delivered" if is_delivered else "sent",
        delivered_at=format_time_or_none(cursors.delivered_at) if is_delivered else None,
        read_at=format_time_or_none(cursors.read_at) if is_read else None,
    )
