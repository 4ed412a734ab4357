"""Commits beside each other: several of one journal, and several journals on one database, as nodes have them.

What they must never do is to turn the order of a room round, to store something twice, or to let one wait for another's
rooms.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from io import StringIO
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
import trio.testing

from chatd import telemetry
from chatd.clock import wall_clock_ms
from chatd.errors import Refusal, Unavailable
from chatd.store.database import Conflict
from chatd.store.entries import Stored
from chatd.store.journal import CONFLICT_TRIES, Journal, JournalOptions, open_journal
from chatd.store.queries import Query
from tests.logs import own_logging
from tests.stores import KINDS, Store, Written, join, leave, open_store, post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from chatd.bus.port import Event
    from chatd.store.accounts import Account
    from chatd.store.database import Database, Dialect, Params, Row, Work
    from chatd.store.entries import Entry, Outcome

T = TypeVar("T")

CONTENTS = Query("test.contents", "SELECT content FROM messages WHERE room_id = :room_id ORDER BY seq")
SEQS = Query(
    "test.seqs",
    "SELECT seq FROM messages WHERE room_id = :room_id UNION ALL SELECT seq FROM room_events WHERE room_id = :room_id",
)
HEAD = Query("test.head", "SELECT last_seq, message_count, member_count FROM rooms WHERE id = :room_id")
MESSAGES = Query("test.messages", "SELECT COUNT(*) FROM messages WHERE room_id = :room_id")
MEMBERS = Query("test.members", "SELECT COUNT(*) FROM room_members WHERE room_id = :room_id")


class Held:
    """A transaction that waits until the test lets it go, or fails it with `fault`."""

    def __init__(self) -> None:
        self.fault: Exception | None = None
        self._may_go = trio.Event()
        self._is_over = trio.Event()

    async def wait_turn(self) -> None:
        await self._may_go.wait()
        if self.fault is not None:
            raise self.fault

    def end(self) -> None:
        self._is_over.set()

    async def let_go(self, fault: Exception | None = None) -> None:
        """Let it go and wait for its end."""
        self.fault = fault
        self._may_go.set()
        await self._is_over.wait()


class HeldDatabase:
    """A database whose transactions the test lets go one by one, in whatever order it likes."""

    def __init__(self, behind: Database) -> None:
        self._behind = behind
        self.dialect: Dialect = behind.dialect
        self.held: list[Held] = []

    async def rows(self, query: Query, params: Params) -> list[Row]:
        return await self._behind.rows(query, params)

    async def row(self, query: Query, params: Params) -> Row | None:
        return await self._behind.row(query, params)

    async def read(self, work: Work[T]) -> T:
        return await self._behind.read(work)

    async def write(self, query: Query, params: Params) -> Row | None:
        async with self._held():
            return await self._behind.write(query, params)

    async def transaction(self, work: Work[T], *, is_lasting: bool = True) -> T:
        async with self._held():
            return await self._behind.transaction(work, is_lasting=is_lasting)

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[None]:
        held = Held()
        self.held.append(held)
        try:
            await held.wait_turn()
            yield
        finally:
            held.end()

    async def wait_held(self, count: int) -> None:
        while len(self.held) < count:  # noqa: ASYNC110 - a commit begins beside another one after a while
            await trio.sleep(0.001)

    async def let_go(self, which: int, fault: Exception | None = None) -> None:
        await self.held.pop(which).let_go(fault)


async def rooms_of(store: Store, count: int) -> tuple[Account, list[str]]:
    ada = await store.add_user("ada")
    return ada, [await store.add_room(ada, name=str(number)) for number in range(count)]


@asynccontextmanager
async def journal_on(
    held: HeldDatabase, store: Store, written: Written, *, committers: int, max_entries: int = 500
) -> AsyncIterator[Journal]:
    options = JournalOptions(committers=committers, max_entries=max_entries)
    with trio.fail_after(60):
        async with open_journal(
            held, store.queries, options, clock=wall_clock_ms, metrics=written.metrics, publish=written.publish
        ) as journal:
            yield journal


@pytest.mark.parametrize("seed", range(12))
async def test_whichever_commit_ends_first_each_room_keeps_its_order(store: Store, seed: int) -> None:
    """Entries come in bursts, up to three commits run at once and end in any order, some of them fail."""
    dice = random.Random(seed)
    ada, rooms = await rooms_of(store, 4)
    held, written = HeldDatabase(store.database), Written()
    appended: dict[str, list[str]] = {room_id: [] for room_id in rooms}
    async with journal_on(held, store, written, committers=3, max_entries=5) as journal:
        for number in range(40):
            for _ in range(dice.choice([0, 1, 1, 6])):
                name, room_id = f"{number}.{len(written.steps)}.{dice.random()}", dice.choice(rooms)
                entry = post(ada, room_id, name)
                entry.settle = written.settle(name)
                journal.append(entry)
                appended[room_id].append(name)
            # time for one, two or three commits to begin
            await trio.sleep(dice.choice([0, 0.006, 0.012]))
            if held.held and dice.random() < 0.7:
                out = Unavailable("The test has cut the line.") if dice.random() < 0.15 else None
                await held.let_go(dice.randrange(len(held.held)), out)
        while len(written.outcomes) < sum(map(len, appended.values())):
            if held.held:
                await held.let_go(0)
            await trio.sleep(0.001)
    refused = 0
    for room_id, names in appended.items():
        stored = [name for name in names if isinstance(written.outcomes[name], Stored)]
        refused += len(names) - len(stored)
        assert [row[0] for row in await store.database.rows(CONTENTS, {"room_id": room_id})] == stored
        assert [outcome.seq for name in stored if isinstance(outcome := written.outcomes[name], Stored)] == [
            *range(1, len(stored) + 1)
        ]
        told = [step.removeprefix("settled ") for step in written.steps if step.removeprefix("settled ") in set(stored)]
        assert told == stored
        assert [event.seq for event in written.published if event.room_id == room_id] == [*range(1, len(stored) + 1)]
    assert len(written.published) + refused == len(written.outcomes)


async def test_a_commit_that_is_held_up_holds_up_its_own_rooms_only(store: Store) -> None:
    ada, (first, second) = await rooms_of(store, 2)
    held, written = HeldDatabase(store.database), Written()
    async with journal_on(held, store, written, committers=2) as journal, trio.open_nursery() as nursery:
        nursery.start_soon(journal.write, post(ada, first, "held up"))
        await held.wait_held(1)
        nursery.start_soon(journal.write, post(ada, first, "behind it"))
        nursery.start_soon(journal.write, post(ada, second, "beside it"))
        await held.wait_held(2)
        await held.let_go(1)
        assert await store.database.rows(CONTENTS, {"room_id": second}) == [("beside it",)]
        assert await store.database.rows(CONTENTS, {"room_id": first}) == []
        assert (len(held.held), journal.waiting) == (1, 1)
        await held.let_go(0)
        await held.wait_held(1)
        await held.let_go(0)
    assert await store.database.rows(CONTENTS, {"room_id": first}) == [("held up",), ("behind it",)]


async def test_a_room_with_more_than_fits_waits_behind_all_others(store: Store) -> None:
    ada, (busy, quiet) = await rooms_of(store, 2)
    held, written = HeldDatabase(store.database), Written()
    async with journal_on(held, store, written, committers=1, max_entries=3) as journal, trio.open_nursery() as nursery:
        for number in range(7):
            entry = post(ada, busy, str(number))
            entry.settle = written.settle(str(number))
            journal.append(entry)
        await held.wait_held(1)
        nursery.start_soon(journal.write, post(ada, quiet, "in between"))
        await trio.testing.wait_all_tasks_blocked()
        await held.let_go(0)
        await held.wait_held(1)
        await held.let_go(0)
        assert await store.database.rows(CONTENTS, {"room_id": quiet}) == [("in between",)]
        assert len(await store.database.rows(CONTENTS, {"room_id": busy})) == 5
        await held.wait_held(1)
        await held.let_go(0)
    assert await store.database.rows(CONTENTS, {"room_id": busy}) == [(str(number),) for number in range(7)]


@pytest.mark.parametrize("conflicts", [CONFLICT_TRIES - 1, CONFLICT_TRIES])
async def test_an_entry_that_conflicts_is_looked_at_again_before_it_is_refused(store: Store, conflicts: int) -> None:
    ada, (room_id,) = await rooms_of(store, 1)
    held, written = HeldDatabase(store.database), Written()
    async with journal_on(held, store, written, committers=1) as journal:
        entry = post(ada, room_id)
        entry.settle = written.settle("a")
        journal.append(entry)
        for _ in range(conflicts):
            await held.wait_held(1)
            await held.let_go(0, Conflict("another node was first"))
        if conflicts < CONFLICT_TRIES:
            await held.wait_held(1)
            await held.let_go(0)
        await written.wait_settled("a")
    outcome = written.outcomes["a"]
    assert isinstance(outcome, Stored if conflicts < CONFLICT_TRIES else Refusal)


async def test_an_outage_is_logged_once_and_each_new_one_again(store: Store) -> None:
    ada, (room_id,) = await rooms_of(store, 1)
    stream = StringIO()
    with own_logging():
        telemetry.configure_logging("info", "json", stream)
        async with store.open_journal() as written:
            for _ in range(2):
                store.database.outages = 5
                for _ in range(5):
                    with pytest.raises(Unavailable):
                        await written.journal.write(post(ada, room_id))
                await written.journal.write(post(ada, room_id))
    assert stream.getvalue().count("commit_failed") == stream.getvalue().count("\n") == 2
    assert "Traceback" not in stream.getvalue()


# Nodes


async def run_nodes(kind: str, folder: Path, run_node: Callable[[Store, int], Awaitable[None]]) -> None:
    """Run three nodes on one database, each numbered and with a loop and a pool of its own."""

    async def run(number: int) -> None:
        async with open_store(kind, folder) as store:
            await run_node(store, number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(run, number)


async def check_room(store: Store, room_id: str) -> None:
    """Seqs without holes, and counts that are true."""
    head = await store.database.row(HEAD, {"room_id": room_id})
    seqs = sorted(row[0] for row in await store.database.rows(SEQS, {"room_id": room_id}))
    messages = await store.database.row(MESSAGES, {"room_id": room_id})
    members = await store.database.row(MEMBERS, {"room_id": room_id})
    assert messages is not None
    assert members is not None
    assert seqs == [*range(1, len(seqs) + 1)]
    assert head == (len(seqs), messages[0], members[0])


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_sent_to_every_node_at_once_is_stored_once(kind: str, tmp_path: Path) -> None:
    async with open_store(kind, tmp_path) as store:
        ada, rooms = await rooms_of(store, 3)
        keys = [str(number) for number in range(40)]
        answers: dict[str, list[Stored]] = {key: [] for key in keys}

        async def send(written: Written, number: int, key: str) -> None:
            message = post(ada, rooms[number % 3], key, client_message_id=key, request_hash=key)
            answers[key].append(await written.journal.write(message))

        async def run_node(node: Store, seed: int) -> None:
            async with node.open_journal(JournalOptions(committers=2)) as written, trio.open_nursery() as nursery:
                order = list(enumerate(keys))
                random.Random(seed).shuffle(order)
                for number, key in order:
                    nursery.start_soon(send, written, number, key)
                    await trio.sleep(0.0005)

        await run_nodes(kind, tmp_path, run_node)
        for told in answers.values():
            assert sorted(stored.duplicate for stored in told) == [False, True, True]
            assert len({stored._replace(duplicate=False) for stored in told}) == 1
        for room_id in rooms:
            await check_room(store, room_id)


@pytest.mark.parametrize("kind", KINDS)
async def test_who_comes_and_goes_on_every_node_at_once_is_counted_right(kind: str, tmp_path: Path) -> None:
    async with open_store(kind, tmp_path) as store:
        ada, rooms = await rooms_of(store, 2)
        users = [await store.add_user(f"user{number}") for number in range(6)]
        outcomes: list[Outcome] = []
        published: list[Event] = []

        async def run_node(node: Store, seed: int) -> None:
            dice = random.Random(seed)

            async def act(written: Written) -> None:
                user, room_id = dice.choice(users), dice.choice(rooms)
                choices: list[Entry] = [join(user, room_id), leave(user, room_id), post(ada, room_id)]
                outcomes.append(await written.journal.write(dice.choice(choices)))

            async with node.open_journal(JournalOptions(committers=2)) as written, trio.open_nursery() as nursery:
                for _ in range(60):
                    nursery.start_soon(act, written)
                    await trio.sleep(0.0005)
            published.extend(written.published)

        await run_nodes(kind, tmp_path, run_node)
        assert len(outcomes) == 180
        for room_id in rooms:
            await check_room(store, room_id)
            row = await store.database.row(HEAD, {"room_id": room_id})
            assert row is not None
            # Each event was published by the one node that stored it.
            seqs = sorted(event.seq for event in published if event.room_id == room_id)
            assert seqs == [*range(1, row[0] + 1)]
