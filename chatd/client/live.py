"""The tasks of a client: one keeps a connection and reads it, one writes, one listens for its pulse, one renews tokens.

`open_client` starts them and they live as long as its block. Decisions are those of `core` and `timing`; in here is
only what waits. Between two waits everything is decided and changed at once, so a cancelled task loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from chatd import telemetry
from chatd.client.core import Core, RoomEvent, kind_of, place_of
from chatd.client.errors import ClientClosed, ClientError, Disconnected, ProtocolFault, UpgradeRefused
from chatd.client.link import Address, Closed, Link, NoLink, open_link
from chatd.client.streams import Connected, Lost, Notice, Stream
from chatd.client.timing import Backoff, Pulse, renew_in_s
from chatd.clock import wall_clock_ms
from chatd.errors import CloseCode
from chatd.protocol import Authenticated, Ping, decode_server, encode

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from chatd.client.recording import Recorder, What

log = telemetry.get_logger(__name__)

Refresh: TypeAlias = "Callable[[], Awaitable[str]]"

PING: Final = encode(Ping()).decode()
#: HTTP answers to an upgrade that may be another one later (RFC 9110, RFC 6585, RFC 8470); other 4xx will not.
PASSING_STATUSES: Final = frozenset({408, 425, 429})
#: Its client authenticates at once, so it was the line that was slow.
PASSING_CODES: Final = frozenset({CloseCode.AUTH_TIMEOUT})


@dataclass
class Live:
    """A client's connection of the moment and all who wait for something."""

    address: Address
    token: str
    refresh: Refresh | None
    core: Core
    backoff: Backoff
    recorder: Recorder
    ssl_context: ssl.SSLContext | None = None
    on_notice: Callable[[Notice], object] | None = None
    events: list[Stream[RoomEvent]] = field(default_factory=list)
    notices: list[Stream[Notice]] = field(default_factory=list)
    #: Set when a connection has been authenticated for the first time, or never will be.
    is_begun: trio.Event = field(default_factory=trio.Event)
    #: Set when the user's code runs, and may have opened its streams.
    is_attended: trio.Event = field(default_factory=trio.Event)
    #: Nothing more comes; `failure` is why, unless the block was left.
    is_over: bool = False
    failure: ClientError | None = None
    stays: int = 0
    _link: Link | None = None
    _pulse: Pulse = field(default_factory=lambda: Pulse(0.0))
    _is_holding: bool = False
    _wants_ping: bool = False
    _needs_token: bool = False
    #: A fresh token was asked for since the last `authenticated`.
    _has_renewed: bool = False
    _renew_at: float = float("inf")
    _renewing: trio.Lock = field(default_factory=trio.Lock)
    _changed: trio.Event = field(default_factory=trio.Event)

    # -- what others ask of it ----------------------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        return self._link is not None and self.core.is_live

    def stir(self) -> None:
        """Something changed that a task may wait for."""
        self._changed.set()
        self._changed = trio.Event()

    def end(self, failure: ClientError | None) -> None:
        """Nothing more comes: tell all who wait. The first reason counts."""
        if self.is_over:
            return
        self.is_over, self.failure = True, failure
        streams: tuple[Stream[Any], ...] = (*self.events, *self.notices)
        for stream in streams:
            stream.end(failure)
        self.core.requests.fail(failure or ClientClosed())
        self.is_begun.set()

    def note_taken(self, stream: Stream[Any]) -> None:
        """Somebody took from a stream, or closed it."""
        if stream.is_over:
            self.events = [each for each in self.events if each is not stream]
            self.notices = [each for each in self.notices if each is not stream]
        elif self.recorder.is_on and (index := _index(self.events, stream)) is not None and stream.taken is not None:
            room_id, seq = place_of(stream.taken)
            told = {"stream": index, "type": kind_of(stream.taken), "roomId": room_id, "seq": seq}
            self.recorder.note(self.stays, "handed", told)
        if self._is_holding or self.core.behind or stream.is_over:
            self.stir()

    # -- the connection -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, read, and connect again, until the server asks not to."""
        while True:
            reason, after_s = await self._connect()
            self.core.lose()
            if self.failure is not None:
                return
            wait_s = self.backoff.next_s() if after_s is None else after_s
            self._tell(Lost(reason, wait_s))
            await trio.sleep(wait_s)

    async def _connect(self) -> tuple[str, float | None]:
        """One connection from its beginning to its end: why it ended, and the seconds that the server asked for."""
        if self._needs_token and not await self._renew(self.token):
            return "there is no fresh token yet", None
        self._pulse = Pulse(trio.current_time())
        self.stays += 1
        self.recorder.note(self.stays, "opens", {"port": self.address.port})
        closed = Closed(CloseCode.ABNORMAL, "the server fell silent")
        try:
            async with open_link(self.address, on_bytes=self._hear_bytes, ssl_context=self.ssl_context) as link:
                closed = await self._talk(link)
        except NoLink as no_link:
            return self._judge_no_link(no_link)
        finally:
            self.recorder.note(self.stays, "ends", {"code": CloseCode.NORMAL if self.is_over else closed.code})
            self._link = None
        return self._judge(closed)

    def _hear_bytes(self) -> None:
        self._pulse.hear(trio.current_time())

    async def _talk(self, link: Link) -> Closed:
        """Authenticate, then read until the connection is over."""
        hello = self.core.begin(self.token)
        self._link = link
        self.stir()
        self._note("sent", hello)
        await link.send(hello)
        while True:
            await self._wait_for_space()
            text = await link.receive()
            if isinstance(text, Closed):
                return text
            try:
                self._hear(text)
            except ValueError as fault:
                self.end(ProtocolFault(f"The server sent what is no message of the protocol: {fault}."))
                return Closed(CloseCode.NORMAL, "")
            if self.core.line.must_reconnect:
                return Closed(CloseCode.TRY_LATER, "the server cannot let anybody in now")
            if not self.is_attended.is_set() and self.core.is_live:
                await self.is_attended.wait()

    def _hear(self, text: str) -> None:
        """Take in one message; nothing waits in here."""
        self._note("heard", text)
        message = decode_server(text)
        was_live = self.core.is_live
        told = self.core.hear(message, trio.current_time(), has_space=self._has_space)
        if isinstance(message, Authenticated):
            self._hear_authenticated(message, is_new=self.core.is_live and not was_live)
        if told is not None:
            self._hand_on(told)
        if told is None or not isinstance(told, RoomEvent) or self.core.behind:
            self.stir()

    def _hear_authenticated(self, message: Authenticated, *, is_new: bool) -> None:
        self.recorder.name(message.user_id)
        left_s = datetime.fromisoformat(message.expires_at).timestamp() - wall_clock_ms() / 1000
        self._renew_at = trio.current_time() + renew_in_s(left_s)
        self._has_renewed = False
        if is_new:
            self._pulse.authenticated(message.heartbeat_seconds)
            self.backoff.reset()
            self._tell(Connected(is_first=not self.is_begun.is_set()))
            self.is_begun.set()

    def _hand_on(self, told: RoomEvent | Notice) -> None:
        if isinstance(told, RoomEvent):
            for stream in self.events:
                if stream.wants(place_of(told)[0]):
                    stream.put(told)
        else:
            self._tell(told)

    def _tell(self, notice: Notice) -> None:
        if self.on_notice is not None:
            self.on_notice(notice)
        for stream in self.notices:
            stream.put_or_drop(notice)

    def _note(self, what: What, text: str) -> None:
        if self.recorder.is_on:
            self.recorder.note(self.stays, what, text)

    # -- why it ended -------------------------------------------------------------------------------------------------

    def _judge(self, closed: Closed) -> tuple[str, float | None]:
        refused, after_s = self.core.line.auth_error, self.core.line.reconnect_after_s
        reason = closed.reason or f"closed with {closed.code}"
        if refused is not None:
            reason = refused.message
        is_expired = closed.code == CloseCode.TOKEN_EXPIRED or (refused is not None and refused.code == "token_expired")
        if is_expired and self.refresh is not None and not self._has_renewed:
            self._needs_token = True
            return reason, after_s
        if 4500 <= closed.code <= 4999 and closed.code not in PASSING_CODES:
            self.end(Disconnected(closed.code, reason))
        return reason, after_s

    def _judge_no_link(self, no_link: NoLink) -> tuple[str, float | None]:
        status = no_link.status
        if status is not None and 400 <= status <= 499 and status not in PASSING_STATUSES:
            self.end(UpgradeRefused(status, no_link.reason))
        after_s = no_link.retry_after_s
        # many are told the same number of seconds, so the draw comes on top
        return no_link.reason or f"HTTP {status}", None if after_s is None else self.backoff.next_s(at_least_s=after_s)

    # -- space --------------------------------------------------------------------------------------------------------

    def _has_space(self, room_id: str) -> bool:
        return not any(stream.is_full for stream in self.events if stream.wants(room_id))

    @property
    def _may_catch_up(self) -> bool:
        return not any(stream.is_half_full for stream in self.events)

    async def _wait_for_space(self) -> None:
        """Read nothing while a stream is full, unless the user waits for an answer and so cannot take."""
        if not any(stream.is_full for stream in self.events):
            return
        self._is_holding = True
        try:
            while any(stream.is_full for stream in self.events) and not self.core.is_asked:
                await self._changed.wait()
        finally:
            self._is_holding = False
            self._hear_bytes()

    # -- writing ------------------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Send what is to be sent, whenever there is something and a connection for it."""
        while True:
            now = trio.current_time()
            link, texts = self._link, []
            if link is not None:
                if self._wants_ping:
                    texts.append(PING)
                self._wants_ping = False
                texts += self.core.take(now, may_catch_up=self._may_catch_up)
                for text in texts:
                    self._note("sent", text)
                    await link.send(text)
            if not texts:
                with trio.move_on_at(self.core.due_at(now, may_catch_up=self._may_catch_up)):
                    await self._changed.wait()

    async def beat(self) -> None:
        """Ask a silent server for a sign of life, and give up one that gives none."""
        while True:
            now = trio.current_time()
            link = self._link
            due_at = float("inf")
            if link is not None and not self._is_holding:
                if now >= self._pulse.dead_at:
                    self._link = None
                    link.abort()
                    continue
                if self._pulse.wants_ping(now):
                    self._wants_ping = True
                    self.stir()
                due_at = self._pulse.due_at
            with trio.move_on_at(due_at):
                await self._changed.wait()

    # -- tokens -------------------------------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Fetch a new token before the old one ends, on the live connection."""
        while self.refresh is not None:
            with trio.move_on_at(self._renew_at):
                await self._changed.wait()
                continue
            if not await self._renew(self.token):
                self._renew_at = trio.current_time() + self.backoff.next_s()

    async def _renew(self, old: str) -> bool:
        """Whether there is a token now that is not the old one."""
        assert self.refresh is not None
        async with self._renewing:
            if self.token != old:
                return True
            try:
                token = await self.refresh()
            except (OSError, trio.TooSlowError) as error:
                log.warning("token_not_renewed", detail=str(error))
                return False
            self.token = token
            self._has_renewed, self._needs_token = True, False
            self._renew_at = float("inf")
            self.core.renew(token)
            self.stir()
            return True


def _index(streams: list[Stream[Any]], stream: Stream[Any]) -> int | None:
    return next((index for index, each in enumerate(streams) if each is stream), None)
