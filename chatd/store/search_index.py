"""The index of messages follows what is written: behind the commit, by a task of its own, at a pace that has a bound.

Writing a message costs nothing more than its note here. The task reads new messages room by room, from where the index
is up to where the room is, so nothing is left out, also where a node died; one node at a time does it. What is edited
or deleted has left the index in its own transaction (a trigger) and is in `search_changes` until it is read again.

So many messages a second are read at most; beyond that the index falls behind and makes up for it afterwards.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from chatd import telemetry
from chatd.errors import Refusal
from chatd.records import encode_json
from chatd.store.database import Conflict
from chatd.store.search_terms import entry_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from chatd.bus.port import Event
    from chatd.metrics import Metrics
    from chatd.store.database import Database, Params, Row, Transaction
    from chatd.store.queries import Queries

log = telemetry.get_logger(__name__)

#: Events after which there is something to read.
_FOLLOWED: Final = frozenset({"new_message", "message_edited", "message_deleted"})
#: Messages and rooms that one transaction adds: few, for on SQLite the journal waits while they are added.
BATCH: Final = 50
#: Characters after which a transaction adds no more messages: long ones would hold up the journal for seconds.
BATCH_LENGTH: Final = 200_000
#: Changed messages that one transaction reads again, and their characters: their words are made while it lasts.
CHANGES: Final = 50
CHANGES_LENGTH: Final = 20_000
#: Seconds of making words after which others have their turn.
SLICE_S: Final = 0.001
ROOMS_AT_ONCE: Final = 200
#: Seconds until what is new is read: more at once costs less.
PAUSE_S: Final = 0.5
#: Seconds between two transactions at least.
LET_OTHERS_S: Final = 0.01
#: Seconds between two looks for rooms that a node left behind which is gone.
LOOK_S: Final = 60.0
#: Seconds between two tries while the database is out.
RETRY_S: Final = 1.0
#: Rooms that are found to be behind by one query.
PAGE: Final = 1000


class _Stretch(NamedTuple):
    """The seqs of a room behind `after` up to `until`, which are to be read; `number` is the room's in the index."""

    number: int
    room_id: str
    after: int
    until: int

    def before(self, number: int, seq: int) -> _Stretch:
        """As much of it as stands before a place in the order of rooms and seqs."""
        if self.number < number:
            return self
        return self._replace(until=min(self.until, seq - 1) if self.number == number else self.after)


class _Batch(NamedTuple):
    """What is to be added, the rooms of which nothing is left then, and those that the index does not know yet."""

    stretches: Sequence[_Stretch]
    messages: Sequence[Row]
    done: Sequence[str]
    new_rooms: Sequence[str]


class _Round(NamedTuple):
    """What a transaction did: how much it read, the rooms of which nothing is left, whether there is more to read."""

    read: int
    done: Sequence[str]
    has_more: bool


class SearchIndex:
    """Follows what is published. Made by `open_search_index`."""

    def __init__(
        self, database: Database, queries: Queries, metrics: Metrics, *, per_second: int, is_on: Callable[[], bool]
    ) -> None:
        self._database = database
        self._queries = queries
        self._metrics = metrics
        self._per_second = per_second
        self._is_on = is_on
        # Rooms with something to read, by when that was first known; the oldest first.
        self._behind: dict[str, float] = {}
        # Messages that are read at once: fewer while they are long.
        self._batch = BATCH
        self._arrived = trio.Event()

    def note(self, event: Event) -> None:
        """Have what was published read soon, or have it seen that the index is switched off."""
        if event.kind in _FOLLOWED and event.room_id not in self._behind:
            if self._is_on():
                self._behind[event.room_id] = trio.current_time()
            self._arrived.set()

    async def _follow(self) -> None:
        next_look = trio.current_time()
        is_waiting = False
        while True:
            if not self._is_on():
                # Where the index is then is found by the next look.
                next_look = trio.current_time()
                await trio.sleep(RETRY_S)
                continue
            try:
                if trio.current_time() >= next_look:
                    await self._look()
                    next_look = trio.current_time() + LOOK_S
                rounds = await self._read_round()
                is_waiting = False
            except (Refusal, Conflict) as fault:
                if not is_waiting:
                    log.warning("search_index_failed", detail=str(fault))
                is_waiting = True
                await trio.sleep(RETRY_S)
                continue
            except Exception:
                # A defect: what it is about is not found, and nobody's conversation ends for that.
                log.exception("search_index_failed")
                await trio.sleep(LOOK_S)
                continue
            oldest = next(iter(self._behind.values()), None)
            self._metrics.search_lag_seconds.set(0 if oldest is None else trio.current_time() - oldest)
            is_done = not self._behind and not rounds.has_more
            await trio.sleep(max(rounds.read / self._per_second, PAUSE_S if is_done else LET_OTHERS_S))
            if is_done and not self._behind:
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
            result = await self._read_on(list(since))
            done = result.done
            return result
        finally:
            left = {room_id: at for room_id, at in since.items() if room_id not in done}
            self._behind = left | {room_id: at for room_id, at in self._behind.items() if room_id not in left}

    async def _read_on(self, room_ids: Sequence[str]) -> _Round:
        """Read rooms on from where the index is, so far as one batch goes, and read again what has changed."""
        batch = await self._database.read(lambda tx: self._read_new(tx, room_ids))
        if batch.new_rooms:
            rooms: Params = {"rooms": _json(batch.new_rooms)}
            await self._database.transaction(lambda tx: tx.run(self._queries["search.add_rooms"], rooms))
        entries = await self._entries(batch.messages)
        # What a power cut takes from the index is read again.
        return await self._database.transaction(lambda tx: self._write(tx, batch, entries), is_lasting=False)

    async def _entries(self, messages: Sequence[Row]) -> list[list[object]]:
        """Messages with their words: what takes long is done in slices, before anybody has to wait for it.

        On the loop, not in the database's thread: there it would hold the interpreter for 5 ms at a time.
        """
        entries = []
        began = time.perf_counter()
        for message in messages:
            entries.append(self._entry(message))
            if time.perf_counter() - began > SLICE_S:
                await trio.lowlevel.checkpoint()
                began = time.perf_counter()
        return entries

    async def _read_new(self, tx: Transaction, room_ids: Sequence[str]) -> _Batch:
        """What is to be added."""
        stretches, unfinished, new_rooms = [], set(), []
        free = self._batch
        wanted: Params = {"rooms": _json(room_ids)}
        for room_id, number, indexed_seq, last_seq in await tx.rows(self._queries["search.positions"], wanted):
            if number is None:
                new_rooms.append(room_id)
                unfinished.add(room_id)
                continue
            until = min(last_seq, indexed_seq + free)
            if until > indexed_seq:
                stretches.append(_Stretch(number, room_id, indexed_seq, until))
                free -= until - indexed_seq
            if until < last_seq:
                unfinished.add(room_id)
        unread: Params = {"stretches": _json(stretches)}
        messages = sorted(await tx.rows(self._queries["search.unread"], unread))
        if (count := _count_within([message[4] for message in messages], BATCH_LENGTH)) < len(messages):
            first_left = messages[count][:2]
            unfinished |= {stretch.room_id for stretch in stretches if (stretch.number, stretch.until) >= first_left}
            stretches = [cut for stretch in stretches if (cut := stretch.before(*first_left)).until > cut.after]
        self._batch = min(2 * count, BATCH) if count else BATCH
        done = [room_id for room_id in room_ids if room_id not in unfinished]
        return _Batch(stretches, messages[:count], done, new_rooms)

    async def _write(self, tx: Transaction, batch: _Batch, entries: Sequence[Sequence[Any]]) -> _Round:
        """Add a batch, unless another node was quicker, and after it what has changed since it was added or read."""
        locked = await tx.row(self._queries["search.lock"], {})
        if locked is None or not locked[0]:
            # Another node is at it.
            return _Round(0, (), has_more=True)
        read, done = 0, batch.done
        if batch.stretches:
            where: Params = {"rooms": _json([stretch.room_id for stretch in batch.stretches])}
            positions = {row[1]: row[2] for row in await tx.rows(self._queries["search.positions"], where)}
            stretches = [stretch for stretch in batch.stretches if positions.get(stretch.number) == stretch.after]
            numbers = {stretch.number for stretch in stretches}
            await self._add(tx, [entry for entry in entries if entry[0] in numbers])
            heads: Params = {"heads": _json([(stretch.number, stretch.until) for stretch in stretches])}
            await tx.run(self._queries["search.advance"], heads)
            read = sum(stretch.until - stretch.after for stretch in stretches)
            lost = {stretch.room_id for stretch in batch.stretches if stretch.number not in numbers}
            done = [room_id for room_id in batch.done if room_id not in lost]
        changed, has_more = await self._read_changes(tx)
        return _Round(read + changed, done, has_more=has_more or bool(batch.new_rooms))

    async def _read_changes(self, tx: Transaction) -> tuple[int, bool]:
        """Read again what has changed and is in the index; the number of changes, and whether there may be more."""
        found = await tx.rows(self._queries["search.changed"], {"limit": CHANGES})
        changes = found[: _count_within([change[6] for change in found], CHANGES_LENGTH)]
        if changes:
            places: Params = {"places": _json([(change[2], change[3]) for change in changes])}
            await tx.run(self._queries["search.remove"], places)
            # A transaction may wait for nothing but its database; they are few.
            await self._add(tx, [self._entry(change[2:]) for change in changes if change[1] is None])
            done: Params = {"places": _json([(change[0], change[3]) for change in changes])}
            await tx.run(self._queries["search.forget_changes"], done)
        return len(changes), len(found) == CHANGES or len(changes) < len(found)

    async def _add(self, tx: Transaction, entries: Sequence[Sequence[Any]]) -> None:
        # In the order of the index, which makes parts of what is not in order.
        in_order = sorted(entries, key=lambda entry: (entry[0], entry[1]))
        await tx.run(self._queries["search.add"], {"entries": _json(in_order)})

    def _entry(self, row: Sequence[Any]) -> list[object]:
        number, seq, sender_id, created_at, content = row
        return entry_of(
            self._database.dialect, number, seq, sender_id=sender_id, created_at=created_at, content=content
        )


def _count_within(texts: Sequence[str], length: int) -> int:
    """How many of the first texts have so many characters together; one at least."""
    for count, text in enumerate(texts):
        length -= len(text)
        if length < 0:
            return max(count, 1)
    return len(texts)


def _json(rows: object) -> str:
    return encode_json(rows).decode()


@asynccontextmanager
async def open_search_index(
    database: Database,
    queries: Queries,
    *,
    metrics: Metrics,
    per_second: int = 2000,
    is_on: Callable[[], bool] = lambda: True,
) -> AsyncIterator[SearchIndex]:
    """An index that follows for as long as the block lasts; what it has not read then is read after the next start.

    At most `per_second` messages are read, none while `is_on` says no.
    """
    index = SearchIndex(database, queries, metrics, per_second=per_second, is_on=is_on)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(index._follow)
        yield index
        nursery.cancel_scope.cancel()
