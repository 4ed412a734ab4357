"""How fast files arrive: all together as fast as the option says and no faster, each in its turn."""

from __future__ import annotations

import trio
import trio.testing

from chatd.files.incoming import Pace


async def test_files_together_arrive_as_fast_as_is_allowed_and_in_turn(autojump_clock: trio.testing.MockClock) -> None:
    pace, ended = Pace(1000), []

    async def bring(name: str) -> None:
        for _ in range(3):
            await pace.wait_turn(100)
            ended.append((name, round(trio.current_time() - began, 3)))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for name in ("one", "other"):
            nursery.start_soon(bring, name)
    assert [at for _, at in ended] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert {name for name, _ in ended[:2]} == {name for name, _ in ended[2:4]} == {"one", "other"}


async def test_who_was_not_there_has_saved_nothing_up(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(1000)
    await trio.sleep(10)
    began = trio.current_time()
    for _ in range(3):
        await pace.wait_turn(1000)
    assert trio.current_time() - began == 2.0


async def test_without_a_bound_nobody_waits(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(0)
    began = trio.current_time()
    for _ in range(3):
        await pace.wait_turn(10**9)
    assert trio.current_time() == began
