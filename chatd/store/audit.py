"""The audit trail as typed calls: written many at a time, read by filter, forgotten by age."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.ids import oldest_id_of
from chatd.records import encode_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.store.database import Database, Params
    from chatd.store.queries import Queries

#: Behind every id in any collation: ids are hexadecimal.
NEWEST: Final = "g"
#: Events that one statement removes.
FORGET_AT_ONCE: Final = 1000


class AuditEvent(NamedTuple):
    """What somebody did, or was not let do. What does not apply is empty; `detail` is JSON of ids and codes."""

    id: str
    at: int
    action: str
    user_id: str
    connection_id: str
    room_id: str
    address: str
    user_agent: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which events are asked for; what is empty lets all through."""

    action: str = ""
    user_id: str = ""
    room_id: str = ""
    since_ms: int = 0


class AuditTrail:
    """Everything that is kept of it. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def add(self, events: Sequence[AuditEvent]) -> None:
        """Store events, all or none. The last moments of them may be lost with the machine's power."""
        query, params = self._queries["audit.add"], {"events": encode_json(events).decode()}
        await self._database.transaction(lambda tx: tx.run(query, params), is_lasting=False)

    async def page(
        self, wanted: Filter, *, after: str = "", before: str = NEWEST, limit: int = 100
    ) -> list[AuditEvent]:
        """The newest ones between two ids, in the order in which they happened."""
        params: Params = {
            "after": after, "before": before, "since": wanted.since_ms, "action": wanted.action,
            "user_id": wanted.user_id, "room_id": wanted.room_id, "limit": limit,
        }  # fmt: skip
        rows = await self._database.rows(self._queries["audit.page"], params)
        return [AuditEvent(*row) for row in reversed(rows)]

    async def forget(self, before_ms: int) -> None:
        """Remove what happened before a time, some at a time, so that nobody waits long for it."""
        query = self._queries["audit.forget"]
        params: Params = {"before": oldest_id_of(before_ms), "limit": FORGET_AT_ONCE}
        while await self._database.transaction(lambda tx: tx.run(query, params)) == FORGET_AT_ONCE:
            pass
