"""Buses for tests: every implementation of the port under its name, and ears that write down what they hear.

Another implementation is one more line in `KINDS`; what is heard may come later there, so tests wait for it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd.bus.local import LocalBus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from chatd.bus.port import Bus, Event, Notice, Seconds


class Ticker:
    """A clock for rates that stands still until it is turned, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class RecordingEars:
    """Ears that keep what they heard."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.signals: list[tuple[str, bytes, str]] = []
        self.notices: list[Notice] = []
        self.losses = 0
        self.returns = 0
        self._has_heard = trio.Event()

    def hear_events(self, events: Sequence[Event]) -> None:
        self.events.extend(events)
        self._has_heard.set()

    def hear_signal(self, room_id: str, body: bytes, about: str) -> None:
        self.signals.append((room_id, body, about))
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
async def _local(seconds: Seconds) -> AsyncIterator[Bus]:
    yield LocalBus(seconds)


#: How a bus of each kind is opened.
KINDS: dict[str, Callable[[Seconds], AbstractAsyncContextManager[Bus]]] = {"local": _local}


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
