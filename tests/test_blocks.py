"""Blocking: nobody writes in the direct room of two, invites or is invited, while one of them blocks the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd.errors import Refusal
from chatd.ids import new_id
from chatd.store.blocks import Block, Blocks, act_of, settling
from chatd.store.direct import Conversations
from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, SignedIn, open_daemon
from tests.stores import post
from tests.test_cluster import hear, open_nodes
from tests.test_direct import write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import Client
    from tests.stores import Store


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def block(daemon: Daemon, user: SignedIn, other: SignedIn) -> None:
    answer = await daemon.http("PUT", f"/api/users/{other.id}/block", token=user.token)
    assert (answer.status, answer.json()) == (200, {"success": True})


async def unblock(daemon: Daemon, user: SignedIn, other: SignedIn) -> None:
    answer = await daemon.http("DELETE", f"/api/users/{other.id}/block", token=user.token)
    assert (answer.status, answer.json()) == (200, {"success": True})


async def refusal(client: Client, **message: Any) -> tuple[str, str]:
    reply = await client.ask(**message)
    assert reply["type"] == "error", reply
    return reply["code"], reply["message"]


async def until_typing_is(client: Client, room_id: str, kind: str) -> None:
    """Wait until the client's node has read what its devices may do."""
    for _ in range(500):
        if (await client.ask(type="typing_start", roomId=room_id))["type"] == kind:
            return
        await trio.sleep(0.01)
    pytest.fail(f"typing_start is not answered with {kind}")


# -- in the store -------------------------------------------------------------------------------------------------


async def test_a_block_is_kept_once_with_its_first_time(store: Store) -> None:
    blocks = Blocks(store.database, store.queries)
    ada, bob, dan = [await store.add_user(name) for name in ("ada", "bob", "dan")]
    await blocks.store(Block(ada.id, bob.id), now_ms=1000)
    await blocks.store(Block(ada.id, bob.id), now_ms=2000)
    assert await blocks.page(ada.id, after="", limit=9) == [(bob.id, "bob", None, 1000)]
    assert (await blocks.count(ada.id, but=dan.id), await blocks.count(ada.id, but=bob.id)) == (1, 0)
    for _ in range(2):
        await blocks.store(Block(ada.id, bob.id, is_over=True), now_ms=4000)
    assert await blocks.page(ada.id, after="", limit=9) == []


async def test_nobody_writes_to_a_blocked_room_and_both_do_when_both_blocks_are_over(store: Store) -> None:
    direct = Conversations(store.database, store.queries)
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room_id = new_id()
    await direct.add(room_id, ada.id, bob.id, now_ms=1000)
    async with store.open_journal() as written:

        async def may_write() -> bool:
            refused = 0
            for user in (ada, bob):
                try:
                    await written.journal.write(post(user, room_id))
                except Refusal:
                    refused += 1
            assert refused in (0, 2)
            return not refused

        assert await may_write()
        await written.journal.write(act_of(Block(ada.id, bob.id), room_id))
        assert not await may_write()
        await written.journal.write(act_of(Block(bob.id, ada.id), room_id))
        await written.journal.write(act_of(Block(ada.id, bob.id, is_over=True), room_id))
        assert not await may_write()
        await written.journal.write(settling(room_id, bob.id, ada.id))
        assert not await may_write()
        await written.journal.write(act_of(Block(bob.id, ada.id, is_over=True), room_id))
        assert await may_write()
        # nobody is told: it takes no seq
        assert [event.seq for event in written.published] == [1, 2, 3, 4]


# -- through the doors --------------------------------------------------------------------------------------------


@ON_BOTH_BACK_ENDS
async def test_the_blocked_one_cannot_write_and_what_was_written_stays_readable(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with daemon.connect(ada) as first, daemon.connect(bob) as second:
        ack = await write(first, bob)
        room_id, message_id = ack["roomId"], ack["messageId"]
        await second.heard("new_dm")
        await block(daemon, ada, bob)
        to_ada = {"type": "send_dm", "recipientId": ada.id, "content": "x"}
        assert await refusal(second, **to_ada) == ("forbidden", "This user does not take messages from you.")
        code, sentence = await refusal(first, type="send_dm", recipientId=bob.id, content="x")
        assert (code, "unblock" in sentence) == ("forbidden", True)
        # nor by the room's own id, through either door
        for user, client in ((ada, first), (bob, second)):
            await until_typing_is(client, room_id, "error")
            closed = ("forbidden", "Nobody writes in this conversation for now; both of you may read it.")
            for request in (
                {"type": "send_message", "roomId": room_id, "content": "x"},
                {"type": "typing_start", "roomId": room_id},
                {"type": "add_reaction", "messageId": message_id, "emoji": "👍"},
            ):
                assert await refusal(client, **request) == closed
            answer = await daemon.http("POST", f"/api/rooms/{room_id}/messages", {"content": "x"}, token=user.token)
            assert (answer.status, answer.json()["code"], answer.json()["detail"]) == (403, *closed)
            pinning = await refusal(client, type="pin_message", messageId=message_id)
            assert "moderator" not in pinning[1]
        for user, other in ((ada, bob), (bob, ada)):
            page = (await daemon.http("GET", f"/api/direct-messages/{other.id}", token=user.token)).json()
            assert [message["content"] for message in page["messages"]] == ["hello"]
            assert len((await daemon.http("GET", "/api/chats", token=user.token)).json()["chats"]) == 1
        await unblock(daemon, ada, bob)
        assert (await write(second, ada, "again"))["seq"] == 2
        assert (await hear(first, "new_dm", senderId=bob.id))["message"]["content"] == "again"


@ON_BOTH_BACK_ENDS
async def test_a_repeat_of_what_was_sent_before_the_block_gets_its_ack(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with daemon.connect(bob) as client:
        ack = await write(client, ada, clientMessageId="c1")
        await block(daemon, ada, bob)
        again = await write(client, ada, clientMessageId="c1")
        assert (again["messageId"], again["duplicate"]) == (ack["messageId"], True)


@ON_BOTH_BACK_ENDS
async def test_a_block_before_the_first_message_lets_no_room_be_made(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    await block(daemon, ada, bob)
    async with daemon.connect(bob) as client:
        assert (await refusal(client, type="send_dm", recipientId=ada.id, content="x"))[0] == "forbidden"
    assert daemon.rows("SELECT id FROM rooms WHERE kind = 'direct'") == []


@ON_BOTH_BACK_ENDS
async def test_typing_is_not_told_to_who_blocks(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with daemon.connect(ada) as first, daemon.connect(bob) as second:
        room_id = (await write(first, bob))["roomId"]
        await second.heard("new_dm")
        await block(daemon, ada, bob)
        await until_typing_is(second, room_id, "error")
        await first.ask(type="ping")
        first.inbox.clear()
        assert (await refusal(second, type="typing_start", roomId=room_id))[0] == "forbidden"
        await first.ask(type="ping")
        assert "user_typing" not in [message["type"] for message in first.inbox]


async def test_members_of_a_blocked_conversation_do_not_see_how_the_other_is(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with daemon.connect(ada) as one, daemon.connect(bob) as other:
        room_id = (await one.ask(type="send_dm", recipientId=bob.id, content="hello"))["roomId"]
        for line in (one, other):
            await line.ask(type="update_status", status="busy", statusMessage="at tea")
        path = f"/api/rooms/{room_id}/members"
        assert {m["status"] for m in (await daemon.http("GET", path, token=bob.token)).json()["members"]} == {"busy"}
        await daemon.http("PUT", f"/api/users/{bob.id}/block", token=ada.token)
        for user, stranger in ((ada, "bob"), (bob, "ada")):
            members = (await daemon.http("GET", path, token=user.token)).json()["members"]
            [seen] = [member for member in members if member["username"] == stranger]
            assert (seen["online"], seen["status"], seen["deviceCount"]) == (False, "offline", 0)
            assert not {"statusMessage", "lastSeen"} & seen.keys()
            [own] = [member for member in members if member["username"] != stranger]
            assert (own["online"], own["statusMessage"]) == (True, "at tea")


async def test_a_block_holds_on_every_node_from_its_answer_on(tmp_path: Path) -> None:
    async with open_nodes(tmp_path) as (one, other):
        ada, bob = await one.register("ada"), await one.register("bob")
        async with one.connect(ada) as first, other.connect(bob) as second:
            room_id = (await write(first, bob))["roomId"]
            await second.heard("new_dm")
            await block(one, ada, bob)
            for message in (
                {"type": "send_message", "roomId": room_id}, {"type": "send_dm", "recipientId": ada.id},
            ):  # fmt: skip
                assert (await refusal(second, content="x", **message))[0] == "forbidden"
            await unblock(other, ada, bob)
            await write(second, ada)
            # and the devices of both may type again
            await until_typing_is(second, room_id, "ok")
            assert (await hear(first, "user_typing"))["userId"] == bob.id


@ON_BOTH_BACK_ENDS
async def test_rooms_with_others_stay_as_they_are(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    await block(daemon, ada, bob)
    async with daemon.connect(ada) as first, daemon.connect(bob) as second:
        await second.ask(type="send_message", roomId=room_id, content="to all")
        assert (await first.heard("new_message"))["message"]["content"] == "to all"


@ON_BOTH_BACK_ENDS
async def test_the_blocked_one_brings_nobody_into_rooms_who_blocks_them(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(bob, kind="private")
    await block(daemon, ada, bob)
    for path, body in (
        (f"/api/rooms/{room_id}/members", {"userId": ada.id}),
        (f"/api/rooms/{room_id}/members", {"userId": ada.id, "invite": True}),
        ("/api/rooms", {"name": "trap", "members": [ada.id]}),
    ):
        answer = await daemon.http("POST", path, body, token=bob.token)
        assert (answer.status, answer.json()["code"]) == (403, "forbidden"), path
    await unblock(daemon, ada, bob)
    answer = await daemon.http("POST", f"/api/rooms/{room_id}/members", {"userId": ada.id}, token=bob.token)
    assert answer.status == 201


@ON_BOTH_BACK_ENDS
async def test_blocks_are_listed_for_who_made_them_only(daemon: Daemon) -> None:
    ada, bob, cyd = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
    for _ in range(2):
        for other in (bob, cyd):
            await block(daemon, ada, other)

    async def listed(user: SignedIn, query: str = "") -> Any:
        return (await daemon.http("GET", "/api/blocks" + query, token=user.token)).json()

    first = await listed(ada, "?limit=1")
    assert ([user["username"] for user in first["users"]], first["hasMore"]) == (["bob"], True)
    assert first["users"][0]["blockedAt"].endswith("Z")
    rest = await listed(ada, f"?limit=1&after={first['after']}")
    assert ([user["username"] for user in rest["users"]], rest["hasMore"]) == (["cyd"], False)
    assert await listed(bob) == {"users": [], "hasMore": False}
    for _ in range(2):
        await unblock(daemon, ada, bob)
    assert [user["username"] for user in (await listed(ada))["users"]] == ["cyd"]


@ON_BOTH_BACK_ENDS
async def test_blocks_that_cannot_be_are_refused(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_BLOCKS_PER_USER="1") as daemon:
        ada, bob, cyd = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
        for user_id, status in (("unknown", 404), (ada.id, 422)):
            assert (await daemon.http("PUT", f"/api/users/{user_id}/block", token=ada.token)).status == status
        assert (await daemon.http("DELETE", "/api/users/unknown/block", token=ada.token)).status == 404
        await block(daemon, ada, bob)
        await block(daemon, ada, bob)
        answer = await daemon.http("PUT", f"/api/users/{cyd.id}/block", token=ada.token)
        assert (answer.status, answer.json()["code"]) == (409, "limit_reached")


async def test_blocks_that_are_switched_off_are_refused(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SERVER_FEATURES_BLOCKS="false") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        for method, path in (("PUT", f"/api/users/{bob.id}/block"), ("GET", "/api/blocks")):
            answer = await daemon.http(method, path, token=ada.token)
            assert answer.json()["code"] == "feature_disabled"
