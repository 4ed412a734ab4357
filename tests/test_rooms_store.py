"""What is kept of rooms and their members, call by call, on every kind of store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chatd.ids import new_id
from chatd.store.database import Conflict
from chatd.store.queries import Query
from chatd.store.rooms import NewRoom, OwnRoom, RoomRow
from tests.stores import join, leave, post

if TYPE_CHECKING:
    from chatd.store.database import Params
    from tests.stores import Store

DELETE = Query("test.delete", "UPDATE rooms SET deleted_at = 1 WHERE id = :room_id")


async def delete(store: Store, room_id: str) -> None:
    await store.database.transaction(lambda tx: tx.run(DELETE, {"room_id": room_id}))


async def test_a_new_room_has_its_owner_and_first_members(store: Store) -> None:
    ada, bob, cy = [await store.add_user(name) for name in ("ada", "bob", "cy")]
    new = NewRoom(new_id(), "private", "plans", "what to do", ada.id)
    await store.rooms.add(new, owner_id=ada.id, member_ids=[bob.id], now_ms=1000)
    room = RoomRow(new.id, "private", "plans", "what to do", ada.id, 1000, 2, None, 0, "owner", 0)
    assert await store.rooms.by_id(new.id, asked_by=ada.id) == room
    seen_by_bob = await store.rooms.by_id(new.id, asked_by=bob.id)
    seen_by_cy = await store.rooms.by_id(new.id, asked_by=cy.id)
    assert seen_by_bob is not None
    assert seen_by_cy is not None
    assert (seen_by_bob.role, seen_by_cy.role) == ("member", None)
    assert await store.rooms.by_id("unknown", asked_by=ada.id) is None


async def test_a_room_with_a_member_who_does_not_exist_is_not_made_at_all(store: Store) -> None:
    ada = await store.add_user("ada")
    new = NewRoom(new_id(), "public", "plans", None, ada.id)
    with pytest.raises(Conflict):
        await store.rooms.add(new, owner_id=ada.id, member_ids=["nobody"], now_ms=1000)
    assert await store.rooms.by_id(new.id, asked_by=ada.id) is None
    assert await store.rooms.count_of_user(ada.id) == 0


async def test_one_sees_public_rooms_and_ones_own_page_by_page(store: Store) -> None:
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    public = await store.add_room()
    own = await store.add_room(ada, kind="private")
    of_bob = await store.add_room(bob, kind="private")
    await store.add_room(ada, bob, kind="direct")
    last = await store.add_room(ada)
    gone = await store.add_room()
    await delete(store, gone)

    async def page(user_id: str, *, after: str = "", limit: int = 9, offset: int = 0) -> list[str]:
        return [room.id for room in await store.rooms.visible(user_id, after=after, limit=limit, offset=offset)]

    assert await page(ada.id) == [public, own, last]
    assert await page(bob.id) == [public, of_bob, last]
    assert await page(ada.id, limit=2) == [public, own]
    assert await page(ada.id, after=own) == [last]
    assert await page(ada.id, offset=1) == [own, last]
    roles = [room.role for room in await store.rooms.visible(ada.id, after="", limit=9, offset=0)]
    assert roles == [None, "member", "member"]


async def test_a_deleted_room_is_nowhere_to_be_found(store: Store) -> None:
    ada = await store.add_user("ada")
    room_id = await store.add_room(ada)
    await delete(store, room_id)
    assert await store.rooms.by_id(room_id, asked_by=ada.id) is None
    assert await store.rooms.of_users([ada.id]) == {}
    # Whoever hears it still is to hear its last event.
    assert await store.rooms.last_seqs([room_id]) == {room_id: 0}
    assert await store.rooms.count_of_user(ada.id) == 0


async def test_members_are_paged_in_order_of_their_ids(store: Store) -> None:
    users = [await store.add_user(f"user{number}") for number in range(5)]
    room_id = await store.add_room(*users[::-1])
    await store.accounts.saw({users[0].id: 4000})
    first = await store.rooms.members(room_id, after="", limit=2, offset=0)
    rest = await store.rooms.members(room_id, after=first[-1].user_id, limit=9, offset=0)
    assert [member.username for member in (*first, *rest)] == [user.username for user in users]
    assert [m.username for m in await store.rooms.members(room_id, after="", limit=2, offset=3)] == ["user3", "user4"]
    assert (first[0].role, first[0].joined_at, first[0].last_seen_at) == ("member", 1000, 4000)
    assert await store.rooms.members("unknown", after="", limit=9, offset=0) == []


async def test_direct_conversations_do_not_count_as_rooms(store: Store) -> None:
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    await store.add_room(ada)
    await store.add_room(ada, bob, kind="private")
    await store.add_room(ada, bob, kind="direct")
    assert await store.rooms.count_of_user(ada.id) == 2
    assert await store.rooms.count_of_user(bob.id) == 1
    assert await store.rooms.count_of_user("unknown") == 0


async def test_the_rooms_of_many_users_come_at_once_with_what_each_has_not_read(store: Store) -> None:
    ada, bob, cy = [await store.add_user(name) for name in ("ada", "bob", "cy")]
    room_id = await store.add_room(ada, name="one")
    other = await store.add_room(ada, kind="private", name="two")
    async with store.open_journal() as written:
        await written.journal.write(post(ada, room_id))
        await written.journal.write(post(ada, room_id))
        await written.journal.write(join(bob, room_id))
        await written.journal.write(post(ada, room_id))
    assert await store.rooms.of_users([ada.id, bob.id, cy.id, "unknown"]) == {
        ada.id: [
            OwnRoom(room_id, "one", "public", "member", 4, 0, 3),
            OwnRoom(other, "two", "private", "member", 0, 0, 0),
        ],
        bob.id: [OwnRoom(room_id, "one", "public", "member", 4, 3, 1)],
    }
    assert await store.rooms.of_users([]) == {}


async def test_who_left_and_comes_back_has_nothing_unread(store: Store) -> None:
    ada = await store.add_user("ada")
    room_id = await store.add_room(ada)
    async with store.open_journal() as written:
        await written.journal.write(post(ada, room_id))
        await written.journal.write(leave(ada, room_id))
        assert await store.rooms.of_users([ada.id]) == {}
        await written.journal.write(join(ada, room_id))
    [own] = (await store.rooms.of_users([ada.id]))[ada.id]
    assert (own.last_seq, own.read_seq, own.unread) == (3, 3, 0)


async def test_the_newest_seqs_of_many_rooms_come_at_once(store: Store) -> None:
    ada = await store.add_user("ada")
    rooms = [await store.add_room(ada, name=str(number)) for number in range(3)]
    async with store.open_journal() as written:
        for number, room_id in enumerate(rooms):
            for _ in range(number):
                await written.journal.write(post(ada, room_id))
    assert await store.rooms.last_seqs([*rooms, "unknown"]) == dict(zip(rooms, (0, 1, 2), strict=True))
    assert await store.rooms.last_seqs([]) == {}


async def test_rooms_are_counted_by_their_kind(store: Store) -> None:
    ada = await store.add_user("ada")
    rooms = [await store.add_room(ada, kind=kind) for kind in ("public", "direct", "public")]
    gone = await store.add_room(kind="private")
    await delete(store, gone)
    counted = await store.rooms.count_kinds([*rooms, "unknown"])
    assert counted == {"public": 2, "direct": 1}
    assert await store.rooms.count_kinds([]) == {}


INVITE = Query(
    "test.invite", "INSERT INTO room_invitations (room_id, user_id, invited_at) VALUES (:room_id, :user_id, 1)"
)


async def test_one_sees_what_one_is_invited_to_and_as_what(store: Store) -> None:
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room_id = await store.add_room(ada, kind="private")
    assert await store.rooms.visible(bob.id, after="", limit=9, offset=0) == []
    params: Params = {"room_id": room_id, "user_id": bob.id}
    await store.database.transaction(lambda tx: tx.run(INVITE, params))
    [seen] = await store.rooms.visible(bob.id, after="", limit=9, offset=0)
    assert (seen.id, seen.role, seen.invited_as) == (room_id, None, "member")
    assert await store.rooms.by_id(room_id, asked_by=bob.id) == seen
    assert await store.rooms.count_of_user(bob.id) == 0
    assert await store.rooms.of_users([bob.id]) == {}


async def test_one_member_is_read_as_the_list_shows_them(store: Store) -> None:
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room_id = await store.add_room(ada)
    assert [await store.rooms.member(room_id, ada.id)] == await store.rooms.members(
        room_id, after="", limit=9, offset=0
    )
    assert await store.rooms.member(room_id, bob.id) is None


async def test_who_is_next_to_own_a_room_is_found_by_index_however_many_are_in_it(store: Store) -> None:
    room_id = await store.add_room(await store.add_user("ada"))
    how = {"sqlite": "EXPLAIN QUERY PLAN ", "postgres": "EXPLAIN "}[store.database.dialect]
    query = Query("test.explain", how + store.queries["moderation.heir"].text)
    plan = [str(row[-1]) for row in await store.database.rows(query, {"room_id": room_id, "user_id": "nobody"})]
    assert sum("room_members_by_role" in line for line in plan) == 4
