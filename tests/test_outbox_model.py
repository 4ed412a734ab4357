"""The outbox against made-up sockets: whatever they take, the bytes on the wire are the frames in order, none torn.

Several outboxes are used as connections use them (an overflow ends them, a writer sleeps until it is woken) and the
model is the bytes that are owed to each: what has left is always their beginning, what waits is always their rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from chatd.wire.frames import text_frame
from chatd.wire.outbox import Outbox, put_to_all
from tests.models import count_steps, often, programs, steps_of
from tests.rawclient import take_frames

LAST = text_frame(b"last")
TOO_SLOW = text_frame(b"too slow")
LINES = 3
#: `write` joins blocks up to this size, so that one of them may have begun to leave.
GATHERED_BYTES = 65536


class Take(NamedTuple):
    """The socket of a line takes so many bytes at each of its next sends, `None` for none at all by an error."""

    line: int
    counts: list[int | None]


class Put(NamedTuple):
    line: int
    sizes: list[int]


class PutToAll(NamedTuple):
    sizes: list[int]


class Ephemeral(NamedTuple):
    line: int
    size: int


class Hold(NamedTuple):
    line: int
    size: int


class Flush(NamedTuple):
    line: int


class Write(NamedTuple):
    """The socket is writable: the writer, if it is awake, writes."""

    line: int


class End(NamedTuple):
    line: int
    drop: bool


class Break(NamedTuple):
    """From the next send on the socket fails."""

    line: int


class Detach(NamedTuple):
    line: int


Step = Take | Put | PutToAll | Ephemeral | Hold | Flush | Write | End | Break | Detach
#: Mostly one line, so that much happens to it.
lines = st.sampled_from([0, 0, 0, 0, 1, 2])


def steps_for(bound: int) -> st.SearchStrategy[list[Step]]:
    """Frames of a size that some of them fit into the bound, and sockets that take a part of one or of several."""
    most = max(bound // 3, 50)
    size = st.integers(0, most)
    frames = st.lists(size, min_size=1, max_size=3)
    counts = st.lists(st.one_of(st.none(), st.integers(0, most), st.integers(0, 3 * most)), min_size=1, max_size=4)
    step: st.SearchStrategy[Step] = often(
        (2, st.builds(Take, lines, counts)),
        (3, st.builds(Take, lines, st.just([None, None]))),
        (4, st.builds(Put, lines, frames)),
        (2, st.builds(PutToAll, frames)),
        (3, st.builds(Ephemeral, lines, size)),
        (4, st.builds(Hold, lines, st.integers(0, 50))),
        (1, st.builds(Flush, lines)),
        (5, st.builds(Write, lines)),
        (1, st.one_of(st.builds(End, lines, st.booleans()), st.builds(Break, lines), st.builds(Detach, lines))),
    )
    return steps_of(step, most=50)


programs_by_bound = st.sampled_from([0, 300, 900, 200_000, 300_000]).flatmap(
    lambda bound: st.tuples(st.just(bound), steps_for(bound))
)


@dataclass
class Line:
    """A socket that takes what it is told to take, an outbox in front of it, and what is owed to its peer."""

    bound: int
    takes: list[int | None] = field(default_factory=list)
    taken: bytearray = field(default_factory=bytearray)
    owed: bytearray = field(default_factory=bytearray)
    #: The lengths of `owed` at which a frame ends.
    ends: set[int] = field(default_factory=lambda: {0})
    held: list[bytes] = field(default_factory=list)
    #: How much of `taken` has been compared.
    checked: int = 0
    sends: int = 0
    late: int = 0
    largest_put: int = 0
    is_awake: bool = False
    is_ended: bool = False
    is_dropped: bool = False
    fails: bool = False
    breaks: int = 0
    is_detached: bool = False

    def __post_init__(self) -> None:
        self.outbox = Outbox(
            self.send,
            bound_bytes=self.bound,
            on_waiting=self.wake,
            on_overflow=self.overflow,
            on_broken=self.note_break,
        )

    # -- what a connection does ------------------------------------------------------------------------------------

    def send(self, data: bytes) -> int:
        assert data, "there is nothing to send"
        assert not self.is_detached, "the descriptor may be somebody else's by now"
        self.sends += 1
        if self.fails:
            raise ConnectionResetError
        count = self.takes.pop(0) if self.takes else len(data)
        if count is None:
            raise BlockingIOError
        self.taken += data[:count]
        return min(count, len(data))

    def wake(self) -> None:
        self.is_awake = True

    def overflow(self) -> None:
        assert self.outbox.waiting_bytes > self.bound
        assert not self.is_ended, "what has ended cannot be too slow"
        self.outbox.end(TOO_SLOW, drop=True)
        self.note_end(TOO_SLOW, drop=True)

    def note_break(self) -> None:
        self.breaks += 1

    # -- what is owed ----------------------------------------------------------------------------------------------

    @property
    def is_gone(self) -> bool:
        return self.breaks > 0 or self.is_detached

    @property
    def is_over(self) -> bool:
        return self.is_ended or self.is_gone

    def owe(self, *frames: bytes) -> None:
        """These are put behind what is held."""
        if not self.is_over:
            for frame in (*self.held, *frames):
                self.owed += frame
                self.ends.add(len(self.owed))
            self.largest_put = max(self.largest_put, sum(map(len, (*self.held, *frames))))
            self.held.clear()

    def note_end(self, last: bytes, *, drop: bool) -> None:
        """With `drop` the outbox says how much it keeps: whole frames, no more than has begun to leave together."""
        if drop:
            kept = len(self.taken) + self.outbox.waiting_bytes - len(last)
            assert kept in self.ends, "a frame is torn"
            begun = min((end for end in self.ends if end >= len(self.taken)), default=len(self.taken))
            assert kept <= max(begun, len(self.taken) + max(GATHERED_BYTES, self.largest_put)), "too much was kept"
            del self.owed[kept:]
            self.held.clear()
            self.is_dropped = True
        self.owe(last)
        self.is_ended = True

    def check(self) -> None:
        outbox = self.outbox
        if self.is_gone:
            assert self.breaks <= 1
            assert (outbox.is_empty, outbox.waiting_bytes) == (True, 0)
            return
        new = slice(self.checked, len(self.taken))
        assert self.taken[new] == self.owed[new], "the wire does not carry the frames in order"
        self.checked = len(self.taken)
        assert outbox.waiting_bytes == len(self.owed) - len(self.taken)
        assert outbox.is_empty == (outbox.waiting_bytes == 0)
        assert outbox.late_bytes == self.late
        assert self.is_awake or outbox.is_empty, "something waits and the writer sleeps"
        assert self.is_ended or outbox.waiting_bytes <= self.bound, "the bound was passed and nobody was told"

    # -- steps -----------------------------------------------------------------------------------------------------

    def put(self, frames: list[bytes]) -> None:
        was_idle, sends = self.outbox.is_empty and not self.is_over, self.sends
        self.owe(*frames)
        self.outbox.put(b"".join(frames))
        assert self.sends == sends + was_idle, "one send if nothing waits, with what was held, and none otherwise"

    def put_ephemeral(self, frame: bytes) -> None:
        is_shed = self.outbox.waiting_bytes > self.bound // 2
        shed = self.outbox.shed
        if not is_shed:
            self.owe(frame)
        self.outbox.put_ephemeral(frame)
        assert self.outbox.shed == shed + is_shed

    def hold(self, frame: bytes) -> None:
        sends = self.sends
        self.outbox.hold(frame)
        assert self.sends == sends
        if not self.is_over:
            self.held.append(frame)

    def flush(self) -> None:
        self.owe()
        self.outbox.flush()

    def write(self) -> None:
        if self.is_awake:
            before = len(self.taken)
            self.outbox.write()
            self.late += len(self.taken) - before
            self.is_awake = not self.outbox.is_empty

    def end(self, *, drop: bool) -> None:
        if self.is_over:
            self.outbox.end(LAST, drop=drop)
        elif drop:
            self.outbox.end(LAST, drop=True)
            if not self.breaks:
                self.note_end(LAST, drop=True)
        else:
            self.note_end(LAST, drop=False)
            self.outbox.end(LAST)

    def detach(self) -> None:
        self.is_detached = True
        self.outbox.detach()

    def finish(self) -> None:
        """The socket takes all that is left."""
        self.takes.clear()
        self.flush()
        while self.is_awake:
            self.write()
        self.check()
        if self.is_gone:
            return
        assert self.taken == self.owed
        payloads = [frame.payload for frame in take_frames(bytes(self.taken))]
        assert b"".join(map(text_frame, payloads)) == self.taken


@dataclass
class Model:
    lines: list[Line]
    number: int = 0

    def frame(self, size: int) -> bytes:
        self.number += 1
        return text_frame(b"%d:" % self.number + b"x" * size)

    def take(self, step: Step) -> None:
        if isinstance(step, PutToAll):
            frames = [self.frame(size) for size in step.sizes]
            for line in self.lines:
                line.owe(*frames)
            put_to_all([line.outbox for line in self.lines], b"".join(frames))
            return
        line = self.lines[step.line]
        match step:
            case Take():
                line.takes += step.counts
            case Put():
                line.put([self.frame(size) for size in step.sizes])
            case Ephemeral():
                line.put_ephemeral(self.frame(step.size))
            case Hold():
                line.hold(self.frame(step.size))
            case Flush():
                line.flush()
            case Write():
                line.write()
            case End():
                line.end(drop=step.drop)
            case Break():
                line.fails = True
            case Detach():
                line.detach()


@programs(300)
@given(programs_by_bound)
def test_bytes_on_the_wire_are_the_frames_in_order_whatever_the_sockets_take(program: tuple[int, list[Step]]) -> None:
    bound, steps = program
    count_steps("outbox", len(steps))
    model = Model([Line(bound) for _ in range(LINES)])
    for step in steps:
        model.take(step)
        for line in model.lines:
            line.check()
    for line in model.lines:
        line.finish()
