"""Whether what is published is delivered: an event of this node's own, from the bus through the hub to an outbox.

`server` asks every few seconds and `/readyz` tells. The room is known to this node alone and to no store, so nobody can
join it; what goes through it takes the same way as any message behind its commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from chatd.bus.port import Event
from chatd.errors import Unavailable
from chatd.ids import new_id
from chatd.wire.outbox import Outbox

if TYPE_CHECKING:
    from chatd.bus.hub import Hub
    from chatd.bus.port import Bus


class Proof:
    """A receiver in a room of its own. Made by `open_proof`."""

    user_id = ""

    def __init__(self, bus: Bus, hub: Hub) -> None:
        self._bus = bus
        self._room_id = f"proof:{new_id()}"
        self._arrived = trio.Event()
        self.outbox = Outbox(
            self._take, bound_bytes=1024, on_waiting=_nothing, on_overflow=_nothing, on_broken=_nothing
        )
        self._room = hub.open_own_room(self._room_id, self)

    async def deliver(self, *, within_s: float) -> None:
        """Send an event the whole way. Raises `Unavailable` if it has not arrived in time."""
        self._arrived = trio.Event()
        # The same seq again if the last one was lost: there is no store to repair this room from.
        self._bus.publish([Event(self._room_id, self._room.next_seq, "proof", b"{}")])
        with trio.move_on_after(within_s):
            await self._arrived.wait()
            return
        raise Unavailable(f"An event that was published has not been delivered within {within_s:g} s.")

    def _take(self, frames: bytes) -> int:
        self._arrived.set()
        return len(frames)


def _nothing() -> None:
    """A receiver that takes everything never has anything waiting."""


async def open_proof(bus: Bus, hub: Hub) -> Proof:
    """Subscribe to a new proof's room."""
    proof = Proof(bus, hub)
    await bus.subscribe([proof._room_id])
    return proof
