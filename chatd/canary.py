"""The canary: every few seconds a message of the daemon's own, through its own port, and back through a real socket.

It goes the way of every message: accepted, upgraded, read, decoded, committed by the journal, published on the bus,
heard by the hub, written to the socket. `/readyz` tells how long ago one came back, or how far the last one came. What
it is to the rules stands in `chat.canary`; no limit counts it and no user sees it. `server` runs it while it serves.
"""

from __future__ import annotations

import math
import socket
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.config import LimitOptions
from chatd.errors import Disconnect
from chatd.ids import new_id
from chatd.limits.admission import Admission
from chatd.metrics import Metrics
from chatd.nursery import Door
from chatd.protocol import Authenticate, SendMessage, encode
from chatd.records import parse_json
from chatd.wire.frames import Calling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from chatd.chat.canary import Stage
    from chatd.chat.context import Chat

log = telemetry.get_logger(__name__)

#: A part is stale when this many of its proofs in a row are missing.
MISSES: Final = 4
#: Between two looks at how late the loop is, and how late is too late.
TICK_S: Final = 0.5
STALL_S: Final = 1.0
_STOPPED: Final[dict[Stage, str]] = {
    "sent": "It was sent to the daemon's own port and nobody has read it.",
    "read": "It was read and is not committed yet.",
    "committed": "It was committed and has not come back from the bus.",
    "heard": "It came back from the bus and has not come out of the socket.",
}


class Lost(Exception):
    """The connection is of no use any more; `str()` says why."""


@dataclass(frozen=True, slots=True)
class Line:
    """An upgraded connection to oneself."""

    stream: trio.abc.Stream
    calling: Calling

    async def ask(self, text: str) -> None:
        await self.stream.send_all(self.calling.say(text))

    async def wait_for(self, name: str, value: str) -> None:
        """Wait for a text that says so. Raises `Lost`."""
        while True:
            for text in await self.receive():
                if parse_json(text.encode()).get(name) == value:
                    return

    async def receive(self) -> list[str]:
        data = await self.stream.receive_some()
        if not data:
            raise Lost("The daemon closed the connection.")
        return self.calling.receive(bytes(data))


def with_own_door(door: Door) -> Door:
    """The door, with one beside it for the canary: the same chat, and limits and numbers of its own."""
    limits = LimitOptions(connections=0, connections_per_address=0, new_connections_per_second=0)
    admission = Admission(limits, trio.current_time)
    own = Door(door.chat, door.options, admission, Metrics(), certificate=door.certificate, is_own=True)
    return replace(door, own=own)


async def run_canary(
    chat: Chat,
    listeners: Sequence[socket.socket],
    every_s: float,
    draining: trio.Event,
    *,
    speaks_tls: bool = False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Prove that this daemon delivers, until it drains; it has started when the first try is over.

    Where its own port speaks TLS, so does the canary, which knows whom it talks to without a look at the certificate.
    """
    prover = _Prover(chat, listeners[0], every_s, _trusting() if speaks_tls else None)
    await chat.bus.subscribe([chat.canary.room_id])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_loop, chat)
        await nursery.start(prover.keep_proving)
        task_status.started()
        await draining.wait()
        nursery.cancel_scope.cancel()


@dataclass(slots=True)
class _Prover:
    chat: Chat
    listener: socket.socket
    every_s: float
    tls: ssl.SSLContext | None

    async def keep_proving(self, *, task_status: trio.TaskStatus[None]) -> None:
        has_tried = False
        is_out = False
        while True:
            fault = "It could not connect to the daemon's own port."
            try:
                with trio.fail_after(self.every_s) as patience:
                    async with self._open_line() as line:
                        while True:
                            fault = ""
                            await self._beat(line)
                            if is_out:
                                log.info("delivery_proven_again")
                            is_out = False
                            if not has_tried:
                                has_tried = True
                                task_status.started()
                            patience.deadline = math.inf
                            await trio.sleep(self.every_s)
                            patience.deadline = trio.current_time() + self.every_s
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, Lost, Disconnect) as error:
                fault = f"Its connection ended: {_sentence(error)}"
            except trio.TooSlowError:
                fault = fault or self._where_it_stopped()
            self.chat.health.fail("canary", fault)
            if not is_out:
                log.warning("delivery_not_proven", detail=fault)
            is_out = True
            if not has_tried:
                has_tried = True
                task_status.started()
            await trio.sleep(min(1.0, self.every_s))

    async def _beat(self, line: Line) -> None:
        canary, began, beat = self.chat.canary, trio.current_time(), new_id()
        canary.stage, canary.refusal = "sent", None
        await line.ask(encode(SendMessage(room_id=canary.room_id, content=beat)).decode())
        await line.wait_for("beat", beat)
        self.chat.health.prove("canary", lasts_s=MISSES * self.every_s)
        self.chat.metrics.canary_seconds.observe(trio.current_time() - began)

    def _where_it_stopped(self) -> str:
        refusal = self.chat.canary.refusal
        return _STOPPED[self.chat.canary.stage] if refusal is None else f"It was not committed: {refusal.detail}"

    @asynccontextmanager
    async def _open_line(self) -> AsyncIterator[Line]:
        """A connection that has authenticated, closed at the end of the block."""
        canary = self.chat.canary
        with trio.socket.socket(self.listener.family, socket.SOCK_STREAM) as sock:
            host, port = _reached_at(self.listener)
            try:
                # Bound before it connects, so that the door knows whose it is.
                await sock.bind((host, 0))
                canary.address = sock.getsockname()[:2]
                await sock.connect((host, port))
                stream: trio.abc.Stream = trio.SocketStream(sock)
                if self.tls is not None:
                    stream = trio.SSLStream(stream, self.tls, server_hostname=host)
                line = Line(stream, Calling(f"{host}:{port}"))
                await stream.send_all(line.calling.greeting)
                while not line.calling.is_accepted:
                    await line.receive()
                await line.ask(encode(Authenticate(token=canary.token, id="canary")).decode())
                await line.wait_for("id", "canary")
                yield line
            finally:
                canary.address = canary.session = None


def _reached_at(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - where it listens already


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _sentence(error: BaseException) -> str:
    if isinstance(error, Disconnect):
        return f"{error.code} {error.reason}."
    return f"{str(error).rstrip('.') or type(error).__name__}."


async def _watch_loop(chat: Chat) -> None:
    """Say how late the event loop is: everything waits while one step of it takes long."""
    chat.health.prove("loop", lasts_s=STALL_S + 4 * TICK_S)
    while True:
        due = trio.current_time() + TICK_S
        await trio.sleep_until(due)
        late_s = max(0.0, trio.current_time() - due)
        chat.metrics.loop_lag_seconds.observe(late_s)
        if late_s < STALL_S:
            chat.health.prove("loop", lasts_s=STALL_S + 4 * TICK_S)
        else:
            chat.health.fail("loop", f"It stood still for {late_s:.1f} s.")
            log.warning("loop_stood_still", seconds=round(late_s, 3))
