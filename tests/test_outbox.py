"""What waits for one client: bytes leave in order, whole and once, and what waits has a bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chatd.wire.frames import text_frame
from chatd.wire.outbox import Outbox, put_to_all
from tests.rawclient import take_frame, take_frames

BOUND = 400
LAST = text_frame(b"last")
TOO_SLOW = text_frame(b"too slow")


@dataclass
class Line:
    """A socket that takes what it is told to take, and an outbox in front of it, used as a connection uses it."""

    bound: int = BOUND
    #: How many bytes each next send takes; None raises BlockingIOError. Past the list everything is taken.
    takes: list[int | None] = field(default_factory=list)
    taken: bytearray = field(default_factory=bytearray)
    is_broken: bool = False
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = Outbox(
            self.send,
            bound_bytes=self.bound,
            on_waiting=lambda: self.calls.append("waiting"),
            on_overflow=self.overflow,
            on_broken=lambda: self.calls.append("broken"),
        )

    def send(self, data: bytes) -> int:
        if self.is_broken:
            raise ConnectionResetError
        count = self.takes.pop(0) if self.takes else len(data)
        if count is None:
            raise BlockingIOError
        self.taken += data[:count]
        return min(count, len(data))

    def overflow(self) -> None:
        self.calls.append("overflow")
        self.outbox.end(TOO_SLOW, drop=True)

    def payloads(self) -> list[bytes]:
        return [frame.payload for frame in take_frames(bytes(self.taken))]


def test_frame_leaves_at_once_when_nothing_waits() -> None:
    line = Line()
    line.outbox.put(text_frame(b"a"))
    assert line.payloads() == [b"a"]
    assert line.calls == []
    assert line.outbox.is_empty
    assert line.outbox.late_bytes == 0


@pytest.mark.parametrize("first", [None, 0, 1, 2])
def test_what_the_socket_does_not_take_waits_for_the_writer(first: int | None) -> None:
    line = Line(takes=[first])
    line.outbox.put(text_frame(b"a"))
    line.outbox.put(text_frame(b"b"))
    assert line.calls == ["waiting"]
    assert line.outbox.waiting_bytes == 6 - (first or 0)
    line.outbox.write()
    assert line.payloads() == [b"a", b"b"]
    assert (line.outbox.waiting_bytes, line.outbox.late_bytes) == (0, 6 - (first or 0))


def in_every_state() -> list[Line]:
    """Outboxes whose sockets take all, a part, nothing, or fail; with something waiting, held, or after the end."""
    lines = [Line(), Line(takes=[2]), Line(takes=[0]), Line(takes=[None]), Line(is_broken=True), Line(), Line(), Line()]
    waiting, holding, ended = lines[-3:]
    waiting.takes = [1]
    waiting.outbox.put(text_frame(b"waits"))
    holding.outbox.hold(text_frame(b"held"))
    ended.outbox.end(LAST)
    return lines


def test_a_put_to_all_is_a_put_to_each() -> None:
    together, one_by_one = in_every_state(), in_every_state()
    put_to_all([line.outbox for line in together], text_frame(b"for all"))
    for line in one_by_one:
        line.outbox.put(text_frame(b"for all"))
    for line, other in zip(together, one_by_one, strict=True):
        assert (line.taken, line.calls) == (other.taken, other.calls)
        assert line.outbox.waiting_bytes == other.outbox.waiting_bytes
        line.outbox.write()
        other.outbox.write()
        assert line.taken == other.taken
    assert [line.payloads() for line in together[:4]] == [[b"for all"]] * 4


def test_what_is_put_after_the_connection_let_go_goes_nowhere() -> None:
    line = Line(takes=[None])
    line.outbox.put(text_frame(b"waits"))
    line.outbox.detach()
    line.outbox.put(text_frame(b"late"))
    line.outbox.write()
    assert (bytes(line.taken), line.calls, line.outbox.is_empty) == (b"", ["waiting"], True)


def test_nothing_overtakes_what_waits() -> None:
    line = Line(takes=[1, None, None])
    for payload in (b"a", b"b", b"c"):
        line.outbox.put(text_frame(payload))
    line.outbox.write()
    line.outbox.write()
    line.outbox.put(text_frame(b"d"))
    line.outbox.write()
    assert line.payloads() == [b"a", b"b", b"c", b"d"]


def test_writer_sends_many_small_frames_at_once() -> None:
    line = Line(takes=[None])
    for _ in range(50):
        line.outbox.put(text_frame(b"a"))
    line.takes = [150]
    line.outbox.write()
    assert line.payloads() == [b"a"] * 50
    assert line.takes == []


def test_held_frame_leaves_with_the_next_one_in_one_send() -> None:
    line = Line()
    line.outbox.hold(text_frame(b"a"))
    assert line.taken == b""
    line.takes = [6]
    line.outbox.put(text_frame(b"b"))
    assert line.payloads() == [b"a", b"b"]
    assert line.takes == []


def test_flush_sends_what_is_held_and_nothing_where_nothing_is() -> None:
    line = Line()
    line.outbox.flush()
    line.outbox.hold(text_frame(b"a"))
    line.outbox.flush()
    line.outbox.flush()
    assert line.payloads() == [b"a"]


def test_ephemeral_frames_are_dropped_above_half_of_the_bound_only() -> None:
    line = Line(takes=[None])
    line.outbox.put(text_frame(b"x" * (BOUND // 2 - 4)))
    line.outbox.put_ephemeral(text_frame(b"kept"))
    assert line.outbox.shed == 0
    line.outbox.put_ephemeral(text_frame(b"dropped"))
    assert line.outbox.shed == 1
    line.outbox.put(text_frame(b"durable"))
    line.outbox.write()
    assert line.payloads()[1:] == [b"kept", b"durable"]


def test_more_than_the_bound_waiting_is_an_overflow_and_exactly_the_bound_is_not() -> None:
    line = Line(takes=[None])
    line.outbox.put(b"x" * BOUND)
    assert line.calls == ["waiting"]
    line.outbox.put(b"x")
    assert line.calls == ["waiting", "overflow"]


def test_one_put_above_the_bound_overflows_once() -> None:
    line = Line(takes=[5])
    line.outbox.put(text_frame(b"x" * 500))
    line.outbox.put(text_frame(b"late"))
    assert line.calls == ["waiting", "overflow"]
    line.outbox.write()
    assert line.payloads() == [b"x" * 500, b"too slow"]


def test_overflow_drops_what_waits_but_keeps_the_frame_that_has_begun_to_leave_whole() -> None:
    line = Line(takes=[10])
    line.outbox.put(text_frame(b"x" * 100))
    for _ in range(BOUND // 100):
        line.outbox.put(text_frame(b"y" * 100))
    assert line.outbox.waiting_bytes < 100 + len(TOO_SLOW)
    line.outbox.write()
    assert line.payloads() == [b"x" * 100, b"too slow"]
    assert line.outbox.is_empty


def test_end_sends_what_waits_and_is_held_then_the_last_frame_then_nothing() -> None:
    line = Line(takes=[None])
    line.outbox.put(text_frame(b"a"))
    line.outbox.hold(text_frame(b"b"))
    line.outbox.end(LAST)
    line.outbox.put(text_frame(b"c"))
    line.outbox.put_ephemeral(text_frame(b"d"))
    line.outbox.hold(text_frame(b"e"))
    line.outbox.flush()
    line.outbox.end(text_frame(b"f"), drop=True)
    line.outbox.write()
    assert line.payloads() == [b"a", b"b", b"last"]


def test_end_with_drop_sends_the_last_frame_instead_of_what_is_held() -> None:
    line = Line()
    line.outbox.hold(text_frame(b"a"))
    line.outbox.end(LAST, drop=True)
    assert line.payloads() == [b"last"]


@pytest.mark.parametrize("in_writer", [False, True])
def test_failed_socket_is_told_of_once_and_takes_nothing_more(*, in_writer: bool) -> None:
    line = Line(takes=[None] if in_writer else [])
    if in_writer:
        line.outbox.put(text_frame(b"a"))
    line.is_broken = True
    if in_writer:
        line.outbox.write()
    else:
        line.outbox.put(text_frame(b"a"))
    line.is_broken = False
    line.outbox.put(text_frame(b"b"))
    line.outbox.hold(text_frame(b"c"))
    line.outbox.flush()
    line.outbox.end(LAST)
    line.outbox.write()
    assert line.calls.count("broken") == 1
    assert line.taken == b""
    assert line.outbox.is_empty
    assert line.outbox.waiting_bytes == 0


class Sending(RuleBasedStateMachine):
    """Any order of calls, any behaviour of the socket: the model is a list of the frames that ought to arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line()
        self.number = 0
        self.put: list[bytes] = []
        self.held: list[bytes] = []
        self.is_ended = False
        self.has_dropped = False

    @property
    def outbox(self) -> Outbox:
        return self.line.outbox

    def payload(self, size: int) -> bytes:
        self.number += 1
        return b"%d:" % self.number + b"x" * size

    def note(self, *payloads: bytes) -> None:
        """These are put behind what is held, unless the end was reached before or by this."""
        if not self.is_ended:
            self.put += [*self.held, *payloads]
            self.held.clear()
        self.note_overflow()

    def note_overflow(self) -> None:
        if "overflow" in self.line.calls and not self.is_ended:
            self.is_ended = self.has_dropped = True
            self.put.append(b"too slow")

    @rule(takes=st.lists(st.one_of(st.none(), st.integers(0, 150)), max_size=4))
    def socket_takes(self, takes: list[int | None]) -> None:
        self.line.takes += takes

    @rule(sizes=st.lists(st.integers(0, 200), min_size=1, max_size=3))
    def puts(self, sizes: list[int]) -> None:
        payloads = [self.payload(size) for size in sizes]
        self.outbox.put(b"".join(map(text_frame, payloads)))
        self.note(*payloads)

    @rule(size=st.integers(0, 150))
    def puts_ephemeral(self, size: int) -> None:
        payload, shed, waiting = self.payload(size), self.outbox.shed, self.outbox.waiting_bytes
        self.outbox.put_ephemeral(text_frame(payload))
        assert (self.outbox.shed > shed) == (waiting > BOUND // 2)
        if self.outbox.shed == shed:
            self.note(payload)

    @rule(size=st.integers(0, 50))
    def holds(self, size: int) -> None:
        payload = self.payload(size)
        self.outbox.hold(text_frame(payload))
        if not self.is_ended:
            self.held.append(payload)

    @rule()
    def flushes(self) -> None:
        self.outbox.flush()
        self.note()

    @rule()
    def writes(self) -> None:
        self.outbox.write()

    @rule(drop=st.booleans())
    def ends(self, *, drop: bool) -> None:
        self.outbox.end(LAST, drop=drop)
        if not self.is_ended:
            if drop:
                self.held.clear()
            self.has_dropped = drop
            self.put += [*self.held, b"last"]
            self.held.clear()
            # The last frame itself may be what is too much; then only it and what has begun to leave remain.
            self.has_dropped |= "overflow" in self.line.calls
            self.is_ended = True

    @invariant()
    def what_waits_has_a_bound(self) -> None:
        # One put may come on top of the bound, and the frame that ends it all.
        assert self.outbox.waiting_bytes <= BOUND + 3 * 210 + 30 * 60 + len(TOO_SLOW)
        assert self.outbox.is_empty == (self.outbox.waiting_bytes == 0)

    @invariant()
    def frames_leave_in_order_whole_and_once(self) -> None:
        left, rest = [], bytes(self.line.taken)
        while (found := take_frame(rest)) is not None:
            left.append(found[0].payload)
            rest = found[1]
        if not self.has_dropped:
            assert left == self.put[: len(left)]
        else:
            kept = [payload for payload in self.put if payload in set(left)]
            assert left == kept

    def teardown(self) -> None:
        self.line.takes.clear()
        self.outbox.flush()
        self.note()
        self.outbox.write()
        left = self.line.payloads()
        if not self.has_dropped:
            assert left == self.put
        else:
            assert left[-1] in {b"last", b"too slow"}
            assert left[:-1] == self.put[: len(left) - 1]


TestSending = Sending.TestCase
TestSending.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=20), st.lists(st.integers(1, 70_000), max_size=40))
def test_writer_gathers_without_changing_a_byte(sizes: list[int], takes: list[int]) -> None:
    line = Line(bound=10**9, takes=[0, *takes])
    frames = [text_frame(b"%d" % index * size) for index, size in enumerate(sizes)]
    for frame in frames:
        line.outbox.put(frame)
    while not line.outbox.is_empty:
        line.outbox.write()
    assert line.taken == b"".join(frames)
