"""Journals against made-up programs: what waits, what is in a batch, which commit ends when and how, who else writes.

Two nodes with several committers each write into one real SQLite, in which the program lets one transaction after the
other through, or loses it, or loses only the answer. What other nodes store while a transaction waits is hidden from
its look for repeats, as it is where locks are waited for, so that the unique key has to find it. Whatever happens, each
entry is settled once and before it is published, what was acknowledged is in the store, and each room is numbered
without holes, in the order in which each node was asked.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from chatd import telemetry
from chatd.errors import Refusal, Unavailable
from chatd.metrics import Metrics
from chatd.store.entries import MembershipChange, Post, Stored
from chatd.store.journal import JournalOptions, open_journal
from chatd.store.queries import Query
from chatd.store.sqlite import _run_through, _Statements, _transaction
from tests.inline import QUERIES, InlineSqlite, open_copy
from tests.logs import own_logging
from tests.models import count_steps, interleaved, often, programs, run, steps_of
from tests.stores import ignore

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from chatd.bus.port import Event
    from chatd.store.database import Params, Row, Work
    from chatd.store.entries import Entry, Outcome
    from chatd.store.journal import Journal
    from chatd.store.queries import Queries

T = TypeVar("T")

USERS = ("ada", "bob", "cy")
ROOMS = ("a", "b", "c")
NODES = 2
MAX_WAITING = 12
MAX_MEMBERS = 2
METRICS = Metrics()
#: A content that the database refuses.
POISON = "poison"


class Ask(NamedTuple):
    """An entry for a node: a post (perhaps with a key, perhaps one that cannot be stored), a joining or a leaving.

    Whoever asked may be told in vain (`is_deaf`), or wait for the outcome and give up (`Forget`).
    """

    node: int
    room: str
    user: str
    kind: str
    content: str
    key: str | None
    is_deaf: bool
    waits: bool


class LetGo(NamedTuple):
    """A transaction that waits comes to its end."""

    which: int
    fate: str


class Let(NamedTuple):
    """Others run for so many steps, or for so many seconds."""

    steps: int
    seconds: float


class TurnClock(NamedTuple):
    by_ms: int


class Forget(NamedTuple):
    """Somebody who waits for an outcome does so no more."""

    which: int


class Close(NamedTuple):
    node: int


Step = Ask | LetGo | Let | TurnClock | Forget | Close
ask = st.builds(
    Ask,
    st.integers(0, NODES - 1),
    st.sampled_from([*"aaaaaabbc", "nowhere"]),
    st.sampled_from(USERS),
    st.sampled_from(["post", "post", "post", "join", "join", "leave"]),
    st.sampled_from(["x", "x", "x", "x", "y", POISON]),
    st.sampled_from([None, None, "k", "l"]),
    st.sampled_from([False] * 7 + [True]),
    st.sampled_from([False] * 3 + [True]),
)
let_go = st.builds(LetGo, st.integers(0, 5), st.sampled_from(["kept"] * 6 + ["lost", "unknown"]))
let = st.builds(Let, st.integers(0, 3), st.sampled_from([0.0, 0.0, 0.006]))
seldom = st.one_of(
    st.builds(TurnClock, st.integers(-5000, 5000)), st.builds(Forget, st.integers(0, 5)),
    st.builds(Close, st.sampled_from([0, *[NODES] * 5])),
)  # fmt: skip
step: st.SearchStrategy[Step] = often((6, ask), (4, let_go), (2, let), (1, seldom))
program = interleaved(steps_of(step, most=70))


class Turn:
    """A transaction that waits until the program lets it go. `known` are the messages as of its begin."""

    def __init__(self, known: set[str]) -> None:
        self.known = known
        self.fate = "kept"
        self.may_go = trio.Event()


class _Locked(_Statements):
    """Statements of a transaction that waited for locks: repeats that were stored meanwhile are not seen."""

    __slots__ = ("_known",)

    def __init__(self, connection: sqlite3.Connection, known: set[str]) -> None:
        super().__init__(connection)
        self._known = known

    async def row(self, query: Query, params: Params) -> Row | None:
        row = await super().row(query, params)
        if row is None or query.name != "journal.heads":
            return row
        return row[0], json.dumps([repeat for repeat in json.loads(row[1]) if repeat[2] in self._known])

    async def run(self, query: Query, params: Params) -> int:
        if query.name == "journal.add_messages" and POISON in str(params["messages"]):
            raise Refusal("bad_message", "The database cannot hold this.")
        return await super().run(query, params)


class Turns(InlineSqlite):
    """A database whose transactions come to their end one by one, in the order of the program."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.turns: list[Turn] = []
        self.fates: Counter[str] = Counter()

    async def transaction(self, work: Work[T], *, is_lasting: bool = True) -> T:
        turn = Turn({row[0] for row in self.look("SELECT id FROM messages")})
        self.turns.append(turn)
        await turn.may_go.wait()
        self.fates[turn.fate] += 1
        if turn.fate == "lost":
            raise Unavailable("The test has cut the line.")
        with _transaction(self._writer, "BEGIN IMMEDIATE"):
            result = _run_through(work, _Locked(self._writer, turn.known))
        if turn.fate == "unknown":
            raise Unavailable("The test has lost the answer.")
        return result

    def let_go(self, which: int, fate: str = "kept") -> None:
        turn = self.turns.pop(which % len(self.turns))
        turn.fate = fate
        turn.may_go.set()

    async def write(self, query: Query, params: Params) -> Row | None:
        """`journal.post`, which SQLite has not: what sql/queries/journal.postgres.sql says, step by step."""
        assert query.name == "journal.post"
        entries, now = json.loads(str(params["messages"])), params["now"]
        # As of the statement's begin, before it waits for locks.
        members = set(self.look("SELECT room_id, user_id FROM room_members"))
        standing_seqs: dict[str, int] = dict(self.look("SELECT id, standing_seq FROM rooms"))

        async def post(tx: Any) -> Row:
            rooms = list({entry[1] for entry in entries})
            keys = [(entry[3], entry[8]) for entry in entries if entry[8] is not None]
            found = await tx.row(QUERIES["journal.heads"], {"rooms": json.dumps(rooms), "keys": json.dumps(keys)})
            heads = {room_id: head for room_id, *head in json.loads(found[0])}
            has_obstacle = bool(json.loads(found[1])) or len(heads) < len(rooms)
            has_obstacle |= not members >= {(entry[1], entry[3]) for entry in entries}
            has_obstacle |= any(head[6] != standing_seqs[room_id] for room_id, head in heads.items())
            if not has_obstacle:
                rows = [
                    (id_, room, heads[room][1] + place, heads[room][2] + place, sender, *rest, now, *of_file)
                    for (id_, room, place, sender, *rest), of_file in ((entry[:-2], entry[-2:]) for entry in entries)
                ]
                await tx.run(QUERIES["journal.add_messages"], {"messages": json.dumps(rows)})
                count = Counter(entry[1] for entry in entries)
                advanced = [
                    (room, head[1] + count[room], head[2] + count[room], head[3], head[6])
                    for room, head in heads.items()
                ]
                await tx.run(QUERIES["journal.advance_rooms"], {"heads": json.dumps(advanced)})
            return found[0], has_obstacle

        return await self.transaction(post)


class WithPost:
    """Queries of a database that stores messages in one statement."""

    def __getitem__(self, name: str) -> Query:
        return QUERIES[name]

    def find(self, name: str) -> Query | None:
        return Query(name, "") if name == "journal.post" else QUERIES.find(name)


@dataclass(eq=False)
class Asked:
    """An entry that a journal has taken, in the order of its node."""

    number: int
    step: Ask
    entry: Entry
    outcome: Outcome | None = None
    is_forgotten: bool = False


@dataclass
class Node:
    """A journal of its own on the database that all share."""

    database: Turns
    queries: Queries
    options: JournalOptions
    clock: Callable[[], int]
    asked: list[Asked] = field(default_factory=list)
    settled: list[Asked] = field(default_factory=list)
    published: list[Event] = field(default_factory=list)
    unflushed: int = 0
    stop: trio.Event = field(default_factory=trio.Event)
    is_over: bool = False
    journal: Journal = field(init=False)

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        async with open_journal(
            self.database, self.queries, self.options, clock=self.clock, metrics=METRICS, publish=self.publish,
            after_batch=self.flush,
        ) as self.journal:  # fmt: skip
            task_status.started()
            await self.stop.wait()
        self.is_over = True

    def settle(self, asked: Asked, outcome: Outcome) -> None:
        assert asked.outcome is None, "an entry is settled once"
        asked.outcome = outcome
        self.settled.append(asked)
        self.unflushed += 1
        if isinstance(outcome, Stored) and isinstance(asked.entry, Post):
            found = self.database.look("SELECT room_id, seq FROM messages WHERE id = ?", outcome.message_id)
            assert found == [(outcome.room_id, outcome.seq)], "what is acknowledged is stored"
        if asked.step.is_deaf:
            raise ValueError("The test's asker cannot be told.")

    def publish(self, events: Sequence[Event]) -> None:
        told = {
            (asked.outcome.room_id, asked.outcome.seq)
            for asked in self.asked
            if isinstance(asked.outcome, Stored) and not asked.outcome.duplicate
        }
        waited_for = {(asked.step.room, asked.step.user) for asked in self.asked if asked.step.waits}
        for event in events:
            assert (event.room_id, event.seq) in told or (event.room_id, event.subject) in waited_for
        self.published.extend(events)

    def flush(self) -> None:
        self.unflushed = 0


@dataclass
class Model:
    """Carries out the steps."""

    database: Turns
    nodes: list[Node]
    nursery: trio.Nursery
    now_ms: int = 10_000
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    waiting: list[tuple[Asked, trio.CancelScope]] = field(default_factory=list)

    async def take(self, step: Step) -> None:
        match step:
            case Ask():
                self.ask(self.nodes[step.node], step)
            case LetGo() if self.database.turns:
                self.database.let_go(step.which, step.fate)
            case Let():
                for _ in range(step.steps):
                    await trio.lowlevel.checkpoint()
                await trio.sleep(step.seconds)
            case TurnClock():
                self.now_ms += step.by_ms
            case Forget() if self.waiting:
                asked, scope = self.waiting.pop(step.which % len(self.waiting))
                asked.is_forgotten = True
                scope.cancel()
            case Close() if step.node < NODES:
                self.nodes[step.node].stop.set()
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()

    def ask(self, node: Node, step: Ask) -> None:
        number = next(self.numbers)
        asked = Asked(number, step, entry_of(step, number))
        asked.entry.settle = partial(node.settle, asked)
        waiting = node.journal.waiting
        try:
            if step.waits:
                # What `write` does first, so that the order is known.
                scope = trio.CancelScope()
                self.waiting.append((asked, scope))
                node.asked.append(asked)
                self.nursery.start_soon(self.write, node, asked, scope)
            else:
                node.journal.append(asked.entry)
                node.asked.append(asked)
        except Unavailable:
            assert node.stop.is_set()
        except Refusal:
            assert waiting == MAX_WAITING

    async def write(self, node: Node, asked: Asked, scope: trio.CancelScope) -> None:
        try:
            with scope:
                asked.outcome = await node.journal.write(asked.entry)
        except Refusal as refusal:
            asked.outcome = refusal

    async def finish(self) -> None:
        """Let all that waits through; the nodes stop."""
        for node in self.nodes:
            node.stop.set()
        with trio.fail_after(1000):
            while not all(node.is_over for node in self.nodes):
                if self.database.turns:
                    self.database.let_go(0)
                await trio.sleep(0.001)


def entry_of(step: Ask, number: int) -> Entry:
    if step.kind == "post":
        # The number tells the messages apart that are not repeats.
        content = step.content if step.key is not None else f"{step.content} {number}"
        return Post(
            step.room, step.user, step.user, "text", content, ignore,
            client_message_id=step.key, request_hash=step.key and f"{step.room} {content}",
        )  # fmt: skip
    role = "member" if step.kind == "join" else None
    return MembershipChange(step.room, step.user, step.user, online=True, settle=ignore, role=role)


def check_entry(asked: Asked, stored: dict[str, Row], by_key: dict[tuple[str, str], Row], fates: Counter[str]) -> None:
    """Its outcome is what became of it."""
    entry, outcome = asked.entry, asked.outcome
    row = stored.get(entry.message_id) if isinstance(entry, Post) else None
    if asked.is_forgotten:
        return
    assert outcome is not None, "an entry is settled, whatever happens"
    if isinstance(outcome, Unavailable):
        assert fates["lost"] or fates["unknown"] or asked.step.waits
        assert row is None or fates["unknown"]
        return
    if isinstance(outcome, Refusal):
        assert row is None, "what is refused is not stored"
        match outcome.code:
            case "not_found":
                assert asked.step.room == "nowhere"
            case "bad_message":
                assert isinstance(entry, Post)
                assert POISON in entry.content
            case "idempotency_mismatch":
                assert isinstance(entry, Post)
                assert by_key[entry.sender_id, entry.client_message_id or ""][4] != entry.request_hash
            case "limit_reached":
                assert asked.step.kind == "join"
            case "not_a_member":
                assert asked.step.kind == "post"
            case code:
                assert (code, asked.step.waits) == ("overloaded", True)
        return
    assert asked.step.room != "nowhere"
    if not isinstance(entry, Post):
        return
    if outcome.duplicate:
        first = by_key[entry.sender_id, entry.client_message_id or ""]
        assert (outcome.message_id, outcome.room_id, outcome.seq, outcome.created_at_ms) == (
            first[0],
            first[1],
            first[2],
            first[5],
        )
        assert first[4] == entry.request_hash
        assert row is None
    else:
        assert row is not None
        assert row[:4] == (outcome.message_id, outcome.room_id, outcome.seq, entry.content)
        assert row[5] == outcome.created_at_ms


def check_room(database: Turns, room_id: str) -> list[Row]:
    """Numbers without holes, counts and members that are true; every event of the room as (seq, kind, user, time)."""
    messages = database.look(
        "SELECT seq, 'post', sender_id, created_at, count_in_room FROM messages WHERE room_id = ? ORDER BY seq", room_id
    )
    assert [row[4] for row in messages] == list(range(1, len(messages) + 1))
    others = database.look("SELECT seq, kind, body, created_at FROM room_events WHERE room_id = ?", room_id)
    changes = [(seq, kind, json.loads(body)["userId"], created_at) for seq, kind, body, created_at in others]
    events = sorted([*(row[:4] for row in messages), *changes])
    assert [event[0] for event in events] == list(range(1, len(events) + 1))
    members: dict[str, int] = {}
    for seq, kind, user, _ in events:
        if kind == "user_joined":
            assert user not in members
            members[user] = seq
            assert len(members) <= MAX_MEMBERS
        elif kind == "user_left":
            del members[user]
        else:
            assert user in members, "who has left, on whichever node, sends nothing behind it"
    assert dict(database.look("SELECT user_id, joined_seq FROM room_members WHERE room_id = ?", room_id)) == members
    [head] = database.look("SELECT last_seq, message_count, member_count FROM rooms WHERE id = ?", room_id)
    assert head == (len(events), len(messages), len(members))
    return events


def check_node(node: Node, room_id: str, rows: dict[tuple[str, int], Row]) -> None:
    """In a room: stored and settled in the order in which it was asked, published in the order of the numbers."""

    def is_new(outcome: Outcome | None) -> bool:
        return isinstance(outcome, Stored) and not outcome.duplicate

    own = [asked for asked in node.asked if asked.step.room == room_id and not asked.step.waits]
    seqs = [cast("Stored", asked.outcome).seq for asked in own if is_new(asked.outcome)]
    assert seqs == sorted(set(seqs)), "what is asked first is stored first"
    settled = [asked for asked in node.settled if asked.step.room == room_id]
    assert settled == own, "each is settled once, in order"
    published = [event.seq for event in node.published if event.room_id == room_id]
    assert published == sorted(set(published))
    told = {
        cast("Stored", asked.outcome).seq
        for asked in node.asked
        if asked.step.room == room_id and is_new(asked.outcome)
    }
    forgotten = any(asked.is_forgotten for asked in node.asked if asked.step.room == room_id)
    assert set(published) == told or (forgotten and told <= set(published)), "what is told is published, and no other"
    times = [rows[room_id, seq][3] for seq in published]
    assert times == sorted(times), "times never go back"


def check(database: Turns, nodes: list[Node]) -> None:
    found = database.look(
        "SELECT id, room_id, seq, content, request_hash, created_at, sender_id, client_message_id FROM messages"
    )
    stored = {row[0]: row for row in found}
    by_key = {(row[6], row[7]): row for row in found if row[7] is not None}
    assert len(by_key) == sum(row[7] is not None for row in found), "sent twice is stored once"
    all_asked = [asked for node in nodes for asked in node.asked]
    assert set(stored) <= {asked.entry.message_id for asked in all_asked if isinstance(asked.entry, Post)}
    for asked in all_asked:
        check_entry(asked, stored, by_key, database.fates)
    rows = {(room_id, row[0]): row for room_id in ROOMS for row in check_room(database, room_id)}
    for node in nodes:
        assert node.unflushed == 0, "the last batch was not flushed"
        assert node.journal.waiting == 0
        for room_id in ROOMS:
            check_node(node, room_id, rows)


async def play(
    connection: sqlite3.Connection, steps: list[Step], committers: int, max_entries: int, queries: Queries
) -> None:
    options = JournalOptions(
        max_waiting=MAX_WAITING, max_entries=max_entries, max_members=MAX_MEMBERS, committers=committers
    )
    database = Turns(connection)
    async with trio.open_nursery() as nursery:
        model = Model(database, [], nursery)
        for _ in range(NODES):
            node = Node(database, queries, options, lambda: model.now_ms)
            await nursery.start(node.serve)
            model.nodes.append(node)
        for step in steps:
            await model.take(step)
        await model.finish()
    check(database, model.nodes)


@programs(150)
@given(
    program,
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 3, 500]),
    st.sampled_from([QUERIES, WithPost()]),
)
def test_each_entry_is_settled_once_and_each_room_is_numbered_without_holes_whatever_becomes_of_commits(
    steps: list[Step], committers: int, max_entries: int, queries: Queries
) -> None:
    count_steps("journal", len(steps))
    with own_logging(), open_copy(USERS, ROOMS) as connection:
        # Made-up defects of those who asked are logged with their tracebacks: not here.
        telemetry.configure_logging("error", "json", StringIO())
        run(play, connection, steps, committers, max_entries, queries)
