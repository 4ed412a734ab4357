"""The journal: every durable change of a room goes through here, and one commit takes all that waits.

While a batch is being made durable the next one gathers, so that load makes commits larger and not more numerous; with
no load a message is committed at once. Several commits may run at once, each for rooms that no other has in hand, so
that each room keeps its order. After the commit each entry is settled (that is when a sender gets its
acknowledgement, never before), then the events are published. The database numbers them: `rooms.last_seq` is raised in
the transaction that stores them, so that seqs have no holes whatever happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.bus.port import Event
from chatd.errors import Refusal, Unavailable
from chatd.store.acts import Act
from chatd.store.batches import Batches
from chatd.store.database import Conflict, Database
from chatd.store.entries import Entry, Outcome, Post, Stored

if TYPE_CHECKING:
    from chatd.clock import Clock
    from chatd.metrics import Metrics
    from chatd.store.queries import Queries

log = telemetry.get_logger(__name__)

Publish = Callable[[Sequence[Event]], None]


#: How often an entry is tried that breaks a rule of the database: another node may have stored the same meanwhile, and
#: then the next look finds it.
CONFLICT_TRIES: Final = 3
#: What an act counts in a commit: it has statements of its own, while messages share theirs. So a commit ends in time.
ACT_WEIGHT: Final = 50
#: Entries that a commit may have however often the ones before have failed.
FEWEST_ENTRIES: Final = 8
#: Seconds that a commit may take before another one begins beside it: few large commits cost less than many small ones.
BESIDE_AFTER_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """At most `max_waiting` entries wait, at most `max_entries` are in one commit; `max_members` a room, 0 for any.

    Who would add one too many waits `space_s` for space. An act counts as many of them. A commit takes no further
    message once it has `max_characters`. Each that is not done in time halves what the next ones may have, until they
    succeed again. At most `committers` run at once: more than one only where the database takes several writers.
    """

    max_waiting: int = 10_000
    space_s: float = 5.0
    max_entries: int = 500
    max_characters: int = 500_000
    max_members: int = 0
    committers: int = 1


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
        self._options = options
        self._batches = Batches(database, queries, max_members=options.max_members)
        self._clock = clock
        self._metrics = metrics
        self._publish = publish
        self._after_batch = after_batch
        # What waits, by room; the rooms of it that no commit has in hand, and those that one has.
        self._waiting: dict[str, deque[Entry | Act]] = {}
        self._waiting_count = 0
        self._without_space = trio.lowlevel.ParkingLot()
        self._ready: deque[str] = deque()
        self._in_hand: set[str] = set()
        self._arrived = trio.Event()
        self._given_back = trio.Event()
        # Batches that are over and of which nobody has been told yet.
        self._over: deque[tuple[Sequence[Entry | Act], Sequence[Outcome], Sequence[Event]]] = deque()
        self._committed = trio.Event()
        self._committing = options.committers
        self._closing = False
        self._is_failing = False
        self._most_entries = options.max_entries
        # Ids and times never go back, even if the clock does.
        self._last_ms = 0

    async def wait_for_space(self) -> None:
        """Wait until one more may be appended, but not for longer than `space_s`.

        A connection that waits here is not read: so those who send too much are slowed down before any is refused.
        """
        if self._is_full() and not self._closing:
            with trio.move_on_after(self._options.space_s):
                while self._is_full() and not self._closing:
                    await self._without_space.park()

    def _is_full(self) -> bool:
        return self._waiting_count >= self._options.max_waiting

    def append(self, entry: Entry | Act) -> None:
        """Queue an entry; `entry.settle` is called once with what became of it.

        Entries of a room keep their order. Raises `Refusal` (`overloaded`) when too many wait, `Unavailable` when the
        daemon is stopping; the entry is not queued then.
        """
        if self._closing:
            raise Unavailable("The server is stopping; reconnect in a moment and send it again.")
        if self._is_full() and not _is_own(entry):
            raise Refusal("overloaded", "Too much is waiting to be stored; try again.", retry_after_ms=1000)
        self._waiting_count += 1
        room_id = entry.room_id
        waiting = self._waiting.get(room_id)
        if waiting is not None:
            waiting.append(entry)
            return
        self._waiting[room_id] = deque((entry,))
        if room_id not in self._in_hand:
            self._ready.append(room_id)
            self._arrived.set()

    async def write(self, entry: Entry | Act) -> Stored:
        """Append an entry once there is space, and wait for what becomes of it: cancelling does not take it back."""
        settled = trio.Event()
        outcomes: list[Outcome] = []

        def settle(outcome: Outcome) -> None:
            outcomes.append(outcome)
            settled.set()

        entry.settle = settle
        await self.wait_for_space()
        self.append(entry)
        await settled.wait()
        if isinstance(outcomes[0], Refusal):
            raise outcomes[0]
        return outcomes[0]

    @property
    def waiting(self) -> int:
        return self._waiting_count

    def bound_members(self, max_members: int) -> None:
        """From the next batch on let each room have at most so many members, 0 for any number."""
        self._batches.max_members = max_members

    async def _commit_all(self) -> None:
        """One commit after the other, the next one begun before what became of the last one is told."""
        while self._ready or not self._closing:
            await self._arrived.wait()
            if self._in_hand:
                with trio.move_on_after(BESIDE_AFTER_S):
                    await self._given_back.wait()
            entries = self._take()
            if not self._ready and not self._closing and self._arrived.is_set():
                self._arrived = trio.Event()
            if entries:
                await self._commit(entries)
                self._give_back(dict.fromkeys(entry.room_id for entry in entries))
        self._committing -= 1
        self._committed.set()

    def _take(self) -> list[Entry | Act]:
        """The next batch: rooms in the order in which they began to wait, each with all that fits."""
        entries: list[Entry | Act] = []
        free, characters = self._most_entries, self._options.max_characters
        while self._ready and free > 0 and characters > 0:
            room_id = self._ready.popleft()
            self._in_hand.add(room_id)
            waiting = self._waiting[room_id]
            while waiting and free > 0 and characters > 0:
                entry = waiting.popleft()
                entries.append(entry)
                free -= ACT_WEIGHT if isinstance(entry, Act) else 1
                if isinstance(entry, Post):
                    characters -= len(entry.content)
            if not waiting:
                del self._waiting[room_id]
        self._waiting_count -= len(entries)
        if self._without_space and not self._is_full():
            self._without_space.unpark(count=self._options.max_waiting - self._waiting_count)
        return entries

    def _give_back(self, room_ids: Iterable[str]) -> None:
        """Let others commit these rooms; those with more to commit stand behind all that are ready."""
        self._in_hand.difference_update(room_ids)
        self._given_back.set()
        self._given_back = trio.Event()
        self._ready.extend(room_id for room_id in room_ids if room_id in self._waiting)
        if self._ready:
            self._arrived.set()

    async def _commit(self, entries: Sequence[Entry | Act], *, tries: int = CONFLICT_TRIES) -> None:
        """Store a batch, or, if there is something wrong with one of its entries, each alone."""
        began = trio.current_time()
        try:
            numbered = await self._batches.store(entries, now_ms=self._now_ms())
        except Unavailable as out:
            if not self._is_failing:
                log.warning("commit_failed", entries=len(entries), detail=out.detail)
            self._is_failing = True
            self._most_entries = max(self._most_entries // 2, min(FEWEST_ENTRIES, self._options.max_entries))
            self._tell(entries, [out] * len(entries))
        except Exception as fault:
            is_conflict = isinstance(fault, Conflict)
            if len(entries) > 1:
                for entry in entries:
                    await self._commit([entry])
            elif is_conflict and tries > 1:
                await self._commit(entries, tries=tries - 1)
            elif isinstance(fault, Refusal):
                self._tell(entries, [fault])
            else:
                log.exception("entry_refused", room=entries[0].room_id)
                detail = "This cannot be stored; nothing has changed."
                self._tell(entries, [Refusal("conflict" if is_conflict else "internal", detail)])
        else:
            self._is_failing = False
            self._most_entries = min(2 * self._most_entries, self._options.max_entries)
            if len(entries) > 1 or not _is_own(entries[0]):
                self._metrics.commit_seconds.observe(trio.current_time() - began)
                self._metrics.commit_entries.observe(len(entries))
                self._metrics.commits.inc()
            self._tell(entries, numbered.outcomes, numbered.events)

    def _tell(self, entries: Sequence[Entry | Act], outcomes: Sequence[Outcome], events: Sequence[Event] = ()) -> None:
        """Tell what became of a batch: at once if nothing waits, else in `_settle_all`, beside the next commit."""
        if self._ready or self._over:
            self._over.append((entries, outcomes, events))
            self._committed.set()
        else:
            self._settle(entries, outcomes, events)

    async def _settle_all(self) -> None:
        """Batches in the order of their commits: first each entry is settled, then the events are published."""
        while self._over or self._committing:
            await self._committed.wait()
            self._committed = trio.Event()
            while self._over:
                self._settle(*self._over.popleft())

    def _settle(self, entries: Sequence[Entry | Act], outcomes: Sequence[Outcome], events: Sequence[Event]) -> None:
        for entry, outcome in zip(entries, outcomes, strict=True):
            try:
                entry.settle(outcome)
            except Exception:
                # Whoever asked cannot be told; that is no reason to tell nobody.
                log.exception("settle_failed", room=entry.room_id)
        try:
            if events:
                self._publish(events)
        except Exception:
            # They are stored: what was not published is found by the next comparison of positions.
            log.exception("publish_failed", events=len(events))
        self._after_batch()

    def _now_ms(self) -> int:
        self._last_ms = max(self._clock(), self._last_ms)
        return self._last_ms


def _is_own(entry: Entry | Act) -> bool:
    """Whether it is the canary's: nobody's, and to get through also where too much waits."""
    return isinstance(entry, Act) and entry.head is not None


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
        for _ in range(options.committers):
            nursery.start_soon(journal._commit_all)
        nursery.start_soon(journal._settle_all)
        try:
            yield journal
        finally:
            journal._closing = True
            journal._without_space.unpark_all()
            journal._arrived.set()
