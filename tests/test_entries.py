"""How a batch becomes rows and events, against a plain model that knows nothing of batches."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.errors import Refusal
from chatd.store.entries import (
    Batch,
    Entry,
    Head,
    MembershipChange,
    Numbered,
    Outcome,
    Post,
    Repeat,
    Standing,
    Stored,
    number_batch,
    rows_of_heads,
)
from tests.stores import ignore

KINDS = {"lobby": "public", "pair": "direct", "small": "private"}
USERS = ("ada", "bob", "cy")
BANNED = frozenset({("lobby", "cy")})
MAX_MEMBERS = {"lobby": None, "pair": None, "small": 2}
NOW_MS = 1_700_000_000_123


class Asked(NamedTuple):
    """One step of a made-up history."""

    what: Literal["post", "join", "leave"]
    room: str
    user: str
    key: str | None = None
    content: str = ""

    def entry(self) -> Entry:
        if self.what == "post":
            return Post(
                self.room, self.user, self.user, "text", self.content, ignore,
                client_message_id=self.key, request_hash=self.content if self.key else None,
            )  # fmt: skip
        role = "member" if self.what == "join" else None
        return MembershipChange(self.room, self.user, self.user, online=True, settle=ignore, role=role)


class Answer(NamedTuple):
    """What became of a step: a seq, a repeat of a seq, or a refusal's code."""

    seq: int = 0
    duplicate: bool = False
    code: str | None = None


@dataclass
class Model:
    """Rooms as one would write them down by hand."""

    last: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    members: dict[str, list[str]] = field(default_factory=lambda: {room: [] for room in KINDS})
    keys: dict[tuple[str, str], tuple[str, int, str]] = field(default_factory=dict)
    history: dict[str, list[tuple[str, str, str]]] = field(default_factory=lambda: {room: [] for room in KINDS})

    def answer(self, asked: Asked) -> Answer:
        room, user = asked.room, asked.user
        if room not in KINDS:
            return Answer(code="not_found")
        if asked.what == "post":
            if asked.key and (user, asked.key) in self.keys:
                _, seq, content = self.keys[user, asked.key]
                return Answer(seq, True) if content == asked.content else Answer(code="idempotency_mismatch")
            if user not in self.members[room]:
                return Answer(code="not_a_member")
            if asked.key:
                self.keys[user, asked.key] = (room, self.last[room] + 1, asked.content)
            return self._next(room, "new_message", user, asked.content)
        if (asked.what == "join") == (user in self.members[room]):
            return Answer(self.last[room], True)
        if asked.what == "leave":
            self.members[room].remove(user)
            return self._next(room, "user_left", user, "")
        if (room, user) in BANNED:
            return Answer(code="forbidden")
        if len(self.members[room]) >= (MAX_MEMBERS[room] or 3):
            return Answer(code="limit_reached")
        self.members[room].append(user)
        return self._next(room, "user_joined", user, "")

    def _next(self, room: str, kind: str, user: str, content: str) -> Answer:
        self.last[room] += 1
        self.history[room].append((kind, user, content))
        return Answer(self.last[room])


@dataclass
class Tables:
    """What a database would hold after each batch, row by row."""

    heads: dict[str, Head] = field(
        default_factory=lambda: {room: Head(kind, 0, 0, 0, MAX_MEMBERS[room]) for room, kind in KINDS.items()}
    )
    members: dict[tuple[str, str], str] = field(default_factory=dict)
    messages: list[tuple[Any, ...]] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)

    def run(self, entries: list[Entry]) -> Numbered:
        """Number a batch as the journal does, and land its rows in the journal's order."""
        repeats = {
            (row[4], row[9]): Repeat(row[0], row[1], row[2], row[11], row[10]) for row in self.messages if row[9]
        }
        heads = {room: replace(head) for room, head in self.heads.items()}
        standings = {key: Standing(role) for key, role in self.members.items()}
        standings |= {key: Standing(None, is_banned=True) for key in BANNED}
        batch = Batch(entries, heads, repeats, standings, max_members=3, now_ms=NOW_MS)
        numbered = number_batch(batch)
        self.messages += numbered.message_rows
        self.events += numbered.event_rows
        for room, user in numbered.left_rows:
            self.members.pop((room, user), None)
        for row in numbered.joined_rows:
            room, user, role = map(str, row[:3])
            assert (room, user) not in self.members, "the database would refuse a second membership"
            self.members[room, user] = role
        for room, last_seq, message_count, member_count, standing_seq in rows_of_heads(numbered.changed_rooms, heads):
            kind, most = self.heads[room].kind, self.heads[room].max_members
            self.heads[room] = Head(kind, last_seq, message_count, member_count, most, 0, standing_seq)
        return numbered


def tables_with(*users: str) -> Tables:
    """Tables in which these are members of the lobby from the beginning."""
    return Tables(members={("lobby", user): "member" for user in users})


def answer_of(outcome: Outcome) -> Answer:
    return Answer(code=outcome.code) if isinstance(outcome, Refusal) else Answer(outcome.seq, outcome.duplicate)


asked_things = st.builds(
    Asked,
    what=st.sampled_from(["post", "post", "join", "leave"]),
    room=st.sampled_from([*KINDS, "nowhere"]),
    user=st.sampled_from(USERS),
    key=st.sampled_from([None, "k1", "k2"]),
    content=st.sampled_from(["x", "y"]),
)
batches = st.lists(st.lists(asked_things, min_size=1, max_size=8), max_size=6)


@given(batches)
def test_batches_of_any_cut_do_what_a_model_does_one_by_one(batches: list[list[Asked]]) -> None:
    model, tables = Model(), Tables()
    published: dict[str, list[tuple[int, str]]] = {room: [] for room in KINDS}
    for batch in batches:
        numbered = tables.run([asked.entry() for asked in batch])
        assert [answer_of(outcome) for outcome in numbered.outcomes] == [model.answer(asked) for asked in batch]
        for event in numbered.events:
            published[event.room_id].append((event.seq, event.kind))
    for room, history in model.history.items():
        assert published[room] == [(seq, kind) for seq, (kind, *_) in enumerate(history, 1)]
        assert (tables.heads[room].last_seq, tables.heads[room].member_count) == (
            len(history),
            len(model.members[room]),
        )
        assert sorted(user for at, user in tables.members if at == room) == sorted(model.members[room])
        stored = {row[2]: (row[4], row[6]) for row in tables.messages if row[1] == room}
        assert stored == {n: (user, text) for n, (kind, user, text) in enumerate(history, 1) if kind == "new_message"}
        counts = [row[3] for row in tables.messages if row[1] == room]
        assert counts == list(range(1, len(counts) + 1))
        assert tables.heads[room].message_count == len(counts)


@given(st.lists(asked_things, max_size=20))
def test_the_body_of_every_event_says_what_its_row_says(batch: list[Asked]) -> None:
    tables = Tables()
    numbered = tables.run([asked.entry() for asked in batch])
    messages = {(row[1], row[2]): row for row in tables.messages}
    rows = {(row[0], row[1]): row for row in tables.events}
    assert len(messages) + len(rows) == len(numbered.events)
    for event in numbered.events:
        body = json.loads(event.body)
        if event.kind == "new_message":
            row, message = messages[event.room_id, event.seq], body["message"]
            assert body["type"] == ("new_dm" if event.room_id == "pair" else "new_message")
            assert (message["id"], message["senderId"], message["content"]) == (row[0], row[4], row[6])
            assert event.subject == row[4]
            assert (message["seq"], message.get("clientMessageId")) == (row[2], row[9])
            assert message["createdAt"] == "2023-11-14T22:13:20.123Z"
        else:
            row = rows[event.room_id, event.seq]
            assert (row[2], row[3]) == (event.kind, event.body.decode())
            assert (body["type"], body["seq"], body["userId"]) == (event.kind, event.seq, event.subject)


def test_ids_of_one_batch_grow_with_their_seqs() -> None:
    tables = tables_with("ada")
    tables.run([Asked("post", "lobby", "ada").entry() for _ in range(100)])
    assert all(before[0] < after[0] for before, after in pairwise(tables.messages))


def test_a_new_member_has_read_everything_up_to_joining() -> None:
    tables = tables_with("ada")
    numbered = tables.run([Asked("post", "lobby", "ada").entry()] * 3 + [Asked("join", "lobby", "bob").entry()])
    assert numbered.joined_rows == [("lobby", "bob", "member", NOW_MS, 4, 3)]


def test_a_repeat_is_told_the_first_ones_values_even_for_another_room() -> None:
    tables = tables_with("ada")
    first = tables.run([Asked("post", "lobby", "ada", "k", "x").entry()]).outcomes[0]
    assert isinstance(first, Stored)
    again = tables.run([Asked("post", "lobby", "ada", "k", "x").entry()] * 2)
    assert again.outcomes == [first._replace(duplicate=True)] * 2
    assert not again.events
    assert not again.changed_rooms


@pytest.mark.parametrize(
    ("of_room", "of_server", "fits"), [(None, 0, 9), (2, 0, 2), (None, 2, 2), (3, 1, 1), (1, 3, 1)]
)
def test_a_room_takes_as_many_as_the_smaller_bound_says(of_room: int | None, of_server: int, fits: int) -> None:
    entries = [Asked("join", "lobby", f"user{number}").entry() for number in range(9)]
    heads = {"lobby": Head("public", 0, 0, 0, of_room)}
    numbered = number_batch(Batch(entries, heads, {}, {}, max_members=of_server, now_ms=NOW_MS))
    assert [answer_of(outcome).code for outcome in numbered.outcomes] == [None] * fits + ["limit_reached"] * (9 - fits)


def test_a_place_that_becomes_free_in_a_batch_is_given_away_in_it() -> None:
    tables = Tables()
    steps = [("join", "ada"), ("join", "bob"), ("join", "cy"), ("leave", "ada"), ("join", "cy")]
    numbered = tables.run([Asked(what, "small", user).entry() for what, user in steps])  # type: ignore[arg-type]
    assert [answer_of(outcome).code for outcome in numbered.outcomes] == [None, None, "limit_reached", None, None]
    assert sorted(user for _, user in tables.members) == ["bob", "cy"]


def test_metadata_is_passed_on_as_the_json_that_it_was() -> None:
    entry = Asked("post", "lobby", "ada").entry()
    assert isinstance(entry, Post)
    entry.metadata = b'{"b":1,"a":[1.5,null]}'
    numbered = tables_with("ada").run([entry])
    assert b'"metadata":{"b":1,"a":[1.5,null]}' in numbered.events[0].body
    assert numbered.message_rows[0][8] == '{"b":1,"a":[1.5,null]}'


MUTED = Standing("member", muted_until_ms=NOW_MS + 5000)


@pytest.mark.parametrize(
    ("standing", "slow_mode_s", "code", "retry_after_ms"),
    [
        (Standing("member"), 0, None, None),
        (Standing(None), 0, "not_a_member", None),
        (Standing("readonly"), 0, "forbidden", None),
        (MUTED, 0, "muted", 5000),
        (replace(MUTED, muted_until_ms=NOW_MS), 0, None, None),
        (Standing("member", posted_at_ms=NOW_MS - 9000), 10, "rate_limited", 1000),
        (Standing("member", posted_at_ms=NOW_MS - 10_000), 10, None, None),
        (Standing("moderator", posted_at_ms=NOW_MS - 1), 10, None, None),
    ],
)
def test_who_may_not_send_now_is_refused_whatever_their_node_believed(
    standing: Standing, slow_mode_s: int, code: str | None, retry_after_ms: int | None
) -> None:
    heads = {"lobby": Head("public", 7, 7, 1, None, slow_mode_s)}
    entry = Asked("post", "lobby", "ada").entry()
    numbered = number_batch(Batch([entry], heads, {}, {("lobby", "ada"): standing}, max_members=0, now_ms=NOW_MS))
    outcome = numbered.outcomes[0]
    assert (getattr(outcome, "code", None), getattr(outcome, "retry_after_ms", None)) == (code, retry_after_ms)
    assert [event.seq for event in numbered.events] == ([8] if code is None else [])


def test_a_slow_mode_counts_within_a_batch_too() -> None:
    heads = {"lobby": Head("public", 0, 0, 1, None, 10)}
    entries = [Asked("post", "lobby", "ada").entry() for _ in range(2)]
    batch = Batch(entries, heads, {}, {("lobby", "ada"): Standing("member")}, max_members=0, now_ms=NOW_MS)
    numbered = number_batch(batch)
    assert [getattr(outcome, "code", None) for outcome in numbered.outcomes] == [None, "rate_limited"]
    assert numbered.posted_rows == [("lobby", "ada", NOW_MS)]


def test_who_leaves_may_not_send_behind_it_in_the_same_batch() -> None:
    tables = tables_with("ada")
    numbered = tables.run([Asked(what, "lobby", "ada").entry() for what in ("post", "leave", "post")])
    assert [answer_of(outcome).code for outcome in numbered.outcomes] == [None, None, "not_a_member"]
    assert tables.heads["lobby"].standing_seq == 2


def test_owner_does_not_leave_by_the_way_so_that_somebody_follows() -> None:
    heads = {"lobby": Head("public", 7, 7, 2, None)}
    entry = Asked("leave", "lobby", "ada").entry()
    numbered = number_batch(
        Batch([entry], heads, {}, {("lobby", "ada"): Standing("owner")}, max_members=0, now_ms=NOW_MS)
    )
    assert [getattr(outcome, "code", None) for outcome in numbered.outcomes] == ["conflict"]
    assert (numbered.left_rows, heads["lobby"].member_count) == ([], 2)
