"""`chatd verify`: logs and a database in, what is broken out, or that all holds and over how much.

The logs' ends are noted first and the database is read afterwards, so both may still grow meanwhile: whatever a log
tells of had been stored before.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from chatd.backends import StartFault, database_path, open_database
from chatd.config import DatabaseOptions, Secret
from chatd.store.facts import Facts
from chatd.store.inspection import Inspection
from chatd.store.migrations import read_migrations, read_state
from chatd.store.queries import Queries
from chatd.store.sqlite import open_sqlite_for_looking
from chatd.verify.clients import find_ends, judge_logs
from chatd.verify.exports import is_export, open_export, write_export
from chatd.verify.log import LogFault
from chatd.verify.soundness import check_soundness
from chatd.verify.truth import Truth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from chatd.store.database import Database
    from chatd.verify.findings import Findings
    from chatd.verify.stays import Rules

#: Seconds that PostgreSQL may take over the numbers of one room, and those for which this process may be held up
#: meanwhile, by the disk that an export goes to, say. It holds no locks.
TIMEOUT_S: Final = 60.0
PAUSE_S: Final = 3600.0
POSTGRES: Final = ("postgres://", "postgresql://")
SQLITE_START: Final = b"SQLite format 3\0"


class Evidence(NamedTuple):
    """A database to check logs by: how it can be inspected, and its epoch if it says one."""

    inspection: Inspection
    epoch: str | None


async def verify(
    logs: Sequence[Path], source: str | DatabaseOptions, rules: Rules, *, data_path: Path, findings: Findings
) -> None:
    """Check logs, and the database by itself.

    `source` is the path of a database's file or an export, a URL, or what is configured. Raises `LogFault`,
    `ExportFault`, `StartFault`, `SchemaFault` and `Unavailable`.
    """
    ends = await trio.to_thread.run_sync(find_ends, logs)
    async with open_evidence(source, data_path) as evidence:
        await trio.to_thread.run_sync(judge_logs, ends, Truth(*evidence), findings, rules)
        await check_soundness(evidence.inspection, findings)


async def export(source: str | DatabaseOptions, path: Path, *, data_path: Path) -> str:
    """Write an export; what to print. Raises as `verify`."""
    async with open_evidence(source, data_path) as evidence:
        lines = await write_export(*evidence, path)
    return f"{path}: {lines} lines"


@asynccontextmanager
async def open_evidence(source: str | DatabaseOptions, data_path: Path) -> AsyncIterator[Evidence]:
    """The database, only to be read, also while daemons use it."""
    async with AsyncExitStack() as stack:
        if isinstance(source, str) and not source.startswith(POSTGRES):
            path = Path(source)
            if _is_export(path):
                yield Evidence(*await stack.enter_async_context(open_export(path)))
                return
            database: Database = await stack.enter_async_context(_open_file(path))
        elif isinstance(source, DatabaseOptions) and not source.url:
            source = str(database_path(data_path))
            database = await stack.enter_async_context(_open_file(Path(source)))
        else:
            url = Secret(source) if isinstance(source, str) else source.url
            options = DatabaseOptions(url=url, pool_min=1, pool_max=2, timeout_s=TIMEOUT_S)
            database, _ = await stack.enter_async_context(open_database(data_path, options, pause_s=PAUSE_S))
        queries = Queries(database.dialect)
        state = await read_state(database, queries, read_migrations(database.dialect))
        if not state.landed:
            raise StartFault("This is no database of a chatd: it has none of its tables.")
        yield Evidence(Inspection(database, queries), await Facts(database, queries).get("epoch"))


def _is_export(path: Path) -> bool:
    try:
        return is_export(path)
    except OSError as error:
        raise StartFault(f"{path} cannot be read: {error.strerror or error}.") from error


@asynccontextmanager
async def _open_file(path: Path) -> AsyncIterator[Database]:
    try:
        with path.open("rb") as file:
            is_database = file.read(len(SQLITE_START)) == SQLITE_START
    except OSError as error:
        raise StartFault(f"The database {path} cannot be read: {error.strerror or error}.") from error
    if not is_database:
        raise StartFault(f"{path} is neither a database's file nor an export of one.")
    wal, index = (path.with_name(path.name + ending) for ending in ("-wal", "-shm"))
    if wal.exists() and wal.stat().st_size and not index.exists():
        raise StartFault(
            f"{path} has a log beside it and no index of that: start its daemon once, or `chatd backup` it."
        )
    async with open_sqlite_for_looking(path) as database:
        yield database


def find_logs(names: Sequence[Path]) -> list[Path]:
    """Logs by their names, and all in a folder (`*.ndjson`) by its. Raises `LogFault` where there is none."""
    found: list[Path] = []
    for name in names:
        if name.is_dir():
            logs = sorted(name.glob("*.ndjson"))
            if not logs:
                raise LogFault(f"There is no log (*.ndjson) in the folder {name}.")
            found += logs
        elif name.exists():
            found.append(name)
        else:
            raise LogFault(f"There is no log {name}.")
    return found
