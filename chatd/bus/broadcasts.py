"""Ephemeral events for everybody in any of several rooms, or for some users: each receiver of this node gets one once.

What is heard waits in a queue that is bounded, for it may be lost, and is served a part at a time with a checkpoint
between, so that a crowd which comes or goes, or listens, does not hold up anybody. Who listens is looked up when it is
served, and of a crowd that takes several parts again for each.
`hub` owns the rooms and runs `serve`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from chatd.wire.frames import text_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from chatd.bus.port import Broadcast
    from chatd.bus.room import ActiveRoom, Receiver
    from chatd.wire.outbox import Outbox

#: Broadcasts that wait; past it the newest are dropped.
MAX_WAITING: Final = 10_000
#: Receivers after which others get their turn.
PART_RECEIVERS: Final = 2_000


class Broadcasts:
    """What waits for the listeners of these rooms, and for the devices of users."""

    def __init__(self, rooms: Mapping[str, ActiveRoom]) -> None:
        #: The connections of a user that live here and may be told things.
        self.devices_of: Callable[[str], Iterable[Receiver]] = lambda _: ()
        self._rooms = rooms
        self._waiting: deque[Broadcast] = deque()
        self._arrived = trio.Event()
        # The crowd that is just being served, a part at a step.
        self._serving: Iterator[None] | None = None
        self.dropped = 0

    def queue(self, broadcasts: Sequence[Broadcast]) -> None:
        places = MAX_WAITING - len(self._waiting)
        self._waiting += broadcasts[:places]
        self.dropped += max(0, len(broadcasts) - places)
        self._arrived.set()

    async def serve(self) -> None:
        while True:
            await self._arrived.wait()
            while self._serving is not None or self._waiting:
                self._serve_part()
                await trio.lowlevel.checkpoint()
            self._arrived = trio.Event()

    def _serve_part(self) -> None:
        """What is for one receiver leaves as one send; a crowd is served by itself."""
        if self._serving is not None:
            if next(self._serving, self) is self:
                self._serving = None
            return
        frames_of: dict[Outbox, list[bytes]] = {}
        count = 0
        while self._waiting and count < PART_RECEIVERS:
            receivers = self._receivers(self._waiting[0])
            if len(receivers) > PART_RECEIVERS:
                if not count:
                    self._serving = self._serve_crowd(self._waiting.popleft())
                break
            broadcast = self._waiting.popleft()
            frame = text_frame(broadcast.body)
            for receiver, outbox in receivers.items():
                if receiver.user_id != broadcast.about:
                    frames_of.setdefault(outbox, []).append(frame)
            count += max(1, len(receivers))
        for outbox, frames in frames_of.items():
            outbox.put_ephemeral(b"".join(frames))

    def _receivers(self, broadcast: Broadcast) -> dict[Receiver, Outbox]:
        receivers: dict[Receiver, Outbox] = {}
        for room_id in broadcast.room_ids:
            if (room := self._rooms.get(room_id)) is not None:
                receivers |= room.listeners
        for user_id in broadcast.to:
            receivers |= {device: device.outbox for device in self.devices_of(user_id)}
        return receivers

    def _serve_crowd(self, broadcast: Broadcast) -> Iterator[None]:
        """One part after the other, each to those of it who listen then."""
        frame = text_frame(broadcast.body)
        crowd = list(self._receivers(broadcast))
        for start in range(0, len(crowd), PART_RECEIVERS):
            listening = self._receivers(broadcast)
            for receiver in crowd[start : start + PART_RECEIVERS]:
                outbox = listening.get(receiver)
                if outbox is not None and receiver.user_id != broadcast.about:
                    outbox.put_ephemeral(frame)
            yield
