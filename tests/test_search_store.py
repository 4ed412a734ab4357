"""The index of messages and what is found in it, on both databases: who may find what, in what words, how fresh."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from chatd.errors import Refusal
from chatd.ids import new_id
from chatd.metrics import Metrics
from chatd.store import search_index as search_index_module
from chatd.store.queries import Query
from chatd.store.search import Search
from chatd.store.search_index import open_search_index
from chatd.store.search_terms import NEAR, STRETCH_BITS, entry_of, windows_of
from chatd.store.words import phrases_of, words_of
from tests.stores import Store, join, open_store, post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from chatd.bus.port import Event
    from chatd.store.accounts import Account
    from chatd.store.database import Params, Row, Transaction
    from chatd.store.search import Found
    from chatd.store.search_index import SearchIndex
    from tests.stores import Written

pytestmark = pytest.mark.usefixtures("quick_index")


@pytest.fixture
def quick_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_index_module, "PAUSE_S", 0.005)
    monkeypatch.setattr(search_index_module, "LET_OTHERS_S", 0.005)
    monkeypatch.setattr(search_index_module, "RETRY_S", 0.02)


@dataclass
class Indexed:
    """A store that is followed by an index."""

    store: Store
    written: Written
    index: SearchIndex
    metrics: Metrics
    search: Search

    async def write(self, sender: Account, room_id: str, *contents: str) -> list[str]:
        """Store messages; their ids."""
        return [(await self.written.journal.write(post(sender, room_id, content))).message_id for content in contents]

    async def change(self, statement: str) -> None:
        """Change messages as an edit or a deletion does, in a transaction of its own."""
        await self.store.database.transaction(lambda tx: tx.run(Query("test.change", statement), {}))

    async def follow(self) -> None:
        """Wait until the index has read everything."""
        with trio.fail_after(30):
            while (
                await self.store.database.rows(self.store.queries["search.behind"], {"after": "", "limit": 1})
                or await self.rows("SELECT seq FROM search_changes")
            ):  # fmt: skip
                for room_id in [row[0] for row in await self.rows("SELECT id FROM rooms")]:
                    self.index.note(cast("Event", _Noted("new_message", room_id)))
                await trio.sleep(0.005)

    async def rows(self, statement: str) -> list[Row]:
        return await self.store.database.rows(Query("test.rows", statement), {})

    async def find(self, user: Account, query: str, *, room_id: str = "", sender_id: str = "") -> list[Found]:
        return await self.search.find(
            user.id, phrases_of(query), room_id=room_id, sender_id=sender_id, limit=50, timeout_s=5
        )

    async def texts(self, user: Account, query: str, *, room_id: str = "", sender_id: str = "") -> list[str]:
        found = await self.find(user, query, room_id=room_id, sender_id=sender_id)
        return [message.content for message in sorted(found, key=lambda message: message.id)]


@dataclass
class _Noted:
    kind: str
    room_id: str


@asynccontextmanager
async def open_indexed(store: Store) -> AsyncIterator[Indexed]:
    metrics = Metrics()
    async with (
        open_search_index(store.database, store.queries, metrics=metrics) as index,
        store.open_journal() as written,
    ):
        yield Indexed(store, written, index, metrics, Search(store.database, store.queries))


@pytest.fixture
async def indexed(store: Store) -> AsyncIterator[Indexed]:
    async with open_indexed(store) as opened:
        yield opened


# What is found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("plan", ["the plan is ready", "PLAN B, or plan-b"]),
        ("PLAN ready", ["the plan is ready"]),
        ("ready the", ["the plan is ready"]),
        ('"plan ready"', []),
        ('"is ready"', ["the plan is ready"]),
        ("plan-b", ["PLAN B, or plan-b"]),
        ("pla", []),
        ("strasse", ["Straße nach Köln"]),
        ("koln", ["Straße nach Köln"]),
        ("KÖLN", ["Straße nach Köln"]),
        ("世界", ["你好世界"]),
        ("界世", []),
        ("example.org", ["see https://example.org/a_b?c=1"]),
        ("a_b", ["see https://example.org/a_b?c=1"]),
        ("हिन्दी", ["हिन्दी में"]),
        ("the OR plan", []),
        ("सुबह", []),
    ],
)
async def test_messages_are_found_by_their_words(indexed: Indexed, query: str, expected: list[str]) -> None:
    ada = await indexed.store.add_user("ada")
    room = await indexed.store.add_room(ada)
    await indexed.write(
        ada, room, "the plan is ready", "PLAN B, or plan-b", "Straße nach Köln", "你好世界",
        "see https://example.org/a_b?c=1", "हिन्दी में",
    )  # fmt: skip
    await indexed.follow()
    assert await indexed.texts(ada, query) == expected


async def test_a_member_finds_what_is_in_their_rooms_and_nobody_else_does(indexed: Indexed) -> None:
    store = indexed.store
    ada, bob, eve = await store.add_user("ada"), await store.add_user("bob"), await store.add_user("eve")
    both, own = await store.add_room(ada, bob, kind="private"), await store.add_room(ada, kind="private")
    await indexed.write(ada, both, "secret of two")
    await indexed.write(ada, own, "secret of one")
    await indexed.follow()
    assert await indexed.texts(ada, "secret") == ["secret of two", "secret of one"]
    assert await indexed.texts(bob, "secret") == ["secret of two"]
    assert await indexed.texts(eve, "secret") == []
    assert await indexed.texts(bob, "secret", room_id=own) == []
    await indexed.written.journal.write(join(eve, own))
    assert await indexed.texts(eve, "secret") == ["secret of one"]
    await indexed.change(f"DELETE FROM room_members WHERE user_id = '{eve.id}'")
    assert await indexed.texts(eve, "secret") == []


async def test_who_is_banned_or_whose_room_is_gone_finds_nothing(indexed: Indexed) -> None:
    ada = await indexed.store.add_user("ada")
    banned, gone = await indexed.store.add_room(ada), await indexed.store.add_room(ada)
    for room in (banned, gone):
        await indexed.write(ada, room, "hello")
    await indexed.follow()
    assert len(await indexed.find(ada, "hello")) == 2
    await indexed.change(f"INSERT INTO room_bans (room_id, user_id, banned_at) VALUES ('{banned}', '{ada.id}', 1)")
    await indexed.change(f"UPDATE rooms SET deleted_at = 1 WHERE id = '{gone}'")
    assert await indexed.find(ada, "hello") == []


async def test_a_search_is_narrowed_to_a_room_and_a_sender(indexed: Indexed) -> None:
    ada, bob = await indexed.store.add_user("ada"), await indexed.store.add_user("bob")
    here, there = await indexed.store.add_room(ada, bob), await indexed.store.add_room(ada, bob)
    for sender, name in ((ada, "ada"), (bob, "bob")):
        await indexed.write(sender, here, f"hello here {name}")
        await indexed.write(sender, there, f"hello there {name}")
    await indexed.follow()
    assert await indexed.texts(ada, "hello", room_id=here) == ["hello here ada", "hello here bob"]
    assert await indexed.texts(ada, "hello", sender_id=bob.id) == ["hello here bob", "hello there bob"]
    assert await indexed.texts(ada, "hello", room_id=there, sender_id=bob.id) == ["hello there bob"]
    assert await indexed.texts(ada, "hello", sender_id=new_id()) == []
    # neither a room's name nor a sender's id is a word of a message
    assert await indexed.texts(ada, bob.id) == []
    assert await indexed.texts(ada, bob.id.replace("-", "")) == []


# How it follows


async def test_an_edited_message_is_found_by_its_new_words_and_never_by_the_old_ones(indexed: Indexed) -> None:
    ada = await indexed.store.add_user("ada")
    room = await indexed.store.add_room(ada)
    message_id, _ = await indexed.write(ada, room, "teh plan", "other")
    await indexed.follow()
    await indexed.change(f"UPDATE messages SET content = 'the plan', edited_at = 5 WHERE id = '{message_id}'")
    assert await indexed.texts(ada, "teh") == []
    await indexed.follow()
    assert await indexed.texts(ada, "the") == ["the plan"]
    assert await indexed.texts(ada, "teh") == []


async def test_a_deleted_message_has_left_the_index_with_its_deletion(store: Store) -> None:
    async with open_indexed(store) as indexed:
        ada = await store.add_user("ada")
        room = await store.add_room(ada)
        deleted, removed = await indexed.write(ada, room, "unspeakable", "unspeakable too")
        await indexed.follow()
    entries = {
        "sqlite": "SELECT rowid FROM search_index WHERE search_index MATCH 'unspeakable'",
        "postgres": "SELECT seq FROM search_messages WHERE words @@ 'unspeakable'::tsquery",
    }[store.database.dialect]
    # Nothing follows any more.
    indexed.store = store
    assert len(await indexed.rows(entries)) == 2
    await indexed.change(f"UPDATE messages SET content = '', deleted_at = 5 WHERE id = '{deleted}'")
    await indexed.change(f"DELETE FROM messages WHERE id = '{removed}'")
    assert await indexed.rows(entries) == []
    async with open_indexed(store) as indexed:
        await indexed.follow()
        assert await indexed.rows(entries) == []
        assert await indexed.find(ada, "unspeakable") == []


async def test_what_was_deleted_before_the_index_came_to_it_is_never_in_it(store: Store) -> None:
    ada = await store.add_user("ada")
    room = await store.add_room(ada)
    async with store.open_journal() as written:
        stored = await written.journal.write(post(ada, room, "unspeakable"))
    change = Query("test.change", f"UPDATE messages SET content = '', deleted_at = 5 WHERE id = '{stored.message_id}'")
    await store.database.transaction(lambda tx: tx.run(change, {}))
    async with open_indexed(store) as indexed:
        await indexed.follow()
        assert await indexed.find(ada, "unspeakable") == []
        assert await indexed.rows("SELECT seq FROM search_changes") == []


async def test_an_index_that_starts_late_reads_everything_there_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index_module, "BATCH", 7)
    monkeypatch.setattr(search_index_module, "ROOMS_AT_ONCE", 3)
    monkeypatch.setattr(search_index_module, "PAGE", 2)
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    rooms = [await store.add_room(ada, name=f"room {n}") for n in range(5)]
    async with store.open_journal() as written:
        for n in range(20):
            for room in rooms:
                await written.journal.write(post(ada, room, f"number {n}"))
        await written.journal.write(join(bob, rooms[0]))
    async with open_indexed(store) as indexed:
        with trio.fail_after(30):
            while len(await indexed.find(ada, "number 19")) < 5:  # noqa: ASYNC110 - the database tells nobody
                await trio.sleep(0.01)
        assert len(await indexed.find(ada, "number")) == 50
        assert len(await indexed.find(ada, "7")) == 5


async def test_two_nodes_that_follow_the_same_rooms_read_each_message_once(store: Store) -> None:
    async with open_indexed(store) as one, open_indexed(store) as other:
        ada = await store.add_user("ada")
        room = await store.add_room(ada)
        for n in range(30):
            for node in (one, other):
                await node.write(ada, room, f"number {n}")
                node.index.note(cast("Event", _Noted("new_message", room)))
        await one.follow()
        await other.follow()
        table = {"sqlite": "search_index", "postgres": "search_messages"}[store.database.dialect]
        assert await one.rows(f"SELECT COUNT(*) FROM {table}") == [(60,)]


async def test_an_outage_delays_the_index_and_loses_nothing(indexed: Indexed) -> None:
    ada = await indexed.store.add_user("ada")
    room = await indexed.store.add_room(ada)
    await indexed.write(ada, room, "hello")
    indexed.store.database.outages = 3
    indexed.index.note(cast("Event", _Noted("new_message", room)))
    await indexed.follow()
    assert indexed.store.database.outages == 0
    assert await indexed.texts(ada, "hello") == ["hello"]


async def test_a_defect_of_the_index_is_logged_and_ends_nothing_else(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index_module, "LOOK_S", 0.02)
    ada = await indexed.store.add_user("ada")
    room = await indexed.store.add_room(ada)
    with monkeypatch.context() as defect:
        calls = []

        def fail_at_first(*args: Any, **fields: Any) -> list[object]:
            calls.append(args)
            if len(calls) == 1:
                raise ZeroDivisionError
            return entry_of(*args, **fields)

        defect.setattr(search_index_module, "entry_of", fail_at_first)
        await indexed.write(ada, room, "hello")
        await indexed.follow()
    assert len(calls) > 1
    assert await indexed.texts(ada, "hello") == ["hello"]


async def test_no_message_is_too_long_for_the_index(indexed: Indexed) -> None:
    ada = await indexed.store.add_user("ada")
    room = await indexed.store.add_room(ada)
    # Each is short as it is written, and 64 letters when it is read.
    await indexed.write(ada, room, "hello " + " ".join(f"{number:x}" + "\ufdfa" * 4 for number in range(10_000)))
    await indexed.write(ada, room, "goodbye")
    await indexed.follow()
    assert len(await indexed.texts(ada, "hello")) == 1
    assert await indexed.texts(ada, "goodbye") == ["goodbye"]


async def test_long_messages_come_into_the_index_few_at_a_time_and_each_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index_module, "BATCH_LENGTH", 2500)
    monkeypatch.setattr(search_index_module, "SLICE_S", 0)
    ada = await store.add_user("ada")
    rooms = [await store.add_room(ada, name=f"room {n}") for n in range(3)]
    async with store.open_journal() as written:
        for n in range(9):
            for room in rooms:
                # one is too long for any batch
                await written.journal.write(post(ada, room, f"number {n} " + "x" * (3000 if n == 4 else 700)))
    async with open_indexed(store) as indexed:
        await indexed.follow()
        for room in rooms:
            assert len(await indexed.find(ada, "number", room_id=room)) == 9
        table = {"sqlite": "search_index", "postgres": "search_messages"}[store.database.dialect]
        assert await indexed.rows(f"SELECT COUNT(*) FROM {table}") == [(27,)]


async def test_long_messages_that_were_changed_come_into_the_index_few_at_a_time_and_each_once(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index_module, "CHANGES_LENGTH", 2500)
    monkeypatch.setattr(search_index_module, "SLICE_S", 0)
    ada = await indexed.store.add_user("ada")
    room = await indexed.store.add_room(ada)
    await indexed.write(ada, room, *(f"number {n} " + "x" * (3000 if n == 4 else 700) for n in range(9)))
    await indexed.follow()
    added: list[int] = []
    add = indexed.index._add

    async def note(tx: Transaction, entries: Sequence[Sequence[object]]) -> None:
        added.append(len(entries))
        await add(tx, entries)

    monkeypatch.setattr(indexed.index, "_add", note)
    await indexed.change("UPDATE messages SET content = REPLACE(content, 'number', 'figure'), edited_at = 1")
    await indexed.follow()
    assert (sum(added), max(added)) == (9, 3)
    assert len(await indexed.find(ada, "figure", room_id=room)) == 9
    assert await indexed.find(ada, "number", room_id=room) == []


def test_signs_stand_between_words_and_marks_belong_to_them() -> None:
    for sign in ("\N{EURO SIGN}", "\N{GRINNING FACE}", "\u200d"):
        assert words_of(sign * 10_000 + " word") == ["word"]
    assert words_of("nai\u0308ve a_b हिन्दी 世界") == ["naive", "a", "b", "हिन्दी", "世", "界"]


async def test_the_lag_is_zero_once_everything_is_read(indexed: Indexed) -> None:
    ada = await indexed.store.add_user("ada")
    room = await indexed.store.add_room(ada)
    await indexed.write(ada, room, "hello")
    await indexed.follow()
    with trio.fail_after(30):
        while b"chatd_search_lag_seconds 0.0" not in indexed.metrics.render()[0]:  # noqa: ASYNC110 - nor does a number
            await trio.sleep(0.01)


async def test_a_database_that_was_packed_anew_still_finds_the_right_messages(tmp_path: Path) -> None:
    async with open_store("sqlite", tmp_path) as store, open_indexed(store) as indexed:
        ada = await store.add_user("ada")
        room = await store.add_room(ada)
        first, *_ = await indexed.write(ada, room, "first", "second", "third")
        await indexed.follow()
        await indexed.change(f"DELETE FROM messages WHERE id = '{first}'")
    with closing(sqlite3.connect(tmp_path / "chatd.db", isolation_level=None)) as database:
        database.execute("VACUUM")
    async with open_store("sqlite", tmp_path) as store:
        found = await Search(store.database, store.queries).find(
            ada.id, [("third",)], room_id="", sender_id="", limit=10, timeout_s=5
        )
        assert [message.content for message in found] == ["third"]


@pytest.mark.parametrize("is_on", [True, False])
async def test_an_index_that_is_switched_off_reads_nothing_until_it_is_on(store: Store, *, is_on: bool) -> None:
    switch = {"is_on": is_on}
    ada = await store.add_user("ada")
    room = await store.add_room(ada)
    async with (
        open_search_index(store.database, store.queries, metrics=Metrics(), is_on=lambda: switch["is_on"]) as index,
        store.open_journal() as written,
    ):
        indexed = Indexed(store, written, index, Metrics(), Search(store.database, store.queries))
        await indexed.write(ada, room, "hello")
        if not is_on:
            index.note(cast("Event", _Noted("new_message", room)))
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert await indexed.find(ada, "hello") == []
            switch["is_on"] = True
        await indexed.follow()
        assert await indexed.texts(ada, "hello") == ["hello"]


# Bounds


async def test_a_search_that_takes_too_long_says_what_to_do(indexed: Indexed) -> None:
    ada = await indexed.store.add_user("ada")
    room = await indexed.store.add_room(ada)
    await indexed.write(ada, room, "hello")
    await indexed.follow()
    with pytest.raises(Refusal, match="longer than 1e-09 s; name a room") as caught:
        await indexed.search.find(ada.id, [("hello",)], room_id="", sender_id="", limit=10, timeout_s=1e-9)
    assert caught.value.code == "unavailable"


def test_the_windows_of_a_room_are_all_of_it_and_do_not_overlap() -> None:
    size = 1 << STRETCH_BITS
    for last_seq in (0, 1, size - 1, size, NEAR * size, 5 * size + 3, 9 * size, 10 * size, 122 * size + 77):
        windows = list(windows_of(3, last_seq))
        assert len(windows) <= 3
        assert (windows[0].before, windows[-1].since) == (last_seq + 1, 0)
        for newer, older in pairwise(windows):
            assert older.before == newer.since
        names = [name for window in windows for name in window.names]
        assert len(set(names)) == len(names) <= 11


async def test_older_parts_of_a_large_room_are_looked_at_while_too_little_is_found(indexed: Indexed) -> None:
    ada = await indexed.store.add_user("ada")
    room = await indexed.store.add_room(ada)
    size = 1 << STRETCH_BITS
    for last_seq, text in ((0, "oldest hello"), (3 * size, "older hello"), (13 * size, "newest hello")):
        await indexed.change(f"UPDATE rooms SET last_seq = {last_seq} WHERE id = '{room}'")
        await indexed.write(ada, room, text)
        # Nobody could read as much as is left out here.
        await indexed.change(f"UPDATE search_rooms SET indexed_seq = {last_seq} WHERE room_id = '{room}'")
        await indexed.follow()
    assert await indexed.texts(ada, "hello") == ["oldest hello", "older hello", "newest hello"]
    newest = await indexed.search.find(ada.id, [("hello",)], room_id="", sender_id="", limit=1, timeout_s=5)
    assert [message.content for message in newest] == ["newest hello"]


async def test_the_index_answers_and_no_table_is_read_through(indexed: Indexed) -> None:
    ada = await indexed.store.add_user("ada")
    room = await indexed.store.add_room(ada)
    await indexed.write(ada, room, *(f"message {n}" for n in range(20)))
    await indexed.follow()
    stretches = "[[1, 0, 100]]"
    asked: dict[str, Params] = {
        "search.matches": {
            "query": 'words : ("message")' if indexed.store.database.dialect == "sqlite" else "'message' & '#1'",
            "stretches": stretches,
            "limit": 10,
        },
        "search.rooms_of": {"user_id": ada.id, "room_id": "", "limit": 10},
        "search.found": {"places": f'[["{room}", 1]]', "limit": 10, "characters": 100},
        "search.unread": {"stretches": f'[[1, "{room}", 0, 10]]'},
    }
    for name, params in asked.items():
        plan = await explain(indexed.store, name, params)
        assert not [line for line in plan if reads_through(line)], plan
    plan = await explain(indexed.store, "search.matches", asked["search.matches"])
    used = {"sqlite": "search_index VIRTUAL TABLE INDEX", "postgres": "search_messages_by_word"}
    assert any(used[indexed.store.database.dialect] in line for line in plan), plan


async def explain(store: Store, name: str, params: Params) -> list[str]:
    how = {"sqlite": "EXPLAIN QUERY PLAN ", "postgres": "EXPLAIN "}[store.database.dialect]
    rows = await store.database.rows(Query("test.explain", how + store.queries[name].text), params)
    return [str(row[-1]) for row in rows]


def reads_through(line: str) -> bool:
    """Whether a line of a plan goes through a table of chatd's from its begin to its end."""
    if "Seq Scan" in line:
        return True
    words = line.split()
    made_here: Sequence[str] = ("stretch", "place", "newest", "match", "CONSTANT", "(subquery", "json_each")
    return words[:1] == ["SCAN"] and words[1] not in made_here and "VIRTUAL TABLE INDEX" not in line
