"""Messages and events as they are read back: pages of history, and the events that somebody missed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from chatd.bus.port import Event
from chatd.protocol import NewDm, NewMessage, encode
from chatd.records import Message, Raw, encode_json, format_time, format_time_or_none, parse_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.store.database import Database, Params, Row, Transaction
    from chatd.store.queries import Queries

#: Above every seq that a room can reach.
NO_SEQ = 2**53


class Stretch(NamedTuple):
    """The events of a room behind the seq `after` up to `until`."""

    room_id: str
    after: int
    until: int


class Messages:
    """The history of rooms. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def before(self, room_id: str, seq: int, *, limit: int, offset: int = 0) -> list[Message]:
        """The newest `limit` messages below `seq`, oldest of them first."""
        params: Params = {"room_id": room_id, "before": seq, "limit": limit, "offset": offset}
        rows = await self._database.rows(self._queries["messages.before"], params)
        return [message_of(row) for row in reversed(rows)]

    async def after(self, room_id: str, seq: int, *, limit: int, before: int = NO_SEQ) -> list[Message]:
        """The oldest `limit` messages above `seq` and below `before`, oldest first."""
        params: Params = {"room_id": room_id, "after": seq, "before": before, "limit": limit}
        return [message_of(row) for row in await self._database.rows(self._queries["messages.after"], params)]

    async def seq_of(self, room_id: str, message_id: str) -> int | None:
        row = await self._database.row(self._queries["messages.seq_of"], {"room_id": room_id, "id": message_id})
        return None if row is None else int(row[0])

    async def events_after(self, room_id: str, seq: int, limit: int) -> list[Event]:
        """The `limit` events of any kind behind `seq`, in order: messages and the others merged by seq."""
        after: Params = {"room_id": room_id, "after": seq, "limit": limit}

        async def work(tx: Transaction) -> tuple[Sequence[Row], Sequence[Row], Row | None]:
            return (
                await tx.rows(self._queries["messages.after"], {**after, "before": NO_SEQ}),
                await tx.rows(self._queries["messages.events_after"], after),
                await tx.row(self._queries["rooms.by_id"], {"id": room_id, "user_id": ""}),
            )

        messages, others, room = await self._database.read(work)
        kind = "" if room is None else room[1]
        events = [_event_of_message(message, kind) for message in map(message_of, messages)]
        events += [_event_of_row((room_id, *row)) for row in others]
        events.sort(key=_by_seq)
        return events[:limit]

    async def events_of(self, stretches: Sequence[Stretch]) -> dict[Stretch, list[Event]]:
        """The events of many stretches, each in order, in two queries whatever their number."""
        named = [{"n": n, **stretch._asdict()} for n, stretch in enumerate(stretches)]
        wanted: Params = {"stretches": encode_json(named).decode()}

        async def work(tx: Transaction) -> tuple[Sequence[Row], Sequence[Row]]:
            return (
                await tx.rows(self._queries["messages.of_stretches"], wanted),
                await tx.rows(self._queries["messages.events_of_stretches"], wanted),
            )

        messages, others = await self._database.read(work)
        found: list[list[Event]] = [[] for _ in stretches]
        for n, kind, *row in messages:
            found[n].append(_event_of_message(message_of(row), kind))
        for n, *row in others:
            found[n].append(_event_of_row(row))
        for events in found:
            events.sort(key=_by_seq)
        return dict(zip(stretches, found, strict=True))


def _by_seq(event: Event) -> int:
    return event.seq


def _event_of_message(message: Message, room_kind: str) -> Event:
    new = NewDm if room_kind == "direct" else NewMessage
    return Event(message.room_id, message.seq, "new_message", encode(new(message=message)), message.sender_id)


def _event_of_row(row: Sequence[Any]) -> Event:
    room_id, seq, kind, body = row
    subject = parse_json(body)["userId"] if kind in ("user_joined", "user_left") else None
    return Event(room_id, seq, kind, body.encode(), subject)


def message_of(row: Sequence[Any]) -> Message:
    """A row of `messages.before` or `messages.after` as everybody sees it."""
    (message_id, room_id, seq, sender_id, sender_name, message_type, content, created_at, client_message_id, reply_to,
     metadata, edited_at, deleted_at, pinned_at) = row  # fmt: skip
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
        edited_at=format_time_or_none(edited_at),
        deleted_at=format_time_or_none(deleted_at),
        pinned=True if pinned_at is not None else None,
    )
