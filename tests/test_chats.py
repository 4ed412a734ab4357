"""The chat list: each room and conversation with its last message, what is unread, and who is in it, newest first."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from chatd.store.chats import PARTICIPANTS, TOP, Chats, Place
from chatd.store.queries import Query
from tests.counting import count_queries
from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, SignedIn, open_daemon
from tests.stores import post
from tests.test_direct import write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from chatd.store.database import Params, Row, Transaction
    from tests.stores import Store


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def chats_of(daemon: Daemon, user: SignedIn, query: str = "") -> Any:
    answer = await daemon.http("GET", "/api/chats" + query, token=user.token)
    assert answer.status == 200, answer.body
    return answer.json()


async def post_by_http(daemon: Daemon, user: SignedIn, room_id: str, content: str = "hello") -> str:
    answer = await daemon.http("POST", f"/api/rooms/{room_id}/messages", {"content": content}, token=user.token)
    assert answer.status == 201
    return str(answer.json()["id"])


# -- in the store -------------------------------------------------------------------------------------------------


async def test_pages_follow_each_other_also_where_moments_are_alike(store: Store) -> None:
    chats = Chats(store.database, store.queries)
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    rooms = [await store.add_room(ada, bob) for _ in range(5)]
    ticks = iter([5000, 6000, 6000, 6000, 7000])
    async with store.open_journal(clock=lambda: next(ticks)) as written:
        for room_id in rooms:
            await written.journal.write(post(bob, room_id))
    order = [rooms[4], *sorted(rooms[1:4], reverse=True), rooms[0]]
    found: list[str] = []
    place = TOP
    while page := await chats.page(ada.id, behind=place, limit=2):
        found += [row.room_id for row in page]
        place = page[-1].place
    assert found == order
    assert [row.room_id for row in await chats.page(ada.id, behind=TOP, limit=9, offset=3)] == order[3:]
    assert place == Place(5000, rooms[0])


async def test_a_room_in_which_nothing_was_said_stands_where_it_was_joined(store: Store) -> None:
    chats = Chats(store.database, store.queries)
    ada = await store.add_user("ada")
    room_id = await store.add_room(ada)
    [row] = await chats.page(ada.id, behind=TOP, limit=9)
    assert (row.room_id, row.activity, row.last_message, row.unread) == (room_id, 1000, None, 0)
    assert row.participants == [(ada.id, "ada", None)]


async def test_many_participants_are_counted_and_the_first_of_them_named(store: Store) -> None:
    chats = Chats(store.database, store.queries)
    users = [await store.add_user(f"user{number:02}") for number in range(PARTICIPANTS + 2)]
    await store.add_room(*users)
    [row] = await chats.page(users[-1].id, behind=TOP, limit=9)
    assert row.member_count == PARTICIPANTS + 2
    assert [participant.username for participant in row.participants] == [f"user{n:02}" for n in range(PARTICIPANTS)]


async def test_the_list_is_read_by_indexes(store: Store) -> None:
    query = store.queries["chats.page"]
    how = "EXPLAIN QUERY PLAN " if store.database.dialect == "sqlite" else "EXPLAIN "

    async def work(tx: Transaction) -> list[Row]:
        values: Params = {"user_id": "u", "activity": 1, "room_id": "", "limit": 1, "offset": 0, "participants": 1}
        return await tx.rows(Query("explained", how + query.text), values)

    plan = "\n".join(str(row[-1]) for row in await store.database.transaction(work))
    assert "Seq Scan" not in plan
    assert "SCAN messages" not in plan
    assert "SCAN rooms" not in plan
    assert "room_members_by_user" in plan


# -- through the door ---------------------------------------------------------------------------------------------


@ON_BOTH_BACK_ENDS
async def test_rooms_and_conversations_stand_together_the_newest_activity_first(daemon: Daemon) -> None:
    ada, bob, cyd = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
    quiet = await daemon.create_room(ada, "quiet", members=[bob.id])
    busy = await daemon.create_room(ada, "busy", topic="all day", members=[bob.id, cyd.id])
    async with daemon.connect(bob) as client:
        direct = (await write(client, ada, "psst"))["roomId"]
    await post_by_http(daemon, bob, busy, "one")
    await post_by_http(daemon, bob, busy, "two")
    found = (await chats_of(daemon, ada))["chats"]
    assert [chat["roomId"] for chat in found] == [busy, direct, quiet]
    assert [(chat["name"], chat["kind"], chat["unread"]) for chat in found] == [
        ("busy", "public", 2), ("", "direct", 1), ("quiet", "public", 0),
    ]  # fmt: skip
    first, second, third = found
    assert (first["topic"], first["memberCount"], first["lastSeq"], first["lastReadSeq"]) == ("all day", 3, 2, 0)
    assert (first["lastMessage"]["content"], first["lastMessage"]["senderName"]) == ("two", "bob")
    assert first["lastActivity"] == first["lastMessage"]["createdAt"]
    assert [person["username"] for person in first["participants"]] == ["ada", "bob", "cyd"]
    assert (second["userId"], "userId" in first, "lastMessage" in third) == (bob.id, False, False)
    # the other side has read what it wrote
    assert [chat["unread"] for chat in (await chats_of(daemon, bob))["chats"]] == [0, 0, 0]


@ON_BOTH_BACK_ENDS
async def test_a_page_ends_with_the_cursor_of_the_next(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    rooms = [await daemon.create_room(ada, f"room{number}") for number in range(3)]
    for room_id in rooms:
        await post_by_http(daemon, ada, room_id)
    first = await chats_of(daemon, ada, "?limit=2")
    rest = await chats_of(daemon, ada, f"?limit=2&after={first['after']}")
    assert [chat["roomId"] for chat in (*first["chats"], *rest["chats"])] == rooms[::-1]
    assert (first["hasMore"], rest["hasMore"], "after" in rest) == (True, False, False)
    skipped = await chats_of(daemon, ada, "?limit=2&offset=2")
    assert skipped == rest
    for cursor in ("x", "12", "1e3.x", "9" * 30 + ".x", "-1.x"):
        answer = await daemon.http("GET", f"/api/chats?after={cursor}", token=ada.token)
        assert (answer.status, "`after`" in answer.json()["detail"]) == (422, True)


@ON_BOTH_BACK_ENDS
async def test_the_last_message_is_shown_as_it_is_now(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    message_id = await post_by_http(daemon, ada, room_id, "secret")
    async with daemon.connect(ada) as client:
        await client.ask(type="edit_message", messageId=message_id, content="open")
        [chat] = (await chats_of(daemon, ada))["chats"]
        assert (chat["lastMessage"]["content"], "editedAt" in chat["lastMessage"]) == ("open", True)
        await client.ask(type="delete_message", messageId=message_id)
    answer = await daemon.http("GET", "/api/chats", token=ada.token)
    assert b"open" not in answer.body
    assert b"secret" not in answer.body
    [chat] = answer.json()["chats"]
    assert (chat["lastMessage"]["id"], chat["lastMessage"]["content"]) == (message_id, "")
    assert "deletedAt" in chat["lastMessage"]


@ON_BOTH_BACK_ENDS
async def test_what_was_left_is_not_listed_any_more(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    await post_by_http(daemon, ada, room_id)
    async with daemon.connect(bob) as client:
        assert len((await chats_of(daemon, bob))["chats"]) == 1
        await client.ask(type="leave_room", roomId=room_id)
    assert await chats_of(daemon, bob) == {"chats": [], "hasMore": False}


@ON_BOTH_BACK_ENDS
async def test_a_page_is_two_queries_whatever_stands_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    count_queries(monkeypatch, asked)
    async with open_daemon(tmp_path) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        for number in range(10):
            room_id = await daemon.create_room(ada, f"room{number}", members=[bob.id])
            await post_by_http(daemon, ada, room_id)
        asked.clear()
        assert len((await chats_of(daemon, bob))["chats"]) == 10
        found = {name: count for name, count in asked.items() if name.startswith(("chats.", "messages.", "rooms.m"))}
    assert found == {"chats.page": 1, "messages.of_ids": 1}
