"""Compares what was acknowledged with what is kept: the database itself, and the history as HTTP tells it.

`stays` compares what clients were told; both are given what was read here, past the daemon and its code.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from tests.servers import Postgres


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


class Found(NamedTuple):
    """A whole database, as far as the promises go. `heads`: last seq, messages and members of each room."""

    messages: list[Kept]
    events: list[Change]
    heads: dict[str, tuple[int, int, int]]
    members: set[tuple[str, str]]
    counts: dict[str, list[int]]


#: What is read of each table.
TABLES: Final = {
    "messages": "id, room_id, seq, sender_id, content, client_message_id, count_in_room",
    "room_events": "room_id, seq, kind, body",
    "rooms": "id, last_seq, message_count, member_count",
    "room_members": "room_id, user_id",
}


def read_database(path: Path) -> Found:
    """Read a database file past the daemon and its code."""
    with closing(sqlite3.connect(path)) as connection:
        return _found(
            {
                table: [list(row) for row in connection.execute(f"SELECT {columns} FROM {table}")]
                for table, columns in TABLES.items()
            }
        )


def read_postgres(server: Postgres, database: str) -> Found:
    """The same of a PostgreSQL, by psql."""
    return _found(
        {
            table: [
                json.loads(line)
                for line in server.sql(f"SELECT json_build_array({columns}) FROM {table}", database).splitlines()
            ]
            for table, columns in TABLES.items()
        }
    )


def read_last_seqs(server: Postgres, database: str) -> dict[str, int]:
    """How far each room has come in a PostgreSQL."""
    lines = server.sql("SELECT json_build_array(id, last_seq) FROM rooms", database).splitlines()
    return dict(map(json.loads, lines))


def _found(tables: dict[str, list[list[Any]]]) -> Found:
    counts: dict[str, list[int]] = defaultdict(list)
    messages = sorted(tables["messages"], key=lambda row: (row[1], row[2]))
    for row in messages:
        counts[row[1]].append(row[6])
    return Found(
        messages=[Kept(*row[:6]) for row in messages],
        events=sorted(Change(*row) for row in tables["room_events"]),
        heads={room_id: (last_seq, messages, members) for room_id, last_seq, messages, members in tables["rooms"]},
        members={(room_id, user_id) for room_id, user_id in tables["room_members"]},
        counts=counts,
    )


def check_database(found: Found, promises: Collection[Promise]) -> list[str]:
    """What is broken, a sentence each; none if every promise was kept."""
    return [*_check_numbers(found), *_check_keys(found.messages), *check_promises(found.messages, promises)]


def _check_numbers(found: Found) -> list[str]:
    """Messages and events of a room are together 1 to its last seq, and its counts are those of its rows."""
    faults = []
    seqs: dict[str, Counter[int]] = defaultdict(Counter)
    members = Counter(room_id for room_id, _ in found.members)
    for kept in found.messages:
        seqs[kept.room_id][kept.seq] += 1
    for change in found.events:
        seqs[change.room_id][change.seq] += 1
    for room_id, (last_seq, message_count, member_count) in found.heads.items():
        of_room = seqs[room_id]
        holes = [seq for seq in range(1, last_seq + 1) if not of_room[seq]]
        repeats = [seq for seq, times in of_room.items() if times > 1]
        beyond = [seq for seq in of_room if not 1 <= seq <= last_seq]
        counted = found.counts.get(room_id, [])
        if holes:
            faults.append(f"room {room_id} has holes at {holes[:20]} of {last_seq}")
        if repeats:
            faults.append(f"room {room_id} has the numbers {repeats[:20]} more than once")
        if beyond:
            faults.append(f"room {room_id} ends at {last_seq} and has the numbers {beyond[:20]}")
        if counted != list(range(1, message_count + 1)):
            faults.append(
                f"room {room_id} says it has {message_count} messages and has {len(counted)}, or not in order"
            )
        if member_count != members[room_id]:
            faults.append(f"room {room_id} says it has {member_count} members and has {members[room_id]}")
    faults += [f"room {room_id} does not exist and has numbers" for room_id in seqs if room_id not in found.heads]
    return faults


def _check_keys(messages: Collection[Kept]) -> list[str]:
    keys = Counter((kept.sender_id, kept.key) for kept in messages if kept.key is not None)
    return [f"{key} of {sender} is stored {times} times" for (sender, key), times in keys.items() if times > 1]


def check_promises(messages: Collection[Kept], promises: Collection[Promise]) -> list[str]:
    """Every acknowledged message is there exactly once, where and as it was acknowledged."""
    faults = []
    by_key: dict[tuple[str, str | None], list[Kept]] = defaultdict(list)
    for kept in messages:
        by_key[kept.sender_id, kept.key].append(kept)
    for promise in promises:
        promised = Kept(
            promise.message_id, promise.room_id, promise.seq, promise.sender_id, promise.content, promise.key
        )
        found = by_key[promise.sender_id, promise.key]
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
