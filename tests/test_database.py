"""What every adapter of the database port does, whatever stands behind it: one suite, run over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from chatd.store.database import Conflict, Database, Transaction
from chatd.store.queries import Query

if TYPE_CHECKING:
    from chatd.store.database import Row

ADD = Query("test.add", "INSERT INTO things (id, size) VALUES (:id, :size)")
ADD_AND_TELL = Query("test.add_and_tell", "INSERT INTO things (id, size) VALUES (:id, :size) RETURNING size")
ADD_PART = Query("test.add_part", "INSERT INTO parts (thing_id) VALUES (:thing_id)")
GROW = Query("test.grow", "UPDATE things SET size = size + :by WHERE size > :above")
ALL = Query("test.all", "SELECT id, size FROM things ORDER BY id")
ONE = Query("test.one", "SELECT size FROM things WHERE id = :id")
TABLES = """
-- things; with a semicolon in a comment
CREATE TABLE things (id TEXT NOT NULL PRIMARY KEY, size INTEGER NOT NULL CHECK (size >= 0));
CREATE TABLE parts (thing_id TEXT NOT NULL REFERENCES things (id));
"""


async def make_tables(database: Database) -> None:
    await database.transaction(lambda tx: tx.script(TABLES))


async def add(database: Database, **sizes: int) -> None:
    async def work(tx: Transaction) -> None:
        for name, size in sizes.items():
            await tx.run(ADD, {"id": name, "size": size})

    await database.transaction(work)


async def test_what_a_transaction_wrote_is_read_afterwards_by_every_way_of_reading(database: Database) -> None:
    await make_tables(database)
    await add(database, a=1, b=2)

    async def read(tx: Transaction) -> tuple[list[Row], Row | None]:
        return await tx.rows(ALL, {}), await tx.row(ONE, {"id": "b"})

    assert await database.rows(ALL, {}) == [("a", 1), ("b", 2)]
    assert await database.row(ONE, {"id": "a"}) == (1,)
    assert await database.read(read) == ([("a", 1), ("b", 2)], (2,))


async def test_a_row_that_is_not_there_is_none(database: Database) -> None:
    await make_tables(database)
    assert await database.row(ONE, {"id": "nobody"}) is None
    assert await database.rows(ALL, {}) == []


async def test_one_statement_that_writes_is_a_transaction_of_itself(database: Database) -> None:
    await make_tables(database)
    assert await database.write(ADD_AND_TELL, {"id": "a", "size": 1}) == (1,)
    with pytest.raises(Conflict):
        await database.write(ADD_AND_TELL, {"id": "a", "size": 2})
    assert await database.write(GROW, {"by": 10, "above": 0}) is None
    assert await database.rows(ALL, {}) == [("a", 11)]


async def test_run_counts_the_rows_that_it_changed(database: Database) -> None:
    await make_tables(database)
    await add(database, a=1, b=2, c=3)
    assert await database.transaction(lambda tx: tx.run(GROW, {"by": 10, "above": 1})) == 2
    assert await database.transaction(lambda tx: tx.run(GROW, {"by": 10, "above": 100})) == 0


async def test_a_transaction_sees_what_it_wrote_itself(database: Database) -> None:
    await make_tables(database)

    async def work(tx: Transaction) -> Row | None:
        await tx.run(ADD, {"id": "a", "size": 1})
        await tx.run(GROW, {"by": 4, "above": 0})
        return await tx.row(ONE, {"id": "a"})

    assert await database.transaction(work) == (5,)


async def test_whatever_is_raised_inside_of_a_transaction_undoes_all_of_it(database: Database) -> None:
    await make_tables(database)
    await add(database, a=1)

    async def work(tx: Transaction) -> None:
        await tx.run(GROW, {"by": 10, "above": 0})
        await tx.run(ADD, {"id": "b", "size": 1})
        raise LookupError("the rule's own")

    with pytest.raises(LookupError, match="the rule's own"):
        await database.transaction(work)
    assert await database.rows(ALL, {}) == [("a", 1)]


@pytest.mark.parametrize(
    ("query", "params"),
    [
        pytest.param(ADD, {"id": "a", "size": 7}, id="unique key"),
        pytest.param(ADD, {"id": "z", "size": -1}, id="check"),
        pytest.param(ADD, {"id": "z", "size": None}, id="not null"),
        pytest.param(ADD_PART, {"thing_id": "nothing"}, id="reference"),
    ],
)
async def test_a_broken_constraint_is_a_conflict_and_undoes_all_of_it(
    database: Database, query: Query, params: dict[str, str | int | None]
) -> None:
    await make_tables(database)
    await add(database, a=1)

    async def work(tx: Transaction) -> None:
        await tx.run(ADD, {"id": "b", "size": 2})
        await tx.run(query, params)

    with pytest.raises(Conflict):
        await database.transaction(work)
    assert await database.rows(ALL, {}) == [("a", 1)]
    await add(database, c=3)
    assert await database.rows(ALL, {}) == [("a", 1), ("c", 3)]


async def test_a_script_that_fails_in_its_middle_leaves_nothing(database: Database) -> None:
    await make_tables(database)
    with pytest.raises(Conflict):
        await database.transaction(
            lambda tx: tx.script("INSERT INTO things VALUES ('a', 1); INSERT INTO things VALUES ('a', 2);")
        )
    assert await database.rows(ALL, {}) == []


async def test_text_comes_back_as_it_went(database: Database) -> None:
    await make_tables(database)
    names = ["'; DROP TABLE things; --", ":id", "línea\nnueva\ttab", "😀 \U0010ffff", '"quoted" \\ %s ?', ""]
    for index, name in enumerate(names):
        await database.transaction(lambda tx, row={"id": name, "size": index}: tx.run(ADD, row))  # type: ignore[misc]
    assert sorted(await database.rows(ALL, {})) == sorted((name, index) for index, name in enumerate(names))


async def test_transactions_that_come_at_once_lose_nothing_of_each_other(database: Database) -> None:
    await make_tables(database)
    await add(database, a=1)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(database.transaction, lambda tx: tx.run(GROW, {"by": 1, "above": 0}))
            nursery.start_soon(database.rows, ALL, {})
    assert await database.row(ONE, {"id": "a"}) == (21,)


async def test_a_transaction_that_is_cancelled_before_it_began_writes_nothing(database: Database) -> None:
    await make_tables(database)
    with trio.CancelScope() as scope:
        scope.cancel()
        await add(database, a=1)
    assert scope.cancelled_caught
    assert await database.rows(ALL, {}) == []
