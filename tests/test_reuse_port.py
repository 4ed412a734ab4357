"""Two daemons on one port of one machine (`reuse_port`): the kernel gives each of them a share of who connects."""

from __future__ import annotations

import re
import socket
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from chatd.sockets import bind, reserve
from tests.daemon import Distributed, Process, start_process
from tests.nginx import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

#: So many that one of two gets them all in one of 2^39 runs.
CLIENTS: Final = 40


@asynccontextmanager
async def start_two(folder: Path, **options: str) -> AsyncIterator[list[Process]]:
    """Two daemons that share a database and a bus, each in a data folder of its own."""
    shared = {name.removeprefix("CHATD_"): value for name, value in Distributed(is_on=True).options(folder).items()}
    async with AsyncExitStack() as stack:
        nodes = []
        for name in ("node1", "node2"):
            start = partial(start_process, folder / name, SERVER_NODE_NAME=name)
            nodes.append(await stack.enter_async_context(start(limits=False, **shared, **options)))
        yield nodes


async def number(node: Process, metric: str) -> float:
    found = re.search(rf"^{metric} (\S+)$", (await node.http("GET", "/metrics")).body.decode(), re.MULTILINE)
    assert found
    return float(found[1])


async def test_two_daemons_share_a_websocket_port(tmp_path: Path) -> None:
    port = str(free_port())
    async with start_two(tmp_path, WEBSOCKET_PORT=port, WEBSOCKET_REUSE_PORT="true") as nodes:
        first, second = nodes
        ada, bob = await first.register("ada"), await second.register("bob")
        lobby = await first.lobby(ada)
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            clients = [await enter(first.connect(user)) for user in (ada, bob) for _ in range(CLIENTS // 2)]
            counts = [await number(node, "chat_active_connections") for node in nodes]
            assert sum(counts) == CLIENTS
            assert min(counts) > 0
            for client in (clients[0], clients[-1]):
                assert (await client.ask(type="join_room", roomId=lobby))["type"] == "room_history"
            # Each device hears it, whichever node it is on.
            ack = await clients[0].ask(type="send_message", roomId=lobby, content="Hello, all!")
            for client in clients:
                assert (await client.heard("new_message"))["message"]["seq"] == ack["seq"]


async def test_one_that_is_gone_leaves_the_port_to_the_other(tmp_path: Path) -> None:
    port = str(free_port())
    async with start_two(tmp_path, WEBSOCKET_PORT=port, WEBSOCKET_REUSE_PORT="true") as (first, second):
        first.process.kill()
        with trio.fail_after(30):
            await first.process.wait()
        for _ in range(CLIENTS):
            async with second.connect() as client:
                assert (await client.ask(type="ping"))["type"] == "pong"


async def test_two_daemons_share_an_http_port(tmp_path: Path) -> None:
    port = str(free_port())
    async with start_two(tmp_path, HTTP_PORT=port, HTTP_REUSE_PORT="true") as (node, _):
        starts = {await number(node, "chatd_process_start_time_seconds") for _ in range(CLIENTS)}
        assert len(starts) == 2


def test_looking_whether_a_shared_port_can_be_had_takes_nobody_from_those_who_have_it() -> None:
    with ExitStack() as stack:
        [listener] = map(stack.enter_context, bind("http", "127.0.0.1", 0, reuse_port=True))
        listener.settimeout(30)
        host, port = listener.getsockname()
        list(map(stack.enter_context, reserve("http", host, port, reuse_port=True)))
        for _ in range(CLIENTS):
            stack.enter_context(socket.create_connection((host, port)))
        for _ in range(CLIENTS):
            stack.enter_context(listener.accept()[0])
