"""deploy/nginx.conf for real: Debian's nginx with it, in front of three daemons on one PostgreSQL and one Redis."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from signal import SIGTERM
from typing import TYPE_CHECKING, Final

import pytest
import trio
from trio_websocket import open_websocket_url

from tests.daemon import Client, Daemon, Distributed, Process, start_process
from tests.nginx import Nginx, open_nginx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

COOKIE: Final = re.compile(r"(chatd_node=[0-9a-f]{32}); Path=/; HttpOnly; SameSite=Lax")


@asynccontextmanager
async def start_nodes(folder: Path, **options: str) -> AsyncIterator[list[Process]]:
    """Three daemons that share a database and a bus, and trust the proxy that they will stand behind."""
    shared = {name.removeprefix("CHATD_"): value for name, value in Distributed(is_on=True).options(folder).items()}
    shared |= {"HTTP_TRUSTED_PROXIES": "127.0.0.1", "TELEMETRY_LOG_LEVEL": "debug", **options}
    async with open_each(folder, shared) as nodes:
        yield nodes


@asynccontextmanager
async def open_each(folder: Path, options: Mapping[str, str]) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        nodes = []
        for name in ("node1", "node2", "node3"):
            start = partial(start_process, folder / name, SERVER_NODE_NAME=name)
            nodes.append(await stack.enter_async_context(start(limits=False, **options)))
        yield nodes


async def connections(node: Daemon) -> int:
    """How many WebSockets a node has, by its own metrics."""
    body = (await node.http("GET", "/metrics")).body.decode()
    found = re.search(r"^chat_active_connections (\d+)", body, re.MULTILINE)
    assert found
    return int(found[1])


async def node_of_only_client(nodes: list[Process]) -> Process:
    """The node that has the one connection there is; gives a moment to those that still end."""
    with trio.fail_after(30):
        while True:
            counts = [await connections(node) for node in nodes]
            if sorted(counts) == [0] * (len(nodes) - 1) + [1]:
                return nodes[counts.index(1)]
            await trio.sleep(0.01)


def cookie_of(headers: Mapping[str, str]) -> str:
    found = COOKIE.fullmatch(headers["set-cookie"])
    assert found, headers["set-cookie"]
    return found[1]


async def cookie_for(nginx: Nginx, nodes: list[Process], wanted: Process) -> str:
    """A cookie whose clients go to this node."""
    while True:
        async with nginx.connect() as client:
            headers = {k.decode().lower(): v.decode() for k, v in client.connection.handshake_headers}
            if await node_of_only_client(nodes) is wanted:
                return cookie_of(headers)


async def join(client: Client, room: str) -> None:
    assert (await client.ask(type="join_room", roomId=room))["type"] == "room_history"


async def test_people_on_different_nodes_talk_through_nginx(tmp_path: Path) -> None:
    async with start_nodes(tmp_path) as nodes, open_nginx(nodes) as nginx:
        ada, bob = await nginx.register("ada"), await nginx.register("bob")
        lobby = await nginx.lobby(ada)
        cookies = [await cookie_for(nginx, nodes, node) for node in nodes[:2]]
        async with (
            nginx.connect(ada, headers={"Cookie": cookies[0]}) as of_ada,
            nginx.connect(bob, headers={"Cookie": cookies[1]}) as of_bob,
        ):
            assert [await connections(node) for node in nodes] == [1, 1, 0]
            await join(of_ada, lobby)
            await join(of_bob, lobby)
            ack = await of_ada.ask(type="send_message", roomId=lobby, content="Hello, Bob!")
            heard = (await of_bob.wait_for("new_message"))["message"]
            assert (heard["content"], heard["seq"]) == ("Hello, Bob!", ack["seq"])
            history = await nginx.http("GET", f"/api/rooms/{lobby}/messages", token=bob.token)
            assert [message["id"] for message in history.json()["messages"]] == [ack["messageId"]]


async def test_cookie_keeps_a_client_on_its_node_and_others_are_spread(tmp_path: Path) -> None:
    async with start_nodes(tmp_path) as nodes, open_nginx(nodes) as nginx:
        for node in nodes:
            cookie = await cookie_for(nginx, nodes, node)
            for _ in range(4):
                async with nginx.connect(headers={"Cookie": f"other=1; {cookie}"}) as client:
                    assert await node_of_only_client(nodes) is node
                    assert b"set-cookie" not in dict(client.connection.handshake_headers)
        made_up = await nginx.http("GET", "/healthz", headers={"Cookie": "chatd_node=made up"})
        assert (made_up.status, len(cookie_of(made_up.headers))) == (200, len("chatd_node=") + 32)


async def test_clients_of_a_killed_node_go_on_at_the_others(tmp_path: Path) -> None:
    async with start_nodes(tmp_path) as nodes, open_nginx(nodes) as nginx:
        ada, bob = await nginx.register("ada"), await nginx.register("bob")
        lobby = await nginx.lobby(ada)
        lost, *left = nodes
        cookie = {"Cookie": await cookie_for(nginx, nodes, lost)}
        async with nginx.connect(bob, headers={"Cookie": await cookie_for(nginx, nodes, left[0])}) as of_bob:
            await join(of_bob, lobby)
            async with nginx.connect(ada, headers=cookie) as of_ada:
                await join(of_ada, lobby)
                first = await of_ada.ask(type="send_message", roomId=lobby, content="1", clientMessageId="1")
                assert await connections(lost) == 1
                lost.process.kill()
                assert await of_ada.wait_closed() == (1006, "")
            async with nginx.connect(ada, headers=cookie) as of_ada:
                again = await of_ada.ask(type="send_message", roomId=lobby, content="1", clientMessageId="1")
                assert (again["messageId"], again["duplicate"]) == (first["messageId"], True)
                await of_ada.ask(type="send_message", roomId=lobby, content="2")
                for content in ("1", "2"):
                    assert (await of_bob.heard("new_message"))["message"]["content"] == content
                for number in range(10):
                    assert (await nginx.http("GET", "/api/users/me", token=ada.token, headers=cookie)).status == 200
                    await nginx.create_room(ada, f"room {number}")
                assert sum([await connections(node) for node in left]) == 2


async def test_draining_node_sends_its_clients_to_the_others(tmp_path: Path) -> None:
    async with start_nodes(tmp_path) as nodes, open_nginx(nodes) as nginx:
        ada = await nginx.register("ada")
        stopping, *left = nodes
        cookie = {"Cookie": await cookie_for(nginx, nodes, stopping)}
        async with nginx.connect(ada, headers=cookie) as before:
            stopping.process.send_signal(SIGTERM)
            await before.wait_for("server_shutdown")
            async with nginx.connect(ada, headers=cookie) as after:
                assert (await after.ask(type="ping"))["type"] == "pong"
                assert sum([await connections(node) for node in left]) == 1
            assert (await before.wait_closed())[0] == 1012
        with trio.fail_after(30):
            assert await stopping.process.wait() == 0


@asynccontextmanager
async def ask_from(nginx: Nginx, address: str, *lines: str, body: str = "") -> AsyncIterator[str]:
    """A request from one of this machine's addresses, with what others may have said; the first line of its answer."""
    async with await trio.open_tcp_stream("127.0.0.1", nginx.http_port, local_address=address) as stream:
        head = [*lines, "Host: chat", "X-Forwarded-For: 192.0.2.1", f"Content-Length: {len(body)}", "", body]
        await stream.send_all("\r\n".join(head).encode())
        yield (await stream.receive_some()).decode().split("\r\n")[0]


async def test_nodes_hear_the_address_that_nginx_saw_and_no_other(tmp_path: Path) -> None:
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    upgrade.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    login = ["POST /api/auth/login HTTP/1.1", "Content-Type: application/json"]
    body = '{"email":"ada@example.org","password":"correct horse"}'
    async with start_nodes(tmp_path, LIMITS_SIGN_INS_PER_HOUR="1") as nodes, open_nginx(nodes) as nginx:
        async with ask_from(nginx, "127.0.0.5", "GET / HTTP/1.1", *upgrade) as answer:
            assert answer == "HTTP/1.1 101 Switching Protocols"
            node = await node_of_only_client(nodes)
            assert (await node.wait_for_log("connected"))["address"] == "127.0.0.5"
        # One sign-in an address, on whichever node: another one has its own.
        for address, expected in (("127.0.0.5", "401"), ("127.0.0.5", "429"), ("127.0.0.6", "401")):
            async with ask_from(nginx, address, *login, body=body) as answer:
                assert answer.split(" ")[1] == expected


@pytest.fixture
async def shut(tmp_path: Path) -> AsyncIterator[Nginx]:
    """nginx with three nodes that are embedded, each on its own."""
    async with open_each(tmp_path, {}) as nodes, open_nginx(nodes) as nginx:
        yield nginx


async def test_what_a_node_says_of_itself_is_not_for_the_world(shut: Nginx) -> None:
    for path in ("/readyz", "/metrics", "//readyz", "/./metrics", "/api/../readyz", "/%6detrics", "/metrics?x"):
        assert (await shut.http("GET", path)).status == 404, path
    for path in ("/readyz/", "/metrics/x"):
        answer = await shut.http("GET", path)
        assert (answer.status, answer.body[:26]) == (400, b"This port speaks WebSocket")


async def test_other_paths_and_protocols_get_an_answer(shut: Nginx) -> None:
    assert (await shut.http("GET", "/healthz")).status == 200
    assert (await shut.http("GET", "/api/nowhere")).status == 404
    assert (await shut.http("GET", "/", headers={"Upgrade": "h2c"})).status == 400
    assert (await shut.http("GET", "/api/rooms", headers={"Upgrade": "websocket"})).status == 401
    nodes = {line["node"] for line in shut.served() if line["path"] == "/api/nowhere"}
    assert len(nodes) == 1


async def test_body_as_long_as_an_upload_reaches_the_node(shut: Nginx) -> None:
    too_long = await shut.http("POST", "/api/auth/login", b" " * (10 * 1024 * 1024))
    assert (too_long.status, too_long.json()["status"]) == (413, 413)  # in chatd's own words
    longer = await shut.http("POST", "/api/auth/login", b" " * (12 * 1024 * 1024))
    assert (longer.status, b"nginx" in longer.body) == (413, True)


async def test_with_tls_pages_and_sockets_are_secure_and_http_leads_there(tmp_path: Path) -> None:
    async with start_nodes(tmp_path) as nodes, open_nginx(nodes, is_tls=True) as nginx:
        plain = await nginx.http("GET", "/api/rooms", headers={"Host": "localhost"})
        assert (plain.status, plain.headers["location"]) == (308, "https://localhost/api/rooms")
        url = f"wss://localhost:{nginx.tls_port}/"
        async with open_websocket_url(
            url,
            ssl_context=nginx.trust(),
            extra_headers=[(b"Origin", url.replace("wss", "https").rstrip("/").encode())],
        ) as connection:
            client = Client(connection)
            assert (await client.ask(type="ping"))["type"] == "pong"
            headers = {k.decode().lower(): v.decode() for k, v in connection.handshake_headers}
            assert headers["set-cookie"].endswith("; Secure")
