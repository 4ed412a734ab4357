"""One active room: whatever arrives in whatever order, it is passed on once and in order."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chatd.bus.port import Event
from chatd.bus.room import BLOCK_BYTES, MAX_EARLY, MESSAGE_CHANGES, SAID_ANEW, ActiveRoom, blocks, frame_of
from chatd.chat.messages import page_of_tail
from tests.listeners import Listener


def event(seq: int) -> Event:
    return Event("room", seq, "new_message", b'{"seq":%d}' % seq)


def seqs(events: list[Event] | None) -> list[int] | None:
    return None if events is None else [event.seq for event in events]


@given(
    st.lists(st.lists(st.integers(1, 25), max_size=6), max_size=20),
    st.integers(0, 10),
    st.integers(0, 12),
)
def test_shuffled_repeated_and_lost_events_come_out_once_in_order_as_far_as_there_is_no_hole(
    batches: list[list[int]], last_seq: int, tail_events: int
) -> None:
    room = ActiveRoom("room", last_seq=last_seq, tail_events=tail_events)
    offered: set[int] = set()
    passed: list[int] = []
    for batch in batches:
        passed += seqs(room.offer([event(seq) for seq in batch])) or []
        offered.update(batch)
        expected = last_seq
        while expected + 1 in offered:
            expected += 1
        assert passed == list(range(last_seq + 1, expected + 1))
        assert room.position == expected
        assert room.has_gap == any(seq > expected for seq in offered)
    # The repair reads everything behind the position.
    passed += seqs(room.offer([event(seq) for seq in range(room.position + 1, 26)])) or []
    assert passed == list(range(last_seq + 1, 26))
    assert not room.has_gap
    assert [kept.seq for kept in room.tail] == passed[max(0, len(passed) - tail_events) :]


@given(st.integers(0, 20), st.integers(0, 12), st.integers(0, 15))
def test_the_tail_tells_what_was_missed_or_that_it_does_not_reach_back(last: int, heard: int, tail_events: int) -> None:
    room = ActiveRoom("room", last_seq=last, tail_events=tail_events)
    room.offer([event(seq) for seq in range(last + 1, last + heard + 1)])
    for after in range(last + heard + 3):
        missed = seqs(room.events_after(after))
        reaches_back = after >= last + heard - min(heard, tail_events)
        assert missed == (list(range(after + 1, last + heard + 1)) if reaches_back else None)


@given(
    st.integers(0, 20),
    st.integers(0, 12),
    st.integers(0, 15),
    st.lists(st.tuples(st.integers(0, 32), st.integers(0, 32))),
)
def test_tail_is_lengthened_by_what_ends_where_it_begins_and_by_nothing_else(
    last: int, heard: int, tail_events: int, stretches: list[tuple[int, int]]
) -> None:
    room = ActiveRoom("room", last_seq=last, tail_events=tail_events)
    room.offer([event(seq) for seq in range(last + 1, last + heard + 1)])
    for after, until in stretches:
        before, began = len(room.tail), room.tail_after
        room.lengthen_tail([event(seq) for seq in range(after + 1, until + 1)])
        fits = until == began and after < until
        assert len(room.tail) == (min(tail_events, before + until - after) if fits else before)
        # Without a hole, up to the position.
        assert [kept.seq for kept in room.tail] == list(range(room.tail_after + 1, room.position + 1))


def test_what_is_far_too_early_is_bounded_and_the_repair_brings_it_all_the_same() -> None:
    room = ActiveRoom("room", last_seq=0, tail_events=10)
    assert room.offer([event(seq) for seq in range(2, MAX_EARLY + 500)]) == []
    assert room.has_gap
    repaired = room.offer([event(seq) for seq in range(1, MAX_EARLY + 500)])
    assert seqs(repaired) == list(range(1, MAX_EARLY + 500))
    assert not room.has_gap


# Deletions


def deletion(seq: int, kind: str = "message_deleted") -> Event:
    return Event("room", seq, kind, b'{"seq":%d}' % seq)


@given(st.lists(st.integers(1, 20), max_size=60), st.sets(st.integers(1, 20), max_size=3), st.integers(0, 12))
def test_of_what_came_before_a_deletion_nothing_stays_in_memory_and_all_is_passed_on_in_order(
    arriving: list[int], deletions: set[int], tail_events: int
) -> None:
    """Whatever comes late or early: once a deletion was heard, what it may be about is not to be found any more."""
    room = ActiveRoom("room", last_seq=0, tail_events=tail_events)
    passed: list[int] = []
    heard = 0
    for seq in arriving:
        if seq in deletions and seq > room.position:
            heard = max(heard, seq)
        passed += seqs(room.offer([deletion(seq) if seq in deletions else event(seq)])) or []
        assert passed == list(range(1, room.position + 1))
        # The tail has no hole, and ends at the position.
        assert [kept.seq for kept in room.tail] == list(range(room.tail_after + 1, room.position + 1))
        if room.position >= heard:
            assert all(kept.seq >= heard for kept in room.tail)
    # The repair brings the rest.
    passed += seqs(room.offer([event(seq) for seq in range(room.position + 1, 21)])) or []
    assert passed == list(range(1, 21))


@pytest.mark.parametrize("kind", sorted(SAID_ANEW))
def test_a_deletion_or_an_edit_that_is_heard_too_early_empties_the_tail_at_once(kind: str) -> None:
    room = ActiveRoom("room", last_seq=0, tail_events=10)
    room.offer([event(1), event(2), event(4)])
    assert room.offer([deletion(5, kind)]) == []
    assert list(room.tail) == []
    # What waited for its turn is read from the store, too.
    assert seqs(room.offer([event(3)])) == [3]
    assert seqs(room.offer([event(4)])) == [4, 5]
    assert [kept.seq for kept in room.tail] == [5]


@pytest.mark.parametrize("kind", sorted(SAID_ANEW))
def test_what_was_read_before_a_deletion_or_an_edit_is_known_to_be_old(kind: str) -> None:
    room = ActiveRoom("room", last_seq=5, tail_events=10)
    forgotten = room.forgotten
    room.offer([event(6)])
    assert room.forgotten == forgotten
    room.offer([deletion(7, kind)])
    assert room.forgotten > forgotten
    assert [kept.seq for kept in room.tail] == [7]


@pytest.mark.parametrize("kind", sorted(MESSAGE_CHANGES))
def test_the_newest_change_of_a_message_is_known_and_its_page_is_not_taken_from_the_tail(kind: str) -> None:
    room = ActiveRoom("room", last_seq=0, tail_events=10)
    bodies = [b'{"type":"new_message","message":{"seq":%d}}' % seq for seq in range(1, 6)]
    room.offer([Event("room", seq, "new_message", body) for seq, body in enumerate(bodies, 1)])
    assert page_of_tail(room, 2, max_bytes=1000) is not None
    room.offer([Event("room", 6, kind, b"{}")])
    assert room.changed_seq == 6
    assert page_of_tail(room, 2, max_bytes=1000) is None
    room.offer([Event("room", 7, "new_message", bodies[0]), Event("room", 8, "user_left", b"{}")])
    assert room.changed_seq == 6
    # A page that begins behind it may come from there.
    assert page_of_tail(room, 1, max_bytes=1000) is None
    room.offer([Event("room", 9, "new_message", bodies[1])])
    page = page_of_tail(room, 1, max_bytes=1000)
    assert page is not None
    assert page.has_more


def test_who_was_not_listening_is_not_removed() -> None:
    room = ActiveRoom("room", last_seq=0, tail_events=10)
    listener = Listener()
    assert not room.remove(listener)
    room.add(listener)
    assert room.remove(listener)
    assert not room.remove(listener)


@given(st.lists(st.integers(1, 2 * BLOCK_BYTES // 3), max_size=12))
def test_blocks_hold_all_frames_in_order_and_only_a_frame_alone_is_larger(sizes: list[int]) -> None:
    frames = [bytes([number]) * size for number, size in enumerate(sizes)]
    found = list(blocks(frames))
    assert b"".join(found) == b"".join(frames)
    assert all(len(block) <= BLOCK_BYTES or block in frames for block in found)
    for one, two in pairwise(found):
        first_of_two = next(frame for frame in frames if frame and two.startswith(frame))
        assert len(one) + len(first_of_two) > BLOCK_BYTES


class LargeRoom(RuleBasedStateMachine):
    """Listeners come and go while the backlog is served a slice at a time; each hears its own time in the room."""

    def __init__(self) -> None:
        super().__init__()
        self.room = ActiveRoom("room", last_seq=0, tail_events=5)
        self.last = 0
        self.present: dict[Listener, int] = {}
        self.gone: list[tuple[Listener, list[int]]] = []

    @rule()
    def somebody_comes(self) -> None:
        listener = Listener()
        self.room.add(listener)
        self.present[listener] = self.last + 1

    @rule(which=st.integers(0, 20))
    def somebody_goes(self, which: int) -> None:
        if self.present:
            listener = list(self.present)[which % len(self.present)]
            self.room.remove(listener)
            self.gone.append((listener, list(range(self.present.pop(listener), self.last + 1))))

    @rule(count=st.integers(1, 3))
    def something_happens(self, count: int) -> None:
        for _ in range(count):
            self.last += 1
            self.room.queue(frame_of(event(self.last)))

    @rule(slice_size=st.integers(1, 4))
    def a_slice_is_served(self, slice_size: int) -> None:
        self.room.serve(slice_size)

    @invariant()
    def nobody_heard_anything_twice_or_out_of_order(self) -> None:
        for listener, first in self.present.items():
            assert listener.seqs == list(range(first, first + len(listener.seqs)))
        for listener, expected in self.gone:
            assert listener.seqs == expected[: len(listener.seqs)]

    def teardown(self) -> None:
        """In the end everybody has heard all of it."""
        turns = 0
        while self.room.serve(2):
            turns += 1
            assert turns < 10_000
        for listener, first in self.present.items():
            assert listener.seqs == list(range(first, self.last + 1))
        for listener, expected in self.gone:
            assert listener.seqs == expected


TestLargeRoom = LargeRoom.TestCase


def test_a_slice_is_no_larger_than_it_may_be() -> None:
    room = ActiveRoom("room", last_seq=0, tail_events=5)
    listeners = [Listener() for _ in range(10)]
    for listener in listeners:
        room.add(listener)
    room.queue(b"one")
    heard: Counter[int] = Counter()
    while room.serve(4):
        heard[sum(bool(listener.received) for listener in listeners)] += 1
    assert list(heard) == [4, 8, 10]
