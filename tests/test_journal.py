"""The journal on every kind of store: one commit for all that waits, and nobody hears of it before it is durable."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from chatd.errors import Refusal, Unavailable
from chatd.store.entries import Entry, Outcome, Post, Stored
from chatd.store.journal import JournalOptions
from chatd.store.queries import Query
from tests.stores import Store, Written, join, leave, post

if TYPE_CHECKING:
    from chatd.store.accounts import Account

SEQS = Query("test.seqs", "SELECT seq, content FROM messages WHERE room_id = :room_id ORDER BY seq")
HEAD = Query("test.head", "SELECT last_seq, message_count, member_count FROM rooms WHERE id = :room_id")
ROLES = Query("test.roles", "SELECT user_id, role, joined_seq, read_seq, read_count FROM room_members")


def append(written: Written, name: str, entry: Entry) -> None:
    """Give an entry to the journal under a name."""
    entry.settle = written.settle(name)
    written.journal.append(entry)


async def open_room(store: Store) -> tuple[Account, str]:
    ada = await store.add_user("ada")
    room_id = await store.add_room(ada)
    store.database.writes = 0
    return ada, room_id


async def test_a_message_alone_is_committed_at_once_then_acknowledged_then_published(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal() as written:
        stored = await written.journal.write(post(ada, room_id, "hello"))
        assert (stored.room_id, stored.seq, stored.duplicate) == (room_id, 1, False)
    assert await store.database.rows(SEQS, {"room_id": room_id}) == [(1, "hello")]
    assert written.steps == ["published 1", "flushed"]


async def test_all_that_waits_goes_into_one_commit_and_is_settled_in_order_before_it_is_published(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal() as written:
        store.database.shut()
        append(written, "first", post(ada, room_id, "first"))
        await trio.testing.wait_all_tasks_blocked()
        for name in "abc":
            append(written, name, post(ada, room_id, name))
        assert written.journal.waiting == 3
        store.database.open()
        await written.wait_settled(*"abc")
    assert store.database.writes == 2
    assert written.steps == [
        "settled first", "published 1", "flushed",
        "settled a", "settled b", "settled c", "published 2 3 4", "flushed",
    ]  # fmt: skip
    assert await store.database.row(HEAD, {"room_id": room_id}) == (4, 4, 1)


async def test_nothing_is_settled_or_published_before_the_commit(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal() as written:
        store.database.shut()
        append(written, "a", post(ada, room_id))
        await trio.testing.wait_all_tasks_blocked()
        assert written.steps == []
        assert await store.database.rows(SEQS, {"room_id": room_id}) == []
        store.database.open()
        await written.wait_settled("a")
        assert await store.database.rows(SEQS, {"room_id": room_id}) == [(1, "hello")]


async def test_a_commit_takes_no_more_entries_than_it_may(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal(JournalOptions(max_entries=4)) as written:
        for number in range(10):
            append(written, str(number), post(ada, room_id, str(number)))
    assert store.database.writes == 3
    assert [step for step in written.steps if "published" in step] == [
        "published 1 2 3 4", "published 5 6 7 8", "published 9 10",
    ]  # fmt: skip


async def test_rooms_in_one_commit_are_numbered_each_for_itself(store: Store) -> None:
    ada, first = await open_room(store)
    second = await store.add_room(ada, kind="direct", name="two")
    async with store.open_journal() as written:
        for number in range(6):
            append(written, str(number), post(ada, (first, second)[number % 2], str(number)))
    assert [(event.room_id, event.seq) for event in written.published] == [
        (room_id, seq) for room_id in (first, second) for seq in (1, 2, 3)
    ]
    kinds = {event.room_id: json.loads(event.body)["type"] for event in written.published}
    assert kinds == {first: "new_message", second: "new_dm"}


async def test_a_repeat_is_told_the_first_ones_values_and_is_not_published_again(store: Store) -> None:
    ada, room_id = await open_room(store)

    def again(content: str = "once", request_hash: str = "h") -> Post:
        return post(ada, room_id, content, client_message_id="k", request_hash=request_hash)

    async with store.open_journal() as written:
        append(written, "first", again())
        append(written, "same batch", again())
        await written.wait_settled("same batch")
        later = await written.journal.write(again())
        with pytest.raises(Refusal) as mismatch:
            await written.journal.write(again("other", "i"))
    first = written.outcomes["first"]
    assert isinstance(first, Stored)
    assert written.outcomes["same batch"] == later == first._replace(duplicate=True)
    assert mismatch.value.code == "idempotency_mismatch"
    assert [event.seq for event in written.published] == [1]
    assert await store.database.rows(SEQS, {"room_id": room_id}) == [(1, "once")]


async def test_one_key_of_two_senders_is_two_keys(store: Store) -> None:
    ada, room_id = await open_room(store)
    bob = await store.add_user("bob")
    async with store.open_journal() as written:
        await written.journal.write(join(bob, room_id))
        for user in (ada, bob):
            append(written, user.username, post(user, room_id, client_message_id="k", request_hash=user.id))
    assert [event.seq for event in written.published] == [1, 2, 3]


async def test_joins_and_leaves_are_events_and_change_who_is_a_member(store: Store) -> None:
    ada, room_id = await open_room(store)
    bob = await store.add_user("bob")
    async with store.open_journal() as written:
        append(written, "says", post(ada, room_id))
        append(written, "joins", join(bob, room_id, role="moderator"))
        append(written, "joins again", join(bob, room_id))
        append(written, "leaves", leave(ada, room_id))
        await written.wait_settled("leaves")
        repeated = written.outcomes["joins again"]
        assert isinstance(repeated, Stored)
        assert (repeated.seq, repeated.duplicate) == (2, True)
        assert [(event.kind, event.seq, event.subject) for event in written.published] == [
            ("new_message", 1, ada.id), ("user_joined", 2, bob.id), ("user_left", 3, ada.id),
        ]  # fmt: skip
        assert await store.database.rows(ROLES, {}) == [(bob.id, "moderator", 2, 2, 1)]
        assert await store.database.row(HEAD, {"room_id": room_id}) == (3, 1, 1)
        left = await written.journal.write(leave(ada, room_id))
        assert (left.seq, left.duplicate) == (3, True)


@pytest.mark.parametrize(("steps", "members"), [("jl", ""), ("jlj", "j"), ("lj", "j"), ("ljl", "")])
async def test_somebody_who_comes_and_goes_in_one_commit_ends_as_the_last_step_says(
    store: Store, steps: str, members: str
) -> None:
    ada, room_id = await open_room(store)
    user = await store.add_user("bob") if steps[0] == "j" else ada
    async with store.open_journal() as written:
        for index, step in enumerate(steps):
            append(written, str(index), join(user, room_id) if step == "j" else leave(user, room_id))
    assert len(written.published) == len(steps)
    found = [row for row in await store.database.rows(ROLES, {}) if row[0] == user.id]
    assert len(found) == len(members)
    assert all(row[2] == len(steps) for row in found)


async def test_the_banned_and_the_unknown_room_are_refused_beside_what_is_good(store: Store) -> None:
    ada, room_id = await open_room(store)
    bob = await store.add_user("bob")
    ban = Query("test.ban", "INSERT INTO room_bans (room_id, user_id, banned_at) VALUES (:room_id, :user_id, 1)")
    await store.database.transaction(lambda tx: tx.run(ban, {"room_id": room_id, "user_id": bob.id}))
    gone = await store.add_room(name="gone")
    delete = Query("test.delete", "UPDATE rooms SET deleted_at = 1 WHERE id = :room_id")
    await store.database.transaction(lambda tx: tx.run(delete, {"room_id": gone}))
    async with store.open_journal() as written:
        append(written, "banned", join(bob, room_id))
        append(written, "nowhere", post(ada, "no-such-room"))
        append(written, "gone", post(ada, gone))
        append(written, "good", post(ada, room_id))
    codes = {name: getattr(outcome, "code", None) for name, outcome in written.outcomes.items()}
    assert codes == {"banned": "forbidden", "nowhere": "not_found", "gone": "not_found", "good": None}
    assert [event.seq for event in written.published] == [1]


async def test_an_entry_that_breaks_a_rule_of_the_database_is_refused_alone(store: Store) -> None:
    ada, room_id = await open_room(store)
    poison = post(ada, room_id, message_type="no such type")
    async with store.open_journal() as written:
        store.database.shut()
        append(written, "before", post(ada, room_id, "before"))
        append(written, "poison", poison)
        append(written, "behind", post(ada, room_id, "behind"))
        store.database.open()
        await written.wait_settled("behind")
        assert (await written.journal.write(post(ada, room_id, "later"))).seq == 3
    assert getattr(written.outcomes["poison"], "code", None) == "conflict"
    assert [step for step in written.steps if "settled" in step] == [
        "settled before",
        "settled poison",
        "settled behind",
    ]
    assert await store.database.rows(SEQS, {"room_id": room_id}) == [(1, "before"), (2, "behind"), (3, "later")]


async def test_a_batch_that_cannot_be_stored_is_refused_whole_and_the_next_one_is_stored(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal() as written:
        store.database.outages = 1
        append(written, "a", post(ada, room_id, "a"))
        append(written, "b", post(ada, room_id, "b"))
        await written.wait_settled("a", "b")
        assert [type(outcome) for outcome in written.outcomes.values()] == [Unavailable, Unavailable]
        assert written.published == []
        assert (await written.journal.write(post(ada, room_id, "c"))).seq == 1
    assert await store.database.rows(SEQS, {"room_id": room_id}) == [(1, "c")]


async def test_behind_commits_that_fail_are_smaller_ones_until_they_succeed(store: Store) -> None:
    ada, room_id = await open_room(store)
    store.database.outages = 3
    async with store.open_journal(JournalOptions(max_entries=64)) as written:
        for number in range(64 + 32 + 16 + 8 + 16 + 32 + 64):
            append(written, str(number), post(ada, room_id))
    assert [len(step.split()) - 1 for step in written.steps if "published" in step] == [8, 16, 32, 64]


async def test_too_many_waiting_are_refused_with_a_time_and_those_before_are_stored(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal(JournalOptions(max_waiting=3)) as written:
        store.database.shut()
        for number in range(3):
            append(written, str(number), post(ada, room_id, str(number)))
        with pytest.raises(Refusal) as overloaded:
            append(written, "one too many", post(ada, room_id))
        assert (overloaded.value.code, overloaded.value.is_temporary) == ("overloaded", True)
        assert overloaded.value.retry_after_ms
        store.database.open()
        await written.wait_settled("2")
        assert (await written.journal.write(post(ada, room_id))).seq == 4
    assert "one too many" not in written.outcomes


async def test_who_finds_no_space_waits_for_it_and_is_refused_after_a_while(store: Store) -> None:
    ada, room_id = await open_room(store)
    done: list[str] = []

    async def write(content: str) -> None:
        try:
            await written.journal.write(post(ada, room_id, content))
        except Refusal as refusal:
            done.append(f"{content}: {refusal.code}")
        else:
            done.append(content)

    async with (
        store.open_journal(JournalOptions(max_waiting=2, space_s=0.2)) as written,
        trio.open_nursery() as nursery,
    ):
        store.database.shut()
        # one is in the commit that does not end, two wait for the next, two find no space
        for content in "abcde":
            nursery.start_soon(write, content)
            await trio.testing.wait_all_tasks_blocked()
        while len(done) < 2:  # noqa: ASYNC110 - time has to pass
            await trio.sleep(0.01)
        assert sorted(done) == ["d: overloaded", "e: overloaded"]
        for content in "fghi":
            nursery.start_soon(write, content)
            await trio.testing.wait_all_tasks_blocked()
        store.database.open()
    assert sorted(done[2:]) == list("abcfghi")
    stored = await store.database.rows(SEQS, {"room_id": room_id})
    assert sorted(content for _, content in stored) == list("abcfghi")


async def test_closing_commits_what_waits_and_takes_nothing_more(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal() as written:
        store.database.shut()
        append(written, "a", post(ada, room_id, "a"))
        await trio.testing.wait_all_tasks_blocked()
        append(written, "b", post(ada, room_id, "b"))
        store.database.open()
    assert list(written.outcomes) == ["a", "b"]
    with pytest.raises(Unavailable, match="stopping"):
        written.journal.append(post(ada, room_id))
    assert await store.database.rows(SEQS, {"room_id": room_id}) == [(1, "a"), (2, "b")]


async def test_a_writer_that_is_cancelled_does_not_take_its_entry_back(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal() as written:
        store.database.shut()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(written.journal.write, post(ada, room_id, "stays"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        store.database.open()
    assert await store.database.rows(SEQS, {"room_id": room_id}) == [(1, "stays")]


async def test_times_never_go_back_although_the_clock_does(store: Store) -> None:
    ada, room_id = await open_room(store)
    readings = iter([5000, 4000, 1, 6000])
    async with store.open_journal(clock=readings.__next__) as written:
        times = [(await written.journal.write(post(ada, room_id))).created_at_ms for _ in range(4)]
    assert times == [5000, 5000, 5000, 6000]
    ids = [message.id for message in await store.messages.after(room_id, 0, limit=10)]
    assert ids == sorted(ids)


async def test_text_of_any_kind_is_stored_as_it_came(store: Store) -> None:
    """But U+0000, which PostgreSQL cannot hold and `chat.content` refuses."""
    ada, room_id = await open_room(store)
    texts = ["\x01", "a\x1fb", "\x7f\x1b[0m", "\u2028\ufeff\ufffe", "😀\U0010ffff", '\\"\\u0000', "[1]", "null", "1e3"]
    async with store.open_journal() as written:
        for text, number in zip(texts, count()):
            append(written, str(number), post(ada, room_id, text, client_message_id=text, request_hash=text))
        await written.wait_settled(str(len(texts) - 1))
        again = await written.journal.write(
            post(ada, room_id, "a\x1fb", client_message_id="a\x1fb", request_hash="a\x1fb")
        )
        assert (again.seq, again.duplicate) == (2, True)
    stored = await store.messages.after(room_id, 0, limit=100)
    assert [message.content for message in stored] == texts
    assert [message.client_message_id for message in stored] == texts


async def test_somebody_who_cannot_be_told_keeps_nobody_else_from_being_told(store: Store) -> None:
    ada, room_id = await open_room(store)

    def break_down(outcome: Outcome) -> None:
        raise LookupError("a defect of whoever asked")

    async with store.open_journal() as written:
        broken = post(ada, room_id, "first")
        broken.settle = break_down
        written.journal.append(broken)
        append(written, "second", post(ada, room_id, "second"))
        await written.wait_settled("second")
    assert [event.seq for event in written.published] == [1, 2]


async def test_text_that_a_database_cannot_hold_is_refused_alone(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal() as written:
        append(written, "before", post(ada, room_id, "before"))
        append(written, "NUL", post(ada, room_id, "a\x00b"))
        append(written, "behind", post(ada, room_id, "behind"))
        await written.wait_settled("behind")
    if store.database.dialect == "postgres":
        assert getattr(written.outcomes["NUL"], "code", None) == "bad_message"
    contents = [row[1] for row in await store.database.rows(SEQS, {"room_id": room_id})]
    assert (contents[0], contents[-1]) == ("before", "behind")


async def test_an_entry_with_a_defect_is_refused_alone_and_the_journal_goes_on(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal() as written:
        append(written, "broken", post(ada, room_id, metadata="no bytes"))
        append(written, "good", post(ada, room_id, "good"))
        await written.wait_settled("broken", "good")
    assert getattr(written.outcomes["broken"], "code", None) == "internal"
    assert await store.database.rows(SEQS, {"room_id": room_id}) == [(1, "good")]


async def test_what_it_did_is_counted(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal() as written:
        await written.journal.write(post(ada, room_id))
    rendered = written.metrics.render()[0].decode()
    assert "chatd_commits_total 1.0" in rendered
    assert "chatd_commit_entries_sum 1.0" in rendered


async def test_a_commit_of_large_messages_takes_few_of_them(store: Store) -> None:
    ada, room_id = await open_room(store)
    store.database.shut()
    async with store.open_journal(JournalOptions(max_characters=1000)) as written:
        append(written, "first", post(ada, room_id, "first"))
        await trio.testing.wait_all_tasks_blocked()
        for name in "abcde":
            append(written, name, post(ada, room_id, name * 400))
        store.database.open()
        await written.wait_settled("first", *"abcde")
    # The message that reaches the bound is the last of its commit.
    assert [step for step in written.steps if step.startswith("published")] == [
        "published 1", "published 2 3 4", "published 5 6",
    ]  # fmt: skip
    stored = await store.database.rows(SEQS, {"room_id": room_id})
    assert [content[0] for _, content in stored] == ["f", *"abcde"]


# Messages that the database numbers itself, where it can: what comes of them is the same


async def test_a_batch_of_messages_is_one_statement_where_the_database_numbers_them(store: Store) -> None:
    ada, room_id = await open_room(store)
    other = await store.add_room(ada, name="other")
    store.database.shut()
    async with store.open_journal() as written:
        append(written, "first", post(ada, room_id, "first"))
        await trio.testing.wait_all_tasks_blocked()
        for name in "abcd":
            append(written, name, post(ada, room_id if name in "ac" else other, name, client_message_id=name))
        store.database.open()
        await written.wait_settled("first", *"abcd")
    seqs = {name: outcome.seq for name, outcome in written.outcomes.items() if isinstance(outcome, Stored)}
    assert seqs == {"first": 1, "a": 2, "c": 3, "b": 1, "d": 2}
    assert store.database.single_writes == (2 if store.database.dialect == "postgres" else 0)
    assert await store.database.row(HEAD, {"room_id": room_id}) == (3, 3, 1)
    assert await store.database.row(HEAD, {"room_id": other}) == (2, 2, 1)
    # What was published is what is read back, in every field.
    for room in (room_id, other):
        read = await store.messages.events_after(room, 0, 10)
        assert read == [event for event in written.published if event.room_id == room]


@pytest.mark.parametrize("obstacle", ["repeat", "twice in the batch", "no such room", "membership"])
async def test_a_batch_with_something_in_the_way_comes_out_as_if_gone_through_one_by_one(
    store: Store, obstacle: str
) -> None:
    ada, room_id = await open_room(store)
    bob = await store.add_user("bob")
    async with store.open_journal() as written:
        await written.journal.write(post(ada, room_id, "old", client_message_id="old", request_hash="h"))
        store.database.shut()
        append(written, "first", post(ada, room_id, "first"))
        await trio.testing.wait_all_tasks_blocked()
        append(written, "a", post(ada, room_id, "a", client_message_id="a", request_hash="h"))
        match obstacle:
            case "repeat":
                append(written, "odd", post(ada, room_id, "old", client_message_id="old", request_hash="h"))
            case "twice in the batch":
                append(written, "odd", post(ada, room_id, "a", client_message_id="a", request_hash="h"))
            case "no such room":
                append(written, "odd", post(ada, "nowhere", "x"))
            case _:
                append(written, "odd", join(bob, room_id))
        append(written, "b", post(ada, room_id, "b"))
        store.database.open()
        await written.wait_settled("first", "a", "odd", "b")
    odd, after = written.outcomes["odd"], written.outcomes["b"]
    assert isinstance(after, Stored)
    match obstacle:
        case "repeat" | "twice in the batch":
            assert isinstance(odd, Stored)
            assert (odd.duplicate, odd.seq, after.seq) == (True, 1 if obstacle == "repeat" else 3, 4)
        case "no such room":
            assert isinstance(odd, Refusal)
            assert (odd.code, after.seq) == ("not_found", 4)
        case _:
            assert isinstance(odd, Stored)
            assert (odd.seq, after.seq) == (4, 5)
    stored = await store.database.rows(SEQS, {"room_id": room_id})
    assert [content for _, content in stored] == ["old", "first", "a", "b"]
    assert [event.seq for event in written.published] == list(range(1, after.seq + 1))
