"""One WebSocket connection: what its tasks do, and the one sync call that ends it.

`nursery` opens the nursery and starts these tasks in it: the reader, the writer (sleeps unless the socket is full), the
heartbeat, the auth-timeout (ends with authentication) and the rate-limit (sleeps until the first refusal). `end` keeps
the first reason, queues the close frame and gives the nursery a deadline.

The sockets are the server's own: nothing in here waits but on `trio.lowlevel`.
"""

from __future__ import annotations

import fcntl
import random
import socket
import struct
import sys
import termios
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from chatd.chat.dispatch import dispatch
from chatd.chat.session import Line, Session
from chatd.errors import CloseCode, Disconnect, ErrorCode
from chatd.ids import new_id
from chatd.protocol import Authenticate, AuthError, Error, ServerShutdown
from chatd.records import encode_json
from chatd.wire.frames import Closed, FrameReader, Ping, close_frame, ping_frame, pong_frame
from chatd.wire.outbox import NOTHING, Outbox

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.config import WebSocketOptions

READ_BYTES: Final = 16 * 1024
#: Messages of one connection that may wait for their commit; past it the reader waits for some of them.
MAX_PENDING: Final = 256
#: The heartbeat comes up to this part of its interval early, at random, so that connections do not tick together.
SPREAD: Final = 0.25
PING: Final = ping_frame()
MINUTE_S: Final = 60.0
#: Where the kernel's TCP_INFO has the count of bytes that the peer has acknowledged.
TCPI_BYTES_ACKED: Final = struct.Struct("=Q")
TCPI_BYTES_ACKED_AT: Final = 120


class Connection:
    """An upgraded connection and its tasks."""

    def __init__(self, sock: socket.socket, address: str, chat: Chat, options: WebSocketOptions) -> None:
        self.id = new_id()
        self._socket = sock
        self._chat = chat
        self._options = options
        self._frames = FrameReader(max_message_bytes=options.message_bytes)
        self._outbox = Outbox(
            sock.send,
            bound_bytes=options.outbox_bytes,
            on_waiting=self._wake_writer,
            on_overflow=self._overflow,
            on_broken=self._broken,
        )
        #: The scope of the connection's nursery, as long as it is open.
        self.scope: trio.CancelScope | None = None
        self.close_code = CloseCode.NO_STATUS
        self.close_reason = ""
        # The token of the upgrade request and what came behind it, until they are answered.
        self._first: tuple[str | None, bytes] = (None, b"")
        self._ended = False
        self._is_leaving = False
        self._heard_at = trio.current_time()
        self.bytes_read = self.messages_read = self.refusals = 0
        # What waited in the kernel when it was last looked at.
        self._unread_bytes = 0
        # What the peer's machine had acknowledged when it was last looked at, and has to before it has the last ping.
        self._acknowledged_bytes = self._ping_at_byte = 0
        self._waiting = trio.Event()
        # Set by the writer at its next step, for those who wait for one.
        self._written: trio.Event | None = None
        self._authenticated = trio.Event()
        self._expiry_changed = trio.Event()
        self._settled: trio.Event | None = None
        self._refused = trio.Event()
        self._refusals: deque[float] = NOTHING
        self._last_refusal: ErrorCode = "rate_limited"
        line = Line(
            outbox=self._outbox,
            end=self.end,
            refused=self._count_refusal,
            authenticated=self._note_authenticated,
            wait_for_space=self._wait_for_space,
            settled=self._note_settled,
        )
        self.session = Session(self.id, address, line)

    @property
    def has_ended(self) -> bool:
        """Its close frame is queued, or nobody is there to read one."""
        return self._ended

    def accept(self, answer: bytes, *, early_data: bytes = b"", token: str | None = None) -> None:
        """Complete the upgrade. `early_data` came behind its request, `token` in its `Authorization` header."""
        self._outbox.put(answer)
        self._first = (token, early_data)

    # -- ending ---------------------------------------------------------------------------------------------------

    def end(self, code: int, reason: str, *, drop: bool = False) -> None:
        """End the connection: the first reason counts, later ones are ignored. Sync, and safe from anywhere.

        The close frame is queued behind what waits (instead of it, with `drop`), and everything is over when the peer
        has answered it, at the latest after `websocket.close_timeout_s`.
        """
        if self._ended:
            return
        self._ended = True
        self.close_code, self.close_reason = code, reason
        self._outbox.end(close_frame(code, reason), drop=drop)
        self._wake_waiters()
        if self.scope is not None:
            self.scope.deadline = trio.current_time() + self._options.close_timeout_s

    def shut_down(self, delay_ms: int) -> None:
        """Tell the client that the server restarts, and close with 1012 when its messages have been acknowledged.

        What it sends from here on is not read: it gets no acknowledgement, and so is sent again elsewhere.
        """
        self.session.send(ServerShutdown(reason="The server restarts.", reconnect_after_ms=delay_ms))
        self._is_leaving = True
        self._leave_if_settled()

    def _leave_if_settled(self) -> None:
        if self._is_leaving and not self.session.pending:
            self.end(CloseCode.RESTART, "server restarts")

    def let_go(self) -> None:
        """Break with what others may still hold on to, so that an ended connection is freed without a collection."""
        self.scope = None
        self._ended = True
        self._outbox.detach()
        self.session.hang_up()
        self._wake_waiters()

    def _overflow(self) -> None:
        self.end(CloseCode.SLOW_READER, "read faster, or resume where you were", drop=True)

    def _broken(self) -> None:
        """The socket failed: nobody is there to be told."""
        if not self._ended:
            self._ended = True
            self.close_code, self.close_reason = CloseCode.ABNORMAL, "connection lost"
        if self.scope is not None:
            self.scope.cancel()

    # -- the tasks ------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Read frames and answer them until the peer has closed or is gone."""
        if not await self._receive_first():
            return
        sock = self._socket
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                data = sock.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError:
                data = b""
            if not data:
                self._broken()
                return
            if not await self._receive(data):
                return

    async def _receive_first(self) -> bool:
        """Answer what came with the upgrade request; False when that was the peer's last word."""
        (token, early_data), self._first = self._first, (None, b"")
        if token is not None:
            # As if it had come in an `authenticate`.
            await dispatch(self._chat, self.session, encode_json(Authenticate(token=token)).decode())
        return not early_data or await self._receive(early_data)

    async def _receive(self, data: bytes) -> bool:
        """Answer what has arrived; False when the peer has said its last word."""
        self._heard_at = trio.current_time()
        self._unread_bytes = 0
        self.bytes_read += len(data)
        try:
            for item in self._frames.receive(data):
                if isinstance(item, str):
                    self.messages_read += 1
                    if not (self._ended or self._is_leaving):
                        await dispatch(self._chat, self.session, item)
                        if self._refusals:
                            # The penalty is served before the next message of this client is answered.
                            await trio.lowlevel.checkpoint()
                        if self.session.pending >= MAX_PENDING:
                            await self._wait_until_settled()
                elif isinstance(item, Ping):
                    self._outbox.put(pong_frame(item.payload))
                elif isinstance(item, Closed):
                    self.end(item.code, "")
                    return False
        except Disconnect as fault:
            self.end(fault.code, fault.reason)
            await self.discard()
            return False
        return True

    async def discard(self) -> None:
        """Read to the end of the stream, for closing with unread bytes would reset what the peer has yet to read."""
        while not self._outbox.is_empty:
            await self._wait_for_write()
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                if not self._socket.recv(READ_BYTES):
                    return
        except OSError:
            return

    async def write(self) -> None:
        """Send what the socket did not take at once; asleep while there is nothing."""
        while True:
            await self._waiting.wait()
            while not self._outbox.is_empty:
                with trio.move_on_after(self._options.write_timeout_s) as patience:
                    await trio.lowlevel.wait_writable(self._socket)
                if patience.cancelled_caught:
                    self._overflow()
                    continue
                self._outbox.write()
                self._wake_waiters()
            self._waiting = trio.Event()

    def _wake_waiters(self) -> None:
        """Those who wait for the writer look again."""
        if self._written is not None:
            self._written.set()
            self._written = None

    def _wake_writer(self) -> None:
        self._waiting.set()

    async def beat(self) -> None:
        """Ping a silent peer, give up a dead one, and end a connection whose token has expired."""
        options, session = self._options, self.session
        interval_s = options.heartbeat_s * random.uniform(1 - SPREAD, 1)  # noqa: S311 - spreads load, no secret
        pinged_at = -1.0
        while True:
            now = trio.current_time()
            if now >= self._heard_at + options.dead_after_s and not (self._has_sent_unread() or self._is_line_slow()):
                self.end(CloseCode.HEARTBEAT, "no sign of life")
                return
            if pinged_at < self._heard_at and now >= self._heard_at + interval_s:
                self._note_what_is_before_the_ping()
                self._outbox.put(PING)
                pinged_at = now
            due = self._heard_at + (options.dead_after_s if pinged_at >= self._heard_at else interval_s)
            if session.expires_at_ms:
                left_s = (session.expires_at_ms - self._chat.clock()) / 1000
                if left_s <= 0:
                    self.end(CloseCode.TOKEN_EXPIRED, "token expired: authenticate again with a fresh one")
                    return
                due = min(due, now + left_s + 0.001)
            with trio.move_on_at(due):
                await self._expiry_changed.wait()
            self._expiry_changed = trio.Event()

    def _has_sent_unread(self) -> bool:
        """Whether more has come that waits in the kernel, because the last message is still being answered (a slow
        database): a sign of life as well as any.
        """
        unread = int.from_bytes(fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4)), sys.byteorder)
        has_grown, self._unread_bytes = unread > self._unread_bytes, unread
        if has_grown:
            self._heard_at = trio.current_time()
        return has_grown

    def _note_what_is_before_the_ping(self) -> None:
        self._acknowledged_bytes = bytes_acknowledged(self._socket) or 0
        in_kernel = int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        self._ping_at_byte = self._acknowledged_bytes + in_kernel + self._outbox.waiting_bytes

    def _is_line_slow(self) -> bool:
        """Whether the ping is still on its way behind other bytes, which do arrive: a sign of life as well as any."""
        before = self._acknowledged_bytes
        self._acknowledged_bytes = now = bytes_acknowledged(self._socket) or 0
        is_slow = before < now <= self._ping_at_byte
        if is_slow:
            self._heard_at = trio.current_time()
        return is_slow

    async def time_out_authentication(self) -> None:
        """Close a connection that does not say who it is; ends as soon as it does."""
        with trio.move_on_after(self._options.auth_timeout_s):
            await self._authenticated.wait()
            return
        detail = f"Nobody authenticated within {self._options.auth_timeout_s:g} s."
        self.session.send(AuthError(message=detail, code="unauthenticated"))
        self.end(CloseCode.AUTH_TIMEOUT, "authentication timeout")

    async def limit_refusals(self) -> None:
        """Asleep until the first refusal; then tell the client once, close at the limit, forgive a quiet minute."""
        while True:
            await self._refused.wait()
            has_told = False
            while self._refusals:
                self._refused = trio.Event()
                limit = self._chat.options.limits.refusals_per_minute or sys.maxsize
                if len(self._refusals) > limit:
                    bad = self._last_refusal == "bad_message"
                    self._chat.audit.note("connection_penalised", user=self.session.user_id, code=self._last_refusal)
                    self.end(CloseCode.BAD_MESSAGES if bad else CloseCode.RATE_LIMITED, "too many refusals")
                    return
                if len(self._refusals) > limit // 2 and not has_told:
                    has_told = True
                    self._warn(limit)
                with trio.move_on_after(MINUTE_S):
                    await self._refused.wait()
                while self._refusals and self._refusals[0] <= trio.current_time() - MINUTE_S:
                    self._refusals.popleft()

    def _warn(self, limit: int) -> None:
        detail = f"{len(self._refusals)} refusals within a minute: past {limit} this connection is closed. Slow down."
        self.session.send(Error(message=detail, code=self._last_refusal, temporary=True))

    # -- what the session asks of its line ------------------------------------------------------------------------

    def _note_authenticated(self) -> None:
        self._authenticated.set()
        self._expiry_changed.set()

    def _count_refusal(self, code: ErrorCode) -> None:
        self.refusals += 1
        limit = self._chat.options.limits.refusals_per_minute
        if not limit:
            return
        if not self._refusals:
            self._refusals = deque()
        self._refusals.append(trio.current_time())
        while len(self._refusals) > limit + 1:
            self._refusals.popleft()
        self._last_refusal = code
        self._refused.set()

    def _note_settled(self) -> None:
        if self._settled is not None and self.session.pending < MAX_PENDING:
            self._settled.set()
        self._leave_if_settled()

    async def _wait_until_settled(self) -> None:
        self._settled = trio.Event()
        await self._settled.wait()
        self._settled = None

    async def _wait_for_space(self) -> None:
        """Wait until half of the outbox is free; the writer gives up a client that takes nothing meanwhile."""
        half = self._options.outbox_bytes // 2
        while self._outbox.waiting_bytes > half and not self._ended:
            late = self._outbox.late_bytes
            await self._wait_for_write()
            if self._outbox.late_bytes > late:
                # Bytes that leave are acknowledged by the peer's machine: a sign of life.
                self._heard_at = trio.current_time()

    async def _wait_for_write(self) -> None:
        """Wait until the writer has sent something. The socket itself can be waited for by one task only."""
        if self._written is None:
            self._written = trio.Event()
        await self._written.wait()


def bytes_acknowledged(sock: socket.socket) -> int | None:
    """What the peer's machine has received of this connection: the kernel counts it (tcpi_bytes_acked, linux/tcp.h)."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_BYTES_ACKED_AT + TCPI_BYTES_ACKED.size)
        acknowledged: int = TCPI_BYTES_ACKED.unpack_from(info, TCPI_BYTES_ACKED_AT)[0]
    except (OSError, struct.error):
        return None
    return acknowledged
