"""Compares what was acknowledged with what is kept: the database as `chatd.verify` reads it, and the history as HTTP
tells it. `stays` has the diaries judged by the same database.
"""

from __future__ import annotations

import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import trio

from chatd.store.inspection import KeptMessage
from chatd.verify.findings import Findings
from chatd.verify.soundness import check_soundness
from chatd.verify.verification import open_evidence

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from tests.servers import Postgres

T = TypeVar("T")


class Kept(NamedTuple):
    """A message as it was found."""

    message_id: str
    room_id: str
    seq: int
    sender_id: str
    content: str
    key: str | None


class Promise(NamedTuple):
    """An acknowledgement: what the server said it has stored."""

    sender_id: str
    key: str
    room_id: str
    content: str
    message_id: str
    seq: int


class Change(NamedTuple):
    """A durable event that is no message, as it was found."""

    room_id: str
    seq: int
    kind: str
    body: str
    message_id: str | None


class Found(NamedTuple):
    """A whole database, as far as the promises go, and what is wrong with it by itself.

    `heads`: last seq, messages and members of each room; `source` is where it is.
    """

    source: str
    messages: list[Kept]
    events: list[Change]
    heads: dict[str, tuple[int, int, int]]
    faults: list[str]
    #: Messages that were edited or deleted, and say something else than they did.
    changed: set[str]


def run_apart(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run an async function in a loop of its own, whatever runs on this thread, which waits for it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(partial(trio.run, function, *args)).result()


def read_database(path: Path) -> Found:
    """Read a database file, also while a daemon uses it."""
    return read_source(str(path))


def read_postgres(server: Postgres, database: str) -> Found:
    """The same of a PostgreSQL."""
    return read_source(server.url(database))


def read_source(source: str) -> Found:
    """The same of what is at a path or a URL."""
    return run_apart(_read, source)


def read_last_seqs(server: Postgres, database: str) -> dict[str, int]:
    """How far each room has come in a PostgreSQL."""
    lines = server.sql("SELECT json_build_array(id, last_seq) FROM rooms", database).splitlines()
    return dict(map(json.loads, lines))


async def _read(source: str) -> Found:
    found, findings = Found(source, [], [], {}, [], set()), Findings()

    def see(kind: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if kind == "room":
            found.heads.update((room_id, (last_seq, *counts)) for room_id, _, last_seq, *counts in rows)
        elif kind == "message":
            kept = [KeptMessage(*row) for row in rows]
            found.messages.extend(
                Kept(m.id, m.room_id, m.seq, m.sender_id, m.content, m.client_message_id) for m in kept
            )
            found.changed.update(m.id for m in kept if m.edited_at is not None or m.deleted_at is not None)
        elif kind == "event":
            found.events.extend(Change(*row) for row in rows)

    async with open_evidence(source, Path()) as (inspection, _):
        after = ""
        while rooms := await inspection.rooms(after=after):
            for room in rooms:
                await inspection.visit_rows(room.id, see)
            after = rooms[-1].id
        await check_soundness(inspection, findings)
    return found._replace(faults=list(map(str, findings.faults)))


def check_database(found: Found, promises: Collection[Promise]) -> list[str]:
    """What is broken, a sentence each; none if every promise was kept."""
    return [*found.faults, *check_promises(found.messages, promises, changed=found.changed)]


def check_promises(
    messages: Collection[Kept], promises: Collection[Promise], *, changed: Collection[str] = frozenset()
) -> list[str]:
    """Every acknowledged message is there exactly once, where and as it was acknowledged, but for what was changed."""
    faults = []
    by_key: dict[tuple[str, str | None], list[Kept]] = defaultdict(list)
    for kept in messages:
        by_key[kept.sender_id, kept.key].append(kept)
    for promise in promises:
        promised = Kept(
            promise.message_id, promise.room_id, promise.seq, promise.sender_id, promise.content, promise.key
        )
        found = by_key[promise.sender_id, promise.key]
        if promise.message_id in changed:
            promised, found = promised._replace(content=""), [kept._replace(content="") for kept in found]
        if not found:
            faults.append(f"{promise.key} was acknowledged as seq {promise.seq} of {promise.room_id} and is lost")
        elif found != [promised]:
            faults.append(f"{promise.key} was acknowledged as {promised} and is {found}")
    return faults


def check_order(messages: Collection[Kept]) -> list[str]:
    """One sender's messages to a room stand in the order in which they were sent; their keys end in their number."""
    faults = []
    newest: dict[tuple[str, str], tuple[int, str]] = {}
    for kept in sorted(messages, key=lambda kept: (kept.room_id, kept.seq)):
        if kept.key is not None:
            number = int(kept.key.rpartition("-")[2])
            before, key = newest.get((kept.sender_id, kept.room_id), (0, ""))
            if number < before:
                faults.append(f"{kept.key} stands behind {key} in room {kept.room_id}")
            newest[kept.sender_id, kept.room_id] = (number, kept.key)
    return faults


def kept_of_history(messages: Collection[Mapping[str, Any]]) -> list[Kept]:
    """Messages as HTTP or a history tells them."""
    return [
        Kept(m["id"], m["roomId"], m["seq"], m["senderId"], m["content"], m.get("clientMessageId")) for m in messages
    ]
