"""From a new socket to its end: accepting, the upgrade, and the nursery that every connection lives in.

`serve_websockets` accepts; each connection gets a task of the process, which admits it, reads its upgrade request,
and opens the nursery in which the tasks of its `Connection` live and die together. A defect of one connection is logged
and closes that one with 1011; it never touches another. Before a socket is closed whoever waits on it is woken, and
nothing writes to its descriptor after that: the number may already be another connection's.
"""

from __future__ import annotations

import errno
import socket
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.chat import audit, presence
from chatd.chat.audit import MAX_AGENT
from chatd.connection import Connection, bytes_acknowledged
from chatd.errors import CloseCode
from chatd.limits.addresses import IpNetwork, client_address, is_trusted
from chatd.limits.admission import Admission, NotAdmitted
from chatd.tls import wait_secure
from chatd.wire.frames import BadUpgrade, Handshake, Upgrade, plain_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.config import WebSocketOptions
    from chatd.metrics import Metrics
    from chatd.tls import Certificate

log = telemetry.get_logger(__name__)

#: Connections that are accepted before others get a turn.
ACCEPT_AT_ONCE: Final = 64
#: Seconds without accepting when the process is out of descriptors.
ACCEPT_PAUSE_S: Final = 0.1
_OUT_OF: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
#: Seconds in which a client that is refused or failed may read why.
LINGER_S: Final = 1.0
#: Clients that are told why they are refused; past these they are closed without a word.
MAX_LINGERING: Final = 200


@dataclass(frozen=True, slots=True)
class Door:
    """What all connections of a node share."""

    chat: Chat
    options: WebSocketOptions
    admission: Admission
    metrics: Metrics
    trusted_proxies: tuple[IpNetwork, ...] = ()
    #: Of a door that speaks TLS itself.
    certificate: Certificate | None = None
    connections: set[Connection] = field(default_factory=set)
    #: Those whose upgrade request has not come yet; cancelling one turns it away.
    upgrading: set[trio.CancelScope] = field(default_factory=set)
    #: The canary's, which no limit and no number counts.
    own: Door | None = None
    is_own: bool = False


async def serve_websockets(listeners: list[socket.socket], door: Door, *, draining: trio.Event) -> None:
    """Serve these listening, non-blocking sockets until `draining` is set and every connection has ended.

    The deadline of the drain is the caller's. The listeners are closed as soon as it begins.
    """
    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(_accept, listener, door, connections)
            await draining.wait()
            accepting.cancel_scope.cancel()
        for listener in listeners:
            listener.close()


async def _accept(listener: socket.socket, door: Door, connections: trio.Nursery) -> None:
    told_at = float("-inf")
    while True:
        await trio.lowlevel.wait_readable(listener)
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno in _OUT_OF:
                    if trio.current_time() - told_at > 60:
                        told_at = trio.current_time()
                        log.exception("accept_failed", detail=str(error), connections=door.admission.count)
                    await trio.sleep(ACCEPT_PAUSE_S)
                    break
                # The client gave up before it was accepted (accept(2), "Error handling"): on to the next.
                continue
            if door.own is not None and peer[:2] == door.chat.canary.address:
                connections.start_soon(_serve_socket, sock, peer[0], door.own)
            else:
                connections.start_soon(_serve_socket, sock, peer[0], door)


async def _serve_socket(sock: socket.socket, peer: str, door: Door) -> None:
    """Admit, upgrade and serve one socket, and close it whatever happens."""
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if door.certificate is not None:
            sock = door.certificate.wrap(sock)
        if is_trusted(peer, door.trusted_proxies):
            # Whom it speaks for stands in the head of the request.
            await _admit(sock, peer, door, is_proxy=True)
            return
        address = client_address(peer, None, ())
        if (refused := door.admission.enter_address(address)) is not None:
            await _turn_away(sock, door, refused)
            return
        try:
            await _admit(sock, address, door, is_proxy=False)
        finally:
            door.admission.leave_address(address)
    except OSError as error:
        log.debug("connection_lost", detail=str(error))
    except Exception:
        # The boundary of a connection: its defect is logged once and stays its own.
        log.exception("connection_failed")
    finally:
        trio.lowlevel.notify_closing(sock)
        sock.close()


async def _admit(sock: socket.socket, peer: str, door: Door, *, is_proxy: bool) -> None:
    if (refused := door.admission.enter()) is not None:
        await _turn_away(sock, door, refused)
        return
    try:
        await _serve_admitted(sock, peer, door, is_proxy=is_proxy)
    finally:
        door.admission.leave()


async def _serve_admitted(sock: socket.socket, peer: str, door: Door, *, is_proxy: bool) -> None:
    # What the upgrade took is gone when the connection begins, which may stay for days.
    connection = await _open(sock, peer, door, is_proxy=is_proxy)
    if connection is None:
        return
    try:
        await _serve_upgraded(sock, connection, door)
    finally:
        if is_proxy:
            door.admission.leave_address(connection.session.address)


async def _open(sock: socket.socket, peer: str, door: Door, *, is_proxy: bool) -> Connection | None:
    """Read the upgrade request and accept it: the connection, its answer on the way. `None` for one refused."""
    handshake = Handshake()
    upgrade = None
    scope = trio.move_on_after(door.options.handshake_timeout_s)
    door.upgrading.add(scope)
    try:
        with scope:
            await wait_secure(sock)
            upgrade = await _read_upgrade(sock, handshake)
    except ssl.SSLError as error:
        door.metrics.refused_upgrades["bad_request"].inc()
        log.debug("handshake_failed", address=peer, detail=str(error))
        return None
    except BadUpgrade as bad:
        door.metrics.refused_upgrades["bad_request"].inc()
        await _send_and_linger(sock, door, bad.answer)
        return None
    finally:
        door.upgrading.discard(scope)
    if upgrade is None:
        door.metrics.refused_upgrades["timeout"].inc()
        return None
    address = client_address(peer, upgrade.headers.get("x-forwarded-for"), door.trusted_proxies)
    refused = _check_origin(upgrade, door.chat.options.websocket.origins)
    if refused is None and door.admission.is_draining:
        # The drain began while the request was being read: whom it told is told already.
        answer = handshake.reject(503, "The server is stopping.", headers=[("Retry-After", "2")])
        await _send_and_linger(sock, door, answer)
        return None
    if refused is None and is_proxy:
        refused = door.admission.enter_address(address)
    if refused is not None:
        door.metrics.refused_upgrades[refused.reason].inc()
        headers = [("Retry-After", str(refused.retry_after_s))] if refused.retry_after_s else []
        await _send_and_linger(sock, door, handshake.reject(refused.status, refused.detail, headers=headers))
        return None
    connection = Connection(sock, address, door.chat, door.options)
    connection.session.agent = upgrade.headers.get("user-agent", "")[:MAX_AGENT]
    connection.accept(handshake.accept(), early_data=handshake.trailing_data, token=upgrade.bearer_token)
    return connection


async def _read_upgrade(sock: socket.socket, handshake: Handshake) -> Upgrade | None:
    """The request, or `None` if the client left before it was complete. Raises `BadUpgrade`."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            data = sock.recv(16 * 1024)
        except (BlockingIOError, InterruptedError):
            continue
        if not data:
            return None
        if (upgrade := handshake.receive(data)) is not None:
            return upgrade


async def _serve_upgraded(sock: socket.socket, connection: Connection, door: Door) -> None:
    address = connection.session.address
    telemetry.bind_context(connection=connection.id)
    audit.enter(address, connection.session.agent, connection_id=connection.id)
    if not door.is_own:
        log.debug("connected", address=address)
    door.connections.add(connection)
    door.metrics.connections.inc()
    door.metrics.active_connections.inc()
    began = trio.current_time()
    try:
        await _run(connection)
    finally:
        grace_s = presence.grace_s(door.chat, connection.close_code)
        door.chat.sessions.remove(connection.session, door.chat.clock(), grace_s=grace_s)
        door.connections.discard(connection)
        connection.let_go()
        door.metrics.active_connections.dec()
        door.metrics.count_close(connection.close_code)
        door.metrics.shed.inc(connection.session.outbox.shed)
        if not door.is_own:
            log.info(
                "disconnected",
                code=connection.close_code,
                reason=connection.close_reason or None,
                seconds=round(trio.current_time() - began, 3),
                messages_read=connection.messages_read,
                refusals=connection.refusals,
                shed=connection.session.outbox.shed,
                bytes_read=connection.bytes_read,
                bytes_sent=bytes_acknowledged(sock),
                address=address,
                **({"user": connection.session.user_id} if connection.session.user_id else {}),
            )


async def _run(connection: Connection) -> None:
    """The nursery of one connection. When its reader is done, so is everything."""
    if connection.has_ended:
        # Its client was gone before it could be told that it is in.
        return
    try:
        async with trio.open_nursery() as nursery:
            connection.scope = nursery.cancel_scope
            nursery.start_soon(connection.write)
            nursery.start_soon(connection.beat)
            nursery.start_soon(connection.limit_refusals)
            nursery.start_soon(connection.time_out_authentication)
            await connection.read()
            nursery.cancel_scope.cancel()
    except* Exception as group:
        log.exception("connection_failed", exc_info=group)
        connection.end(CloseCode.INTERNAL, "internal error")
        with trio.move_on_after(LINGER_S):
            await connection.discard()


def _check_origin(upgrade: Upgrade, allowed: tuple[str, ...]) -> NotAdmitted | None:
    """A page may connect from the request's own host or from a listed origin; others have no Origin (RFC 6454)."""
    origin = upgrade.origin
    if origin is None or origin in allowed:
        return None
    scheme, _, authority = origin.partition("://")
    default_port = {"http": ":80", "https": ":443"}.get(scheme, "")
    if authority.lower().removesuffix(default_port) == upgrade.host.lower().removesuffix(default_port):
        return None
    return NotAdmitted("origin", 403, "This page's origin may not connect; list it in websocket.origins.", 0)


async def _turn_away(sock: socket.socket, door: Door, refused: NotAdmitted) -> None:
    """Refuse before anything was read: there is no time for reading when too many come at once."""
    door.metrics.refused_upgrades[refused.reason].inc()
    if door.certificate is not None:
        # Saying it would cost a handshake, of which the refusal is to spare the others.
        return
    retry = b"Retry-After: %d\r\n" % refused.retry_after_s
    await _send_and_linger(sock, door, plain_response(refused.status, refused.detail, extra=retry))


async def _send_and_linger(sock: socket.socket, door: Door, answer: bytes) -> None:
    """Send a last answer, which fits into a new socket's buffer, and let the client read it before closing."""
    if door.admission.lingering >= MAX_LINGERING:
        return
    door.admission.lingering += 1
    try:
        sock.send(answer)
        sock.shutdown(socket.SHUT_WR)
        with trio.move_on_after(LINGER_S):
            while True:
                await trio.lowlevel.wait_readable(sock)
                if not sock.recv(16 * 1024):
                    return
    finally:
        door.admission.lingering -= 1
