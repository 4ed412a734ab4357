"""One WebSocket connection of a client, from the name in the URL to the close frame: the door to trio-websocket.

It knows no message. A connection that cannot be made raises `NoLink`; one that is over says so by `receive`.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from chatd.errors import CloseCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

#: Seconds for the name, the TCP connection, TLS and the upgrade together.
CONNECT_S: Final = 10.0
#: Seconds in which the server may answer a close frame.
CLOSE_S: Final = 1.0
#: A page of history is as large as the server's option websocket.outbox_bytes allows.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
RECEIVE_BYTES: Final = 64 * 1024
#: Messages that are read ahead, so that not each of them costs a switch of tasks.
READ_AHEAD: Final = 32


class Address(NamedTuple):
    """Where a ws:// or wss:// URL leads."""

    host: str
    port: int
    resource: str
    is_secure: bool

    @property
    def authority(self) -> str:
        """The Host header: without the scheme's own port (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"


def parse_url(url: str) -> Address:
    """Raises ValueError with a sentence when the URL is none that can be connected to."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{url!r} is no URL of a chat server; it looks like ws://host:3001/ or wss://host/.")
    is_secure = parts.scheme == "wss"
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(parts.hostname, parts.port or (443 if is_secure else 80), resource, is_secure)


class NoLink(Exception):
    """There is no connection to be had now. `status` is that of an HTTP answer, if there was one."""

    def __init__(self, reason: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.retry_after_s = retry_after_s


class Closed(NamedTuple):
    """How a connection ended: CloseCode.ABNORMAL is one that broke."""

    code: int
    reason: str


class _Overheard(trio.abc.Stream):
    """A byte stream that tells of each sign of life, and of its end."""

    def __init__(self, stream: trio.abc.Stream, on_bytes: Callable[[], None]) -> None:
        self._stream = stream
        self._on_bytes = on_bytes
        #: Called once nothing more can come.
        self.on_end: Callable[[], None] | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = b""
        try:
            data = bytes(await self._stream.receive_some(max_bytes))
        finally:
            if data:
                self._on_bytes()
            else:
                self.end()
        return data

    async def aclose(self) -> None:
        self.end()
        await self._stream.aclose()

    def end(self) -> None:
        if self.on_end is not None:
            self.on_end()


class Link:
    """An open connection."""

    def __init__(self, connection: WebSocketConnection, scope: trio.CancelScope) -> None:
        self._connection = connection
        self._scope = scope
        self._is_aborted = False

    async def send(self, text: str) -> None:
        """Send a message; harmless when the connection is over, for its reader finds out."""
        try:
            await self._connection.send_message(text)
        except ConnectionClosed:
            return

    async def receive(self) -> str | Closed:
        """The next message, or how the connection ended."""
        try:
            message = await self._connection.get_message()
        except ConnectionClosed:
            reason = self._connection.closed
            if reason is None:
                return Closed(CloseCode.ABNORMAL, "")
            return Closed(reason.code, reason.reason or "")
        return message if isinstance(message, str) else Closed(CloseCode.BINARY, "the server sent a binary frame")

    def abort(self) -> None:
        """Give the connection up without a word: who is in its block is cancelled up to the end of it."""
        self._is_aborted = True
        self._scope.cancel()

    async def close(self) -> None:
        """Say goodbye, unless there is nobody."""
        if not self._is_aborted:
            with trio.move_on_after(CLOSE_S, shield=True):
                await self._connection.aclose()


class _Reader:
    """trio-websocket's own task. It outlives a cancellation, for nobody else reads the answer to a close frame."""

    def __init__(self) -> None:
        # Who opened the link cancels it, at the latest `CLOSE_S` after the block was left.
        self.scope = trio.CancelScope(shield=True)
        self.rejected: ConnectionRejected | None = None

    async def run(self, task: Callable[[], Awaitable[None]], over: Callable[[], None]) -> None:
        with self.scope:
            try:
                await task()
            except ConnectionRejected as rejected:
                self.rejected = rejected
                over()
            except ConnectionClosed:
                # It could not say goodbye: `receive` tells of it.
                return


class _Starter(NamedTuple):
    """As much of a nursery as trio-websocket uses."""

    start_soon: Callable[[Callable[[], Awaitable[None]]], None]


@asynccontextmanager
async def open_link(
    address: Address, *, on_bytes: Callable[[], None], ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[Link]:
    """Connect, each half within 10 s, and close at the end. Raises `NoLink`; `on_bytes` tells of each sign of life."""
    stream = _Overheard(await _connect(address, ssl_context), on_bytes)
    reader = _Reader()
    try:
        async with trio.open_nursery() as nursery:
            starter = _Starter(lambda task: nursery.start_soon(reader.run, task, stream.end))
            try:
                connection = await _upgrade(starter, stream, address)
                if connection is not None:
                    link = Link(connection, nursery.cancel_scope)
                    try:
                        yield link
                    finally:
                        await link.close()
            finally:
                reader.scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)
    if connection is None:
        raise _no_link(reader.rejected)


async def _connect(address: Address, ssl_context: ssl.SSLContext | None) -> trio.abc.Stream:
    try:
        with trio.fail_after(CONNECT_S):
            if not address.is_secure:
                return await trio.open_tcp_stream(address.host, address.port)
            return await _connect_securely(address, ssl_context or ssl.create_default_context())
    except trio.TooSlowError:
        raise NoLink("the server does not answer") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise NoLink(_sentence(error)) from error


async def _connect_securely(address: Address, ssl_context: ssl.SSLContext) -> trio.abc.Stream:
    stream = await trio.open_ssl_over_tcp_stream(
        address.host, address.port, ssl_context=ssl_context, https_compatible=True
    )
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _sentence(error: BaseException) -> str:
    """What the system said, from below Trio's and TLS's own words."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif error.__cause__ is not None and not getattr(error, "strerror", None):
            error = error.__cause__
        else:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__


async def _upgrade(starter: _Starter, stream: _Overheard, address: Address) -> WebSocketConnection | None:
    """The handshake, or None. trio-websocket waits for it forever when the stream ends before it is done."""
    with trio.move_on_after(CONNECT_S) as scope:
        stream.on_end = scope.cancel
        connection = await wrap_client_stream(
            starter,  # type: ignore[arg-type] # it is typed as a nursery, and only starts its reader in it
            stream,  # type: ignore[arg-type] # it is typed as the streams it was made for, and uses what all have
            address.authority,
            address.resource,
            message_queue_size=READ_AHEAD,
            max_message_size=MAX_MESSAGE_BYTES,
            receive_buffer_size=RECEIVE_BYTES,
        )
        stream.on_end = None
        return connection
    return None


def _no_link(rejected: ConnectionRejected | None) -> NoLink:
    if rejected is None:
        return NoLink("the connection ended while it was made")
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in rejected.headers or ()}
    seconds = headers.get("retry-after", "")
    body = (rejected.body or b"").decode(errors="replace").strip()
    return NoLink(
        body.partition("\n")[0][:200],
        status=rejected.status_code,
        retry_after_s=float(seconds) if seconds.isdecimal() else None,
    )
