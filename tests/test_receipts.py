"""What members have read: a cursor that moves forward, the room that hears of it, and what receipts say."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from chatd.chat.receipts import MAX_NAMED
from chatd.store.queries import Query
from chatd.store.receipts import Mark, Read, Receipts
from tests.counting import count_queries
from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, SignedIn, open_daemon
from tests.stores import join, post
from tests.test_cluster import hear, is_silent, open_nodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from chatd.store.database import Row, Transaction
    from tests.daemon import Client
    from tests.stores import Store


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def receipts(store: Store) -> Receipts:
    return Receipts(store.database, store.queries)


async def entry(daemon: Daemon, user: SignedIn, room_id: str) -> dict[str, Any]:
    """What `authenticated` says of a room."""
    async with daemon.connect(user) as client:
        [found] = [room for room in client.inbox[0]["rooms"] if room["roomId"] == room_id]
        return dict(found)


async def receipts_of(daemon: Daemon, user: SignedIn, message_id: str, query: str = "") -> Any:
    return (await daemon.http("GET", f"/api/messages/{message_id}/receipts{query}", token=user.token)).json()


async def send(client: Client, room_id: str, content: str = "hello") -> dict[str, Any]:
    ack = await client.ask(type="send_message", roomId=room_id, content=content)
    assert ack["type"] == "message_ack", ack
    return ack


# -- in the store -------------------------------------------------------------------------------------------------


async def test_a_cursor_moves_forward_only_and_not_beyond_its_room(store: Store, receipts: Receipts) -> None:
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room_id = await store.add_room(ada, bob)
    async with store.open_journal() as written:
        for _ in range(3):
            await written.journal.write(post(ada, room_id))
    key = (room_id, bob.id)
    assert await receipts.read([Mark(*key, 2)], now_ms=5000) == {key: Read(2, 2)}
    assert await receipts.read([Mark(*key, 1)], now_ms=6000) == {}
    assert await receipts.read([Mark(*key, 2)], now_ms=6000) == {}
    [own] = (await store.rooms.of_users([bob.id]))[bob.id]
    assert (own.read_seq, own.unread) == (2, 1)
    assert await receipts.read([Mark(*key, 99)], now_ms=7000) == {key: Read(3, 2)}
    [own] = (await store.rooms.of_users([bob.id]))[bob.id]
    assert (own.read_seq, own.unread) == (3, 0)


async def test_unread_counts_messages_and_nothing_else(store: Store, receipts: Receipts) -> None:
    ada, bob, cy = [await store.add_user(name) for name in ("ada", "bob", "cy")]
    room_id = await store.add_room(ada, bob)
    async with store.open_journal() as written:
        await written.journal.write(post(ada, room_id))
        await written.journal.write(join(cy, room_id))
        await written.journal.write(post(ada, room_id))
    await receipts.read([Mark(room_id, bob.id, 2)], now_ms=5000)
    own = await store.rooms.of_users([bob.id, cy.id])
    assert [(user, room.read_seq, room.unread) for user in (bob.id, cy.id) for room in own[user]] == [
        (bob.id, 2, 1), (cy.id, 2, 1),
    ]  # fmt: skip


async def test_strangers_and_rooms_that_are_gone_have_no_cursors(store: Store, receipts: Receipts) -> None:
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room_id = await store.add_room(ada)
    async with store.open_journal() as written:
        await written.journal.write(post(ada, room_id))
    wrong = [Mark(room_id, bob.id, 1), Mark("unknown", ada.id, 1), Mark(room_id, "unknown", 1)]
    assert await receipts.read(wrong, now_ms=5000) == {}
    assert await receipts.deliver(wrong, max_members=0, now_ms=5000) == []


async def test_what_is_read_was_delivered_and_what_was_delivered_stays(store: Store, receipts: Receipts) -> None:
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room_id = await store.add_room(ada, bob)
    async with store.open_journal() as written:
        for _ in range(3):
            await written.journal.write(post(ada, room_id))
    assert await receipts.deliver([Mark(room_id, bob.id, 1)], max_members=50, now_ms=5000) == [Mark(room_id, bob.id, 1)]
    await receipts.read([Mark(room_id, bob.id, 2)], now_ms=6000)
    assert await receipts.deliver([Mark(room_id, bob.id, 2)], max_members=50, now_ms=7000) == []
    [_, message, _] = await store.messages.before(room_id, 99, limit=3)
    sent = await receipts.sent(message.id, asked_by=ada.id)
    assert sent is not None
    [cursors] = await receipts.members(sent, after="", limit=9)
    assert cursors == (bob.id, "bob", 2, 6000, 2, 6000)


async def test_nothing_is_kept_of_deliveries_in_rooms_that_are_too_large(store: Store, receipts: Receipts) -> None:
    users = [await store.add_user(f"user{number}") for number in range(3)]
    room_id = await store.add_room(*users)
    async with store.open_journal() as written:
        await written.journal.write(post(users[0], room_id))
    marks = [Mark(room_id, users[1].id, 1)]
    assert await receipts.deliver(marks, max_members=2, now_ms=5000) == []
    assert await receipts.deliver(marks, max_members=0, now_ms=5000) == marks


async def test_the_newest_readers_of_many_rooms_come_in_one_query(store: Store, receipts: Receipts) -> None:
    users = [await store.add_user(f"user{number}") for number in range(4)]
    room_id, other = await store.add_room(*users), await store.add_room(users[0])
    async with store.open_journal() as written:
        await written.journal.write(post(users[0], room_id))
    for number in (2, 0, 1):
        await receipts.read([Mark(room_id, users[number].id, 1)], now_ms=5000 + number)
    found = await receipts.readers([room_id, other, "unknown"], limit=2)
    assert found == {room_id: {users[2].id: 1, users[1].id: 1}, other: {}, "unknown": {}}
    assert list(found[room_id]) == [users[2].id, users[1].id]


@pytest.mark.parametrize(
    "name",
    ["receipts.readers", "receipts.members", "receipts.of_message", "receipts.read", "receipts.deliver",
     "direct.between", "direct.count_unread", "direct.newest_of_others", "blocks.page", "blocks.settle"],
)  # fmt: skip
async def test_cursors_conversations_and_blocks_are_found_by_indexes(store: Store, name: str) -> None:
    query = store.queries[name]
    how = "EXPLAIN QUERY PLAN " if store.database.dialect == "sqlite" else "EXPLAIN "

    async def work(tx: Transaction) -> list[Row]:
        return await tx.rows(Query("explained", how + query.text), dict.fromkeys(query.parameters))

    plan = "\n".join(str(row[-1]) for row in await store.database.transaction(work))
    assert "Seq Scan" not in plan
    assert not re.search(r"SCAN (room_members|rooms|messages|users|user_blocks)\b", plan), plan
    assert name != "receipts.readers" or "room_members_by_read" in plan


# -- through the doors --------------------------------------------------------------------------------------------


@ON_BOTH_BACK_ENDS
async def test_a_mark_is_told_to_the_room_and_to_the_readers_other_devices(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada) as speaker, daemon.connect(bob) as reader, daemon.connect(bob) as other:
        first, second = await send(speaker, room_id), await send(speaker, room_id)
        reply = await reader.ask(type="mark_as_read", roomId=room_id, messageId=first["messageId"])
        assert reply == {"type": "ok", "id": reply["id"]}
        for client in (speaker, other):
            told = await client.heard("messages_read")
            assert (told["roomId"], told["userId"], told["seq"]) == (room_id, bob.id, first["seq"])
            assert told["readAt"].endswith("Z")
        await reader.ask(type="mark_as_read", roomId=room_id, seq=second["seq"])
        assert (await speaker.heard("messages_read"))["seq"] == second["seq"]
    found = await entry(daemon, bob, room_id)
    assert (found["lastReadSeq"], found["unread"]) == (second["seq"], 0)


@ON_BOTH_BACK_ENDS
async def test_without_a_place_everything_that_was_sent_is_read(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada) as speaker, daemon.connect(bob) as reader:
        for _ in range(3):
            await send(speaker, room_id)
        for _ in range(3):
            await reader.heard("new_message")
        assert (await reader.ask(type="mark_as_read", roomId=room_id))["type"] == "ok"
        assert (await hear(speaker, "messages_read", userId=bob.id))["seq"] == 3
    assert (await entry(daemon, bob, room_id))["unread"] == 0


@ON_BOTH_BACK_ENDS
async def test_an_older_mark_moves_nothing_and_is_not_told(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(bob) as reader:
        for _ in range(2):
            path = f"/api/rooms/{room_id}/messages"
            assert (await daemon.http("POST", path, {"content": "x"}, token=ada.token)).status == 201
            await reader.heard("new_message")
        # beyond the room's end is its end
        await reader.ask(type="mark_as_read", roomId=room_id, seq=2**53)
        assert (await reader.heard("messages_read"))["seq"] == 2
        reader.inbox.clear()
        for seq in (1, 2, 2**53):
            assert (await reader.ask(type="mark_as_read", roomId=room_id, seq=seq))["type"] == "ok"
        assert not [message for message in reader.inbox if message["type"] == "messages_read"]
    assert (await entry(daemon, bob, room_id))["lastReadSeq"] == 2


@ON_BOTH_BACK_ENDS
async def test_marks_that_cannot_be_are_refused(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id, other = await daemon.create_room(ada), await daemon.create_room(ada)
    async with daemon.connect(ada) as client, daemon.connect(bob) as stranger:
        elsewhere = await send(client, other)
        wrong = (
            ({"messageId": "unknown"}, "not_found"),
            ({"messageId": elsewhere["messageId"]}, "not_found"),
            ({"messageId": elsewhere["messageId"], "seq": 1}, "bad_message"),
            ({"seq": -1}, "bad_message"),
        )
        for fields, code in wrong:
            assert (await client.ask(type="mark_as_read", roomId=room_id, **fields))["code"] == code
        for unseen in (room_id, "unknown"):
            assert (await stranger.ask(type="mark_as_read", roomId=unseen))["code"] == "not_a_member"


async def test_a_mark_is_heard_on_every_node_and_stands_in_later_histories(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 3) as nodes:
        ada, bob = await nodes[0].register("ada"), await nodes[0].register("bob")
        room_id = await nodes[0].create_room(ada, members=[bob.id])
        async with AsyncExitStack() as stack:
            speakers = [await stack.enter_async_context(node.connect(ada)) for node in nodes]
            histories = [await client.ask(type="join_room", roomId=room_id) for client in speakers]
            assert [history["readCursors"] for history in histories] == [[]] * 3
            await send(speakers[0], room_id)
            reader = await stack.enter_async_context(nodes[2].connect(bob))
            assert (await reader.ask(type="mark_as_read", roomId=room_id))["type"] == "ok"
            for client in speakers:
                assert (await hear(client, "messages_read", userId=bob.id))["seq"] == 1
                history = await client.ask(type="get_history", roomId=room_id)
                assert {"userId": bob.id, "seq": 1} in history["readCursors"]


async def test_histories_name_the_newest_readers_only(tmp_path: Path) -> None:
    count = MAX_NAMED + 5
    async with open_daemon(tmp_path) as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        daemon.rows(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 105) "
            "INSERT INTO users (id, email, username, username_key, password_hash, created_at, updated_at) "
            "SELECT printf('u%03d', x), x || '@x', 'u' || x, 'u' || x, '', 1, 1 FROM n"
        )
        daemon.rows(
            "INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq, read_seq, read_at) "
            f"SELECT '{room_id}', id, 'member', 1, 0, 1, 1000 + CAST(substr(id, 2) AS INTEGER) FROM users "
            "WHERE id LIKE 'u%'"
        )
        async with daemon.connect(ada) as client:
            named = (await client.ask(type="join_room", roomId=room_id))["readCursors"]
    assert [cursor["userId"] for cursor in named] == [f"u{number:03}" for number in range(count, 5, -1)]


async def test_joins_ask_for_the_readers_of_a_room_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    count_queries(monkeypatch, asked)
    async with open_daemon(tmp_path) as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            for _ in range(5):
                await client.ask(type="join_room", roomId=room_id)
    assert asked["receipts.readers"] == 1


async def test_large_rooms_are_not_told_who_has_read(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, RECEIPTS_READ_MAX_MEMBERS="2") as daemon:
        users = [await daemon.register(f"user{number}") for number in range(3)]
        small = await daemon.create_room(users[0], members=[users[1].id])
        large = await daemon.create_room(users[0], members=[user.id for user in users[1:]])
        async with daemon.connect(users[0]) as speaker, daemon.connect(users[1]) as reader:
            for room_id in (large, small):
                await send(speaker, room_id)
                await reader.heard("new_message")
            for room_id in (large, small):
                assert (await reader.ask(type="mark_as_read", roomId=room_id))["type"] == "ok"
            assert (await speaker.heard("messages_read"))["roomId"] == small
        assert (await entry(daemon, users[1], large))["unread"] == 0


async def test_nobody_but_the_room_hears_of_a_mark(daemon: Daemon) -> None:
    ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada) as speaker, daemon.connect(bob) as reader, daemon.connect(eve) as stranger:
        await stranger.ask(type="join_room", roomId=await daemon.lobby(eve))
        stranger.inbox.clear()
        await send(speaker, room_id)
        await reader.ask(type="mark_as_read", roomId=room_id, seq=1)
        await speaker.heard("messages_read")
        assert await is_silent(stranger)


async def fill(daemon: Daemon, room_id: str, count: int) -> None:
    """Add members to a room behind the daemon's back."""
    daemon.rows(
        f"WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {count}) "
        "INSERT INTO users (id, email, username, username_key, password_hash, created_at, updated_at) "
        "SELECT 'many' || x, x || '@many', 'many' || x, 'many' || x, '', 1, 1 FROM n"
    )
    daemon.rows(
        "INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq) "
        f"SELECT '{room_id}', id, 'member', 1, 0 FROM users WHERE id LIKE 'many%'"
    )
    daemon.rows(f"UPDATE rooms SET member_count = member_count + {count} WHERE id = '{room_id}'")


@ON_BOTH_BACK_ENDS
async def test_a_message_a_mark_and_an_unread_count_cost_the_same_in_a_room_of_5000_as_in_one_of_5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    count_queries(monkeypatch, asked)
    costs: list[dict[str, int]] = []
    options = {"RECEIPTS_DELIVERED_EVERY_S": "3600"}
    async with open_daemon(tmp_path, limits=False, **options) as daemon:
        users = [await daemon.register(f"user{number}") for number in range(5)]
        for count in (0, 4995):
            room_id = await daemon.create_room(users[0], members=[user.id for user in users[1:]])
            if count:
                await fill(daemon, room_id, count)
            async with daemon.connect(users[0]) as speaker, daemon.connect(users[1]) as reader:
                for room in reader.inbox[0]["rooms"]:
                    await reader.ask(type="mark_as_read", roomId=room["roomId"])
                rounds: list[Counter[str]] = []
                for number in range(1, 4):
                    asked.clear()
                    ack = await send(speaker, room_id)
                    await hear(reader, "new_message", roomId=room_id)
                    await reader.ask(type="mark_as_read", roomId=room_id, messageId=ack["messageId"])
                    chats = (await daemon.http("GET", "/api/chats?limit=1", token=users[2].token)).json()["chats"]
                    assert (chats[0]["roomId"], chats[0]["unread"]) == (room_id, number)
                    rounds.append(Counter(asked))
                # beside them the daemon looks after itself: presence, the index, the trail, what is out of date
                about = ("journal.", "messages.", "receipts.", "chats.", "accounts.standings")
                fewest = rounds[0] & rounds[1] & rounds[2]
                costs.append({name: times for name, times in fewest.items() if name.startswith(about)})
    assert costs[0] == costs[1]
    assert costs[0]["receipts.read"] == 1


# -- the receipts of a message ------------------------------------------------------------------------------------


@ON_BOTH_BACK_ENDS
async def test_receipts_say_of_each_member_how_far_a_message_has_come(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, RECEIPTS_DELIVERED_EVERY_S="0.05") as daemon:
        ada, bob, cy, dan = [await daemon.register(name) for name in ("ada", "bob", "cyd", "dan")]
        room_id = await daemon.create_room(ada, members=[bob.id, cy.id])
        async with daemon.connect(ada) as speaker, daemon.connect(bob) as reader:
            ack = await send(speaker, room_id)
            await hear(speaker, "messages_delivered", userId=bob.id)
            found = await receipts_of(daemon, ada, ack["messageId"])
            assert (found["messageId"], found["roomId"], found["seq"]) == (ack["messageId"], room_id, 1)
            assert found["sentAt"] == ack["createdAt"]
            status = {receipt["userId"]: receipt["status"] for receipt in found["receipts"]}
            assert status == {bob.id: "delivered", cy.id: "sent"}
            await reader.ask(type="mark_as_read", roomId=room_id)
            # who joins later was not sent it
            async with daemon.connect(dan) as late:
                assert (await late.ask(type="join_room", roomId=room_id))["type"] == "room_history"
            found = await receipts_of(daemon, cy, ack["messageId"])
            by_user = {receipt["userId"]: receipt for receipt in found["receipts"]}
            assert by_user.keys() == {bob.id, cy.id}
            assert by_user[bob.id]["status"] == "read"
            assert by_user[bob.id]["readAt"] >= by_user[bob.id]["deliveredAt"] >= ack["createdAt"]
            assert by_user[cy.id] == {"userId": cy.id, "username": "cyd", "status": "sent"}


@ON_BOTH_BACK_ENDS
async def test_receipts_are_paged(daemon: Daemon) -> None:
    users = [await daemon.register(f"user{number}") for number in range(4)]
    room_id = await daemon.create_room(users[0], members=[user.id for user in users[1:]])
    sent = await daemon.http("POST", f"/api/rooms/{room_id}/messages", {"content": "x"}, token=users[0].token)
    first = await receipts_of(daemon, users[0], sent.json()["id"], "?limit=2")
    rest = await receipts_of(daemon, users[0], sent.json()["id"], f"?limit=2&after={first['after']}")
    skipped = await receipts_of(daemon, users[0], sent.json()["id"], "?limit=2&offset=2")
    assert [receipt["username"] for receipt in first["receipts"]] == ["user1", "user2"]
    assert rest["receipts"] == skipped["receipts"]
    assert ([receipt["username"] for receipt in rest["receipts"]], rest["hasMore"]) == (["user3"], False)


@ON_BOTH_BACK_ENDS
async def test_receipts_of_a_message_one_may_not_see_look_like_those_of_none(daemon: Daemon) -> None:
    ada, eve = await daemon.register("ada"), await daemon.register("eve")
    room_id = await daemon.create_room(ada, kind="private")
    sent = await daemon.http("POST", f"/api/rooms/{room_id}/messages", {"content": "x"}, token=ada.token)
    answers = [
        await daemon.http("GET", f"/api/messages/{message_id}/receipts", token=eve.token)
        for message_id in (sent.json()["id"], "unknown")
    ]
    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].json() == answers[1].json()


async def test_receipts_that_are_switched_off_are_refused_at_both_doors(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SERVER_FEATURES_RECEIPTS="false") as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            assert (await client.ask(type="mark_as_read", roomId=room_id))["code"] == "feature_disabled"
            assert (await client.ask(type="join_room", roomId=room_id))["readCursors"] == []
        assert (await receipts_of(daemon, ada, "unknown"))["code"] == "feature_disabled"
