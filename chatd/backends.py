"""What stands behind the daemon, from its configuration: is it usable, the database opened, the schema brought up.

`server` and `administration` use it before anything is served. It changes nothing before it has looked.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from chatd import telemetry
from chatd.errors import Unavailable
from chatd.process import hold_folder
from chatd.store.migrations import SchemaFault, migrate, read_migrations, read_state
from chatd.store.queries import Queries
from chatd.store.sqlite import open_sqlite, open_sqlite_for_looking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from chatd.config import BusOptions, DatabaseOptions
    from chatd.store.database import Database

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


@asynccontextmanager
async def open_database(data_path: Path, options: DatabaseOptions) -> AsyncIterator[tuple[Database, Queries]]:
    """The database of the configuration, made if there is none. Raises `StartFault`."""
    path = database_path(data_path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartFault(f"The data folder {path.parent} cannot be made: {error.strerror}.") from error
    async with AsyncExitStack() as stack:
        try:
            database = await stack.enter_async_context(open_sqlite(path, readers=options.readers))
        except Unavailable as error:
            raise StartFault(error.detail) from error
        yield database, Queries(database.dialect)


@asynccontextmanager
async def open_database_for_looking(data_path: Path) -> AsyncIterator[tuple[Database, Queries]]:
    """The database that is there; it and its folder stay as they are. Raises `StartFault`."""
    async with AsyncExitStack() as stack:
        try:
            database = await stack.enter_async_context(open_sqlite_for_looking(database_path(data_path)))
        except Unavailable as error:
            raise StartFault(error.detail) from error
        yield database, Queries(database.dialect)


def check_back_ends(data_path: Path, database: DatabaseOptions, bus: BusOptions) -> None:
    """Raise `StartFault` where what is configured cannot be used. Changes nothing."""
    for table, url, own in (
        ("database", database.url, "its embedded database"),
        ("bus", bus.url, "the bus within its process"),
    ):
        if url:
            raise StartFault(f"[{table}] url: this chatd runs on {own} only; leave the option out.")
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
