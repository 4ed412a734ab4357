"""The port to a database: named queries, read together or in one transaction. No word of chat.

An adapter (`sqlite`, `postgres`) translates parameters, errors and transactions and nothing else. Work that needs
several statements is a coroutine function that gets the transaction and awaits nothing but its calls: an adapter may
run it to its end on another thread, where these never suspend.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from chatd.store.queries import Query

T = TypeVar("T")

Dialect = Literal["sqlite", "postgres"]
Value: TypeAlias = str | int | float | bytes | None
Params: TypeAlias = Mapping[str, Value]
#: The columns of a query in their order. Typed by the records of `store` that are made from it.
Row: TypeAlias = tuple[Any, ...]


class Conflict(Exception):
    """A row breaks a unique key or another constraint; the transaction has been rolled back."""


class Transaction(Protocol):
    """One transaction, as long as the work runs. All calls raise `Conflict` and `Unavailable`.

    Text with U+0000, which not every database can hold or look for, may be answered with another `Refusal`.
    """

    async def rows(self, query: Query, params: Params) -> list[Row]: ...

    async def row(self, query: Query, params: Params) -> Row | None:
        """The first row, or `None`."""

    async def run(self, query: Query, params: Params) -> int:
        """Run a statement; the number of rows it changed."""

    async def script(self, statements: str) -> None:
        """Run statements that take no parameters (a migration), however long they take."""


Work = Callable[[Transaction], Awaitable[T]]


class Database(Protocol):
    """A database that is open. All calls raise `Unavailable` when it is out."""

    dialect: Dialect

    async def rows(self, query: Query, params: Params) -> list[Row]: ...

    async def row(self, query: Query, params: Params) -> Row | None: ...

    async def read(self, work: Work[T]) -> T:
        """Run work that only reads, on one state of the database."""

    async def write(self, query: Query, params: Params) -> Row | None:
        """Run one statement that writes, as a transaction of itself; its first row. Raises `Conflict` as well."""

    async def transaction(self, work: Work[T], *, is_lasting: bool = True) -> T:
        """Run work that writes; what it did is durable after the return, and undone if anything was raised.

        With `is_lasting` false it outlives the process, but may be undone by a power cut until the next lasting one has
        returned: for what can be made again, or missed. An adapter may do more than that.
        Cancelling waits for the end of work that has begun: whether it landed is always known.
        """
