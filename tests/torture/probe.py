"""Whether a cluster serves: every node says that it is ready, and what is sent through one is heard through all."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from tests.torture.connection import open_connection

if TYPE_CHECKING:
    from tests.daemon import SignedIn
    from tests.torture.connection import Connection
    from tests.torture.nodes import Cluster, Node

#: Seconds that one try may take, and between the begins of two.
TRY_S: Final = 6.0
PAUSE_S: Final = 0.5


@dataclass
class Probe:
    """A user of its own in a room of its own, with a new connection to each node for every try."""

    cluster: Cluster
    user: SignedIn
    room_id: str
    count: int = 0
    #: What was missing in tries that failed, by its first word: `readyz`, `authenticated` or `delivery`, and the node.
    missing: Counter[str] = field(default_factory=Counter)

    async def is_served(self) -> bool:
        """One try, with all nodes that live."""
        nodes = [node for node in self.cluster.nodes if node.is_up]
        missing = ""
        with trio.move_on_after(TRY_S):
            for node in nodes:
                missing = f"readyz of {node.name}"
                if not await self._is_ready(node):
                    self.missing[missing] += 1
                    return False
            async with AsyncExitStack() as stack:
                connections = []
                for node in nodes:
                    missing = f"authenticated from {node.name}"
                    if (connection := await self._connect(stack, node)) is None:
                        self.missing[missing] += 1
                        return False
                    connections.append(connection)
                keys = {await self._send(connection) for connection in connections}
                for node, connection in zip(nodes, connections, strict=True):
                    missing = f"delivery by {node.name}"
                    if not await self._hear(connection, keys):
                        self.missing[missing] += 1
                        return False
                return True
        self.missing[f"{missing} in time"] += 1
        return False

    async def wait_served(self, *, within_s: float) -> float | None:
        """The seconds after which a try succeeded; None if none did. A try that hangs holds up no later one."""
        began = trio.current_time()
        served_s = None
        self.missing.clear()

        async def try_once() -> None:
            nonlocal served_s
            if await self.is_served() and served_s is None:
                served_s = trio.current_time() - began
                nursery.cancel_scope.cancel()

        with trio.move_on_after(within_s):
            async with trio.open_nursery() as nursery:
                while True:
                    nursery.start_soon(try_once)
                    await trio.sleep(PAUSE_S)
        return served_s

    async def time_lost_event(self, *, within_s: float) -> float | None:
        """Seconds until the first node delivers an event of which the bus dropped its message; None: not in time."""
        with trio.move_on_after(within_s):
            async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
                connections = [await self._connect(stack, node) for node in self.cluster.nodes[:2]]
                hearing, sending = connections
                if hearing is None or sending is None:
                    return None
                nursery.start_soon(self.cluster.shared.link.drop_one, f":room:{self.room_id}".encode())
                began = trio.current_time()
                await self._hear(hearing, {await self._send(sending)})
                nursery.cancel_scope.cancel()
                return trio.current_time() - began
        return None

    async def _is_ready(self, node: Node) -> bool:
        with suppress(OSError, trio.BrokenResourceError, trio.TooSlowError, ValueError, IndexError):
            return (await node.daemon.http("GET", "/readyz")).status == 200
        return False

    async def _connect(self, stack: AsyncExitStack, node: Node) -> Connection | None:
        """An authenticated connection, if there is one to be had."""
        connection = await stack.enter_async_context(open_connection(node.ports[0]))
        if connection is not None:
            await connection.send(type="authenticate", token=self.user.token)
            kinds = {message["type"] for message in await connection.receive()}
            return connection if "authenticated" in kinds else None
        return None

    async def _send(self, connection: Connection) -> str:
        self.count += 1
        key = f"probe-{self.count}"
        await connection.send(type="send_message", roomId=self.room_id, content=key, clientMessageId=key)
        return key

    async def _hear(self, connection: Connection, keys: set[str]) -> bool:
        """Listen until all of these were heard; False if the connection ends or something is refused."""
        missing = set(keys)
        while missing:
            messages = await connection.receive()
            if not messages or any(message["type"] == "error" for message in messages):
                return False
            missing -= {message["message"].get("clientMessageId") for message in messages if "message" in message}
        return True
