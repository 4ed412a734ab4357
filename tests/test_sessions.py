"""What a node's sessions hear of rooms that their users join and leave elsewhere, in whatever order they are told.

Behind the scripted bus, under the mock clock. Whatever it loses, repeats and reorders: each device hears each event
once, in order, all of the stay that it knows of, and nothing of a room while its user is no member.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from chatd.bus.port import Event, Notice
from chatd.errors import CloseCode
from chatd.upkeep import LOOK_AT_ONCE
from tests.scripted import NOTICE_OF, Device, Node, open_node

if TYPE_CHECKING:
    from collections.abc import Sequence

USER = "ada"


def stays(node: Node, room_id: str) -> list[tuple[int, int]]:
    """The user's stays in a room: the first and the last seq of each, a lasting one up to now."""
    found: list[tuple[int, int]] = []
    joined_at = None
    for event in node.history.rooms[room_id]:
        if event.subject == USER and event.kind == "user_joined":
            joined_at = event.seq
        elif event.subject == USER and event.kind == "user_left" and joined_at is not None:
            found.append((joined_at, event.seq))
            joined_at = None
    if joined_at is not None:
        found.append((joined_at, len(node.history.rooms[room_id])))
    return found


def check(node: Node, device: Device, room_id: str) -> None:
    """Once, in order, without a hole in a stay, all of a lasting one, and nothing while no member."""
    seqs = device.seqs(room_id)
    assert seqs == sorted(set(seqs))
    for first, last in stays(node, room_id):
        own = [seq for seq in seqs if first <= seq <= last]
        assert own == list(range(own[0], own[-1] + 1)) if own else True
    spans = stays(node, room_id)
    for seq in seqs:
        assert any(first <= seq <= last for first, last in spans)
    session = device.session
    if node.history.stay_of(room_id, USER) is None:
        assert room_id not in session.rooms
        assert not node.hub.is_heard_by(session, room_id)
    else:
        assert room_id in session.rooms
        assert node.hub.is_heard_by(session, room_id)
        first, last = spans[-1]
        begins = max(first, device.arrived.get(room_id, 0) + 1)
        assert [seq for seq in seqs if seq >= begins] == list(range(begins, last + 1))


# Every order of the notices among the events


HISTORIES = {
    "leaves and comes back": ["message", "leave", "message", "join"],
    "comes back and leaves": ["leave", "join", "leave"],
    "leaves": ["message", "leave", "message"],
}


@pytest.mark.parametrize("pause_s", [0, 0.01])
@pytest.mark.parametrize("name", HISTORIES)
def test_device_hears_its_users_stays_wherever_the_notices_come_among_the_events(name: str, pause_s: float) -> None:
    """Each notice at each place among the events, the notices in each order, with turns of others between or not."""
    kinds = HISTORIES[name]
    # That of the first joining, before the device came, is late or comes twice.
    count = 1 + sum(kind != "message" for kind in kinds)
    for places in itertools.product(range(len(kinds) + 1), repeat=count):
        orders = itertools.permutations(range(count)) if count < 4 else [range(count), range(count)[::-1]]
        for order in orders:
            trio.run(play_order, kinds, places, order, pause_s, clock=trio.testing.MockClock(autojump_threshold=0))


async def play_order(kinds: Sequence[str], places: Sequence[int], order: Sequence[int], pause_s: float) -> None:
    async with open_node("room") as node:
        joined = node.commit("room", "user_joined", USER)
        node.bus.channels.clear()
        device = await node.arrive(USER)
        for kind in kinds:
            if kind == "message":
                node.commit("room")
            else:
                node.commit("room", f"user_{'left' if kind == 'leave' else 'joined'}", USER)
        events = [item for item in node.bus.channels["room room"] if isinstance(item, Event)]
        notices = [told(event) for event in (joined, *events) if event.kind in NOTICE_OF]
        arriving: list[Event | Notice] = []
        for place in range(len(events) + 1):
            arriving += [notices[index] for index in order if places[index] == place]
            arriving += events[place : place + 1]
        for item in arriving:
            node.bus.hear(item)
            if pause_s:
                await trio.sleep(pause_s)
        await trio.sleep(20)
        check(node, device, "room")
        _, last_of_first = stays(node, "room")[0]
        assert device.seqs("room")[: last_of_first - 1] == list(range(2, last_of_first + 1))


# What comes at the wrong moment


@pytest.fixture
def autojump(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


def told(event: Event) -> Notice:
    """The notice of a joining or a leaving."""
    assert event.subject is not None
    return Notice(NOTICE_OF[event.kind], event.subject, event.room_id, event.seq)  # type: ignore[arg-type]  # its values are kinds


async def test_who_leaves_while_the_store_is_asked_does_not_follow(autojump: object) -> None:
    async with open_node("room") as node:
        device = await node.arrive(USER)
        joined = node.commit("room", "user_joined", USER)
        node.history.gate = trio.Event()
        node.bus.hear(told(joined))
        await trio.sleep(0.01)
        left = node.commit("room", "user_left", USER)
        node.commit("room")
        node.bus.hear(told(left))
        node.history.gate.set()
        await trio.sleep(20)
        assert device.seqs("room") == []
        check(node, device, "room")


async def test_second_look_that_is_older_than_a_joining_does_not_undo_it(autojump: object) -> None:
    async with open_node("room") as node:
        device = await node.arrive(USER)
        node.history.gate = trio.Event()
        node.bus.come_back()
        await trio.sleep(0.01)
        # It has read that the user is no member; this device joins by itself meanwhile.
        joined = node.commit("room", "user_joined", USER)
        node.history.gate.set()
        device.session.enter("room", "member", joined.seq)
        await node.hub.activate(["room"])
        assert node.hub.listen(device.session, "room", after=joined.seq)
        node.commit("room")
        node.bus.carry_all()
        await trio.sleep(20)
        assert device.seqs("room") == [2]
        assert "room" in device.session.rooms


async def test_membership_that_is_gone_without_an_event_ends_when_it_is_looked_at_again(autojump: object) -> None:
    async with open_node("room") as node:
        joined = node.commit("room", "user_joined", USER)
        device = await node.arrive(USER)
        node.history.rooms["room"][0] = joined._replace(subject="somebody else")
        node.bus.come_back()
        await trio.sleep(1)
        node.commit("room")
        node.bus.carry_all()
        assert device.seqs("room") == []
        check(node, device, "room")


async def test_leaving_whose_event_is_lost_is_heard_at_once(autojump: object) -> None:
    async with open_node("room") as node:
        node.commit("room", "user_joined", USER)
        device = await node.arrive(USER)
        node.commit("room")
        left = node.commit("room", "user_left", USER)
        node.commit("room")
        node.bus.channels.clear()
        node.bus.hear(told(left))
        # Nothing more may be done in the room, but what came before the leaving is the leaver's still.
        assert "room" not in device.session.rooms
        await trio.sleep(0.1)
        assert device.seqs("room") == [2, 3]
        check(node, device, "room")


async def test_leaving_that_is_found_when_the_bus_is_back_is_heard_up_to_its_event(autojump: object) -> None:
    async with open_node("room") as node:
        node.commit("room", "user_joined", USER)
        device = await node.arrive(USER)
        node.bus.go()
        node.commit("room")
        node.commit("room", "user_left", USER)
        node.commit("room")
        node.bus.come_back()
        await trio.sleep(1)
        assert device.seqs("room") == [2, 3]
        check(node, device, "room")


async def test_device_whose_connection_ends_while_it_leaves_is_forgotten(autojump: object) -> None:
    async with open_node("room") as node:
        node.commit("room", "user_joined", USER)
        device = await node.arrive(USER)
        node.bus.hear(told(node.commit("room", "user_left", USER)))
        node.chat.sessions.remove(device.session, 0)
        assert not node.hub.is_heard_by(device.session, "room")


async def test_first_members_of_a_room_made_elsewhere_hear_it_from_its_first_event(autojump: object) -> None:
    """The room is not active here, nor does it have an event that tells who is in it."""
    async with open_node() as node:
        device = await node.arrive(USER)
        await node.history.add_room("new")
        node.history.first_members.add(("new", USER))
        node.commit("new")
        notice = Notice("member_joined", USER, "new", 0, role="member")
        node.bus.hear(notice)
        node.bus.hear(notice)
        await trio.sleep(1)
        node.commit("new")
        node.bus.carry_all()
        assert device.seqs("new") == [1, 2]
        node.commit("new", "user_left", USER)
        node.commit("new")
        node.bus.carry_all()
        node.bus.hear(notice)
        await trio.sleep(10)
        assert device.seqs("new") == [1, 2, 3]


# What the store is asked for


async def test_one_who_signed_in_behind_the_end_of_all_sessions_is_spared(autojump: object) -> None:
    async with open_node() as node:
        old, new = await node.arrive(USER), await node.arrive(USER)
        new.session.session_ids = frozenset({"a later sign-in"})
        node.history.revoked.add(f"sign-in of {USER}")
        node.bus.hear(Notice("session_revoked", USER))
        await trio.sleep(0.1)
        assert [code for code, _ in old.closed] == [CloseCode.SESSION_REVOKED]
        assert new.closed == []
        node.bus.hear(Notice("session_revoked", USER, session_id="a later sign-in"))
        assert [code for code, _ in new.closed] == [CloseCode.SESSION_REVOKED]


async def test_latest_name_counts_whatever_is_told_last(autojump: object) -> None:
    async with open_node() as node:
        device = await node.arrive(USER)
        node.history.names[USER] = "latest"
        node.bus.hear(Notice("profile_changed", USER, username="latest"))
        node.bus.hear(Notice("profile_changed", USER, username="earlier"))
        await trio.sleep(0.1)
        assert device.session.username == "latest"


async def test_all_are_looked_at_again_when_the_bus_is_back_also_when_the_store_is_out_first(autojump: object) -> None:
    async with open_node("room") as node:
        users = [f"user {number}" for number in range(2 * LOOK_AT_ONCE + 1)]
        devices = [await node.arrive(user) for user in users]
        node.bus.go()
        node.history.revoked.add("sign-in of user 0")
        node.commit("room", "user_joined", "user 1")
        node.history.is_out = True
        node.bus.come_back()
        await trio.sleep(5)
        assert not any(device.closed for device in devices)
        node.history.asked.clear()
        node.history.is_out = False
        await trio.sleep(5)
        assert [code for code, _ in devices[0].closed] == [CloseCode.SESSION_REVOKED]
        assert not any(device.closed for device in devices[1:])
        assert "room" in devices[1].session.rooms
        looks = [asked for asked in node.history.asked if asked[0] == "arrivals"]
        assert [len(look) - 1 for look in looks] == [LOOK_AT_ONCE, LOOK_AT_ONCE, 1]


# Made-up histories


class Commit(NamedTuple):
    """Somebody says something, or the user, who is elsewhere, comes or goes."""

    room: str
    is_about_user: bool


class Carry(NamedTuple):
    """The bus brings the first thing of a channel so many times."""

    which: int
    times: int


class Repeat(NamedTuple):
    """What was published long ago comes once more."""

    which: int


class Outage(NamedTuple):
    """The bus or the store is out, or back if it was out."""

    of_store: bool


class Let(NamedTuple):
    """Others run for so many steps or seconds."""

    steps: int
    seconds: float


class Arrive(NamedTuple):
    """Another device of the user connects here."""


Step = Commit | Carry | Repeat | Outage | Let | Arrive
rooms = st.sampled_from(["a", "b"])
steps = st.lists(
    st.one_of(
        st.builds(Commit, rooms, st.booleans()),
        st.builds(Commit, rooms, st.booleans()),
        st.builds(Carry, st.integers(0, 5), st.sampled_from([1, 1, 1, 1, 0, 2])),
        st.builds(Carry, st.integers(0, 5), st.sampled_from([1, 1, 1, 1, 0, 2])),
        st.builds(Repeat, st.integers(0, 30)),
        st.builds(Outage, st.sampled_from([False, False, True])),
        st.builds(Let, st.integers(0, 6), st.sampled_from([0.0, 0.0, 0.05, 1.2])),
        st.builds(Arrive),
    ),
    max_size=40,
)


@dataclass
class Model:
    node: Node
    devices: list[Device] = field(default_factory=list)
    published: list[Event | Notice] = field(default_factory=list)

    async def take(self, step: Step) -> None:
        node = self.node
        match step:
            case Commit():
                kind = "new_message"
                if step.is_about_user:
                    is_member = node.history.stay_of(step.room, USER) is not None
                    kind = "user_left" if is_member else "user_joined"
                event = node.commit(step.room, kind, USER if step.is_about_user else None)
                self.published.append(event)
                if step.is_about_user:
                    self.published.append(told(event))
            case Carry() if node.bus.waiting:
                node.bus.carry(node.bus.waiting[step.which % len(node.bus.waiting)], times=step.times)
            case Repeat() if self.published and not node.bus.is_out:
                node.bus.hear(self.published[step.which % len(self.published)])
            case Outage(of_store=True):
                node.history.is_out = not node.history.is_out
            case Outage():
                if node.bus.is_out:
                    node.bus.come_back()
                else:
                    node.bus.go()
            case Let():
                for _ in range(step.steps):
                    await trio.lowlevel.checkpoint()
                await trio.sleep(step.seconds)
            case Arrive() if not node.history.is_out and len(self.devices) < 3:
                self.devices.append(await node.arrive(USER))

    async def settle(self) -> None:
        """All is back; a bus that lost a notice finds out by its number."""
        self.node.history.is_out = False
        self.node.bus.carry_all()
        self.node.bus.come_back()
        await trio.sleep(30)


async def play(steps: list[Step]) -> None:
    async with open_node("a", "b") as node:
        model = Model(node)
        await model.take(Arrive())
        for step in steps:
            await model.take(step)
        await model.settle()
        for device in model.devices:
            assert device.closed == []
            for room_id in ("a", "b"):
                check(node, device, room_id)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_every_device_hears_its_users_stays_once_and_in_order_whatever_the_bus_does(steps: list[Step]) -> None:
    trio.run(play, steps, clock=trio.testing.MockClock(autojump_threshold=0))
