"""What stands behind the daemon, from its configuration: is it usable, database and bus opened, the schema brought up.

`server` and `administration` use it before anything is served. It changes nothing before it has looked. The adapters of
PostgreSQL and Redis, and the asyncio loop that they share, are imported only where a URL asks for them.
"""

from __future__ import annotations

import os
import time
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from typing import TYPE_CHECKING, NamedTuple

import trio

from chatd import telemetry
from chatd.bus.local import LocalBus
from chatd.errors import Unavailable
from chatd.files.depot import open_depot
from chatd.files.trial import describe_uploads
from chatd.ids import new_id
from chatd.process import hold_folder
from chatd.store.database import Conflict
from chatd.store.migrations import SchemaFault, migrate, read_migrations, read_state
from chatd.store.queries import Queries
from chatd.store.rooms import NewRoom
from chatd.store.sqlite import open_sqlite, open_sqlite_for_looking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from chatd.bus.port import Bus
    from chatd.clock import Clock
    from chatd.config import BusOptions, DatabaseOptions, UploadOptions
    from chatd.files.depot import Depot
    from chatd.store.database import Database
    from chatd.store.facts import Facts
    from chatd.store.rooms import Rooms

log = telemetry.get_logger(__name__)


class StartFault(Exception):
    """The daemon cannot start; `str()` is one sentence that says why. Nothing was changed."""


@contextmanager
def hold_data_folder(data_path: Path) -> Iterator[None]:
    """Be the only daemon of a data folder, which is made if there is none. Raises `StartFault`."""
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_folder(data_path))
        except BlockingIOError as error:
            detail = f"Another daemon runs on the data folder {data_path}; stop it or choose another server.data_dir."
            raise StartFault(detail) from error
        except OSError as error:
            raise StartFault(f"The data folder {data_path} cannot be locked: {error.strerror}.") from error
        yield


class BackEnds(NamedTuple):
    """What was opened: the database with its queries, and the bus."""

    database: Database
    queries: Queries
    bus: Bus


@asynccontextmanager
async def open_back_ends(
    data_path: Path, database_options: DatabaseOptions, bus_options: BusOptions, *, node_name: str, silence_s: float
) -> AsyncIterator[BackEnds]:
    """Database and bus of the configuration; after `silence_s` a node counts as dead. Raises `StartFault`."""
    async with AsyncExitStack() as stack:
        if database_options.url or bus_options.url:
            await stack.enter_async_context(_open_loop())
        database = await stack.enter_async_context(_open_database(data_path, database_options))
        bus = await stack.enter_async_context(_open_bus(bus_options, node_name=node_name, silence_s=silence_s))
        yield BackEnds(database, Queries(database.dialect), bus)


@asynccontextmanager
async def open_uploads(options: UploadOptions, *, clock: Clock) -> AsyncIterator[Depot]:
    """Where files arrive and are kept, made if it is not there. Raises `StartFault`."""
    async with AsyncExitStack() as stack:
        try:
            depot = await stack.enter_async_context(open_depot(options, clock=clock))
        except OSError as error:
            raise StartFault(f"The folder of files {options.dir} cannot be made: {error.strerror}.") from error
        yield depot


@asynccontextmanager
async def open_database(
    data_path: Path, options: DatabaseOptions, *, pause_s: float = 0.0
) -> AsyncIterator[tuple[Database, Queries]]:
    """The database of the configuration alone, made if it is embedded and not there. Raises `StartFault`.

    `pause_s` is for work that only reads: how long it may do something else between its statements.
    """
    async with AsyncExitStack() as stack:
        if options.url:
            await stack.enter_async_context(_open_loop())
        database = await stack.enter_async_context(_open_database(data_path, options, pause_s=pause_s))
        yield database, Queries(database.dialect)


def _open_loop() -> AbstractAsyncContextManager[object]:
    from chatd.asyncio_loop import open_asyncio_loop  # noqa: PLC0415 - not on the embedded back ends

    return open_asyncio_loop()


@asynccontextmanager
async def _open_database(data_path: Path, options: DatabaseOptions, *, pause_s: float = 0.0) -> AsyncIterator[Database]:
    async with AsyncExitStack() as stack:
        try:
            database = await stack.enter_async_context(
                _open_postgres(options, pause_s=pause_s) if options.url else _open_embedded(data_path, options)
            )
        except Unavailable as error:
            raise StartFault(error.detail) from error
        yield database


def _open_postgres(options: DatabaseOptions, *, pause_s: float) -> AbstractAsyncContextManager[Database]:
    from chatd.store.postgres import open_postgres  # noqa: PLC0415 - not on the embedded back ends

    return open_postgres(
        options.url.reveal(), pool_min=options.pool_min, pool_max=options.pool_max, timeout_s=options.timeout_s,
        pause_s=pause_s,
    )  # fmt: skip


def _open_embedded(data_path: Path, options: DatabaseOptions) -> AbstractAsyncContextManager[Database]:
    path = database_path(data_path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartFault(f"The data folder {path.parent} cannot be made: {error.strerror}.") from error
    return open_sqlite(path, readers=options.readers)


@asynccontextmanager
async def _open_bus(options: BusOptions, *, node_name: str, silence_s: float) -> AsyncIterator[Bus]:
    if not options.url:
        yield LocalBus(trio.current_time)
        return
    from chatd.bus.redis import open_redis_bus  # noqa: PLC0415 - not on the embedded back ends

    # Two processes of one name are two nodes, and so is one that was started again.
    node = f"{node_name}:{new_id()}"
    async with AsyncExitStack() as stack:
        try:
            bus = await stack.enter_async_context(
                open_redis_bus(
                    options.url.reveal(), prefix=options.prefix, timeout_s=options.timeout_s, node=node,
                    seconds=trio.current_time, expiry_s=silence_s,
                )
            )  # fmt: skip
        except Unavailable as error:
            raise StartFault(error.detail) from error
        yield bus


@asynccontextmanager
async def open_database_for_looking(data_path: Path) -> AsyncIterator[tuple[Database, Queries]]:
    """The database that is there; it and its folder stay as they are. Raises `StartFault`."""
    async with AsyncExitStack() as stack:
        try:
            database = await stack.enter_async_context(open_sqlite_for_looking(database_path(data_path)))
        except Unavailable as error:
            raise StartFault(error.detail) from error
        yield database, Queries(database.dialect)


async def describe_database(data_path: Path, options: DatabaseOptions) -> str:
    """What the database is, where its schema stands and how fast it answers, changing nothing. Raises `StartFault`."""
    if options.url:
        return await _describe_postgres(data_path, options)
    path = database_path(data_path)
    if not path.exists():
        return f"{path} (sqlite), will be made at first start"
    began = time.perf_counter()
    async with open_database_for_looking(data_path) as (database, queries):
        schema = await _describe_schema(database, queries)
    return f"{path} (sqlite), {schema}, opened in {(time.perf_counter() - began) * 1000:.1f} ms"


async def _describe_postgres(data_path: Path, options: DatabaseOptions) -> str:
    from chatd.store.postgres import inspect_postgres  # noqa: PLC0415 - not on the embedded back ends

    async with open_database(data_path, options) as (database, queries):
        state = await inspect_postgres(database, queries)
        if state.missing_rights:
            raise StartFault(f"The database's user may not {', '.join(state.missing_rights)}; grant it.")
        schema = await _describe_schema(database, queries)
    return f"PostgreSQL {state.version}, {schema}, answered in {state.latency_ms:.1f} ms"


async def _describe_schema(database: Database, queries: Queries) -> str:
    state = await read_state(database, queries, read_migrations(database.dialect))
    waiting = f", {len(state.waiting)} migrations wait" if state.waiting else ""
    return f"schema {state.version:04d}{waiting}"


async def describe_bus(options: BusOptions) -> str:
    """What the bus is and how fast it answers. Raises `StartFault`."""
    if not options.url:
        return "in this process"
    from chatd.bus.trial import try_redis  # noqa: PLC0415 - not on the embedded back ends

    try:
        async with _open_loop():
            state = await try_redis(options.url.reveal(), prefix=options.prefix, timeout_s=options.timeout_s)
    except Unavailable as error:
        raise StartFault(error.detail) from error
    if state.missing_rights:
        raise StartFault(f"Redis refuses what the bus needs: {'; '.join(state.missing_rights)}.")
    return f"Redis {state.version}, answered in {state.latency_ms:.1f} ms"


async def describe_files(options: UploadOptions) -> str:
    """Where files are kept, and whether that works. Raises `StartFault`."""
    try:
        return await describe_uploads(options)
    except Unavailable as error:
        raise StartFault(error.detail) from error


def check_back_ends(data_path: Path, database: DatabaseOptions, bus: BusOptions) -> None:
    """Raise `StartFault` where what is configured cannot be used. Changes nothing."""
    if bus.url and not database.url:
        raise StartFault("[bus] url: nodes that share a bus share a database: give [database] url too, or neither.")
    nearest = next(path for path in (data_path, *data_path.absolute().parents) if os.access(path, os.F_OK))
    if not nearest.is_dir():
        raise StartFault(f"The data folder {data_path} cannot be made: {nearest} is no folder.")
    if not os.access(nearest, os.W_OK):
        raise StartFault(f"The data folder {data_path} cannot be written to; change its owner or server.data_dir.")


def database_path(data_path: Path) -> Path:
    return data_path / "chatd.db"


async def prepare_schema(database: Database, queries: Queries, options: DatabaseOptions) -> None:
    """Have the schema that this chatd needs; an embedded database is migrated, another one only if told to."""
    migrations = read_migrations(database.dialect)
    try:
        state = await read_state(database, queries, migrations)
        if not state.waiting:
            return
        if options.url and not options.migrate:
            raise StartFault("The database's schema is older than this chatd; run `chatd migrate up`.")
        for step in await migrate(database, queries, migrations):
            log.info("migrated", step=step)
    except SchemaFault as fault:
        raise StartFault(str(fault)) from fault
    except Unavailable as out:
        raise StartFault(out.detail) from out


async def prepare_lobby(name: str, rooms: Rooms, facts: Facts, clock: Clock) -> str:
    """The id of the first room, made once in the life of a database, however many nodes start on it together."""
    room_id = await facts.get_or_add("lobby", new_id())
    if await rooms.by_id(room_id, asked_by="") is None:
        # Of several nodes one is first; and a lobby that was deleted is not made again.
        with suppress(Conflict):
            lobby = NewRoom(room_id, "public", name, None, None)
            await rooms.add(lobby, owner_id=None, member_ids=(), now_ms=clock())
    return room_id
