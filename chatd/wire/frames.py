"""WebSocket frames as bytes: the opening handshake, what a client's bytes mean, and the frames that answer them.

The one door to wsproto, which parses and judges what a client sends, but for the frames that carry the load: whole
texts, pings and pongs. Frames that leave are built once and sent to many, so `text_frame` and `ping_frame` are plain
bytes. No sockets, no time: `connection` feeds what it read and sends what it is given.

Source: RFC 6455; sizes and close codes from spec/protocol.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, RejectConnection, RejectData, Request, TextMessage
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed
from wsproto.utilities import RemoteProtocolError

from chatd.errors import CloseCode, Disconnect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: A request head that is longer than this is refused with 431.
MAX_HEAD_BYTES: Final = 16 * 1024
#: The first byte of a text that is a message by itself, of a ping and a pong, and the bit for a mask in the second.
TEXT: Final = 0x81
PING: Final = 0x89
PONG: Final = 0x8A
MASKED: Final = 0x80


def text_frame(payload: bytes) -> bytes:
    """An unmasked, unfragmented text frame around UTF-8 bytes (RFC 6455 section 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81" + size.to_bytes(1, "big") + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def close_frame(code: int, reason: str) -> bytes:
    """A close frame; a reason above 123 bytes of UTF-8 is cut at a character."""
    return bytes(FrameProtocol(client=False, extensions=[]).close(code, reason))


def ping_frame(payload: bytes = b"") -> bytes:
    return b"\x89" + len(payload).to_bytes(1, "big") + payload


def pong_frame(payload: bytes) -> bytes:
    return b"\x8a" + len(payload).to_bytes(1, "big") + payload


@dataclass(frozen=True, slots=True)
class Ping:
    """The peer wants a pong with the same payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer's close frame; nothing follows it."""

    code: int
    reason: str


class FrameReader:
    """What one client's bytes mean, message by message.

    A text message is given as `str`; a ping as `Ping`, a close as `Closed`; a pong is a sign of life and nothing
    else. A fault of the peer raises `Disconnect` with its close code, after which the reader is of no more use.

    A text, a ping or a pong that has arrived whole, as nearly everything does, is read here. All else is for wsproto,
    whose parser is made when it is first needed and then kept: it holds itself, so that only a collection frees it.
    """

    __slots__ = ("_head", "_is_message_open", "_left", "_max_bytes", "_parser", "_parts", "_size")

    def __init__(self, *, max_message_bytes: int) -> None:
        self._max_bytes = max_message_bytes
        # What has arrived of a frame whose length has not.
        self._head = b""
        self._parser: FrameProtocol | None = None
        # Bytes that the parser's frame is to get yet, and whether its message goes on behind the frame.
        self._left = 0
        self._is_message_open = False
        self._parts: list[str] = []
        self._size = 0

    def receive(self, data: bytes) -> Iterator[str | Ping | Closed]:
        if self._head:
            data, self._head = self._head + data, b""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                part = data[at : at + self._left]
                at += len(part)
                self._left -= len(part)
                yield from self._parse(part)
            elif not self._is_message_open and (payload := _find_payload(data, at)) is not None:
                if data[at] == TEXT:
                    yield self._read_text(data, payload)
                elif data[at] == PING:
                    yield Ping(_unmasked(data, payload))
                at = payload.stop
            elif (frame_end := _find_end(data, at)) is not None:
                self._left = frame_end - at
            else:
                self._head = data[at:]
                return

    def _read_text(self, data: bytes, payload: slice) -> str:
        if payload.stop - payload.start > self._max_bytes:
            raise self._too_big()
        try:
            return _unmasked(data, payload).decode()
        except UnicodeDecodeError as error:
            raise Disconnect(CloseCode.NOT_UTF8, str(error)) from None

    def _parse(self, part: bytes) -> Iterator[str | Ping | Closed]:
        """What wsproto makes of the next bytes of a frame."""
        if self._parser is None:
            self._parser = FrameProtocol(client=False, extensions=[])
        self._parser.receive_bytes(part)
        try:
            for frame in self._parser.received_frames():
                opcode, payload = frame.opcode, frame.payload
                if opcode is Opcode.TEXT:
                    assert isinstance(payload, str)
                    self._count(payload)
                    self._is_message_open = not frame.message_finished
                    if self._is_message_open:
                        # Empty ones do not count towards the size, so they must not be kept either.
                        if payload:
                            self._parts.append(payload)
                        continue
                    if self._parts:
                        payload = "".join((*self._parts, payload))
                        self._parts.clear()
                    self._size = 0
                    yield payload
                elif opcode is Opcode.PING:
                    assert isinstance(payload, bytes)
                    yield Ping(payload)
                elif opcode is Opcode.CLOSE:
                    assert isinstance(payload, tuple)
                    # The parser reads nothing behind it.
                    self._left = sys.maxsize
                    yield Closed(int(payload[0]), payload[1] or "")
                elif opcode is Opcode.BINARY:
                    raise Disconnect(CloseCode.BINARY, "text frames only, one JSON object each")
        except ParseFailed as error:
            raise Disconnect(int(error.code), str(error)) from None

    def _count(self, part: str) -> None:
        self._size += len(part) if part.isascii() else len(part.encode())
        if self._size > self._max_bytes:
            raise self._too_big()

    def _too_big(self) -> Disconnect:
        return Disconnect(CloseCode.TOO_BIG, f"a message is at most {self._max_bytes} bytes")


def _find_payload(data: bytes, at: int) -> slice | None:
    """The payload of a whole, masked text, ping or pong that begins at `at`, its length written as it should be."""
    if len(data) - at < 6 or data[at] not in (TEXT, PING, PONG):
        return None
    length = data[at + 1]
    if MASKED <= length <= MASKED + 125:
        start = at + 6
        stop = start + length - MASKED
    elif length == MASKED + 126 and data[at] == TEXT:
        start = at + 8
        stop = start + int.from_bytes(data[at + 2 : at + 4], "big")
        if stop - start < 126:
            return None
    else:
        return None
    return slice(start, stop) if stop <= len(data) else None


def _unmasked(data: bytes, payload: slice) -> bytes:
    """A payload without its mask, the four bytes before it (RFC 6455 section 5.3)."""
    size = payload.stop - payload.start
    mask = (data[payload.start - 4 : payload.start] * (size // 4 + 1))[:size]
    return (int.from_bytes(data[payload], "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


def _find_end(data: bytes, at: int) -> int | None:
    """The end of the frame that begins at `at`, once its length is there (RFC 6455 section 5.2)."""
    if len(data) - at < 2:
        return None
    length, head = data[at + 1] & 0x7F, 2
    if length > 125:
        head = 4 if length == 126 else 10
        if len(data) - at < head:
            return None
        length = int.from_bytes(data[at + 2 : at + head], "big")
    return at + head + (4 if data[at + 1] & MASKED else 0) + length


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A client's wish to speak WebSocket."""

    target: str
    host: str
    headers: dict[str, str] = field(repr=False)

    @property
    def origin(self) -> str | None:
        return self.headers.get("origin")

    @property
    def bearer_token(self) -> str | None:
        """The token of an `Authorization: Bearer` header, if there is one."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None


class BadUpgrade(Exception):
    """The request is no WebSocket upgrade; `answer` is the HTTP response that says so."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("not a WebSocket upgrade")
        self.answer = answer


class Handshake:
    """The opening handshake of one connection (RFC 6455 section 4), up to the answer.

    Feed bytes until `receive` returns the `Upgrade`; then send `accept()` or `reject(...)`. What came behind the
    request head is in `trailing_data` and belongs to the frame reader.
    """

    def __init__(self) -> None:
        self._connection = WSConnection(ConnectionType.SERVER)
        self._head = bytearray()
        self.trailing_data = b""

    def receive(self, data: bytes) -> Upgrade | None:
        """The upgrade request once its head is complete. Raises `BadUpgrade`."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > MAX_HEAD_BYTES:
                raise BadUpgrade(plain_response(431, "The request head is too large."))
            return None
        if end > MAX_HEAD_BYTES:
            raise BadUpgrade(plain_response(431, "The request head is too large."))
        self.trailing_data = bytes(self._head[end + 4 :])
        if self._head[: self._head.find(b"\r\n")].endswith(b" HTTP/1.0"):
            # RFC 6455 section 4.2.1, which wsproto leaves to us.
            raise BadUpgrade(plain_response(400, "WebSocket needs HTTP/1.1; a proxy on the way may have to be told."))
        try:
            self._connection.receive_data(bytes(self._head[: end + 4]))
            request = next(iter(self._connection.events()), None)
        except (RemoteProtocolError, UnicodeError) as error:
            raise self._refused(error) from None
        if not isinstance(request, Request):
            raise BadUpgrade(plain_response(400, "This port speaks WebSocket."))
        headers: dict[str, str] = {}
        for raw_name, raw_value in request.extra_headers:
            name, value = bytes(raw_name).decode("latin-1"), bytes(raw_value).decode("latin-1")
            # RFC 9110 section 5.3; each proxy may have added a line of its own.
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return Upgrade(target=request.target, host=request.host, headers=headers)

    def accept(self) -> bytes:
        return self._connection.send(AcceptConnection())

    def reject(self, status: int, detail: str, *, headers: Iterable[tuple[str, str]] = ()) -> bytes:
        """An HTTP answer in plain text, after which the connection is to be closed."""
        body = (detail + "\n").encode()
        lines = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        lines += [(b"connection", b"close"), *((name.encode(), value.encode()) for name, value in headers)]
        answer = self._connection.send(RejectConnection(status_code=status, headers=lines, has_body=True))
        return answer + self._connection.send(RejectData(data=body))

    def _refused(self, error: Exception) -> BadUpgrade:
        hint = getattr(error, "event_hint", None)
        if isinstance(hint, RejectConnection) and hint.status_code == 426:
            return BadUpgrade(plain_response(426, f"{error}.", extra=b"Sec-WebSocket-Version: 13\r\n"))
        return BadUpgrade(plain_response(400, f"This port speaks WebSocket; try it with wscat. {error}."))


class Calling:
    """The client's side of one connection, for a daemon that calls itself: an upgrade, then texts both ways."""

    def __init__(self, host: str) -> None:
        self._connection = WSConnection(ConnectionType.CLIENT)
        self.greeting = self._connection.send(Request(host=host, target="/"))
        self.is_accepted = False

    def say(self, text: str) -> bytes:
        """A masked text frame (RFC 6455 section 5.3)."""
        return self._connection.send(TextMessage(data=text))

    def receive(self, data: bytes) -> list[str]:
        """The whole texts that have arrived. Raises `Disconnect` when the server refuses or closes."""
        texts: list[str] = []
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, AcceptConnection):
                    self.is_accepted = True
                elif isinstance(event, TextMessage) and event.message_finished:
                    texts.append(event.data)
                elif isinstance(event, CloseConnection):
                    raise Disconnect(int(event.code), event.reason or "")
                elif isinstance(event, RejectConnection):
                    raise Disconnect(CloseCode.NO_STATUS, f"HTTP {event.status_code}")
        except RemoteProtocolError as error:
            raise Disconnect(CloseCode.PROTOCOL_ERROR, str(error)) from None
        return texts


def plain_response(status: int, detail: str, *, extra: bytes = b"") -> bytes:
    """A whole HTTP answer for a peer whose request could not be read far enough for wsproto to answer it."""
    body = (detail + "\n").encode()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return head.encode() + extra + b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + body
