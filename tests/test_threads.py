"""Threads: a message's replies, page by page, in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon import ON_BOTH_BACK_ENDS
from tests.test_changes import daemon as daemon
from tests.test_changes import is_ok, open_room, say, shown

if TYPE_CHECKING:
    from tests.daemon import Daemon, SignedIn

pytestmark = ON_BOTH_BACK_ENDS


async def thread(daemon: Daemon, user: SignedIn, message_id: str, query: str = "") -> dict[str, Any]:
    answer = await daemon.http("GET", f"/api/messages/{message_id}/thread?{query}", token=user.token)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


async def open_thread(daemon: Daemon, replies: int) -> tuple[str, SignedIn, str, list[str]]:
    """A message with so many replies, other messages between them, and replies to one of those."""
    room_id, ada, _ = await open_room(daemon)
    sent = []
    async with daemon.connect(ada) as client:
        root = await say(client, room_id, "root")
        for number in range(replies):
            sent.append(await say(client, room_id, f"reply {number}", replyTo=root))
            other = await say(client, room_id, "something else")
            await say(client, room_id, "a reply to a reply", replyTo=sent[-1])
            await say(client, room_id, "a reply to something else", replyTo=other)
    return room_id, ada, root, sent


async def test_a_thread_has_the_replies_in_order_as_they_are_now(daemon: Daemon) -> None:
    room_id, ada, root, sent = await open_thread(daemon, 3)
    async with daemon.connect(ada) as client:
        await is_ok(client, type="edit_message", messageId=sent[0], content="edited")
        await is_ok(client, type="add_reaction", messageId=sent[1], emoji="👍")
        await is_ok(client, type="delete_message", messageId=sent[2])
        await is_ok(client, type="delete_message", messageId=root)
    found = await thread(daemon, ada, root)
    page = await shown(daemon, ada, room_id)
    expected = [message for message in page if message["id"] in sent]
    assert found == {
        "roomId": room_id, "messageId": root, "messages": expected, "hasMore": False,
        "beforeSeq": expected[0]["seq"], "afterSeq": expected[-1]["seq"],
    }  # fmt: skip
    assert [message["content"] for message in expected] == ["edited", "reply 1", ""]
    assert all(message["replyTo"] == root for message in expected)
    assert (await thread(daemon, ada, page[2]["id"]))["messages"] == [page[4]]
    assert await thread(daemon, ada, page[-1]["id"]) == {
        "roomId": room_id, "messageId": page[-1]["id"], "messages": [], "hasMore": False,
    }  # fmt: skip


async def test_walking_through_a_thread_gives_each_reply_once(daemon: Daemon) -> None:
    _, ada, root, sent = await open_thread(daemon, 5)
    for cursor in ("afterSeq", "offset"):
        walked: list[str] = []
        found = await thread(daemon, ada, root, "limit=2")
        while True:
            walked += [message["id"] for message in found["messages"]]
            if not found["hasMore"]:
                break
            place = {"afterSeq": found["afterSeq"], "offset": len(walked)}[cursor]
            found = await thread(daemon, ada, root, f"limit=2&{cursor}={place}")
        assert walked == sent
    for cursor in ("beforeSeq", "lastMessageId"):
        walked = []
        found = await thread(daemon, ada, root, f"limit=2&beforeSeq={2**53}")
        while True:
            walked = [message["id"] for message in found["messages"]] + walked
            if not found["hasMore"]:
                break
            back = {"beforeSeq": found["beforeSeq"], "lastMessageId": walked[0]}[cursor]
            found = await thread(daemon, ada, root, f"limit=2&{cursor}={back}")
        assert walked == sent


async def test_strangers_see_no_thread(daemon: Daemon) -> None:
    _, ada, root, _ = await open_thread(daemon, 1)
    eve = await daemon.register("eve")
    answers = [await daemon.http("GET", f"/api/messages/{named}/thread", token=eve.token) for named in (root, "none")]
    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].body == answers[1].body
    public = await daemon.create_room(ada, kind="public")
    async with daemon.connect(ada) as client:
        message_id = await say(client, public)
    answer = await daemon.http("GET", f"/api/messages/{message_id}/thread", token=eve.token)
    assert (answer.status, answer.json()["code"]) == (403, "not_a_member")
    assert (await daemon.http("GET", f"/api/messages/{message_id}/thread")).status == 401


@pytest.mark.parametrize(
    ("query", "status"), [("limit=0", 422), ("afterSeq=1&beforeSeq=2", 422), ("lastMessageId=unknown", 404)]
)
async def test_page_that_makes_no_sense_is_refused(daemon: Daemon, query: str, status: int) -> None:
    _, ada, root, _ = await open_thread(daemon, 1)
    assert (await daemon.http("GET", f"/api/messages/{root}/thread?{query}", token=ada.token)).status == status
