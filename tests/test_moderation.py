"""What moderators and owners do to others and to the room, and that it holds at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.contract import NOWHERE
from tests.daemon import ON_BOTH_BACK_ENDS, Answer, Client, Daemon, SignedIn, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def register(daemon: Daemon, *names: str) -> list[SignedIn]:
    return [await daemon.register(name) for name in names]


async def change(daemon: Daemon, by: SignedIn, room_id: str, whom: SignedIn, **fields: Any) -> Answer:
    return await daemon.http("PATCH", f"/api/rooms/{room_id}/members/{whom.id}", fields, token=by.token)


async def remove(daemon: Daemon, by: SignedIn, room_id: str, whom: SignedIn, **fields: Any) -> Answer:
    return await daemon.http("DELETE", f"/api/rooms/{room_id}/members/{whom.id}", fields or None, token=by.token)


async def roles(daemon: Daemon, user: SignedIn, room_id: str) -> dict[str, str]:
    answer = await daemon.http("GET", f"/api/rooms/{room_id}/members", token=user.token)
    return {member["username"]: member["role"] for member in answer.json()["members"]}


def in_s(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def hears_nothing_more(client: Client, room_id: str) -> bool:
    """Nothing of the room has come but what was looked at."""
    client.inbox.clear()
    await client.ask(type="ping")
    return not any(told.get("message", told).get("roomId") == room_id for told in client.inbox)


# Roles


async def test_new_role_is_told_to_the_room_and_holds_at_once(daemon: Daemon) -> None:
    ada, bob = await register(daemon, "ada", "bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada) as owner, daemon.connect(bob) as client:
        answer = await change(daemon, ada, room_id, bob, role="readonly")
        assert (answer.status, answer.json()["role"]) == (200, "readonly")
        told = {"type": "member_updated", "roomId": room_id, "seq": 1, "userId": bob.id, "role": "readonly"}
        assert await owner.wait_for("member_updated") == told
        assert (await client.ask(type="send_message", roomId=room_id, content="x"))["code"] == "forbidden"
        assert await client.heard("member_updated") == told
        assert (await change(daemon, ada, room_id, bob, role="member")).status == 200
        assert (await client.ask(type="send_message", roomId=room_id, content="x"))["type"] == "message_ack"
        assert (await change(daemon, ada, room_id, bob, role="member")).status == 200
        room = await daemon.http("GET", f"/api/rooms/{room_id}", token=ada.token)
        assert room.json()["lastSeq"] == 3


@pytest.mark.parametrize("actor", ["moderator", "owner"])
@pytest.mark.parametrize("whom", ["moderator", "owner"])
async def test_nobody_acts_on_an_owner_and_only_an_owner_on_a_moderator(daemon: Daemon, actor: str, whom: str) -> None:
    ada, bob, cy = await register(daemon, "ada", "bob", "cyd")
    room_id = await daemon.create_room(ada, members=[bob.id, cy.id])
    assert (await change(daemon, ada, room_id, cy, role=whom)).status == 200
    assert (await change(daemon, ada, room_id, bob, role=actor)).status == 200
    expected = 200 if (actor, whom) == ("owner", "moderator") else 403
    assert (await change(daemon, bob, room_id, cy, mutedUntil=in_s(60))).status == expected
    assert (await change(daemon, bob, room_id, cy, role="readonly")).status == expected
    assert (await remove(daemon, bob, room_id, cy)).status == expected
    assert (await remove(daemon, bob, room_id, cy, ban=True)).status == (200 if expected == 200 else 403)


async def test_owners_step_down_but_the_last_one(daemon: Daemon) -> None:
    ada, bob = await register(daemon, "ada", "bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    refused = await change(daemon, ada, room_id, ada, role="member")
    assert (refused.status, refused.json()["code"]) == (409, "conflict")
    assert (await change(daemon, ada, room_id, bob, role="owner")).status == 200
    assert (await change(daemon, ada, room_id, ada, role="member")).status == 200
    assert await roles(daemon, ada, room_id) == {"ada": "member", "bob": "owner"}


async def test_moderator_steps_down_and_not_up(daemon: Daemon) -> None:
    ada, bob = await register(daemon, "ada", "bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    assert (await change(daemon, ada, room_id, bob, role="moderator")).status == 200
    assert (await change(daemon, bob, room_id, bob, role="owner")).json()["code"] == "forbidden"
    assert (await change(daemon, bob, room_id, bob, mutedUntil=in_s(9))).json()["code"] == "forbidden"
    assert (await change(daemon, bob, room_id, bob, role="member")).status == 200
    assert (await change(daemon, bob, room_id, ada, role="member")).json()["code"] == "forbidden"


@pytest.mark.parametrize("door", ["websocket", "http"])
async def test_room_whose_last_owner_leaves_is_owned_by_its_oldest_moderator(daemon: Daemon, door: str) -> None:
    ada, bob, cy, dee = await register(daemon, "ada", "bob", "cyd", "dee")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(cy) as client, daemon.connect(dee) as late, daemon.connect(ada) as owner:
        await client.ask(type="join_room", roomId=room_id)
        await late.ask(type="join_room", roomId=room_id)
        for user in (dee, cy):
            assert (await change(daemon, ada, room_id, user, role="moderator")).status == 200
        if door == "http":
            assert (await remove(daemon, ada, room_id, ada)).json() == {"success": True}
        else:
            assert (await owner.ask(type="leave_room", roomId=room_id))["type"] == "ok"
        left = await client.wait_for("user_left")
        passed_on = client.inbox[-1]
        assert (passed_on["type"], passed_on["userId"], passed_on["role"]) == ("member_updated", cy.id, "owner")
        assert (left["userId"], left["seq"], left["reason"]) == (ada.id, passed_on["seq"] + 1, "left")
        renamed = await daemon.http("PATCH", f"/api/rooms/{room_id}", {"name": "mine"}, token=cy.token)
        assert renamed.json()["role"] == "owner"
        await client.ask(type="leave_room", roomId=room_id)
        await late.ask(type="leave_room", roomId=room_id)
    assert await roles(daemon, bob, room_id) == {"bob": "owner"}


async def test_last_member_of_a_room_may_leave_it(daemon: Daemon) -> None:
    [ada] = await register(daemon, "ada")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        assert (await client.ask(type="leave_room", roomId=room_id))["type"] == "ok"
        assert (await daemon.http("GET", f"/api/rooms/{room_id}", token=ada.token)).json()["memberCount"] == 0


async def test_change_of_a_member_needs_something_to_change_and_a_member(daemon: Daemon) -> None:
    ada, bob = await register(daemon, "ada", "bob")
    room_id = await daemon.create_room(ada)
    faults: list[dict[str, Any]] = [{}, {"role": "king"}]
    faults += [{"mutedUntil": time} for time in ("soon", in_s(-5), "2999-01-01T00:00:00")]
    for fields in faults:
        refused = await change(daemon, ada, room_id, ada, **fields)
        assert (refused.status, refused.json()["code"]) == (422, "bad_message"), fields
    assert (await change(daemon, ada, room_id, bob, role="member")).json()["code"] == "not_found"
    assert (await remove(daemon, ada, room_id, bob)).json()["code"] == "not_found"
    missing = await daemon.http("DELETE", f"/api/rooms/{room_id}/members/{NOWHERE}", {"ban": True}, token=ada.token)
    assert missing.json()["code"] == "not_found"


# Muting and slow mode


async def test_muted_member_reads_and_cannot_send_until_it_is_over(daemon: Daemon) -> None:
    ada, bob = await register(daemon, "ada", "bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(bob) as client:
        until = "2999-01-31T12:00:00.000Z"
        answer = await change(daemon, ada, room_id, bob, mutedUntil=until)
        assert answer.json()["mutedUntil"] == until
        told = await client.wait_for("member_updated")
        assert (told["mutedUntil"], "role" in told) == (until, False)
        refused = await client.ask(type="send_message", roomId=room_id, content="x")
        assert (refused["code"], refused["retryAfterMs"] > 10**9, refused["temporary"]) == ("muted", True, False)
        by_http = await daemon.http("POST", f"/api/rooms/{room_id}/messages", {"content": "x"}, token=bob.token)
        assert (by_http.status, by_http.json()["code"]) == (403, "muted")
        assert (await client.ask(type="get_history", roomId=room_id))["type"] == "room_history"
        assert "mutedUntil" not in (await change(daemon, ada, room_id, bob, mutedUntil=None)).json()
        assert (await client.wait_for("member_updated"))["mutedUntil"] is None
        assert (await client.ask(type="send_message", roomId=room_id, content="x"))["type"] == "message_ack"
        seq = (await daemon.http("GET", f"/api/rooms/{room_id}", token=ada.token)).json()["lastSeq"]
        await change(daemon, ada, room_id, bob, mutedUntil=None)
        assert (await daemon.http("GET", f"/api/rooms/{room_id}", token=ada.token)).json()["lastSeq"] == seq


async def test_mute_ends_by_itself(daemon: Daemon) -> None:
    ada, bob = await register(daemon, "ada", "bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(bob) as client:
        assert (await change(daemon, ada, room_id, bob, mutedUntil=in_s(0.5))).status == 200
        reply = await client.ask(type="send_message", roomId=room_id, content="x")
        while reply["type"] == "error":
            assert reply["code"] == "muted"
            await trio.sleep(reply["retryAfterMs"] / 1000)
            reply = await client.ask(type="send_message", roomId=room_id, content="x")


async def test_slow_mode_holds_members_up_and_not_moderators(daemon: Daemon) -> None:
    ada, bob = await register(daemon, "ada", "bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    slow = await daemon.http("PATCH", f"/api/rooms/{room_id}", {"settings": {"slowModeS": 3600}}, token=ada.token)
    assert slow.json()["settings"] == {"slowModeS": 3600}
    async with daemon.connect(ada) as owner, daemon.connect(bob) as client:
        assert (await client.ask(type="send_message", roomId=room_id, content="x"))["type"] == "message_ack"
        refused = await client.ask(type="send_message", roomId=room_id, content="x")
        assert (refused["code"], 3_500_000 < refused["retryAfterMs"] <= 3_600_000) == ("rate_limited", True)
        for _ in range(2):
            assert (await owner.ask(type="send_message", roomId=room_id, content="x"))["type"] == "message_ack"
        await daemon.http("PATCH", f"/api/rooms/{room_id}", {"settings": {"slowModeS": 0}}, token=ada.token)
        assert (await client.ask(type="send_message", roomId=room_id, content="x"))["type"] == "message_ack"


# Kicking and banning


async def test_kicked_member_hears_of_it_and_nothing_behind_it(daemon: Daemon) -> None:
    ada, bob = await register(daemon, "ada", "bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada) as owner, daemon.connect(bob) as client:
        assert (await remove(daemon, ada, room_id, bob)).json() == {"success": True}
        left = await client.wait_for("user_left")
        assert left == {
            "type": "user_left", "roomId": room_id, "seq": 1, "userId": bob.id, "username": "bob", "online": True,
            "reason": "kicked",
        }  # fmt: skip
        assert await owner.wait_for("user_left") == left
        await owner.ask(type="send_message", roomId=room_id, content="gone?")
        assert await hears_nothing_more(client, room_id)
        assert (await client.ask(type="send_message", roomId=room_id, content="x"))["code"] == "not_a_member"
        assert (await client.ask(type="join_room", roomId=room_id))["type"] == "room_history"


async def test_banned_user_is_kept_out_until_unbanned(daemon: Daemon) -> None:
    ada, bob, cy = await register(daemon, "ada", "bob", "cyd")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(bob) as client:
        assert (await remove(daemon, ada, room_id, bob, ban=True, reason="spam")).status == 200
        assert (await client.wait_for("user_left"))["reason"] == "banned"
        assert (await client.ask(type="join_room", roomId=room_id))["code"] == "forbidden"
        bans = (await daemon.http("GET", f"/api/rooms/{room_id}/bans", token=ada.token)).json()
        banned_at = bans["bans"][0].pop("bannedAt")
        assert bans == {
            "bans": [{"userId": bob.id, "username": "bob", "bannedBy": ada.id, "reason": "spam"}], "hasMore": False,
        }  # fmt: skip
        assert banned_at.endswith("Z")
        # Somebody who is no member, by a query; once more changes nothing.
        for _ in range(2):
            path = f"/api/rooms/{room_id}/members/{cy.id}?ban=true"
            assert (await daemon.http("DELETE", path, token=ada.token)).status == 200
        page = (await daemon.http("GET", f"/api/rooms/{room_id}/bans?limit=1", token=ada.token)).json()
        assert (len(page["bans"]), page["hasMore"]) == (1, True)
        rest = await daemon.http("GET", f"/api/rooms/{room_id}/bans?after={page['after']}", token=ada.token)
        assert {page["bans"][0]["username"], rest.json()["bans"][0]["username"]} == {"bob", "cyd"}
        assert (await client.ask(type="join_room", roomId=room_id))["code"] == "forbidden"
        for status in (200, 404):
            answer = await daemon.http("DELETE", f"/api/rooms/{room_id}/bans/{bob.id}", token=ada.token)
            assert answer.status == status
        assert (await client.ask(type="join_room", roomId=room_id))["type"] == "room_history"


async def test_direct_conversation_has_nobody_to_moderate_it(daemon: Daemon) -> None:
    ada, bob = await register(daemon, "ada", "bob")
    room_id = await daemon.create_room(ada, kind="private", members=[bob.id])
    daemon.rows(f"UPDATE rooms SET kind = 'direct' WHERE id = '{room_id}'")
    for answer in (
        await change(daemon, ada, room_id, bob, role="readonly"),
        await remove(daemon, ada, room_id, bob),
        await remove(daemon, ada, room_id, ada),
        await daemon.http("DELETE", f"/api/rooms/{room_id}", token=ada.token),
        await daemon.http("PATCH", f"/api/rooms/{room_id}", {"name": "ours"}, token=ada.token),
        await daemon.http("POST", f"/api/rooms/{room_id}/members", {"userId": bob.id}, token=ada.token),
    ):
        assert (answer.status, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("switch", ["MODERATION", "INVITATIONS"])
async def test_moderation_and_invitations_can_be_switched_off(tmp_path: Path, switch: str) -> None:
    async with open_daemon(tmp_path, **{f"SERVER_FEATURES_{switch}": "false"}, limits=False) as daemon:
        ada, bob = await register(daemon, "ada", "bob")
        room_id = await daemon.create_room(ada, members=[bob.id])
        kicked = await remove(daemon, ada, room_id, bob)
        added = await daemon.http("POST", f"/api/rooms/{room_id}/members", {"userId": bob.id}, token=ada.token)
        off, on = (kicked, added) if switch == "MODERATION" else (added, kicked)
        assert (off.status, off.json()["code"]) == (501, "feature_disabled")
        assert on.status != 501
