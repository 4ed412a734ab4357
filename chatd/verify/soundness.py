"""Whether a database keeps the promises by itself: each number of a room once, each message once, nothing lost.

Promises 2 and 3 as they stand in the tables, whatever clients were told. Room by room, each as it is at one moment.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from chatd.verify.bits import Bits
from chatd.verify.findings import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.store.inspection import Inspection, KeptRoom
    from chatd.verify.findings import Findings

#: Numbers that one sentence names.
MAX_NAMED: Final = 20
#: Faults of one kind that are looked for outside of rooms.
MAX_FOUND: Final = 1000


class RoomNumbers:
    """Every number of one room, gone through in the order of the messages, then of the other events."""

    def __init__(self) -> None:
        self._begin(None, members=0)

    def _begin(self, room: KeptRoom | None, *, members: int) -> None:
        self._room = room
        self._members = members
        self._seen = Bits()
        self._repeats: list[int] = []
        self._beyond: list[int] = []
        self._is_counted_in_order = True
        self.messages = 0
        self.events = 0

    def see_room(self, room: KeptRoom, *, members: int) -> None:
        """Begin, also anew: a transaction that was undone is run again."""
        self._begin(room, members=members)

    def see_messages(self, numbers: Sequence[tuple[int, str, int]]) -> None:
        for seq, _, count in numbers:
            self.messages += 1
            self._is_counted_in_order &= count == self.messages
            self._see(seq)

    def see_events(self, numbers: Sequence[tuple[int]]) -> None:
        for (seq,) in numbers:
            self.events += 1
            self._see(seq)

    def _see(self, seq: int) -> None:
        assert self._room is not None
        if not 1 <= seq <= self._room.last_seq:
            self._beyond.append(seq)
        elif not self._seen.add(seq):
            self._repeats.append(seq)

    def faults(self) -> list[Fault]:
        assert self._room is not None
        room_id, _, last_seq, message_count, member_count = self._room
        faults = []

        def blame(detail: str, seq: int | None = None) -> None:
            faults.append(Fault(3, f"room {room_id} {detail}", room_id=room_id, seq=seq))

        if self._seen.count != last_seq:
            holes = list(islice(self._seen.missing(1, last_seq + 1), MAX_NAMED))
            blame(f"has holes at {holes} of {last_seq}", holes[0])
        if self._repeats:
            blame(f"has the numbers {self._repeats[:MAX_NAMED]} more than once", self._repeats[0])
        if self._beyond:
            blame(f"ends at {last_seq} and has the numbers {self._beyond[:MAX_NAMED]}", self._beyond[0])
        if self.messages != message_count or not self._is_counted_in_order:
            blame(f"says it has {message_count} messages and has {self.messages}, or not in order")
        if member_count != self._members:
            blame(f"says it has {member_count} members and has {self._members}")
        return faults


async def check_soundness(inspection: Inspection, findings: Findings) -> None:
    """Go through the whole database."""
    after = ""
    while rooms := await inspection.rooms(after=after):
        for room in rooms:
            numbers = RoomNumbers()
            await inspection.visit_numbers(room.id, numbers)
            findings.rooms += 1
            findings.stored_messages += numbers.messages
            findings.stored_events += numbers.events
            for fault in numbers.faults():
                findings.blame(fault)
        after = rooms[-1].id
    for room_id in await inspection.lost_rooms(limit=MAX_FOUND):
        findings.blame(Fault(3, f"room {room_id} does not exist and has numbers", room_id=room_id))
    for sender_id, key, times in await inspection.repeated_keys(limit=MAX_FOUND):
        places = await inspection.of_key(sender_id, key)
        where = ", ".join(f"seq {place.seq} of room {place.room_id}" for place in places)
        detail = f"{key} of {sender_id} is stored {times} times: {where}"
        findings.blame(Fault(2, detail, room_id=places[0].room_id, message_id=places[-1].message_id))
