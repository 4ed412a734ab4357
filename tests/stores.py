"""Stores for tests: every adapter of the database port under its name, and what is kept in it as short calls.

A test that asks for `database` gets an empty one of each kind in turn, one that asks for `store` gets it migrated and
with all typed calls. Another adapter is one more line in `KINDS`.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio

from chatd.asyncio_loop import open_asyncio_loop
from chatd.clock import wall_clock_ms
from chatd.errors import Unavailable
from chatd.ids import new_id
from chatd.metrics import Metrics
from chatd.store.accounts import Account, Accounts
from chatd.store.entries import MembershipChange, Outcome, Post
from chatd.store.facts import Facts
from chatd.store.journal import Journal, JournalOptions, open_journal
from chatd.store.messages import Messages
from chatd.store.migrations import migrate, read_migrations
from chatd.store.postgres import open_postgres
from chatd.store.queries import Queries, Query
from chatd.store.rooms import NewRoom, Rooms
from chatd.store.sqlite import open_sqlite
from tests.counting import CountedDatabase
from tests.servers import shared_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from chatd.bus.port import Event
    from chatd.clock import Clock
    from chatd.store.database import Database, Dialect, Params, Row, Work

T = TypeVar("T")

OPTIONS = JournalOptions()


class GatedDatabase:
    """A database whose writing a test can hold up, and make fail. Open, it is the database behind it."""

    def __init__(self, behind: Database) -> None:
        self._behind = behind
        self.dialect: Dialect = behind.dialect
        self._may_write = trio.Event()
        self._may_write.set()
        self.outages = 0
        #: Transactions that came to the gate, and those among them that are a single statement.
        self.writes = 0
        self.single_writes = 0

    def shut(self) -> None:
        """Hold up every transaction that begins from now on."""
        self._may_write = trio.Event()

    def open(self) -> None:
        self._may_write.set()

    async def rows(self, query: Query, params: Params) -> list[Row]:
        return await self._behind.rows(query, params)

    async def row(self, query: Query, params: Params) -> Row | None:
        return await self._behind.row(query, params)

    async def read(self, work: Work[T]) -> T:
        return await self._behind.read(work)

    async def write(self, query: Query, params: Params) -> Row | None:
        """As `transaction`, behind the same gate."""
        self.single_writes += 1
        await self._pass()
        return await self._behind.write(query, params)

    async def transaction(self, work: Work[T], *, is_lasting: bool = True) -> T:
        """Run work behind the gate. Raises `Unavailable` instead for as many times as `outages` says."""
        await self._pass()
        return await self._behind.transaction(work, is_lasting=is_lasting)

    async def _pass(self) -> None:
        self.writes += 1
        await self._may_write.wait()
        if self.outages:
            self.outages -= 1
            raise Unavailable("The test has cut the line.")


def _sqlite(folder: Path) -> AbstractAsyncContextManager[Database]:
    return open_sqlite(folder / "chatd.db", readers=2)


@cache
def _name_in_postgres(folder: Path) -> str:
    """The database that stands for a folder, so that opening the folder again opens the same one."""
    return shared_postgres().new_database()


@asynccontextmanager
async def _postgres(folder: Path) -> AsyncIterator[Database]:
    url = shared_postgres().url(_name_in_postgres(folder))
    async with open_asyncio_loop(), open_postgres(url, pool_min=1, pool_max=3, timeout_s=10) as opened:
        yield opened


@asynccontextmanager
async def _gated(folder: Path) -> AsyncIterator[Database]:
    async with _sqlite(folder) as behind:
        yield GatedDatabase(behind)


@asynccontextmanager
async def _counted(folder: Path) -> AsyncIterator[Database]:
    async with _sqlite(folder) as behind:
        yield CountedDatabase(behind, Counter())


#: How an empty database of each kind is opened in a folder.
KINDS: dict[str, Callable[[Path], AbstractAsyncContextManager[Database]]] = {"sqlite": _sqlite, "postgres": _postgres}
#: With those that tests put before a real one: they pass the same suite.
WITH_FAKES = {**KINDS, "gated": _gated, "counted": _counted}


@dataclass(frozen=True)
class Store:
    """A migrated database with every typed call."""

    database: GatedDatabase
    queries: Queries
    accounts: Accounts
    rooms: Rooms
    messages: Messages
    facts: Facts

    async def add_user(self, name: str) -> Account:
        account = Account(new_id(), f"{name}@example.org", name, None, None, None, "hash", 1000, None, None)
        await self.accounts.add(account, name.casefold())
        return account

    async def add_room(self, *members: Account, kind: str = "public", name: str = "room") -> str:
        """A room with these members; it has no owner."""
        room = NewRoom(new_id(), kind, name, None, None)
        await self.rooms.add(room, owner_id=None, member_ids=[member.id for member in members], now_ms=1000)
        return room.id

    @asynccontextmanager
    async def open_journal(
        self, options: JournalOptions = OPTIONS, *, clock: Clock = wall_clock_ms
    ) -> AsyncIterator[Written]:
        """A journal on this store whose doings are written down."""
        written = Written()
        async with open_journal(
            self.database, self.queries, options, clock=clock, metrics=written.metrics, publish=written.publish,
            after_batch=written.flush,
        ) as journal:  # fmt: skip
            written.journal = journal
            yield written


@dataclass
class Written:
    """A journal, what it published, and in `steps` everything it did in order."""

    journal: Journal = field(init=False)
    metrics: Metrics = field(default_factory=Metrics)
    published: list[Event] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _has_settled: trio.Event = field(default_factory=trio.Event)

    def publish(self, events: Sequence[Event]) -> None:
        self.published.extend(events)
        self.steps.append("published " + " ".join(str(event.seq) for event in events))

    def flush(self) -> None:
        self.steps.append("flushed")

    def settle(self, name: str) -> Callable[[Outcome], None]:
        """The callback of an entry that the test calls `name`."""

        def settle(outcome: Outcome) -> None:
            assert name not in self.outcomes, "an entry is settled once"
            self.outcomes[name] = outcome
            self.steps.append(f"settled {name}")
            self._has_settled.set()

        return settle

    async def wait_settled(self, *names: str) -> None:
        """Wait until these entries are settled."""
        with trio.fail_after(10):
            while not set(names) <= set(self.outcomes):
                self._has_settled = trio.Event()
                await self._has_settled.wait()


def ignore(outcome: Outcome) -> None:
    """The callback of an entry for `Journal.write`, which puts its own in its place."""


def post(sender: Account, room_id: str, content: str = "hello", **fields: object) -> Post:
    """A message of `sender`; further fields by name."""
    return replace(Post(room_id, sender.id, sender.username, "text", content, ignore), **fields)  # type: ignore[arg-type]  # the test's own names


def join(user: Account, room_id: str, *, role: str = "member") -> MembershipChange:
    return MembershipChange(room_id, user.id, user.username, online=True, settle=ignore, role=role)


def leave(user: Account, room_id: str) -> MembershipChange:
    return MembershipChange(room_id, user.id, user.username, online=True, settle=ignore)


@asynccontextmanager
async def open_store(kind: str, folder: Path) -> AsyncIterator[Store]:
    """A migrated database of a kind, its writing behind a gate that is open."""
    async with KINDS[kind](folder) as behind:
        database = GatedDatabase(behind)
        queries = Queries(database.dialect)
        await migrate(database, queries, read_migrations(database.dialect))
        yield Store(
            database,
            queries,
            Accounts(database, queries),
            Rooms(database, queries),
            Messages(database, queries),
            Facts(database, queries),
        )


@pytest.fixture(params=WITH_FAKES)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database of each kind, and of each fake."""
    async with WITH_FAKES[request.param](tmp_path) as opened:
        yield opened


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """A migrated database of each kind."""
    async with open_store(request.param, tmp_path) as opened:
        yield opened
