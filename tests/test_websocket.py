"""What a WebSocket client is answered, over real sockets: tokens, faulty messages, defects."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, get_args

import jwt
import pytest
import trio

from chatd import protocol, telemetry
from chatd.chat.dispatch import RULES, Rule
from chatd.clock import wall_clock_ms
from chatd.config import Secret
from chatd.identity.tokens import MAX_TOKEN_CHARACTERS, Tokens
from chatd.protocol import ClientMessage, GetHistory
from tests.daemon import ON_BOTH_BACK_ENDS, ON_EMBEDDED, Daemon, open_daemon
from tests.logs import own_logging
from tests.rawclient import TEXT, frame, message, open_raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from chatd.chat.context import Chat
    from chatd.chat.session import Session

pytestmark = ON_BOTH_BACK_ENDS

SECRET, OTHER_SECRET = "s" * 64, "o" * 64


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path, AUTH_SECRET=SECRET) as daemon:
        yield daemon


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    log = io.StringIO()
    with own_logging():
        telemetry.configure_logging("info", "json", log)
        yield log


# Authentication


async def test_connection_that_does_not_authenticate_is_told_and_closed(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, WEBSOCKET_AUTH_TIMEOUT_S="0.2") as daemon, daemon.connect() as client:
        told = await client.receive()
        assert (told["type"], told["code"]) == ("auth_error", "unauthenticated")
        assert (await client.wait_closed())[0] == 4502


def token_of(now_ms: int, secret: str = SECRET, **claims: object) -> str:
    return Tokens(Secret(secret), Secret(), access_s=60).issue("somebody", "some-session", now_ms)


def crafted(algorithm: str = "HS256", **changes: object) -> str:
    """A token whose claims are well-formed but for the changes; None leaves one out."""
    now_s = wall_clock_ms() // 1000
    claims = {"sub": "somebody", "sid": "some-session", "iat": now_s, "exp": now_s + 60, **changes}
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, "" if algorithm == "none" else SECRET, algorithm=algorithm)


async def test_token_that_is_not_good_ends_the_connection(daemon: Daemon) -> None:
    now_ms = wall_clock_ms()
    tokens = {
        "nothing": ("", "unauthenticated"),
        "words": ("let me in", "unauthenticated"),
        "three parts": ("a.b.c", "unauthenticated"),
        "very long": ("x" * (MAX_TOKEN_CHARACTERS + 1), "unauthenticated"),
        "not ASCII": ("ü.ü.ü", "unauthenticated"),
        "expired": (token_of(now_ms - 61_000), "token_expired"),
        "foreign": (token_of(now_ms, OTHER_SECRET), "unauthenticated"),
        "unsigned": (crafted("none"), "unauthenticated"),
        "another algorithm": (crafted("HS512"), "unauthenticated"),
        "without a user": (crafted(sub=None), "unauthenticated"),
        "without a session": (crafted(sid=None), "unauthenticated"),
        "without an end": (crafted(exp=None), "unauthenticated"),
        "of a session that is a number": (crafted(sid=7), "unauthenticated"),
        "of no session that exists": (crafted(), "unauthenticated"),
    }
    for name, (token, code) in tokens.items():
        async with daemon.connect() as client:
            told = await client.ask(type="authenticate", token=token)
            assert (name, told["type"], told["code"]) == (name, "auth_error", code)
            assert (await client.wait_closed())[0] == 4501


async def test_authorization_header_authenticates_without_a_message(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    async with daemon.connect(headers={"Authorization": f"Bearer {ada.token}"}) as client:
        told = await client.receive()
        assert (told["type"], told["userId"], "id" in told) == ("authenticated", ada.id, False)
        assert (await client.ask(type="join_room", roomId=await daemon.lobby(ada)))["type"] == "room_history"
    async with daemon.connect(headers={"Authorization": "Bearer nonsense"}) as client:
        assert (await client.receive())["type"] == "auth_error"
        assert (await client.wait_closed())[0] == 4501
    async with daemon.connect(headers={"Authorization": "Basic YTpi"}) as client:
        assert (await client.ask(type="authenticate", token=ada.token))["type"] == "authenticated"


async def test_authenticated_tells_a_client_all_that_it_needs(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room = await daemon.create_room(ada, "tea")
    async with daemon.connect() as client:
        told = await client.ask(type="authenticate", token=ada.token, id="1")
        assert (told["id"], told["userId"], told["username"]) == ("1", ada.id, "ada")
        assert told["heartbeatSeconds"] == 20
        assert told["limits"]["messageBytes"] == 65_536
        assert told["expiresAt"].endswith("Z")
        assert [(entry["roomId"], entry["name"], entry["kind"]) for entry in told["rooms"]] == [(room, "tea", "public")]
        assert {"lastSeq", "lastReadSeq", "unread"} <= told["rooms"][0].keys()


async def test_nothing_but_ping_is_answered_before_authentication(daemon: Daemon) -> None:
    async with daemon.connect() as client:
        assert (await client.ask(type="ping"))["type"] == "pong"
        for request in (
            {"type": "join_room", "roomId": "r"},
            {"type": "send_message", "roomId": "r", "content": "x"},
            {"type": "get_history", "roomId": "r"},
            {"type": "leave_room", "roomId": "r"},
        ):
            told = await client.ask(**request)
            assert (told["type"], told["code"]) == ("error", "unauthenticated")


@ON_EMBEDDED
async def test_nothing_else_is_answered_while_it_is_not_known_whether_the_session_stands(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    lobby = await daemon.lobby(ada)
    await daemon.http("POST", "/api/auth/logout", token=ada.token)
    database = sqlite3.connect(daemon.data_dir / "chatd.db", isolation_level=None)
    with closing(database):
        database.execute("ALTER TABLE user_sessions RENAME TO out_of_reach")
        async with daemon.connect() as client:
            told = await client.ask(type="authenticate", token=ada.token)
            assert (told["type"], told["code"], told["temporary"]) == ("error", "unavailable", True)
            database.execute("ALTER TABLE out_of_reach RENAME TO user_sessions")
            assert (await client.ask(type="join_room", roomId=lobby)).get("code") == "unauthenticated"
            assert (await client.ask(type="authenticate", token=ada.token))["type"] == "auth_error"


# Replies and refusals


async def test_reply_carries_the_id_of_its_request_and_no_bare_ok_comes_without_one(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    lobby = await daemon.lobby(ada)
    async with daemon.connect(ada) as client:
        await client.send(type="join_room", roomId=lobby)
        assert "id" not in await client.wait_for("room_history")
        await client.send(type="leave_room", roomId=lobby)
        assert (await client.wait_for("user_left"))["userId"] == ada.id
        assert (await client.ask(type="ping", id="p"))["type"] == "pong"
        assert all(told["type"] != "ok" for told in client.inbox)
        await client.ask(type="join_room", roomId=lobby)
        assert await client.ask(type="leave_room", roomId=lobby, id="l") == {"type": "ok", "id": "l"}


async def test_faulty_messages_are_answered_and_the_connection_stays(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    lobby = await daemon.lobby(ada)
    sent = {"type": "send_message", "roomId": lobby, "content": "x"}
    deep: Any = []
    for _ in range(14):
        deep = [deep]
    too_deep = [[deep]]
    faults: dict[str, tuple[object, str]] = {
        '{"type":': ("not JSON", "bad_message"),
        '["ping"]': ("one JSON object", "bad_message"),
        '{"type":"shout"}': ("`shout`", "bad_message"),
        '{"type":"ping","colour":1}': ("`colour`", "bad_message"),
        '{"type":"join_room"}': ("`roomId`", "bad_message"),
        json.dumps(dict.fromkeys("abcde", "\ud83d") | {"id": "\ud83d"}): ("surrogate pair", "bad_message"),
        json.dumps(sent | {"content": "x" * 10_001}): ("10001", "content_too_long"),
        json.dumps(sent | {"content": " \n"}): ("`content`", "bad_message"),
        json.dumps(sent | {"content": "\x00"}): ("`content`", "bad_message"),
        json.dumps(sent | {"metadata": {"a": "x" * 4090}}): ("`metadata`", "bad_message"),
        json.dumps(sent | {"metadata": {"a": too_deep}}): ("16 levels", "bad_message"),
        json.dumps(sent | {"metadata": {}}).replace("{}", '{"a":' * 990 + "1" + "}" * 990): ("nested", "bad_message"),
        json.dumps(sent | {"clientMessageId": "é" * 40}): ("`clientMessageId`", "bad_message"),
        json.dumps(sent | {"roomId": "nowhere"}): ("room", "not_a_member"),
        json.dumps({"type": "join_room", "roomId": "nowhere"}): ("no such room", "not_found"),
    }
    async with daemon.connect(ada) as client:
        await client.ask(type="join_room", roomId=lobby)
        for text, (named, code) in faults.items():
            await client.send_text(text)
            told = await client.wait_for("error")
            assert (told["code"], told["temporary"]) == (code, False), text
            assert str(named) in told["message"]
        whole = await client.ask(**sent | {"content": "é" * 10_000, "metadata": {"deep": deep}})
        assert whole["type"] == "message_ack"


def test_every_message_has_a_rule() -> None:
    assert RULES.keys() == set(get_args(ClientMessage))


# A defect


async def broken(chat: Chat, session: Session, message: GetHistory) -> None:
    raise RuntimeError("a deliberate defect")


async def test_defect_closes_one_connection_is_logged_once_and_nobody_else_notices(
    daemon: Daemon, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(bob) as other, daemon.connect(ada) as unlucky:
        monkeypatch.setitem(RULES, protocol.GetHistory, Rule(broken))
        await unlucky.send(type="get_history", roomId=room)
        assert (await unlucky.wait_closed())[0] == 1011
        assert (await other.ask(type="send_message", roomId=room, content="still here"))["type"] == "message_ack"
        assert other.connection.closed is None
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (logged,) = [line for line in lines if line["level"] == "error"]
    assert logged["event"] == "connection_failed"
    assert "RuntimeError: a deliberate defect" in logged["exc_info" if "exc_info" in logged else "exception"]
    assert {line["connection"] for line in lines if line["event"] == "disconnected" and line["code"] == 1011} == {
        logged["connection"]
    }


async def test_close_frame_of_a_defect_arrives_although_more_was_sent(
    daemon: Daemon, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await daemon.register("ada")
    monkeypatch.setitem(RULES, protocol.GetHistory, Rule(broken))
    async with open_raw(daemon.websocket_port, {"Authorization": f"Bearer {ada.token}"}) as client:
        assert (await client.receive_json())["type"] == "authenticated"
        await client.send(message(type="get_history", roomId="r") + frame(TEXT, b" " * 60_000) * 4)
        with trio.fail_after(30):
            assert await client.wait_closed() == (1011, [])


async def test_connections_in_the_log_have_their_id_and_nothing_secret(daemon: Daemon, log: io.StringIO) -> None:
    ada = await daemon.register("ada")
    lobby = await daemon.lobby(ada)
    async with daemon.connect(ada) as client:
        connection = client.inbox[0]["connectionId"]
        await client.ask(type="join_room", roomId=lobby)
        await client.ask(type="send_message", roomId=lobby, content="a dear secret")
    await wait_until_logged(log, "disconnected")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["event"] for line in lines if line.get("connection") == connection] == [
        "authenticated",
        "disconnected",
    ]
    for secret in (ada.token, ada.refresh_token, "a dear secret", "correct horse"):
        assert secret not in log.getvalue()


async def wait_until_logged(log: io.StringIO, event: str) -> None:
    with trio.fail_after(30):
        while f'"{event}"' not in log.getvalue():
            await trio.lowlevel.checkpoint()
