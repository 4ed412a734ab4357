"""Exports: what of a database concerns the promises, as NDJSON, to be checked where the database is not.

Each room is as it was at one moment, while a daemon may go on. The last line says that the file is whole. To be
checked, an export becomes an embedded database of its own in a temporary folder, which no rule of the schema guards.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from chatd.records import encode_json, parse_json
from chatd.store.inspection import KINDS, Inspection, InspectionCopy
from chatd.store.queries import Queries
from chatd.store.sqlite import open_sqlite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from chatd.store.database import Row

#: The first line, and what it begins with.
VERSION: Final = 2
EXPORT_START: Final = b'{"row":"chatd-export"'
#: Rows that are added at once.
BATCH_ROWS: Final = 1000
#: Rooms that do not exist and have rows.
MAX_LOST_ROOMS: Final = 10_000


class ExportFault(Exception):
    """A file is no export, or cannot be written; `str()` is one sentence that says where."""


async def write_export(inspection: Inspection, epoch: str | None, path: Path) -> int:
    """Write an export into a new file (0600); its lines. Raises `ExportFault`, and leaves no file then."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise ExportFault(f"{path} is there already; an export does not replace one: give another name.") from None
    except OSError as error:
        raise ExportFault(f"{path} cannot be written: {error.strerror or error}.") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            return await _write(inspection, epoch, file)
    except BaseException as error:
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - the command line has nothing else to do
        if isinstance(error, OSError):
            raise ExportFault(f"{path} cannot be written: {error.strerror or error}.") from error
        raise


async def _write(inspection: Inspection, epoch: str | None, file: IO[bytes]) -> int:
    count = 0

    async def put_room(room_id: str) -> None:
        begun_at, count_before = file.tell(), count

        def put(kind: str, rows: Sequence[Row]) -> None:
            nonlocal count
            if kind == "room":
                # Perhaps once more: a transaction that was undone is run again.
                file.seek(begun_at)
                file.truncate()
                count = count_before
            put_rows(kind, rows)

        await inspection.visit_rows(room_id, put)

    def put_rows(kind: str, rows: Sequence[Row]) -> None:
        nonlocal count
        names = KINDS[kind]._fields  # type: ignore[attr-defined] # they are named tuples
        file.writelines(encode_json({"row": kind, **dict(zip(names, row, strict=True))}) + b"\n" for row in rows)
        count += len(rows)

    file.write(encode_json({"row": "chatd-export", "version": VERSION, "epoch": epoch}) + b"\n")
    after = ""
    while rooms := await inspection.rooms(after=after):
        for room in rooms:
            await put_room(room.id)
        after = rooms[-1].id
    for room_id in await inspection.lost_rooms(limit=MAX_LOST_ROOMS):
        await put_room(room_id)
    file.write(encode_json({"row": "end", "rows": count}) + b"\n")
    return count + 2


def is_export(path: Path) -> bool:
    """Whether a file begins like one. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(EXPORT_START)) == EXPORT_START


@asynccontextmanager
async def open_export(path: Path) -> AsyncIterator[tuple[Inspection, str | None]]:
    """An export as a database to inspect, with its epoch. Raises `ExportFault`."""
    with tempfile.TemporaryDirectory(prefix="chatd-verify-") as folder:
        async with open_sqlite(Path(folder) / "export.db", readers=1) as database:
            queries = Queries(database.dialect)
            copy = InspectionCopy(database, queries)
            lines = _read_lines(path)
            epoch = next(lines)[1].get("epoch")
            await copy.begin(epoch)
            kind, rows = "", list[tuple[Any, ...]]()
            for number, line in lines:
                if rows and (line["row"] != kind or len(rows) == BATCH_ROWS):
                    await copy.add(kind, rows)
                    rows = []
                kind = line["row"]
                if kind != "end":
                    rows.append(_row(path, number, line))
            await copy.end()
            yield Inspection(database, queries), epoch


def _read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """All lines with their numbers, the first and the last one as well; the file is whole."""
    number, kind = 0, ""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    line = parse_json(raw)
                    kind = line["row"]
                except (ValueError, KeyError, TypeError):
                    raise ExportFault(f"{path}:{number} is no line of an export.") from None
                if number == 1 and line.get("version") != VERSION:
                    raise ExportFault(f"{path} is an export of another chatd; verify it with that one.")
                yield number, line
    except OSError as error:
        raise ExportFault(f"{path} cannot be read: {error.strerror or error}.") from error
    if kind != "end":
        raise ExportFault(f"{path} is not whole: it ends after {number} lines; export it again.")


def _row(path: Path, number: int, line: dict[str, Any]) -> tuple[Any, ...]:
    try:
        names = KINDS[line["row"]]._fields  # type: ignore[attr-defined] # they are named tuples
        return tuple(line[name] for name in names)
    except (KeyError, TypeError):
        raise ExportFault(f"{path}:{number} is no line of an export.") from None
