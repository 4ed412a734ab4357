"""One connection of a torture client: frames out, messages in, as cheap as it can be with fifty beside it."""

from __future__ import annotations

import json
import struct
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from tests.rawclient import CLOSE, PING, PONG, TEXT, read_head, upgrade_request
from tests.torture.diary import parse_shared

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

#: A mask that changes nothing: what is sent stays as it is (RFC 6455 section 5.3 asks for a mask, not for which).
NO_MASK: Final = b"\0\0\0\0"
#: Close code of a connection that broke without a close frame.
BROKEN: Final = 1006
#: Payload of a close frame that says that all is well.
NORMAL: Final = struct.pack("!H", 1000)
#: Seconds after which a client tries again where nobody answers its upgrade.
UPGRADE_S: Final = 3.0
READ_BYTES: Final = 65_536


def _client_frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    head = (
        struct.pack("!BB", 0x80 | opcode, 0x80 | size) if size < 126 else struct.pack("!BBH", 0x80 | opcode, 254, size)
    )
    return head + NO_MASK + payload


class Connection:
    """An upgraded connection; `close_code` is set when it is over."""

    def __init__(self, stream: trio.abc.Stream, received: bytes, *, port: int = 0) -> None:
        self.port = port
        self._stream = stream
        self._received = bytearray(received)
        self._sending = trio.Lock()
        self.close_code: int | None = None
        #: How many bytes are read at once, and how long is rested between two reads; nothing is until `flowing` is set.
        self.read_bytes = READ_BYTES
        self.rest_s = 0.0
        self.flowing = trio.Event()
        self.flowing.set()

    def halt(self) -> None:
        """Read nothing until `flowing` is set."""
        self.flowing = trio.Event()

    async def send(self, **message: object) -> None:
        """Send a message; harmless when the connection has broken, for its reader finds out."""
        await self._send_frame(TEXT, json.dumps(message, ensure_ascii=False).encode())

    async def close(self) -> None:
        """Say goodbye; the server's own close frame follows."""
        await self._send_frame(CLOSE, NORMAL)

    async def _send_frame(self, opcode: int, payload: bytes) -> None:
        async with self._sending:
            try:
                await self._stream.send_all(_client_frame(opcode, payload))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def receive(self) -> list[dict[str, Any]]:
        """Messages that have arrived, at least one; none when the connection is over."""
        found: list[dict[str, Any]] = []
        while not found and self.close_code is None:
            for opcode, payload in self._frames():
                if opcode == TEXT:
                    found.append(parse_shared(payload))
                elif opcode == PING:
                    await self._send_frame(PONG, payload)
                elif opcode == CLOSE:
                    await self._send_frame(CLOSE, payload[:2])
                    self.close_code = struct.unpack("!H", payload[:2])[0]
            if not found and self.close_code is None:
                await self.flowing.wait()
                await trio.sleep(self.rest_s)
                try:
                    data = await self._stream.receive_some(self.read_bytes)
                except trio.BrokenResourceError:
                    data = b""
                if not data:
                    self.close_code = BROKEN
                self._received += data
        return found

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """The whole frames at the start of what was received."""
        received, at = self._received, 0
        while len(received) - at >= 2:
            size, start = received[at + 1], at + 2
            if size == 126 and len(received) >= at + 4:
                size, start = int.from_bytes(received[at + 2 : at + 4], "big"), at + 4
            elif size == 127 and len(received) >= at + 10:
                size, start = int.from_bytes(received[at + 2 : at + 10], "big"), at + 10
            elif size >= 126:
                break
            if len(received) < start + size:
                break
            yield received[at] & 0x0F, bytes(received[start : start + size])
            at = start + size
        del received[:at]


@asynccontextmanager
async def open_connection(port: int, *, receive_buffer: int = 0) -> AsyncIterator[Connection | None]:
    """A connection to the daemon, or none while nobody answers there; the kernel keeps `receive_buffer` bytes or so."""
    async with AsyncExitStack() as stack:
        stream = answer = None
        with trio.move_on_after(UPGRADE_S), suppress(OSError, trio.BrokenResourceError, AssertionError):
            stream = await stack.enter_async_context(await _open_stream(port, receive_buffer))
            await stream.send_all(upgrade_request(f"127.0.0.1:{port}"))
            answer = await read_head(stream)
        if stream is None:
            yield None
            return
        is_open = answer is not None and answer.status == 101
        yield Connection(stream, answer.rest, port=port) if answer is not None and is_open else None


async def _open_stream(port: int, receive_buffer: int) -> trio.SocketStream:
    sock = trio.socket.socket()
    try:
        if receive_buffer:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
