"""Reading history back, on every kind of store: pages of messages, and what somebody missed, byte for byte."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from chatd.store.messages import Stretch
from chatd.store.queries import Query
from tests.stores import join, leave, post

if TYPE_CHECKING:
    from chatd.bus.port import Event
    from tests.stores import Store


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
