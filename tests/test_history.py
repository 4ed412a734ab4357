"""The history of a room: at joining, by request and over HTTP, page by page, in both directions, after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import ON_BOTH_BACK_ENDS, Client, Daemon, SignedIn, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import Answer

pytestmark = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def fill(client: Client, room_id: str, count: int, content: str = "message {}") -> list[str]:
    """Send so many messages, one after the other, and return their ids."""
    requests = [{"type": "send_message", "roomId": room_id, "content": content.format(n + 1)} for n in range(count)]
    return [(await client.ask(**request))["messageId"] for request in requests]


def ids(messages: list[dict[str, Any]]) -> list[str]:
    return [message["id"] for message in messages]


async def page(daemon: Daemon, user: SignedIn, room_id: str, query: str = "") -> dict[str, Any]:
    answer = await get(daemon, user, room_id, query)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


async def get(daemon: Daemon, user: SignedIn, room_id: str, query: str) -> Answer:
    return await daemon.http("GET", f"/api/rooms/{room_id}/messages?{query}", token=user.token)


# At joining


async def test_join_shows_the_newest_fifty_and_says_that_there_are_more(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client, daemon.connect(bob) as reader:
        sent = await fill(client, room_id, 51)
        joined = await reader.ask(type="join_room", roomId=room_id)
        assert ids(joined["messages"]) == sent[1:]
        assert (joined["seq"], joined["hasMore"]) == (52, True)
        assert joined["typing"] == []
        # Whoever writes has read what was there before, which is noted behind the commit.
        assert {cursor["userId"] for cursor in joined["readCursors"]} <= {ada.id}
        assert not any(message["type"] == "new_message" for message in reader.inbox)


async def test_join_shows_as_many_as_asked_for(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        sent = await fill(client, room_id, 3)
        for limit, has_more in ((1, True), (2, True), (3, False), (4, False), (100, False)):
            joined = await client.ask(type="join_room", roomId=room_id, limit=limit)
            assert ids(joined["messages"]) == sent[-limit:]
            assert joined["hasMore"] is has_more
        for limit in (0, 101, -1):
            assert (await client.ask(type="join_room", roomId=room_id, limit=limit))["code"] == "bad_message"


async def test_history_is_as_long_as_configured_and_never_more_than_asked(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, MESSAGES_HISTORY="2") as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            sent = await fill(client, room_id, 4)
            for request in ("join_room", "get_history"):
                assert ids((await client.ask(type=request, roomId=room_id))["messages"]) == sent[-2:]
        assert ids((await page(daemon, ada, room_id))["messages"]) == sent[-2:]


async def test_message_is_told_alike_live_in_history_and_over_http(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        await fill(client, room_id, 1)
        ack = await client.ask(
            type="send_message", roomId=room_id, content="if x < y:\n\treturn", messageType="code",
            metadata={"language": "python", "lines": [1, 2]}, clientMessageId="c-1",
        )  # fmt: skip
        live = (await client.wait_for("new_message"))["message"]
        assert live == {
            "id": ack["messageId"], "roomId": room_id, "seq": 2, "senderId": ada.id, "senderName": "ada",
            "messageType": "code", "content": "if x < y:\n\treturn", "createdAt": ack["createdAt"],
            "clientMessageId": "c-1", "metadata": {"language": "python", "lines": [1, 2]},
        }  # fmt: skip
        from_tail = await client.ask(type="get_history", roomId=room_id, limit=1)
        from_store = await client.ask(type="get_history", roomId=room_id, afterSeq=1)
        over_http = await page(daemon, ada, room_id, "limit=1")
        assert from_tail["messages"] == from_store["messages"] == over_http["messages"] == [live]


@pytest.mark.parametrize("tail", ["0", "5", "100"])
async def test_history_is_the_same_from_memory_and_from_the_store(tmp_path: Path, tail: str) -> None:
    async with open_daemon(tmp_path, MESSAGES_TAIL=tail) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada)
        async with daemon.connect(ada) as client, daemon.connect(bob) as guest:
            sent = await fill(client, room_id, 3)
            await guest.ask(type="join_room", roomId=room_id)
            await guest.ask(type="leave_room", roomId=room_id)
            sent += await fill(client, room_id, 4)
            for limit in range(1, 9):
                newest = await client.ask(type="get_history", roomId=room_id, limit=limit)
                stored = await client.ask(type="get_history", roomId=room_id, limit=limit, beforeSeq=2**53)
                assert newest | {"id": ""} == stored | {"id": ""}
                assert ids(newest["messages"]) == sent[-limit:]
                assert newest["hasMore"] is (limit < 7)


# Page by page


async def test_walking_back_gives_each_message_once(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        sent = await fill(client, room_id, 7)
        walked: list[dict[str, Any]] = []
        found = await client.ask(type="get_history", roomId=room_id, limit=3)
        while True:
            walked = found["messages"] + walked
            if not found["hasMore"]:
                break
            found = await client.ask(type="get_history", roomId=room_id, limit=3, beforeSeq=walked[0]["seq"])
        assert ids(walked) == sent


async def test_walking_forward_gives_each_message_once(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        sent = await fill(client, room_id, 7)
        walked: list[dict[str, Any]] = []
        has_more = True
        while has_more:
            position = walked[-1]["seq"] if walked else 0
            found = await client.ask(type="get_history", roomId=room_id, limit=3, afterSeq=position)
            walked += found["messages"]
            has_more = found["hasMore"]
        assert ids(walked) == sent


@pytest.mark.parametrize("cursor", ["beforeSeq", "lastMessageId", "offset"])
async def test_walking_back_over_http_gives_each_message_once(daemon: Daemon, cursor: str) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        sent = await fill(client, room_id, 7)
    walked: list[dict[str, Any]] = []
    found = await page(daemon, ada, room_id, "limit=3")
    while True:
        walked = found["messages"] + walked
        if not found["hasMore"]:
            break
        positions = {"beforeSeq": found["beforeSeq"], "lastMessageId": walked[0]["id"], "offset": len(walked)}
        found = await page(daemon, ada, room_id, f"limit=3&{cursor}={positions[cursor]}")
    assert ids(walked) == sent


async def test_walking_forward_over_http_gives_each_message_once(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        sent = await fill(client, room_id, 7)
    walked: list[dict[str, Any]] = []
    position, has_more = 0, True
    while has_more:
        found = await page(daemon, ada, room_id, f"limit=3&afterSeq={position}")
        walked += found["messages"]
        position, has_more = found["afterSeq"], found["hasMore"]
    assert ids(walked) == sent
    assert await page(daemon, ada, room_id, f"afterSeq={position}") == {
        "roomId": room_id, "messages": [], "seq": 7, "hasMore": False,
    }  # fmt: skip


async def test_pages_pass_over_events_that_are_no_messages(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client, daemon.connect(bob) as guest:
        sent = await fill(client, room_id, 1)
        for _ in range(3):
            await guest.ask(type="join_room", roomId=room_id)
            await guest.ask(type="leave_room", roomId=room_id)
        sent += await fill(client, room_id, 1)
    found = await page(daemon, ada, room_id, "limit=2")
    assert ids(found["messages"]) == sent
    assert [message["seq"] for message in found["messages"]] == [1, 8]
    assert (found["seq"], found["hasMore"]) == (8, False)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=101", 422),
        ("beforeSeq=-1", 422),
        ("beforeSeq=1&afterSeq=1", 422),
        ("offset=x", 422),
        ("lastMessageId=unknown", 404),
        ("limit=1&limit=2", 400),
    ],
)
async def test_page_that_makes_no_sense_is_refused(daemon: Daemon, query: str, status: int) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    answer = await get(daemon, ada, room_id, query)
    assert (answer.status, "detail" in answer.json()) == (status, True)


async def test_message_of_another_room_is_no_cursor(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id, other_id = await daemon.create_room(ada), await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        [message_id] = await fill(client, other_id, 1)
    assert (await get(daemon, ada, room_id, f"lastMessageId={message_id}")).status == 404


async def test_history_has_one_cursor(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        refused = await client.ask(type="get_history", roomId=room_id, beforeSeq=3, afterSeq=1)
        assert refused["code"] == "bad_message"


# Large messages


async def test_page_of_large_messages_is_bounded_in_bytes_and_walking_still_gives_each_once(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, WEBSOCKET_OUTBOX_BYTES="65536") as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            sent = await fill(client, room_id, 9, "{}" + "x" * 9_990)
            for start in ({}, {"beforeSeq": 2**53}):
                newest = await client.ask(type="get_history", roomId=room_id, **start)
                assert newest["hasMore"]
                assert ids(newest["messages"]) == sent[-3:]
            walked: list[str] = []
            before = 2**53
            while before > 1:
                found = await page(daemon, ada, room_id, f"beforeSeq={before}")
                walked = ids(found["messages"]) + walked
                before = found["beforeSeq"]
            assert walked == sent
            walked, after, has_more = [], 0, True
            while has_more:
                found = await client.ask(type="get_history", roomId=room_id, afterSeq=after)
                walked += ids(found["messages"])
                after, has_more = found["messages"][-1]["seq"], found["hasMore"]
            assert walked == sent


# Over HTTP


async def test_message_sent_over_http_is_heard_and_kept_like_any_other(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    path = f"/api/rooms/{room_id}/messages"
    async with daemon.connect(bob) as client:
        body = {"content": "hello", "clientMessageId": "c-1", "metadata": {"a": 1}}
        answer = await daemon.http("POST", path, body, token=ada.token)
        assert answer.status == 201
        assert (await client.wait_for("new_message"))["message"] == answer.json()
        again = await daemon.http("POST", path, body, token=ada.token)
        assert (again.status, again.json()) == (200, answer.json())
        other = await daemon.http("POST", path, body | {"content": "other"}, token=ada.token)
        assert (other.status, other.json()["code"]) == (409, "idempotency_mismatch")
        assert (await page(daemon, bob, room_id))["messages"] == [answer.json()]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "bad_message"),
        ({"content": " "}, "bad_message"),
        ({"content": "x" * 10_001}, "content_too_long"),
        ({"content": "x", "metadata": {"x": "y" * 5000}}, "bad_message"),
        ({"content": "x", "messageType": "poem"}, "bad_message"),
        ({"content": "x", "senderId": "somebody else"}, "bad_message"),
    ],
    ids=["nothing", "blank", "long", "metadata", "type", "sender"],
)
async def test_message_that_may_not_be_is_refused_over_http(daemon: Daemon, body: dict[str, Any], code: str) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    answer = await daemon.http("POST", f"/api/rooms/{room_id}/messages", body, token=ada.token)
    assert (answer.status, answer.json()["code"]) == (422, code)
    assert (await page(daemon, ada, room_id))["messages"] == []


# After a restart


async def test_history_is_still_there_after_a_restart(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            await fill(client, room_id, 3)
            before = await client.ask(type="get_history", id="x", roomId=room_id)
    async with open_daemon(tmp_path) as daemon, daemon.connect(ada) as client:
        after = await client.ask(type="get_history", id="x", roomId=room_id)
        # That who writes has read is stored behind the commits.
        assert after | {"readCursors": []} == before | {"readCursors": []}
        assert (await client.ask(type="join_room", roomId=room_id))["messages"] == before["messages"]
        assert (await page(daemon, ada, room_id))["messages"] == before["messages"]
        assert (await client.ask(type="send_message", roomId=room_id, content="on"))["seq"] == 4
