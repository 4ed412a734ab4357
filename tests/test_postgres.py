"""PostgreSQL when it is killed, stopped, full, closed to us, or when our calls are cancelled: on a server of its own.

What it does while all is well is the suites' business that run over every kind of store.
"""

from __future__ import annotations

import errno
import re
from contextlib import AsyncExitStack, asynccontextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import trio
import trio.testing

from chatd import telemetry
from chatd.asyncio_loop import open_asyncio_loop
from chatd.errors import Refusal, Unavailable
from chatd.store.migrations import migrate, read_migrations
from chatd.store.postgres import PostgresDatabase, inspect_postgres, open_postgres
from chatd.store.queries import Queries, Query
from tests import servers
from tests.logs import own_logging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from chatd.store.database import Params, Row, Transaction
    from tests.servers import Postgres

ONE = Query("test.one", "SELECT 1")
ADD = Query("test.add", "INSERT INTO things (id) VALUES (:id)")
ALL = Query("test.all", "SELECT id FROM things ORDER BY id")
HERE = Query("test.here", "SELECT id FROM things WHERE id = :id")
ME = Query("test.me", "SELECT pg_backend_pid()")
LOCK = Query("test.lock", "SELECT id FROM things WHERE id = :id FOR UPDATE")
SLEEP = Query("test.sleep", "SELECT 1 FROM pg_sleep(:seconds)")
THINGS = "CREATE TABLE things (id TEXT NOT NULL PRIMARY KEY)"
#: What the sessions of a database are at, but the one that asks.
SESSIONS = "SELECT state FROM pg_stat_activity WHERE application_name = 'chatd' AND datname = current_database()"

POOL_MAX = 3
#: Long enough for a machine that is busy, where nothing is to run out of time.
PATIENT_S = 20.0
#: What is to run out of time does so after this many seconds.
HASTY_S = 0.5


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A server that the tests of this module kill and stop; each finds it running."""
    with servers.open_postgres(options=["deadlock_timeout=50ms", "max_connections=50"]) as opened:
        yield opened


@pytest.fixture
def name(server: Postgres) -> str:
    """A database of the test's own with the table `things`."""
    made = server.new_database()
    server.sql(THINGS, made)
    return made


@pytest.fixture
def output() -> Iterator[StringIO]:
    """What is logged, as JSON lines."""
    stream = StringIO()
    with own_logging():
        telemetry.configure_logging("info", "json", stream)
        yield stream


@asynccontextmanager
async def open_database(
    url: str, *, timeout_s: float = PATIENT_S, pool_min: int = 1
) -> AsyncIterator[PostgresDatabase]:
    async with (
        open_asyncio_loop(),
        open_postgres(url, pool_min=pool_min, pool_max=POOL_MAX, timeout_s=timeout_s) as database,
    ):
        yield database


def adding(thing: str) -> Callable[[Transaction], Awaitable[int]]:
    return lambda tx: tx.run(ADD, {"id": thing})


async def things(database: PostgresDatabase) -> list[str]:
    return [row[0] for row in await database.rows(ALL, {})]


async def until_back(database: PostgresDatabase) -> None:
    with trio.fail_after(60):
        while True:
            try:
                await database.row(ONE, {})
            except Unavailable:
                await trio.sleep(0.01)
            else:
                return


async def until_sessions(server: Postgres, name: str, is_right: Callable[[list[str]], bool]) -> None:
    """Wait for what the server sees, which learns of a connection's end a moment later than we."""
    with trio.fail_after(60):
        while not is_right(server.sql(SESSIONS, name).split("\n")[:-1]):  # noqa: ASYNC110 - the server sets no event
            await trio.sleep(0.01)


async def check_whole(server: Postgres, name: str, database: PostgresDatabase) -> None:
    """Every connection of the pool can be had at once and works, and the server sees all of them idle."""
    arrived = 0
    everybody = trio.Event()

    async def meet(tx: Transaction) -> Row | None:
        nonlocal arrived
        arrived += 1
        if arrived == POOL_MAX:
            everybody.set()
        await everybody.wait()
        return await tx.row(ONE, {})

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(POOL_MAX):
                nursery.start_soon(database.transaction, meet)
    await until_sessions(server, name, lambda states: states == ["idle"] * POOL_MAX)


# A server that goes


async def test_a_killed_server_is_told_at_once_logged_once_and_found_again(
    server: Postgres, name: str, output: StringIO
) -> None:
    async with open_database(server.url(name)) as database:
        await database.transaction(adding("before"))
        server.kill()
        with trio.fail_after(PATIENT_S / 2):
            # Not one of them waits for its time to be up.
            for number in range(200):
                with pytest.raises(Unavailable, match="The database is out"):
                    await database.transaction(adding(str(number)))
                with pytest.raises(Unavailable, match="The database is out"):
                    await database.rows(ALL, {})
        server.start()
        await until_back(database)
        await database.transaction(adding("behind"))
        assert await things(database) == ["before", "behind"]
        await check_whole(server, name, database)
    lines = output.getvalue()
    assert (lines.count("database_out"), lines.count("database_back"), lines.count("\n")) == (1, 1, 2)


async def test_a_stopped_server_lets_no_call_hang_and_goes_on(server: Postgres, name: str, output: StringIO) -> None:
    async with open_database(server.url(name), timeout_s=HASTY_S) as database:
        await check_whole(server, name, database)
        server.pause()
        try:
            refused = 0

            async def call(work: Callable[[], Awaitable[object]]) -> None:
                nonlocal refused
                with pytest.raises(Unavailable):
                    await work()
                refused += 1

            with trio.fail_after(60):
                for _ in range(3):
                    async with trio.open_nursery() as nursery:
                        for number in range(POOL_MAX * 2):
                            thing = adding(f"lost {number}")
                            nursery.start_soon(call, lambda thing=thing: database.transaction(thing))
                            nursery.start_soon(call, lambda: database.rows(ALL, {}))
                            nursery.start_soon(call, lambda: database.read(lambda tx: tx.row(ONE, {})))
            assert refused == 3 * 3 * POOL_MAX * 2
        finally:
            server.resume()
        await until_back(database)
        await database.transaction(adding("kept"))
        assert "kept" in await things(database)
        await check_whole(server, name, database)
    lines = output.getvalue()
    assert (lines.count("database_out"), lines.count("database_back"), lines.count("\n")) == (1, 1, 2)


async def test_a_database_is_closed_while_its_server_is_stopped(server: Postgres, name: str) -> None:
    try:
        with trio.fail_after(PATIENT_S / 2):
            async with open_database(server.url(name)) as database:
                await check_whole(server, name, database)
                server.pause()
    finally:
        server.resume()
    await until_sessions(server, name, lambda states: not states)


async def test_connections_that_nobody_uses_are_given_up_with_the_one_that_hangs(server: Postgres, name: str) -> None:
    """Else each of them would cost a call its whole time."""
    async with open_database(server.url(name), timeout_s=HASTY_S) as database:
        # One is kept for writing.
        gathered, count = trio.Event(), POOL_MAX - 1

        async def take_part(tx: Transaction) -> None:
            started.append(await tx.row(ME, {}))
            if len(started) == count:
                gathered.set()
            await gathered.wait()

        started: list[object] = []
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(database.read, take_part)
        assert len(set(map(str, started))) == count
        server.pause()
        try:
            with pytest.raises(Unavailable):
                await database.rows(ALL, {})
            # None of the others is tried: a new connection is, and that there is none takes the server as out.
            with pytest.raises(Unavailable):
                await database.rows(ALL, {})
            began = trio.current_time()
            with pytest.raises(Unavailable):
                await database.rows(ALL, {})
            assert trio.current_time() == pytest.approx(began, abs=HASTY_S / 2)
        finally:
            server.resume()
        await until_back(database)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_a_node_that_can_open_nothing_more_goes_on_with_what_it_has(
    server: Postgres, name: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise OSError(number, "the node is at its limit")

    async with open_database(server.url(name)) as database:
        is_begun, may_end = trio.Event(), trio.Event()

        async def stay(tx: Transaction) -> None:
            await tx.run(ADD, {"id": "healthy"})
            is_begun.set()
            await may_end.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.transaction, stay)
            await is_begun.wait()
            with monkeypatch.context() as patch:
                patch.setattr(asyncpg.pool.PoolConnectionHolder, "connect", fail)
                with pytest.raises(Unavailable):
                    await database.rows(ALL, {})
            may_end.set()
        assert await things(database) == ["healthy"]


async def test_a_session_that_is_ended_in_a_transaction_undoes_it_and_is_replaced(
    server: Postgres, name: str, output: StringIO
) -> None:
    async with open_database(server.url(name)) as database:

        async def work(tx: Transaction) -> None:
            await tx.run(ADD, {"id": "undone"})
            row = await tx.row(ME, {})
            assert row is not None
            server.sql(f"SELECT pg_terminate_backend({row[0]}, 10000)")
            await tx.run(ADD, {"id": "never"})

        with pytest.raises(Unavailable):
            await database.transaction(work)
        await database.transaction(adding("next"))
        assert await things(database) == ["next"]
        await check_whole(server, name, database)
    assert output.getvalue() == ""


async def test_a_connection_that_was_lost_while_nobody_used_it_is_replaced_without_a_word(
    server: Postgres, name: str
) -> None:
    async with open_database(server.url(name)) as database:
        row = await database.row(ME, {})
        assert row is not None
        server.sql(f"SELECT pg_terminate_backend({row[0]}, 10000)")
        # The loss is seen when the loop looks at its sockets.
        await trio.sleep(0.1)
        assert await database.rows(ALL, {}) == []
        assert await database.row(ME, {}) != row
        await check_whole(server, name, database)


async def test_what_asyncpg_says_when_a_connection_is_lost_as_it_is_taken_back_is_no_defect(
    server: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has begun to take it back when it learns of the loss; in the torture it did so when a server died."""
    holders = asyncpg.pool.PoolConnectionHolder
    release = holders.release

    async def lose_and_release(holder: Any, timeout: float | None) -> None:  # noqa: ASYNC109 - asyncpg's own
        holder._con.terminate()
        await release(holder, timeout)

    async def hang(tx: Transaction) -> None:
        row = await tx.row(ME, {})
        assert row is not None
        server.sql(f"SELECT pg_terminate_backend({row[0]}, 10000)")
        await tx.run(ADD, {"id": "never"})

    async with open_database(server.url(name)) as database:
        with monkeypatch.context() as patch:
            patch.setattr(holders, "release", lose_and_release)
            with pytest.raises(Unavailable):
                await database.transaction(hang)
        await check_whole(server, name, database)


async def test_what_asyncpg_says_when_a_connection_is_lost_between_two_steps_of_a_query_is_no_defect(
    server: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has prepared the statement and is about to run it; in the torture that ended a node."""
    get_statement = asyncpg.Connection._get_statement

    async def get_and_lose(connection: Any, *args: Any, **options: Any) -> Any:
        statement = await get_statement(connection, *args, **options)
        connection.terminate()
        return statement

    async with open_database(server.url(name)) as database:
        with monkeypatch.context() as patch:
            patch.setattr(asyncpg.Connection, "_get_statement", get_and_lose)
            with pytest.raises(Unavailable):
                await database.rows(ALL, {})
        await check_whole(server, name, database)


async def test_a_transaction_whose_node_stands_still_is_ended_by_the_server(server: Postgres, name: str) -> None:
    async with open_database(server.url(name)) as database:
        await database.transaction(adding("a"))
        has_lock = trio.Event()

        async def stand_still(tx: Transaction) -> None:
            await tx.row(LOCK, {"id": "a"})
            has_lock.set()
            await trio.sleep(1.5)
            await tx.run(ADD, {"id": "too late"})

        async def wait_for_it() -> None:
            await has_lock.wait()
            await database.transaction(lambda tx: tx.row(LOCK, {"id": "a"}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_it)
            with pytest.raises(Unavailable):
                await database.transaction(stand_still)
        assert await things(database) == ["a"]
        await check_whole(server, name, database)


# A server that does not do what is asked


async def test_what_takes_too_long_is_given_up_and_the_connection_goes_on(
    server: Postgres, name: str, output: StringIO
) -> None:
    async with open_database(server.url(name), timeout_s=HASTY_S) as database:
        for call in (database.transaction, database.read):
            with pytest.raises(Unavailable):
                await call(lambda tx: tx.rows(SLEEP, {"seconds": 60.0}))
        with pytest.raises(Unavailable):
            await database.rows(SLEEP, {"seconds": 60.0})
        server.sql("INSERT INTO things VALUES ('a')", name)
        holds, may_end = trio.Event(), trio.Event()

        async def hold() -> None:
            async with open_postgres(server.url(name), pool_min=1, pool_max=1, timeout_s=PATIENT_S) as other:

                async def work(tx: Transaction) -> None:
                    await tx.row(LOCK, {"id": "a"})
                    holds.set()
                    await may_end.wait()

                await other.transaction(work)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await holds.wait()
            with pytest.raises(Unavailable):
                await database.transaction(lambda tx: tx.row(LOCK, {"id": "a"}))
            may_end.set()
        await check_whole(server, name, database)
    assert output.getvalue() == ""


async def test_a_script_takes_the_time_that_it_needs(server: Postgres, name: str) -> None:
    async with open_database(server.url(name), timeout_s=HASTY_S) as database:

        async def work(tx: Transaction) -> None:
            await tx.script(f"SELECT pg_sleep({HASTY_S * 1.5})")
            await tx.run(SLEEP, {"seconds": HASTY_S})

        await database.transaction(work)
        with pytest.raises(Unavailable):
            await database.rows(SLEEP, {"seconds": 60.0})


async def test_transactions_in_each_others_way_both_land(server: Postgres, name: str) -> None:
    async with open_database(server.url(name)) as database:
        for thing in "ab":
            await database.transaction(adding(thing))
        both_hold = trio.Event()
        holding = 0

        async def lock(tx: Transaction, first: str, second: str) -> None:
            nonlocal holding
            await tx.row(LOCK, {"id": first})
            holding += 1
            if holding == 2:
                both_hold.set()
            await both_hold.wait()
            await tx.row(LOCK, {"id": second})
            await tx.run(ADD, {"id": f"{first} then {second}"})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.transaction, lambda tx: lock(tx, "a", "b"))
            nursery.start_soon(database.transaction, lambda tx: lock(tx, "b", "a"))
        assert await things(database) == ["a", "a then b", "b", "b then a"]
        assert holding > 2, "one of them was undone and tried again"


@pytest.mark.parametrize(("failures", "lands"), [(1, True), (3, True), (4, False)])
async def test_what_was_undone_for_another_is_tried_a_few_times(
    server: Postgres, name: str, *, failures: int, lands: bool
) -> None:
    async with open_database(server.url(name)) as database:
        tries = 0

        async def work(tx: Transaction) -> None:
            nonlocal tries
            tries += 1
            await tx.run(ADD, {"id": f"try {tries}"})
            if tries <= failures:
                await tx.script("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$")

        if lands:
            await database.transaction(work)
            assert await things(database) == [f"try {failures + 1}"]
        else:
            with pytest.raises(Unavailable):
                await database.transaction(work)
            assert await things(database) == []


async def test_a_prepared_statement_outlives_a_change_of_its_table(server: Postgres, name: str) -> None:
    everything = Query("test.everything", "SELECT * FROM things")
    async with open_database(server.url(name)) as database:
        for call in (database.transaction, database.read):
            assert await call(lambda tx: tx.rows(everything, {})) == []
            server.sql("ALTER TABLE things ADD COLUMN c" + call.__name__ + " TEXT", name)
            assert await call(lambda tx: tx.rows(everything, {})) == []


async def test_a_server_without_connections_left_is_not_out(server: Postgres, name: str, output: StringIO) -> None:
    role = f"r{name}"
    server.sql(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1; GRANT ALL ON things TO {role}", name)
    url = server.url(name).replace("//postgres@", f"//{role}@")
    async with open_database(url) as database:
        holds, was_refused = trio.Event(), trio.Event()

        async def hold(tx: Transaction) -> None:
            holds.set()
            await was_refused.wait()
            await tx.run(ADD, {"id": "a"})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.transaction, hold)
            await holds.wait()
            with pytest.raises(Unavailable, match="too many connections"):
                await database.rows(ALL, {})
            was_refused.set()
        assert await things(database) == ["a"]
    assert output.getvalue() == ""


async def test_who_waits_too_long_for_a_connection_is_told_that_the_database_is_busy(
    server: Postgres, name: str
) -> None:
    async with open_database(server.url(name), timeout_s=HASTY_S) as database:
        all_hold, may_end = trio.Event(), trio.Event()
        holding = 0

        async def hold(tx: Transaction) -> None:
            nonlocal holding
            await tx.script("SELECT 1")  # lifts the bounds
            holding += 1
            if holding == POOL_MAX:
                all_hold.set()
            await may_end.wait()

        async with trio.open_nursery() as nursery:
            for _ in range(POOL_MAX):
                nursery.start_soon(database.transaction, hold)
            await all_hold.wait()
            with pytest.raises(Unavailable, match="busy"):
                await database.rows(ALL, {})
            may_end.set()


async def test_reading_leaves_a_connection_for_writing(server: Postgres, name: str) -> None:
    async with open_database(server.url(name)) as database:
        may_end = trio.Event()

        async def hold(tx: Transaction) -> None:
            await tx.row(ONE, {})
            await may_end.wait()

        async with trio.open_nursery() as nursery:
            for _ in range(POOL_MAX * 2):
                nursery.start_soon(database.read, hold)
            await trio.testing.wait_all_tasks_blocked(0.02)
            await database.transaction(adding("a"))
            may_end.set()
        assert await things(database) == ["a"]


@pytest.mark.parametrize(
    ("query", "params"),
    [
        pytest.param(ADD, {"id": "a\x00b"}, id="text"),
        pytest.param(HERE, {"id": "a\x00b"}, id="text to look for"),
        pytest.param(
            Query("test.json", "INSERT INTO things (id) SELECT entry ->> 0 FROM json_array_elements(:ids) AS entry"),
            {"ids": '[["a\\u0000b"]]'},
            id="JSON",
        ),
    ],
)
async def test_text_that_cannot_be_stored_is_refused(server: Postgres, name: str, query: Query, params: Params) -> None:
    async with open_database(server.url(name)) as database:
        for call in (
            lambda: database.transaction(lambda tx: tx.run(query, params)),
            lambda: database.read(lambda tx: tx.rows(query, params)),
            lambda: database.rows(query, params),
            lambda: database.row(query, params),
        ):
            with pytest.raises(Refusal) as refused:
                await call()
            assert refused.value.code in ("bad_message", "unavailable")
        assert await things(database) == []


async def test_a_wrong_statement_is_a_defect_and_leaves_the_connection_in_order(server: Postgres, name: str) -> None:
    async with open_database(server.url(name)) as database:
        for text in ("SELECT nothing FROM things", "SELECT FROM WHERE"):
            for call in (database.transaction, database.read):
                with pytest.raises(asyncpg.PostgresError):
                    await call(lambda tx, text=text: tx.rows(Query("test.wrong", text), {}))  # type: ignore[misc]
        with pytest.raises(asyncpg.InterfaceError):
            await database.rows(Query("test.few", "SELECT $1::int + $2::int"), {})
        await check_whole(server, name, database)


async def test_a_read_only_database_is_unavailable_to_writers_only(server: Postgres, name: str) -> None:
    server.sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on', name)
    async with open_database(server.url(name)) as database:
        with pytest.raises(Unavailable, match="read-only"):
            await database.transaction(adding("a"))
        assert await things(database) == []


# Opening


async def test_what_keeps_a_database_from_being_opened_is_one_sentence(
    server: Postgres, name: str, tmp_path: Path
) -> None:
    server.sql("CREATE ROLE locked LOGIN PASSWORD 'right'")
    rules = server.sockets / "data" / "pg_hba.conf"
    rules.write_text("local all locked scram-sha-256\n" + rules.read_text("utf-8"), "utf-8")
    server.sql("SELECT pg_reload_conf()")
    locked = server.url(name).replace("//postgres@", "//locked:wrong@")
    faults = {
        locked: "password authentication failed",
        server.url("nowhere"): 'database "nowhere" does not exist',
        f"postgresql://postgres@/x?host={tmp_path}": "No such file",
        "postgresql://postgres@127.0.0.1:1/x": "Connect call failed",
        "postgresql://me:se/cret@127.0.0.1/x": "URL is not understood",
        "postgresql://me:secret@127.0.0.1:se/x": "URL is not understood",
    }
    async with open_asyncio_loop():
        for url, said in faults.items():
            with pytest.raises(Unavailable, match=said) as fault:
                async with open_postgres(url, pool_min=1, pool_max=1, timeout_s=PATIENT_S):
                    pass
            detail = fault.value.detail
            assert (detail[:12], detail[-1], detail.count("\n")) == ("The database", ".", 0)
            assert not {"wrong", "se", "cret", "secret"} & set(re.split(r"\W", detail))
    async with open_database(locked.replace("wrong", "right")):
        pass


async def test_a_server_is_inspected(server: Postgres, name: str) -> None:
    server.sql("CREATE ROLE guest LOGIN; CREATE TABLE others (id TEXT)", name)
    async with open_database(server.url(name)) as database:
        queries = Queries(database.dialect)
        await migrate(database, queries, read_migrations(database.dialect))
        found = await inspect_postgres(database, queries)
        assert (found.missing_rights, found.version.split(".")[0].isdigit()) == ([], True)
        assert found.latency_ms > 0
    server.sql("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest", name)
    server.sql("REVOKE DELETE, UPDATE ON messages FROM guest; REVOKE ALL ON others FROM guest", name)
    async with open_database(server.url(name).replace("//postgres@", "//guest@")) as database:
        found = await inspect_postgres(database, Queries("postgres"))
    assert sorted(found.missing_rights) == [
        "create tables in the schema public", "delete in the table messages", "update in the table messages",
    ]  # fmt: skip


async def test_the_rights_that_are_looked_at_are_those_on_every_table(server: Postgres, name: str) -> None:
    bare = server.new_database()
    async with open_database(server.url(bare)) as database:
        queries = Queries(database.dialect)
        await migrate(database, queries, read_migrations(database.dialect))
    server.sql("CREATE ROLE nobody LOGIN", bare)
    tables = server.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", bare).split()
    async with open_database(server.url(bare).replace("//postgres@", "//nobody@")) as database:
        found = await inspect_postgres(database, queries)
    assert len(tables) > 8
    for table in tables:
        assert {right.split()[0] for right in found.missing_rights if right.endswith(f"table {table}")} == {
            "select", "insert", "update", "delete",
        }  # fmt: skip


# Cancelling at every step


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when the task that made this has been scheduled so many times more."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._steps = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._steps -= 1
            if self._steps == 0:
                self._scope.cancel()


async def cancelled_at_every_step(
    operation: Callable[[int], Awaitable[object]], check: Callable[[], Awaitable[object]]
) -> int:
    """Run an operation again and again, cancelled at its first step, its second, … until it ends before; how often."""
    steps = 0
    while True:
        was_cancelled = False
        with trio.CancelScope() as scope:
            if steps == 0:
                scope.cancel()
            instrument = CancelAt(scope, steps)
            trio.lowlevel.add_instrument(instrument)
            try:
                await operation(steps)
            finally:
                trio.lowlevel.remove_instrument(instrument)
                was_cancelled = scope.cancel_called
        await check()
        if not was_cancelled:
            return steps
        steps += 1


async def three(tx: Transaction) -> None:
    await tx.rows(ALL, {})
    await tx.row(ONE, {})
    await tx.rows(ALL, {})


@pytest.mark.parametrize("is_cold", [False, True], ids=["connected", "to be connected"])
@pytest.mark.parametrize("call", ["rows", "row", "read", "transaction"])
async def test_whenever_a_call_is_cancelled_the_pool_is_whole(
    server: Postgres, name: str, call: str, *, is_cold: bool
) -> None:
    begun: list[str] = []
    landed: list[str] = []
    async with open_asyncio_loop(), AsyncExitStack() as stack:

        async def open_anew() -> PostgresDatabase:
            await stack.aclose()
            pool_min = 0 if is_cold else POOL_MAX
            opening = open_postgres(server.url(name), pool_min=pool_min, pool_max=POOL_MAX, timeout_s=PATIENT_S)
            return await stack.enter_async_context(opening)

        database = await open_anew()

        async def add(number: int) -> None:
            async def work(tx: Transaction) -> None:
                begun.extend([f"{number:03d} one", f"{number:03d} two"])
                await tx.run(ADD, {"id": f"{number:03d} one"})
                await tx.run(ADD, {"id": f"{number:03d} two"})

            await database.transaction(work)
            landed.extend([f"{number:03d} one", f"{number:03d} two"])

        calls: dict[str, Callable[[int], Awaitable[object]]] = {
            "rows": lambda _: database.rows(ALL, {}),
            "row": lambda _: database.row(ONE, {}),
            "read": lambda _: database.read(three),
            "transaction": add,
        }

        async def check() -> None:
            nonlocal database
            await check_whole(server, name, database)
            if is_cold:
                database = await open_anew()

        steps = await cancelled_at_every_step(calls[call], check)
        assert steps > 3
        if call == "transaction":
            # What was cancelled before it began is not there, what had begun is there whole and was told so.
            assert await things(database) == begun == landed
            assert len(landed) > 2 * 3


@pytest.mark.parametrize("is_used", [False, True], ids=["unused", "used"])
async def test_whenever_opening_or_closing_is_cancelled_no_connection_stays(
    server: Postgres, name: str, *, is_used: bool
) -> None:
    async with open_asyncio_loop():

        async def operate(_: int) -> None:
            async with open_postgres(server.url(name), pool_min=2, pool_max=POOL_MAX, timeout_s=PATIENT_S) as database:
                if is_used:
                    await database.row(ONE, {})

        assert (
            await cancelled_at_every_step(operate, lambda: until_sessions(server, name, lambda states: not states)) > 2
        )


async def test_a_database_is_closed_while_its_server_is_out(server: Postgres, name: str) -> None:
    with trio.fail_after(60):
        async with open_database(server.url(name)) as database:
            server.kill()
            with pytest.raises(Unavailable):
                await database.row(ONE, {})
    server.start()
