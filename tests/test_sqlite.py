"""What SQLite does beyond the port's suite (test_database.py): its threads, its disk, its file."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from chatd.errors import Unavailable
from chatd.store.queries import Query
from chatd.store.sqlite import CHECKPOINT_ROWS, CHECKPOINT_S, SqliteDatabase, open_sqlite, split_statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator
    from pathlib import Path

    from chatd.store.database import Transaction

ADD = Query("test.add", "INSERT INTO things (id, body) VALUES (:id, :body)")
IDS = Query("test.ids", "SELECT id FROM things ORDER BY id")
COUNT = Query("test.count", "SELECT COUNT(*) FROM things")
PATIENCE_S = 10


@pytest.fixture
async def things(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """A database with one table."""
    async with open_sqlite(tmp_path / "things.db", readers=2) as database:
        table = "CREATE TABLE things (id INTEGER PRIMARY KEY, body TEXT NOT NULL);"
        await database.transaction(lambda tx: tx.script(table))
        yield database


async def add(database: SqliteDatabase, number: int, body: str = "") -> None:
    await database.transaction(lambda tx: tx.run(ADD, {"id": number, "body": body}))


class Held:
    """Work that waits on its thread, in the middle of its transaction, until the test lets it go on."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._may_go = threading.Event()

    async def __call__(self, tx: Transaction) -> None:
        await tx.run(ADD, {"id": 1, "body": ""})
        self.stand()

    def stand(self) -> None:
        self._entered.set()
        assert self._may_go.wait(PATIENCE_S)

    async def wait_entered(self) -> None:
        assert await trio.to_thread.run_sync(self._entered.wait, PATIENCE_S)

    def go_on(self) -> None:
        self._may_go.set()


@pytest.mark.parametrize(("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)])
async def test_every_commit_is_synced_to_the_log(things: SqliteDatabase, pragma: str, value: object) -> None:
    query = Query("test.pragma", f"PRAGMA {pragma}")
    assert await things.transaction(lambda tx: tx.row(query, {})) == (value,)


async def test_what_need_not_last_is_not_synced_and_the_next_that_has_to_is(things: SqliteDatabase) -> None:
    query = Query("test.pragma", "PRAGMA synchronous")
    full, normal = (2,), (1,)
    for is_lasting in (True, False, False, True, False, True):
        level = await things.transaction(lambda tx: tx.row(query, {}), is_lasting=is_lasting)
        assert level == (full if is_lasting else normal)


async def test_what_was_written_is_there_after_opening_again(things: SqliteDatabase, tmp_path: Path) -> None:
    await add(things, 1)
    async with open_sqlite(tmp_path / "things.db", readers=1) as again:
        assert await again.rows(IDS, {}) == [(1,)]


async def test_readers_do_not_wait_for_the_writer_and_see_what_is_committed(things: SqliteDatabase) -> None:
    held = Held()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(things.transaction, held)
        await held.wait_entered()
        with trio.fail_after(PATIENCE_S):
            assert await things.row(COUNT, {}) == (0,)
        held.go_on()
    assert await things.row(COUNT, {}) == (1,)


async def test_the_writer_does_not_wait_for_readers_and_a_read_stays_on_one_state(things: SqliteDatabase) -> None:
    held = Held()
    counts = []

    async def read(tx: Transaction) -> None:
        counts.append(await tx.row(COUNT, {}))
        held.stand()
        counts.append(await tx.row(COUNT, {}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(things.read, read)
        await held.wait_entered()
        with trio.fail_after(PATIENCE_S):
            await add(things, 1)
        held.go_on()
    assert counts == [(0,), (0,)]


async def test_writes_happen_in_the_order_in_which_they_were_asked_for(things: SqliteDatabase) -> None:
    held, order = Held(), []

    async def note(number: int) -> None:
        await things.transaction(lambda tx: tx.run(ADD, {"id": number, "body": ""}))
        order.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(things.transaction, held)
        await held.wait_entered()
        for number in range(2, 10):
            nursery.start_soon(note, number)
            await trio.testing.wait_all_tasks_blocked()
        held.go_on()
    assert order == list(range(2, 10))


async def test_cancelling_waits_for_a_write_that_has_begun_and_it_landed(things: SqliteDatabase) -> None:
    held = Held()
    has_returned = trio.Event()

    async def write() -> None:
        await things.transaction(held)
        has_returned.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await held.wait_entered()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        assert not has_returned.is_set()
        held.go_on()
    assert has_returned.is_set()
    assert await things.rows(IDS, {}) == [(1,)]


async def test_a_write_that_waits_for_its_turn_can_be_cancelled_and_leaves_nothing(things: SqliteDatabase) -> None:
    held = Held()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(things.transaction, held)
        await held.wait_entered()
        with trio.move_on_after(0) as scope:
            await add(things, 2)
        assert scope.cancelled_caught
        held.go_on()
    assert await things.rows(IDS, {}) == [(1,)]


class Elsewhere:
    """Something to await that is no call of the transaction."""

    def __await__(self) -> Generator[str, None, None]:
        yield "another loop's business"


async def test_work_that_awaits_something_else_is_refused_and_undone(things: SqliteDatabase) -> None:
    async def work(tx: Transaction) -> None:
        await tx.run(ADD, {"id": 1, "body": ""})
        await Elsewhere()

    with pytest.raises(RuntimeError, match="awaited something else"):
        await things.transaction(work)
    assert await things.rows(IDS, {}) == []


async def test_reading_does_not_write(things: SqliteDatabase) -> None:
    with pytest.raises(Unavailable, match="readonly"):
        await things.read(lambda tx: tx.run(ADD, {"id": 1, "body": ""}))
    assert await things.rows(IDS, {}) == []


async def test_a_full_disk_makes_it_unavailable_until_there_is_room_again(things: SqliteDatabase) -> None:
    await add(things, 1)
    small = Query("test.small", "PRAGMA max_page_count = 1")
    await things.transaction(lambda tx: tx.row(small, {}))
    with pytest.raises(Unavailable, match="full"):
        await add(things, 2, "x" * 1_000_000)
    assert await things.rows(IDS, {}) == [(1,)]
    large = Query("test.large", "PRAGMA max_page_count = 100000")
    await things.transaction(lambda tx: tx.row(large, {}))
    await add(things, 3, "x" * 1_000_000)
    assert await things.rows(IDS, {}) == [(1,), (3,)]


async def test_a_database_that_became_read_only_is_unavailable_for_writing_only(things: SqliteDatabase) -> None:
    await add(things, 1)
    await things.transaction(lambda tx: tx.run(Query("test.lock", "PRAGMA query_only = ON"), {}))
    with pytest.raises(Unavailable, match="readonly"):
        await add(things, 2)
    assert await things.rows(IDS, {}) == [(1,)]


async def test_a_file_that_is_no_database_is_unavailable_by_name_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.db"
    path.write_bytes(b"Dear Ada, this is no database." * 100)
    with pytest.raises(Unavailable, match=r"letter\.db"):
        async with open_sqlite(path, readers=1):
            pass
    assert path.read_bytes() == b"Dear Ada, this is no database." * 100


async def test_a_folder_that_is_missing_is_unavailable_by_name(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        async with open_sqlite(tmp_path / "nowhere" / "chatd.db", readers=1):
            pass


async def test_a_damaged_file_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    async with open_sqlite(path, readers=1) as database:
        await database.transaction(lambda tx: tx.script("CREATE TABLE things (id INTEGER PRIMARY KEY, body TEXT);"))
        for number in range(50):
            await add(database, number, "x" * 1000)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40_000)
    async with open_sqlite(path, readers=1) as database:
        with pytest.raises(Unavailable, match="damaged"):
            await database.rows(Query("test.all", "SELECT id, body FROM things"), {})


@pytest.mark.parametrize(("rows", "is_copied"), [(CHECKPOINT_ROWS + 1, True), (CHECKPOINT_ROWS // 10, False)])
async def test_a_long_log_is_copied_into_the_database_while_it_is_in_use(
    tmp_path: Path, mock_clock: trio.testing.MockClock, rows: int, *, is_copied: bool
) -> None:
    path = tmp_path / "things.db"
    fill = f"""
        CREATE TABLE things (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
        INSERT INTO things WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
        SELECT i, 'some text that takes a little space' FROM n;
    """
    # While another connection is open, closing does not copy.
    with closing(sqlite3.connect(path)) as other:
        async with open_sqlite(path, readers=1) as database:
            await trio.testing.wait_all_tasks_blocked()
            await database.transaction(lambda tx: tx.script(fill))
            other.execute("SELECT COUNT(*) FROM things").fetchall()
            before = path.stat().st_size
            mock_clock.jump(CHECKPOINT_S)
            await trio.testing.wait_all_tasks_blocked()
        assert (path.stat().st_size > before) == is_copied
        assert other.execute("SELECT COUNT(*) FROM things").fetchall() == [(rows,)]


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("", 0),
        ("-- only a comment\n-- and another; with a semicolon\n", 0),
        ("CREATE TABLE a (b TEXT);\nCREATE TABLE c (d TEXT);\n", 2),
        ("CREATE TABLE a (b TEXT DEFAULT ';\n;');", 1),
        ("CREATE TABLE a (b TEXT)", 1),
        ("CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  DELETE FROM a;\n  DELETE FROM b;\nEND;\nDROP TABLE a;\n", 2),
        ("CREATE TABLE a (\n  -- a comment; inside\n  b TEXT\n);\n/* another;\n one */ DROP TABLE a;", 2),
        ("CREATE TABLE a (b TEXT); CREATE TABLE c (d TEXT);\n", 2),
    ],
)
def test_a_script_is_split_into_its_statements(script: str, statements: int) -> None:
    found = split_statements(script)
    assert len(found) == statements
    assert not statements or "".join(found).strip() == script.strip()


async def test_a_query_that_lacks_a_parameter_is_a_defect_and_no_outage(things: SqliteDatabase) -> None:
    with pytest.raises(sqlite3.ProgrammingError):
        await things.transaction(lambda tx: tx.run(ADD, {"id": 1}))
    assert await things.rows(IDS, {}) == []
