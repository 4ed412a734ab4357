"""The journal: every durable change of a room goes through here, and one commit takes all that waits.

While a batch is being made durable the next one gathers, so that load makes commits larger and not more numerous; with
no load a message is committed at once. After the commit each entry is settled (that is when a sender gets its
acknowledgement, never before), then the events are published. The database numbers them: `rooms.last_seq` is raised in
the transaction that stores them, so that seqs have no holes whatever happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from chatd import telemetry
from chatd.bus.port import Event
from chatd.errors import Refusal, Unavailable
from chatd.records import encode_json, parse_json
from chatd.store.database import Conflict, Database, Transaction
from chatd.store.entries import (
    Batch,
    Entry,
    Head,
    MembershipChange,
    Numbered,
    Outcome,
    Post,
    Repeat,
    Stored,
    number_batch,
    rows_of_heads,
)

if TYPE_CHECKING:
    from chatd.clock import Clock
    from chatd.metrics import Metrics
    from chatd.store.queries import Queries

log = telemetry.get_logger(__name__)

Publish = Callable[[Sequence[Event]], None]


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """At most `max_waiting` entries wait, at most `max_entries` are in one commit; `max_members` a room, 0 for any."""

    max_waiting: int = 10_000
    max_entries: int = 500
    max_members: int = 0


class Journal:
    """The way into a room's history. Made by `open_journal`."""

    def __init__(
        self,
        database: Database,
        queries: Queries,
        options: JournalOptions,
        *,
        clock: Clock,
        metrics: Metrics,
        publish: Publish,
        after_batch: Callable[[], None],
    ) -> None:
        self._database = database
        self._options = options
        self._clock = clock
        self._metrics = metrics
        self._publish = publish
        self._after_batch = after_batch
        self._heads = queries["journal.heads"]
        self._repeats = queries["journal.repeats"]
        self._memberships = queries["journal.memberships"]
        self._add_messages = queries["journal.add_messages"]
        self._add_events = queries["journal.add_events"]
        self._advance_rooms = queries["journal.advance_rooms"]
        self._add_members = queries["journal.add_members"]
        self._remove_members = queries["journal.remove_members"]
        self._waiting: list[Entry] = []
        self._arrived = trio.Event()
        # Batches that are over and of which nobody has been told yet.
        self._over: deque[tuple[Sequence[Entry], Sequence[Outcome], Sequence[Event]]] = deque()
        self._committed = trio.Event()
        self._committed_all = False
        self._closing = False
        # Ids and times never go back, even if the clock does.
        self._last_ms = 0

    def append(self, entry: Entry) -> None:
        """Queue an entry; `entry.settle` is called once with what became of it.

        Entries of one caller keep their order. Raises `Refusal` (`overloaded`) when too many wait, `Unavailable` when
        the daemon is stopping; the entry is not queued then.
        """
        if self._closing:
            raise Unavailable("The server is stopping; reconnect in a moment and send it again.")
        if len(self._waiting) >= self._options.max_waiting:
            raise Refusal("overloaded", "Too much is waiting to be stored; try again.", retry_after_ms=1000)
        self._waiting.append(entry)
        self._arrived.set()

    async def write(self, entry: Entry) -> Stored:
        """Append an entry and wait for what becomes of it. Cancelling does not take it back."""
        settled = trio.Event()
        outcomes: list[Outcome] = []

        def settle(outcome: Outcome) -> None:
            outcomes.append(outcome)
            settled.set()

        entry.settle = settle
        self.append(entry)
        await settled.wait()
        if isinstance(outcomes[0], Refusal):
            raise outcomes[0]
        return outcomes[0]

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def _commit_all(self) -> None:
        """One commit after the other, the next one begun before what became of the last one is told."""
        while self._waiting or not self._closing:
            await self._arrived.wait()
            entries = self._waiting[: self._options.max_entries]
            del self._waiting[: len(entries)]
            if not self._waiting and not self._closing:
                self._arrived = trio.Event()
            if entries:
                await self._commit(entries)
        self._committed_all = True
        self._committed.set()

    async def _commit(self, entries: Sequence[Entry]) -> None:
        """Store a batch, or, if there is something wrong with one of its entries, each alone."""
        began = trio.current_time()
        try:
            numbered = await self._database.transaction(lambda tx: self._store(tx, entries))
        except Unavailable as out:
            log.exception("commit_failed", entries=len(entries), detail=out.detail)
            self._tell(entries, [out] * len(entries))
        except Exception as fault:
            if len(entries) > 1:
                for entry in entries:
                    await self._commit([entry])
                return
            log.exception("entry_refused", room=entries[0].room_id)
            is_conflict = isinstance(fault, Conflict)
            detail = "This cannot be stored; nothing has changed."
            self._tell(entries, [Refusal("conflict" if is_conflict else "internal", detail)])
        else:
            self._metrics.commit_seconds.observe(trio.current_time() - began)
            self._metrics.commit_entries.observe(len(entries))
            self._metrics.commits.inc()
            self._tell(entries, numbered.outcomes, numbered.events)

    def _tell(self, entries: Sequence[Entry], outcomes: Sequence[Outcome], events: Sequence[Event] = ()) -> None:
        """Tell what became of a batch: at once if nothing waits, else in `_settle_all`, beside the next commit."""
        if self._waiting or self._over:
            self._over.append((entries, outcomes, events))
            self._committed.set()
        else:
            self._settle(entries, outcomes, events)

    async def _settle_all(self) -> None:
        """Batches in the order of their commits: first each entry is settled, then the events are published."""
        while self._over or not self._committed_all:
            await self._committed.wait()
            self._committed = trio.Event()
            while self._over:
                self._settle(*self._over.popleft())

    def _settle(self, entries: Sequence[Entry], outcomes: Sequence[Outcome], events: Sequence[Event]) -> None:
        for entry, outcome in zip(entries, outcomes, strict=True):
            try:
                entry.settle(outcome)
            except Exception:
                # Whoever asked cannot be told; that is no reason to tell nobody.
                log.exception("settle_failed", room=entry.room_id)
        try:
            if events:
                self._publish(events)
            self._after_batch()
        except Exception:
            # They are stored: whoever has not heard of them is told by the next repair.
            log.exception("publish_failed", events=len(events))

    async def _store(self, tx: Transaction, entries: Sequence[Entry]) -> Numbered:
        self._last_ms = now_ms = max(self._clock(), self._last_ms)
        batch = Batch(
            entries=entries,
            heads=await self._read_heads(tx, entries),
            repeats=await self._read_repeats(tx, entries),
            roles={},
            banned=frozenset(),
            max_members=self._options.max_members,
            now_ms=now_ms,
        )
        changes = [entry for entry in entries if isinstance(entry, MembershipChange)]
        if changes:
            await self._read_memberships(tx, changes, batch)
        numbered = number_batch(batch)
        if numbered.message_rows:
            await tx.run(self._add_messages, {"messages": _json(numbered.message_rows)})
        if numbered.event_rows:
            await tx.run(self._add_events, {"events": _json(numbered.event_rows)})
        if numbered.left_rows:
            await tx.run(self._remove_members, {"members": _json(numbered.left_rows)})
        if numbered.joined_rows:
            await tx.run(self._add_members, {"members": _json(numbered.joined_rows)})
        if numbered.changed_rooms:
            await tx.run(self._advance_rooms, {"heads": _json(rows_of_heads(numbered, batch.heads))})
        return numbered

    async def _read_heads(self, tx: Transaction, entries: Sequence[Entry]) -> dict[str, Head]:
        row = await tx.row(self._heads, {"rooms": _json(list({entry.room_id for entry in entries}))})
        assert row is not None
        return {room_id: Head(*head) for room_id, *head in parse_json(row[0])}

    async def _read_repeats(self, tx: Transaction, entries: Sequence[Entry]) -> dict[tuple[str, str], Repeat]:
        keys = [
            (entry.sender_id, entry.client_message_id)
            for entry in entries
            if isinstance(entry, Post) and entry.client_message_id is not None
        ]
        if not keys:
            return {}
        row = await tx.row(self._repeats, {"keys": _json(keys)})
        assert row is not None
        return {(sender, key): Repeat(*repeat) for sender, key, *repeat in parse_json(row[0])}

    async def _read_memberships(self, tx: Transaction, changes: Sequence[MembershipChange], batch: Batch) -> None:
        keys = list({(change.room_id, change.user_id) for change in changes})
        row = await tx.row(self._memberships, {"keys": _json(keys)})
        assert row is not None
        found = parse_json(row[0])
        batch.roles = {(room_id, user_id): role for room_id, user_id, role, _ in found}
        batch.banned = frozenset(
            (room_id, user_id) for room_id, user_id, _, banned_at in found if banned_at is not None
        )


def _json(rows: object) -> str:
    return encode_json(rows).decode()


@asynccontextmanager
async def open_journal(
    database: Database,
    queries: Queries,
    options: JournalOptions,
    *,
    clock: Clock,
    metrics: Metrics,
    publish: Publish,
    after_batch: Callable[[], None] = lambda: None,
) -> AsyncIterator[Journal]:
    """A journal that commits for as long as the block lasts; at its end it commits what waits and takes no more."""
    journal = Journal(
        database, queries, options, clock=clock, metrics=metrics, publish=publish, after_batch=after_batch
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal._commit_all)
        nursery.start_soon(journal._settle_all)
        try:
            yield journal
        finally:
            journal._closing = True
            journal._arrived.set()
