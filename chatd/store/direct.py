"""Direct conversations, which are rooms of two users, and what is unread in them, as typed calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from chatd.records import encode_json
from chatd.store.messages import as_shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.records import Message
    from chatd.store.database import Database, Params, Transaction
    from chatd.store.queries import Queries


class Pair(NamedTuple):
    """Somebody to write to, as who asks finds them: the room of the two, if there is one, and who blocks whom.

    `is_stored`: a message of who asks is stored under the key that was asked for.
    """

    other_id: str
    disabled_at: int | None
    room_id: str | None
    last_seq: int | None
    has_blocked: bool
    is_blocked: bool
    is_stored: bool


class Unread(NamedTuple):
    """Messages that were not read, and the conversations that they are in."""

    total: int
    conversations: int


def direct_key(one_id: str, other_id: str) -> str:
    """By which the room of two users is found, whoever of them asks."""
    return ":".join(sorted((one_id, other_id)))


class Conversations:
    """Rooms of two. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def pair(self, user_id: str, other_id: str, *, key: str = "") -> Pair | None:
        """How two users stand to each other; `None` for somebody who is no user."""
        params: Params = {
            "user_id": user_id, "other_id": other_id, "direct_key": direct_key(user_id, other_id), "key": key,
        }  # fmt: skip
        row = await self._database.row(self._queries["direct.between"], params)
        if row is None:
            return None
        user, disabled_at, room_id, last_seq, *flags = row
        has_blocked, is_blocked, is_stored = map(bool, flags)
        return Pair(user, disabled_at, room_id, last_seq, has_blocked, is_blocked, is_stored)

    async def add(self, room_id: str, user_id: str, other_id: str, *, now_ms: int) -> None:
        """Make the room of two users. Raises `Conflict` if there is one."""
        room: Params = {
            "id": room_id, "direct_key": direct_key(user_id, other_id), "created_by": user_id, "now": now_ms,
        }  # fmt: skip

        async def work(tx: Transaction) -> None:
            await tx.run(self._queries["direct.add"], room)
            for member_id in (user_id, other_id):
                member: Params = {"room_id": room_id, "user_id": member_id, "role": "member", "now": now_ms}
                await tx.run(self._queries["rooms.add_member"], member)

        await self._database.transaction(work)

    async def count_unread(self, user_id: str) -> Unread:
        row = await self._database.row(self._queries["direct.count_unread"], {"user_id": user_id})
        assert row is not None
        return Unread(*row)

    async def newest_of_others(
        self, user_id: str, stretches: Sequence[tuple[str, int]], *, limit: int
    ) -> list[Message]:
        """The newest messages that others wrote in these rooms behind these seqs, oldest of them first."""
        newest: Params = {"user_id": user_id, "stretches": encode_json(stretches).decode(), "limit": limit}

        async def work(tx: Transaction) -> list[Message]:
            ids = [row[0] for row in await tx.rows(self._queries["direct.newest_of_others"], newest)]
            rows = await tx.rows(self._queries["messages.of_ids"], {"ids": encode_json(ids).decode()})
            return [as_shown(row) for row in rows]

        return sorted(await self._database.read(work), key=lambda message: message.id)
