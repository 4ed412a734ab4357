"""Backup and restore of the embedded database: `chatd backup` beside a daemon, `chatd restore` without one.

A restored database has a new epoch, so that clients which have seen more than it holds are told to fetch history.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from chatd.backends import StartFault, database_path, hold_data_folder
from chatd.ids import new_id
from chatd.store.copies import OnProgress, copy_database, replace_database
from chatd.store.facts import Facts
from chatd.store.migrations import read_migrations, read_state
from chatd.store.queries import Queries
from chatd.store.sqlite import open_sqlite, open_sqlite_for_looking

if TYPE_CHECKING:
    from pathlib import Path

    from chatd.config import Config


async def back_up(config: Config, file: Path, on_progress: OnProgress) -> str:
    """Copy the embedded database into a new file, while a daemon uses it or not. Raises `StartFault`."""
    source = _embedded_path(config)
    if not source.exists():
        raise StartFault(f"There is no database {source} to back up.")
    try:
        size = await trio.to_thread.run_sync(copy_database, source, file, on_progress)
    except FileExistsError as error:
        raise StartFault(f"{file} is there already; a backup does not replace one: give another name.") from error
    except OSError as error:
        raise StartFault(f"{file} cannot be written: {error.strerror or error}.") from error
    return f"{file}: {size} bytes"


async def restore(config: Config, file: Path, on_progress: OnProgress) -> str:
    """Put a backup in the place of the embedded database, under a new epoch; the old one is kept beside it.

    Raises `StartFault` while a daemon runs, and for a file that is no database of a chatd; nothing is changed then.
    """
    path = _embedded_path(config)
    await _check_backup(file)
    with hold_data_folder(config.server.data_path):
        draft = path.with_name(f"{path.name}.restored")
        kept = path.with_name(f"{path.name}.replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        draft.unlink(missing_ok=True)
        try:
            await trio.to_thread.run_sync(copy_database, file, draft, on_progress)
            async with open_sqlite(draft, readers=1) as database:
                # What clients know of rooms need not be so any more: they are told to fetch history.
                await Facts(database, Queries(database.dialect)).put("epoch", new_id())
            was_there = path.exists()
            await trio.to_thread.run_sync(replace_database, path, draft, kept)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StartFault(f"{path} cannot be replaced: {error.strerror or error}.") from error
    return f"{path} is restored" + (f"; what it replaced is {kept}" if was_there else "")


async def _check_backup(file: Path) -> None:
    if not await trio.Path(file).is_file():
        raise StartFault(f"There is no file {file}.")
    async with open_sqlite_for_looking(file) as database:
        state = await read_state(database, Queries(database.dialect), read_migrations(database.dialect))
    if not state.landed:
        raise StartFault(f"{file} is no backup of a chatd.")


def _embedded_path(config: Config) -> Path:
    if config.database.url:
        raise StartFault("PostgreSQL has its own backups (pg_dump, or a base backup); docs/nodes.md says what to mind.")
    return database_path(config.server.data_path)
