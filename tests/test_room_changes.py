"""Changing a room and deleting it: what its members hear, and what is left of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from chatd.client import open_client
from chatd.configfile import load_config
from chatd.protocol import RoomUpdated, UserLeft
from chatd.verify.findings import Findings
from chatd.verify.stays import Rules
from chatd.verify.verification import find_logs, verify
from tests.contract import NOWHERE
from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, SignedIn, environment, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import Answer

pytestmark = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def change(daemon: Daemon, by: SignedIn, room_id: str, **fields: Any) -> Answer:
    return await daemon.http("PATCH", f"/api/rooms/{room_id}", fields, token=by.token)


async def test_room_hears_what_has_changed_and_only_that(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada, "tea", topic="leaves")
    async with daemon.connect(ada) as client:
        steps: list[tuple[dict[str, Any], dict[str, Any]]] = [
            ({"name": "coffee", "topic": "leaves"}, {"name": "coffee"}),
            ({"topic": ""}, {"topic": ""}),
            ({"topic": "beans"}, {"topic": "beans"}),
            ({"settings": {"maxMembers": 5, "slowModeS": 0}}, {"settings": {"maxMembers": 5}}),
            ({"settings": {"slowModeS": 30}, "name": "tea"}, {"name": "tea", "settings": {"slowModeS": 30}}),
            ({"settings": {"maxMembers": 0}}, {"settings": {"maxMembers": 0}}),
        ]
        for seq, (asked, told) in enumerate(steps, 1):
            assert (await change(daemon, ada, room_id, **asked)).status == 200
            assert await client.wait_for("room_updated") == {
                "type": "room_updated", "roomId": room_id, "seq": seq, **told,
            }  # fmt: skip
        same = await change(daemon, ada, room_id, name="tea", topic="beans", settings={"slowModeS": 30})
        room = same.json()
        assert (room["name"], room["topic"], room["settings"]) == ("tea", "beans", {"slowModeS": 30})
        assert room["lastSeq"] == len(steps)
        assert (await daemon.http("GET", f"/api/rooms/{room_id}", token=ada.token)).json() == room


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"settings": {}},
        {"name": ""},
        {"name": "  "},
        {"name": "two\nlines"},
        {"topic": "x" * 501},
        {"kind": "public"},
        {"settings": {"maxMembers": -1}},
        {"settings": {"slowModeS": 86_401}},
        {"settings": {"slow": 1}},
    ],
    ids=str,
)
async def test_faulty_change_is_refused(daemon: Daemon, fields: dict[str, Any]) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    answer = await change(daemon, ada, room_id, **fields)
    assert (answer.status, answer.json()["code"]) == (422, "bad_message")
    assert (await daemon.http("GET", f"/api/rooms/{room_id}", token=ada.token)).json()["lastSeq"] == 0


async def test_last_place_of_a_room_is_taken_once(daemon: Daemon) -> None:
    users = [await daemon.register(name) for name in ("ada", "bob", "cyd", "dee")]
    room_id = await daemon.create_room(users[0])
    assert (await change(daemon, users[0], room_id, settings={"maxMembers": 2})).status == 200
    async with daemon.connect(users[1]) as bob, daemon.connect(users[2]) as cy:
        for client in (bob, cy):
            await client.send(type="join_room", roomId=room_id, id="join")
        replies = []
        for client in (bob, cy):
            while (reply := await client.receive()).get("id") != "join":
                pass
            replies.append(reply.get("code", "ok"))
    assert sorted(replies) == ["limit_reached", "ok"]
    body = {"userId": users[3].id}
    added = await daemon.http("POST", f"/api/rooms/{room_id}/members", body, token=users[0].token)
    assert (added.status, added.json()["code"]) == (409, "limit_reached")


async def test_deleted_room_says_so_last_and_is_gone_like_one_that_never_was(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, "tea", members=[bob.id])
    async with daemon.connect(ada) as owner, daemon.connect(bob) as client:
        ack = await client.ask(type="send_message", roomId=room_id, content="hello")
        assert (await daemon.http("DELETE", f"/api/rooms/{room_id}", token=ada.token)).json() == {"success": True}
        for hearer in (owner, client):
            last = await hearer.wait_for("room_updated")
            assert (last["roomId"], last["seq"]) == (room_id, 2)
            assert set(last) == {"type", "roomId", "seq", "deletedAt"}
        for request in (
            {"type": "send_message", "content": "hello?"},
            {"type": "get_history"},
            {"type": "join_room"},
            {"type": "leave_room"},
            {"type": "typing_start"},
        ):
            there = await client.ask(**request, id="x", roomId=room_id)
            assert there["type"] == "error"
            assert there == await client.ask(**request, id="x", roomId=NOWHERE)
        assert not any(told.get("roomId") == room_id for told in client.inbox)
    for method, path, body in (
        ("GET", "/api/rooms/{}", None),
        ("GET", "/api/rooms/{}/members", None),
        ("GET", "/api/rooms/{}/messages", None),
        ("POST", "/api/rooms/{}/messages", {"content": "hello?"}),
        ("PATCH", "/api/rooms/{}", {"name": "again"}),
        ("DELETE", "/api/rooms/{}", None),
    ):
        gone = await daemon.http(method, path.format(room_id), body, token=ada.token)
        missing = await daemon.http(method, path.format(NOWHERE), body, token=ada.token)
        assert (gone.status, gone.body) == (404, missing.body)
    listed = (await daemon.http("GET", "/api/rooms", token=bob.token)).json()["rooms"]
    assert [room["name"] for room in listed] == ["lobby"]
    async with daemon.connect(bob) as client:
        [told] = client.inbox
        assert told["rooms"] == []
        resume = {"epoch": told["epoch"], "rooms": {room_id: ack["seq"]}}
        await client.send(type="authenticate", token=bob.token, resume=resume)
        assert (await client.wait_for("resync"))["reason"] == "not_a_member"


async def test_lobby_is_not_its_owner_s_to_delete(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.lobby(ada)
    async with daemon.connect(ada) as client:
        await client.ask(type="join_room", roomId=room_id)
    daemon.rows(f"UPDATE room_members SET role = 'owner' WHERE room_id = '{room_id}'")
    answer = await daemon.http("DELETE", f"/api/rooms/{room_id}", token=ada.token)
    assert (answer.status, answer.json()["code"]) == (403, "forbidden")


async def test_place_in_a_deleted_room_does_not_count_for_its_members(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_ROOMS_PER_USER="1") as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        refused = await daemon.http("POST", "/api/rooms", {"name": "one more"}, token=ada.token)
        assert refused.json()["code"] == "limit_reached"
        await daemon.http("DELETE", f"/api/rooms/{room_id}", token=ada.token)
        await daemon.create_room(ada)


async def test_checker_knows_that_everybody_has_left_a_deleted_room(tmp_path: Path) -> None:
    log = tmp_path / "bob.ndjson"
    async with open_daemon(tmp_path / "data") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, members=[bob.id])
        kicking = await daemon.create_room(ada, members=[bob.id])
        async with open_client(daemon.ws_url, token=bob.token, record=log) as client:
            with client.room(room_id) as events, client.room(kicking) as others:
                await client.send(room_id, "hello", client_message_id="1")
                await daemon.http("DELETE", f"/api/rooms/{kicking}/members/{bob.id}", token=ada.token)
                async for event in others:
                    if isinstance(event, UserLeft):
                        break
                await daemon.http("DELETE", f"/api/rooms/{room_id}", token=ada.token)
                async for event in events:
                    if isinstance(event, RoomUpdated):
                        break
            assert room_id not in client.checkpoint().rooms
            findings = Findings()
            config = load_config(None, environment(tmp_path / "data"))
            rules = Rules(is_settled=True)
            await verify(find_logs([log]), config.database, rules, data_path=tmp_path / "data", findings=findings)
    assert findings.faults == []
    assert findings.events > 0
