"""The bus of a single process: what is published is heard at once, on the same stack.

The simple implementation beside which every other is tested. It loses nothing and keeps nothing but the budgets of
rates (an entry goes when it is full again) and the roll of who is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.bus.roll import Roll
from chatd.limits.rates import Rate, spend

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from chatd.bus.port import Broadcast, Ears, Event, Notice, Seconds

#: Budgets that are full again are looked for each time so many keys have been added.
_SWEEP_KEYS = 10_000


class Budgets:
    """What is left of each budget of this process; an entry goes when its budget is full again."""

    def __init__(self, seconds: Seconds) -> None:
        self._seconds = seconds
        # When each budget that is not full will be full again, in seconds.
        self._full_at: dict[str, float] = {}
        self._sweep_at = _SWEEP_KEYS

    def take(self, key: str, rate: Rate, *, count: int) -> int:
        """0 if it was granted, else the milliseconds after which it would be."""
        now = self._seconds()
        full_at, wait_ms = spend(self._full_at.get(key, 0.0), now, rate, count=count)
        if full_at > now and not wait_ms:
            self._full_at[key] = full_at
            if len(self._full_at) > self._sweep_at:
                self._sweep(now)
        return wait_ms

    def _sweep(self, now: float) -> None:
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        self._sweep_at = len(self._full_at) + _SWEEP_KEYS


class LocalBus:
    """`Bus` within one process."""

    is_out = False

    def __init__(self, seconds: Seconds) -> None:
        self._budgets = Budgets(seconds)
        self._ears: Ears | None = None
        self._rooms: set[str] = set()
        self._roll = Roll(seconds)

    def attach(self, ears: Ears) -> None:
        self._ears = ears

    def publish(self, events: Sequence[Event]) -> None:
        rooms = self._rooms
        heard = [event for event in events if event.room_id in rooms]
        if heard and self._ears is not None:
            self._ears.hear_events(heard)

    def signal(self, room_id: str, body: bytes, *, about: str, kind: str = "") -> None:
        if room_id in self._rooms and self._ears is not None:
            self._ears.hear_signal(room_id, body, about, kind)

    def broadcast(self, broadcasts: Sequence[Broadcast]) -> None:
        if self._ears is not None:
            self._ears.hear_broadcasts(broadcasts)

    def announce(self, notice: Notice) -> None:
        if self._ears is not None:
            self._ears.hear_notice(notice)

    async def subscribe(self, room_ids: Iterable[str]) -> None:
        self._rooms.update(room_ids)

    async def unsubscribe(self, room_ids: Iterable[str]) -> None:
        self._rooms.difference_update(room_ids)

    async def take(self, key: str, rate: Rate, *, count: int = 1) -> int:
        return self._budgets.take(key, rate, count=count)

    def arrived(self, user_id: str) -> None:
        self._roll.arrived(user_id)

    def appeared(self, user_id: str) -> None:
        if self._roll.appeared(user_id) and self._ears is not None:
            self._ears.hear_online([user_id])

    def departed(self, user_id: str, *, grace_s: float = 0.0) -> None:
        self._roll.departed(user_id, grace_s)

    async def devices(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        return self._roll.devices(user_ids)

    async def online(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        return self._roll.online(user_ids)

    async def claim_offline(self) -> Sequence[str]:
        return self._roll.take_offline()
