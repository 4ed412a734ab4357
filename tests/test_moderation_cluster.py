"""What a moderator does on one node holds on the others: what is refused there at once, and what is heard there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.test_cluster import hear, open_nodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import Answer, Client, Daemon, SignedIn


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[list[Daemon]]:
    async with open_nodes(tmp_path) as nodes:
        yield nodes


async def act(node: Daemon, by: SignedIn, method: str, path: str, **fields: Any) -> Answer:
    answer = await node.http(method, f"/api/rooms/{path}", fields or None, token=by.token)
    assert answer.status < 300, answer.body
    return answer


async def test_what_takes_the_right_to_send_is_in_force_on_every_node_when_it_is_answered(nodes: list[Daemon]) -> None:
    one, other = nodes
    ada, bob = await one.register("ada"), await one.register("bob")
    room_id = await one.create_room(ada)
    member = f"{room_id}/members/{bob.id}"
    async with other.connect(bob) as client:
        for method, fields, code in (
            ("PATCH", {"mutedUntil": "2999-01-01T00:00:00Z"}, "muted"),
            ("PATCH", {"role": "readonly"}, "forbidden"),
            ("DELETE", {}, "not_a_member"),
            ("DELETE", {"ban": True}, "not_a_member"),
        ):
            if method == "DELETE" or code == "muted":
                await client.ask(type="join_room", roomId=room_id)
            await client.ask(type="send_message", roomId=room_id, content="while I may")
            await act(one, ada, method, member, **fields)
            refused = await client.ask(type="send_message", roomId=room_id, content="still?")
            assert refused["code"] == code
            by_http = await other.http("POST", f"/api/rooms/{room_id}/messages", {"content": "still?"}, token=bob.token)
            assert by_http.json()["code"] == code
            if code != "not_a_member":
                await act(one, ada, "PATCH", member, role="member", mutedUntil=None)
        assert (await client.ask(type="join_room", roomId=room_id))["code"] == "forbidden"


async def test_kicked_member_on_another_node_hears_their_leaving_last(nodes: list[Daemon]) -> None:
    one, other = nodes
    ada, bob = await one.register("ada"), await one.register("bob")
    room_id = await one.create_room(ada, members=[bob.id])
    async with one.connect(ada) as owner, other.connect(bob) as client:
        await owner.ask(type="send_message", roomId=room_id, content="before")
        await act(one, ada, "DELETE", f"{room_id}/members/{bob.id}")
        await owner.ask(type="send_message", roomId=room_id, content="behind")
        await hear(client, "user_left", userId=bob.id, reason="kicked", seq=2)
        # Where the other node is by now is shown by who does hear the room there.
        async with other.connect(ada) as witness:
            await owner.ask(type="send_message", roomId=room_id, content="and more")
            await hear(witness, "new_message", content="and more")
        await client.ask(type="ping")
        of_room = [told for told in client.inbox if told.get("message", told).get("roomId") == room_id]
        assert [told["message"]["content"] for told in of_room] in (["before"], [])


async def test_slow_mode_counts_what_was_sent_on_any_node(nodes: list[Daemon]) -> None:
    one, other = nodes
    ada, bob = await one.register("ada"), await one.register("bob")
    room_id = await one.create_room(ada, members=[bob.id])
    await act(one, ada, "PATCH", room_id, settings={"slowModeS": 600})
    async with one.connect(bob) as first, other.connect(bob) as second:
        assert (await first.ask(type="send_message", roomId=room_id, content="x"))["type"] == "message_ack"
        assert (await second.ask(type="send_message", roomId=room_id, content="x"))["code"] == "rate_limited"


async def test_new_role_is_known_to_the_sessions_of_every_node(nodes: list[Daemon]) -> None:
    one, other = nodes
    ada, bob = await one.register("ada"), await one.register("bob")
    room_id = await one.create_room(ada, members=[bob.id])
    async with other.connect(bob) as client:
        await act(one, ada, "PATCH", f"{room_id}/members/{bob.id}", role="readonly")
        await hear(client, "member_updated", userId=bob.id, role="readonly")
        # Asked of the session alone, for typing is never stored.
        assert (await client.ask(type="typing_start", roomId=room_id))["code"] == "forbidden"
        await act(one, ada, "PATCH", f"{room_id}/members/{bob.id}", role="moderator")
        await hear(client, "member_updated", userId=bob.id, role="moderator")
        assert (await client.ask(type="typing_start", roomId=room_id))["type"] == "ok"


async def test_deleted_room_is_let_go_of_on_every_node(nodes: list[Daemon]) -> None:
    one, other = nodes
    ada, bob = await one.register("ada"), await one.register("bob")
    room_id = await one.create_room(ada, members=[bob.id])
    async with other.connect(bob) as client, other.connect(ada) as owner:
        for hearer in (client, owner):
            await hearer.ask(type="send_message", roomId=room_id, content="hello")
        await act(one, ada, "DELETE", room_id)
        refused = await client.ask(type="send_message", roomId=room_id, content="hello?")
        assert refused["code"] in {"not_found", "not_a_member"}
        for hearer in (client, owner):
            await hear(hearer, "room_updated", roomId=room_id, seq=3)
            assert (await hearer.ask(type="get_history", roomId=room_id))["code"] == "not_a_member"


async def test_user_added_on_one_node_hears_the_room_on_another(nodes: list[Daemon]) -> None:
    one, other = nodes
    ada, bob = await one.register("ada"), await one.register("bob")
    room_id = await one.create_room(ada, kind="private")
    async with one.connect(ada) as owner, other.connect(bob) as client:
        await act(one, ada, "POST", f"{room_id}/members", userId=bob.id)
        await owner.ask(type="send_message", roomId=room_id, content="welcome")
        await hear(client, "user_joined", roomId=room_id, userId=bob.id, seq=1)
        await hear(client, "new_message", roomId=room_id, content="welcome", seq=2)


async def join(client: Client, room_id: str, replies: list[str]) -> None:
    reply = await client.ask(type="join_room", roomId=room_id)
    replies.append(reply.get("code", "ok"))


async def test_last_place_is_taken_once_whichever_nodes_are_asked(nodes: list[Daemon]) -> None:
    one, other = nodes
    ada, bob, cyd = [await one.register(name) for name in ("ada", "bob", "cyd")]
    async with one.connect(bob) as first, other.connect(cyd) as second:
        for _ in range(5):
            room_id = await one.create_room(ada)
            await act(one, ada, "PATCH", room_id, settings={"maxMembers": 2})
            replies: list[str] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(join, first, room_id, replies)
                nursery.start_soon(join, second, room_id, replies)
            assert sorted(replies) == ["limit_reached", "ok"]
