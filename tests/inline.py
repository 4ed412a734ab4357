"""SQLite's own adapter without its threads, for tests under a mock clock: the same SQL, when the test wants it.

Each database is in memory and begins as a copy of a migrated one with some users and rooms, so that thousands of
programs have one each.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import trio

from chatd.store.accounts import Account, Accounts
from chatd.store.migrations import migrate, read_migrations
from chatd.store.queries import Queries
from chatd.store.rooms import NewRoom, Rooms
from chatd.store.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chatd.store.database import Row, Work

T = TypeVar("T")

QUERIES = Queries("sqlite")


class InlineSqlite(SqliteDatabase):
    """`Database` whose work is done on the spot; what it waits for before and behind it is a subclass's to say."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection, [connection])

    async def read(self, work: Work[T]) -> T:
        await trio.lowlevel.checkpoint()
        return self._read(work)

    async def transaction(self, work: Work[T], *, is_lasting: bool = True) -> T:
        await trio.lowlevel.checkpoint()
        return self._write(work)

    def look(self, text: str, *values: str | int) -> list[Row]:
        """What is in it now, for the test."""
        return self._writer.execute(text, values).fetchall()


def account(name: str) -> Account:
    """A user whose id is the name."""
    return Account(name, f"{name}@example.org", name, None, None, None, "hash", 1000, None, None)


def _connect() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


@cache
def _template(users: tuple[str, ...], rooms: tuple[str, ...], members: tuple[tuple[str, str], ...]) -> bytes:
    connection = _connect()

    async def fill() -> None:
        database = InlineSqlite(connection)
        await migrate(database, QUERIES, read_migrations("sqlite"))
        for name in users:
            await Accounts(database, QUERIES).add(account(name), name)
        for room_id in rooms:
            own = [user for room, user in members if room == room_id]
            room = NewRoom(room_id, "public", room_id, None, None)
            await Rooms(database, QUERIES).add(room, owner_id=None, member_ids=own, now_ms=1000)

    trio.run(fill)
    content = connection.serialize()
    connection.close()
    return content


@contextmanager
def open_copy(
    users: tuple[str, ...], rooms: tuple[str, ...], members: tuple[tuple[str, str], ...] = ()
) -> Iterator[sqlite3.Connection]:
    """A database with these users, rooms, and members as (room, user) from the start; ids are the names."""
    connection = _connect()
    connection.deserialize(_template(users, rooms, members))
    try:
        yield connection
    finally:
        connection.close()
