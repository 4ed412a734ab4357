"""One active room of this node: its order, its tail, its listeners. All of it sync, none of it waits.

`ActiveRoom` decides which events are next (promise 3 and 4 of spec/protocol.md) and who gets them; `hub` owns the
rooms and does what takes time. A small room is served on the spot, a very large one in slices between which others
run: its events wait in a backlog, each with those who listened when it arrived.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from chatd.wire.frames import text_frame
from chatd.wire.outbox import Outbox, put_to_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chatd.bus.port import Event

#: Events that arrived before their time; past so many they are dropped, for the repair reads them all anyway.
MAX_EARLY: Final = 1000
#: Events that are about a message which was sent before.
MESSAGE_CHANGES: Final = frozenset({
    "message_edited", "message_deleted", "reaction_added", "reaction_removed", "message_pinned", "message_unpinned",
})  # fmt: skip
#: Those of them after which a message says something else, or nothing.
SAID_ANEW: Final = frozenset({"message_edited", "message_deleted"})
#: Frames for one receiver are joined into blocks of about this size.
BLOCK_BYTES: Final = 128 * 1024


class Receiver(Protocol):
    """Somebody's connection, as far as delivery goes."""

    @property
    def user_id(self) -> str: ...
    @property
    def outbox(self) -> Outbox: ...


class ActiveRoom:
    """The room's position on this node, the encoded tail behind it, and who listens."""

    __slots__ = (
        "_early", "_expected", "_rounds", "_snapshot", "backlog", "backlog_bytes", "changed_seq", "forgotten",
        "idle_since", "is_own", "listeners", "next_seq", "opened_at", "room_id", "stored_seq", "tail",
    )  # fmt: skip

    def __init__(self, room_id: str, *, last_seq: int, tail_events: int) -> None:
        self.room_id = room_id
        #: No store knows it: it proves that rooms are served, the slow way, and what it hears counts as no delivery.
        self.is_own = False
        self.next_seq = last_seq + 1
        #: The newest event that this node itself has stored.
        self.stored_seq = last_seq
        #: The position from which on this node has seen every event.
        self.opened_at = last_seq
        self.tail: deque[Event] = deque(maxlen=tail_events)
        #: How often somebody changed of whom the tail may tell, or a message was deleted: what was read before is not
        #: to be kept any more.
        self.forgotten = 0
        #: The newest event that was about another message.
        self.changed_seq = 0
        self.listeners: dict[Receiver, Outbox] = {}
        self.idle_since: float | None = None
        self.backlog: deque[tuple[Sequence[Outbox], list[bytes]]] = deque()
        self.backlog_bytes = 0
        self._early: dict[int, Event] = {}
        # The newest seq that is known to be stored.
        self._expected = last_seq
        self._snapshot: Sequence[Outbox] | None = None
        self._rounds: Iterator[int] | None = None

    @property
    def position(self) -> int:
        """The seq of the newest event that was delivered here, or is in the backlog."""
        return self.next_seq - 1

    @property
    def has_gap(self) -> bool:
        """The next event exists and is not here."""
        return self._expected >= self.next_seq

    def expect(self, seq: int) -> None:
        """The room is known to have come so far."""
        self._expected = max(self._expected, seq)

    def disbelieve(self) -> None:
        """What was heard of later events is not true: the store has none."""
        self._expected = self.position
        self._early.clear()

    def offer(self, events: Sequence[Event]) -> list[Event]:
        """Those of `events` (and of earlier ones that had to wait) that are next in order, now in the tail.

        What was seen before is dropped; what is too early is kept until the hole before it is filled. Of what came
        before an edit or a deletion nothing stays in the tail: it may have what the message said.
        """
        ready = []
        for event in events:
            if event.seq == self.next_seq:
                ready.append(event)
                self.next_seq += 1
                while self._early and (follower := self._early.pop(self.next_seq, None)) is not None:
                    ready.append(follower)
                    self.next_seq += 1
            elif event.seq > self.next_seq:
                self._expected = max(self._expected, event.seq)
                if event.kind in SAID_ANEW:
                    self._forget_before(event.seq)
                if len(self._early) < MAX_EARLY:
                    self._early[event.seq] = event
        if self._early:
            self._early = {seq: event for seq, event in self._early.items() if seq > self.next_seq}
        for event in ready:
            if event.kind in MESSAGE_CHANGES:
                self.changed_seq = event.seq
                if event.kind in SAID_ANEW:
                    self._forget_before(event.seq)
            self.tail.append(event)
        return ready

    def _forget_before(self, changed_seq: int) -> None:
        """Keep nothing that was said before an edit or a deletion: the store has all of it as it is now."""
        self.forgotten += 1
        self.tail.clear()
        self._early = {seq: event for seq, event in self._early.items() if seq > changed_seq}

    def events_after(self, seq: int) -> list[Event] | None:
        """The events behind `seq` up to the position, or `None` if the tail does not reach back so far."""
        missed = self.position - seq
        if missed <= 0:
            return []
        if missed > len(self.tail):
            return None
        return [self.tail[index] for index in range(len(self.tail) - missed, len(self.tail))]

    @property
    def tail_after(self) -> int:
        """The seq behind which the tail has every event up to the position."""
        return self.position - len(self.tail)

    def lengthen_tail(self, events: Sequence[Event]) -> None:
        """Let the tail reach back over events that were read; those that do not end where it begins are of no use."""
        assert self.tail.maxlen is not None
        places = self.tail.maxlen - len(self.tail)
        if places and events and events[-1].seq == self.tail_after:
            self.tail.extendleft(reversed(events[-places:]))

    def forget_tail(self, user_id: str) -> None:
        """Drop the tail if this user is in it: what it says of them is not true any more."""
        self.forgotten += 1
        if any(event.subject == user_id for event in self.tail):
            self.tail.clear()

    @property
    def is_behind(self) -> bool:
        """Something is still to be served: what comes now has to queue behind it."""
        return bool(self.backlog) or self._rounds is not None

    def add(self, receiver: Receiver) -> None:
        self.listeners[receiver] = receiver.outbox
        self._snapshot = None
        self.idle_since = None

    def remove(self, receiver: Receiver) -> bool:
        """Whether the receiver was listening."""
        if self.listeners.pop(receiver, None) is None:
            return False
        self._snapshot = None
        return True

    def send(self, frames: bytes) -> None:
        """Put these frames to every listener now."""
        put_to_all(self._outboxes(), frames)

    def send_signal(self, frame: bytes, *, about: str) -> None:
        """Put an ephemeral frame to every listener now, but the user whom it is about."""
        for receiver, outbox in self.listeners.items():
            if receiver.user_id != about:
                outbox.put_ephemeral(frame)

    def queue(self, frames: bytes) -> None:
        """Keep these frames for all who listen now, to be sent by `serve`."""
        outboxes = self._outboxes()
        if self.backlog and self.backlog[-1][0] is outboxes:
            self.backlog[-1][1].append(frames)
        else:
            self.backlog.append((outboxes, [frames]))
        self.backlog_bytes += len(frames)

    def _outboxes(self) -> Sequence[Outbox]:
        """All who listen now, in one piece of memory, the same one until somebody comes or goes."""
        if self._snapshot is None:
            self._snapshot = tuple(self.listeners.values())
        return self._snapshot

    def serve(self, slice_size: int) -> bool:
        """Send one slice of the backlog; whether there was one."""
        if self._rounds is None:
            self._rounds = self._serve(slice_size)
        if next(self._rounds, None) is None:
            self._rounds = None
            return False
        return True

    def _serve(self, slice_size: int) -> Iterator[int]:
        while self.backlog:
            outboxes, frames = self.backlog.popleft()
            for block in blocks(frames):
                for start in range(0, len(outboxes), slice_size):
                    some = outboxes[start : start + slice_size]
                    put_to_all(some, block)
                    yield len(some)
                self.backlog_bytes -= len(block)


def blocks(frames: list[bytes]) -> Iterator[bytes]:
    """The frames in order, joined into blocks of about `BLOCK_BYTES`."""
    gathered: list[bytes] = []
    size = 0
    for frame in frames:
        if gathered and size + len(frame) > BLOCK_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
        gathered.append(frame)
        size += len(frame)
    if gathered:
        yield b"".join(gathered)


def frame_of(event: Event) -> bytes:
    return text_frame(event.body)
