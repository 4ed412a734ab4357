"""Many who ask at once share one load; a refusal reaches all of them, and nobody's leaving hurts the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from chatd.errors import Refusal, Unavailable
from chatd.loader import Loader, open_loader

if TYPE_CHECKING:
    from collections.abc import Sequence


class Shelf:
    """What is loaded from: `loads` has the keys of each load; while `gate` is shut they wait."""

    def __init__(self) -> None:
        self.loads: list[list[str]] = []
        self.gate = trio.Event()
        self.refusal: Refusal | None = None

    async def load(self, keys: Sequence[str]) -> dict[str, str]:
        self.loads.append(list(keys))
        await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        return {key: key.upper() for key in keys if key != "missing"}


async def ask(loader: Loader[str, str], key: str, answers: list[str | None]) -> None:
    answers.append(await loader.get(key))


async def test_a_key_is_loaded_and_one_that_is_not_there_is_none() -> None:
    shelf = Shelf()
    shelf.gate.set()
    async with open_loader(shelf.load) as loader:
        assert await loader.get("a") == "A"
        assert await loader.get("missing") is None
        assert await loader.get_many(["b", "missing", "c"]) == {"b": "B", "c": "C"}
        assert await loader.get_many([]) == {}
    assert shelf.loads == [["a"], ["missing"], ["b", "missing", "c"]]


async def test_those_who_ask_at_once_share_a_load_and_the_same_key_is_loaded_once() -> None:
    shelf = Shelf()
    answers: list[str | None] = []
    async with open_loader(shelf.load) as loader, trio.open_nursery() as nursery:
        nursery.start_soon(ask, loader, "first", answers)
        await trio.testing.wait_all_tasks_blocked()
        for key in "abab":
            nursery.start_soon(ask, loader, key, answers)
        nursery.start_soon(loader.get_many, ["b", "c"])
        await trio.testing.wait_all_tasks_blocked()
        shelf.gate.set()
    assert [sorted(keys) for keys in shelf.loads] == [["first"], ["a", "b", "c"]]
    assert sorted(str(answer) for answer in answers) == ["A", "A", "B", "B", "FIRST"]


async def test_who_asks_while_a_load_is_under_way_gets_a_later_one() -> None:
    """What was read before the question may be out of date."""
    shelf = Shelf()
    answers: list[str | None] = []
    async with open_loader(shelf.load) as loader, trio.open_nursery() as nursery:
        nursery.start_soon(ask, loader, "a", answers)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, loader, "a", answers)
        await trio.testing.wait_all_tasks_blocked()
        shelf.gate.set()
    assert shelf.loads == [["a"], ["a"]]
    assert answers == ["A", "A"]


async def test_a_load_gets_no_more_keys_than_it_may() -> None:
    shelf = Shelf()
    shelf.gate.set()
    keys = [f"k{number}" for number in range(10)]
    async with open_loader(shelf.load, max_keys=4) as loader:
        assert len(await loader.get_many(keys)) == 10
    assert [len(load) for load in shelf.loads] == [4, 4, 2]
    assert [key for load in shelf.loads for key in load] == keys


async def test_a_refusal_reaches_all_who_share_the_load_and_the_next_one_works() -> None:
    shelf = Shelf()
    shelf.refusal = Refusal("overloaded", "too much", retry_after_ms=500)
    refusals: list[Refusal] = []

    async def expect_refusal(keys: Sequence[str]) -> None:
        with pytest.raises(Refusal) as caught:
            await (loader.get(keys[0]) if len(keys) == 1 else loader.get_many(keys))
        refusals.append(caught.value)

    async with open_loader(shelf.load) as loader:
        async with trio.open_nursery() as nursery:
            for keys in (["a"], ["b"], ["a", "b"]):
                nursery.start_soon(expect_refusal, keys)
            await trio.testing.wait_all_tasks_blocked()
            shelf.gate.set()
        shelf.refusal = None
        assert await loader.get("a") == "A"
    assert [(refusal.code, refusal.detail, refusal.retry_after_ms) for refusal in refusals] == [
        ("overloaded", "too much", 500)
    ] * 3


async def test_an_outage_is_an_outage_for_who_asked() -> None:
    shelf = Shelf()
    shelf.gate.set()
    shelf.refusal = Unavailable("out")
    async with open_loader(shelf.load) as loader:
        with pytest.raises(Unavailable):
            await loader.get("a")
        with pytest.raises(Unavailable):
            await loader.get_many(["a", "b"])


async def test_who_leaves_takes_nothing_from_the_others() -> None:
    shelf = Shelf()
    answers: list[str | None] = []
    async with open_loader(shelf.load) as loader, trio.open_nursery() as nursery:
        async with trio.open_nursery() as leaving:
            leaving.start_soon(ask, loader, "a", answers)
            leaving.start_soon(loader.get_many, ["a", "b"])
            nursery.start_soon(ask, loader, "a", answers)
            await trio.testing.wait_all_tasks_blocked()
            leaving.cancel_scope.cancel()
        assert answers == []
        shelf.gate.set()
    assert answers == ["A"]


async def test_when_it_closes_who_still_waits_hears_that_it_stops_and_not_that_there_is_nothing() -> None:
    shelf = Shelf()

    async def expect_outage() -> None:
        with pytest.raises(Unavailable, match="stopping"):
            await loader.get("a")

    async with trio.open_nursery() as nursery, open_loader(shelf.load) as loader:
        nursery.start_soon(expect_outage)
        await trio.testing.wait_all_tasks_blocked()


async def test_who_waits_behind_a_load_that_is_under_way_hears_of_the_stop_too() -> None:
    shelf = Shelf()
    told: list[str] = []

    async def expect_outage(key: str) -> None:
        with pytest.raises(Unavailable, match="stopping"):
            await loader.get(key)
        told.append(key)

    async with trio.open_nursery() as nursery, open_loader(shelf.load) as loader:
        for key in "ab":
            nursery.start_soon(expect_outage, key)
            await trio.testing.wait_all_tasks_blocked()
        assert shelf.loads == [["a"]]
    assert sorted(told) == ["a", "b"]


async def test_crowd_that_comes_little_by_little_shares_a_load_a_while(mock_clock: trio.testing.MockClock) -> None:
    mock_clock.autojump_threshold = 0
    loads: list[int] = []

    async def load(keys: Sequence[str]) -> dict[str, str]:
        loads.append(len(keys))
        await trio.sleep(0.002)
        return {key: key for key in keys}

    async with open_loader(load, gather_s=0.02) as loader, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(loader.get, str(number))
            await trio.sleep(0.001)
    assert loads[0] == 1
    assert len(loads) < 8
    assert sum(loads) == 100


async def test_a_question_at_a_time_is_never_held_up_by_gathering(mock_clock: trio.testing.MockClock) -> None:
    shelf = Shelf()
    shelf.gate.set()
    async with open_loader(shelf.load, gather_s=0.02) as loader:
        for key in "abc":
            assert await loader.get(key) == key.upper()
    assert trio.current_time() == mock_clock.current_time()
    assert len(shelf.loads) == 3
