"""Frames on real sockets, byte by byte where need be: what RFC 6455 forbids, and what it allows and few clients do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from trio.testing import wait_all_tasks_blocked

from tests.daemon import Daemon, SignedIn, open_daemon
from tests.faults import FAULTS
from tests.rawclient import (
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    RawClient,
    close,
    frame,
    message,
    open_raw,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

MESSAGE_BYTES = 65_536


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


def signed_in(daemon: Daemon, user: SignedIn) -> AbstractAsyncContextManager[RawClient]:
    return open_raw(daemon.websocket_port, {"Authorization": f"Bearer {user.token}"})


async def test_every_fault_is_answered_with_its_close_code(daemon: Daemon) -> None:
    answers = {}
    for name, (data, _) in FAULTS.items():
        async with open_raw(daemon.websocket_port) as client:
            await client.send(data)
            answers[name] = await client.wait_closed()
    assert answers == {name: (code, []) for name, (_, code) in FAULTS.items()}


@pytest.mark.parametrize(
    "name", ["5.1 unmasked", "5.4 continuation without a start", "8.1 cut within a character", "binary"]
)
async def test_fault_that_comes_byte_by_byte_is_the_same_fault(daemon: Daemon, name: str) -> None:
    data, code = FAULTS[name]
    async with open_raw(daemon.websocket_port) as client:
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            await wait_all_tasks_blocked()
        assert await client.wait_closed() == (code, [])


async def test_fault_behind_good_messages_leaves_their_answers(daemon: Daemon) -> None:
    async with open_raw(daemon.websocket_port) as client:
        await client.send(message(type="ping") * 3 + frame(TEXT, b"hello", mask=None) + message(type="ping"))
        code, before = await client.wait_closed()
        assert code == 1002
        assert [found.json()["type"] for found in before] == ["pong"] * 3


async def test_message_above_the_bound_is_too_big_however_it_comes(daemon: Daemon) -> None:
    large = b" " * MESSAGE_BYTES
    cases = {
        "one frame": frame(TEXT, large + b" "),
        "fragments": frame(TEXT, large, fin=False) + frame(CONTINUATION, b" "),
        "a frame that claims a terabyte": frame(TEXT, large + b" ", claimed=2**40),
    }
    for name, data in cases.items():
        async with open_raw(daemon.websocket_port) as client:
            await client.send(data)
            assert (name, await client.wait_closed()) == (name, (1009, []))


async def test_message_of_exactly_the_bound_is_read(daemon: Daemon) -> None:
    async with open_raw(daemon.websocket_port) as client:
        await client.send(frame(TEXT, json.dumps({"type": "ping"}).encode().ljust(MESSAGE_BYTES)))
        assert (await client.receive_json())["type"] == "pong"


async def test_fragmented_message_is_one_message(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    lobby = await daemon.lobby(ada)
    text = json.dumps({"type": "send_message", "roomId": lobby, "content": "grüße 🫖"}, ensure_ascii=False).encode()
    async with signed_in(daemon, ada) as client:
        await client.receive_json()
        await client.ask(type="join_room", roomId=lobby)
        parts = [text[at : at + 1] for at in range(len(text))]
        frames = [frame(CONTINUATION, part, fin=False) for part in parts[1:]]
        await client.send(frame(TEXT, parts[0], fin=False) + b"".join(frames) + frame(CONTINUATION, b""))
        told = [await client.receive_json(), await client.receive_json()]
        assert [each["type"] for each in told] == ["message_ack", "new_message"]
        assert told[1]["message"]["content"] == "grüße 🫖"


async def test_ping_between_fragments_is_answered_at_once_and_the_message_is_still_whole(daemon: Daemon) -> None:
    async with open_raw(daemon.websocket_port) as client:
        await client.send(frame(TEXT, b'{"type":', fin=False) + frame(PING, b"are you there?"))
        assert await client.receive() == Frame(PONG, b"are you there?")
        await client.send(frame(PING) + frame(CONTINUATION, b'"ping"}'))
        assert await client.receive() == Frame(PONG, b"")
        assert (await client.receive_json())["type"] == "pong"


async def test_frames_behind_the_upgrade_request_are_not_lost(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    early = message(type="ping", id="1") + message(type="ping", id="2")
    headers = {"Authorization": f"Bearer {ada.token}"}
    async with open_raw(daemon.websocket_port, headers, early=early) as client:
        told = [await client.receive_json() for _ in range(3)]
        assert [(each["type"], each.get("id")) for each in told] == [
            ("authenticated", None), ("pong", "1"), ("pong", "2"),
        ]  # fmt: skip


async def test_unasked_pongs_are_taken_and_not_answered(daemon: Daemon) -> None:
    async with open_raw(daemon.websocket_port) as client:
        await client.send(frame(PONG, b"unasked") * 3)
        assert (await client.ask(type="ping"))["type"] == "pong"


async def test_close_of_the_client_is_answered_and_nothing_behind_it(daemon: Daemon) -> None:
    async with open_raw(daemon.websocket_port) as client:
        await client.send(message(type="ping") + close(1001, b"bye") + message(type="ping"))
        assert (await client.receive_json())["type"] == "pong"
        assert await client.receive() == Frame(CLOSE, b"\x03\xe9")
        assert await client.receive() is None


async def test_client_that_ends_its_stream_without_a_word_is_gone(daemon: Daemon) -> None:
    async with open_raw(daemon.websocket_port) as client:
        await client.stream.send_eof()
        assert await client.receive() is None
