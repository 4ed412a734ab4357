"""Rooms and who is in them, as typed calls. Joining and leaving take a seq and so go through the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from chatd.records import encode_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.store.database import Database, Params, Transaction
    from chatd.store.queries import Queries


@dataclass(frozen=True, slots=True)
class RoomRow:
    """A room, with the role that whoever asked has in it, and the seq of their joining (`None`: not a member).

    `invited_as` is the role that an invitation offers them; `max_members` is `None` where the room has no own bound.
    """

    id: str
    kind: str
    name: str
    topic: str | None
    created_by: str | None
    created_at: int
    member_count: int
    max_members: int | None
    last_seq: int
    role: str | None
    joined_seq: int | None
    slow_mode_s: int = 0
    invited_as: str | None = None


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A member of a room, with their profile."""

    user_id: str
    username: str
    display_name: str | None
    role: str
    joined_at: int
    status: str
    status_message: str | None
    last_seen_at: int | None
    muted_until: int | None = None


class OwnRoom(NamedTuple):
    """A room as one of its members has it: where it is, and how much of it is unread."""

    room_id: str
    name: str
    kind: str
    role: str
    last_seq: int
    read_seq: int
    unread: int


class NewRoom(NamedTuple):
    """A room about to be made."""

    id: str
    kind: str
    name: str
    topic: str | None
    created_by: str | None


class Rooms:
    """Everything that is kept of rooms and memberships. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def add(self, room: NewRoom, *, owner_id: str | None, member_ids: Sequence[str], now_ms: int) -> None:
        """Add a room with its owner and first members, together. Raises `Conflict` if one of them does not exist."""

        async def work(tx: Transaction) -> None:
            people = ([(owner_id, "owner")] if owner_id else []) + [(user_id, "member") for user_id in member_ids]
            row: Params = {**room._asdict(), "now": now_ms, "member_count": len(people)}
            await tx.run(self._queries["rooms.add"], row)
            for user_id, role in people:
                member: Params = {"room_id": room.id, "user_id": user_id, "role": role, "now": now_ms}
                await tx.run(self._queries["rooms.add_member"], member)

        await self._database.transaction(work)

    async def by_id(self, room_id: str, *, asked_by: str) -> RoomRow | None:
        row = await self._database.row(self._queries["rooms.by_id"], {"id": room_id, "user_id": asked_by})
        return None if row is None else RoomRow(*row)

    async def visible(self, user_id: str, *, after: str, limit: int, offset: int) -> list[RoomRow]:
        """Public rooms and the user's own, in order of their ids, behind the id `after`."""
        params: Params = {"user_id": user_id, "after": after, "limit": limit, "offset": offset}
        return [RoomRow(*row) for row in await self._database.rows(self._queries["rooms.visible"], params)]

    async def members(self, room_id: str, *, after: str, limit: int, offset: int) -> list[MemberRow]:
        params: Params = {"room_id": room_id, "after": after, "limit": limit, "offset": offset}
        return [MemberRow(*row) for row in await self._database.rows(self._queries["rooms.members"], params)]

    async def member(self, room_id: str, user_id: str) -> MemberRow | None:
        params: Params = {"room_id": room_id, "user_id": user_id}
        row = await self._database.row(self._queries["rooms.member"], params)
        return None if row is None else MemberRow(*row)

    async def count_of_user(self, user_id: str) -> int:
        row = await self._database.row(self._queries["rooms.count_of_user"], {"user_id": user_id})
        return 0 if row is None else int(row[0])

    async def counts_of_users(self, user_ids: Sequence[str]) -> dict[str, int]:
        """As `count_of_user`, for many users in one query; users without rooms are left out."""
        rows = await self._database.rows(
            self._queries["rooms.counts_of_users"], {"users": encode_json(user_ids).decode()}
        )
        return dict(rows)

    async def of_users(self, user_ids: Sequence[str]) -> dict[str, list[OwnRoom]]:
        """The rooms of many users in one query; users without rooms are left out."""
        rows = await self._database.rows(self._queries["rooms.of_users"], {"users": encode_json(user_ids).decode()})
        found: dict[str, list[OwnRoom]] = {}
        for user_id, *own in rows:
            found.setdefault(user_id, []).append(OwnRoom(*own))
        return found

    async def last_seqs(self, room_ids: Sequence[str]) -> dict[str, int]:
        """The newest seq of each room that exists, in one query."""
        rows = await self._database.rows(self._queries["rooms.last_seqs"], {"rooms": encode_json(room_ids).decode()})
        return dict(rows)

    async def count_kinds(self, room_ids: Sequence[str]) -> dict[str, int]:
        """How many of these rooms are of each kind; kinds without any are left out."""
        rows = await self._database.rows(self._queries["rooms.kinds"], {"rooms": encode_json(room_ids).decode()})
        return dict(rows)
