"""SQLite behind the database port: one writer thread, a few reader threads, WAL, every commit on the disk.

The one door to sqlite3. `synchronous=FULL` syncs the log at each commit, so what was acknowledged survives `kill -9`
and a power cut. All writing happens on one thread, in the order in which it was asked for; reading never waits for it.
Threads are Trio's, with limiters of their own, and are never abandoned.

Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous
"""

from __future__ import annotations

import queue
import re
import sqlite3
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

import trio

from chatd import telemetry
from chatd.errors import Unavailable
from chatd.store.database import Conflict, Dialect, Params, Row, Transaction, Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from chatd.store.queries import Query

T = TypeVar("T")

log = telemetry.get_logger(__name__)

#: Milliseconds that one process waits for another's lock (the command line beside the daemon).
BUSY_TIMEOUT_MS: Final = 5000
#: KiB of pages that the writer keeps: the indexes' inner pages and each active room's last one.
CACHE_KIB: Final = 64 * 1024
#: The log is copied into the database by a thread of its own, so that no commit waits for it: every so many seconds,
#: if so many rows have changed. The writer does it itself only past so many pages (256 MiB).
CHECKPOINT_S: Final = 1.0
CHECKPOINT_ROWS: Final = 4000
CHECKPOINT_PAGES: Final = 64_000
#: Pages (64 MiB) from which on the log is to begin anew.
LONG_LOG_PAGES: Final = 16_000
#: Milliseconds that beginning it anew may hold up the writer while a reader is in its way.
RESTART_TIMEOUT_MS: Final = 100


class SqliteDatabase:
    """`Database` on one file. Made by `open_sqlite`."""

    dialect: Dialect = "sqlite"

    def __init__(self, writer: sqlite3.Connection, readers: list[sqlite3.Connection]) -> None:
        self._writer = writer
        #: Whoever has it is the only one of this process to write.
        self.writer_limiter = trio.CapacityLimiter(1)
        # Held by the one transaction that need not last: whoever waits for the writer meanwhile is before the next one.
        self._behind = trio.Lock()
        # Whether the writer syncs the log when it commits; else the next commit that does syncs what is before it.
        self._is_lasting = True
        self._readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        for reader in readers:
            self._readers.put(reader)
        self._reader_limiter = trio.CapacityLimiter(len(readers))
        #: Rows that were ever changed.
        self.changes = 0

    async def rows(self, query: Query, params: Params) -> list[Row]:
        return await self.read(lambda tx: tx.rows(query, params))

    async def row(self, query: Query, params: Params) -> Row | None:
        return await self.read(lambda tx: tx.row(query, params))

    async def read(self, work: Work[T]) -> T:
        return await trio.to_thread.run_sync(self._read, work, limiter=self._reader_limiter)

    async def transaction(self, work: Work[T], *, is_lasting: bool = True) -> T:
        if is_lasting:
            return await trio.to_thread.run_sync(self._write, work, limiter=self.writer_limiter)
        async with self._behind:
            write = partial(self._write, work, is_lasting=False)
            return await trio.to_thread.run_sync(write, limiter=self.writer_limiter)

    async def write(self, query: Query, params: Params) -> Row | None:
        return await self.transaction(lambda tx: tx.row(query, params))

    def _read(self, work: Work[T]) -> T:
        reader = self._readers.get()
        try:
            with _transaction(reader, "BEGIN"):
                return _run_through(work, _Statements(reader))
        finally:
            self._readers.put(reader)

    def _write(self, work: Work[T], *, is_lasting: bool = True) -> T:
        if is_lasting != self._is_lasting:
            with _translated():
                self._writer.execute(f"PRAGMA synchronous = {'FULL' if is_lasting else 'NORMAL'}")
            self._is_lasting = is_lasting
        with _transaction(self._writer, "BEGIN IMMEDIATE"):
            result = _run_through(work, _Statements(self._writer))
        self.changes = self._writer.total_changes
        return result


class _Statements:
    """`Transaction` on the thread that runs it: nothing in here suspends."""

    __slots__ = ("_connection",)

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def rows(self, query: Query, params: Params) -> list[Row]:
        return self._connection.execute(query.text, params).fetchall()

    async def row(self, query: Query, params: Params) -> Row | None:
        row: Row | None = self._connection.execute(query.text, params).fetchone()
        return row

    async def run(self, query: Query, params: Params) -> int:
        return self._connection.execute(query.text, params).rowcount

    async def script(self, statements: str) -> None:
        for statement in split_statements(statements):
            self._connection.execute(statement)


def _run_through(work: Work[T], transaction: Transaction) -> T:
    """Run a coroutine that never suspends to its end, without an event loop."""
    coroutine = work(transaction).__await__()
    try:
        next(coroutine)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("work in a transaction awaited something else than the transaction")


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    with _translated():
        connection.execute(begin)
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


@contextmanager
def _translated() -> Iterator[None]:
    """SQLite's errors as the port's."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise Conflict(str(error)) from error
    except sqlite3.OperationalError as error:
        raise Unavailable(f"The database is out ({error}); try again in a moment.") from error
    except sqlite3.ProgrammingError:
        raise  # a defect of the caller, not of the database
    except sqlite3.DatabaseError as error:
        raise Unavailable(f"The database is damaged or no database ({error}).") from error


def split_statements(script: str) -> list[str]:
    """The statements of a script; a semicolon inside of a trigger or a text does not end one."""
    statements, pending = [], ""
    for part in re.findall(r"[^;]*;|[^;]+$", script):
        pending += part
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    if any(not line.lstrip().startswith("--") for line in pending.strip().splitlines()):
        statements.append(pending)
    return statements


def _connect(file: Path | str, *, read_only: bool) -> sqlite3.Connection:
    """A connection to a file by its path, or by a URI as a text."""
    connection = sqlite3.connect(
        file, uri=isinstance(file, str), isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        _set_up(connection, read_only=read_only)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _set_up(connection: sqlite3.Connection, *, read_only: bool) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    else:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")


class _Connections(NamedTuple):
    writer: sqlite3.Connection
    checkpointer: sqlite3.Connection
    readers: list[sqlite3.Connection]


def _open(path: Path, readers: int) -> _Connections:
    try:
        writer, checkpointer = _connect(path, read_only=False), _connect(path, read_only=False)
        checkpointer.execute(f"PRAGMA busy_timeout = {RESTART_TIMEOUT_MS}")
        return _Connections(writer, checkpointer, [_connect(path, read_only=True) for _ in range(readers)])
    except sqlite3.Error as error:
        raise Unavailable(f"cannot open the database {path}: {error}") from error


def _open_for_looking(path: Path) -> sqlite3.Connection:
    """A connection that leaves the folder as it is, for which SQLite has two ways.

    A log that is in use, or was when its process died, is read by the index beside it, which is only looked at. Where
    there is no index SQLite would make one, unless it is told that nobody changes the file.
    """
    how = "mode=ro&readonly_shm=1" if path.with_name(f"{path.name}-shm").exists() else "immutable=1"
    try:
        connection = _connect(f"{path.absolute().as_uri()}?{how}", read_only=True)
        try:
            # Nothing has been read until something is asked.
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.Error:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise Unavailable(f"cannot open the database {path}: {error}") from error
    return connection


def _checkpoint(connection: sqlite3.Connection, mode: Literal["PASSIVE", "RESTART"]) -> int:
    """Copy the log into the database, and with RESTART let it begin anew; the pages that are in it."""
    try:
        [(_, pages, _)] = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
    except sqlite3.Error as error:
        # The log grows until it can be done; the writer says so itself if that is for want of space.
        log.warning("checkpoint_failed", detail=str(error))
        return 0
    return int(pages)


async def _keep_log_short(database: SqliteDatabase, connection: sqlite3.Connection) -> None:
    limiter = trio.CapacityLimiter(1)
    copied = 0
    while True:
        await trio.sleep(CHECKPOINT_S)
        if database.changes - copied < CHECKPOINT_ROWS:
            continue
        copied = database.changes
        pages = await trio.to_thread.run_sync(_checkpoint, connection, "PASSIVE", limiter=limiter)
        if pages >= LONG_LOG_PAGES:
            # The little that came meanwhile, in the writer's turn: SQLite would have it sleep until that is done.
            await trio.to_thread.run_sync(_checkpoint, connection, "RESTART", limiter=database.writer_limiter)


@asynccontextmanager
async def open_sqlite(path: Path, *, readers: int) -> AsyncIterator[SqliteDatabase]:
    """The database in `path`, made if there is none. Raises `Unavailable` if it cannot be opened for writing."""
    connections = await trio.to_thread.run_sync(_open, path, readers)
    try:
        database = SqliteDatabase(connections.writer, connections.readers)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_log_short, database, connections.checkpointer)
            yield database
            nursery.cancel_scope.cancel()
    finally:
        for connection in (*connections.readers, connections.checkpointer, connections.writer):
            connection.close()


@asynccontextmanager
async def open_sqlite_for_looking(path: Path) -> AsyncIterator[SqliteDatabase]:
    """The database in `path`, which must be there, only to be read; nothing is made or changed, beside it neither.

    Raises `Unavailable` if it cannot be read, and at each transaction.
    """
    connection = await trio.to_thread.run_sync(_open_for_looking, path)
    try:
        yield SqliteDatabase(connection, [connection])
    finally:
        connection.close()
