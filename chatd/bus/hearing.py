"""What a bus tells its ears: events together that arrived together, all of it in order, no defect of theirs felt here.

An asyncio task hears one message after the other without a pause while more have arrived; what it collected here is
delivered as soon as it does pause. `redis` uses it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from chatd import telemetry
from chatd.bus.payload import SIGNAL, decode_broadcasts, decode_events, decode_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import ParamSpec

    from chatd.bus.port import Ears, Event, Notice

    P = ParamSpec("P")

log = telemetry.get_logger(__name__)


class Hearing:
    """The ears, once they are attached; without ears nothing is told."""

    def __init__(self) -> None:
        self._ears: Ears | None = None
        self._loop = asyncio.get_running_loop()
        self._heard: list[Event] = []

    def attach(self, ears: Ears) -> None:
        self._ears = ears

    def detach(self) -> None:
        self._ears = None

    def payload(self, room_id: str, payload: bytes) -> None:
        """What was published in a room. Raises `Malformed`."""
        if payload.startswith(SIGNAL):
            body, about, kind = decode_signal(payload)
            self._deliver()
            if self._ears is not None:
                self._tell(self._ears.hear_signal, room_id, body, about, kind)
            return
        events = decode_events(room_id, payload)
        if not self._heard:
            # Runs once all has been read that has arrived by now.
            self._loop.call_soon(self._deliver)
        self._heard += events

    def notices(self, notices: Sequence[Notice]) -> None:
        self._deliver()
        for notice in notices:
            if self._ears is not None:
                self._tell(self._ears.hear_notice, notice)

    def broadcasts(self, payload: bytes) -> bool:
        """What all nodes are told, if it is broadcasts; whether it was. Raises `Malformed`."""
        if not payload.startswith(SIGNAL):
            return False
        broadcasts = decode_broadcasts(payload)
        self._deliver()
        if self._ears is not None:
            self._tell(self._ears.hear_broadcasts, broadcasts)
        return True

    def online(self, user_ids: Sequence[str]) -> None:
        if self._ears is not None:
            self._tell(self._ears.hear_online, user_ids)

    def loss(self) -> None:
        if self._ears is not None:
            self._tell(self._ears.hear_loss)

    def come_back(self) -> None:
        if self._ears is not None:
            self._tell(self._ears.hear_return)

    def _deliver(self) -> None:
        if self._heard:
            events, self._heard = self._heard, []
            if self._ears is not None:
                self._tell(self._ears.hear_events, events)

    def _tell(self, hear: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            hear(*args, **kwargs)
        except Exception:
            # A defect in who hears must not end the hearing.
            log.exception("hearing_failed")
