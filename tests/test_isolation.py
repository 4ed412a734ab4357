"""Nothing of a room reaches somebody who is no member of it: not live, not as history, not over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import ON_BOTH_BACK_ENDS, Client, Daemon, SignedIn, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS

SECRET = "the treasure is under the oak"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def everything_heard(client: Client) -> str:
    """All that the server has told a client up to now."""
    client.inbox.append(await client.ask(type="ping"))
    return json.dumps(client.inbox)


async def http_answers(daemon: Daemon, user: SignedIn, room_id: str) -> dict[str, tuple[int, bytes]]:
    """What every path with a room in it answers, and the list of rooms."""
    answers = {}
    for path in ("", f"/{room_id}", f"/{room_id}/members", f"/{room_id}/messages", f"/{room_id}/messages?afterSeq=0"):
        answer = await daemon.http("GET", f"/api/rooms{path}", token=user.token)
        answers[path] = answer.status, answer.body
    return answers


@pytest.mark.parametrize("kind", ["public", "private"])
async def test_stranger_hears_and_reads_nothing(daemon: Daemon, kind: str) -> None:
    ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
    room_id = await daemon.create_room(ada, "the room", kind=kind, members=[bob.id])
    async with daemon.connect(ada) as one, daemon.connect(bob) as other, daemon.connect(eve) as stranger:
        ack = await one.ask(type="send_message", roomId=room_id, content=SECRET)
        assert (await other.wait_for("new_message"))["message"]["content"] == SECRET
        requests: list[dict[str, Any]] = [
            {"type": "get_history"},
            {"type": "get_history", "afterSeq": 0},
            {"type": "get_history", "beforeSeq": 100},
            {"type": "leave_room"},
            {"type": "send_message", "content": "let me in"},
        ]
        for request in requests:
            assert (await stranger.ask(**request, roomId=room_id))["code"] == "not_a_member"
        resume = {"epoch": stranger.inbox[0]["epoch"], "rooms": {room_id: 0}}
        async with daemon.connect() as back:
            await back.send(type="authenticate", token=eve.token, resume=resume)
            assert (await back.wait_for("resync"))["reason"] == "not_a_member"
            await other.ask(type="leave_room", roomId=room_id)
            heard = await everything_heard(stranger) + await everything_heard(back)
        for private in (SECRET, ack["messageId"], ada.id, bob.id):
            assert private not in heard
        for path, (status, body) in (await http_answers(daemon, eve, room_id)).items():
            assert SECRET.encode() not in body
            assert ack["messageId"].encode() not in body
            assert bob.id.encode() not in body
            if path.count("/") == 2:
                assert status == (403 if kind == "public" else 404)


async def test_member_who_left_hears_and_reads_nothing_more_on_any_device(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, kind="private", members=[bob.id])
    async with daemon.connect(ada) as one, daemon.connect(bob) as phone, daemon.connect(bob) as laptop:
        await phone.ask(type="leave_room", roomId=room_id)
        await one.ask(type="send_message", roomId=room_id, content=SECRET)
        for device in (phone, laptop):
            assert SECRET not in await everything_heard(device)
            assert (await device.ask(type="get_history", roomId=room_id))["code"] == "not_a_member"
            # nobody may come back to a private room by themselves
            assert (await device.ask(type="join_room", roomId=room_id))["code"] == "not_found"
        for _, body in (await http_answers(daemon, bob, room_id)).values():
            assert SECRET.encode() not in body


async def test_connection_that_has_not_authenticated_hears_nothing(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    lobby = await daemon.lobby(ada)
    async with daemon.connect(ada) as client, daemon.connect() as nobody:
        await client.ask(type="join_room", roomId=lobby)
        await client.ask(type="send_message", roomId=lobby, content=SECRET)
        for kind in ("join_room", "leave_room", "get_history"):
            assert (await nobody.ask(type=kind, roomId=lobby))["code"] == "unauthenticated"
        assert SECRET not in await everything_heard(nobody)


async def test_sender_is_who_the_token_says_whatever_the_message_claims(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(bob) as client:
        for claim in ({"senderId": ada.id}, {"userId": ada.id}, {"senderName": "ada"}):
            forged = await client.ask(type="send_message", roomId=room_id, content="forged", **claim)
            assert forged["code"] == "bad_message"
        await client.ask(
            type="send_message", roomId=room_id, content="signed", metadata={"senderId": ada.id, "senderName": "ada"}
        )
        history = await client.ask(type="get_history", roomId=room_id)
        assert [(message["senderId"], message["senderName"]) for message in history["messages"]] == [(bob.id, "bob")]


async def test_email_is_shown_to_nobody_else(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada) as one, daemon.connect(bob) as other:
        await one.ask(type="send_message", roomId=room_id, content="hello")
        await other.wait_for("new_message")
        assert "ada@example.org" not in await everything_heard(other)
    for _, body in (await http_answers(daemon, bob, room_id)).values():
        assert b"ada@example.org" not in body
