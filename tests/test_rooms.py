"""Rooms: made, found, joined and left; what strangers see of them; who is in them; and their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import ON_BOTH_BACK_ENDS, Answer, Client, Daemon, SignedIn, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS

MISSING = "0195d9a0-0000-7000-8000-000000000000"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def create(daemon: Daemon, user: SignedIn, **fields: Any) -> Answer:
    return await daemon.http("POST", "/api/rooms", fields, token=user.token)


async def listed(daemon: Daemon, user: SignedIn) -> list[str]:
    """The names of the rooms that a user finds."""
    answer = await daemon.http("GET", "/api/rooms", token=user.token)
    return [room["name"] for room in answer.json()["rooms"]]


async def members(daemon: Daemon, user: SignedIn, room_id: str) -> dict[str, dict[str, Any]]:
    answer = await daemon.http("GET", f"/api/rooms/{room_id}/members", token=user.token)
    assert answer.status == 200
    return {member["username"]: member for member in answer.json()["members"]}


async def hears(client: Client, room_id: str, *, sender: Client) -> bool:
    """Whether a client hears a room, told by what it has heard once the sender, who hears it, has got its message."""
    ack = await sender.ask(type="send_message", roomId=room_id, content="are you there?")
    while (await sender.heard("new_message"))["message"]["id"] != ack["messageId"]:
        pass
    await client.ask(type="ping")
    return any(heard.get("message", {}).get("id") == ack["messageId"] for heard in client.inbox)


# Making and finding


async def test_first_start_makes_a_lobby_and_later_ones_do_not(tmp_path: Path) -> None:
    for name in ("ada", "bob"):
        async with open_daemon(tmp_path) as daemon:
            assert await listed(daemon, await daemon.register(name)) == ["lobby"]


async def test_lobby_has_the_name_of_the_configuration(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SERVER_LOBBY="Grand Hall") as daemon:
        assert await listed(daemon, await daemon.register("ada")) == ["Grand Hall"]


async def test_room_is_answered_as_it_can_be_read_afterwards(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    answer = await create(daemon, ada, name="Tea ☕", topic="leaves only", kind="private")
    room = answer.json()
    assert answer.status == 201
    assert (room["name"], room["topic"], room["kind"]) == ("Tea ☕", "leaves only", "private")
    assert (room["createdBy"], room["role"], room["memberCount"], room["lastSeq"]) == (ada.id, "owner", 1, 0)
    assert (await daemon.http("GET", answer.headers["location"], token=ada.token)).json() == room


async def test_members_are_in_the_room_from_its_first_moment(daemon: Daemon) -> None:
    ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
    room_id = await daemon.create_room(ada, kind="private", members=[bob.id, bob.id, ada.id])
    found = await members(daemon, bob, room_id)
    assert {name: member["role"] for name, member in found.items()} == {"ada": "owner", "bob": "member"}
    assert await listed(daemon, eve) == ["lobby"]


async def test_live_connections_of_first_members_hear_the_new_room(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with daemon.connect(ada) as ada_client, daemon.connect(bob) as bob_client:
        room_id = await daemon.create_room(ada, kind="private", members=[bob.id])
        await ada_client.ask(type="send_message", roomId=room_id, content="welcome")
        assert (await bob_client.wait_for("new_message"))["message"]["content"] == "welcome"
        reply = await bob_client.ask(type="send_message", roomId=room_id, content="thanks")
        assert reply["seq"] == 2


async def test_room_with_a_member_who_does_not_exist_is_not_made_at_all(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    answer = await create(daemon, ada, name="half a room", members=[bob.id, MISSING])
    assert (answer.status, answer.json()["code"]) == (404, "not_found")
    assert await listed(daemon, ada) == ["lobby"]
    assert await listed(daemon, bob) == ["lobby"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"name": ""},
        {"name": "   "},
        {"name": "x" * 101},
        {"name": "two\nlines"},
        {"name": "tea", "topic": "x" * 501},
        {"name": "tea", "topic": "\x1b[2J"},
        {"name": "tea", "kind": "direct"},
        {"name": "tea", "createdBy": MISSING},
    ],
    ids=str,
)
async def test_room_with_a_faulty_field_is_refused(daemon: Daemon, fields: dict[str, Any]) -> None:
    ada = await daemon.register("ada")
    answer = await create(daemon, ada, **fields)
    assert (answer.status, answer.json()["code"]) == (422, "bad_message")
    assert await listed(daemon, ada) == ["lobby"]


async def test_making_rooms_can_be_switched_off(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SERVER_FEATURES_ROOM_CREATION="false") as daemon:
        answer = await create(daemon, await daemon.register("ada"), name="tea")
        assert (answer.status, answer.json()["code"]) == (501, "feature_disabled")


@pytest.mark.parametrize("cursor", ["after", "offset"])
async def test_walking_the_pages_gives_each_room_once(daemon: Daemon, cursor: str) -> None:
    ada = await daemon.register("ada")
    made = [await daemon.create_room(ada, f"room {number}", kind="private") for number in range(5)]
    found: list[str] = []
    query = "limit=2"
    while query:
        page = (await daemon.http("GET", f"/api/rooms?{query}", token=ada.token)).json()
        assert len(page["rooms"]) <= 2
        found += [room["id"] for room in page["rooms"]]
        query = ""
        if page["hasMore"]:
            query = f"limit=2&after={page['after']}" if cursor == "after" else f"limit=2&offset={len(found)}"
    assert found == [await daemon.lobby(ada), *made]


# What strangers see


async def test_private_room_looks_to_a_stranger_exactly_like_a_missing_one(daemon: Daemon) -> None:
    ada, eve = await daemon.register("ada"), await daemon.register("eve")
    room_id = await daemon.create_room(ada, kind="private")
    for method, path in (
        ("GET", "/api/rooms/{}"),
        ("GET", "/api/rooms/{}/members"),
        ("GET", "/api/rooms/{}/messages"),
        ("POST", "/api/rooms/{}/messages"),
    ):
        body = {"content": "hello?"} if method == "POST" else None
        there = await daemon.http(method, path.format(room_id), body, token=eve.token)
        missing = await daemon.http(method, path.format(MISSING), body, token=eve.token)
        assert there.status == missing.status == 404
        assert there.body == missing.body
        assert {**there.headers, "date": ""} == {**missing.headers, "date": ""}
    async with daemon.connect(eve) as client:
        for request in (
            {"type": "join_room"},
            {"type": "join_room", "afterSeq": 0},
            {"type": "leave_room"},
            {"type": "send_message", "content": "hello?"},
            {"type": "get_history"},
        ):
            there_too = await client.ask(**request, id="x", roomId=room_id)
            assert there_too["type"] == "error"
            assert there_too == await client.ask(**request, id="x", roomId=MISSING)


async def test_public_room_may_be_seen_but_not_read_before_joining(daemon: Daemon) -> None:
    ada, eve = await daemon.register("ada"), await daemon.register("eve")
    room_id = await daemon.create_room(ada)
    seen = await daemon.http("GET", f"/api/rooms/{room_id}", token=eve.token)
    assert (seen.status, "role" in seen.json()) == (200, False)
    for path in ("members", "messages"):
        answer = await daemon.http("GET", f"/api/rooms/{room_id}/{path}", token=eve.token)
        assert (answer.status, answer.json()["code"]) == (403, "not_a_member")


# Joining and leaving


async def test_room_hears_who_joins_and_who_leaves(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as ada_client, daemon.connect(bob) as bob_client:
        joined = await bob_client.ask(type="join_room", roomId=room_id)
        assert (joined["type"], joined["seq"], joined["messages"]) == ("room_history", 1, [])
        heard = await ada_client.wait_for("user_joined")
        assert heard == {
            "type": "user_joined", "roomId": room_id, "seq": 1, "userId": bob.id, "username": "bob", "online": True,
        }  # fmt: skip
        assert (await bob_client.ask(type="leave_room", roomId=room_id))["type"] == "ok"
        left = await ada_client.wait_for("user_left")
        assert (left["seq"], left["userId"], left["reason"]) == (2, bob.id, "left")
        assert not await hears(bob_client, room_id, sender=ada_client)
        assert (await bob_client.ask(type="send_message", roomId=room_id, content="x"))["code"] == "not_a_member"
        assert (await bob_client.ask(type="leave_room", roomId=room_id))["code"] == "not_a_member"


async def test_joining_again_changes_nothing_and_shows_the_history(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        await client.ask(type="send_message", roomId=room_id, content="hello")
        for _ in range(2):
            joined = await client.ask(type="join_room", roomId=room_id)
            assert (joined["seq"], len(joined["messages"])) == (1, 1)
    assert (await daemon.http("GET", f"/api/rooms/{room_id}", token=ada.token)).json()["memberCount"] == 1


async def test_other_devices_hear_a_room_that_was_joined_on_one(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as sender, daemon.connect(bob) as phone, daemon.connect(bob) as laptop:
        await phone.ask(type="join_room", roomId=room_id)
        assert (await laptop.wait_for("user_joined"))["userId"] == bob.id
        assert await hears(laptop, room_id, sender=sender)
        assert (await laptop.ask(type="send_message", roomId=room_id, content="both"))["type"] == "message_ack"
        await phone.ask(type="leave_room", roomId=room_id)
        await laptop.wait_for("user_left")
        assert not await hears(laptop, room_id, sender=sender)


async def test_own_rooms_are_heard_from_the_moment_of_authentication(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, "tea", kind="private", members=[bob.id])
    async with daemon.connect(ada) as sender:
        await sender.ask(type="send_message", roomId=room_id, content="one")
        async with daemon.connect(bob) as client:
            assert client.inbox[0]["rooms"] == [
                {"roomId": room_id, "name": "tea", "kind": "private", "lastSeq": 1, "lastReadSeq": 0, "unread": 1}
            ]
            assert await hears(client, room_id, sender=sender)


# Who is in a room


async def test_members_are_shown_with_their_devices(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(bob), daemon.connect(bob):
        found = await members(daemon, ada, room_id)
        assert (found["bob"]["online"], found["bob"]["deviceCount"], found["bob"]["status"]) == (True, 2, "online")
        assert "lastSeen" not in found["bob"]
        assert (found["ada"]["online"], found["ada"]["deviceCount"], found["ada"]["status"]) == (False, 0, "offline")


async def test_who_has_left_is_shown_with_when_they_were_last_seen(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, PRESENCE_GRACE_S="0.01") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(bob) as client:
            connected_at = (await client.ask(type="ping"))["time"]
    async with open_daemon(tmp_path) as daemon:
        found = await members(daemon, ada, room_id)
        assert (found["bob"]["online"], found["bob"]["deviceCount"]) == (False, 0)
        assert found["bob"]["lastSeen"] >= connected_at
        assert "lastSeen" not in found["ada"]


async def test_members_come_in_pages(daemon: Daemon) -> None:
    users = [await daemon.register(f"user_{number}") for number in range(5)]
    room_id = await daemon.create_room(users[0], members=[user.id for user in users[1:]])
    found: list[str] = []
    query = "limit=2"
    while query:
        path = f"/api/rooms/{room_id}/members?{query}"
        page = (await daemon.http("GET", path, token=users[0].token)).json()
        found += [member["userId"] for member in page["members"]]
        query = f"limit=2&after={page['after']}" if page["hasMore"] else ""
    assert found == sorted(user.id for user in users)


# Limits


async def test_sixth_room_within_an_hour_is_too_many(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=True, LIMITS_SIGN_INS_PER_HOUR="0") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        for number in range(5):
            await daemon.create_room(ada, f"room {number}")
        answer = await create(daemon, ada, name="one more")
        assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
        assert 0 < answer.json()["retryAfterMs"] <= 720_000
        assert (await create(daemon, bob, name="of another")).status == 201


async def test_joining_is_limited_over_all_devices_and_coming_back_to_own_rooms_is_free(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_JOINS_PER_HOUR="2") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        rooms = [await daemon.create_room(ada, f"room {number}") for number in range(3)]
        async with daemon.connect(bob) as phone, daemon.connect(bob) as laptop:
            assert (await phone.ask(type="join_room", roomId=rooms[0]))["type"] == "room_history"
            assert (await laptop.ask(type="join_room", roomId=rooms[1]))["type"] == "room_history"
            for _ in range(3):
                assert (await phone.ask(type="join_room", roomId=rooms[0]))["type"] == "room_history"
            refused = await phone.ask(type="join_room", roomId=rooms[2])
            assert (refused["code"], refused["temporary"]) == ("rate_limited", True)
            assert 0 < refused["retryAfterMs"] <= 1_800_000


async def test_user_is_in_so_many_rooms_and_no_more(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_ROOMS_PER_USER="2") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        rooms = [await daemon.create_room(ada, f"room {number}") for number in range(2)]
        lobby = await daemon.lobby(ada)
        answer = await create(daemon, ada, name="one more")
        assert (answer.status, answer.json()["code"]) == (409, "limit_reached")
        async with daemon.connect(ada) as client:
            assert (await client.ask(type="join_room", roomId=lobby))["code"] == "limit_reached"
            await client.ask(type="leave_room", roomId=rooms[0])
            assert (await client.ask(type="join_room", roomId=lobby))["type"] == "room_history"
        assert (await create(daemon, bob, name="of another")).status == 201


async def test_room_has_so_many_members_and_no_more(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_MEMBERS_PER_ROOM="2") as daemon:
        ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
        answer = await create(daemon, ada, name="crowd", members=[bob.id, eve.id])
        assert (answer.status, answer.json()["code"]) == (409, "limit_reached")
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(eve) as client, daemon.connect(bob) as leaver:
            assert (await client.ask(type="join_room", roomId=room_id))["code"] == "limit_reached"
            assert (await leaver.ask(type="join_room", roomId=room_id))["type"] == "room_history"
            await leaver.ask(type="leave_room", roomId=room_id)
            assert (await client.ask(type="join_room", roomId=room_id))["type"] == "room_history"
