"""A database that counts what it is asked, for tests of how many questions something costs."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from chatd.backends import open_back_ends

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import AsyncIterator

    import pytest

    from chatd.backends import BackEnds
    from chatd.store.database import Database, Dialect, Params, Row, Transaction, Work
    from chatd.store.queries import Query

T = TypeVar("T")


class CountedDatabase:
    """The database behind it, with every statement counted by its name; a script is one."""

    def __init__(self, behind: Database, asked: Counter[str]) -> None:
        self._behind = behind
        self._asked = asked
        self.dialect: Dialect = behind.dialect

    async def rows(self, query: Query, params: Params) -> list[Row]:
        self._asked[query.name] += 1
        return await self._behind.rows(query, params)

    async def row(self, query: Query, params: Params) -> Row | None:
        self._asked[query.name] += 1
        return await self._behind.row(query, params)

    async def read(self, work: Work[T]) -> T:
        return await self._behind.read(partial(self._run_counted, work))

    async def write(self, query: Query, params: Params) -> Row | None:
        self._asked[query.name] += 1
        return await self._behind.write(query, params)

    async def transaction(self, work: Work[T], *, is_lasting: bool = True) -> T:
        return await self._behind.transaction(partial(self._run_counted, work), is_lasting=is_lasting)

    async def _run_counted(self, work: Work[T], transaction: Transaction) -> T:
        return await work(_CountedTransaction(transaction, self._asked))


class _CountedTransaction:
    def __init__(self, behind: Transaction, asked: Counter[str]) -> None:
        self._behind = behind
        self._asked = asked

    async def rows(self, query: Query, params: Params) -> list[Row]:
        self._asked[query.name] += 1
        return await self._behind.rows(query, params)

    async def row(self, query: Query, params: Params) -> Row | None:
        self._asked[query.name] += 1
        return await self._behind.row(query, params)

    async def run(self, query: Query, params: Params) -> int:
        self._asked[query.name] += 1
        return await self._behind.run(query, params)

    async def script(self, statements: str) -> None:
        self._asked["script"] += 1
        await self._behind.script(statements)


def count_queries(monkeypatch: pytest.MonkeyPatch, asked: Counter[str]) -> None:
    """Have the databases of daemons that start in this process count into `asked`."""

    @asynccontextmanager
    async def open_counted(*args: Any, **kwargs: Any) -> AsyncIterator[BackEnds]:
        async with open_back_ends(*args, **kwargs) as back_ends:
            yield back_ends._replace(database=CountedDatabase(back_ends.database, asked))

    monkeypatch.setattr("chatd.assembly.open_back_ends", open_counted)
