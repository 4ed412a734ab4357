"""The collector looks through what is new, sets the rest aside, and takes it back once there is too much of it."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from chatd.collector import COUNT_S, FOR_ALL, FOR_CONNECTION, GONE, Collector

if TYPE_CHECKING:
    from collections.abc import Iterator


class Cycle:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def collector() -> Iterator[Collector]:
    thresholds = gc.get_threshold()
    yield Collector(0.0)
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def make_garbage(collector: Collector, count: int) -> weakref.ref[Cycle]:
    """So many cycles that die after they were set aside; one of them."""
    cycles = [Cycle() for _ in range(count)]
    collector.keep_up(0.0, live=0, ever=0)
    return weakref.ref(cycles[0])


def test_what_there_is_at_the_start_is_set_aside(collector: Collector) -> None:
    assert collector is not None
    assert gc.get_freeze_count() > 1000


def test_garbage_that_is_new_is_freed_at_once(collector: Collector) -> None:
    garbage = weakref.ref(Cycle())
    collector.keep_up(0.0, live=0, ever=0)
    assert garbage() is None


def test_what_is_left_is_set_aside_and_no_longer_looked_through(collector: Collector) -> None:
    fresh = [Cycle() for _ in range(100)]
    before = gc.get_freeze_count()
    collector.keep_up(0.0, live=0, ever=0)
    assert gc.get_freeze_count() >= before + len(fresh)
    alive = weakref.ref(fresh[0])
    fresh.clear()
    gc.collect()
    assert alive() is not None


def test_all_is_looked_through_once_more_is_set_aside_than_there_should_be(collector: Collector) -> None:
    garbage = make_garbage(collector, FOR_ALL)
    collector.keep_up(COUNT_S - 1, live=0, ever=0)
    assert garbage() is not None, "it is not the time to count"
    collector.keep_up(COUNT_S, live=0, ever=0)
    assert garbage() is None


def test_what_connections_need_is_no_garbage(collector: Collector) -> None:
    garbage = make_garbage(collector, FOR_ALL + FOR_ALL // 2)
    came = FOR_ALL // FOR_CONNECTION
    collector.keep_up(COUNT_S, live=came, ever=came)
    assert garbage() is not None
    collector.keep_up(2 * COUNT_S, live=came // 4, ever=came)
    assert garbage() is None


def test_all_is_looked_through_once_as_many_connections_have_gone_as_there_are(collector: Collector) -> None:
    garbage = make_garbage(collector, 1)
    collector.keep_up(0.0, live=GONE * 2, ever=GONE * 3)
    assert garbage() is not None, "ten thousand have gone, and twice as many are there"
    collector.keep_up(0.0, live=GONE, ever=GONE * 3)
    assert garbage() is None
