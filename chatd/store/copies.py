"""Copies of an embedded database: taken while a daemon writes to it, and put in its place while none does.

A copy is one file, complete and checked before it gets its name; what a restore replaces is kept beside it. Beside
`sqlite` the second door to sqlite3, for what the port of a database does not have. Blocking, for threads.

Source: https://www.sqlite.org/backup.html, https://www.sqlite.org/wal.html#the_wal_file
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from chatd.errors import Unavailable

if TYPE_CHECKING:
    from pathlib import Path

#: Pages (4 KiB each) copied between two words about the progress.
STEP_PAGES: Final = 4096
BUSY_TIMEOUT_S: Final = 5.0
#: What SQLite keeps beside a database.
_BESIDE: Final = ("-wal", "-shm", "-journal")

#: Called with the pages that are done and all pages.
OnProgress = Callable[[int, int], None]


def copy_database(source: Path, target: Path, on_progress: OnProgress) -> int:
    """Copy a database as it is at one moment, whoever writes to it, into a new file (0600); the file's bytes.

    Raises `Unavailable` when the source cannot be read or is damaged, FileExistsError when there is a target, OSError
    when it cannot be written; there is no target then.
    """
    draft = target.with_name(f".{target.name}.part")
    os.close(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600))
    try:
        _copy(source, draft, on_progress)
        _sync(draft)
        # FileExistsError where a rename would replace.
        os.link(draft, target)
        _sync(target.parent)
        return target.stat().st_size
    finally:
        for path in (draft, *_beside(draft)):
            path.unlink(missing_ok=True)


def _copy(source: Path, draft: Path, on_progress: OnProgress) -> None:
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as old,
            closing(sqlite3.connect(draft, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as new,
        ):
            # All steps read in this one transaction, so that no writer makes the copy begin anew.
            old.execute("BEGIN")
            old.execute("PRAGMA schema_version").fetchone()
            old.backup(new, pages=STEP_PAGES, progress=lambda _, left, total: on_progress(total - left, total))
            # One file, which is complete without a log beside it.
            new.execute("PRAGMA journal_mode = DELETE")
            [fault] = new.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if "disk" in str(error) or "full" in str(error):
            raise OSError(str(error)) from error
        raise Unavailable(f"{source} cannot be read: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise Unavailable(f"{source} is damaged or no database: {error}.") from error
    if fault != "ok":
        raise Unavailable(f"{source} is damaged: {fault}.")


def replace_database(path: Path, replacement: Path, kept: Path) -> None:
    """Put `replacement` in the place of the database `path`, which stays as `kept`, with what SQLite has beside it.

    Nobody may use either. At no moment is there no database, but where the old one is too damaged to be closed well.
    """
    if path.exists():
        if _close_well(path):
            os.link(path, kept)
        else:
            for old, new in zip((path, *_beside(path)), (kept, *_beside(kept)), strict=True):
                with suppress(FileNotFoundError):
                    old.rename(new)
    replacement.replace(path)
    _sync(path.parent)


def _close_well(path: Path) -> bool:
    """Bring what is in the log into the database, so that a single file is all of it."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error:
        return False
    return not any(beside.exists() for beside in _beside(path))


def _beside(path: Path) -> list[Path]:
    return [path.with_name(path.name + ending) for ending in _BESIDE]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
