"""What members have read and what was delivered to them, by cursors that only move forward, as typed calls.

A cursor is a seq: everything up to it has been read, or delivered. What is read was delivered, too. Many cursors move
by one statement, and what that returns are those that moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from chatd.records import encode_json, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from chatd.store.database import Database, Params, Row, Transaction
    from chatd.store.queries import Queries


class Mark(NamedTuple):
    """A member's cursor is to be here at least, but not beyond the room's newest event."""

    room_id: str
    user_id: str
    seq: int


class Read(NamedTuple):
    """A read cursor that moved to here, and the number of the room's members."""

    seq: int
    member_count: int


class Sent(NamedTuple):
    """Where a message stands."""

    room_id: str
    seq: int
    sender_id: str
    created_at: int


class MemberCursors(NamedTuple):
    """How far a member is, and when they came there (milliseconds)."""

    user_id: str
    username: str
    delivered_seq: int
    delivered_at: int | None
    read_seq: int
    read_at: int | None


class Receipts:
    """The cursors of members. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def read(self, marks: Iterable[Mark], *, now_ms: int) -> dict[tuple[str, str], Read]:
        """Move read cursors; those that moved by (room, user), of whom each may be named once."""
        params: Params = {"marks": encode_json(list(marks)).decode(), "now": now_ms}
        query = self._queries["receipts.read"]
        rows = await self._database.transaction(lambda tx: tx.rows(query, params))
        return {(room_id, user_id): Read(seq, count) for room_id, user_id, seq, count in rows}

    async def deliver(
        self, marks: Sequence[Mark], *, max_members: int, now_ms: int, read: Sequence[Mark] = ()
    ) -> list[Mark]:
        """Move delivered cursors in rooms of up to so many members (0: in all); those that moved.

        In the same transaction read cursors move, of which nobody is told.
        """
        delivered: Params = {"marks": encode_json(marks).decode(), "max_members": max_members, "now": now_ms}
        silently: Params = {"marks": encode_json(read).decode(), "now": now_ms}

        async def work(tx: Transaction) -> list[Row]:
            if read:
                await tx.rows(self._queries["receipts.read"], silently)
            return await tx.rows(self._queries["receipts.deliver"], delivered) if marks else []

        return [Mark(*row) for row in await self._database.transaction(work, is_lasting=False)]

    async def readers(self, room_ids: Sequence[str], *, limit: int) -> dict[str, dict[str, int]]:
        """The read cursors of each room's members by their ids, of those `limit` that moved last."""
        params: Params = {"rooms": encode_json(room_ids).decode(), "limit": limit}
        rows = await self._database.rows(self._queries["receipts.readers"], params)
        return {room_id: dict(parse_json(readers)) for room_id, readers in rows}

    async def sent(self, message_id: str, *, asked_by: str) -> Sent | None:
        """A message of a room that who asks is a member of."""
        row = await self._database.row(self._queries["receipts.of_message"], {"id": message_id, "user_id": asked_by})
        return None if row is None else Sent(*row)

    async def members(self, sent: Sent, *, after: str, limit: int, offset: int = 0) -> list[MemberCursors]:
        """Those to whom a message was sent, its sender left out, in order of their ids, behind the id `after`."""
        params: Params = {
            "room_id": sent.room_id, "seq": sent.seq, "sender_id": sent.sender_id, "after": after, "limit": limit,
            "offset": offset,
        }  # fmt: skip
        return [MemberCursors(*row) for row in await self._database.rows(self._queries["receipts.members"], params)]
