"""The hub: what the bus carries becomes frames for this node's connections, in order and without holes.

It owns the active rooms (those that somebody on this node listens to), has holes filled from the store by `repairs`
before it delivers on, serves very large rooms in slices, and forgets rooms that nobody listens to. `chat` asks it to
activate, to listen and for the tail; the bus calls `hear_…`. It knows no SQL: the store's two reads are given to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.bus.broadcasts import Broadcasts
from chatd.bus.port import Broadcast, Bus, Event, Notice
from chatd.bus.repairs import FILLERS, Repairs
from chatd.bus.room import ActiveRoom, Receiver, blocks, frame_of
from chatd.errors import Refusal
from chatd.loader import Loader, open_loader
from chatd.wire.frames import text_frame

if TYPE_CHECKING:
    from chatd.bus.repairs import ReadEvents, ReadLastSeqs

log = telemetry.get_logger(__name__)

#: A room whose backlog is larger is served at once, while everybody else waits: what comes in is so held up, too.
MAX_BACKLOG_BYTES: Final = 1024 * 1024
#: Events after which connections start or stop to hear the room, or may do something else in it.
MEMBERSHIP: Final = frozenset({"user_joined", "user_left", "member_updated", "room_deleted"})

OnNotice = Callable[[Notice], None]
OnMembership = Callable[[Event], None]
OnReturn = Callable[[], None]
OnSignal = Callable[[str, bytes, str, str], None]
OnOnline = Callable[[Sequence[str]], None]
DevicesOf = Callable[[str], Iterable[Receiver]]


@dataclass(frozen=True, slots=True)
class HubOptions:
    """`tail_events` a room keeps in memory; a room above `slice_receivers` is served in slices of that many;
    every `check_s` seconds the last seqs are compared with the store, so that a lost last event is found within five;
    a room without listeners stays `linger_s`.
    """

    tail_events: int = 100
    slice_receivers: int = 500
    check_s: float = 4.5
    linger_s: float = 60.0


class Hub:
    """Delivery on one node. Made by `open_hub`; all methods but those that activate are sync."""

    def __init__(self, bus: Bus, options: HubOptions, *, read_last_seqs: ReadLastSeqs, read_events: ReadEvents) -> None:
        self._bus = bus
        self._options = options
        self._read_last_seqs = read_last_seqs
        self._rooms: dict[str, ActiveRoom] = {}
        self._repairs = Repairs(
            self._rooms, self._deliver, read_last_seqs=read_last_seqs, read_events=read_events,
            is_out=lambda: bus.is_out, check_s=options.check_s,
        )  # fmt: skip
        # Rooms that are being activated: what is heard of them meanwhile.
        self._opening: dict[str, list[Event]] = {}
        self._opener: Loader[str, ActiveRoom]
        self._last_seqs: Loader[str, int]
        self._backlogged: dict[str, ActiveRoom] = {}
        self._backlog_arrived = trio.Event()
        self.broadcasts = Broadcasts(self._rooms)
        self.deliveries = 0
        self.on_heard: Callable[[Sequence[Event]], None] = lambda _: None
        #: Called for every notice heard, for every event by which a membership begins or ends, after its delivery,
        #: and when the bus was away, so that notices may have been missed.
        self.on_notice: OnNotice = lambda _: None
        self.on_membership: OnMembership = lambda _: None
        self.on_return: OnReturn = lambda: None
        #: Called for a signal that has a kind, and with those whom this node is to tell to be online.
        self.on_signal: OnSignal = lambda _room_id, _body, _about, _kind: None
        self.on_online: OnOnline = lambda _: None
        bus.attach(self)

    def attach_devices(self, devices_of: DevicesOf) -> None:
        """Let users be told by their ids; called once."""
        self.broadcasts.devices_of = devices_of

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

    async def reach(self, stored: Mapping[str, int]) -> None:
        """Have these rooms active here, at least at these positions, which the store is known to have.

        An event that other nodes have heard may not have come here yet. Raises `Unavailable`.
        """
        await self.activate(list(stored))
        await self._repairs.reach(stored)

    async def try_to_reach(self, room_id: str, seq: int) -> None:
        """Have a room active at a position that somebody claims, as far as the store has come. Raises `Unavailable`."""
        await self.activate([room_id])
        room = self._rooms.get(room_id)
        if room is not None and room.position < seq and (last_seq := await self._last_seqs.get(room_id)) is not None:
            await self.reach({room_id: min(seq, last_seq)})

    def note_stored(self, event: Event) -> None:
        """An event was stored and published here: whoever sent it may know of it before this node hears it."""
        room = self._rooms.get(event.room_id)
        if room is not None and event.seq > room.stored_seq:
            room.stored_seq = event.seq

    async def read_own(self, room_id: str) -> ActiveRoom | None:
        """A room that is active here with every event that this node has stored, so that one reads what one wrote.

        Raises `Unavailable`.
        """
        await self.activate([room_id])
        room = self._rooms.get(room_id)
        if room is not None and room.position < room.stored_seq:
            await self._repairs.reach({room_id: room.stored_seq})
        return self._rooms.get(room_id)

    def expect(self, room_id: str, seq: int) -> None:
        """The store has this event: if it has not been heard here, it is fetched."""
        self._repairs.expect(room_id, seq)

    def room(self, room_id: str) -> ActiveRoom | None:
        return self._rooms.get(room_id)

    def open_own_room(self, room_id: str, receiver: Receiver) -> ActiveRoom:
        """A room that no store knows, with its only receiver: for a proof that events are delivered."""
        room = self._rooms[room_id] = ActiveRoom(room_id, last_seq=0, tail_events=0)
        room.is_own = True
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
        """Stop hearing a room, of which the receiver has then been sent everything up to its position.

        Also what it is still to be sent of an earlier stay, after which it listened no more.
        """
        self.send_backlog(room_id)
        self.unlisten(receiver, [room_id])

    def send_backlog(self, room_id: str) -> None:
        """Serve at once what still waits to be sent of a large room."""
        room = self._rooms.get(room_id)
        if room is not None:
            self._drain(room)

    def is_heard_by(self, receiver: Receiver, room_id: str) -> bool:
        room = self._rooms.get(room_id)
        return room is not None and receiver in room.listeners

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

    def rooms(self) -> Iterable[ActiveRoom]:
        return self._rooms.values()

    @property
    def active_rooms(self) -> int:
        return len(self._rooms)

    @property
    def repairs(self) -> int:
        """How often the store was read to fill a hole."""
        return self._repairs.reads

    # -- what the bus calls ---------------------------------------------------------------------------------------

    def hear_events(self, events: Sequence[Event]) -> None:
        """Deliver a commit's events; those of one room leave as one send per receiver."""
        if len(events) == 1:
            self._hear_room(events[0].room_id, events)
            self.on_heard(events)
            return
        by_room: dict[str, list[Event]] = {}
        for event in events:
            if (of_room := by_room.get(event.room_id)) is None:
                by_room[event.room_id] = [event]
            else:
                of_room.append(event)
        for room_id, of_room in by_room.items():
            self._hear_room(room_id, of_room)
        self.on_heard(events)

    def hear_signal(self, room_id: str, body: bytes, about: str, kind: str = "") -> None:
        if kind:
            self.on_signal(room_id, body, about, kind)
        room = self._rooms.get(room_id)
        if room is not None and len(room.listeners) > self._options.slice_receivers:
            self.broadcasts.queue([Broadcast((room_id,), body, about)])
        elif room is not None:
            room.send_signal(text_frame(body), about=about)

    def hear_broadcasts(self, broadcasts: Sequence[Broadcast]) -> None:
        self.broadcasts.queue(broadcasts)

    def hear_online(self, user_ids: Sequence[str]) -> None:
        self.on_online(user_ids)

    def hear_notice(self, notice: Notice) -> None:
        self.on_notice(notice)

    def hear_loss(self) -> None:
        """Compare positions soon."""
        self._repairs.look_soon()

    def hear_return(self) -> None:
        """Compare positions soon, and have everything else read again that notices tell."""
        self._repairs.look_soon()
        self.on_return()

    # -- delivery -------------------------------------------------------------------------------------------------

    def _hear_room(self, room_id: str, events: Sequence[Event]) -> None:
        room = self._rooms.get(room_id)
        if room is None:
            if (early := self._opening.get(room_id)) is not None:
                early.extend(events)
            return
        self._deliver(room, room.offer(events))
        if room.has_gap:
            self._repairs.mend(room_id)
        if self._repairs.reaching:
            self._repairs.wake(room_id)

    def _deliver(self, room: ActiveRoom, events: Sequence[Event]) -> None:
        """Send events that are in order; a member whose leaving is among them hears nothing behind it."""
        if len(events) == 1:
            self._send(room, [frame_of(events[0])])
        else:
            frames = []
            for event in events:
                frames.append(frame_of(event))
                if event.kind in MEMBERSHIP:
                    self._send(room, frames)
                    frames = []
                    self._tell_membership(event)
            if frames:
                self._send(room, frames)
            return
        if events[0].kind in MEMBERSHIP:
            self._tell_membership(events[0])

    def _tell_membership(self, event: Event) -> None:
        try:
            self.on_membership(event)
        except Exception:
            # What comes behind it in the room is already counted as delivered, so it has to be.
            log.exception("membership_not_heeded", room=event.room_id, seq=event.seq)

    def _send(self, room: ActiveRoom, frames: list[bytes]) -> None:
        if not room.is_own:
            self.deliveries += len(room.listeners) * len(frames)
        if room.is_own or room.is_behind or len(room.listeners) > self._options.slice_receivers:
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

    # -- activation and forgetting --------------------------------------------------------------------------------

    async def _open_rooms(self, room_ids: Sequence[str]) -> dict[str, ActiveRoom]:
        """Subscribe, then read the positions: what is published between is in both and dropped once."""
        wanted = [room_id for room_id in room_ids if room_id not in self._rooms]
        self._opening.update((room_id, []) for room_id in wanted)
        doubts = self._repairs.doubts
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
            self._rooms[room_id] = room
            self._deliver(room, room.offer(early))
            if room.has_gap:
                self._repairs.mend(room_id)
        if doubts != self._repairs.doubts:
            # What was lost meanwhile may be of these rooms, whose positions were not compared then.
            self._repairs.look_soon()
        if unknown := [room_id for room_id in wanted if room_id not in last_seqs]:
            await self._bus.unsubscribe(unknown)
        return {room_id: self._rooms[room_id] for room_id in room_ids if room_id in self._rooms}

    async def _forget_idle(self) -> None:
        """Every few seconds: forget the rooms that nobody has listened to for a while."""
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
            if idle:
                # In the same step: who subscribes again from here on does so behind this.
                await self._bus.unsubscribe(idle)


@asynccontextmanager
async def open_hub(
    bus: Bus, options: HubOptions, *, read_last_seqs: ReadLastSeqs, read_events: ReadEvents
) -> AsyncIterator[Hub]:
    """A hub that delivers for as long as the block lasts."""
    hub = Hub(bus, options, read_last_seqs=read_last_seqs, read_events=read_events)
    async with (
        open_loader(hub._open_rooms) as hub._opener,
        open_loader(read_last_seqs) as hub._last_seqs,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(hub._serve_backlogs)
        nursery.start_soon(hub.broadcasts.serve)
        nursery.start_soon(hub._forget_idle)
        nursery.start_soon(hub._repairs.watch)
        for _ in range(FILLERS):
            nursery.start_soon(hub._repairs.fill)
        yield hub
        nursery.cancel_scope.cancel()
