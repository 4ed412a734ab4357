"""The index of messages follows what is written: behind the commit, by a task of its own, at a pace that has a bound.

Writing a message costs nothing more than its note here. The task reads new messages room by room, from where the index
is up to where the room is, so nothing is left out, also where a node died; one node at a time does it. What is edited
or deleted has left the index in its own transaction (a trigger) and is in `search_changes` until it is read again.

Several thousand messages a second are read; beyond that the index falls behind and makes up for it afterwards.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from chatd import telemetry
from chatd.errors import Refusal
from chatd.records import encode_json
from chatd.store.database import Conflict
from chatd.store.search_terms import entry_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from chatd.bus.port import Event
    from chatd.metrics import Metrics
    from chatd.store.database import Database, Params, Transaction
    from chatd.store.queries import Queries

log = telemetry.get_logger(__name__)

#: Events after which there is something to read.
_FOLLOWED: Final = frozenset({"new_message", "message_edited", "message_deleted"})
#: Messages and rooms that one transaction reads; on SQLite the journal waits for it.
BATCH: Final = 250
ROOMS_AT_ONCE: Final = 100
#: Seconds between two transactions at least: more is read by each, and little is read often.
PAUSE_S: Final = 0.1
#: Seconds between two looks for rooms that a node left behind which is gone.
LOOK_S: Final = 60.0
#: Seconds between two tries while the database is out.
RETRY_S: Final = 1.0
#: Rooms that are found to be behind by one query.
PAGE: Final = 1000


class _Round(NamedTuple):
    """What a transaction did: how much it read, the rooms of which nothing is left, whether there is more to read."""

    read: int
    done: Sequence[str]
    has_more: bool


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How many messages a second are read at most."""

    per_second: int = 5000


class SearchIndex:
    """Follows what is published. Made by `open_search_index`."""

    def __init__(self, database: Database, queries: Queries, options: IndexOptions, metrics: Metrics) -> None:
        self._database = database
        self._queries = queries
        self._options = options
        self._metrics = metrics
        # Rooms with something to read, by when that was first known; the oldest first.
        self._behind: dict[str, float] = {}
        self._arrived = trio.Event()

    def note(self, event: Event) -> None:
        """Have what was published read soon."""
        if event.kind in _FOLLOWED and event.room_id not in self._behind:
            self._behind[event.room_id] = trio.current_time()
            self._arrived.set()

    async def _follow(self) -> None:
        next_look = trio.current_time()
        while True:
            try:
                if trio.current_time() >= next_look:
                    await self._look()
                    next_look = trio.current_time() + LOOK_S
                rounds = await self._read_round()
            except (Refusal, Conflict) as fault:
                log.warning("search_index_failed", detail=str(fault))
                await trio.sleep(RETRY_S)
                continue
            oldest = next(iter(self._behind.values()), None)
            self._metrics.search_lag_seconds.set(0 if oldest is None else trio.current_time() - oldest)
            await trio.sleep(max(PAUSE_S, rounds.read / self._options.per_second))
            if not self._behind and not rounds.has_more:
                self._arrived = trio.Event()
                with trio.move_on_at(next_look):
                    await self._arrived.wait()

    async def _look(self) -> None:
        """Find the rooms of which the index has not read everything: all of them, page by page."""
        after = ""
        while True:
            page: Params = {"after": after, "limit": PAGE}
            found = [row[0] for row in await self._database.rows(self._queries["search.behind"], page)]
            for room_id in found:
                self._behind.setdefault(room_id, trio.current_time())
            if len(found) < PAGE:
                return
            after = found[-1]

    async def _read_round(self) -> _Round:
        noted = dict(zip(self._behind, range(ROOMS_AT_ONCE), strict=False))
        # Noted anew from now on: what is committed while this is read may be read or not.
        since = {room_id: self._behind.pop(room_id) for room_id in noted}
        done: Sequence[str] = ()
        try:
            result = await self._database.transaction(lambda tx: self._read(tx, list(since)))
            done = result.done
            return result
        finally:
            left = {room_id: at for room_id, at in since.items() if room_id not in done}
            self._behind = left | {room_id: at for room_id, at in self._behind.items() if room_id not in left}

    async def _read(self, tx: Transaction, room_ids: Sequence[str]) -> _Round:
        locked = await tx.row(self._queries["search.lock"], {})
        if locked is None or not locked[0]:
            # Another node is at it.
            return _Round(0, (), has_more=True)
        changed = await self._read_changes(tx)
        read, done = await self._read_new(tx, room_ids) if room_ids else (0, [])
        return _Round(changed + read, done, has_more=changed == BATCH)

    async def _read_changes(self, tx: Transaction) -> int:
        """Read again what has changed and was in the index; the number of changes."""
        changes = await tx.rows(self._queries["search.changed"], {"limit": BATCH})
        if not changes:
            return 0
        entries, places = [], []
        for _, seq, number, indexed_seq, sender_id, created_at, content, deleted_at in changes:
            if number is None or seq > indexed_seq:
                continue
            places.append((number, seq))
            if deleted_at is None:
                entry = self._entry(number, seq, sender_id=sender_id, created_at=created_at, content=content)
                entries.append(entry)
        await tx.run(self._queries["search.remove"], {"places": _json(places)})
        await tx.run(self._queries["search.add"], {"entries": _json(entries)})
        await tx.run(self._queries["search.forget_changes"], {"places": _json([change[:2] for change in changes])})
        return len(changes)

    async def _read_new(self, tx: Transaction, room_ids: Sequence[str]) -> tuple[int, list[str]]:
        """Read rooms on from where the index is, so far as one batch goes; its size, and the rooms that are done."""
        wanted: Params = {"rooms": _json(room_ids)}
        await tx.run(self._queries["search.add_rooms"], wanted)
        stretches, unfinished = [], set()
        free = BATCH
        for room_id, number, indexed_seq, last_seq in await tx.rows(self._queries["search.positions"], wanted):
            until = min(last_seq, indexed_seq + free)
            if until > indexed_seq:
                stretches.append((number, room_id, indexed_seq, until))
                free -= until - indexed_seq
            if until < last_seq:
                unfinished.add(room_id)
        entries = [
            self._entry(number, seq, sender_id=sender_id, created_at=created_at, content=content)
            for number, seq, sender_id, created_at, content in await tx.rows(
                self._queries["search.unread"], {"stretches": _json(stretches)}
            )
        ]
        await tx.run(self._queries["search.add"], {"entries": _json(entries)})
        await tx.run(self._queries["search.advance"], {"heads": _json([(s[0], s[3]) for s in stretches])})
        return BATCH - free, [room_id for room_id in room_ids if room_id not in unfinished]

    def _entry(self, number: int, seq: int, *, sender_id: str, created_at: int, content: str) -> list[object]:
        return entry_of(
            self._database.dialect, number, seq, sender_id=sender_id, created_at=created_at, content=content
        )


def _json(rows: object) -> str:
    return encode_json(rows).decode()


@asynccontextmanager
async def open_search_index(
    database: Database, queries: Queries, options: IndexOptions, *, metrics: Metrics
) -> AsyncIterator[SearchIndex]:
    """An index that follows for as long as the block lasts; what it has not read then is read after the next start."""
    index = SearchIndex(database, queries, options, metrics)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(index._follow)
        yield index
        nursery.cancel_scope.cancel()
