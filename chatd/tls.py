"""TLS at the doors themselves, for those without a proxy: certificates, and sockets that encrypt.

A `TlsSocket` stands in the place of a plain one: non-blocking, BlockingIOError where it would wait, and `send` says how
much has left. `nursery` and `connection` use it like any other socket, so nothing else of theirs knows of TLS, and the
plain path is as it was. `listener` speaks to a `TlsStream`. Whoever waits for a handshake gives the deadline.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from chatd.config import ConfigError

if TYPE_CHECKING:
    from chatd.config import HttpOptions, WebSocketOptions

#: The longest record (RFC 8446 section 5.1); as long as what `connection` reads at once, so none is left half read.
RECORD_BYTES: Final = 16 * 1024


class TlsSocket(ssl.SSLSocket):
    """A server's non-blocking socket whose bytes are encrypted on their way.

    A record that the kernel did not take stays with OpenSSL and is not counted as sent: the next `send` has to begin
    with the same bytes and at least as many, as that of an outbox does.
    """

    def send(self, data: bytes | memoryview, flags: int = 0) -> int:  # type: ignore[override]  # all that is sent here
        view = memoryview(data)
        sent = 0
        while sent < len(view):
            try:
                sent += super().send(view[sent : sent + RECORD_BYTES], flags)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                if not sent:
                    raise BlockingIOError from None
                break
        return sent

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def shutdown(self, how: int) -> None:
        """Tell the peer that this was all (close_notify), without waiting for its own; what it sends is noise now."""
        self._say_goodbye()
        super().shutdown(how)

    def close(self) -> None:
        self._say_goodbye()
        super().close()

    def _say_goodbye(self) -> None:
        # ValueError: there was no handshake, or it is closed already.
        with suppress(OSError, ValueError):
            self.unwrap()


async def wait_secure(sock: socket.socket) -> None:
    """Wait for the handshake of a `TlsSocket`; a plain socket needs none. Raises OSError."""
    while isinstance(sock, TlsSocket):
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock)
        else:
            return


class Certificate:
    """A door's certificate with its key, as the files were when they were last read. Raises `ConfigError`."""

    def __init__(self, table: str, *, cert: str, key: str) -> None:
        self._table = table
        self._cert = cert
        self._key = key
        self._context = self.read()

    def read(self) -> ssl.SSLContext:
        """What the files hold now, for `use`. Blocks; raises `ConfigError`, and nothing has changed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A client must not make the server compute again and again (RFC 5246 section 7.4.1.1).
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        context.sslsocket_class = TlsSocket
        for option, path in (("tls_cert", self._cert), ("tls_key", self._key)):
            _check_readable(f"[{self._table}] {option}", path)
        try:
            # A key with a passphrase would otherwise have it asked for at the terminal.
            context.load_cert_chain(self._cert, self._key, password=_ask_nobody)
        except ssl.SSLError as error:
            raise ConfigError(f"[{self._table}] tls_cert: {_explained(error, self._cert, self._key)}") from error
        except _HasPassphrase:
            detail = f"{self._key} has a passphrase: give the key without one, closed to others (chmod 600)"
            raise ConfigError(f"[{self._table}] tls_key: {detail}") from None
        return context

    def use(self, context: ssl.SSLContext) -> None:
        """From now on, for those who connect."""
        self._context = context

    def wrap(self, sock: socket.socket) -> TlsSocket:
        """A connected, non-blocking socket, which is the new one's own from here on. Raises OSError."""
        wrapped = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        assert isinstance(wrapped, TlsSocket)
        return wrapped


class Certificates(NamedTuple):
    """Those of the doors that speak TLS themselves."""

    websocket: Certificate | None = None
    http: Certificate | None = None

    def read(self) -> list[tuple[Certificate, ssl.SSLContext]]:
        """What all files hold now, to be used together. Blocks; raises `ConfigError`, and nothing has changed."""
        return [(certificate, certificate.read()) for certificate in self if certificate is not None]


def read_certificates(websocket: WebSocketOptions, http: HttpOptions) -> Certificates:
    """Raises `ConfigError`."""
    return Certificates(
        Certificate("websocket", cert=websocket.tls_cert, key=websocket.tls_key) if websocket.tls_cert else None,
        Certificate("http", cert=http.tls_cert, key=http.tls_key) if http.tls_cert else None,
    )


class _HasPassphrase(Exception):
    pass


def _ask_nobody() -> str:
    raise _HasPassphrase


def _check_readable(place: str, path: str) -> None:
    try:
        with open(path, "rb"):  # noqa: PTH123 - only whether it can be
            pass
    except OSError as error:
        raise ConfigError(f"{place}: {path} cannot be read: {error.strerror}") from error


def _explained(error: ssl.SSLError, cert: str, key: str) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key in {key} is not that of the certificate in {cert}"
    reason = f" ({error.reason.lower().replace('_', ' ')})" if error.reason else ""
    return f"{cert} and {key} are not a certificate (with its chain) and its key in PEM form{reason}"


class TlsStream(trio.abc.HalfCloseableStream):
    """A `TlsSocket` as a stream. The handshake is part of whichever wait comes first."""

    def __init__(self, sock: TlsSocket) -> None:
        self.socket = sock
        self._is_secure = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        try:
            await self._secure()
            while True:
                try:
                    return self.socket.recv(max_bytes or RECORD_BYTES)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self.socket)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.wait_send_all_might_not_block()
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[self.socket.send(view) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.socket)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await self._secure()
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
        await trio.lowlevel.checkpoint()

    async def _secure(self) -> None:
        if not self._is_secure:
            await wait_secure(self.socket)
            self._is_secure = True


class TlsListener(trio.abc.Listener[TlsStream]):
    """A listener of plain connections that makes TLS of each; the handshake is waited for by who reads."""

    def __init__(self, listener: trio.SocketListener, certificate: Certificate) -> None:
        self._listener = listener
        self._certificate = certificate

    async def accept(self) -> TlsStream:
        """The next connection. Raises OSError."""
        stream = await self._listener.accept()
        sock = socket.socket(fileno=stream.socket.detach())
        try:
            sock.setblocking(False)
            return TlsStream(self._certificate.wrap(sock))
        except BaseException:
            sock.close()
            raise

    async def aclose(self) -> None:
        await self._listener.aclose()
