"""The hub: what the bus carries becomes frames for this node's connections, in order and without holes.

It owns the active rooms (those that somebody on this node listens to), repairs a hole from the store before it
delivers on, looks every few seconds for a lost last event, serves very large rooms in slices, and forgets rooms that
nobody listens to. `chat` asks it to activate, to listen and for the tail; the bus calls `hear_…`. It knows no SQL: the
store's two reads are given to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from chatd import telemetry
from chatd.bus.port import Bus, Event, Notice
from chatd.bus.room import ActiveRoom, Receiver, blocks, frame_of
from chatd.errors import Refusal
from chatd.loader import Loader, open_loader
from chatd.wire.frames import text_frame

log = telemetry.get_logger(__name__)

#: Seconds between two tries to repair a room while the store is out.
REPAIR_PAUSE_S: Final = 0.5
#: A room whose backlog is larger is served at once, while everybody else waits: what comes in is so held up, too.
MAX_BACKLOG_BYTES: Final = 1024 * 1024
#: Events that one repair reads at once.
REPAIR_EVENTS: Final = 500

ReadLastSeqs = Callable[[Sequence[str]], Awaitable[Mapping[str, int]]]
ReadEvents = Callable[[str, int, int], Awaitable[list[Event]]]
OnNotice = Callable[[Notice], None]
OnLeft = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class HubOptions:
    """`tail_events` a room keeps in memory; a room above `slice_receivers` is served in slices of that many;
    every `check_s` seconds the last seqs are compared with the store; a room without listeners stays `linger_s`.
    """

    tail_events: int = 100
    slice_receivers: int = 500
    check_s: float = 5.0
    linger_s: float = 60.0


class Hub:
    """Delivery on one node. Made by `open_hub`; all methods but `activate` are sync."""

    def __init__(self, bus: Bus, options: HubOptions, *, read_last_seqs: ReadLastSeqs, read_events: ReadEvents) -> None:
        self._bus = bus
        self._options = options
        self._read_last_seqs = read_last_seqs
        self._read_events = read_events
        self._rooms: dict[str, ActiveRoom] = {}
        # Rooms that are being activated: what is heard of them meanwhile.
        self._opening: dict[str, list[Event]] = {}
        self._opener: Loader[str, ActiveRoom]
        self._backlogged: dict[str, ActiveRoom] = {}
        self._backlog_arrived = trio.Event()
        self._broken: set[str] = set()
        self._gap_found = trio.Event()
        self.deliveries = 0
        self.repairs = 0
        #: Called for every notice heard, and for every event that ends a membership, after its delivery.
        self.on_notice: OnNotice = lambda _: None
        self.on_left: OnLeft = lambda _: None
        bus.attach(self)

    # -- what chat asks -------------------------------------------------------------------------------------------

    async def activate(self, room_ids: Sequence[str]) -> None:
        """Have these rooms active here: subscribed, with a known position. Unknown rooms are passed over.

        Raises `Unavailable` when the store is out; nothing is left half open, also not by cancelling.
        """
        missing = []
        for room_id in room_ids:
            if (room := self._rooms.get(room_id)) is None:
                missing.append(room_id)
            elif room.idle_since is not None:
                # Who asks is about to listen; the room is not to be forgotten meanwhile.
                room.idle_since = trio.current_time()
        if missing:
            await self._opener.get_many(missing)

    def room(self, room_id: str) -> ActiveRoom | None:
        return self._rooms.get(room_id)

    def open_own_room(self, room_id: str, receiver: Receiver) -> ActiveRoom:
        """A room that no store knows, with its only receiver: for a proof that events are delivered."""
        room = self._rooms[room_id] = ActiveRoom(room_id, last_seq=0, tail_events=0)
        room.add(receiver)
        return room

    def listen(self, receiver: Receiver, room_id: str, *, after: int, max_bytes: int = 0) -> bool:
        """Let the receiver hear an active room: at once what it missed since `after`, then all that comes.

        False, and nothing done, if what it missed is more than `max_bytes`, if the tail does not reach back so far,
        or if the room is not active.
        """
        room = self._rooms.get(room_id)
        if room is None or (missed := room.events_after(after)) is None:
            return False
        if missed:
            frames = b"".join([frame_of(event) for event in missed])
            if len(frames) > max_bytes:
                return False
            receiver.outbox.put(frames)
        room.add(receiver)
        return True

    def pause(self, receiver: Receiver, room_id: str) -> None:
        """Stop hearing a room, of which the receiver has then been sent everything up to its position."""
        room = self._rooms.get(room_id)
        if room is not None and receiver in room.listeners:
            self._drain(room)
            self.unlisten(receiver, [room_id])

    def unlisten(self, receiver: Receiver, room_ids: Iterable[str]) -> None:
        for room_id in room_ids:
            room = self._rooms.get(room_id)
            if room is not None and room.remove(receiver) and not room.listeners:
                room.idle_since = trio.current_time()

    def forget_tails(self, user_id: str) -> None:
        """Let history and resumes come from the store in every room whose tail tells of this user, who has changed."""
        for room in self._rooms.values():
            room.forget_tail(user_id)

    def heard_rooms(self) -> list[str]:
        """The ids of the rooms that somebody here listens to."""
        return [room_id for room_id, room in self._rooms.items() if room.listeners]

    @property
    def active_rooms(self) -> int:
        return len(self._rooms)

    @property
    def backlogged_rooms(self) -> int:
        return len(self._backlogged)

    # -- what the bus calls ---------------------------------------------------------------------------------------

    def hear_events(self, events: Sequence[Event]) -> None:
        """Deliver a commit's events; those of one room leave as one send per receiver."""
        if len(events) == 1:
            self._hear_room(events[0].room_id, events)
            return
        by_room: dict[str, list[Event]] = {}
        for event in events:
            if (of_room := by_room.get(event.room_id)) is None:
                by_room[event.room_id] = [event]
            else:
                of_room.append(event)
        for room_id, of_room in by_room.items():
            self._hear_room(room_id, of_room)

    def hear_signal(self, room_id: str, body: bytes, about: str) -> None:
        room = self._rooms.get(room_id)
        if room is not None:
            frame = text_frame(body)
            for receiver in room.listeners:
                if receiver.user_id != about:
                    receiver.outbox.put_ephemeral(frame)

    def hear_notice(self, notice: Notice) -> None:
        self.on_notice(notice)

    def hear_loss(self) -> None:
        """Compare positions soon."""

    def hear_return(self) -> None:
        """Compare positions soon, and have everything else read again that notices tell."""

    # -- delivery -------------------------------------------------------------------------------------------------

    def _hear_room(self, room_id: str, events: Sequence[Event]) -> None:
        room = self._rooms.get(room_id)
        if room is None:
            if (early := self._opening.get(room_id)) is not None:
                early.extend(events)
            return
        self._deliver(room, room.offer(events))
        if room.has_gap:
            self._mend(room_id)

    def _deliver(self, room: ActiveRoom, events: Sequence[Event]) -> None:
        """Send events that are in order; a member whose leaving is among them hears nothing behind it."""
        if len(events) == 1:
            self._send(room, [frame_of(events[0])])
        else:
            frames = []
            for event in events:
                frames.append(frame_of(event))
                if event.kind == "user_left":
                    self._send(room, frames)
                    frames = []
                    self.on_left(event)
            if frames:
                self._send(room, frames)
            return
        if events[0].kind == "user_left":
            self.on_left(events[0])

    def _send(self, room: ActiveRoom, frames: list[bytes]) -> None:
        self.deliveries += len(room.listeners) * len(frames)
        if room.is_behind or len(room.listeners) > self._options.slice_receivers:
            for frame in frames:
                room.queue(frame)
            if room.backlog_bytes > MAX_BACKLOG_BYTES:
                self._drain(room)
                return
            self._backlogged[room.room_id] = room
            self._backlog_arrived.set()
            return
        for block in blocks(frames):
            room.send(block)

    def _drain(self, room: ActiveRoom) -> None:
        """Serve a room's whole backlog at once."""
        while room.serve(self._options.slice_receivers):
            pass

    async def _serve_backlogs(self) -> None:
        """Large rooms in turn, a slice each, with a checkpoint between so that others run."""
        while True:
            await self._backlog_arrived.wait()
            for room_id, room in list(self._backlogged.items()):
                if not room.serve(self._options.slice_receivers):
                    del self._backlogged[room_id]
                await trio.lowlevel.checkpoint()
            if not self._backlogged:
                self._backlog_arrived = trio.Event()

    # -- activation, repair, upkeep -------------------------------------------------------------------------------

    async def _open_rooms(self, room_ids: Sequence[str]) -> dict[str, ActiveRoom]:
        """Subscribe, then read the positions: what is published between is in both and dropped once."""
        wanted = [room_id for room_id in room_ids if room_id not in self._rooms]
        self._opening.update((room_id, []) for room_id in wanted)
        try:
            await self._bus.subscribe(wanted)
            last_seqs = await self._read_last_seqs(wanted)
        except Refusal:
            for room_id in wanted:
                del self._opening[room_id]
            await self._bus.unsubscribe(wanted)
            raise
        for room_id in wanted:
            early = self._opening.pop(room_id)
            if room_id not in last_seqs:
                continue
            room = ActiveRoom(room_id, last_seq=last_seqs[room_id], tail_events=self._options.tail_events)
            room.idle_since = trio.current_time()
            room.offer(early)
            self._rooms[room_id] = room
            if room.has_gap:
                self._mend(room_id)
        if unknown := [room_id for room_id in wanted if room_id not in last_seqs]:
            await self._bus.unsubscribe(unknown)
        return {room_id: self._rooms[room_id] for room_id in room_ids if room_id in self._rooms}

    def _mend(self, room_id: str) -> None:
        self._broken.add(room_id)
        self._gap_found.set()

    async def _mend_gaps(self) -> None:
        """Fill holes from the store, in order, before anything behind them is delivered."""
        while True:
            await self._gap_found.wait()
            for room_id in list(self._broken):
                room = self._rooms.get(room_id)
                if room is None:
                    self._broken.discard(room_id)
                    continue
                try:
                    events = await self._read_events(room_id, room.position, REPAIR_EVENTS)
                except Refusal as refusal:
                    log.warning("repair_waits", room=room_id, detail=refusal.detail)
                    await trio.sleep(REPAIR_PAUSE_S)
                    continue
                self.repairs += 1
                ready = room.offer(events)
                self._deliver(room, ready)
                # Another hole may have opened while this one was read.
                if len(events) < REPAIR_EVENTS and not room.has_gap:
                    self._broken.discard(room_id)
                elif not ready:
                    await trio.sleep(REPAIR_PAUSE_S)
            if not self._broken:
                self._gap_found = trio.Event()

    async def _keep_up(self) -> None:
        """Every few seconds: one query finds lost last events, and rooms that nobody listens to are forgotten."""
        while True:
            await trio.sleep(self._options.check_s)
            forgotten_before = trio.current_time() - self._options.linger_s
            idle = [
                room_id
                for room_id, room in self._rooms.items()
                if room.idle_since is not None and room.idle_since < forgotten_before and not room.listeners
            ]
            for room_id in idle:
                del self._rooms[room_id]
            try:
                if idle:
                    await self._bus.unsubscribe([room_id for room_id in idle if room_id not in self._rooms])
                await self.check_positions()
            except Refusal as refusal:
                log.warning("position_check_failed", detail=refusal.detail)

    async def check_positions(self) -> None:
        """Compare the position of every active room with the store's, and mend those that are behind."""
        if self._rooms:
            last_seqs = await self._read_last_seqs(list(self._rooms))
            for room_id, last_seq in last_seqs.items():
                room = self._rooms.get(room_id)
                if room is not None and room.position < last_seq:
                    self._mend(room_id)


@asynccontextmanager
async def open_hub(
    bus: Bus, options: HubOptions, *, read_last_seqs: ReadLastSeqs, read_events: ReadEvents
) -> AsyncIterator[Hub]:
    """A hub that delivers for as long as the block lasts."""
    hub = Hub(bus, options, read_last_seqs=read_last_seqs, read_events=read_events)
    async with open_loader(hub._open_rooms) as hub._opener, trio.open_nursery() as nursery:
        nursery.start_soon(hub._serve_backlogs)
        nursery.start_soon(hub._mend_gaps)
        nursery.start_soon(hub._keep_up)
        yield hub
        nursery.cancel_scope.cancel()
