"""The schema's way up and down, on databases of every kind, with data in them and with a past that does not fit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import asyncpg
import pytest
import trio

from chatd.errors import Unavailable
from chatd.store.migrations import Migration, SchemaFault, migrate, read_migrations, read_state
from chatd.store.queries import Queries, Query
from chatd.store.sqlfiles import sql_root
from tests.stores import KINDS, Store, join, post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from chatd.store.database import Database, Row

SCHEMA = {
    "sqlite": "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name",
    # a table a row, with all that belongs to it
    "postgres": """
        SELECT 'table', relname,
               ARRAY(SELECT concat_ws(' ', attname, atttypid::regtype, attnotnull) FROM pg_attribute
                     WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum),
               ARRAY(SELECT pg_get_constraintdef(oid) FROM pg_constraint
                     WHERE conrelid = pg_class.oid ORDER BY conname),
               ARRAY(SELECT indexdef FROM pg_indexes WHERE tablename = relname ORDER BY indexname)
        FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' ORDER BY relname""",
}
#: What a script that is wrong ends with: SQLite does not tell it from a database that is out.
WRONG = (Unavailable, asyncpg.UndefinedTableError)

FIRST = Migration(1, "first", "CREATE TABLE a (b TEXT);\n", "DROP TABLE a;\n")
SECOND = Migration(2, "second", "CREATE TABLE c (d TEXT);\nINSERT INTO c VALUES ('x');\n", "DROP TABLE c;\n")
THIRD = Migration(3, "third", "ALTER TABLE a ADD COLUMN e TEXT;\n", "ALTER TABLE a DROP COLUMN e;\n")


@pytest.fixture(params=KINDS)
async def bare(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database of each kind, nothing before it."""
    async with KINDS[request.param](tmp_path) as opened:
        yield opened


async def schema_of(database: Database) -> list[Row]:
    return await database.rows(Query("test.schema", SCHEMA[database.dialect]), {})


async def step(database: Database, migrations: Sequence[Migration], *, to: int | None = None) -> list[str]:
    return await migrate(database, Queries(database.dialect), migrations, to=to)


async def version_of(database: Database, migrations: Sequence[Migration]) -> int:
    return (await read_state(database, Queries(database.dialect), migrations)).version


async def test_up_down_and_up_again_with_data_gives_the_same_schema(store: Store) -> None:
    migrations = read_migrations(store.database.dialect)
    after_first_up = await schema_of(store.database)
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room_id = await store.add_room(ada)
    async with store.open_journal() as written:
        await written.journal.write(join(bob, room_id))
        await written.journal.write(post(bob, room_id, client_message_id="c1", request_hash="h"))
    assert await store.facts.get_or_add("epoch", "e") == "e"

    down = await step(store.database, migrations, to=0)
    assert down == [f"down {migration.version:04d} {migration.name}" for migration in reversed(migrations)]
    assert [name for _, name, *_ in await schema_of(store.database)] == ["schema_migrations"]
    up = await step(store.database, migrations)
    assert up == [f"up {migration.version:04d} {migration.name}" for migration in migrations]
    assert await schema_of(store.database) == after_first_up
    assert await store.accounts.by_id(ada.id) is None
    ada = await store.add_user("ada")
    assert (await store.accounts.by_email("ada@example.org")) == ada


async def test_steps_are_taken_one_by_one_in_both_directions(bare: Database) -> None:
    every = [FIRST, SECOND, THIRD]
    assert await step(bare, every, to=2) == ["up 0001 first", "up 0002 second"]
    assert await version_of(bare, every) == 2
    assert await step(bare, every) == ["up 0003 third"]
    assert await step(bare, every) == []
    assert await step(bare, every, to=1) == ["down 0003 third", "down 0002 second"]
    assert await version_of(bare, every) == 1
    state = await read_state(bare, Queries(bare.dialect), every)
    assert ([m.name for m in state.landed], [m.name for m in state.waiting]) == (["first"], ["second", "third"])


@pytest.mark.parametrize("kind", KINDS)
async def test_nodes_that_start_together_take_each_step_once(kind: str, tmp_path: Path) -> None:
    every = [FIRST, SECOND, THIRD]
    taken: list[str] = []

    async def start_node(to: int | None) -> None:
        async with KINDS[kind](tmp_path) as database:
            taken.extend(await step(database, every, to=to))

    async with KINDS[kind](tmp_path):
        # SQLite makes a file a log's while nobody else has it open.
        pass
    for to, way in ((None, "up"), (0, "down")):
        taken.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(start_node, to)
        assert sorted(taken) == [f"{way} {migration.version:04d} {migration.name}" for migration in every]


async def test_an_empty_database_stands_at_zero_and_everything_waits(bare: Database) -> None:
    state = await read_state(bare, Queries(bare.dialect), [FIRST, SECOND])
    assert (state.version, state.landed, state.waiting) == (0, [], [FIRST, SECOND])


async def test_a_landed_migration_that_was_changed_refuses_by_name_and_changes_nothing(bare: Database) -> None:
    await step(bare, [FIRST, SECOND])
    before = await schema_of(bare)
    changed = Migration(1, "first", FIRST.up.replace("TEXT", "INTEGER"), FIRST.down)
    for to in (None, 0):
        with pytest.raises(SchemaFault, match=r"Migration 0001 \(first\) was changed after it had landed"):
            await step(bare, [changed, SECOND, THIRD], to=to)
    assert await schema_of(bare) == before
    assert await version_of(bare, [FIRST, SECOND]) == 2


async def test_a_changed_way_down_does_not_matter_to_what_landed(bare: Database) -> None:
    await step(bare, [FIRST])
    assert await version_of(bare, [Migration(1, "first", FIRST.up, "DROP TABLE IF EXISTS a;")]) == 1


async def test_a_database_from_the_future_refuses_and_changes_nothing(bare: Database) -> None:
    await step(bare, [FIRST, SECOND, THIRD])
    before = await schema_of(bare)
    for to in (None, 0):
        with pytest.raises(SchemaFault, match=r"from the future: it has migration 0002 \(second\)"):
            await step(bare, [FIRST], to=to)
    assert await schema_of(bare) == before


async def test_an_unknown_target_is_refused(bare: Database) -> None:
    with pytest.raises(SchemaFault, match="no migration 0007"):
        await step(bare, [FIRST], to=7)
    assert await version_of(bare, [FIRST]) == 0


async def test_a_step_that_fails_leaves_neither_its_tables_nor_its_record(bare: Database) -> None:
    broken = Migration(2, "broken", SECOND.up + "INSERT INTO nowhere VALUES (1);\n", "")
    with pytest.raises(WRONG, match="nowhere"):
        await step(bare, [FIRST, broken, THIRD])
    assert await version_of(bare, [FIRST, broken]) == 1
    assert [name for _, name, *_ in await schema_of(bare)] == ["a", "schema_migrations"]
    assert await step(bare, [FIRST, SECOND]) == ["up 0002 second"]


async def test_a_step_whose_record_cannot_be_kept_is_undone(bare: Database) -> None:
    drops_the_record = Migration(2, "rude", "CREATE TABLE z (y TEXT);\nDROP TABLE schema_migrations;\n", "")
    with pytest.raises(WRONG, match="schema_migrations"):
        await step(bare, [FIRST, drops_the_record])
    assert await version_of(bare, [FIRST]) == 1
    assert [name for _, name, *_ in await schema_of(bare)] == ["a", "schema_migrations"]


def test_the_migrations_of_this_chatd_are_numbered_from_one_without_holes_and_have_both_ways() -> None:
    for dialect in ("sqlite", "postgres"):
        found = read_migrations(dialect)
        assert [migration.version for migration in found] == list(range(1, len(found) + 1))
        assert all(migration.up.strip() and migration.down.strip() for migration in found)


def test_every_file_among_the_migrations_is_one() -> None:
    for file in (sql_root() / "migrations").iterdir():
        assert re.fullmatch(r"\d{4}_\w+\.(up|down)(\.(sqlite|postgres))?\.sql", file.name), file.name
