"""What the hub reads of a store, for tests that run under a mock clock and so without threads.

`ListedHistory` is `Messages.events_after`, `Messages.events_of` and `Rooms.last_seqs` over lists; test_histories.py
runs one suite over it and over the real ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from chatd.bus.port import Event
from chatd.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chatd.store.messages import Stretch


class History(Protocol):
    """The durable events of rooms: written by the test, read by the hub."""

    async def add_room(self, name: str) -> str: ...
    async def append(self, room_id: str, kind: str = "new_message", subject: str | None = None) -> Event: ...
    async def events_after(self, room_id: str, seq: int, limit: int) -> list[Event]: ...
    async def events_of(self, stretches: Sequence[Stretch]) -> Mapping[Stretch, list[Event]]: ...
    async def last_seqs(self, room_ids: Sequence[str]) -> Mapping[str, int]: ...


class ListedHistory:
    """`History` in memory. Reading takes a checkpoint, and fails while the test says so."""

    def __init__(self) -> None:
        self.rooms: dict[str, list[Event]] = {}
        self.is_out = False
        #: The calls that were made: how often the store was asked, and for what.
        self.asked: list[tuple[str, ...]] = []
        #: Set it to an event to hold up every read until then.
        self.gate: trio.Event | None = None

    async def add_room(self, name: str) -> str:
        self.rooms[name] = []
        return name

    async def append(self, room_id: str, kind: str = "new_message", subject: str | None = None) -> Event:
        return self.append_nowait(room_id, kind, subject)

    def append_nowait(self, room_id: str, kind: str = "new_message", subject: str | None = None) -> Event:
        """Store the room's next event and return it, as the journal would publish it."""
        events = self.rooms[room_id]
        seq = len(events) + 1
        events.append(Event(room_id, seq, kind, b'{"seq":%d}' % seq, subject))
        return events[-1]

    async def events_after(self, room_id: str, seq: int, limit: int) -> list[Event]:
        found = self.rooms.get(room_id, [])[seq : seq + limit]
        await self._read("events_after", room_id)
        return found

    async def events_of(self, stretches: Sequence[Stretch]) -> Mapping[Stretch, list[Event]]:
        found = {stretch: self.rooms.get(stretch.room_id, [])[stretch.after : stretch.until] for stretch in stretches}
        await self._read("events_of", *(stretch.room_id for stretch in stretches))
        return found

    async def last_seqs(self, room_ids: Sequence[str]) -> Mapping[str, int]:
        found = {room_id: len(self.rooms[room_id]) for room_id in room_ids if room_id in self.rooms}
        await self._read("last_seqs", *room_ids)
        return found

    async def _read(self, *asked: str) -> None:
        self.asked.append(asked)
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.is_out:
            raise Unavailable("The test has cut the line.")
