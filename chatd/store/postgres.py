"""PostgreSQL behind the database port: a triopg pool that is whole after any cancellation, and a breaker before it.

The one door to triopg and asyncpg. Statements are the queries' own text with `$1` for `:name`. What breaks a rule of
the schema becomes a `Conflict`, what PostgreSQL cannot do now `Unavailable`, and a deadlock is tried again. Runs on the
asyncio loop that the caller has opened (`asyncio_loop`).

Work that has begun is not cancelled but bounded: triopg's ways out are shielded and wait for the server, asyncpg's own
cancellation opens another connection and waits for that. So a connection whose time is up is cut, which nothing can
hold up; the next call then needs a new one. A server to which there is no new connection is taken as out: every call is
told so at once, while one task tries to get it back.

Source: https://www.postgresql.org/docs/15/runtime-config-client.html, https://www.postgresql.org/docs/15/errcodes-appendix.html
"""

from __future__ import annotations

import random
import re
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import asyncpg
import trio
import triopg

from chatd import telemetry
from chatd.errors import Unavailable
from chatd.store.postgres_errors import OUT, UNDONE, is_scarcity, reason_of, translate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from chatd.store.database import Database, Dialect, Params, Row, Work
    from chatd.store.queries import Queries, Query

T = TypeVar("T")

log = telemetry.get_logger(__name__)

#: Seconds between two tries to reach a server that is out, at random, so that nodes do not come back in step.
RETRY_MIN_S: Final = 0.2
RETRY_MAX_S: Final = 1.0
#: How often work is run that PostgreSQL undid for the sake of another transaction.
TRIES: Final = 4
#: Milliseconds after which the server ends a transaction whose node has stopped in its middle and holds its locks.
IDLE_IN_TRANSACTION_MS: Final = 1000
#: The server gives a statement up after this part of `timeout_s`, so that the connection need not be cut for it.
STATEMENT_SHARE: Final = 0.9
LOCK_SHARE: Final = 0.8
#: A new connection has this part of it.
CONNECT_SHARE: Final = 0.5
#: Seconds for a script: a migration of large tables takes its time.
SCRIPT_TIMEOUT_S: Final = 3600.0
LIFT_BOUNDS: Final = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0"

_PARAMETER = re.compile(r"(?<![:\w]):(?P<name>[a-z_]\w*)")


class PostgresDatabase:
    """`Database` on a PostgreSQL server. Made by `open_postgres`."""

    dialect: Dialect = "postgres"

    def __init__(self, url: str, *, pool_min: int, pool_max: int, timeout_s: float, pause_s: float = 0.0) -> None:
        self._url = url
        self._pool_min = pool_min
        self._pool_max = pool_max
        self._timeout_s = timeout_s
        self._pause_s = pause_s
        self._turns = trio.CapacityLimiter(pool_max)
        # Reading takes all connections but one, so that no commit waits for it whatever is asked.
        self._readers = trio.CapacityLimiter(max(pool_max - 1, 1))
        self._writers = trio.CapacityLimiter(pool_max)
        #: The pool, while the server is not out. Typed by nobody: triopg is published without types.
        self._pool: Any = None
        self._detail = "not connected"
        self._is_out = trio.Event()
        # Connections that are in no use, each with what gives it back to the pool.
        self._free: list[tuple[Any, Any]] = []
        # When the time of each connection in use is up.
        self._deadlines: dict[Any, float] = {}

    async def rows(self, query: Query, params: Params) -> list[Row]:
        return await self._run(lambda connection: self._statements(connection).rows(query, params), self._readers)

    async def row(self, query: Query, params: Params) -> Row | None:
        return await self._run(lambda connection: self._statements(connection).row(query, params), self._readers)

    async def read(self, work: Work[T]) -> T:
        kind = {"isolation": "repeatable_read", "readonly": True}
        return await self._run(lambda connection: self._transact(connection, work, kind), self._readers)

    async def transaction(self, work: Work[T], *, is_lasting: bool = True) -> T:
        del is_lasting  # saying so would cost a round trip, and no other transaction waits for this one
        kind = {"isolation": "read_committed"}
        return await self._run(lambda connection: self._transact(connection, work, kind), self._writers)

    async def write(self, query: Query, params: Params) -> Row | None:
        return await self._run(lambda connection: self._write(connection, query, params), self._writers)

    async def _write(self, connection: Any, query: Query, params: Params) -> Row | None:
        """One statement is a transaction of itself, and no lock of it waits for this node."""
        for _ in range(TRIES - 1):
            with suppress(*UNDONE):
                return await self._statements(connection).row(query, params)
        return await self._statements(connection).row(query, params)

    def _statements(self, connection: Any) -> _Statements:
        return _Statements(connection, self._deadlines)

    async def _transact(self, connection: Any, work: Work[T], kind: Mapping[str, object]) -> T:
        """Run work in one transaction, again if it was undone for the sake of another one."""
        for _ in range(TRIES - 1):
            with suppress(*UNDONE):
                async with connection.transaction(**kind):
                    return await work(self._statements(connection))
        async with connection.transaction(**kind):
            return await work(self._statements(connection))

    async def _run(self, unit: Callable[[Any], Awaitable[T]], turns: trio.CapacityLimiter) -> T:
        """Run a unit on a connection, when there is one. From there on nothing cancels it, and `_watch` bounds it."""
        with trio.move_on_after(self._timeout_s):
            async with turns, self._turns:
                with trio.CancelScope(shield=True):
                    return await self._use(unit)
        raise Unavailable("The database is busy; try again in a moment.")

    async def _use(self, unit: Callable[[Any], Awaitable[T]]) -> T:
        pool = self._pool
        if pool is None:
            raise self._outage()
        connection = None
        try:
            async with self._hold(pool) as connection:
                self._deadlines[connection] = trio.current_time() + self._timeout_s + self._pause_s
                try:
                    return await unit(connection)
                finally:
                    del self._deadlines[connection]
                    if not connection.is_closed() and connection.is_in_transaction():
                        connection.terminate()
        except Exception as error:
            if self._pool is not pool:
                raise self._outage() from error
            if connection is None and not is_scarcity(error):
                self._go_out(reason_of(error))
            translate(error, is_cut=connection is None or connection.is_closed())

    @asynccontextmanager
    async def _hold(self, pool: Any) -> AsyncIterator[Any]:
        """A connection of the pool, which the pool gets back only when it is closed: that crosses to asyncio twice."""
        holding, connection = await self._take_free() or (pool.acquire(), None)
        if connection is None:
            connection = await holding.__aenter__()
        try:
            yield connection
        finally:
            if connection.is_closed() or pool is not self._pool:
                await _let_go(holding)
            else:
                self._free.append((holding, connection))

    async def _take_free(self) -> tuple[Any, Any] | None:
        """A connection that is in no use and lives."""
        while self._free:
            holding, connection = self._free.pop()
            if not connection.is_closed():
                return holding, connection
            await _let_go(holding)
        return None

    def _outage(self) -> Unavailable:
        return Unavailable(f"The database is out ({self._detail}); try again in a moment.")

    def _go_out(self, detail: str) -> None:
        """Take the server as out: cut every connection, and tell every call from now on."""
        pool, self._pool, self._detail = self._pool, None, detail
        if pool is not None:
            log.warning("database_out", detail=detail)
            self._free.clear()
            pool.terminate()
            self._is_out.set()

    async def _connect(self) -> Any:
        """A pool that is connected. Raises `Unavailable`. Waits for its end: cancelled asyncpg loses connections."""
        pause_ms = int(self._pause_s * 1000)
        statement_ms, lock_ms = (int(self._timeout_s * 1000 * share) for share in (STATEMENT_SHARE, LOCK_SHARE))
        pool = triopg.create_pool(
            self._url,
            # asyncpg's own upkeep of a least size logs each of its failures
            min_size=0,
            init_size=self._pool_min,
            max_size=self._pool_max,
            max_queries=float("inf"),
            max_inactive_connection_lifetime=0,
            max_cached_statement_lifetime=0,
            reset=_leave_as_it_is,
            timeout=self._timeout_s * CONNECT_SHARE,
            server_settings={
                "application_name": "chatd",
                "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS + pause_ms),
                "statement_timeout": str(statement_ms + pause_ms),
                "lock_timeout": str(lock_ms),
                # our statements take less time than compiling them
                "jit": "off",
                # Each is for few rows, found by a key. Its plan is kept, and may have been made while a table was empty
                # or unknown: every commit would read all of `messages` from then on.
                "enable_seqscan": "off",
                "enable_hashjoin": "off",
                "enable_mergejoin": "off",
            },
        )
        with trio.CancelScope(shield=True):
            try:
                return await pool.__aenter__()
            except (asyncpg.InterfaceError, ValueError) as error:
                # Its words may hold a part of the URL, and that of the password.
                raise Unavailable(
                    "The database's URL is not understood: write postgresql://user:password@host/database, with %XX "
                    "for signs that have a meaning in URLs."
                ) from error
            except OUT as error:
                raise Unavailable(f"The database cannot be used: {reason_of(error)}.") from error

    async def _watch(self) -> None:
        """Cut each connection whose time is up: a server in order has answered by then, or given up itself."""
        while True:
            now = trio.current_time()
            for connection, deadline in list(self._deadlines.items()):
                if deadline <= now:
                    connection.terminate()
                    # Those that nobody uses are most likely lost with it, and a call that took one would wait as long.
                    for _, idle in self._free:
                        idle.terminate()
            # a unit that begins while this sleeps has its time until later
            latest = now + self._timeout_s
            await trio.sleep_until(min((at for at in self._deadlines.values() if now < at < latest), default=latest))

    async def _come_back(self) -> None:
        """Whenever the server is out, try to reach it until it answers."""
        while True:
            await self._is_out.wait()
            self._is_out = trio.Event()
            began = trio.current_time()
            while self._pool is None:
                with suppress(Unavailable):
                    self._pool = await self._connect()
                    log.info("database_back", out_s=round(trio.current_time() - began, 3))
                    break
                await trio.sleep(random.uniform(RETRY_MIN_S, RETRY_MAX_S))  # noqa: S311 - spreads, hides nothing


class _Statements:
    """`Transaction` on a connection of the pool."""

    __slots__ = ("_connection", "_deadlines")

    def __init__(self, connection: Any, deadlines: dict[Any, float]) -> None:
        self._connection = connection
        self._deadlines = deadlines

    async def rows(self, query: Query, params: Params) -> list[Row]:
        text, names = _numbered(query)
        return list(map(tuple, await self._connection.fetch(text, *map(params.__getitem__, names))))

    async def row(self, query: Query, params: Params) -> Row | None:
        text, names = _numbered(query)
        record = await self._connection.fetchrow(text, *map(params.__getitem__, names))
        return None if record is None else tuple(record)

    async def run(self, query: Query, params: Params) -> int:
        text, names = _numbered(query)
        status: str = await self._connection.execute(text, *map(params.__getitem__, names))
        # INSERT 0 5, DELETE 5, CREATE TABLE
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def script(self, statements: str) -> None:
        """Run statements; they, and what comes behind them in the transaction, take as long as they need."""
        self._deadlines[self._connection] = trio.current_time() + SCRIPT_TIMEOUT_S
        await self._connection.execute(LIFT_BOUNDS)
        await self._connection.execute(statements)


class Inspection(NamedTuple):
    """What a PostgreSQL server says of itself: `missing_rights` end the sentence "The database's user may not …"."""

    version: str
    latency_ms: float
    missing_rights: Sequence[str]


async def inspect_postgres(database: Database, queries: Queries) -> Inspection:
    """Look at the server as `chatd check` shows it, changing nothing. `latency_ms` is that of a query."""
    version = await database.row(queries["schema.server_version"], {})
    rights = await database.rows(queries["schema.missing_rights"], {})
    began = trio.current_time()
    await database.row(queries["schema.server_version"], {})
    latency_ms = (trio.current_time() - began) * 1000
    assert version is not None
    return Inspection(version[0], latency_ms, [row[0] for row in rights])


@lru_cache(maxsize=1024)
def _numbered(query: Query) -> tuple[str, tuple[str, ...]]:
    """The text of a query with `$1` in the place of its first parameter, and so on, and the names of those."""
    names = query.parameters
    return _PARAMETER.sub(lambda found: f"${names.index(found['name']) + 1}", query.text), names


async def _let_go(holding: Any) -> None:
    """Tell the pool that a connection is closed; that asyncpg may only just learn of the loss is no news."""
    with suppress(asyncpg.InternalClientError, asyncpg.InterfaceError, OSError):
        await holding.__aexit__(None, None, None)


async def _leave_as_it_is(_connection: Any) -> None:
    """Spare a connection that comes back to the pool a statement: it is out of its transaction, or was cut."""


@asynccontextmanager
async def open_postgres(
    url: str, *, pool_min: int, pool_max: int, timeout_s: float, pause_s: float = 0.0
) -> AsyncIterator[PostgresDatabase]:
    """The database at `url`, whose pool is cut at the end. Raises `Unavailable` if it cannot be used now.

    A call takes `timeout_s` at most from when it has a connection, and waits no longer for one. Reads that hold up
    nobody may do something else for `pause_s` beside; a daemon's work is given up at once, for it may hold locks.
    """
    database = PostgresDatabase(url, pool_min=pool_min, pool_max=pool_max, timeout_s=timeout_s, pause_s=pause_s)
    database._pool = await database._connect()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database._watch)
            nursery.start_soon(database._come_back)
            yield database
            nursery.cancel_scope.cancel()
    finally:
        # Nobody uses it any more, and the polite way would wait for a server that may be stopped.
        if database._pool is not None:
            database._pool.terminate()
