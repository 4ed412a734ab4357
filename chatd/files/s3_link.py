"""One request to an S3-compatible server over a connection of its own, body in and body out as streams.

The third door to h11, as a client. Leaves what the requests are to `s3`.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import h11
import trio

from chatd.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

#: What happens to connections; a server that does not speak HTTP is one of them.
TROUBLES: Final = (
    OSError, ssl.SSLError, trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError,
    h11.LocalProtocolError,
)  # fmt: skip
_RECEIVE_BYTES: Final = 64 * 1024


class Exchange:
    """A request that was answered: `status`, and the body as it comes."""

    def __init__(self, stream: trio.abc.Stream, *, timeout_s: float) -> None:
        self._stream = stream
        self._timeout_s = timeout_s
        self._h11 = h11.Connection(h11.CLIENT)
        self.status = 0

    async def send(self, method: str, target: str, headers: Mapping[str, str], body: Path | None) -> None:
        request = h11.Request(method=method, target=target, headers=list(headers.items()))
        await self._send(self._h11.send(request))
        if body is not None:
            async with await trio.open_file(body, "rb") as file:
                while part := await file.read(_RECEIVE_BYTES):
                    await self._send(self._h11.send(h11.Data(data=part)))
        await self._send(self._h11.send(h11.EndOfMessage()))
        event = await self._next()
        while isinstance(event, h11.InformationalResponse):
            event = await self._next()
        assert isinstance(event, h11.Response)
        self.status = event.status_code

    async def read_part(self) -> bytes:
        """The next bytes of the answer's body, `b""` at its end."""
        event = await self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def read(self, *, max_bytes: int) -> bytes:
        """The whole body. Raises h11.RemoteProtocolError where it is larger."""
        parts, size = [], 0
        while part := await self.read_part():
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                raise h11.RemoteProtocolError("too large")
        return b"".join(parts)

    async def _send(self, data: bytes | None) -> None:
        if data:
            with trio.fail_after(self._timeout_s):
                await self._stream.send_all(data)

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        with trio.fail_after(self._timeout_s):
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                self._h11.receive_data(bytes(await self._stream.receive_some(_RECEIVE_BYTES)))
        assert not isinstance(event, type) or event is h11.PAUSED
        return event

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


async def connect(host: str, port: int, *, is_tls: bool, timeout_s: float) -> Exchange:
    """A connection for one request. Raises one of `TROUBLES`."""
    with trio.fail_after(timeout_s):
        stream: trio.abc.Stream = await trio.open_tcp_stream(host, port)
    if is_tls:
        stream = trio.SSLStream(stream, ssl.create_default_context(), server_hostname=host, https_compatible=True)
    return Exchange(stream, timeout_s=timeout_s)


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Trouble with the server is `Unavailable`."""
    try:
        yield
    except TROUBLES as error:
        detail = "Where files are kept does not answer; try again in a moment."
        raise Unavailable(detail) from error
