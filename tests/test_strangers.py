"""Whatever a stranger sends, it is answered or the stranger is closed: never a defect, nothing in the error log."""

from __future__ import annotations

import io
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd import telemetry
from chatd.protocol import CLIENT_TYPES
from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, open_daemon
from tests.logs import own_logging
from tests.rawclient import CLOSE, TEXT, RawClient, frame, open_raw, upgrade_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS

FIELDS = (
    "roomId", "content", "token", "resume", "afterSeq", "beforeSeq", "limit", "messageType", "fileId", "replyTo",
    "metadata", "clientMessageId", "messageId", "emoji", "recipientId", "status", "statusMessage", "seq", "id",
)  # fmt: skip
TEXTS = (
    "",
    "x",
    "\x00",
    "\ud7ff",
    "é" * 64,
    "🫖",
    "a" * 65,
    "\\",
    '"',
    "'; DROP TABLE users;--",
    "text",
    "code",
    "image",
)
NUMBERS = (0, 1, -1, 50, 100, 101, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 1.5, 1e308)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    log = io.StringIO()
    with own_logging():
        telemetry.configure_logging("warning", "json", log)
        yield log


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    # A machine with other work is slow, which is logged and nobody's fault here.
    async with open_daemon(tmp_path, TELEMETRY_SLOW_MS="0") as daemon:
        yield daemon


def made_up_value(chance: random.Random, rooms: list[str]) -> Any:
    kind = chance.randrange(8)
    if kind < 3:
        return chance.choice(rooms)
    if kind < 5:
        return chance.choice(TEXTS)
    if kind == 5:
        return chance.choice(NUMBERS)
    if kind == 6:
        return chance.choice((None, True, [], {}, [[]], {"": None}))
    return {"epoch": chance.choice(TEXTS), "rooms": {chance.choice(rooms): chance.choice(NUMBERS)}}


def made_up_message(chance: random.Random, rooms: list[str]) -> bytes:
    """A message of some type with some of the fields that there are, most often sensible ones."""
    kind = chance.choice([*CLIENT_TYPES, "join_room", "leave_room", "send_message", "get_history"])
    fields: dict[str, Any] = {"type": kind, "roomId": chance.choice(rooms), "content": chance.choice(TEXTS)}
    if kind != "send_message":
        del fields["content"]
    if kind == "join_room" and chance.random() < 0.3:
        fields["afterSeq"] = chance.randrange(10)
    for name in chance.sample(FIELDS, chance.choice((0, 0, 1, 1, 2, 4))):
        fields[name] = made_up_value(chance, rooms)
    if kind == "authenticate":
        fields["token"] = ""
    return json.dumps(fields).encode()


@pytest.mark.parametrize("seed", range(4))
async def test_made_up_messages_are_answered(daemon: Daemon, log: io.StringIO, seed: int) -> None:
    chance = random.Random(seed)
    ada = await daemon.register("ada")
    rooms = [await daemon.lobby(ada), await daemon.create_room(ada), "nowhere"]
    types: set[str] = set()
    for _ in range(5):
        async with open_raw(daemon.websocket_port, {"Authorization": f"Bearer {ada.token}"}) as client:
            assert (await client.receive_json())["type"] == "authenticated"
            for _ in range(200):
                sent = made_up_message(chance, rooms)
                if b'"authenticate"' not in sent:
                    await client.send(frame(TEXT, sent))
            types |= await told_until_pong(client)
    assert {"error", "message_ack", "new_message", "room_history", "caught_up", "user_joined", "user_left"} <= types
    assert log.getvalue() == ""


async def told_until_pong(client: RawClient) -> set[str]:
    """The types of all that comes until this last question is answered."""
    await client.send(frame(TEXT, b'{"type":"ping","id":"are you there?"}'))
    types = set[str]()
    while (told := await client.receive_json()).get("id") != "are you there?":
        types.add(told["type"])
    return types


@pytest.mark.parametrize("seed", range(4))
async def test_changed_bytes_end_a_connection_with_a_close_code_or_change_nothing(
    daemon: Daemon, log: io.StringIO, seed: int
) -> None:
    chance = random.Random(seed)
    ada = await daemon.register("ada")
    rooms = [await daemon.lobby(ada), "nowhere"]
    for _ in range(50):
        async with open_raw(daemon.websocket_port, {"Authorization": f"Bearer {ada.token}"}) as client:
            data = bytearray(b"".join(frame(TEXT, made_up_message(chance, rooms)) for _ in range(5)))
            for _ in range(chance.randrange(1, 4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            await client.send(bytes(data))
            await client.stream.send_eof()
            while (found := await client.receive()) is not None:
                if found.opcode == CLOSE:
                    assert found.close_code in {1000, 1002, 1003, 1007, 1009, 4501}
    assert log.getvalue() == ""


async def test_changed_requests_are_answered_with_a_status(daemon: Daemon, log: io.StringIO) -> None:
    chance = random.Random(0)
    request = upgrade_request("127.0.0.1", {"Origin": "http://127.0.0.1", "Authorization": "Bearer x"})
    for _ in range(200):
        data = bytearray(request)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data) - 4)] = chance.randrange(256)
        async with await trio.open_tcp_stream("127.0.0.1", daemon.websocket_port) as stream:
            await stream.send_all(data)
            with trio.fail_after(30):
                answer = bytes(await stream.receive_some())
            assert answer[:12] in {b"HTTP/1.1 101", b"HTTP/1.1 400", b"HTTP/1.1 403", b"HTTP/1.1 426"}
    assert log.getvalue() == ""
