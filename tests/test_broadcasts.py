"""One event for everybody in any of several rooms, without a hub: who gets it, how often, and how much may wait."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from chatd.bus.broadcasts import MAX_WAITING, PART_RECEIVERS, Broadcasts
from chatd.bus.port import Broadcast
from chatd.bus.room import ActiveRoom
from chatd.wire.outbox import Outbox


@dataclass(eq=False)
class Listener:
    """A receiver, what it got, and in how many sends."""

    user_id: str
    got: list[str] = field(default_factory=list)
    sends: int = 0
    outbox: Outbox = field(init=False)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self._take, bound_bytes=10**6, on_waiting=_fail, on_overflow=_fail, on_broken=_fail)

    def _take(self, frames: bytes) -> int:
        self.got += re.findall(r"\{(\w+)\}", frames.decode(errors="replace"))
        self.sends += 1
        return len(frames)


def _fail() -> None:
    raise AssertionError("this socket takes everything")


ROOMS = ("a", "b", "c")


@pytest.fixture
def rooms() -> dict[str, ActiveRoom]:
    return {room_id: ActiveRoom(room_id, last_seq=0, tail_events=0) for room_id in ROOMS}


@pytest.fixture
async def broadcasts(rooms: dict[str, ActiveRoom], nursery: trio.Nursery) -> Broadcasts:
    opened = Broadcasts(rooms)
    nursery.start_soon(opened.serve)
    return opened


def listener(rooms: dict[str, ActiveRoom], user_id: str, *room_ids: str) -> Listener:
    made = Listener(user_id)
    for room_id in room_ids:
        rooms[room_id].add(made)
    return made


async def test_each_listener_of_any_of_the_rooms_gets_it_once_and_nobody_else(
    rooms: dict[str, ActiveRoom], broadcasts: Broadcasts
) -> None:
    near, far, other = listener(rooms, "ada", "a", "b"), listener(rooms, "bob", "b"), listener(rooms, "cyd", "c")
    broadcasts.queue([Broadcast(["a", "b", "not active here"], b"{one}")])
    await wait_all_tasks_blocked()
    assert (near.got, far.got, other.got) == (["one"], ["one"], [])


async def test_no_device_of_whom_it_is_about_gets_it(rooms: dict[str, ActiveRoom], broadcasts: Broadcasts) -> None:
    devices = [listener(rooms, "ada", "a"), listener(rooms, "ada", "a", "b")]
    bob = listener(rooms, "bob", "a")
    broadcasts.queue([Broadcast(["a", "b"], b"{one}", "ada"), Broadcast(["a"], b"{all}")])
    await wait_all_tasks_blocked()
    assert [device.got for device in devices] == [["all"], ["all"]]
    assert bob.got == ["one", "all"]


async def test_what_comes_together_leaves_as_one_send_in_order(
    rooms: dict[str, ActiveRoom], broadcasts: Broadcasts
) -> None:
    ada = listener(rooms, "ada", "a", "b")
    broadcasts.queue([Broadcast(["a" if number % 2 else "b"], b"{%d}" % number) for number in range(50)])
    await wait_all_tasks_blocked()
    assert ada.got == [str(number) for number in range(50)]
    assert ada.sends == 1


async def test_who_listens_is_looked_up_when_it_is_served(rooms: dict[str, ActiveRoom], broadcasts: Broadcasts) -> None:
    ada = listener(rooms, "ada", "a")
    broadcasts.queue([Broadcast(["a"], b"{one}")])
    rooms["a"].remove(ada)
    await wait_all_tasks_blocked()
    assert ada.got == []


async def test_a_crowd_is_served_in_parts_between_which_others_run(
    rooms: dict[str, ActiveRoom], broadcasts: Broadcasts
) -> None:
    crowd = [listener(rooms, f"user {number}", "a") for number in range(PART_RECEIVERS)]
    broadcasts.queue([Broadcast(["a"], b"{%d}" % number) for number in range(5)])
    counts = []
    for _ in range(20):
        await trio.lowlevel.checkpoint()
        counts.append(len(crowd[0].got))
    # In a turn of the loop either may be first.
    assert len(set(counts) - {0, 5}) >= 2
    assert counts[-1] == 5


async def test_one_event_for_a_crowd_is_served_in_parts_to_those_who_listen_then(
    rooms: dict[str, ActiveRoom], broadcasts: Broadcasts
) -> None:
    crowd = [listener(rooms, f"user {number}", "a") for number in range(3 * PART_RECEIVERS)]
    near = listener(rooms, "ada", "b")
    broadcasts.queue([Broadcast(["b"], b"{before}"), Broadcast(["a", "b"], b"{one}", "user 1")])
    broadcasts.queue([Broadcast(["a", "b"], b"{two}"), Broadcast(["b"], b"{after}")])
    while not crowd[0].got:
        await trio.lowlevel.checkpoint()
    assert near.got == ["before"]
    assert crowd[-1].got == []
    rooms["a"].remove(crowd[-1])
    await wait_all_tasks_blocked()
    assert crowd[0].got == crowd[-2].got == ["one", "two"]
    assert (crowd[1].got, crowd[-1].got) == (["two"], [])
    assert near.got == ["before", "one", "two", "after"]


async def test_rooms_that_are_a_crowd_together_are_served_in_parts(
    rooms: dict[str, ActiveRoom], broadcasts: Broadcasts
) -> None:
    in_both = [listener(rooms, f"user {number}", "a", "b") for number in range(PART_RECEIVERS // 2)]
    others = [listener(rooms, f"other {number}", "b") for number in range(5 * PART_RECEIVERS // 2)]
    broadcasts.queue([Broadcast(["a", "b"], b"{one}")])
    while not in_both[0].got:
        await trio.lowlevel.checkpoint()
    assert others[-1].got == []
    await wait_all_tasks_blocked()
    assert {(*receiver.got,) for receiver in in_both + others} == {("one",)}


async def test_past_the_bound_the_newest_are_dropped(rooms: dict[str, ActiveRoom], broadcasts: Broadcasts) -> None:
    ada = listener(rooms, "ada", "a")
    broadcasts.queue([Broadcast(["a"], b"{%d}" % number) for number in range(MAX_WAITING - 1)])
    broadcasts.queue([Broadcast(["a"], b"{first}"), Broadcast(["a"], b"{second}")])
    broadcasts.queue([Broadcast(["a"], b"{third}")])
    assert broadcasts.dropped == 2
    await wait_all_tasks_blocked()
    assert len(ada.got) == MAX_WAITING
    assert ada.got[-1] == "first"
    broadcasts.queue([Broadcast(["a"], b"{again}")])
    await wait_all_tasks_blocked()
    assert ada.got[-1] == "again"
