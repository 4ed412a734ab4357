"""Whom users do not want to hear from, as typed calls.

In the direct room of two users nobody writes while one of them blocks the other: both have a role then that may only
read, which the journal sees in its transaction, through whatever door and node a message comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from chatd.store.acts import Act
from chatd.store.direct import direct_key

if TYPE_CHECKING:
    from chatd.store.acts import Scene
    from chatd.store.database import Database, Params
    from chatd.store.queries import Queries


class Blocked(NamedTuple):
    """Somebody whom a user blocks, and since when (milliseconds)."""

    user_id: str
    username: str
    display_name: str | None
    blocked_at: int


@dataclass(frozen=True, slots=True)
class Block:
    """`user_id` does not want to hear from `other_id` any more; or, `is_over`, wants to again."""

    user_id: str
    other_id: str
    is_over: bool = False


class Blocks:
    """Who blocks whom. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def count(self, user_id: str, *, but: str) -> int:
        """How many others a user blocks, one of them not counted."""
        row = await self._database.row(self._queries["blocks.count"], {"user_id": user_id, "blocked_id": but})
        return 0 if row is None else int(row[0])

    async def page(self, user_id: str, *, after: str, limit: int, offset: int = 0) -> list[Blocked]:
        """Those whom a user blocks, in order of their ids, behind the id `after`."""
        params: Params = {"user_id": user_id, "after": after, "limit": limit, "offset": offset}
        return [Blocked(*row) for row in await self._database.rows(self._queries["blocks.page"], params)]

    async def room_of(self, block: Block) -> str | None:
        """The direct room of the two, if there is one."""
        params: Params = {"direct_key": direct_key(block.user_id, block.other_id)}
        row = await self._database.row(self._queries["blocks.room_of_two"], params)
        return None if row is None else row[0]

    async def store(self, block: Block, *, now_ms: int) -> None:
        """Store or remove a block of two who have no room."""
        name = "blocks.remove" if block.is_over else "blocks.add"
        params = _params_of(block, now_ms)
        await self._database.transaction(lambda tx: tx.run(self._queries[name], params))


def act_of(block: Block, room_id: str) -> Act:
    """The same of two who have a room, with what they may do in it."""

    async def decide(scene: Scene) -> None:
        name = "blocks.remove" if block.is_over else "blocks.add"
        await scene.run(name, **_params_of(block, scene.now_ms))
        await _settle(scene, block.user_id, block.other_id)

    return Act(room_id, decide)


def settling(room_id: str, one_id: str, other_id: str) -> Act:
    """Let what two users may do in their room follow from who blocks whom."""

    async def decide(scene: Scene) -> None:
        await _settle(scene, one_id, other_id)

    return Act(room_id, decide)


async def _settle(scene: Scene, one_id: str, other_id: str) -> None:
    await scene.run("blocks.settle", room_id=scene.room_id, one=one_id, other=other_id)
    # A message that waits for the lock has read the roles before. There is no event whose seq could say so.
    scene.head.standing_seq += 1


def _params_of(block: Block, now_ms: int) -> dict[str, str | int]:
    params: dict[str, str | int] = {"user_id": block.user_id, "blocked_id": block.other_id}
    return params if block.is_over else params | {"now": now_ms}
