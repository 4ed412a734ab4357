"""Direct messages: the room of two that the first one makes, on every device of both, and what is unread in them."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd.chat.direct import MAX_UNREAD
from chatd.ids import new_id
from chatd.store.database import Conflict
from chatd.store.direct import Conversations, direct_key
from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, SignedIn, open_daemon
from tests.stores import post
from tests.test_cluster import hear, is_silent, open_nodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from chatd.records import Message
    from tests.daemon import Client
    from tests.stores import Store


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def write(client: Client, recipient: SignedIn, content: str = "hello", **fields: Any) -> dict[str, Any]:
    ack = await client.ask(type="send_dm", recipientId=recipient.id, content=content, **fields)
    assert ack["type"] == "message_ack", ack
    return ack


async def ask(daemon: Daemon, user: SignedIn, path: str) -> Any:
    return (await daemon.http("GET", f"/api/direct-messages/{path}", token=user.token)).json()


# -- in the store -------------------------------------------------------------------------------------------------


async def test_two_users_have_one_room_whoever_makes_it(store: Store) -> None:
    direct = Conversations(store.database, store.queries)
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    pair = await direct.pair(ada.id, bob.id)
    assert pair is not None
    assert (pair.other_id, pair.room_id, pair.has_blocked, pair.is_blocked) == (bob.id, None, False, False)
    room_id = new_id()
    await direct.add(room_id, ada.id, bob.id, now_ms=1000)
    with pytest.raises(Conflict):
        await direct.add(new_id(), bob.id, ada.id, now_ms=1000)
    for one, other in ((ada, bob), (bob, ada)):
        pair = await direct.pair(one.id, other.id)
        assert pair is not None
        assert (pair.room_id, pair.last_seq) == (room_id, 0)
    assert await direct.pair(ada.id, "unknown") is None
    assert direct_key(ada.id, bob.id) == direct_key(bob.id, ada.id)


async def test_unread_conversations_are_counted_but_not_those_that_one_ended_oneself(store: Store) -> None:
    direct = Conversations(store.database, store.queries)
    ada, bob, cy = [await store.add_user(name) for name in ("ada", "bob", "cleo")]
    with_bob, with_cy = new_id(), new_id()
    await direct.add(with_bob, ada.id, bob.id, now_ms=1000)
    await direct.add(with_cy, cy.id, ada.id, now_ms=1000)
    assert await direct.count_unread(ada.id) == (0, 0)
    async with store.open_journal() as written:
        for sender, room_id in ((bob, with_bob), (bob, with_bob), (cy, with_cy), (ada, with_cy)):
            await written.journal.write(post(sender, room_id))
    assert await direct.count_unread(ada.id) == (2, 1)
    assert await direct.count_unread(bob.id) == (0, 0)
    assert await direct.count_unread(cy.id) == (2, 1)


# -- through the doors --------------------------------------------------------------------------------------------


@ON_BOTH_BACK_ENDS
async def test_the_first_message_makes_the_room_and_is_heard_on_every_device_of_both(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with (
        daemon.connect(ada) as first,
        daemon.connect(ada) as second,
        daemon.connect(bob) as third,
        daemon.connect(bob) as fourth,
    ):
        ack = await write(first, bob, "hello", clientMessageId="c1")
        assert (ack["seq"], ack["duplicate"], ack["clientMessageId"]) == (1, False, "c1")
        for client in (first, second, third, fourth):
            heard = (await client.heard("new_dm"))["message"]
            assert (heard["id"], heard["seq"], heard["content"]) == (ack["messageId"], 1, "hello")
            assert (heard["senderId"], heard["senderName"], heard["roomId"]) == (ada.id, "ada", ack["roomId"])
        answer = await write(third, ada, "hi")
        assert (answer["roomId"], answer["seq"]) == (ack["roomId"], 2)
        for client in (first, second, third, fourth):
            assert (await client.heard("new_dm"))["message"]["content"] == "hi"
    async with daemon.connect(bob) as client:
        [room] = client.inbox[0]["rooms"]
        assert (room["roomId"], room["kind"], room["lastSeq"]) == (ack["roomId"], "direct", 2)


async def test_devices_on_every_node_hear_the_very_first_message(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 3) as nodes:
        ada, bob = await nodes[0].register("ada"), await nodes[0].register("bob")
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(node.connect(user)) for node in nodes for user in (ada, bob)]
            await write(clients[0], bob, "one")
            await write(clients[0], bob, "two")
            for client in clients:
                heard = [(await client.heard("new_dm"))["message"] for _ in range(2)]
                assert [(message["seq"], message["content"]) for message in heard] == [(1, "one"), (2, "two")]


async def test_two_who_write_first_at_the_same_moment_on_two_nodes_meet_in_one_room(tmp_path: Path) -> None:
    async with open_nodes(tmp_path) as (one, other):
        users = [(await one.register(f"ada{number}"), await one.register(f"bob{number}")) for number in range(5)]
        for ada, bob in users:
            async with one.connect(ada) as first, other.connect(bob) as second:
                acks: list[dict[str, Any]] = []

                async def say(client: Client, to: SignedIn, acks: list[dict[str, Any]] = acks) -> None:
                    acks.append(await write(client, to, clientMessageId=new_id()))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(say, first, bob)
                    nursery.start_soon(say, second, ada)
                assert len({ack["roomId"] for ack in acks}) == 1
                assert {ack["seq"] for ack in acks} == {1, 2}
                for client in (first, second):
                    assert {(await client.heard("new_dm"))["message"]["seq"] for _ in range(2)} == {1, 2}


@ON_BOTH_BACK_ENDS
async def test_who_writes_before_the_other_one_s_first_message_was_told_here_hears_both(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with daemon.connect(bob) as client:
        # Another node has stored it, and its notice is still on the way.
        room_id, key = new_id(), direct_key(ada.id, bob.id)
        daemon.rows(
            "INSERT INTO rooms (id, kind, name, direct_key, created_by, created_at, updated_at, member_count, last_seq,"
            f" message_count) VALUES ('{room_id}', 'direct', '', '{key}', '{ada.id}', 1, 1, 2, 1, 1)"
        )
        for user in (ada, bob):
            daemon.rows(
                "INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq)"
                f" VALUES ('{room_id}', '{user.id}', 'member', 1, 0)"
            )
        daemon.rows(
            "INSERT INTO messages (id, room_id, seq, count_in_room, sender_id, message_type, content, created_at)"
            f" VALUES ('{new_id()}', '{room_id}', 1, 1, '{ada.id}', 'text', 'one', 1)"
        )
        assert (await write(client, ada, "two"))["seq"] == 2
        heard = [(await client.heard("new_dm"))["message"] for _ in range(2)]
    assert [(message["seq"], message["content"]) for message in heard] == [(1, "one"), (2, "two")]


@ON_BOTH_BACK_ENDS
async def test_both_hear_a_conversation_whose_maker_was_killed_before_they_were_told(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with daemon.connect(ada) as first, daemon.connect(ada) as second, daemon.connect(bob) as third:
        room_id, key = new_id(), direct_key(ada.id, bob.id)
        daemon.rows(
            "INSERT INTO rooms (id, kind, name, direct_key, created_by, created_at, updated_at, member_count)"
            f" VALUES ('{room_id}', 'direct', '', '{key}', '{ada.id}', 1, 1, 2)"
        )
        for user in (ada, bob):
            daemon.rows(
                "INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq)"
                f" VALUES ('{room_id}', '{user.id}', 'member', 1, 0)"
            )
        assert (await write(first, bob, "hello"))["roomId"] == room_id
        for client in (first, second, third):
            assert (await client.heard("new_dm"))["message"]["seq"] == 1


@ON_BOTH_BACK_ENDS
async def test_a_repeat_gets_the_first_ack_and_another_message_under_its_key_is_refused(daemon: Daemon) -> None:
    ada, bob, cyd = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
    async with daemon.connect(ada) as client, daemon.connect(bob) as listener:
        first = await write(client, bob, clientMessageId="c1")
        again = await write(client, bob, clientMessageId="c1")
        assert again == {**first, "duplicate": True, "id": again["id"]}
        for recipient, content in ((bob, "other"), (cyd, "hello")):
            refused = await client.ask(type="send_dm", recipientId=recipient.id, content=content, clientMessageId="c1")
            assert refused["code"] == "idempotency_mismatch"
        await listener.heard("new_dm")
        await listener.ask(type="ping")
        assert "new_dm" not in [message["type"] for message in listener.inbox]
    rooms = daemon.rows("SELECT direct_key FROM rooms WHERE kind = 'direct'")
    assert rooms == [(direct_key(ada.id, bob.id),)]


@ON_BOTH_BACK_ENDS
async def test_whom_one_cannot_write_to_is_said(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    async with daemon.connect(ada) as client:
        for recipient_id, code in (("unknown", "not_found"), (ada.id, "bad_message")):
            refused = await client.ask(type="send_dm", recipientId=recipient_id, content="x")
            assert (refused["type"], refused["code"]) == ("error", code)
    for user_id, status in (("unknown", 404), (ada.id, 422)):
        answer = await daemon.http("GET", f"/api/direct-messages/{user_id}", token=ada.token)
        assert answer.status == status
        answer = await daemon.http("POST", f"/api/direct-messages/{user_id}/read", token=ada.token)
        assert answer.status == status


@ON_BOTH_BACK_ENDS
async def test_what_is_refused_makes_no_room(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with daemon.connect(ada) as client, daemon.connect(bob) as other:
        other.inbox.clear()
        for fields, code in (
            ({"content": "  "}, "bad_message"),
            ({"content": "x" * 10_001}, "content_too_long"),
            ({"content": "x", "replyTo": "unknown"}, "not_found"),
            ({"content": "x", "messageType": "image"}, "bad_message"),
            ({"content": "x", "messageType": "image", "fileId": "unknown"}, "not_found"),
        ):
            assert (await client.ask(type="send_dm", recipientId=bob.id, **fields))["code"] == code
        assert await is_silent(other)
    assert daemon.rows("SELECT id FROM rooms WHERE kind = 'direct'") == []
    assert (await daemon.http("GET", "/api/chats", token=bob.token)).json()["chats"] == []


@ON_BOTH_BACK_ENDS
async def test_direct_messages_and_others_share_one_budget(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=True, LIMITS_MESSAGES_PER_MINUTE="2") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            await client.ask(type="send_message", roomId=room_id, content="x")
            await write(client, bob)
            refused = await client.ask(type="send_dm", recipientId=bob.id, content="x")
            assert refused["code"] == "rate_limited"
            assert refused["retryAfterMs"] > 0


@ON_BOTH_BACK_ENDS
async def test_new_conversations_are_limited_and_those_that_there_are_go_on(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=True, LIMITS_CONVERSATIONS_PER_HOUR="1") as daemon:
        ada, bob, cy = [await daemon.register(name) for name in ("ada", "bob", "cleo")]
        async with daemon.connect(ada) as client:
            codes = []
            for other in (bob, cy, bob):
                told = await client.ask(type="send_dm", recipientId=other.id, content="hello")
                codes.append(told.get("code"))
        assert codes == [None, "rate_limited", None]


@ON_BOTH_BACK_ENDS
async def test_a_direct_room_is_nobodys_to_join_leave_or_moderate(daemon: Daemon) -> None:
    ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
    async with daemon.connect(ada) as client, daemon.connect(eve) as stranger:
        room_id = (await write(client, bob))["roomId"]
        assert (await client.ask(type="leave_room", roomId=room_id))["code"] == "forbidden"
        # whoever is in it may ask for its history again
        assert (await client.ask(type="join_room", roomId=room_id))["seq"] == 1
        unseen = [await stranger.ask(type="join_room", roomId=some) for some in (room_id, "unknown")]
        assert [reply["code"] for reply in unseen] == ["not_found"] * 2
        for what, fields in (
            ("get_history", {}), ("send_message", {"content": "x"}), ("mark_as_read", {}), ("typing_start", {}),
        ):  # fmt: skip
            assert (await stranger.ask(type=what, roomId=room_id, **fields))["code"] == "not_a_member"
    path = f"/api/rooms/{room_id}"
    for method, below, body in (
        ("POST", "/members", {"userId": eve.id}),
        ("POST", "/members", {"userId": eve.id, "invite": True}),
        ("DELETE", f"/members/{bob.id}", None),
        ("PATCH", f"/members/{bob.id}", {"role": "readonly"}),
        ("PATCH", "", {"name": "ours"}),
        ("DELETE", "", None),
    ):
        answer = await daemon.http(method, path + below, body, token=ada.token)
        assert (answer.status, answer.json()["code"]) == (403, "forbidden"), (method, below)
        answer = await daemon.http(method, path + below, body, token=eve.token)
        assert (answer.status, answer.json()["code"]) == (404, "not_found"), (method, below)
    for below in ("", "/messages", "/members"):
        assert (await daemon.http("GET", path + below, token=eve.token)).status == 404
    assert (await ask(daemon, eve, bob.id))["messages"] == []


@ON_BOTH_BACK_ENDS
async def test_a_conversation_is_paged_like_a_history(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    assert await ask(daemon, ada, bob.id) == {"messages": [], "seq": 0, "hasMore": False}
    async with daemon.connect(ada) as client, daemon.connect(bob) as other:
        for number in range(3):
            await write(client, bob, f"a{number}")
            await write(other, ada, f"b{number}")
        page = await ask(daemon, bob, f"{ada.id}?limit=2")
        assert [message["content"] for message in page["messages"]] == ["a2", "b2"]
        assert (page["hasMore"], page["seq"]) == (True, 6)
        older = await ask(daemon, ada, f"{bob.id}?limit=9&beforeSeq={page['beforeSeq']}")
        assert [message["content"] for message in older["messages"]] == ["a0", "b0", "a1", "b1"]
        assert older["hasMore"] is False
        joined = await other.ask(type="join_room", roomId=page["roomId"], limit=2)
        assert joined["messages"] == page["messages"]


@ON_BOTH_BACK_ENDS
async def test_unread_messages_are_counted_until_they_are_marked(daemon: Daemon) -> None:
    ada, bob, cyd = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
    async with daemon.connect(ada) as first, daemon.connect(bob) as second:
        for _ in range(2):
            await write(first, cyd)
        one = await write(second, cyd)
        await write(second, cyd)
        assert await ask(daemon, cyd, "unread") == {"total": 4, "conversations": 2}
        # who wrote has nothing to read
        assert await ask(daemon, ada, "unread") == {"total": 0, "conversations": 0}
        answer = await daemon.http("POST", f"/api/direct-messages/{ada.id}/read", token=cyd.token)
        assert (answer.status, answer.json()) == (200, {"success": True})
        assert (await first.heard("messages_read"))["userId"] == cyd.id
        assert await ask(daemon, cyd, "unread") == {"total": 2, "conversations": 1}
        body = {"messageId": one["messageId"]}
        await daemon.http("POST", f"/api/direct-messages/{bob.id}/read", body, token=cyd.token)
        assert await ask(daemon, cyd, "unread") == {"total": 1, "conversations": 1}
        body = {"messageId": "unknown"}
        answer = await daemon.http("POST", f"/api/direct-messages/{bob.id}/read", body, token=cyd.token)
        assert answer.status == 404


@ON_BOTH_BACK_ENDS
async def test_who_arrives_without_resume_is_sent_the_unread_messages(daemon: Daemon) -> None:
    ada, bob, cyd = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
    async with daemon.connect(ada) as first, daemon.connect(bob) as second:
        for number in range(2):
            await write(first, cyd, f"a{number}")
            await write(second, cyd, f"b{number}")
        room_id = await daemon.create_room(ada, members=[cyd.id])
        await first.ask(type="send_message", roomId=room_id, content="no direct one")
    async with daemon.connect(cyd) as reader:
        unread = await reader.heard("unread_dms")
        assert [message["content"] for message in unread["messages"]] == ["a0", "b0", "a1", "b1"]
        assert unread["total"] == 4
        epoch, rooms = reader.inbox[0]["epoch"], reader.inbox[0]["rooms"]
        for room in rooms:
            await reader.ask(type="mark_as_read", roomId=room["roomId"])
    async with daemon.connect(cyd) as reader:
        assert (await reader.ask(type="ping"))["type"] == "pong"
        assert [message["type"] for message in reader.inbox] == ["authenticated"]
    async with daemon.connect(ada) as first:
        await write(first, cyd, "new")
    async with daemon.connect() as reader:
        resume = {"epoch": epoch, "rooms": {room["roomId"]: room["lastSeq"] for room in rooms}}
        await reader.send(type="authenticate", token=cyd.token, resume=resume)
        assert (await reader.wait_for("new_dm"))["message"]["content"] == "new"
        assert (await reader.ask(type="ping"))["type"] == "pong"
        assert "unread_dms" not in [message["type"] for message in reader.inbox]


@pytest.mark.parametrize("change", ["edit_message", "delete_message"])
async def test_unread_messages_that_change_while_they_are_read_are_not_sent_as_they_were(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    read = Conversations.newest_of_others
    async with daemon.connect(ada) as writer:
        message_id = (await write(writer, bob, "a secret"))["messageId"]
        fields = {"content": "nothing"} if change == "edit_message" else {}

        async def read_and_change(direct: Conversations, *args: Any, **options: Any) -> list[Message]:
            found = await read(direct, *args, **options)
            monkeypatch.setattr(Conversations, "newest_of_others", read)
            assert (await writer.ask(type=change, messageId=message_id, **fields))["type"] == "ok"
            await writer.heard("message_edited" if fields else "message_deleted")
            return found

        monkeypatch.setattr(Conversations, "newest_of_others", read_and_change)
        async with daemon.connect(bob) as reader:
            await reader.heard("message_edited" if fields else "message_deleted")
            await reader.ask(type="ping")
            unread = [told for told in reader.inbox if told["type"] == "unread_dms"]
            assert "secret" not in json.dumps(unread)
            contents = [[message["content"] for message in told["messages"]] for told in unread]
            assert contents == [[fields.get("content", "")]]


async def test_of_many_unread_messages_the_newest_are_sent(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    count = MAX_UNREAD + 5
    async with daemon.connect(ada) as client:
        for number in range(count):
            await write(client, bob, str(number))
    async with daemon.connect(bob) as reader:
        unread = await reader.heard("unread_dms")
    assert [message["content"] for message in unread["messages"]] == [str(number) for number in range(5, count)]
    assert unread["total"] == count


async def test_unread_messages_fit_half_of_an_outbox(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, WEBSOCKET_OUTBOX_BYTES="65536") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        async with daemon.connect(ada) as client:
            for number in range(8):
                await write(client, bob, str(number) * 9000)
        async with daemon.connect(bob) as reader:
            unread = await reader.heard("unread_dms")
    assert [message["content"][0] for message in unread["messages"]] == ["5", "6", "7"]
    assert unread["total"] == 8


async def test_direct_messages_that_are_switched_off_are_refused(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SERVER_FEATURES_DIRECT_MESSAGES="false") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        async with daemon.connect(ada) as client:
            refused = await client.ask(type="send_dm", recipientId=bob.id, content="x")
            assert refused["code"] == "feature_disabled"
        assert (await ask(daemon, ada, bob.id))["code"] == "feature_disabled"


async def test_somebody_whose_account_is_shut_is_not_written_to(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with daemon.connect(ada) as client:
        await write(client, bob)
        daemon.rows(f"UPDATE users SET disabled_at = 1 WHERE id = '{bob.id}'")
        refused = await client.ask(type="send_dm", recipientId=bob.id, content="x")
        assert refused["code"] == "forbidden"


async def test_a_device_that_resumes_gets_the_direct_messages_it_missed(tmp_path: Path) -> None:
    async with open_nodes(tmp_path) as (one, other):
        ada, bob = await one.register("ada"), await one.register("bob")
        async with one.connect(ada) as client, other.connect(bob) as reader:
            ack = await write(client, bob, "one")
            await hear(reader, "new_dm")
            epoch = reader.inbox[0]["epoch"]
        async with one.connect(ada) as client:
            await write(client, bob, "two")
        async with other.connect() as reader:
            await reader.send(
                type="authenticate", token=bob.token, resume={"epoch": epoch, "rooms": {ack["roomId"]: 1}}
            )
            assert (await reader.wait_for("new_dm"))["message"]["content"] == "two"
            assert (await reader.wait_for("caught_up"))["seq"] == 2
