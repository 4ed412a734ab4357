"""Compares what clients were promised with what is kept: the database itself, and the history as HTTP tells it."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from tests.torture.client import Promise


class Kept(NamedTuple):
    """A message as it was found."""

    message_id: str
    room_id: str
    seq: int
    sender_id: str
    content: str
    key: str | None


class Found(NamedTuple):
    """A whole database, as far as the promises go."""

    messages: list[Kept]
    events: list[tuple[str, int]]
    heads: dict[str, tuple[int, int, int]]
    members: Counter[str]
    counts: dict[str, list[int]]


def read_database(path: Path) -> Found:
    """Read a database file past the daemon and its code."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT id, room_id, seq, sender_id, content, client_message_id, count_in_room FROM messages ORDER BY seq"
        ).fetchall()
        counts: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            counts[row[1]].append(row[6])
        heads = connection.execute("SELECT id, last_seq, message_count, member_count FROM rooms").fetchall()
        return Found(
            messages=[Kept(*row[:6]) for row in rows],
            events=connection.execute("SELECT room_id, seq FROM room_events").fetchall(),
            heads={room_id: (last_seq, messages, members) for room_id, last_seq, messages, members in heads},
            members=Counter(room_id for (room_id,) in connection.execute("SELECT room_id FROM room_members")),
            counts=counts,
        )


def check_database(found: Found, promises: Collection[Promise]) -> list[str]:
    """What is broken, a sentence each; none if every promise was kept."""
    return [*_check_numbers(found), *_check_keys(found.messages), *check_promises(found.messages, promises)]


def _check_numbers(found: Found) -> list[str]:
    """Messages and events of a room are together 1 to its last seq, and its counts are those of its rows."""
    faults = []
    seqs: dict[str, Counter[int]] = defaultdict(Counter)
    for room_id, seq in (*((kept.room_id, kept.seq) for kept in found.messages), *found.events):
        seqs[room_id][seq] += 1
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
        if member_count != found.members[room_id]:
            faults.append(f"room {room_id} says it has {member_count} members and has {found.members[room_id]}")
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
