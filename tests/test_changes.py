"""Editing and deleting messages: through the real door, on both kinds of back end, also on several nodes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import ON_BOTH_BACK_ENDS, Client, Daemon, SignedIn, open_daemon
from tests.test_cluster import hear, open_nodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def open_room(daemon: Daemon, *members: str) -> tuple[str, SignedIn, list[SignedIn]]:
    """A room of ada's with these members."""
    ada = await daemon.register("ada")
    others = [await daemon.register(name) for name in members]
    return await daemon.create_room(ada, kind="private", members=[user.id for user in others]), ada, others


async def say(client: Client, room_id: str, content: str = "hello", **fields: Any) -> str:
    """Send a message; its id."""
    return str((await client.ask(type="send_message", roomId=room_id, content=content, **fields))["messageId"])


async def is_ok(client: Client, **request: Any) -> bool:
    reply = await client.ask(**request)
    assert reply["type"] == "ok", reply
    return True


async def refusal(client: Client, **request: Any) -> str:
    """The code of a refusal, which has a sentence."""
    reply = await client.ask(**request)
    assert reply["type"] == "error", reply
    assert reply["message"].endswith(".")
    return str(reply["code"])


async def shown(daemon: Daemon, user: SignedIn, room_id: str) -> list[dict[str, Any]]:
    """The newest page over HTTP."""
    answer = await daemon.http("GET", f"/api/rooms/{room_id}/messages", token=user.token)
    assert answer.status == 200
    found: list[dict[str, Any]] = answer.json()["messages"]
    return found


async def everywhere(daemon: Daemon, user: SignedIn, room_id: str) -> list[dict[str, Any]]:
    """The newest page, which is the same by every way there is."""
    pages = [await shown(daemon, user, room_id)]
    async with daemon.connect(user) as client:
        requests = ({"type": "join_room"}, {"type": "get_history"}, {"type": "get_history", "beforeSeq": 2**53})
        pages += [(await client.ask(roomId=room_id, **request))["messages"] for request in requests]
    assert all(page == pages[0] for page in pages), pages
    return pages[0]


# Edits


async def test_an_edit_is_told_to_everybody_and_shown_from_then_on(daemon: Daemon) -> None:
    room_id, ada, [bob] = await open_room(daemon, "bob")
    async with daemon.connect(ada) as writer, daemon.connect(bob) as reader:
        message_id = await say(writer, room_id, "helo", metadata={"a": 1}, clientMessageId="c-1")
        sent = (await hear(reader, "new_message"))["message"]
        assert await is_ok(writer, type="edit_message", messageId=message_id, content="hello")
        told = await reader.wait_for("message_edited")
        edited = told["message"]
        assert told == {"type": "message_edited", "roomId": room_id, "seq": 2, "message": edited}
        assert edited == sent | {"content": "hello", "editedAt": edited["editedAt"]}
        assert edited["editedAt"] >= sent["createdAt"]
        assert await hear(writer, "message_edited") == told
    assert await everywhere(daemon, bob, room_id) == [edited]


async def test_an_edit_that_changes_nothing_is_ok_and_tells_nobody(daemon: Daemon) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        message_id = await say(client, room_id, "hello")
        assert await is_ok(client, type="edit_message", messageId=message_id, content="hello")
        assert (await client.ask(type="send_message", roomId=room_id, content="next"))["seq"] == 2
        assert [message["type"] for message in client.inbox].count("message_edited") == 0
    assert "editedAt" not in (await shown(daemon, ada, room_id))[0]


async def test_an_edit_is_checked_and_cleaned_like_a_new_message(daemon: Daemon) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        text, code = await say(client, room_id), await say(client, room_id, messageType="code")
        for content, expected in (
            (" ", "bad_message"), ("x" * 10_001, "content_too_long"), ("a\x01b", "bad_message"),
            ("javascript:alert(1)", "bad_message"),
        ):  # fmt: skip
            assert await refusal(client, type="edit_message", messageId=text, content=content) == expected
        for message_id in (text, code):
            content = "<b>see</b> https://a.example/x"
            assert await is_ok(client, type="edit_message", messageId=message_id, content=content)
        assert [m["content"] for m in await shown(daemon, ada, room_id)] == [
            "see https://a.example/x", "<b>see</b> https://a.example/x",
        ]  # fmt: skip


async def test_an_edit_lists_the_links_of_the_new_text_and_keeps_other_metadata(daemon: Daemon) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        message_id = await say(client, room_id, "see https://a.example/", metadata={"a": 1})
        await is_ok(client, type="edit_message", messageId=message_id, content="see https://b.example/")
        assert (await hear(client, "message_edited"))["message"]["metadata"] == {
            "a": 1, "links": ["https://b.example/"],
        }  # fmt: skip
        await is_ok(client, type="edit_message", messageId=message_id, content="see nothing")
        assert (await hear(client, "message_edited"))["message"]["metadata"] == {"a": 1}


async def test_only_its_sender_edits_a_message(daemon: Daemon) -> None:
    room_id, ada, [bob] = await open_room(daemon, "bob")
    async with daemon.connect(ada) as owner, daemon.connect(bob) as member:
        message_id = await say(member, room_id)
        request = {"type": "edit_message", "messageId": message_id, "content": "no"}
        assert await refusal(owner, **request) == "forbidden"
        assert await is_ok(member, **request)


async def test_who_may_not_send_may_not_edit(daemon: Daemon) -> None:
    room_id, _, [bob] = await open_room(daemon, "bob")
    member = f"WHERE room_id = '{room_id}' AND user_id = '{bob.id}'"
    async with daemon.connect(bob) as client:
        message_id = await say(client, room_id)
        request = {"type": "edit_message", "messageId": message_id, "content": "no"}
        daemon.rows(f"UPDATE room_members SET muted_until = 9999999999999 {member}")
        assert await refusal(client, **request) == "muted"
        daemon.rows(f"UPDATE room_members SET muted_until = NULL, role = 'readonly' {member}")
        assert await refusal(client, **request) == "forbidden"
        # What one said one may still take back.
        assert await is_ok(client, type="delete_message", messageId=message_id)


REQUESTS: dict[str, dict[str, Any]] = {
    "edit_message": {"content": "no"},
    "delete_message": {},
    "add_reaction": {"emoji": "👍"},
    "remove_reaction": {"emoji": "👍"},
    "pin_message": {},
    "unpin_message": {},
}


@pytest.mark.parametrize("kind", REQUESTS)
async def test_to_a_stranger_a_message_of_a_private_room_looks_like_none(daemon: Daemon, kind: str) -> None:
    room_id, ada, _ = await open_room(daemon)
    eve = await daemon.register("eve")
    async with daemon.connect(ada) as client, daemon.connect(eve) as stranger:
        message_id = await say(client, room_id)
        replies = [
            await stranger.ask(type=kind, id="x", messageId=named, **REQUESTS[kind])
            for named in (message_id, "unknown")
        ]
        assert replies[0] == replies[1]
        assert replies[0]["code"] == "not_found"
        public = await say(client, await daemon.create_room(ada, kind="public"))
        assert await refusal(stranger, type=kind, messageId=public, **REQUESTS[kind]) == "not_a_member"


@pytest.mark.parametrize("kind", REQUESTS)
async def test_nothing_is_done_with_a_message_of_a_deleted_room(daemon: Daemon, kind: str) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        message_id = await say(client, room_id)
        daemon.rows(f"UPDATE rooms SET deleted_at = 1 WHERE id = '{room_id}'")
        assert await refusal(client, type=kind, messageId=message_id, **REQUESTS[kind]) == "not_found"


@pytest.mark.parametrize(
    ("kind", "feature"),
    [("edit_message", "EDITS"), ("delete_message", "EDITS"), ("add_reaction", "REACTIONS"), ("pin_message", "PINS")],
)
async def test_what_is_switched_off_is_refused(tmp_path: Path, kind: str, feature: str) -> None:
    async with open_daemon(tmp_path, limits=False, **{f"SERVER_FEATURES_{feature}": "false"}) as daemon:
        room_id, ada, _ = await open_room(daemon)
        async with daemon.connect(ada) as client:
            message_id = await say(client, room_id)
            assert await refusal(client, type=kind, messageId=message_id, **REQUESTS[kind]) == "feature_disabled"


# Deletions


async def test_a_deleted_message_leaves_a_tombstone_and_nothing_of_what_was_said(daemon: Daemon) -> None:
    room_id, ada, [bob] = await open_room(daemon, "bob")
    async with daemon.connect(ada) as owner, daemon.connect(bob) as writer:
        first = await say(writer, room_id, "before")
        message_id = await say(
            writer, room_id, "a secret", metadata={"x": "hidden"}, clientMessageId="c-1", replyTo=first
        )
        sent = (await hear(owner, "new_message", content="a secret"))["message"]
        await is_ok(writer, type="edit_message", messageId=message_id, content="another secret")
        await is_ok(owner, type="add_reaction", messageId=message_id, emoji="👍")
        await is_ok(owner, type="pin_message", messageId=message_id)
        assert await is_ok(writer, type="delete_message", messageId=message_id)
        told = await hear(owner, "message_deleted")
        assert told == {
            "type": "message_deleted", "roomId": room_id, "seq": 6, "messageId": message_id, "deletedBy": bob.id,
            "deletedAt": told["deletedAt"],
        }  # fmt: skip
        page = await everywhere(daemon, ada, room_id)
        tombstone = {key: value for key, value in sent.items() if key != "metadata"} | {
            "content": "", "editedAt": page[1]["editedAt"], "deletedAt": told["deletedAt"],
        }  # fmt: skip
        assert page[1] == tombstone
    kept = json.dumps([daemon.rows("SELECT * FROM messages"), daemon.rows("SELECT * FROM room_events")], default=str)
    assert "secret" not in kept
    assert "hidden" not in kept
    columns = "file_id, metadata, request_hash, reactions, pinned_at, pinned_by, deleted_by"
    [row] = daemon.rows(f"SELECT {columns} FROM messages WHERE id = '{message_id}'")
    assert row == (None, None, None, None, None, None, bob.id)
    assert daemon.rows("SELECT user_id FROM message_reactions") == []


async def test_deleting_twice_is_ok_and_told_once(daemon: Daemon) -> None:
    room_id, ada, [bob] = await open_room(daemon, "bob")
    async with daemon.connect(ada) as owner, daemon.connect(bob) as writer:
        message_id = await say(writer, room_id)
        for client in (writer, owner, writer):
            assert await is_ok(client, type="delete_message", messageId=message_id)
        assert (await writer.ask(type="send_message", roomId=room_id, content="next"))["seq"] == 3
    assert (await shown(daemon, ada, room_id))[0]["deletedAt"]
    assert daemon.rows("SELECT kind FROM room_events") == [("message_deleted",)]


async def test_moderators_and_owners_delete_the_messages_of_others_and_members_do_not(daemon: Daemon) -> None:
    room_id, ada, [bob, eve] = await open_room(daemon, "bob", "eve")
    async with daemon.connect(ada) as owner, daemon.connect(bob) as writer, daemon.connect(eve) as other:
        first, second = await say(writer, room_id), await say(writer, room_id)
        assert await refusal(other, type="delete_message", messageId=first) == "forbidden"
        daemon.rows(f"UPDATE room_members SET role = 'moderator' WHERE user_id = '{eve.id}'")
        assert await is_ok(other, type="delete_message", messageId=first)
        assert await is_ok(owner, type="delete_message", messageId=second)
        assert [(await hear(writer, "message_deleted"))["deletedBy"] for _ in range(2)] == [eve.id, ada.id]


async def test_a_deleted_message_cannot_be_edited_reacted_to_pinned_or_replied_to(daemon: Daemon) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        message_id = await say(client, room_id)
        await is_ok(client, type="delete_message", messageId=message_id)
        for kind, fields in REQUESTS.items():
            if kind != "delete_message":
                assert await refusal(client, type=kind, messageId=message_id, **fields) == "not_found"
        reply = {"roomId": room_id, "content": "to you", "replyTo": message_id}
        assert await refusal(client, type="send_message", **reply) == "not_found"
    path = f"/api/rooms/{room_id}/messages"
    answer = await daemon.http("POST", path, {"content": "x", "replyTo": message_id}, token=ada.token)
    assert answer.status == 404


async def test_sending_a_deleted_message_again_gets_its_first_ack(daemon: Daemon) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        request = {"type": "send_message", "roomId": room_id, "content": "once", "clientMessageId": "c-1"}
        first = await client.ask(**request)
        await is_ok(client, type="edit_message", messageId=first["messageId"], content="twice")
        assert (await client.ask(**request))["duplicate"]
        await is_ok(client, type="delete_message", messageId=first["messageId"])
        again = await client.ask(**request)
        assert again == first | {"id": again["id"], "duplicate": True}
    assert len(await shown(daemon, ada, room_id)) == 1


async def test_who_has_left_still_gets_the_first_ack_of_what_was_stored(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada, kind="public")
    bob = await daemon.register("bob")
    async with daemon.connect(bob) as client:
        await client.ask(type="join_room", roomId=room_id)
        request = {"type": "send_message", "roomId": room_id, "content": "once", "clientMessageId": "c-1"}
        first = await client.ask(**request)
        await client.ask(type="leave_room", roomId=room_id)
        again = await client.ask(**request)
        assert again == first | {"id": again["id"], "duplicate": True}
        assert await refusal(client, **request | {"content": "other"}) == "idempotency_mismatch"
        assert await refusal(client, **request | {"clientMessageId": "c-2"}) == "not_a_member"


# While others read


@pytest.mark.parametrize("kind", ["get_history", "join_room"])
async def test_a_page_never_takes_back_what_was_heard_of_its_messages(daemon: Daemon, kind: str) -> None:
    """Somebody edits all the time, each time to the next number; who reads meanwhile never goes back."""
    room_id, ada, [bob] = await open_room(daemon, "bob")
    async with daemon.connect(ada) as writer, daemon.connect(bob) as reader:
        message_id = await say(writer, room_id, "0")
        for number in range(1, 301):
            await writer.send(type="edit_message", messageId=message_id, content=str(number))
            if number % 3 == 0:
                await reader.send(type=kind, roomId=room_id, id=str(number))
        heard = answers = 0
        while answers < 100 or heard < 300:
            told = await reader.receive()
            if told["type"] == "message_edited":
                heard = int(told["message"]["content"])
            elif told["type"] == "room_history":
                answers += 1
                assert int(told["messages"][0]["content"]) >= heard
            elif told["type"] == "error":
                answers += 1
                assert told["code"] == "overloaded"


async def test_what_a_message_said_before_its_edit_is_told_to_nobody_who_comes_back(daemon: Daemon) -> None:
    room_id, ada, [bob] = await open_room(daemon, "bob")
    async with daemon.connect(ada) as writer:
        message_id = await say(writer, room_id, "a secret")
        await say(writer, room_id, "behind it")
        await is_ok(writer, type="edit_message", messageId=message_id, content="nothing")
        resume = {"epoch": writer.inbox[0]["epoch"], "rooms": {room_id: 0}}
        async with daemon.connect() as again:
            await again.send(type="authenticate", token=bob.token, resume=resume)
            await again.wait_for("caught_up")
            told = [event["message"]["content"] for event in again.inbox[1:] if event["type"] != "notification"]
            assert told == ["nothing", "behind it", "nothing"]


# Several nodes


@pytest.mark.parametrize("back_ends", ["distributed"], indirect=True)
async def test_what_is_deleted_on_one_node_is_gone_from_the_memory_of_all(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 2) as (one, other):
        room_id, ada, [bob] = await open_room(one, "bob")
        async with one.connect(ada) as writer, other.connect(bob) as reader:
            message_id = await say(writer, room_id, "a secret")
            await say(writer, room_id, "behind it")
            await hear(reader, "new_message", content="behind it")
            await is_ok(writer, type="delete_message", messageId=message_id)
            deleted = await hear(reader, "message_deleted")
            epoch = reader.inbox[0]["epoch"]
            # From the memory of the other node, and by a resume there.
            page = (await reader.ask(type="get_history", roomId=room_id))["messages"]
            assert [(message["content"], "deletedAt" in message) for message in page] == [
                ("", True),
                ("behind it", False),
            ]
            async with other.connect() as again:
                resume = {"epoch": epoch, "rooms": {room_id: 0}}
                await again.send(type="authenticate", token=bob.token, resume=resume)
                await again.wait_for("caught_up")
                # What bob is notified of comes when it is made, which may be as late as this.
                replayed = [message for message in again.inbox[1:] if message["type"] != "notification"]
                assert [event["type"] for event in replayed] == ["new_message", "new_message", "message_deleted"]
                assert replayed[0]["message"] == page[0]
                assert replayed[2] == deleted
                assert "secret" not in json.dumps(again.inbox)


@pytest.mark.parametrize("back_ends", ["distributed"], indirect=True)
async def test_changes_made_on_two_nodes_at_once_come_in_one_order(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 2) as (one, other):
        room_id, ada, [bob] = await open_room(one, "bob")
        async with one.connect(ada) as first, other.connect(ada) as second, other.connect(bob) as reader:
            message_id = await say(first, room_id, "0")
            for number in range(1, 11):
                client = (first, second)[number % 2]
                await client.send(type="edit_message", messageId=message_id, content=str(number))
            heard = [[await hear(client, "message_edited") for _ in range(10)] for client in (first, second, reader)]
            assert heard[0] == heard[1] == heard[2]
            assert [event["seq"] for event in heard[0]] == list(range(2, 12))
        [message] = await shown(one, ada, room_id)
        assert message == heard[0][-1]["message"]
