"""What a bus may lose the store has: holes in the events of rooms are found and filled, in order.

`hub` owns one `Repairs`, tells it of every hole that it hears of, and runs its tasks: `watch` finds lost last events by
comparing positions with the store, each of several `fill` reads what is missing. An event that is only late is given a
moment to come by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.errors import Refusal, Unavailable

if TYPE_CHECKING:
    from chatd.bus.port import Event
    from chatd.bus.room import ActiveRoom

log = telemetry.get_logger(__name__)

#: Tasks that fill holes, each one room at a time.
FILLERS: Final = 4
#: Seconds in which an event that another one has overtaken may still come by itself.
REORDER_S: Final = 0.03
#: Seconds between two tries to fill a hole while the store is out.
PAUSE_S: Final = 0.5
#: Events that are read at once.
PAGE_EVENTS: Final = 500
#: Rooms whose positions are compared by one query.
POSITIONS_AT_ONCE: Final = 2000
#: Seconds between two comparisons while the bus or the store is out.
OUT_CHECK_S: Final = 1.0
#: Seconds between two comparisons at least, however often something may have been lost.
CHECK_PAUSE_S: Final = 0.2
#: Seconds for which somebody waits until a room is where the store is.
REACH_S: Final = 5.0

ReadLastSeqs = Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]
ReadEvents = Callable[[str, int, int], Awaitable[list["Event"]]]
Deliver = Callable[["ActiveRoom", Sequence["Event"]], None]


class Repairs:
    """The holes of a hub's rooms. `rooms` are the hub's own, `deliver` sends events that are in order."""

    def __init__(
        self,
        rooms: Mapping[str, ActiveRoom],
        deliver: Deliver,
        *,
        read_last_seqs: ReadLastSeqs,
        read_events: ReadEvents,
        is_out: Callable[[], bool],
        check_s: float,
    ) -> None:
        self._rooms = rooms
        self._deliver = deliver
        self._read_last_seqs = read_last_seqs
        self._read_events = read_events
        self._is_out = is_out
        self._check_s = check_s
        # When each room that has a hole may be read, in the order in which the holes were found.
        self._holes: dict[str, float] = {}
        self._in_hand: set[str] = set()
        self._idle = trio.lowlevel.ParkingLot()
        #: Those who wait until a room has come further.
        self.reaching: dict[str, trio.lowlevel.ParkingLot] = {}
        self._doubt = trio.Event()
        self._store_is_out = False
        #: How often something may have been lost.
        self.doubts = 0
        #: Reads that filled holes.
        self.reads = 0

    def mend(self, room_id: str) -> None:
        """Fill the hole of a room soon; several rooms at once, but each one page after the other."""
        if room_id not in self._holes and room_id not in self._in_hand:
            self._holes[room_id] = trio.current_time() + REORDER_S
            self._idle.unpark()

    def expect(self, room_id: str, seq: int) -> None:
        """The store has this event of a room: what is missing up to it comes soon."""
        room = self._rooms.get(room_id)
        if room is not None:
            room.expect(seq)
            if room.has_gap:
                self.mend(room_id)

    def look_soon(self) -> None:
        """Compare all positions: something may have been lost."""
        self.doubts += 1
        self._doubt.set()

    async def reach(self, stored: Mapping[str, int]) -> None:
        """Wait until these rooms are at least at these positions, which the store is known to have.

        Rooms that are not active are passed over. Raises `Unavailable` when it takes too long.
        """
        with trio.move_on_after(REACH_S):
            for room_id, seq in stored.items():
                while (room := self._rooms.get(room_id)) is not None and room.position < seq:
                    self.expect(room_id, seq)
                    await self._wait_for(room_id)
            return
        raise Unavailable("This server has not got all that is stored yet; try again in a moment.")

    async def _wait_for(self, room_id: str) -> None:
        waiting = self.reaching.setdefault(room_id, trio.lowlevel.ParkingLot())
        try:
            await waiting.park()
        finally:
            # Of a room that is forgotten nothing comes any more that would wake them.
            if not waiting and self.reaching.get(room_id) is waiting:
                del self.reaching[room_id]

    def wake(self, room_id: str) -> None:
        """Let those who wait for a room look where it is."""
        if (waiting := self.reaching.pop(room_id, None)) is not None:
            waiting.unpark_all()

    async def watch(self) -> None:
        """Compare positions every few seconds; more often while the bus is out, and soon after a loss."""
        due = trio.current_time() + self._check_s
        while True:
            with trio.move_on_at(min(due, trio.current_time() + OUT_CHECK_S)):
                await self._doubt.wait()
            now = trio.current_time()
            if now < due and not self._doubt.is_set() and not self._is_out():
                continue
            self._doubt = trio.Event()
            try:
                await self.check()
                due = now + self._check_s
            except Refusal as refusal:
                self._note_outage(refusal)
                due = now + OUT_CHECK_S
            await trio.sleep(CHECK_PAUSE_S)

    async def check(self) -> None:
        """Compare the position of every active room with the store's, and mend those that are behind."""
        room_ids = list(self._rooms)
        for start in range(0, len(room_ids), POSITIONS_AT_ONCE):
            last_seqs = await self._read_last_seqs(room_ids[start : start + POSITIONS_AT_ONCE])
            for room_id, last_seq in last_seqs.items():
                self.expect(room_id, last_seq)
        self._store_is_out = False

    async def fill(self) -> None:
        """Fill one hole after the other, a page at a time, before anything behind it is delivered."""
        while True:
            while not self._holes:
                await self._idle.park()
            room_id, due = next(iter(self._holes.items()))
            del self._holes[room_id]
            self._in_hand.add(room_id)
            await trio.sleep_until(due)
            await self._fill_page(room_id)
            self._in_hand.discard(room_id)
            # Another hole may have opened while this one was read.
            if (room := self._rooms.get(room_id)) is not None and room.has_gap:
                self._holes[room_id] = trio.current_time()
            self.wake(room_id)

    async def _fill_page(self, room_id: str) -> None:
        room = self._rooms.get(room_id)
        if room is None or not room.has_gap:
            return
        try:
            events = await self._read_events(room_id, room.position, PAGE_EVENTS)
        except Refusal as refusal:
            self._note_outage(refusal)
            await trio.sleep(PAUSE_S)
            return
        self.reads += 1
        self._store_is_out = False
        # It may have been forgotten and opened again meanwhile.
        if self._rooms.get(room_id) is room:
            if not events:
                # Whoever told of a later event told of one that was not stored: an event is published after its commit.
                room.disbelieve()
                return
            ready = room.offer(events)
            self._deliver(room, ready)
            if not ready and room.has_gap:
                await trio.sleep(PAUSE_S)

    def _note_outage(self, refusal: Refusal) -> None:
        if not self._store_is_out:
            self._store_is_out = True
            log.warning("repairs_wait", detail=refusal.detail)
