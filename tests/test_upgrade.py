"""Who is let in by the WebSocket port, and what the others are told: over real sockets."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import trio

from tests.daemon import Daemon, open_daemon
from tests.rawclient import HttpAnswer, close, message, open_raw, read_head, try_upgrade, upgrade_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path, WEBSOCKET_ORIGINS="https://chat.example.org,http://10.0.0.1:8080") as daemon:
        yield daemon


async def ask(daemon: Daemon, data: bytes) -> tuple[HttpAnswer, str]:
    """The answer to these bytes, and its body, which ends with the connection."""
    async with await trio.open_tcp_stream("127.0.0.1", daemon.websocket_port) as stream:
        await stream.send_all(data)
        answer = await read_head(stream)
        with trio.fail_after(30):
            body = answer.rest + b"".join([bytes(part) async for part in stream])
        assert int(answer.headers["content-length"]) == len(body)
        return answer, body.decode()


async def refused_upgrades(daemon: Daemon, reason: str) -> int:
    """How many upgrades the daemon says it refused for a reason."""
    text = (await daemon.http("GET", "/metrics")).body.decode()
    (line,) = [
        line for line in text.splitlines() if line.startswith(f'chatd_refused_upgrades_total{{reason="{reason}"}}')
    ]
    return int(float(line.split(" ")[1]))


# Origins


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("chat.example.net", None),
        ("chat.example.net", "http://chat.example.net"),
        ("chat.example.net", "https://CHAT.example.net"),
        ("chat.example.net:443", "https://chat.example.net"),
        ("chat.example.net", "http://chat.example.net:80"),
        ("chat.example.net:8443", "https://chat.example.net:8443"),
        ("127.0.0.1:3001", "https://chat.example.org"),
        ("127.0.0.1:3001", "http://10.0.0.1:8080"),
    ],
)
async def test_page_of_the_own_host_or_of_a_listed_origin_may_connect(
    daemon: Daemon, host: str, origin: str | None
) -> None:
    assert (await try_upgrade(daemon.websocket_port, {"Origin": origin}, host=host)).status == 101


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("chat.example.net", "https://evil.example"),
        ("chat.example.net", "https://chat.example.net.evil.example"),
        ("chat.example.net", "https://chat.example.net:8443"),
        ("chat.example.net:8443", "https://chat.example.net"),
        ("chat.example.net", "null"),
        ("chat.example.net", ""),
        ("127.0.0.1:3001", "http://chat.example.org"),
        ("127.0.0.1:3001", "http://10.0.0.1"),
    ],
)
async def test_page_of_another_origin_may_not(daemon: Daemon, host: str, origin: str) -> None:
    answer, body = await ask(daemon, upgrade_request(host, {"Origin": origin}))
    assert (answer.status, answer.headers["connection"]) == (403, "close")
    assert "websocket.origins" in body
    assert await refused_upgrades(daemon, "origin") == 1


# Requests that are no upgrade


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (upgrade_request("x", {"Sec-WebSocket-Version": "8"}), 426),
        (upgrade_request("x", {"X-Large": "x" * 16_384}), 431),
        (b"GET / HTTP/1.1\r\nX-Endless: " + b"x" * 16_384, 431),
    ],
    ids=["get", "post", "tls", "old version", "large head", "endless head"],
)
async def test_request_that_is_no_upgrade_is_answered_and_closed(daemon: Daemon, data: bytes, status: int) -> None:
    answer, body = await ask(daemon, data)
    assert answer.status == status
    assert body.endswith(".\n")
    assert await refused_upgrades(daemon, "bad_request") == 1


async def test_any_path_is_the_same_door(daemon: Daemon) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", daemon.websocket_port) as stream:
        await stream.send_all(upgrade_request("x").replace(b"/chat", b"/some/where?else=1"))
        assert (await read_head(stream)).status == 101


# Limits


async def test_address_has_so_many_connections_and_one_more_when_one_has_gone(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_CONNECTIONS_PER_ADDRESS="2") as daemon, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_raw(daemon.websocket_port)) for _ in range(2)]
        answer, body = await ask(daemon, upgrade_request("x"))
        assert (answer.status, answer.headers["retry-after"]) == (429, "10")
        assert "2 connections" in body
        assert await refused_upgrades(daemon, "address_full") == 1
        await clients[0].send(close(1000))
        assert await clients[0].receive() is not None
        assert await clients[0].receive() is None
        async with open_raw(daemon.websocket_port) as client:
            assert (await client.ask(type="ping"))["type"] == "pong"


async def test_addresses_behind_a_trusted_proxy_are_counted_apart(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_CONNECTIONS_PER_ADDRESS="1", HTTP_TRUSTED_PROXIES="127.0.0.1") as daemon:
        port = daemon.websocket_port
        async with open_raw(port, {"X-Forwarded-For": "6.6.6.6, 203.0.113.1"}):
            assert (await try_upgrade(port, {"X-Forwarded-For": "203.0.113.1"})).status == 429
            assert (await try_upgrade(port, {"X-Forwarded-For": "203.0.113.2"})).status == 101


async def test_full_node_says_when_to_come_back(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_CONNECTIONS="1") as daemon, open_raw(daemon.websocket_port) as client:
        # It is not read any more, and yet the answer arrives.
        answer, body = await ask(daemon, upgrade_request("x") + b"x" * 50_000)
        assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        assert body
        assert await refused_upgrades(daemon, "node_full") == 1
        assert (await client.ask(type="ping"))["type"] == "pong"


async def test_too_many_new_connections_a_second_are_told_when_to_come_back(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_NEW_CONNECTIONS_PER_SECOND="2") as daemon:
        answers = [await try_upgrade(daemon.websocket_port) for _ in range(3)]
        assert [answer.status for answer in answers] == [101, 101, 503]
        assert answers[2].headers["retry-after"] == "1"
        assert await refused_upgrades(daemon, "too_fast") == 1


async def test_user_has_so_many_connections(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_CONNECTIONS_PER_USER="2") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        async with daemon.connect(ada), daemon.connect(ada) as second, daemon.connect() as third:
            told = await third.ask(type="authenticate", token=ada.token)
            assert (told["type"], told["code"]) == ("auth_error", "limit_reached")
            assert (await third.wait_closed())[0] == 4505
            async with daemon.connect(bob):
                pass
            assert (await second.ask(type="authenticate", token=ada.token))["type"] == "authenticated"
            assert (await second.ask(type="ping"))["type"] == "pong"


async def test_descriptor_is_not_used_again_by_what_is_left_of_a_connection(daemon: Daemon) -> None:
    """One after the other, each on the descriptor of the one before it: nobody hears what was meant for another."""
    ada = await daemon.register("ada")
    headers = {"Authorization": f"Bearer {ada.token}"}
    room = await daemon.create_room(ada)
    for number in range(20):
        async with open_raw(daemon.websocket_port, headers) as client:
            assert (await client.receive_json())["type"] == "authenticated"
            await client.send(message(type="send_message", roomId=room, content=str(number)) * 5)
        async with open_raw(daemon.websocket_port) as stranger:
            told = await stranger.ask(type="ping", id=str(number))
            assert (told["type"], told["id"]) == ("pong", str(number))
