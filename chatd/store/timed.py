"""A database whose times are measured: one histogram for reading and one for writing, and a line for what is slow.

What is measured is what the caller waits, with the way to the database's thread or connection and what stood before it.
`backends` puts it between the adapter and everybody else.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from chatd.metrics import Metrics
    from chatd.slow import SlowLog
    from chatd.store.database import Database, Dialect, Params, Row, Transaction, Work
    from chatd.store.queries import Query

T = TypeVar("T")


class TimedDatabase:
    """The database behind it."""

    def __init__(self, behind: Database, metrics: Metrics, slow: SlowLog) -> None:
        self._behind = behind
        self._metrics = metrics
        self._slow = slow
        self.dialect: Dialect = behind.dialect

    async def rows(self, query: Query, params: Params) -> list[Row]:
        began = trio.current_time()
        try:
            return await self._behind.rows(query, params)
        finally:
            self._note("read", query.name, began)

    async def row(self, query: Query, params: Params) -> Row | None:
        began = trio.current_time()
        try:
            return await self._behind.row(query, params)
        finally:
            self._note("read", query.name, began)

    async def read(self, work: Work[T]) -> T:
        began, names = trio.current_time(), _Names()
        try:
            return await self._behind.read(partial(_named, work, names))
        finally:
            self._note("read", names.first, began)

    async def write(self, query: Query, params: Params) -> Row | None:
        began = trio.current_time()
        try:
            return await self._behind.write(query, params)
        finally:
            self._note("write", query.name, began)

    async def transaction(self, work: Work[T], *, is_lasting: bool = True) -> T:
        began, names = trio.current_time(), _Names()
        try:
            return await self._behind.transaction(partial(_named, work, names), is_lasting=is_lasting)
        finally:
            self._note("write", names.first, began)

    def _note(self, way: str, name: str, began: float) -> None:
        seconds = trio.current_time() - began
        self._metrics.database_seconds[way].observe(seconds)
        self._slow.note(f"database: {name}", seconds)


class _Names:
    """The first query of a transaction, by which it is told from others."""

    __slots__ = ("first",)

    def __init__(self) -> None:
        self.first = "nothing asked"


class _NamedTransaction:
    """The transaction behind it, which remembers what it was asked first."""

    __slots__ = ("_behind", "_names")

    def __init__(self, behind: Transaction, names: _Names) -> None:
        self._behind = behind
        self._names = names

    async def rows(self, query: Query, params: Params) -> list[Row]:
        self._note(query)
        return await self._behind.rows(query, params)

    async def row(self, query: Query, params: Params) -> Row | None:
        self._note(query)
        return await self._behind.row(query, params)

    async def run(self, query: Query, params: Params) -> int:
        self._note(query)
        return await self._behind.run(query, params)

    async def script(self, statements: str) -> None:
        await self._behind.script(statements)

    def _note(self, query: Query) -> None:
        if self._names.first == "nothing asked":
            self._names.first = query.name


async def _named(work: Work[T], names: _Names, transaction: Transaction) -> T:
    return await work(_NamedTransaction(transaction, names))
