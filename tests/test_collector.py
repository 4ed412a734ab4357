"""The collector sets aside what has grown and takes it back once as much has gone."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from chatd.collector import GONE, GROWN, Collector

if TYPE_CHECKING:
    from collections.abc import Iterator


class Cycle:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def collector() -> Iterator[Collector]:
    thresholds = gc.get_threshold()
    yield Collector()
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_there_is_at_the_start_is_set_aside(collector: Collector) -> None:
    assert collector is not None
    assert gc.get_freeze_count() > 1000


def test_what_has_grown_is_set_aside_and_no_longer_looked_through(collector: Collector) -> None:
    fresh = [Cycle() for _ in range(100)]
    before = gc.get_freeze_count()
    collector.keep_up(live=GROWN - 1, ever=GROWN - 1)
    assert gc.get_freeze_count() == before
    collector.keep_up(live=GROWN, ever=GROWN)
    assert gc.get_freeze_count() >= before + len(fresh)
    alive = weakref.ref(fresh[0])
    fresh.clear()
    gc.collect()
    assert alive() is not None


def test_garbage_is_freed_once_as_many_have_gone_as_there_are(collector: Collector) -> None:
    garbage = weakref.ref(Cycle())
    collector.keep_up(live=GROWN, ever=GROWN)
    gc.collect()
    collector.keep_up(live=GONE * 2, ever=GONE * 3)
    assert garbage() is not None, "ten thousand have gone, and twice as many are there"
    collector.keep_up(live=GONE, ever=GONE * 3)
    assert garbage() is None
