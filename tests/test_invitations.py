"""Bringing others into a room: added at once, invited to come, and who may not be brought in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract import NOWHERE
from tests.daemon import ON_BOTH_BACK_ENDS, Answer, Daemon, SignedIn, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def bring(daemon: Daemon, by: SignedIn, room_id: str, user_id: str, **fields: Any) -> Answer:
    return await daemon.http("POST", f"/api/rooms/{room_id}/members", {"userId": user_id, **fields}, token=by.token)


async def see(daemon: Daemon, user: SignedIn, room_id: str, path: str = "") -> Answer:
    return await daemon.http("GET", f"/api/rooms/{room_id}{path}", token=user.token)


async def role_of(daemon: Daemon, user: SignedIn, room_id: str) -> str | None:
    role: str | None = (await see(daemon, user, room_id)).json().get("role")
    return role


# Added at once


async def test_added_user_hears_the_room_at_once_and_the_room_of_them(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, kind="private")
    async with daemon.connect(ada) as owner, daemon.connect(bob) as phone, daemon.connect(bob) as laptop:
        answer = await bring(daemon, ada, room_id, bob.id, role="readonly")
        added = answer.json()
        assert (answer.status, added["userId"], added["role"], added["online"]) == (201, bob.id, "readonly", True)
        joined = {
            "type": "user_joined", "roomId": room_id, "seq": 1, "userId": bob.id, "username": "bob", "online": True,
        }  # fmt: skip
        assert await owner.wait_for("user_joined") == joined
        for client in (phone, laptop):
            assert await client.wait_for("user_joined") == joined
        await owner.ask(type="send_message", roomId=room_id, content="welcome")
        for client in (phone, laptop):
            assert (await client.wait_for("new_message"))["message"]["content"] == "welcome"
            assert (await client.ask(type="send_message", roomId=room_id, content="x"))["code"] == "forbidden"


async def test_added_user_hears_of_it_also_where_nothing_is_kept_of_the_room(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, MESSAGES_TAIL="0") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, kind="private")
        async with daemon.connect(bob) as client:
            assert (await bring(daemon, ada, room_id, bob.id)).status == 201
            assert (await client.wait_for("user_joined"))["userId"] == bob.id


@pytest.mark.parametrize("way", ["added", "invited"])
async def test_who_cannot_be_brought_in_is_neither_added_nor_invited(daemon: Daemon, way: str) -> None:
    ada, bob, eve, dan = [await daemon.register(name) for name in ("ada", "bob", "eve", "dan")]
    room_id = await daemon.create_room(ada, members=[bob.id])
    ban = await daemon.http("DELETE", f"/api/rooms/{room_id}/members/{eve.id}?ban=true", token=ada.token)
    assert ban.status == 200
    daemon.rows(f"INSERT INTO user_blocks (user_id, blocked_id, blocked_at) VALUES ('{dan.id}', '{ada.id}', 1)")
    for user_id, status, code in (
        (NOWHERE, 404, "not_found"),
        (bob.id, 409, "conflict"),
        (eve.id, 403, "forbidden"),
        (dan.id, 403, "forbidden"),
    ):
        answer = await bring(daemon, ada, room_id, user_id, invite=way == "invited")
        assert (answer.status, answer.json()["code"]) == (status, code)
    assert (await bring(daemon, ada, room_id, eve.id, role="owner")).json()["code"] == "bad_message"
    assert (await see(daemon, ada, room_id)).json()["memberCount"] == 2


async def test_disabled_user_is_not_brought_in(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada)
    daemon.rows(f"UPDATE users SET disabled_at = 1 WHERE id = '{bob.id}'")
    assert (await bring(daemon, ada, room_id, bob.id)).json()["code"] == "not_found"


async def test_room_is_not_made_with_somebody_who_has_blocked_its_maker(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    daemon.rows(f"INSERT INTO user_blocks (user_id, blocked_id, blocked_at) VALUES ('{bob.id}', '{ada.id}', 1)")
    body = {"name": "trap", "members": [bob.id]}
    answer = await daemon.http("POST", "/api/rooms", body, token=ada.token)
    assert (answer.status, answer.json()["code"]) == (403, "forbidden")


async def test_user_in_as_many_rooms_as_may_be_is_not_added_to_another(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_ROOMS_PER_USER="1") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada)
        await daemon.create_room(bob)
        assert (await bring(daemon, ada, room_id, bob.id)).json()["code"] == "limit_reached"


async def test_server_s_bound_on_members_holds_for_who_is_added(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_MEMBERS_PER_ROOM="2") as daemon:
        ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
        room_id = await daemon.create_room(ada, kind="private", members=[bob.id])
        assert (await bring(daemon, ada, room_id, eve.id)).json()["code"] == "limit_reached"
        assert (await bring(daemon, ada, room_id, eve.id, invite=True)).status == 201
        async with daemon.connect(eve) as client:
            assert (await client.ask(type="join_room", roomId=room_id))["code"] == "limit_reached"
            await daemon.http("DELETE", f"/api/rooms/{room_id}/members/{bob.id}", token=ada.token)
            assert (await client.ask(type="join_room", roomId=room_id))["type"] == "room_history"


# Invited


async def test_invited_user_sees_the_room_and_neither_messages_nor_members_before_joining(daemon: Daemon) -> None:
    ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
    room_id = await daemon.create_room(ada, "tea", kind="private", topic="leaves")
    answer = await bring(daemon, ada, room_id, bob.id, invite=True, role="moderator")
    assert (answer.status, answer.json()) == (
        201, {"roomId": room_id, "userId": bob.id, "role": "moderator", "invitedBy": ada.id},
    )  # fmt: skip
    room = (await see(daemon, bob, room_id)).json()
    assert (room["name"], room["kind"], room["topic"], room["memberCount"]) == ("tea", "private", "leaves", 1)
    assert (room["invitedAs"], "role" in room) == ("moderator", False)
    listed = (await daemon.http("GET", "/api/rooms", token=bob.token)).json()["rooms"]
    assert [found["name"] for found in listed] == ["lobby", "tea"]
    for path in ("/members", "/messages", "/bans"):
        refused = await see(daemon, bob, room_id, path)
        assert (refused.status, refused.json()["code"]) == (403, "not_a_member")
    assert (await see(daemon, eve, room_id)).status == 404
    async with daemon.connect(bob) as client:
        assert (await client.ask(type="get_history", roomId=room_id))["code"] == "not_a_member"
        assert (await client.ask(type="join_room", roomId=room_id))["type"] == "room_history"
    assert "invitedAs" not in (await see(daemon, bob, room_id)).json()


async def test_invitation_is_used_up_by_joining_in_the_role_that_it_offers(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, kind="private")
    for role in ("moderator", "readonly"):
        assert (await bring(daemon, ada, room_id, bob.id, invite=True, role=role)).status == 201
    async with daemon.connect(bob) as client:
        assert (await client.ask(type="join_room", roomId=room_id))["type"] == "room_history"
        assert await role_of(daemon, bob, room_id) == "readonly"
        assert (await client.ask(type="send_message", roomId=room_id, content="x"))["code"] == "forbidden"
        await client.ask(type="leave_room", roomId=room_id)
        assert (await client.ask(type="join_room", roomId=room_id))["code"] == "not_found"
    assert (await see(daemon, bob, room_id)).status == 404


async def test_invitation_to_a_public_room_offers_a_role_too(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada)
    await bring(daemon, ada, room_id, bob.id, invite=True, role="moderator")
    async with daemon.connect(bob) as client:
        await client.ask(type="join_room", roomId=room_id)
        renamed = await daemon.http("PATCH", f"/api/rooms/{room_id}", {"name": "better"}, token=bob.token)
        assert renamed.status == 200
        for role in ("moderator", "member"):
            assert await role_of(daemon, bob, room_id) == role
            await client.ask(type="leave_room", roomId=room_id)
            await client.ask(type="join_room", roomId=room_id)


@pytest.mark.parametrize("who", ["the invited", "a moderator", "a ban"])
async def test_invitation_can_be_declined_and_taken_back(daemon: Daemon, who: str) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, kind="private")
    await bring(daemon, ada, room_id, bob.id, invite=True)
    by = bob if who == "the invited" else ada
    query = "?ban=true" if who == "a ban" else ""
    path = f"/api/rooms/{room_id}/members/{bob.id}{query}"
    assert (await daemon.http("DELETE", path, token=by.token)).status == 200
    assert (await see(daemon, bob, room_id)).status == 404
    async with daemon.connect(bob) as client:
        assert (await client.ask(type="join_room", roomId=room_id))["code"] == "not_found"
    assert (await see(daemon, ada, room_id)).json()["lastSeq"] == 0


async def test_adding_somebody_uses_their_invitation_up(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, kind="private")
    await bring(daemon, ada, room_id, bob.id, invite=True)
    await bring(daemon, ada, room_id, bob.id)
    await daemon.http("DELETE", f"/api/rooms/{room_id}/members/{bob.id}", token=bob.token)
    assert (await see(daemon, bob, room_id)).status == 404


async def test_room_has_so_many_invitations_and_no_more(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_INVITATIONS_PER_ROOM="1") as daemon:
        ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
        room_id = await daemon.create_room(ada)
        for _ in range(2):
            assert (await bring(daemon, ada, room_id, bob.id, invite=True)).status == 201
        assert (await bring(daemon, ada, room_id, eve.id, invite=True)).json()["code"] == "limit_reached"


async def test_stranger_cannot_tell_a_private_room_from_a_missing_one_by_what_moderators_do(daemon: Daemon) -> None:
    ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
    room_id = await daemon.create_room(ada, kind="private", members=[bob.id])
    for method, path, body in (
        ("PATCH", "", {"name": "mine"}),
        ("DELETE", "", None),
        ("POST", "/members", {"userId": eve.id}),
        ("POST", "/members", {"userId": eve.id, "invite": True}),
        ("PATCH", f"/members/{bob.id}", {"role": "readonly"}),
        ("DELETE", f"/members/{bob.id}", None),
        ("DELETE", f"/members/{eve.id}", None),
        ("DELETE", f"/members/{bob.id}?ban=true", None),
        ("GET", "/bans", None),
        ("DELETE", f"/bans/{bob.id}", None),
    ):
        there = await daemon.http(method, f"/api/rooms/{room_id}{path}", body, token=eve.token)
        missing = await daemon.http(method, f"/api/rooms/{NOWHERE}{path}", body, token=eve.token)
        assert there.status == missing.status == 404
        assert there.body == missing.body
        assert {**there.headers, "date": ""} == {**missing.headers, "date": ""}
