"""What a message may be, through both doors: whose it is, what it replies to, what it carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def test_the_sender_is_the_tokens_user_and_cannot_be_named(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada) as client:
        refused = await client.ask(type="send_message", roomId=room, content="x", senderId=bob.id)
        assert (refused["code"], "senderId" in refused["message"]) == ("bad_message", True)
        await client.ask(type="send_message", roomId=room, content="x")
        assert (await client.heard("new_message"))["message"]["senderId"] == ada.id


async def test_a_reply_names_a_message_of_the_same_room(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room, other = await daemon.create_room(ada), await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        first = await client.ask(type="send_message", roomId=room, content="first")
        reply = await client.ask(type="send_message", roomId=room, content="reply", replyTo=first["messageId"])
        assert reply["type"] == "message_ack"
        for nowhere in (first["messageId"] + "\x00", "nothing"):
            refused = await client.ask(type="send_message", roomId=room, content="reply", replyTo=nowhere)
            assert refused["code"] == ("bad_message" if "\x00" in nowhere else "not_found")
        elsewhere = await client.ask(type="send_message", roomId=other, content="x", replyTo=first["messageId"])
        assert elsewhere["code"] == "not_found"
    answer = await daemon.http("GET", f"/api/rooms/{room}/messages", token=ada.token)
    assert [message.get("replyTo") for message in answer.json()["messages"]] == [None, first["messageId"]]


@pytest.mark.parametrize("door", ["send_message", "send_dm"])
async def test_a_reply_sent_again_gets_its_first_ack_also_when_what_it_replies_to_is_gone(
    daemon: Daemon, door: str
) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    where = {"roomId": await daemon.create_room(ada)} if door == "send_message" else {"recipientId": bob.id}
    async with daemon.connect(ada) as client:
        first = await client.ask(type=door, content="first", **where)
        reply = {**where, "content": "reply", "replyTo": first["messageId"], "clientMessageId": "key"}
        ack = await client.ask(type=door, **reply)
        assert (await client.ask(type="delete_message", messageId=first["messageId"]))["type"] == "ok"
        again = await client.ask(type=door, **reply)
        assert (again["messageId"], again["duplicate"]) == (ack["messageId"], True)
        refused = await client.ask(type=door, **{**reply, "clientMessageId": "another"})
        assert refused["code"] == "not_found"


async def test_under_an_old_key_nobody_finds_out_what_is_in_a_room_of_others(daemon: Daemon) -> None:
    ada, eve = await daemon.register("ada"), await daemon.register("eve")
    private, own = await daemon.create_room(ada, kind="private"), await daemon.create_room(eve)
    async with daemon.connect(ada) as client, daemon.connect(eve) as stranger:
        said = await client.ask(type="send_message", roomId=private, content="secret")
        await stranger.ask(type="send_message", roomId=own, content="x", clientMessageId="key")
        for message_id in (said["messageId"], "unknown"):
            probe = {"roomId": private, "content": "x", "clientMessageId": "key", "replyTo": message_id}
            assert (await stranger.ask(type="send_message", **probe))["code"] == "idempotency_mismatch"


async def test_metadata_travels_with_the_message_and_has_a_bound(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        metadata = {"language": "python", "lines": [1, 2, {"deep": None}], "ß": "ü"}
        ack = await client.ask(
            type="send_message", roomId=room, content="x", messageType="code", metadata=metadata, clientMessageId="k"
        )
        heard = (await client.heard("new_message"))["message"]
        assert (heard["metadata"], heard["messageType"]) == (metadata, "code")
        again = await client.ask(
            type="send_message", roomId=room, content="x", messageType="code", metadata=metadata, clientMessageId="k"
        )
        assert (again["messageId"], again["duplicate"]) == (ack["messageId"], True)
        other = await client.ask(type="send_message", roomId=room, content="x", metadata={"n": 1}, clientMessageId="k")
        assert other["code"] == "idempotency_mismatch"
        large = await client.ask(type="send_message", roomId=room, content="x", metadata={"n": "x" * 4096})
        assert (large["code"], "4096" in large["message"]) == ("bad_message", True)
    stored = (await daemon.http("GET", f"/api/rooms/{room}/messages", token=ada.token)).json()["messages"]
    assert stored == [heard]


async def test_a_message_over_http_is_heard_live_and_repeats_are_answered_with_the_first(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        form = {"content": "over HTTP", "clientMessageId": "one"}
        first = await daemon.http("POST", f"/api/rooms/{room}/messages", form, token=ada.token)
        assert first.status == 201
        assert (await client.wait_for("new_message"))["message"] == first.json()
        again = await daemon.http("POST", f"/api/rooms/{room}/messages", form, token=ada.token)
        assert (again.status, again.json()) == (200, first.json())
        ack = await client.ask(type="send_message", roomId=room, content="over HTTP", clientMessageId="one")
        assert (ack["messageId"], ack["duplicate"]) == (first.json()["id"], True)


@pytest.mark.parametrize("fields", [{"messageType": "image"}, {"messageType": "file"}, {"fileId": "f"}])
async def test_a_message_of_a_file_names_the_file_and_no_other_does(daemon: Daemon, fields: dict[str, str]) -> None:
    ada = await daemon.register("ada")
    room = await daemon.create_room(ada)
    async with daemon.connect(ada) as client:
        refused = await client.ask(type="send_message", roomId=room, content="x", **fields)
        assert refused["code"] == "bad_message"
