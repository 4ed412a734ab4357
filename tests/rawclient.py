"""A WebSocket client made of bytes: for what no well-behaved library would send, and to see all that comes back.

It shares no code with chatd or its libraries, so that it is one more opinion on RFC 6455.
"""

from __future__ import annotations

import json
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

MASK: Final = b"\x37\xfa\x21\x3d"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = MASK,
    length_bytes: int | None = None,
    claimed: int | None = None,
) -> bytes:
    """A client's frame, as wrong as wanted: its length, or the `claimed` one, stands in `length_bytes` (0, 2, 8)."""
    size = len(payload) if claimed is None else claimed
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[length_bytes]
    head = bytes([fin << 7 | reserved << 4 | opcode, (mask is not None) << 7 | short])
    head += size.to_bytes(length_bytes, "big") if length_bytes else b""
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def message(**fields: object) -> bytes:
    """A JSON message in one text frame."""
    return frame(TEXT, json.dumps(fields).encode())


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


@dataclass(frozen=True)
class Frame:
    """A frame of the server; it is never masked, and chatd never fragments."""

    opcode: int
    payload: bytes

    def json(self) -> Any:
        assert self.opcode == TEXT
        return json.loads(self.payload)

    @property
    def close_code(self) -> int:
        assert self.opcode == CLOSE
        return int.from_bytes(self.payload[:2], "big")


def take_frame(data: bytes) -> tuple[Frame, bytes] | None:
    """The first frame and what follows it; None while it is not complete."""
    if len(data) < 2:
        return None
    assert data[0] & 0xF0 == 0x80, "final, and no reserved bits"
    assert data[1] < 128, "unmasked"
    length_bytes = {126: 2, 127: 8}.get(data[1], 0)
    start = 2 + length_bytes
    size = int.from_bytes(data[2:start], "big") if length_bytes else data[1]
    if len(data) < start + size:
        return None
    return Frame(data[0] & 0x0F, data[start : start + size]), data[start + size :]


def take_frames(data: bytes) -> list[Frame]:
    """Bytes that are whole frames."""
    frames = []
    while data:
        taken = take_frame(data)
        assert taken is not None, "the last frame is whole"
        found, data = taken
        frames.append(found)
    return frames


class RawClient:
    """An upgraded connection. Every wait has a deadline of some seconds."""

    def __init__(self, stream: trio.SocketStream, received: bytes = b"") -> None:
        self.stream = stream
        self._received = received

    async def send(self, data: bytes) -> None:
        with trio.fail_after(10):
            await self.stream.send_all(data)

    async def receive(self) -> Frame | None:
        """The next frame; None at the end of the stream, which must not come within a frame."""
        with trio.fail_after(10):
            while (taken := take_frame(self._received)) is None:
                data = bytes(await self.stream.receive_some())
                if not data:
                    assert self._received == b"", "a frame was cut off"
                    return None
                self._received += data
        found, self._received = taken
        return found

    async def receive_json(self) -> Any:
        found = await self.receive()
        assert found is not None, "the connection ended"
        return found.json()

    async def ask(self, **fields: object) -> Any:
        """The first message that comes after this one was sent."""
        await self.send(message(**fields))
        return await self.receive_json()

    async def wait_closed(self) -> tuple[int, list[Frame]]:
        """Read to the server's close frame and the end behind it: the close code, and what came before."""
        before: list[Frame] = []
        while (found := await self.receive()) is not None:
            if found.opcode == CLOSE:
                code = found.close_code
                await self.send(frame(CLOSE, found.payload[:2]))
                assert await self.receive() is None, "nothing comes after a close frame"
                return code, before
            before.append(found)
        raise AssertionError(f"the connection ended without a close frame, after {before}")


def upgrade_request(host: str, headers: Mapping[str, str | None] = {}) -> bytes:
    """The bytes of an upgrade; a header that is None is left out."""
    lines: dict[str, str | None] = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **headers,
    }
    told = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"GET /chat HTTP/1.1\r\n{told}\r\n".encode("latin-1")


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    headers: dict[str, str]
    rest: bytes


async def read_head(stream: trio.SocketStream) -> HttpAnswer:
    """An HTTP answer's head, and what came behind it."""
    received = b""
    with trio.fail_after(10):
        while b"\r\n\r\n" not in received:
            data = bytes(await stream.receive_some())
            assert data, f"no answer but {received!r}"
            received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return HttpAnswer(int(status.split(" ")[1]), headers, rest)


async def try_upgrade(port: int, headers: Mapping[str, str | None] = {}, *, host: str = "127.0.0.1") -> HttpAnswer:
    """How the server answers an upgrade; the connection is over with this call."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(upgrade_request(host, headers))
        return await read_head(stream)


@asynccontextmanager
async def open_raw(
    port: int, headers: Mapping[str, str | None] = {}, *, early: bytes = b"", receive_buffer: int | None = None
) -> AsyncIterator[RawClient]:
    """An upgraded client that sends `early` with its request; a small `receive_buffer` is soon full."""
    sock = trio.socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, receive_buffer)
    await sock.connect(("127.0.0.1", port))
    async with trio.SocketStream(sock) as stream:
        await stream.send_all(upgrade_request(f"127.0.0.1:{port}", headers) + early)
        answer = await read_head(stream)
        assert answer.status == 101, answer
        yield RawClient(stream, answer.rest)
