"""How a batch of the journal's entries becomes rows: the statements of one commit, in order.

Messages alone are one statement, where the database has such a thing. Everything else goes through a transaction that
locks the batch's rooms first: what is read behind that is true when it is stored. Called by `journal`, which decides
what is in a batch and tells what became of it.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from chatd.records import encode_json, parse_json
from chatd.store.acts import Act, Scene, play, read_standings
from chatd.store.entries import (
    Batch,
    Entry,
    Head,
    MembershipChange,
    Numbered,
    Post,
    Repeat,
    Standing,
    Stored,
    no_such_room,
    number_batch,
    rows_of_heads,
    rows_of_posts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.store.database import Database, Transaction
    from chatd.store.queries import Queries


class Batches:
    """Stores batches. `max_members` bounds every room, 0 for any number."""

    def __init__(self, database: Database, queries: Queries, *, max_members: int) -> None:
        self._database = database
        self._queries = queries
        self.max_members = max_members
        # Stores messages in one statement, where the database has such a thing.
        self._post = queries.find("journal.post")
        # Locks rooms, where others may lock some as well.
        self._lock = queries.find("journal.lock")

    async def store(self, entries: Sequence[Entry | Act], *, now_ms: int) -> Numbered:
        """Make a batch durable, all of it or nothing. Raises `Conflict`, `Unavailable`, and an act's `Refusal`."""
        numbered = await self._store_posts(entries, now_ms)
        if numbered is None:
            numbered = await self._database.transaction(lambda tx: self._store(tx, entries, now_ms))
        return numbered

    async def _store_posts(self, entries: Sequence[Entry | Act], now_ms: int) -> Numbered | None:
        """Store a batch of messages in one statement; `None`, and nothing stored, where that does not do."""
        if self._post is None or (posts := _posts_only(entries)) is None or (rows := rows_of_posts(posts)) is None:
            return None
        row = await self._database.write(self._post, {"messages": _json(rows), "now": now_ms})
        assert row is not None
        found, has_obstacle = row
        if has_obstacle:
            return None
        # The statement has seen that each of them may send.
        standings = {(post.room_id, post.sender_id): Standing("member") for post in posts}
        return number_batch(Batch(posts, _heads(found), {}, standings, self.max_members, now_ms))

    async def _store(self, tx: Transaction, entries: Sequence[Entry | Act], now_ms: int) -> Numbered:
        stored = Numbered()
        rooms = dict.fromkeys(entry.room_id for entry in entries)
        if self._lock is not None and len(rooms) > 1 and any(isinstance(entry, Act) for entry in entries):
            # One after the other, as they come, acts of two nodes would lock them crosswise.
            await tx.rows(self._lock, {"rooms": _json(list(rooms))})
        for is_act, group in groupby(entries, key=lambda entry: isinstance(entry, Act)):
            if is_act:
                for act in group:
                    assert isinstance(act, Act)
                    await self._store_act(tx, act, stored, now_ms)
            else:
                part = await self._store_entries(tx, [e for e in group if not isinstance(e, Act)], now_ms)
                stored.outcomes += part.outcomes
                stored.events += part.events
        return stored

    async def _store_act(self, tx: Transaction, act: Act, stored: Numbered, now_ms: int) -> None:
        heads, _ = await self._read_heads(tx, [act])
        head = heads.get(act.room_id, act.head)
        if head is None:
            stored.outcomes.append(no_such_room())
            return
        scene = Scene(tx, self._queries, act.room_id, head, now_ms=now_ms)
        if (refusal := await play(act, scene)) is not None:
            stored.outcomes.append(refusal)
            return
        if scene.event_rows:
            await tx.run(self._queries["journal.add_events"], {"events": _json(scene.event_rows)})
        if scene.has_written and act.head is None:
            await tx.run(self._queries["journal.advance_rooms"], {"heads": _json(rows_of_heads([act.room_id], heads))})
        stored.outcomes.append(Stored("", act.room_id, head.last_seq, now_ms, duplicate=not scene.events))
        stored.events += scene.events

    async def _store_entries(self, tx: Transaction, entries: Sequence[Entry], now_ms: int) -> Numbered:
        heads, repeats = await self._read_heads(tx, entries)
        keys = dict.fromkeys((entry.room_id, _user_of(entry)) for entry in entries)
        standings = await read_standings(tx, self._queries, list(keys))
        numbered = number_batch(Batch(entries, heads, repeats, standings, self.max_members, now_ms))
        for name, parameter, rows in (
            ("journal.add_messages", "messages", numbered.message_rows),
            ("journal.add_events", "events", numbered.event_rows),
            ("journal.remove_members", "members", numbered.left_rows),
            ("journal.add_members", "members", numbered.joined_rows),
            ("journal.note_posts", "posts", numbered.posted_rows),
            ("journal.advance_rooms", "heads", rows_of_heads(numbered.changed_rooms, heads)),
        ):
            if rows:
                await tx.run(self._queries[name], {parameter: _json(rows)})
        return numbered

    async def _read_heads(
        self, tx: Transaction, entries: Sequence[Entry | Act]
    ) -> tuple[dict[str, Head], dict[tuple[str, str], Repeat]]:
        rooms = list({entry.room_id for entry in entries})
        keys = [
            (entry.sender_id, entry.client_message_id)
            for entry in entries
            if isinstance(entry, Post) and entry.client_message_id is not None
        ]
        row = await tx.row(self._queries["journal.heads"], {"rooms": _json(rooms), "keys": _json(keys)})
        assert row is not None
        repeats = {(sender, key): Repeat(*repeat) for sender, key, *repeat in parse_json(row[1])}
        return _heads(row[0]), repeats


def _posts_only(entries: Sequence[Entry | Act]) -> list[Post] | None:
    posts = [entry for entry in entries if isinstance(entry, Post)]
    return posts if len(posts) == len(entries) else None


def _user_of(entry: Post | MembershipChange) -> str:
    return entry.sender_id if isinstance(entry, Post) else entry.user_id


def _heads(found: str) -> dict[str, Head]:
    return {room_id: Head(*head) for room_id, *head in parse_json(found)}


def _json(rows: object) -> str:
    return encode_json(rows).decode()
