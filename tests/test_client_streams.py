"""Streams alone: what waits in them, who takes it, and how they end. On the mock clock."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from chatd.client.errors import Disconnected
from chatd.client.streams import Stream


def open_stream(bound: int = 3, *, room_id: str | None = None, calls: list[Any] | None = None) -> Stream[int]:
    return Stream(bound, room_id=room_id, on_taken=(lambda _: None) if calls is None else calls.append)


async def test_items_come_in_order_and_each_goes_to_one_taker(autojump_clock: trio.testing.MockClock) -> None:
    stream, taken = open_stream(100), list[tuple[str, int]]()

    async def take(name: str) -> None:
        async for item in stream:
            taken.append((name, item))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, "one")
        nursery.start_soon(take, "two")
        for number in range(10):
            stream.put(number)
            await trio.sleep(0.1)
        stream.end(None)
    assert [item for _, item in taken] == list(range(10))
    assert {name for name, _ in taken} == {"one", "two"}


async def test_wait_that_is_cancelled_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    stream = open_stream()
    with trio.move_on_after(1) as scope:
        await anext(stream)
    assert scope.cancelled_caught
    stream.put(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(stream)
    assert scope.cancelled_caught
    assert await anext(stream) == 1


async def test_stream_hands_out_what_it_has_before_it_raises_why_it_ended() -> None:
    stream = open_stream()
    stream.put(1)
    stream.end(Disconnected(4506, "revoked"))
    stream.end(None)
    assert await anext(stream) == 1
    for _ in range(2):
        with pytest.raises(Disconnected, match="4506"):
            await anext(stream)


async def test_stream_that_is_closed_forgets_what_it_had() -> None:
    calls: list[object] = []
    with open_stream(calls=calls) as stream:
        stream.put(1)
        assert stream.wants("any")
    assert not stream.wants("any")
    assert [item async for item in stream] == []
    assert calls == [stream]


async def test_space_is_told_and_the_oldest_is_dropped_where_that_is_wanted() -> None:
    stream = open_stream(3)
    states = []
    for number in range(3):
        states.append((stream.is_half_full, stream.is_full))
        stream.put(number)
    assert states == [(False, False), (False, False), (True, False)]
    assert stream.is_full
    stream.put_or_drop(3)
    assert (stream.dropped, list(stream.waiting)) == (1, [1, 2, 3])


async def test_stream_of_a_room_wants_its_events_only() -> None:
    assert [open_stream(room_id="a").wants(room_id) for room_id in "ab"] == [True, False]
