"""Acts: changes of a room that are decided inside of the transaction that stores them, in order with all else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from chatd.errors import Refusal, Unavailable
from chatd.protocol import MemberUpdated, MessageEdited, RoomUpdated
from chatd.records import Message
from chatd.store import moderation
from chatd.store.acts import Act
from chatd.store.entries import Stored
from chatd.store.journal import ACT_WEIGHT, JournalOptions
from chatd.store.queries import Query
from tests.stores import join, leave, post

if TYPE_CHECKING:
    from chatd.store.accounts import Account
    from chatd.store.acts import Decide, Scene
    from chatd.store.entries import MembershipChange, Post
    from tests.stores import Store, Written

HEAD = Query("test.head", "SELECT last_seq, message_count, member_count FROM rooms WHERE id = :room_id")
EVENTS = Query("test.events", "SELECT seq, kind, body, message_id FROM room_events ORDER BY seq")
POSTED = Query("test.posted", "SELECT posted_at FROM room_members WHERE room_id = :room_id")


def rename(name: str) -> Decide:
    """An act that adds one event."""

    async def decide(scene: Scene) -> None:
        scene.add_event(RoomUpdated(room_id=scene.room_id, seq=scene.next_seq(), name=name))

    return decide


async def write_something(scene: Scene, user: Account) -> None:
    """Change a row that nobody is told of."""
    posts = json.dumps([[scene.room_id, user.id, 1234]])
    await scene.run("journal.note_posts", posts=posts)


def append(written: Written, name: str, entry: Post | MembershipChange | Act) -> None:
    entry.settle = written.settle(name)
    written.journal.append(entry)


async def open_room(store: Store) -> tuple[Account, str]:
    ada = await store.add_user("ada")
    return ada, await store.add_room(ada)


async def test_an_act_takes_the_next_seq_and_its_event_is_stored_and_published(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal(clock=lambda: 5000) as written:
        await written.journal.write(post(ada, room_id))
        stored = await written.journal.write(Act(room_id, rename("Tea")))
    assert stored == Stored("", room_id, 2, 5000)
    body = {"type": "room_updated", "roomId": room_id, "seq": 2, "name": "Tea"}
    assert [(event.seq, event.kind) for event in written.published] == [(1, "new_message"), (2, "room_updated")]
    assert json.loads(written.published[1].body) == body
    [(seq, kind, kept, message_id)] = await store.database.rows(EVENTS, {})
    assert (seq, kind, json.loads(kept), message_id) == (2, "room_updated", body, None)
    assert await store.database.row(HEAD, {"room_id": room_id}) == (2, 1, 1)


async def test_acts_keep_their_order_among_messages_and_memberships_of_one_commit(store: Store) -> None:
    ada, room_id = await open_room(store)
    bob = await store.add_user("bob")
    seen: list[tuple[int, str | None]] = []

    async def look(scene: Scene) -> None:
        seen.append((scene.head.last_seq, (await scene.standing(bob.id)).role))

    async with store.open_journal() as written:
        store.database.shut()
        append(written, "first", post(ada, room_id, "first"))
        await trio.testing.wait_all_tasks_blocked()
        writes = store.database.writes
        entries: list[Post | MembershipChange | Act] = [
            post(ada, room_id, "two"), Act(room_id, look), Act(room_id, rename("three")), join(bob, room_id),
            Act(room_id, look), post(bob, room_id, "five"), leave(bob, room_id), Act(room_id, look),
            Act(room_id, rename("seven")), post(ada, room_id, "eight"),
        ]  # fmt: skip
        for number, entry in enumerate(entries):
            append(written, str(number), entry)
        store.database.open()
        await written.wait_settled("9")
    assert store.database.writes == writes + 1
    new, updated = "new_message", "room_updated"
    kinds = [new, new, updated, "user_joined", new, "user_left", updated, new]
    assert [(event.seq, event.kind) for event in written.published] == list(enumerate(kinds, 1))
    assert seen == [(2, None), (4, "member"), (6, None)]
    assert await store.database.row(HEAD, {"room_id": room_id}) == (8, 4, 1)
    assert await store.messages.events_after(room_id, 0, 100) == written.published


async def test_a_refusal_before_anything_was_written_keeps_the_commit_together(store: Store) -> None:
    ada, room_id = await open_room(store)

    async def refuse(scene: Scene) -> None:
        await scene.standing(ada.id)
        raise Refusal("forbidden", "You may not.")

    async with store.open_journal() as written:
        store.database.shut()
        append(written, "first", post(ada, room_id, "first"))
        await trio.testing.wait_all_tasks_blocked()
        writes = store.database.writes
        append(written, "a", Act(room_id, rename("a")))
        append(written, "no", Act(room_id, refuse))
        append(written, "b", post(ada, room_id))
        store.database.open()
        await written.wait_settled("b")
    assert store.database.writes == writes + 1
    refused = written.outcomes["no"]
    assert isinstance(refused, Refusal)
    assert refused.code == "forbidden"
    assert [event.seq for event in written.published] == [1, 2, 3]


async def test_a_refusal_behind_a_statement_that_changed_nothing_keeps_the_commit_together(store: Store) -> None:
    ada, room_id = await open_room(store)

    async def take_back(scene: Scene) -> None:
        if not await moderation.drop_invitation(scene, ada.id):
            raise Refusal("not_found", "Nobody was invited.")

    async with store.open_journal() as written:
        store.database.shut()
        append(written, "first", post(ada, room_id, "first"))
        await trio.testing.wait_all_tasks_blocked()
        writes = store.database.writes
        append(written, "no", Act(room_id, take_back))
        append(written, "b", post(ada, room_id))
        store.database.open()
        await written.wait_settled("b")
    assert store.database.writes == writes + 1
    refused = written.outcomes["no"]
    assert isinstance(refused, Refusal)
    assert refused.code == "not_found"


async def test_a_refusal_after_writing_undoes_what_the_act_did_and_nothing_else(store: Store) -> None:
    ada, room_id = await open_room(store)

    async def change_and_refuse(scene: Scene) -> None:
        await write_something(scene, ada)
        await rename("never")(scene)
        raise Refusal("limit_reached", "Too many.")

    async with store.open_journal() as written:
        store.database.shut()
        append(written, "first", post(ada, room_id, "first"))
        await trio.testing.wait_all_tasks_blocked()
        append(written, "a", Act(room_id, rename("a")))
        append(written, "no", Act(room_id, change_and_refuse))
        append(written, "b", post(ada, room_id))
        store.database.open()
        await written.wait_settled("b")
        with pytest.raises(Refusal, match="Too many") as caught:
            await written.journal.write(Act(room_id, change_and_refuse))
    assert caught.value.code == getattr(written.outcomes["no"], "code", None) == "limit_reached"
    assert [(event.seq, event.kind) for event in written.published] == [
        (1, "new_message"), (2, "room_updated"), (3, "new_message"),
    ]  # fmt: skip
    assert await store.database.rows(POSTED, {"room_id": room_id}) == [(None,)]
    assert await store.database.row(HEAD, {"room_id": room_id}) == (3, 2, 1)


async def test_an_act_without_an_event_is_a_duplicate_with_the_newest_seq(store: Store) -> None:
    ada, room_id = await open_room(store)

    async def do_nothing(scene: Scene) -> None:
        await scene.standing(ada.id)

    async def write_only(scene: Scene) -> None:
        await write_something(scene, ada)

    async with store.open_journal() as written:
        await written.journal.write(post(ada, room_id))
        for decide in (do_nothing, write_only):
            stored = await written.journal.write(Act(room_id, decide))
            assert (stored.seq, stored.duplicate) == (1, True)
    assert [event.seq for event in written.published] == [1]
    assert await store.database.rows(POSTED, {"room_id": room_id}) == [(1234,)]


async def test_an_act_may_add_several_events_or_change_counts(store: Store) -> None:
    ada, room_id = await open_room(store)

    async def twice(scene: Scene) -> None:
        await rename("one")(scene)
        seq = scene.next_seq()
        scene.head.standing_seq = seq
        scene.add_event(MemberUpdated(room_id=room_id, seq=seq, user_id=ada.id, role="readonly"), subject=ada.id)

    async with store.open_journal() as written:
        stored = await written.journal.write(Act(room_id, twice))
        assert stored.seq == 2
        assert [(event.seq, event.subject) for event in written.published] == [(1, None), (2, ada.id)]
        await written.journal.write(post(ada, room_id))
    assert [event.seq for event in written.published] == [1, 2, 3]


async def test_a_deleted_and_an_unknown_room_are_not_found_and_nothing_is_decided(store: Store) -> None:
    _, room_id = await open_room(store)
    delete = Query("test.delete", "UPDATE rooms SET deleted_at = 1 WHERE id = :room_id")
    await store.database.transaction(lambda tx: tx.run(delete, {"room_id": room_id}))
    async with store.open_journal() as written:
        for nowhere in (room_id, "unknown"):
            with pytest.raises(Refusal) as caught:
                await written.journal.write(Act(nowhere, rename("never")))
            assert caught.value.code == "not_found"
    assert written.published == []


async def test_when_the_store_goes_out_nothing_of_a_commit_is_there_and_the_next_one_goes_on(store: Store) -> None:
    ada, room_id = await open_room(store)
    async with store.open_journal() as written:
        store.database.shut()
        append(written, "a", Act(room_id, rename("a")))
        append(written, "b", post(ada, room_id))
        store.database.outages = 1
        store.database.open()
        await written.wait_settled("a", "b")
        assert all(isinstance(outcome, Unavailable) for outcome in written.outcomes.values())
        assert written.published == []
        assert (await written.journal.write(Act(room_id, rename("again")))).seq == 1


async def test_an_act_that_breaks_in_the_middle_leaves_nothing_and_those_beside_it_are_stored(store: Store) -> None:
    ada, room_id = await open_room(store)

    async def break_down(scene: Scene) -> None:
        await write_something(scene, ada)
        await rename("never")(scene)
        raise RuntimeError("a defect")

    async with store.open_journal() as written:
        store.database.shut()
        append(written, "first", Act(room_id, rename("first")))
        await trio.testing.wait_all_tasks_blocked()
        for name, decide in (("a", rename("a")), ("broken", break_down), ("b", rename("b"))):
            append(written, name, Act(room_id, decide))
        store.database.open()
        await written.wait_settled("b")
    assert getattr(written.outcomes["broken"], "code", None) == "internal"
    assert [json.loads(event.body)["name"] for event in written.published] == ["first", "a", "b"]
    assert [event.seq for event in written.published] == [1, 2, 3]
    assert await store.database.rows(POSTED, {"room_id": room_id}) == [(None,)]


async def test_an_act_whose_writing_conflicts_is_tried_again_from_its_start(store: Store) -> None:
    ada, room_id = await open_room(store)
    bob = await store.add_user("bob")
    tries = 0

    async def conflict_once(scene: Scene) -> None:
        nonlocal tries
        tries += 1
        await rename(f"try {tries}")(scene)
        if tries == 1:
            # Ada is in there.
            member = [room_id, ada.id, "member", 1, 1, 1]
            await scene.run("journal.add_members", members=json.dumps([member]))

    async with store.open_journal() as written:
        assert (await written.journal.write(Act(room_id, conflict_once))).seq == 1
        await written.journal.write(join(bob, room_id))
    assert tries == 2
    assert [event.seq for event in written.published] == [1, 2]
    assert json.loads(written.published[0].body)["name"] == "try 2"


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
async def test_acts_of_two_nodes_that_have_the_same_rooms_in_hand_never_lock_them_crosswise(store: Store) -> None:
    ada = await store.add_user("ada")
    rooms = [await store.add_room(ada) for _ in range(2)]
    begun = {node: trio.Event() for node in ("one", "other")}
    played: list[str] = []

    def take_turns(node: str, other: str) -> Decide:
        async def decide(scene: Scene) -> None:
            played.append(node)
            begun[node].set()
            with trio.move_on_after(0.2):
                await begun[other].wait()
            await rename(node)(scene)

        return decide

    async with store.open_journal() as one, store.open_journal() as other:
        store.database.shut()
        for written, node, its_rooms in ((one, "one", rooms), (other, "other", rooms[::-1])):
            append(written, "first", post(ada, "no room"))
            await trio.testing.wait_all_tasks_blocked()
            for name, room_id in zip(("a", "b"), its_rooms, strict=True):
                decide = take_turns(node, "other" if node == "one" else "one")
                append(written, name, Act(room_id, decide))
        store.database.open()
        await one.wait_settled("a", "b")
        await other.wait_settled("a", "b")
    # Nothing was undone for the sake of the other and played again.
    assert sorted(played) == ["one", "one", "other", "other"]


async def test_the_body_of_an_edit_is_not_kept_and_its_message_is_named(store: Store) -> None:
    ada, room_id = await open_room(store)

    async def edit(scene: Scene) -> None:
        seq = scene.next_seq()
        message = Message(
            id="m-1", room_id=room_id, seq=1, sender_id=ada.id, sender_name="ada", message_type="text",
            content="secret", created_at="",
        )  # fmt: skip
        scene.add_event(MessageEdited(room_id=room_id, seq=seq, message=message), subject=ada.id, message_id="m-1")

    async with store.open_journal() as written:
        await written.journal.write(Act(room_id, edit))
    assert b"secret" in written.published[0].body
    assert await store.database.rows(EVENTS, {}) == [(1, "message_edited", "{}", "m-1")]


async def test_a_commit_takes_few_acts_for_each_has_statements_of_its_own(store: Store) -> None:
    ada = await store.add_user("ada")
    room_id = await store.add_room(ada)
    seen: list[int] = []

    async def decide(scene: Scene) -> None:
        seen.append(scene.now_ms)

    async with store.open_journal() as written, trio.open_nursery() as nursery:
        store.database.shut()
        for _ in range(25):
            nursery.start_soon(written.journal.write, Act(room_id, decide))
        await trio.testing.wait_all_tasks_blocked(0.01)
        writes = store.database.writes
        store.database.open()
    assert len(seen) == 25
    most = JournalOptions().max_entries // ACT_WEIGHT
    assert store.database.writes - writes >= (25 - most) // most
