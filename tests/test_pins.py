"""Pins: who may, how many, and the list of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import ON_BOTH_BACK_ENDS, open_daemon
from tests.test_changes import daemon as daemon
from tests.test_changes import everywhere, is_ok, open_room, refusal, say
from tests.test_cluster import hear

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon import Daemon, SignedIn

pytestmark = ON_BOTH_BACK_ENDS


async def pins(daemon: Daemon, user: SignedIn, room_id: str, query: str = "") -> dict[str, Any]:
    answer = await daemon.http("GET", f"/api/rooms/{room_id}/pins?{query}", token=user.token)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


async def test_a_pin_is_told_shown_and_listed_until_it_is_taken_away(daemon: Daemon) -> None:
    room_id, ada, [bob] = await open_room(daemon, "bob")
    async with daemon.connect(ada) as owner, daemon.connect(bob) as reader:
        first, second = await say(owner, room_id, "first"), await say(owner, room_id, "second")
        for message_id in (second, first):
            assert await is_ok(owner, type="pin_message", messageId=message_id)
        told = await hear(reader, "message_pinned")
        assert told == {
            "type": "message_pinned", "roomId": room_id, "seq": 3, "messageId": second, "userId": ada.id,
        }  # fmt: skip
        page = await everywhere(daemon, bob, room_id)
        assert [message["pinned"] for message in page] == [True, True]
        assert await pins(daemon, bob, room_id) == {"roomId": room_id, "messages": page, "hasMore": False}
        assert await is_ok(owner, type="unpin_message", messageId=second)
        assert await hear(reader, "message_unpinned") == told | {"type": "message_unpinned", "seq": 5}
        page = await everywhere(daemon, bob, room_id)
        assert "pinned" not in page[1]
        assert (await pins(daemon, bob, room_id))["messages"] == page[:1]


async def test_doing_it_twice_is_ok_and_told_once(daemon: Daemon) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        message_id = await say(client, room_id)
        for kind in ("unpin_message", "pin_message", "pin_message", "unpin_message", "unpin_message"):
            assert await is_ok(client, type=kind, messageId=message_id)
        assert (await client.ask(type="send_message", roomId=room_id, content="next"))["seq"] == 4


async def test_members_do_not_pin_and_moderators_do(daemon: Daemon) -> None:
    room_id, _, [bob] = await open_room(daemon, "bob")
    async with daemon.connect(bob) as client:
        message_id = await say(client, room_id)
        for kind in ("pin_message", "unpin_message"):
            assert await refusal(client, type=kind, messageId=message_id) == "forbidden"
        daemon.rows(f"UPDATE room_members SET role = 'moderator' WHERE user_id = '{bob.id}'")
        for kind in ("pin_message", "unpin_message"):
            assert await is_ok(client, type=kind, messageId=message_id)


async def test_a_room_has_no_more_pins_than_it_may(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_PINS_PER_ROOM="2") as daemon:
        room_id, ada, _ = await open_room(daemon)
        async with daemon.connect(ada) as client:
            sent = [await say(client, room_id) for _ in range(3)]
            for message_id in sent[:2]:
                await is_ok(client, type="pin_message", messageId=message_id)
            assert await refusal(client, type="pin_message", messageId=sent[2]) == "limit_reached"
            # It is pinned already.
            await is_ok(client, type="pin_message", messageId=sent[0])
            await is_ok(client, type="delete_message", messageId=sent[0])
            await is_ok(client, type="pin_message", messageId=sent[2])
        assert [message["id"] for message in (await pins(daemon, ada, room_id))["messages"]] == [sent[2], sent[1]]


async def test_pins_come_in_pages(daemon: Daemon) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        sent = [await say(client, room_id) for _ in range(5)]
        for message_id in sent:
            await is_ok(client, type="pin_message", messageId=message_id)
    walked: list[str] = []
    found = await pins(daemon, ada, room_id, "limit=2")
    while True:
        walked += [message["id"] for message in found["messages"]]
        if not found["hasMore"]:
            break
        found = await pins(daemon, ada, room_id, f"limit=2&offset={found['offset']}")
    assert sorted(walked) == sorted(sent)


async def test_strangers_see_no_pins(daemon: Daemon) -> None:
    ada, eve = await daemon.register("ada"), await daemon.register("eve")
    for kind, code in (("private", "not_found"), ("public", "not_a_member")):
        room_id = await daemon.create_room(ada, kind=kind)
        answer = await daemon.http("GET", f"/api/rooms/{room_id}/pins", token=eve.token)
        assert answer.json()["code"] == code
        assert (await daemon.http("GET", f"/api/rooms/{room_id}/pins")).status == 401


@pytest.mark.parametrize("path", ["/api/rooms/{room}/pins", "/api/messages/{message}/thread"])
async def test_what_is_switched_off_is_refused_over_http(tmp_path: Path, path: str) -> None:
    off = {"SERVER_FEATURES_PINS": "false", "SERVER_FEATURES_THREADS": "false"}
    async with open_daemon(tmp_path, limits=False, **off) as daemon:
        room_id, ada, _ = await open_room(daemon)
        async with daemon.connect(ada) as client:
            message_id = await say(client, room_id)
        answer = await daemon.http("GET", path.format(room=room_id, message=message_id), token=ada.token)
        assert (answer.status, answer.json()["code"]) == (501, "feature_disabled")
