"""Messages and events as they are read back: pages of history, and the events that somebody missed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from chatd.bus.port import Event
from chatd.protocol import MessageEdited, NewDm, NewMessage, encode
from chatd.records import (
    Message,
    Raw,
    Reaction,
    decode_attachment,
    decode_reactions,
    encode_json,
    format_time,
    format_time_or_none,
    parse_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.store.database import Database, Params, Row, Transaction
    from chatd.store.queries import Queries

#: Above every seq that a room can reach.
NO_SEQ = 2**53
#: Messages that were edited, by their ids.
Edited: TypeAlias = dict[str, Message]


class Stretch(NamedTuple):
    """The events of a room behind the seq `after` up to `until`."""

    room_id: str
    after: int
    until: int


class Whereabouts(NamedTuple):
    """The room of a message, with the role that whoever asked has in it (`None`: not a member)."""

    room_id: str
    room_kind: str
    role: str | None
    message_type: str
    deleted_at: int | None


class Messages:
    """The history of rooms. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def before(self, room_id: str, seq: int, *, limit: int, offset: int = 0) -> list[Message]:
        """The newest `limit` messages below `seq`, oldest of them first."""
        params: Params = {"room_id": room_id, "before": seq, "limit": limit, "offset": offset}
        rows = await self._database.rows(self._queries["messages.before"], params)
        return [as_shown(row) for row in reversed(rows)]

    async def after(self, room_id: str, seq: int, *, limit: int, before: int = NO_SEQ) -> list[Message]:
        """The oldest `limit` messages above `seq` and below `before`, oldest first."""
        params: Params = {"room_id": room_id, "after": seq, "before": before, "limit": limit}
        return [as_shown(row) for row in await self._database.rows(self._queries["messages.after"], params)]

    async def replies_after(
        self, room_id: str, message_id: str, seq: int, *, limit: int, offset: int = 0
    ) -> list[Message]:
        """The oldest `limit` replies to a message above `seq`, oldest first."""
        params: Params = {"room_id": room_id, "id": message_id, "after": seq, "limit": limit, "offset": offset}
        return [as_shown(row) for row in await self._database.rows(self._queries["messages.replies_after"], params)]

    async def replies_before(self, room_id: str, message_id: str, seq: int, *, limit: int) -> list[Message]:
        """The newest `limit` replies to a message below `seq`, oldest of them first."""
        params: Params = {"room_id": room_id, "id": message_id, "before": seq, "limit": limit}
        rows = await self._database.rows(self._queries["messages.replies_before"], params)
        return [as_shown(row) for row in reversed(rows)]

    async def pinned(self, room_id: str, *, limit: int, offset: int = 0) -> list[Message]:
        """What is pinned in a room, the newest pin first."""
        params: Params = {"room_id": room_id, "limit": limit, "offset": offset}
        return [as_shown(row) for row in await self._database.rows(self._queries["messages.pinned"], params)]

    async def seq_of(self, room_id: str, message_id: str) -> int | None:
        """Where a message stands in this room, also a deleted one."""
        row = await self._database.row(self._queries["messages.seq_of"], {"room_id": room_id, "id": message_id})
        return None if row is None else int(row[0])

    async def is_living(self, room_id: str, message_id: str) -> bool:
        """Whether a message is in this room and not deleted."""
        row = await self._database.row(self._queries["messages.is_living"], {"room_id": room_id, "id": message_id})
        return row is not None

    async def whereabouts(self, message_id: str, *, asked_by: str) -> Whereabouts | None:
        """Where a message is, also a deleted one; `None` too where its room was deleted."""
        params: Params = {"id": message_id, "user_id": asked_by}
        row = await self._database.row(self._queries["messages.whereabouts"], params)
        return None if row is None else Whereabouts(*row)

    async def is_stored(self, sender_id: str, client_message_id: str) -> bool:
        """Whether a message of this sender is stored under this key."""
        params: Params = {"sender_id": sender_id, "key": client_message_id}
        return await self._database.row(self._queries["messages.is_stored"], params) is not None

    async def events_after(self, room_id: str, seq: int, limit: int) -> list[Event]:
        """The `limit` events of any kind behind `seq`, in order: messages and the others merged by seq."""
        after: Params = {"room_id": room_id, "after": seq, "limit": limit}

        async def work(tx: Transaction) -> tuple[Sequence[Row], Sequence[Row], Edited, Row | None]:
            messages = await tx.rows(self._queries["messages.after"], {**after, "before": NO_SEQ})
            others = [(room_id, *row) for row in await tx.rows(self._queries["messages.events_after"], after)]
            room = await tx.row(self._queries["rooms.by_id"], {"id": room_id, "user_id": ""})
            return messages, others, await self._edited(tx, others), room

        messages, others, edited, room = await self._database.read(work)
        kind = "" if room is None else room[1]
        events = [_event_of_message(message, kind) for message in map(message_of, messages)]
        events += [_event_of_row(row, edited) for row in others]
        events.sort(key=_by_seq)
        return events[:limit]

    async def events_of(self, stretches: Sequence[Stretch]) -> dict[Stretch, list[Event]]:
        """The events of many stretches, each in order, in two or three queries whatever their number."""
        named = [{"n": n, **stretch._asdict()} for n, stretch in enumerate(stretches)]
        wanted: Params = {"stretches": encode_json(named).decode()}

        async def work(tx: Transaction) -> tuple[Sequence[Row], Sequence[Row], Edited]:
            messages = await tx.rows(self._queries["messages.of_stretches"], wanted)
            others = await tx.rows(self._queries["messages.events_of_stretches"], wanted)
            return messages, others, await self._edited(tx, [row[1:] for row in others])

        messages, others, edited = await self._database.read(work)
        found: list[list[Event]] = [[] for _ in stretches]
        for n, kind, *row in messages:
            found[n].append(_event_of_message(message_of(row), kind))
        for n, *row in others:
            found[n].append(_event_of_row(row, edited))
        for events in found:
            events.sort(key=_by_seq)
        return dict(zip(stretches, found, strict=True))

    async def _edited(self, tx: Transaction, others: Sequence[Row]) -> Edited:
        """The messages that edits among these events are about, as they are now."""
        ids = list(dict.fromkeys(message_id for _, _, kind, _, message_id in others if kind == "message_edited"))
        if not ids:
            return {}
        rows = await tx.rows(self._queries["messages.of_ids"], {"ids": encode_json(ids).decode()})
        return {row[0]: as_shown(row) for row in rows}


def _by_seq(event: Event) -> int:
    return event.seq


def _event_of_message(message: Message, room_kind: str) -> Event:
    new = NewDm if room_kind == "direct" else NewMessage
    return Event(message.room_id, message.seq, "new_message", encode(new(message=message)), message.sender_id)


def _event_of_row(row: Sequence[Any], edited: Edited) -> Event:
    room_id, seq, kind, body, message_id = row
    if kind == "message_edited":
        message = edited[message_id]
        event = MessageEdited(room_id=room_id, seq=seq, message=message)
        return Event(room_id, seq, kind, encode(event), message.sender_id)
    subject = parse_json(body)["userId"] if kind in ("user_joined", "user_left") else None
    return Event(room_id, seq, kind, body.encode(), subject)


def as_shown(row: Sequence[Any]) -> Message:
    """A row with the columns of `messages.before` as the message is now, with its pin and its reactions."""
    *_, pinned_at, reactions, _ = row
    return message_of(
        row,
        pinned=True if pinned_at is not None else None,
        reactions=None if reactions is None else decode_reactions(reactions),
    )


def message_of(row: Sequence[Any], *, pinned: bool | None = None, reactions: list[Reaction] | None = None) -> Message:
    """The same as a new message: what came after it, but for an edit or its deletion, is told by other events."""
    (message_id, room_id, seq, sender_id, sender_name, message_type, content, created_at, client_message_id, reply_to,
     metadata, edited_at, deleted_at, _, _, attachment) = row  # fmt: skip
    return Message(
        id=message_id,
        room_id=room_id,
        seq=seq,
        sender_id=sender_id,
        sender_name=sender_name,
        message_type=message_type,
        content=content,
        created_at=format_time(created_at),
        client_message_id=client_message_id,
        reply_to=reply_to,
        metadata=None if metadata is None else Raw(metadata.encode()),
        attachment=None if attachment is None else decode_attachment(attachment),
        edited_at=format_time_or_none(edited_at),
        deleted_at=format_time_or_none(deleted_at),
        pinned=pinned,
        reactions=reactions,
    )
