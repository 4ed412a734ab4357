"""The schema's history: numbered pairs of up and down scripts in `sql/migrations`, each landed in one transaction.

What landed is kept with a checksum of its text, so that a migration that was changed afterwards, or a database from a
newer chatd, is found out before anything is touched. `serve`, `check` and `chatd migrate` use it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from chatd.store.sqlfiles import sql_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.store.database import Database, Params, Transaction
    from chatd.store.queries import Queries

_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>\w+)\.(?P<way>up|down)(\.(?P<dialect>\w+))?\.sql")


class SchemaFault(Exception):
    """The database's schema and this chatd do not fit together; `str()` is one sentence that says how."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. `checksum` is the SHA-256 of the text that brings it up."""

    version: int
    name: str
    up: str = field(repr=False)
    down: str = field(repr=False)

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.up.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Where a database stands: what has landed, and what waits."""

    landed: Sequence[Migration]
    waiting: Sequence[Migration]

    @property
    def version(self) -> int:
        return self.landed[-1].version if self.landed else 0


def read_migrations(dialect: str) -> list[Migration]:
    """Every migration of this chatd in order; a file for the dialect wins over the shared one."""
    texts: dict[tuple[int, str, str], str] = {}
    for file in sorted((sql_root() / "migrations").iterdir(), key=lambda file: len(file.name)):
        found = _FILE.fullmatch(file.name)
        if found and found["dialect"] in (None, dialect):
            texts[int(found["version"]), found["name"], found["way"]] = file.read_text("utf-8")
    steps = sorted({(version, name) for version, name, _ in texts})
    return [
        Migration(version, name, texts[version, name, "up"], texts[version, name, "down"]) for version, name in steps
    ]


async def read_state(database: Database, queries: Queries, migrations: Sequence[Migration]) -> SchemaState:
    """Compare the database with this chatd. Changes nothing: a database without a record is one without a schema.

    Raises `SchemaFault` for a database from the future and for a landed migration that was changed.
    """
    known = {migration.version: migration for migration in migrations}
    landed = []
    has_record = await database.row(queries["schema.has_record"], {}) is not None
    for version, name, checksum in await database.rows(queries["schema.landed"], {}) if has_record else ():
        migration = known.get(version)
        if migration is None:
            raise SchemaFault(
                f"The database is from the future: it has migration {version:04d} ({name}), this chatd knows up to "
                f"{max(known, default=0):04d}; install the newer chatd again."
            )
        if migration.checksum != checksum:
            raise SchemaFault(
                f"Migration {version:04d} ({name}) was changed after it had landed; restore its file, and put the "
                "change into a new migration."
            )
        landed.append(migration)
    done = {migration.version for migration in landed}
    return SchemaState(landed, [migration for migration in migrations if migration.version not in done])


async def migrate(
    database: Database, queries: Queries, migrations: Sequence[Migration], *, to: int | None = None
) -> list[str]:
    """Bring the schema up or down to version `to` (default: the newest); what was done, a line each.

    Each step is one transaction with its entry in the record, and left out if another node has taken it meanwhile.
    Raises `SchemaFault`.
    """
    state = await read_state(database, queries, migrations)
    target = max((migration.version for migration in migrations), default=0) if to is None else to
    if target != 0 and target not in {migration.version for migration in migrations}:
        raise SchemaFault(f"There is no migration {target:04d}; `chatd migrate status` lists them.")
    down = [migration for migration in reversed(state.landed) if migration.version > target]
    up = [migration for migration in state.waiting if migration.version <= target]
    await database.transaction(partial(_make_record, queries))
    done = [
        f"down {migration.version:04d} {migration.name}"
        for migration in down
        if await database.transaction(partial(_take_down, queries, migration))
    ]
    done += [
        f"up {migration.version:04d} {migration.name}"
        for migration in up
        if await database.transaction(partial(_bring_up, queries, migration))
    ]
    return done


async def _make_record(queries: Queries, tx: Transaction) -> None:
    await _lock(queries, tx)
    await tx.run(queries["schema.create_record"], {})


async def _take_down(queries: Queries, migration: Migration, tx: Transaction) -> bool:
    await _lock(queries, tx)
    if migration.version not in await _landed(queries, tx):
        return False
    await tx.script(migration.down)
    await tx.run(queries["schema.forget"], {"version": migration.version})
    return True


async def _bring_up(queries: Queries, migration: Migration, tx: Transaction) -> bool:
    await _lock(queries, tx)
    if migration.version in await _landed(queries, tx):
        return False
    await tx.script(migration.up)
    entry: Params = {"version": migration.version, "name": migration.name, "checksum": migration.checksum}
    await tx.run(queries["schema.remember"], entry)
    return True


async def _lock(queries: Queries, tx: Transaction) -> None:
    """Keep other nodes from changing the schema until the end of the transaction, however long theirs take."""
    await tx.script(queries["schema.lock"].text)


async def _landed(queries: Queries, tx: Transaction) -> set[int]:
    return {version for version, *_ in await tx.rows(queries["schema.landed"], {})}
