"""A Trio TCP proxy for tests: a link that is slow, falls silent, is cut, or swallows what Redis published.

It stands on a port of its own before whatever `connect` reaches. What a Redis says is passed on reply by reply (RESP 2
and 3), so that one of them can be left out; what clients and other servers say is passed on as it comes.
"""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

#: Close with a reset: linger for 0 s (socket(7), SO_LINGER).
RESET: Final = struct.pack("ii", 1, 0)
#: Pieces of one direction of a connection that are on their way.
MAX_PIECES: Final = 10_000
#: First bytes of replies that are one line, that have a length, and that hold others (Redis, RESP3 specification).
LINES: Final = b"+-:_#,("
BLOBS: Final = b"$!="
NESTS: Final = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2}


class Pieces:
    """Cuts nothing: for servers that are no Redis."""

    def take(self, data: bytes) -> list[bytes]:
        """What has come."""
        return [data]


class Replies:
    """Cuts what a Redis says into whole replies."""

    def __init__(self) -> None:
        self._received = b""

    def take(self, data: bytes) -> list[bytes]:
        """The replies that are complete with `data`."""
        received = self._received + data
        replies, start = [], 0
        while (end := _end_of_reply(received, start)) is not None:
            replies.append(received[start:end])
            start = end
        self._received = received[start:]
        return replies


def _end_of_reply(data: bytes, start: int) -> int | None:
    """Where the reply ends that begins at `start`; None while it is not complete."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, after = data[start], line_end + 2
    if kind in LINES:
        return after
    size = int(data[start + 1 : line_end])
    if kind in BLOBS:
        end = after + size + 2 if size >= 0 else after
        return end if end <= len(data) else None
    end = after
    for _ in range(max(size, 0) * NESTS[kind]):
        inner = _end_of_reply(data, end)
        if inner is None:
            return None
        end = inner
    return end


def published_on(reply: bytes) -> bytes | None:
    """The channel of a message that was published, if this reply is one."""
    parts = reply.split(b"\r\n", 5)
    is_message = parts[0] in {b"*3", b">3"} and len(parts) == 6 and parts[2].lower() == b"message"
    return parts[4] if is_message else None


@dataclass(eq=False)
class Link:
    """One connection through the proxy."""

    client: trio.SocketStream
    scope: trio.CancelScope
    replies: Pieces | Replies


@dataclass
class Proxy:
    """`port` is where clients connect. Set `delay_s` to slow it down in both directions."""

    port: int
    connect: Callable[[], Awaitable[trio.abc.Stream]]
    cutter: Callable[[], Pieces | Replies] = Replies
    delay_s: float = 0
    links: set[Link] = field(default_factory=set)
    #: Channels of the messages that were swallowed.
    dropped: list[str] = field(default_factory=list)
    _flowing: trio.Event = field(default_factory=trio.Event)
    _dropping: Callable[[bytes], bool] | None = None
    _drop_done: trio.Event = field(default_factory=trio.Event)

    def silence(self) -> None:
        """Pass nothing on and say nothing, but leave connections as they are and take new ones."""
        if self._flowing.is_set():
            self._flowing = trio.Event()

    def flow(self) -> None:
        """Pass on what was held up, and all that follows."""
        self._flowing.set()

    def cut(self, links: Collection[Link] | None = None) -> None:
        """Reset these connections, or every one; new ones are taken."""
        for link in list(self.links if links is None else links):
            link.client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            link.scope.cancel()

    async def drop_one(self, channels: bytes) -> str:
        """Swallow the next message that is published on a channel whose name holds `channels`; its channel."""
        self._drop_done = trio.Event()
        self._dropping = lambda channel: channels in channel
        try:
            await self._drop_done.wait()
        finally:
            self._dropping = None
        return self.dropped[-1]

    # -- what it does -----------------------------------------------------------------------------------------------

    async def serve(self, client: trio.SocketStream) -> None:
        """Carry one connection until either side ends it."""
        async with client:
            try:
                server = await self.connect()
            except OSError:
                return
            async with server, trio.open_nursery() as nursery:
                link = Link(client, nursery.cancel_scope, self.cutter())
                self.links.add(link)
                nursery.start_soon(self._carry, client, server, lambda data: [data], link.scope)
                nursery.start_soon(self._carry, server, client, partial(self._pass_replies, link), link.scope)
                try:
                    await trio.sleep_forever()
                finally:
                    self.links.discard(link)

    def _pass_replies(self, link: Link, data: bytes) -> list[bytes]:
        passed = []
        for reply in link.replies.take(data):
            channel = published_on(reply) if self._dropping is not None else None
            if channel is not None and self._dropping is not None and self._dropping(channel):
                self._dropping = None
                self.dropped.append(channel.decode())
                self._drop_done.set()
            else:
                passed.append(reply)
        return passed

    async def _carry(
        self,
        source: trio.abc.Stream,
        target: trio.abc.Stream,
        passed: Callable[[bytes], list[bytes]],
        scope: trio.CancelScope,
    ) -> None:
        """Read on while pieces are on their way, so that a delay does not make the link narrow."""
        sender, receiver = trio.open_memory_channel[tuple[float, bytes]](MAX_PIECES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, receiver, target, scope)
            try:
                while data := bytes(await source.receive_some(65_536)):
                    await sender.send((trio.current_time(), b"".join(passed(data))))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            # The other side hears of an end when it has heard all that came before it, also on a silent link.
            sender.close()

    async def _deliver(
        self, pieces: trio.MemoryReceiveChannel[tuple[float, bytes]], target: trio.abc.Stream, scope: trio.CancelScope
    ) -> None:
        try:
            async for came_at, data in pieces:
                await trio.sleep_until(came_at + self.delay_s)
                await self._flowing.wait()
                if data:
                    await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def open_proxy(
    connect: Callable[[], Awaitable[trio.abc.Stream]], *, cutter: Callable[[], Pieces | Replies] = Replies
) -> AsyncIterator[Proxy]:
    """A proxy on a free port of the loopback, with all its connections closed at the end."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy = Proxy(listener.socket.getsockname()[1], connect, cutter)
        proxy.flow()
        nursery.start_soon(partial(trio.serve_listeners, proxy.serve, [listener]))
        yield proxy
        nursery.cancel_scope.cancel()
