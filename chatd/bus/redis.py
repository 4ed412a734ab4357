"""The bus between nodes, carried by Redis, which may lose all of it without a message lost.

Two connections live and die together: one sends, one hears. What serves them are asyncio tasks that begin in
`open_redis_bus` and end with it; nobody crosses from Trio to asyncio for a message, for what waits on either side is
woken by a sync call. When the link is lost, nothing fails: `Bus` says what happens meanwhile, and a new one is tried
for with backoff, subscribed again, and only then called back. `link` speaks to Redis, `outgoing` and `subscriptions`
hold what waits for it, `notices` and `devices` what has to outlive it.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.asyncio_loop import run_asyncio
from chatd.bus.devices import Devices
from chatd.bus.hearing import Hearing
from chatd.bus.link import LinkLost, Refused, first_sentence, open_link, watch_links
from chatd.bus.local import Budgets
from chatd.bus.notices import Notices
from chatd.bus.outgoing import MAX_WAITING_BYTES, Call, Outgoing, Publication
from chatd.bus.payload import Malformed, decode_word, encode_broadcasts, encode_event, encode_signal, encode_word
from chatd.bus.scripts import TAKE
from chatd.bus.seldom import SeldomLogger
from chatd.bus.subscriptions import Subscriptions
from chatd.bus.trial import greet
from chatd.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from chatd.bus.link import Link, Reply
    from chatd.bus.notices import Kept
    from chatd.bus.payload import Word
    from chatd.bus.port import Broadcast, Ears, Event, Notice, Seconds
    from chatd.limits.rates import Rate

log = telemetry.get_logger(__name__)

#: Redis forgets the counts of a node that has been silent for so long.
EXPIRY_S: Final = 30.0
#: Between two tries to connect lies a random time up to this, which doubles up to the second.
RETRY_S: Final = (0.05, 1.0)
#: Channels in one SUBSCRIBE.
MAX_CHANNELS: Final = 500
#: What was lost at about the same time is told once.
TELL_LOSS_S: Final = 0.05


class RedisBus:
    """`Bus` by way of Redis. Made by `open_redis_bus`."""

    def __init__(
        self, prefix: str, *, node: str, timeout_s: float, seconds: Seconds, expiry_s: float, max_waiting_bytes: int
    ) -> None:
        self._prefix = prefix
        self._node = node
        self._timeout_s = timeout_s
        self._expiry_s = expiry_s
        self._loop = asyncio.get_running_loop()
        self._hearing = Hearing()
        self._budgets = Budgets(seconds)
        self._notices_channel = f"{prefix}:notices".encode()
        # What the tasks sleep on.
        self._has_outgoing = asyncio.Event()
        self._has_changes = asyncio.Event()
        self._has_confirmed = asyncio.Event()
        self._is_doubted = asyncio.Event()
        self._outgoing = Outgoing(
            on_waiting=self._has_outgoing.set, on_loss=self._lose, max_waiting_bytes=max_waiting_bytes
        )
        self._subscriptions = Subscriptions(
            f"{prefix}:room:", always=self._notices_channel, on_change=self._has_changes.set
        )
        self._notices = Notices(node)
        self._devices = Devices(
            prefix, node=node, expiry_s=expiry_s, on_change=self._has_outgoing.set, on_online=self._hearing.online,
            send=self._outgoing.add,
        )  # fmt: skip
        self._is_back = asyncio.Event()
        self._is_beat_due = False
        # Something published was lost: told here soon, and to the others when they can be told.
        self._loss_told_by: asyncio.TimerHandle | None = None
        self._has_lost = False
        self._seldom = SeldomLogger(log)
        self.is_out = True
        #: Set when the first try to connect has ended; whether it succeeded, whatever came since, or how it failed.
        self._tried = trio.Event()
        self._has_connected = False
        self._fault = ""
        self._is_closing = False
        self._drained = trio.Event()

    # -- what the daemon asks -----------------------------------------------------------------------------------------

    def attach(self, ears: Ears) -> None:
        self._hearing.attach(ears)

    def publish(self, events: Sequence[Event]) -> None:
        if self.is_out:
            self._lose(None)
            return
        channel_of, publish = self._subscriptions.channel_of, self._outgoing.publish
        for event in events:
            publish(channel_of(event.room_id), encode_event(event))

    def signal(self, room_id: str, body: bytes, *, about: str, kind: str = "") -> None:
        if not self.is_out:
            self._outgoing.publish_signal(self._subscriptions.channel_of(room_id), encode_signal(body, about, kind))

    def broadcast(self, broadcasts: Sequence[Broadcast]) -> None:
        for payload in encode_broadcasts(broadcasts):
            if self.is_out:
                self._hearing.broadcasts(payload)
            else:
                self._outgoing.publish_signal(self._notices_channel, payload)

    def announce(self, notice: Notice) -> None:
        kept = self._notices.keep(notice)
        if self.is_out:
            self._hearing.notices(self._notices.unheard())
        else:
            self._send_notice(kept)

    async def subscribe(self, room_ids: Iterable[str]) -> None:
        waits = self._subscriptions.want(room_ids)
        if self.is_out:
            return
        with trio.move_on_after(self._timeout_s) as patience:
            for confirmed in waits:
                await confirmed.wait()
        if patience.cancelled_caught:
            # Whoever asked goes on without knowing; so the link has to come back, which tells to look again.
            self._is_doubted.set()

    async def unsubscribe(self, room_ids: Iterable[str]) -> None:
        self._subscriptions.unwant(room_ids)

    async def take(self, key: str, rate: Rate, *, count: int = 1) -> int:
        if rate.burst <= 0:
            return 0
        if not self.is_out:
            call = Call(TAKE, [f"{self._prefix}:rate:{key}"], [rate.burst, rate.per_s, count])
            self._outgoing.add(call)
            reply = await call.wait()
            if type(reply) is int:
                return reply
            self._note_refusal(reply)
        return self._budgets.take(key, rate, count=count)

    def arrived(self, user_id: str) -> None:
        self._devices.arrived(user_id)

    def appeared(self, user_id: str) -> None:
        self._devices.appeared(user_id)

    def departed(self, user_id: str, *, grace_s: float = 0.0) -> None:
        self._devices.departed(user_id, grace_s)

    async def devices(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        return await self._devices.total(user_ids)

    async def online(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        return await self._devices.online(user_ids)

    async def claim_offline(self) -> Sequence[str]:
        return await self._devices.claim_offline()

    # -- what is heard ------------------------------------------------------------------------------------------------

    def _hear(self, channel: bytes, payload: bytes) -> None:
        room_id = self._subscriptions.room_of(channel)
        try:
            if room_id is not None:
                self._hearing.payload(room_id, payload)
            elif channel == self._notices_channel and not self._hearing.broadcasts(payload):
                self._hear_word(decode_word(payload))
        except Malformed:
            self._seldom.warning("bus_heard_nonsense", channel=channel.decode(errors="replace"), size=len(payload))

    def _hear_word(self, word: Word) -> None:
        notices, is_gap = self._notices.hear(word)
        self._hearing.notices(notices)
        if is_gap:
            log.warning("notices_missed", node=word.node)
            self._hearing.come_back()
        elif word.has_lost:
            self._hearing.loss()

    # -- what is lost -------------------------------------------------------------------------------------------------

    def _lose(self, reply: Reply) -> None:
        """Something published has not reached everybody."""
        self._note_refusal(reply)
        self._has_lost = True
        if self._loss_told_by is None and not self._is_closing:
            self._loss_told_by = self._loop.call_later(TELL_LOSS_S, self._tell_loss)

    def _tell_loss(self) -> None:
        self._loss_told_by = None
        if not self.is_out:
            self._send_word()
        self._hearing.loss()

    def _note_refusal(self, reply: Reply) -> None:
        if type(reply) is Refused:
            self._seldom.warning("bus_refused", detail=reply.detail)

    # -- what is sent beside events -----------------------------------------------------------------------------------

    def _send_notice(self, kept: Kept) -> None:
        payload = encode_word(self._notices.word_of(kept))
        on_sent = partial(self._notices.forget_sent, kept)
        self._outgoing.publish_word(Publication(self._notices_channel, payload, on_sent=on_sent))

    def _send_word(self) -> None:
        """Tell the other nodes how far the notices have come, and whether something was lost."""
        word, self._has_lost = self._notices.word(has_lost=self._has_lost, is_last=self._is_closing), False
        self._outgoing.publish_word(Publication(self._notices_channel, encode_word(word)))

    # -- life on the loop ---------------------------------------------------------------------------------------------

    async def _run(self, url: str) -> None:
        """Be connected, again and again. Ends when the first try fails, and with the link once the bus closes."""
        attempts = 0
        try:
            while not self._is_closing:
                began_at = self._loop.time()
                fault = ""
                try:
                    await self._serve(url)
                except* LinkLost as lost:
                    fault = first_sentence(lost)
                if not self._tried.is_set():
                    self._fault = fault
                    return
                self._go_out(fault)
                # A link that held for a while was a good one.
                attempts = 0 if self._loop.time() - began_at > 2 * RETRY_S[1] else attempts + 1
                most_s = min(RETRY_S[0] * 2**attempts, RETRY_S[1])
                await asyncio.sleep(random.uniform(0, most_s))  # noqa: S311 - spreads load, no secret
        finally:
            self._let_go()
            self._tried.set()
            self._drained.set()

    async def _serve(self, url: str) -> None:
        """Serve one link until it is lost, which raises `LinkLost`, alone or in groups."""
        async with (
            open_link(url, timeout_s=self._timeout_s) as sending,
            open_link(url, timeout_s=self._timeout_s) as hearing,
        ):
            await self._greet(sending)
            self._is_back = asyncio.Event()
            self._is_doubted.clear()
            self._subscriptions.begin()
            self._has_changes.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear_all(hearing))
                tasks.create_task(self._subscribe_all(hearing))
                tasks.create_task(watch_links(sending, hearing, timeout_s=self._timeout_s, doubted=self._is_doubted))
                await self._is_back.wait()
                tasks.create_task(self._beat_all())
                tasks.create_task(self._send_all(sending))

    async def _greet(self, link: Link) -> None:
        """Try all that will be needed, make the scripts known, and take away what another life has left."""
        await greet(link, self._prefix, self._node, self._notices.word_before_unsent(has_lost=self._has_lost))
        self._has_lost = False

    async def _hear_all(self, link: Link) -> None:
        while True:
            match await link.read():
                case [b"message", channel, payload]:
                    self._hear(channel, payload)
                case [b"subscribe" | b"unsubscribe", *_]:
                    self._subscriptions.confirm()
                    self._has_confirmed.set()
                    if not self._is_back.is_set() and self._subscriptions.is_settled:
                        self._come_back()
                case Refused(detail):
                    raise LinkLost(f"Redis refuses a subscription: {detail}.")

    async def _subscribe_all(self, link: Link) -> None:
        """Tell Redis of changes, a part at a time, so that what waits in the kernel never holds up a ping."""
        while True:
            await self._has_changes.wait()
            if commands := self._subscriptions.take_changes(MAX_CHANNELS):
                await link.send(commands)
            while self._subscriptions.is_under_way:
                self._has_confirmed.clear()
                await self._has_confirmed.wait()
            if not self._subscriptions.has_changes:
                self._has_changes.clear()

    async def _send_all(self, link: Link) -> None:
        while True:
            await self._has_outgoing.wait()
            self._has_outgoing.clear()
            for call in self._devices.take():
                self._outgoing.add(call)
            if self._is_beat_due:
                self._is_beat_due = False
                self._outgoing.add(self._devices.beat())
                self._send_word()
            if commands := self._outgoing.take():
                self._outgoing.settle(await link.talk(commands))
            if self._outgoing.has_waiting or self._devices.has_waiting:
                self._has_outgoing.set()
            elif self._is_closing and self._outgoing.is_empty:
                await link.exchange(self._devices.farewell())
                # Ends the other tasks of the link as well.
                raise LinkLost("The bus is closed.")

    async def _beat_all(self) -> None:
        while True:
            self._is_beat_due = True
            self._has_outgoing.set()
            for node in self._notices.beat():
                log.warning("node_silent", node=node)
                self._hearing.come_back()
            await asyncio.sleep(self._expiry_s / 3)

    def _come_back(self) -> None:
        """Everything that is wished for is subscribed."""
        self._is_back.set()
        self.is_out = False
        self._devices.begin()
        for kept in self._notices.unsent():
            self._send_notice(kept)
        if self._tried.is_set():
            log.info("bus_back")
            self._hearing.come_back()
        self._has_connected = True
        self._tried.set()

    def _go_out(self, fault: str) -> None:
        """The link is lost, or a try to connect has failed."""
        if not self.is_out and not self._is_closing:
            log.warning("bus_out", detail=fault)
        self._let_go()
        self._notices.forget_others()
        self._hearing.notices(self._notices.unheard())

    def _let_go(self) -> None:
        """Nobody waits for Redis any longer, and what can be done without it is done."""
        self.is_out = True
        self._subscriptions.end()
        self._outgoing.lose()
        self._devices.lose()

    async def _close(self) -> None:
        """Send what waits and take this node's counts away, if that can be done within `timeout_s`."""
        self._is_closing = True
        if not self.is_out:
            self._send_word()
            with trio.move_on_after(self._timeout_s, shield=True):
                await self._drained.wait()


@asynccontextmanager
async def open_redis_bus(
    url: str,
    *,
    prefix: str,
    timeout_s: float,
    node: str,
    seconds: Seconds,
    expiry_s: float = EXPIRY_S,
    max_waiting_bytes: int = MAX_WAITING_BYTES,
) -> AsyncIterator[RedisBus]:
    """A bus that is connected, on the asyncio loop of the caller's block; `node` is unlike that of any other process.

    Raises `Unavailable` if it cannot be connected to begin with. At the end of the block what waits is sent.
    """
    bus = RedisBus(
        prefix, node=node, timeout_s=timeout_s, seconds=seconds, expiry_s=expiry_s, max_waiting_bytes=max_waiting_bytes
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_asyncio, bus._run(url))
        await bus._tried.wait()
        if not bus._has_connected:
            nursery.cancel_scope.cancel()
        else:
            try:
                yield bus
            finally:
                await bus._close()
                bus._hearing.detach()
                nursery.cancel_scope.cancel()
    if bus._fault:
        raise Unavailable(bus._fault)
