"""How long it takes from a commit to the sockets: one event at a time is followed from its publishing to its delivery.

Of all that is published only one event is under way at a time, so that it costs a commit next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chatd.bus.hub import Hub
    from chatd.bus.port import Event, Seconds

#: An event that has not been heard after so long was lost, and is repaired from the store; another one is followed.
LOST_S: Final = 10.0


class DeliveryLag:
    """`observe` is called with the seconds that each event took which was followed."""

    def __init__(self, hub: Hub, seconds: Seconds, observe: Callable[[float], None]) -> None:
        self._hub = hub
        self._seconds = seconds
        self._observe = observe
        self._followed: tuple[str, int] | None = None
        self._since = 0.0
        hub.on_heard = self._heard

    def follow(self, event: Event) -> None:
        """Follow an event that is about to be published, if no other one is under way."""
        now = self._seconds()
        if self._followed is None or now - self._since > LOST_S:
            room = self._hub.room(event.room_id)
            if room is not None and room.listeners and not room.is_own:
                self._followed, self._since = (event.room_id, event.seq), now

    def _heard(self, events: Sequence[Event]) -> None:
        if self._followed is None:
            return
        room_id, seq = self._followed
        if any(event.seq == seq and event.room_id == room_id for event in events):
            self._followed = None
            self._observe(self._seconds() - self._since)
