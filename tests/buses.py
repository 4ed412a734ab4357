"""Buses for tests: every implementation of the port under its name, and ears that write down what they hear.

Another implementation is one more line in `KINDS`; what is heard may come later there, so tests wait for it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest
import redis
import trio

from chatd.asyncio_loop import open_asyncio_loop
from chatd.bus.local import LocalBus
from chatd.bus.redis import RedisBus, open_redis_bus
from chatd.ids import new_id
from tests.servers import shared_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from chatd.bus.port import Broadcast, Bus, Event, Notice, Seconds


class Ticker:
    """A clock for rates that stands still until it is turned, in seconds; `on_turn` turns what has its own."""

    def __init__(self) -> None:
        self._now = 1000.0
        self.on_turn: Callable[[float], None] = lambda _: None

    def __call__(self) -> float:
        return self._now

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        self.on_turn(now - self._now)
        self._now = now


class RecordingEars:
    """Ears that keep what they heard."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        #: How many events came at once, each time.
        self.together: list[int] = []
        self.signals: list[tuple[str, bytes, str]] = []
        #: The kinds of those signals that have one.
        self.kinds: list[str] = []
        self.broadcasts: list[Broadcast] = []
        self.online: list[str] = []
        self.notices: list[Notice] = []
        self.losses = 0
        self.returns = 0
        self._has_heard = trio.Event()

    def hear_events(self, events: Sequence[Event]) -> None:
        self.events.extend(events)
        self.together.append(len(events))
        self._has_heard.set()

    def hear_signal(self, room_id: str, body: bytes, about: str, kind: str = "") -> None:
        self.signals.append((room_id, body, about))
        self.kinds += [kind] if kind else []
        self._has_heard.set()

    def hear_broadcasts(self, broadcasts: Sequence[Broadcast]) -> None:
        self.broadcasts.extend(broadcasts)
        self._has_heard.set()

    def hear_online(self, user_ids: Sequence[str]) -> None:
        self.online.extend(user_ids)
        self._has_heard.set()

    def hear_notice(self, notice: Notice) -> None:
        self.notices.append(notice)
        self._has_heard.set()

    def hear_loss(self) -> None:
        self.losses += 1
        self._has_heard.set()

    def hear_return(self) -> None:
        self.returns += 1
        self._has_heard.set()

    async def wait_until(self, is_heard: Callable[[], Any]) -> None:
        """Wait until what has been heard is enough."""
        with trio.fail_after(10):
            while not is_heard():
                self._has_heard = trio.Event()
                await self._has_heard.wait()


@asynccontextmanager
async def _local(ticker: Ticker) -> AsyncIterator[Bus]:
    yield LocalBus(ticker)


@asynccontextmanager
async def _redis(ticker: Ticker) -> AsyncIterator[Bus]:
    """On the run's Redis, which has a clock of its own: instead of turning it, what it was told of times is turned."""
    prefix = new_id()
    client = redis.Redis.from_url(shared_redis().url)

    def turn(by_s: float) -> None:
        for key in client.scan_iter(f"{prefix}:rate:*"):
            client.set(key, float(client.get(key) or 0) - by_s, keepttl=True)

    ticker.on_turn = turn
    with closing(client):
        async with open_asyncio_loop(), open_node(shared_redis().url, prefix=prefix, seconds=ticker) as bus:
            yield bus


@asynccontextmanager
async def open_node(
    url: str, *, prefix: str = "test", node: str = "", timeout_s: float = 10, seconds: Seconds = trio.current_time,
    expiry_s: float = 30, max_waiting_bytes: int = 1_000_000,
) -> AsyncIterator[RedisBus]:  # fmt: skip
    """A node's bus on Redis, on the asyncio loop of the caller's block."""
    async with open_redis_bus(
        url, prefix=prefix, timeout_s=timeout_s, node=node or new_id(), seconds=seconds, expiry_s=expiry_s,
        max_waiting_bytes=max_waiting_bytes,
    ) as bus:  # fmt: skip
        yield bus


#: How a bus of each kind is opened.
KINDS: dict[str, Callable[[Ticker], AbstractAsyncContextManager[Bus]]] = {"local": _local, "redis": _redis}


@pytest.fixture
def ticker() -> Ticker:
    """The clock of the bus's rates."""
    return Ticker()


@pytest.fixture
def ears() -> RecordingEars:
    """What is attached to the bus."""
    return RecordingEars()


@pytest.fixture(params=KINDS)
async def bus(request: pytest.FixtureRequest, ticker: Ticker, ears: RecordingEars) -> AsyncIterator[Bus]:
    """A bus of each kind with ears attached."""
    async with KINDS[request.param](ticker) as opened:
        opened.attach(ears)
        yield opened
