"""Reading history back, on every kind of store: pages of messages, and what somebody missed, byte for byte."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from chatd.protocol import MessageDeleted, MessageEdited, MessagePinned, ReactionAdded
from chatd.records import encode_json
from chatd.store import changes
from chatd.store.acts import Act
from chatd.store.messages import Stretch, Whereabouts
from chatd.store.queries import Query
from tests.stores import join, leave, post

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from chatd.bus.port import Event
    from chatd.store.acts import Scene
    from chatd.store.changes import Subject
    from chatd.store.database import Params, Transaction
    from tests.stores import Store, Written

    Do = Callable[[Scene, Subject], Awaitable[None]]

AT_TWO = Query("test.at_two", "SELECT id FROM messages WHERE room_id = :room_id AND seq = 2")


async def fill(store: Store, kind: str = "public") -> tuple[str, list[Event]]:
    """A room whose seqs 1 to 9 are messages but for 3 (`bob` joins) and 7 (he leaves); with all that was published."""
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room_id = await store.add_room(ada, kind=kind)
    other = await store.add_room(ada, name="other")
    async with store.open_journal(clock=lambda: 1_700_000_000_123) as written:
        for seq in range(1, 10):
            if seq in (3, 7):
                await written.journal.write(join(bob, room_id) if seq == 3 else leave(bob, room_id))
            else:
                fields = {"metadata": b'{"n":1}', "reply_to": "m"} if seq == 5 else {}
                await written.journal.write(post(ada, room_id, f"m{seq}", **fields))
            await written.journal.write(post(ada, other, "elsewhere"))
    return room_id, [event for event in written.published if event.room_id == room_id]


async def test_a_page_before_a_seq_has_the_newest_of_them_in_ascending_order(store: Store) -> None:
    room_id, _ = await fill(store)

    async def page(before: int, limit: int, offset: int = 0) -> list[int]:
        return [m.seq for m in await store.messages.before(room_id, before, limit=limit, offset=offset)]

    assert await page(100, 3) == [6, 8, 9]
    assert await page(9, 3) == [5, 6, 8]
    assert await page(9, 3, offset=2) == [2, 4, 5]
    assert await page(3, 9) == [1, 2]
    assert await page(1, 9) == []
    assert await store.messages.before("unknown", 100, limit=9) == []


async def test_a_page_after_a_seq_has_the_oldest_of_them_in_ascending_order(store: Store) -> None:
    room_id, _ = await fill(store)

    async def page(after: int, limit: int, **bounds: int) -> list[int]:
        return [m.seq for m in await store.messages.after(room_id, after, limit=limit, **bounds)]

    assert await page(0, 3) == [1, 2, 4]
    assert await page(4, 9) == [5, 6, 8, 9]
    assert await page(4, 9, before=8) == [5, 6]
    assert await page(9, 9) == []


async def test_a_message_is_read_as_it_was_published(store: Store) -> None:
    room_id, published = await fill(store)
    for message in await store.messages.after(room_id, 0, limit=100):
        event = json.loads(published[message.seq - 1].body)["message"]
        assert (message.id, message.content, message.sender_name) == (event["id"], event["content"], "ada")
        assert (message.created_at, message.reply_to) == ("2023-11-14T22:13:20.123Z", event.get("replyTo"))


async def test_the_place_of_a_message_is_known_in_its_own_room_only(store: Store) -> None:
    room_id, published = await fill(store)
    message_id = json.loads(published[4].body)["message"]["id"]
    assert await store.messages.seq_of(room_id, message_id) == 5
    assert await store.messages.seq_of("other", message_id) is None
    assert await store.messages.seq_of(room_id, "unknown") is None


@pytest.mark.parametrize("kind", ["public", "direct"])
async def test_what_was_missed_is_replayed_byte_for_byte_in_order(store: Store, kind: str) -> None:
    room_id, published = await fill(store, kind)
    assert [event.seq for event in published] == list(range(1, 10))
    for after in range(10):
        for limit in (1, 2, 3, 5, 100):
            assert await store.messages.events_after(room_id, after, limit) == published[after : after + limit]
            stretch = Stretch(room_id, after, after + limit)
            assert await store.messages.events_of([stretch]) == {stretch: published[after : after + limit]}


async def test_what_happened_to_a_message_shows_when_it_is_read(store: Store) -> None:
    room_id, _ = await fill(store)
    change = Query(
        "test.change",
        "UPDATE messages SET edited_at = 1000, deleted_at = 2000, pinned_at = 1 WHERE room_id = :room_id AND seq = 4",
    )
    await store.database.transaction(lambda tx: tx.run(change, {"room_id": room_id}))
    [message] = await store.messages.after(room_id, 3, limit=1)
    assert message.pinned
    assert (message.edited_at, message.deleted_at) == ("1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.000Z")


# What is about messages that were sent before


async def change(
    store: Store, written: Written, room_id: str, act: Callable[[Scene, Subject], Awaitable[None]]
) -> None:
    """Run an act on the message at seq 2, which is `fill`'s."""
    row = await store.database.row(AT_TWO, {"room_id": room_id})
    assert row is not None

    async def decide(scene: Scene) -> None:
        subject = await changes.read_subject(scene, row[0])
        assert subject is not None
        await act(scene, subject)

    await written.journal.write(Act(room_id, decide))


async def edit(scene: Scene, subject: Subject) -> None:
    seq = scene.next_seq()
    edited = await changes.edit(scene, subject.id, content=f"as of {seq}", metadata=None)
    event = MessageEdited(room_id=scene.room_id, seq=seq, message=edited)
    scene.add_event(event, subject=subject.sender_id, message_id=subject.id)


async def react(scene: Scene, subject: Subject) -> None:
    seq = scene.next_seq()
    count = await changes.add_reaction(scene, subject, f":{seq}:", user_id=subject.sender_id, seq=seq)
    event = ReactionAdded(
        room_id=scene.room_id, seq=seq, message_id=subject.id, user_id=subject.sender_id, emoji=f":{seq}:", count=count
    )
    scene.add_event(event, message_id=subject.id)


async def pin(scene: Scene, subject: Subject) -> None:
    await changes.pin(scene, subject.id, user_id=subject.sender_id)
    event = MessagePinned(room_id=scene.room_id, seq=scene.next_seq(), message_id=subject.id, user_id=subject.sender_id)
    scene.add_event(event, message_id=subject.id)


async def delete(scene: Scene, subject: Subject) -> None:
    await changes.delete(scene, subject, deleted_by=subject.sender_id, file_until_ms=0)
    event = MessageDeleted(
        room_id=scene.room_id, seq=scene.next_seq(), message_id=subject.id, deleted_by=subject.sender_id, deleted_at=""
    )
    scene.add_event(event, message_id=subject.id)


async def test_the_time_of_an_edit_never_goes_back_whichever_node_s_clock_is_ahead(store: Store) -> None:
    room_id, _ = await fill(store, "public")
    times = []
    for now_ms in (2_000_000_000_000, 1_900_000_000_000, 2_000_000_000_001):
        async with store.open_journal(clock=lambda now_ms=now_ms: now_ms) as written:  # type: ignore[misc]  # bound now
            await change(store, written, room_id, edit)
        rows = await store.database.rows(Query("test.times", "SELECT MAX(edited_at) FROM messages"), {})
        times.append(rows[0][0])
    assert times == [2_000_000_000_000, 2_000_000_000_000, 2_000_000_000_001]


@pytest.mark.parametrize("kind", ["public", "direct"])
async def test_a_replayed_message_is_as_it_is_now_without_what_its_own_events_bring(store: Store, kind: str) -> None:
    room_id, published = await fill(store, kind)
    async with store.open_journal(clock=lambda: 1_700_000_000_123) as written:
        for act in (edit, react, pin, edit, react):
            await change(store, written, room_id, act)
    published += written.published
    for found in (
        await store.messages.events_after(room_id, 0, 100),
        (await store.messages.events_of([Stretch(room_id, 0, 14)]))[Stretch(room_id, 0, 14)],
    ):
        assert [(event.seq, event.kind, event.subject) for event in found] == [
            (event.seq, event.kind, event.subject) for event in published
        ]
        replayed = [json.loads(event.body) for event in found]
        sent = [json.loads(event.body) for event in published]
        now = {"content": "as of 13", "editedAt": "2023-11-14T22:13:20.123Z"}
        assert replayed[1] == {"type": sent[1]["type"], "message": sent[1]["message"] | now}
        # Both edits are made of the message as it is, with all that it has.
        [shown] = await store.messages.after(room_id, 1, limit=1)
        assert shown.pinned
        assert [reaction.emoji for reaction in shown.reactions or ()] == [":11:", ":14:"]
        for seq in (10, 13):
            told = {"type": "message_edited", "roomId": room_id, "seq": seq, "message": json.loads(encode_json(shown))}
            assert replayed[seq - 1] == told
        untouched = [index for index in range(14) if index not in (1, 9, 12)]
        assert [found[index] for index in untouched] == [published[index] for index in untouched]


async def test_of_a_deleted_message_nothing_is_replayed_that_was_said(store: Store) -> None:
    room_id, _ = await fill(store)
    async with store.open_journal() as written:
        for act in (edit, react, pin, delete):
            await change(store, written, room_id, act)
    events = await store.messages.events_after(room_id, 0, 100)
    assert [event.kind for event in events[9:]] == [
        "message_edited", "reaction_added", "message_pinned", "message_deleted",
    ]  # fmt: skip
    for index in (1, 9):
        message = json.loads(events[index].body)["message"]
        assert message["content"] == ""
        assert message["deletedAt"]
        assert not {"reactions", "pinned", "metadata"} & message.keys()
    assert b"as of" not in b"".join(event.body for event in events)


async def test_a_message_is_found_with_the_room_and_the_role_of_whoever_asks(store: Store) -> None:
    room_id, published = await fill(store)
    sent = json.loads(published[0].body)["message"]
    eve = await store.add_user("eve")
    found = Whereabouts(room_id, "public", "member", "text", None)
    assert await store.messages.whereabouts(sent["id"], asked_by=sent["senderId"]) == found
    assert await store.messages.whereabouts(sent["id"], asked_by=eve.id) == found._replace(role=None)
    assert await store.messages.whereabouts("unknown", asked_by=eve.id) is None
    assert await store.messages.is_living(room_id, sent["id"])
    assert not await store.messages.is_living("other", sent["id"])


# How it is found


async def test_pages_pins_threads_and_reactions_go_by_an_index(store: Store) -> None:
    room_id, published = await fill(store)
    await fill_up(store, room_id)
    message_id = json.loads(published[0].body)["message"]["id"]
    room: Params = {"room_id": room_id, "limit": 50}
    one: Params = {"id": message_id, "room_id": room_id}
    asked: dict[str, Params] = {
        "messages.before": {**room, "before": 5000, "offset": 0},
        "messages.after": {**room, "after": 5000, "before": 10_000},
        "messages.events_after": {**room, "after": 0},
        "messages.pinned": {**room, "offset": 0},
        "messages.replies_after": {**room, "id": message_id, "after": 0, "offset": 0},
        "messages.replies_before": {**room, "id": message_id, "before": 10_000},
        "messages.of_ids": {"ids": json.dumps([message_id])},
        "messages.in_room": one,
        "messages.seq_of": one,
        "messages.is_living": one,
        "messages.whereabouts": {"id": message_id, "user_id": "u"},
        "messages.is_stored": {"sender_id": "u", "key": "k"},
        "changes.subject": one,
        "changes.count_pins": {"room_id": room_id},
        "changes.has_reacted": {"id": message_id, "emoji": "x", "user_id": "u"},
        "changes.first_reacted": {"id": message_id, "emoji": "x", "limit": 20},
        "changes.forget_reactions": {"id": message_id},
    }
    for name, params in asked.items():
        plan = await explain(store, name, params)
        assert not [line for line in plan if reads_through(line)], (name, plan)
        # What is wanted comes in its order out of the index; nothing is gathered first to be sorted.
        assert not [line for line in plan if "TEMP B-TREE" in line or "Sort" in line], (name, plan)


async def fill_up(store: Store, room_id: str) -> None:
    """Ten thousand messages more, so that an index is worth it, a few of them replies, pinned, and reacted to."""
    numbers = {
        "sqlite": "WITH RECURSIVE n (n) AS (SELECT 10 UNION ALL SELECT n + 1 FROM n WHERE n < 10009) ",
        "postgres": "WITH n (n) AS (SELECT generate_series(10, 10009)) ",
    }[store.database.dialect]
    add = f"""INSERT INTO messages (id, room_id, seq, count_in_room, sender_id, message_type, content, reply_to,
                                    created_at, pinned_at)
              {numbers}
              SELECT 'm-' || n, first.room_id, n, n, first.sender_id, 'text', 'filled',
                     CASE n % 100 WHEN 0 THEN first.id END, n, CASE n % 1000 WHEN 0 THEN n END
              FROM n, messages AS first WHERE first.room_id = :room_id AND first.seq = 1"""
    react = """INSERT INTO message_reactions (message_id, emoji, user_id, seq, created_at)
               SELECT id, 'x', sender_id, seq, 1 FROM messages WHERE room_id = :room_id"""

    async def work(tx: Transaction) -> None:
        await tx.run(Query("test.fill", add), {"room_id": room_id})
        await tx.run(Query("test.react", react), {"room_id": room_id})

    await store.database.transaction(work)
    await store.database.transaction(lambda tx: tx.script("ANALYZE"))


async def explain(store: Store, name: str, params: Params) -> list[str]:
    how = {"sqlite": "EXPLAIN QUERY PLAN ", "postgres": "EXPLAIN "}[store.database.dialect]
    rows = await store.database.rows(Query("test.explain", how + store.queries[name].text), params)
    return [str(row[-1]) for row in rows]


def reads_through(line: str) -> bool:
    """Whether a line of a plan goes through a table from its begin to its end; tests have few users and rooms."""
    is_small = any(f" on {table}" in line for table in ("users", "rooms", "room_members", "room_events"))
    return ("Seq Scan" in line and not is_small) or (line.startswith("SCAN") and "wanted" not in line)
