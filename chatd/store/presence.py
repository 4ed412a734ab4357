"""What users say of themselves, and who is to hear of it, as typed calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from chatd.records import encode_json, parse_json
from chatd.store.entries import Standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.store.database import Database, Params
    from chatd.store.queries import Queries


class Sight(NamedTuple):
    """A user as others see them, and the rooms whose members may. `last_seen_at` in milliseconds since 1970."""

    user_id: str
    username: str
    status: str
    status_message: str | None
    last_seen_at: int | None
    room_ids: list[str]


class Statuses:
    """How users are seen by those who share a room with them. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def set_status(self, user_id: str, status: str, message: str | None, *, now_ms: int) -> None:
        """Store a status; a message of `None` stays as it is, an empty one is taken away."""
        query = self._queries["presence.set_status"]
        params: Params = {"id": user_id, "status": status, "message": message, "now": now_ms}
        await self._database.transaction(lambda tx: tx.run(query, params))

    async def standing(self, room_id: str, user_id: str) -> Standing:
        """Whether a member of a room, which somebody is known to be, is muted."""
        params: Params = {"room_id": room_id, "user_id": user_id}
        row = await self._database.row(self._queries["presence.muted_until"], params)
        return Standing("member", muted_until_ms=None if row is None else row[0])

    async def seen(self, user_ids: Sequence[str], *, max_members: int) -> list[Sight]:
        """Many users in one query; of their rooms those that have no more members, 0 being no limit."""
        params: Params = {"users": encode_json(user_ids).decode(), "max_members": max_members}
        rows = await self._database.rows(self._queries["presence.seen"], params)
        return [
            Sight(user_id, username, status, message, last_seen_at, parse_json(room_ids) if room_ids else [])
            for user_id, username, status, message, last_seen_at, room_ids in rows
        ]
