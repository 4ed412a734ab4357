"""The life of an HTTP connection: accepts it, reads its requests, calls the handler, sends the answers, ends it.

Leaves the form of messages to `chatd.wire.http` and what they mean to the handler it is given. Called by
`chatd.server`. Every wait for a client here has a deadline, every number of things a bound.
"""

from __future__ import annotations

import errno
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.config import HttpOptions
from chatd.cors import PREFLIGHT_HEADERS, cors_headers, is_preflight
from chatd.errors import Refusal
from chatd.files.sending import CutOff, send_file
from chatd.ids import new_id
from chatd.limits.addresses import client_address, is_trusted, limited_as, parse_networks
from chatd.metrics import Metrics
from chatd.wire.http import Body, ClientGone, Headers, HttpConnection, HttpError, Request, Response, problem
from chatd.wire.ranges import Segments

if TYPE_CHECKING:
    from chatd.tls import TlsStream

log = telemetry.get_logger(__name__)

#: Answers one request. May raise `Refusal`; anything else that it raises is a defect and becomes a 500. Cancelled
#: only when the whole listener is.
Handler = Callable[[Request], Awaitable[Response]]


#: A client makes progress with its answer when it takes this much of it within the write timeout.
SLICE_BYTES: Final = 16 * 1024

#: How long what a client still sends is thrown away after the last answer: a socket that is closed with unread
#: bytes is reset, and the reset can overtake the answer (RFC 9112 section 9.6).
LINGER_S: Final = 2.0

#: Connections past the bound that are being told so; past these they are closed without a word.
MAX_REFUSALS: Final = 100

ACCEPT_PAUSE_S: Final = 0.1
ACCEPT_LOG_INTERVAL_S: Final = 60.0

_SECURITY_HEADERS: Final[Headers] = (
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
)
_HSTS: Final = ("strict-transport-security", "max-age=31536000")


async def serve_http(
    listeners: Sequence[trio.abc.Listener[trio.SocketStream | TlsStream]],
    handler: Handler,
    *,
    draining: trio.Event,
    options: HttpOptions | None = None,
    hsts: bool = False,
    metrics: Metrics | None = None,
    cors_origins: Callable[[], Sequence[str]] | None = None,
) -> None:
    """Serve these listeners, which become this function's own, until `draining` is set and all is answered.

    From then on nobody is accepted and the listeners are closed, idle connections too; requests that have begun are
    answered, each with `Connection: close`, within the timeouts of `options`. A shorter patience is the caller's:
    cancelling closes every connection at once. With `hsts` browsers are told to stay with https. `cors_origins` is
    asked at each request for those of `options`, which may have changed since.
    """
    service = HttpService(
        handler, draining=draining, options=options or HttpOptions(), hsts=hsts, metrics=metrics,
        cors_origins=cors_origins,
    )  # fmt: skip
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(_accept_forever, listener, service, connections)
            await draining.wait()
            accepting.cancel_scope.cancel()
        service.close_idle()


async def _accept_forever(
    listener: trio.abc.Listener[trio.SocketStream | TlsStream], service: HttpService, connections: trio.Nursery
) -> None:
    last_logged_at = -math.inf
    async with listener:
        while True:
            try:
                stream = await listener.accept()
            except OSError as exc:
                # Out of descriptors or memory, or the client's own trouble before we met it: accept(2) reports
                # both, and both pass.
                if trio.current_time() - last_logged_at >= ACCEPT_LOG_INTERVAL_S:
                    last_logged_at = trio.current_time()
                    log.warning("http_accept_failed", error=errno.errorcode.get(exc.errno or 0, str(exc)))
                await trio.sleep(ACCEPT_PAUSE_S)
            else:
                connections.start_soon(_serve_socket, stream, service)


async def _serve_socket(stream: trio.SocketStream | TlsStream, service: HttpService) -> None:
    async with stream:
        try:
            peer = stream.socket.getpeername()
        except OSError:
            return  # It has left already.
        # A unix socket's peer has a path or nothing instead of a pair.
        await service.serve(stream, peer=peer[0] if isinstance(peer, tuple) else "")


class HttpService:
    """What the connections of one listener share: handler, options, their number, who of them is idle."""

    def __init__(
        self,
        handler: Handler,
        *,
        draining: trio.Event,
        options: HttpOptions,
        hsts: bool = False,
        metrics: Metrics | None = None,
        cors_origins: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        self.handler = handler
        self.metrics = metrics or Metrics()
        self.options = options
        self.cors_origins: Callable[[], Sequence[str]] = cors_origins or (lambda: options.cors_origins)
        self.common_headers = (*_SECURITY_HEADERS, _HSTS) if hsts else _SECURITY_HEADERS
        self.trusted_proxies = parse_networks(options.trusted_proxies)
        self.draining = draining
        self._idle: set[trio.CancelScope] = set()
        self._connections = 0
        self._by_address: Counter[str] = Counter()
        self._refusals = 0

    async def serve(self, stream: trio.abc.HalfCloseableStream, *, peer: str) -> None:
        """Serve one connection from `peer` (an IP address) to its end; the caller closes the stream.

        A defect in here is logged and ends this connection only. Call it in a task of its own, whose log lines from
        then on have the connection's id.
        """
        telemetry.bind_context(connection=new_id())
        connection = _Connection(stream, self, peer=peer)
        address = limited_as(client_address(peer, None, ()))
        refusal = self._refusal(address, is_proxy=is_trusted(peer, self.trusted_proxies))
        try:
            if refusal is None:
                self._connections += 1
                self._by_address[address] += 1
                try:
                    await connection.serve()
                finally:
                    self._connections -= 1
                    self._by_address[address] -= 1
                    if not self._by_address[address]:
                        del self._by_address[address]
            elif self._refusals < MAX_REFUSALS:
                self._refusals += 1
                try:
                    await connection.refuse(refusal)
                finally:
                    self._refusals -= 1
        except ClientGone:
            pass
        except Exception:  # The boundary: one connection's defect must not reach the nursery of all.
            log.exception("http_connection_failed")

    def _refusal(self, address: str, *, is_proxy: bool) -> Response | None:
        """Why one more connection from this address is not served. A trusted proxy brings many clients."""
        options = self.options
        if options.max_connections and self._connections >= options.max_connections:
            return problem("overloaded", "Too many connections are open: try again in a moment.")
        limit = options.connections_per_address
        if limit and not is_proxy and self._by_address[address] >= limit:
            detail = f"Your address has {limit} connections open; close one of them first."
            return problem("rate_limited", detail)
        return None

    async def wait_while_idle(self, read: Callable[[], Awaitable[bool]], *, timeout_s: float) -> bool:
        """`read()`, or False if the time is up or the service drains before it returns."""
        with trio.move_on_after(timeout_s) as scope:
            self._idle.add(scope)
            try:
                return not self.draining.is_set() and await read()
            finally:
                self._idle.discard(scope)
        return False

    def close_idle(self) -> None:
        for scope in self._idle:
            scope.cancel()


class _Connection:
    """One client: its requests in, their answers out, one after the other. Any wait may raise `ClientGone`."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, service: HttpService, *, peer: str) -> None:
        self._stream = stream
        self._service = service
        self._options = service.options
        self._peer = peer
        self._http = HttpConnection()
        #: The body of the request that is being answered, and when it has to be complete, once it has begun.
        self._body = Body.from_bytes(b"")
        self._body_due = math.inf

    async def serve(self) -> None:
        timeout_s = self._options.head_timeout_s
        while self._http.has_input or await self._service.wait_while_idle(self._receive, timeout_s=timeout_s):
            await self._serve_request()
            if not self._http.start_next_request():
                await self._linger()
                return
            timeout_s = self._options.idle_timeout_s

    async def refuse(self, response: Response) -> None:
        await self._send(response, None)
        await self._linger()

    async def _serve_request(self) -> None:
        try:
            request = await self._receive_request()
        except HttpError as exc:
            await self._send(_http_problem(exc), None)
        else:
            began = trio.current_time()
            response = await self._answer(request)
            await self._send(response, request)
            self._service.metrics.count_request(request.method, response.status, trio.current_time() - began)

    async def _answer(self, request: Request) -> Response:
        if is_preflight(request, self._service.cors_origins()):
            return Response(204, PREFLIGHT_HEADERS)
        try:
            return await self._service.handler(request)
        except Refusal as exc:
            self._service.metrics.errors[exc.code].inc()
            return problem(exc)
        except HttpError as exc:
            self._service.metrics.errors[exc.code].inc()
            return _http_problem(exc)
        except ClientGone:
            raise
        except Exception:  # The boundary of the rules: whatever it is, it costs this one request.
            self._service.metrics.errors["internal"].inc()
            log.exception("http_handler_failed", method=request.method, path=request.path)
            return problem("internal", "Something went wrong in the server. It has been logged.")

    async def _receive_request(self) -> Request:
        options = self._options
        with trio.move_on_after(options.head_timeout_s):
            while True:
                request = self._http.next_request(
                    self._receive_part, address=self._peer, max_bytes=options.max_json_bytes
                )
                if request is not None:
                    self._body, self._body_due = request.body, math.inf
                    forwarded = request.header("x-forwarded-for")
                    trusted = self._service.trusted_proxies
                    return replace(request, address=client_address(self._peer, forwarded, trusted))
                await self._receive()
        raise HttpError(408, "bad_message", f"The request's head did not arrive in {options.head_timeout_s:g} s.")

    async def _receive_part(self) -> bytes:
        """The next part of the request's body, given to it as its source.

        It has a deadline as a whole too: one that drips would hold its place for ever.
        """
        options = self._options
        total_s = self._body.total_s or options.body_total_s
        if go_on := self._http.take_continue():
            await self._send_all(go_on)
        now = trio.current_time()
        self._body_due = min(self._body_due, now + total_s)
        with trio.move_on_at(min(self._body_due, now + options.body_timeout_s)):
            while (part := self._http.next_part()) is None:
                await self._receive()
            return part
        if trio.current_time() >= self._body_due:
            raise HttpError(408, "bad_message", f"The request's body did not arrive in {total_s:g} s.")
        raise HttpError(408, "bad_message", f"Nothing of the request's body arrived for {options.body_timeout_s:g} s.")

    async def _send(self, response: Response, request: Request | None) -> None:
        """Send an answer; without a request, it answers what could not be read and is the last."""
        may_keep_alive = request is not None and not self._service.draining.is_set()
        dressed = _dress(response, request, self._service)
        try:
            head = self._http.start_response(dressed, may_keep_alive=may_keep_alive)
            if isinstance(dressed.body, bytes):
                await self._send_all(head + self._http.encode_part(dressed.body) + self._http.end_response())
                return
            await self._send_all(head)
            if isinstance(dressed.body, Segments) and self._http.sends_body:
                await self._send_segments(dressed.body)
            while self._http.sends_body and (part := await dressed.body.read_part()):
                await self._send_all(self._http.encode_part(part))
            await self._send_all(self._http.end_response())
        finally:
            if not isinstance(dressed.body, bytes):
                await dressed.body.aclose()

    async def _send_segments(self, body: Segments) -> None:
        """Have the kernel send a file, where this is one and a plain socket; else leave it all to be read."""
        descriptor = body.source.descriptor
        if descriptor is None or not isinstance(self._stream, trio.SocketStream):
            return
        timeout_s = self._options.write_timeout_s
        while (part := body.take()) is not None:
            if isinstance(part, bytes):
                await self._send_all(self._http.encode_part(part))
                continue
            self._http.pass_part(part.size)
            sock, (offset, size) = self._stream.socket, part
            try:
                await send_file(sock, descriptor, offset=offset, size=size, timeout_s=timeout_s)
            except (OSError, CutOff, trio.TooSlowError) as exc:
                raise ClientGone from exc

    async def _receive(self) -> bool:
        """Take what the client sends next; False if that is its end."""
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError as exc:
            raise ClientGone from exc
        self._http.receive(bytes(data))
        return bool(data)

    async def _send_all(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                with trio.fail_after(self._options.write_timeout_s):
                    await self._stream.send_all(rest[:SLICE_BYTES])
                rest = rest[SLICE_BYTES:]
        except (trio.BrokenResourceError, trio.TooSlowError) as exc:
            raise ClientGone from exc

    async def _linger(self) -> None:
        """Let the last answer arrive before the socket is closed."""
        try:
            with trio.move_on_after(LINGER_S):
                await self._stream.send_eof()
                while await self._stream.receive_some():
                    pass
        except trio.BrokenResourceError as exc:
            raise ClientGone from exc


def _http_problem(error: HttpError) -> Response:
    return problem(error.code, error.detail, status=error.status)


def _dress(response: Response, request: Request | None, service: HttpService) -> Response:
    """The response with the headers that every answer has; what it set itself stays."""
    origin = None if request is None else request.header("origin")
    own = {name for name, _ in response.headers}
    common = (("date", formatdate(usegmt=True)), *service.common_headers)
    added = tuple(header for header in common if header[0] not in own)
    return replace(response, headers=(*response.headers, *added, *cors_headers(origin, service.cors_origins())))
