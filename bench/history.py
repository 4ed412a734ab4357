"""How long a page of history, a search and a send take in a room of a million messages, beside one of ten thousand, in
one run.

    python -m bench.history                                 # SQLite, then PostgreSQL if it is there: some minutes
    python -m bench.history --sizes 1000,10000,100000 --rounds 50

Pages are read by chatd's own store and messages stored by its journal, without a daemon, so that nothing of constant
cost is in the figures. The rooms take turns, so that a disturbance hits all. The ratio of the largest room's median to
the smallest's is what counts; at 2.0 a row has failed. The row `history` of the bench runs this with rooms up to ten
million.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio
from rich.console import Console
from rich.table import Table

from bench import machine, postgres
from bench.seed import uuid7
from chatd.asyncio_loop import open_asyncio_loop
from chatd.clock import wall_clock_ms
from chatd.metrics import Metrics
from chatd.store.entries import Post
from chatd.store.journal import Journal, JournalOptions, open_journal
from chatd.store.messages import NO_SEQ, Messages
from chatd.store.migrations import migrate, read_migrations
from chatd.store.postgres import open_postgres
from chatd.store.queries import Queries, Query
from chatd.store.search import Search
from chatd.store.search_index import open_search_index
from chatd.store.sqlite import open_sqlite
from chatd.store.words import phrases_of

if TYPE_CHECKING:
    from chatd.store.database import Database, Transaction

SIZES = (10_000, 1_000_000)
PAGE = 51
#: A row whose pages take so many times as long in the larger room has failed.
MOST = 2.0
#: Messages that one transaction writes.
CHUNK = 50_000
WRITERS = 100
#: Every so many messages one is a reply to the first of its thousand, one has reactions, one is pinned.
REPLIES, REACTED, PINNED = 50, 20, 200

USER = """INSERT INTO users (id, email, username, username_key, password_hash, created_at, updated_at)
          VALUES (:id, :id, :id, :id, '', 1, 1)"""
ROOM = """INSERT INTO rooms (id, kind, name, created_at, updated_at, last_seq, message_count)
          VALUES (:id, 'public', 'history', 1, 1, :messages, :messages)"""
NUMBERS = {
    "sqlite": "WITH RECURSIVE n (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM n WHERE n < :last)",
    "postgres": "WITH n (n) AS (SELECT generate_series(CAST(:first AS bigint), CAST(:last AS bigint)))",
}
MEMBER = """INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq)
            VALUES (:room_id, 'user0', 'member', 1, 0)"""
FILL = """INSERT INTO messages (id, room_id, seq, count_in_room, sender_id, message_type, content, reply_to, created_at,
                      pinned_at, reactions)
{numbers}
SELECT :room_id || '-' || n, :room_id, n, n, 'user' || (n % {writers}), 'text',
       'This is message ' || n || ' of a long conversation about all sorts of things.',
       CASE WHEN n % {replies} = 1 AND n > 1
            THEN :room_id || '-' || CASE WHEN n < 1000 THEN 1 ELSE n - n % 1000 END END, n,
       CASE WHEN n % {pinned} = 0 AND n <= {pinned} * 50 THEN n END,
       CASE WHEN n % {reacted} = 0 THEN '[{{"emoji":"+","count":1,"userIds":["user1"]}}]' END
FROM n"""


class Room(NamedTuple):
    """A room that is filled."""

    id: str
    messages: int


class Reader(NamedTuple):
    """What of the store is measured."""

    messages: Messages
    search: Search
    journal: Journal


Read = Callable[[Reader, Room, random.Random], Awaitable[object]]


async def _newest(reader: Reader, room: Room, _: random.Random) -> Sequence[object]:
    return await reader.messages.before(room.id, NO_SEQ, limit=PAGE)


async def _middle(reader: Reader, room: Room, rand: random.Random) -> Sequence[object]:
    middle = room.messages // 2 + rand.randrange(room.messages // 10)
    return await reader.messages.before(room.id, middle, limit=PAGE)


async def _backwards(reader: Reader, room: Room, rand: random.Random) -> Sequence[object]:
    return await reader.messages.before(room.id, rand.randrange(PAGE, room.messages), limit=PAGE)


async def _forwards(reader: Reader, room: Room, rand: random.Random) -> Sequence[object]:
    return await reader.messages.after(room.id, rand.randrange(room.messages - PAGE), limit=PAGE)


async def _thread(reader: Reader, room: Room, rand: random.Random) -> Sequence[object]:
    root = 1000 * rand.randrange(room.messages // 1000) or 1
    return await reader.messages.replies_after(room.id, f"{room.id}-{root}", 0, limit=PAGE)


async def _pins(reader: Reader, room: Room, _: random.Random) -> Sequence[object]:
    return await reader.messages.pinned(room.id, limit=PAGE)


async def _replay(reader: Reader, room: Room, rand: random.Random) -> Sequence[object]:
    return await reader.messages.events_after(room.id, rand.randrange(room.messages - PAGE), PAGE)


async def _rare_word(reader: Reader, room: Room, rand: random.Random) -> Sequence[object]:
    return await _find(reader, room, str(rand.randrange(1, room.messages)))


async def _frequent_word(reader: Reader, room: Room, _: random.Random) -> Sequence[object]:
    return await _find(reader, room, "conversation")


async def _find(reader: Reader, room: Room, query: str) -> Sequence[object]:
    phrases = phrases_of(query)
    return await reader.search.find("user0", phrases, room_id=room.id, sender_id="", limit=PAGE, timeout_s=60)


async def _send(reader: Reader, room: Room, _: random.Random) -> object:
    return await reader.journal.write(Post(room.id, "user0", "user0", "text", "One more.", settle=lambda _: None))


READS: dict[str, Read] = {
    "the newest page": _newest,
    "a page from the middle": _middle,
    "a page before a cursor": _backwards,
    "a page after a cursor": _forwards,
    "a thread": _thread,
    "pins": _pins,
    "missed events": _replay,
    "a search for a rare word": _rare_word,
    "a search for a frequent word": _frequent_word,
    "a message sent": _send,
}


class Row(NamedTuple):
    """What one kind of page took in each room, the smallest first, in ms: medians, and the slowest hundredth."""

    name: str
    medians_ms: Sequence[float]
    p99_ms: Sequence[float]

    @property
    def ratio(self) -> float:
        return self.medians_ms[-1] / self.medians_ms[0]


async def fill(database: Database, room: Room, report: Callable[[int], None]) -> None:
    """Make a room with its messages."""
    params = {"writers": WRITERS, "replies": REPLIES, "pinned": PINNED, "reacted": REACTED}
    text = FILL.format(numbers=NUMBERS[database.dialect], **params)
    add: dict[str, str | int] = {"id": room.id, "messages": room.messages}
    await database.transaction(lambda tx: tx.run(Query("bench.room", ROOM), add))
    await database.transaction(lambda tx: tx.run(Query("bench.member", MEMBER), {"room_id": room.id}))
    for first in range(1, room.messages + 1, CHUNK):
        last = min(first + CHUNK - 1, room.messages)
        stretch: dict[str, str | int] = {"room_id": room.id, "first": first, "last": last}
        await database.transaction(partial(_run, query=Query("bench.fill", text), params=stretch))
        report(last)


async def _run(tx: Transaction, *, query: Query, params: dict[str, str | int]) -> int:
    return await tx.run(query, params)


async def index(database: Database, queries: Queries, report: Callable[[str], None]) -> None:
    """Have every message read into the search index."""
    async with open_search_index(database, queries, metrics=Metrics(), per_second=10**9):
        while rows := await database.rows(queries["search.behind"], {"after": "", "limit": 1}):
            report(f"{database.dialect}: {len(rows)} rooms to be indexed")
            await trio.sleep(0.5)


async def measure(reader: Reader, rooms: Sequence[Room], *, rounds: int) -> list[Row]:
    """Read every kind of page of all rooms in turn."""
    rows = []
    rand = random.Random(1)
    for name, read in READS.items():
        took: dict[Room, list[float]] = {room: [] for room in rooms}
        for number in range(rounds + rounds // 10 + 1):
            for room in rooms if number % 2 else reversed(rooms):
                began = time.perf_counter()
                found = await read(reader, room, rand)
                seconds = time.perf_counter() - began
                assert found, f"{name}: nothing was found"
                # The first ones find nothing in memory.
                if number > rounds // 10:
                    took[room].append(1000 * seconds)
        medians = [statistics.median(took[room]) for room in rooms]
        slowest = [sorted(took[room])[-max(1, rounds // 100)] for room in rooms]
        rows.append(Row(name, medians, slowest))
    return rows


@asynccontextmanager
async def open_filled(
    database: Database, sizes: Sequence[int], console: Console
) -> AsyncIterator[tuple[Reader, Sequence[Room]]]:
    """A migrated database with a room of each size."""
    queries = Queries(database.dialect)
    await migrate(database, queries, read_migrations(database.dialect))
    for number in range(WRITERS):
        await database.transaction(partial(_run, query=Query("bench.user", USER), params={"id": f"user{number}"}))
    rooms = [Room(uuid7(), count) for count in sizes]
    began = time.perf_counter()
    for room in rooms:
        with console.status(f"{database.dialect}: filling a room with {room.messages} messages") as status:
            await fill(database, room, lambda last: status.update(f"{database.dialect}: {last} messages"))
    with console.status(f"{database.dialect}: indexing") as status:
        await index(database, queries, status.update)
    await database.transaction(lambda tx: tx.script("ANALYZE"))
    console.print(f"{database.dialect}: filled in {time.perf_counter() - began:.1f} s")
    async with open_journal(
        database, queries, JournalOptions(), clock=wall_clock_ms, metrics=Metrics(), publish=lambda _: None
    ) as journal:
        yield Reader(Messages(database, queries), Search(database, queries), journal), rooms


async def run(kind: str, url: str, options: argparse.Namespace, console: Console) -> list[Row]:
    """Measure one kind of database; `url` is a folder or a PostgreSQL."""
    if kind == "sqlite":
        async with (
            open_sqlite(Path(url) / "chatd.db", readers=2) as database,
            open_filled(database, options.sizes, console) as (reader, rooms),
        ):
            return await measure(reader, rooms, rounds=options.rounds)
    async with (
        open_asyncio_loop(),
        open_postgres(url, pool_min=1, pool_max=3, timeout_s=600) as opened,
        open_filled(opened, options.sizes, console) as (reader, rooms),
    ):
        return await measure(reader, rooms, rounds=options.rounds)


def print_rows(kind: str, rows: Sequence[Row], sizes: Sequence[int], console: Console) -> None:
    table = Table(title=f"{kind}: milliseconds a page of {PAGE}, median (slowest hundredth)")
    for heading in ("", *(f"{size:,}" for size in sizes), "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        times = (f"{median:.2f} ({p99:.2f})" for median, p99 in zip(row.medians_ms, row.p99_ms, strict=True))
        table.add_row(row.name, *times, f"{row.ratio:.2f}")
    console.print(table)


def sizes_of(text: str) -> list[int]:
    """Ascending sizes of rooms from "1000,10000", each a thousand or more, so that there is a page of every kind."""
    sizes = sorted(int(part) for part in text.split(","))
    if len(sizes) < 2 or sizes[0] < 1000:
        raise ValueError(text)
    return sizes


def main(arguments: Sequence[str]) -> int:
    """0: every page of the largest room took less than twice that of the smallest one; 1: some took longer."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--sizes", type=sizes_of, default=list(SIZES), metavar="N,N", help="messages in each room (10000,1000000)"
    )
    parser.add_argument("--rounds", type=int, default=300, metavar="N", help="pages of each kind (%(default)s)")
    parser.add_argument("--postgres", metavar="URL", help="an empty database to use instead of a private server's")
    parser.add_argument("--only", choices=("sqlite", "postgres"), help="one kind of database")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    kinds = [options.only] if options.only else ["sqlite", "postgres"]
    found: dict[str, list[Row]] = {}
    for kind in kinds:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatd-history-")))
            url = str(folder)
            if kind == "postgres":
                url = options.postgres or _open_postgres(stack, folder)
            rows = trio.run(run, kind, url, options, console)
        print_rows(kind, rows, options.sizes, console)
        found[kind] = rows
    if options.json:
        said = {kind: [row._asdict() for row in rows] for kind, rows in found.items()}
        options.json.write_text(json.dumps({"sizes": options.sizes, "rows": said}))
    return int(any(row.ratio >= MOST for rows in found.values() for row in rows))


def _open_postgres(stack: ExitStack, folder: Path) -> str:
    if (lacking := postgres.ensure_installed()) is not None:
        raise SystemExit(lacking)
    # Its server runs as a user of its own, who has to get there.
    folder.chmod(0o755)
    return stack.enter_context(postgres.open_postgres(folder, cores=machine.cores().database)).url


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
