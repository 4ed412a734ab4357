"""What every bus does, whatever carries it: one suite, run over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chatd.bus.local import LocalBus
from chatd.bus.port import Broadcast, Event, Notice
from chatd.limits.rates import Rate
from tests.buses import Ticker

if TYPE_CHECKING:
    from chatd.bus.port import Bus
    from tests.buses import RecordingEars

LAST = Notice("profile_changed", "last", username="the last word of a test")


def events(room_id: str, *seqs: int) -> list[Event]:
    return [Event(room_id, seq, "new_message", b'{"seq":%d}' % seq) for seq in seqs]


async def hear_out(bus: Bus, ears: RecordingEars) -> None:
    """Wait until everything that was published before has been heard, if it is to be heard at all."""
    bus.announce(LAST)
    await ears.wait_until(lambda: LAST in ears.notices)


async def claim(bus: Bus) -> list[str]:
    """Who is claimed once everything that was said before is known."""
    await bus.devices(["anybody"])
    return list(await bus.claim_offline())


async def test_events_of_a_subscribed_room_are_heard_whole_and_in_order(bus: Bus, ears: RecordingEars) -> None:
    await bus.subscribe(["a", "b"])
    left = Event("a", 4, "user_left", '{"naïve":"😀"}'.encode(), subject="bob")
    bus.publish(events("a", 1, 2))
    bus.publish([*events("a", 3), left])
    await ears.wait_until(lambda: len(ears.events) == 4)
    assert ears.events == [*events("a", 1, 2, 3), left]


async def test_rooms_without_subscription_are_not_heard(bus: Bus, ears: RecordingEars) -> None:
    await bus.subscribe(["a"])
    bus.publish([*events("b", 1), *events("a", 1), *events("c", 1)])
    bus.publish(events("b", 2))
    bus.signal("b", b"{}", about="ada")
    await hear_out(bus, ears)
    assert ears.events == events("a", 1)
    assert ears.signals == []


async def test_what_was_published_before_subscribing_is_not_heard_and_all_behind_it_is(
    bus: Bus, ears: RecordingEars
) -> None:
    bus.publish(events("a", 1))
    await hear_out(bus, ears)
    await bus.subscribe(["a"])
    bus.publish(events("a", 2))
    await ears.wait_until(lambda: ears.events)
    assert ears.events == events("a", 2)


async def test_an_unsubscribed_room_falls_silent_and_can_be_subscribed_again(bus: Bus, ears: RecordingEars) -> None:
    await bus.subscribe(["a", "b"])
    await bus.subscribe(["a"])
    await bus.unsubscribe(["a", "never subscribed"])
    bus.publish([*events("a", 1), *events("b", 1)])
    await hear_out(bus, ears)
    await bus.subscribe(["a"])
    bus.publish(events("a", 2))
    await ears.wait_until(lambda: len(ears.events) == 2)
    assert ears.events == [*events("b", 1), *events("a", 2)]


async def test_a_signal_says_whom_it_is_about(bus: Bus, ears: RecordingEars) -> None:
    await bus.subscribe(["a"])
    bus.signal("a", b'{"type":"user_typing"}', about="ada")
    await ears.wait_until(lambda: ears.signals)
    assert ears.signals == [("a", b'{"type":"user_typing"}', "ada")]


async def test_a_signal_of_a_kind_says_so(bus: Bus, ears: RecordingEars) -> None:
    await bus.subscribe(["a"])
    bus.signal("a", b"{}", about="ada")
    bus.signal("a", b"{}", about="ada", kind="typing")
    await ears.wait_until(lambda: len(ears.signals) == 2)
    assert ears.kinds == ["typing"]


async def test_a_broadcast_is_heard_everywhere_and_says_for_whom_it_is(bus: Bus, ears: RecordingEars) -> None:
    broadcasts = [
        Broadcast(("a", "b"), b'{"to":"all"}'),
        Broadcast(("c",), '{"naïve":"😀"}'.encode(), "ada"),
        Broadcast((), b'{"to":"two"}', to=("ada", "bob")),
    ]
    bus.broadcast(broadcasts)
    await ears.wait_until(lambda: ears.broadcasts)
    assert ears.broadcasts == broadcasts
    bus.broadcast([])
    await hear_out(bus, ears)
    assert ears.broadcasts == broadcasts


async def test_a_notice_is_heard_with_all_that_it_says(bus: Bus, ears: RecordingEars) -> None:
    notices = [
        Notice("member_joined", "ada", room_id="a", seq=7),
        Notice("session_revoked", "ada", session_id="s"),
        Notice("account_disabled", "bob"),
        Notice("profile_changed", "bob", username="Böb"),
    ]
    for notice in notices:
        bus.announce(notice)
    await hear_out(bus, ears)
    assert ears.notices == [*notices, LAST]


async def test_devices_are_counted_by_user(bus: Bus) -> None:
    for user_id in ("ada", "ada", "bob", "cy"):
        bus.arrived(user_id)
    bus.departed("cy")
    assert dict(await bus.devices(["ada", "bob", "cy", "nobody"])) == {"ada": 2, "bob": 1}
    bus.departed("ada")
    bus.departed("bob")
    assert dict(await bus.devices(["ada", "bob"])) == {"ada": 1}
    assert dict(await bus.devices([])) == {}


async def test_a_user_is_online_from_the_first_device_that_appeared(bus: Bus, ears: RecordingEars) -> None:
    bus.arrived("ada")
    assert dict(await bus.online(["ada", "bob"])) == {}
    bus.appeared("ada")
    await ears.wait_until(lambda: ears.online)
    bus.arrived("ada")
    bus.appeared("ada")
    assert dict(await bus.online(["ada", "bob"])) == {"ada": 2}
    bus.departed("ada")
    assert await claim(bus) == []
    assert dict(await bus.online(["ada"])) == {"ada": 1}
    await hear_out(bus, ears)
    assert ears.online == ["ada"]


async def test_the_last_device_leaves_a_grace_behind_in_which_nobody_hears_of_a_return(
    bus: Bus, ears: RecordingEars
) -> None:
    for _ in range(3):
        bus.arrived("ada")
        bus.appeared("ada")
        await ears.wait_until(lambda: ears.online)
        bus.departed("ada", grace_s=1000)
        assert dict(await bus.devices(["ada"])) == {}
        assert dict(await bus.online(["ada"])) == {"ada": 0}
        assert await claim(bus) == []
    await hear_out(bus, ears)
    assert ears.online == ["ada"]


async def test_who_is_offline_when_the_grace_is_over_is_claimed_once(bus: Bus, ears: RecordingEars) -> None:
    for user_id in ("ada", "bob"):
        bus.arrived(user_id)
        bus.appeared(user_id)
    await ears.wait_until(lambda: len(ears.online) == 2)
    bus.departed("ada", grace_s=0)
    assert dict(await bus.online(["ada", "bob"])) == {"bob": 1}
    assert await claim(bus) == ["ada"]
    assert await claim(bus) == []
    assert dict(await bus.online(["ada", "bob"])) == {"bob": 1}
    # And is news again.
    bus.arrived("ada")
    bus.appeared("ada")
    await ears.wait_until(lambda: ears.online.count("ada") == 2)


async def test_a_device_that_never_appeared_is_nobody_s_business(bus: Bus, ears: RecordingEars) -> None:
    bus.arrived("ada")
    bus.departed("ada")
    assert await claim(bus) == []
    bus.arrived("bob")
    bus.appeared("bob")
    await ears.wait_until(lambda: ears.online)
    bus.departed("bob", grace_s=1000)
    # Not even where the user is seen online still.
    bus.arrived("bob")
    bus.departed("bob", grace_s=0)
    assert await claim(bus) == []
    assert dict(await bus.online(["bob"])) == {"bob": 0}
    assert ears.online == ["bob"]


async def test_many_who_go_at_once_are_all_claimed(bus: Bus) -> None:
    users = [f"user {number}" for number in range(1700)]
    for user_id in users:
        bus.arrived(user_id)
        bus.appeared(user_id)
    assert len(await bus.online(users)) == 1700
    for user_id in users:
        bus.departed(user_id)
    assert sorted(await claim(bus)) == sorted(users)
    assert dict(await bus.online(users)) == {}


async def test_a_budget_gives_its_burst_then_says_how_long_to_wait_and_keeps_its_word(bus: Bus, ticker: Ticker) -> None:
    rate = Rate(burst=3, per_s=60)
    assert [await bus.take("ada", rate) for _ in range(3)] == [0, 0, 0]
    wait_ms = await bus.take("ada", rate)
    # On Redis time goes on meanwhile: a wide margin, for a slow machine.
    assert 15_000 < wait_ms <= 20_001
    assert await bus.take("bob", rate) == 0
    ticker.now += (wait_ms - 5000) / 1000
    assert 0 < await bus.take("ada", rate) <= 5001
    ticker.now += 5
    assert await bus.take("ada", rate) == 0
    assert await bus.take("ada", rate) > 0


async def test_several_are_taken_at_once_or_none_of_them(bus: Bus) -> None:
    rate = Rate(burst=5, per_s=60)
    assert await bus.take("ada", rate, count=3) == 0
    assert await bus.take("ada", rate, count=3) > 0
    assert await bus.take("ada", rate, count=2) == 0


async def test_without_a_burst_there_is_no_limit(bus: Bus) -> None:
    assert {await bus.take("ada", Rate(0, 60)) for _ in range(100)} == {0}


async def test_those_who_take_at_once_do_not_get_more_than_there_is(bus: Bus) -> None:
    waits: list[int] = []

    async def take() -> None:
        waits.append(await bus.take("ada", Rate(5, 60)))

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(take)
    assert waits.count(0) == 5


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 3)), max_size=60), st.integers(1, 5))
def test_no_stretch_of_time_gets_more_than_burst_and_refill(steps: list[tuple[float, int]], burst: int) -> None:
    """And whoever waits as long as he was told is granted the same."""
    ticker, per_s = Ticker(), 60.0
    bus = LocalBus(ticker)
    granted: list[tuple[float, int]] = []

    async def main() -> None:
        for pause_s, count in steps:
            ticker.now += pause_s
            wait_ms = await bus.take("ada", Rate(burst, per_s), count=count)
            if wait_ms and count <= burst:
                ticker.now += wait_ms / 1000
                assert await bus.take("ada", Rate(burst, per_s), count=count) == 0
                wait_ms = 0
            if not wait_ms:
                granted.append((ticker.now, count))

    trio.run(main)
    for index, (began, _) in enumerate(granted):
        for last in range(index, len(granted)):
            spent = sum(count for _, count in granted[index : last + 1])
            assert spent <= burst + (granted[last][0] - began + 0.002) * burst / per_s + 1e-6


async def test_budgets_that_are_full_again_are_forgotten_and_the_others_are_not() -> None:
    """Of the local bus alone: Redis forgets by itself."""
    ticker = Ticker()
    bus = LocalBus(ticker)
    rate = Rate(1, 10)
    for number in range(9_999):
        assert await bus.take(f"early {number}", rate) == 0
    ticker.now += 9
    assert await bus.take("late", rate) == 0
    ticker.now += 2
    assert await bus.take("one more", rate) == 0
    assert len(bus._budgets._full_at) == 2
    assert await bus.take("late", rate) > 0
    assert await bus.take("early 0", rate) == 0


@pytest.mark.parametrize("method", ["publish", "announce", "broadcast", "appeared", "signal"])
async def test_without_ears_nothing_is_heard_and_nothing_breaks(method: str) -> None:
    bus = LocalBus(Ticker())
    await bus.subscribe(["a"])
    match method:
        case "publish":
            bus.publish(events("a", 1))
        case "announce":
            bus.announce(LAST)
        case "broadcast":
            bus.broadcast([Broadcast(["a"], b"{}")])
        case "appeared":
            bus.appeared("ada")
        case _:
            bus.signal("a", b"{}", about="ada")
