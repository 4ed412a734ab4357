"""The hub against made-up histories of coming, going, losing, repeating and shuffling, small rooms and large ones.

Whatever happens, each listener hears every event of its time in the room once, in order, and nothing else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from chatd.bus.hub import Hub, HubOptions, open_hub
from chatd.bus.local import LocalBus
from tests.histories import ListedHistory
from tests.listeners import Listener

if TYPE_CHECKING:
    from chatd.bus.port import Event

ROOMS = ("a", "b")
CHECK_S = 5.0


class Commit(NamedTuple):
    """`many` events are stored; what is published of them is made up from `seed`: lost, twice, out of order."""

    room: str
    many: int
    seed: int

    def arriving(self, events: list[Event], before: list[Event]) -> list[list[Event]]:
        dice = random.Random(self.seed)
        heard = [event for event in events for _ in range(dice.choice([0, 1, 1, 1, 2]))]
        heard += dice.sample(before, min(len(before), dice.choice([0, 0, 2])))
        if dice.random() < 0.5:
            dice.shuffle(heard)
        cut = dice.randint(0, len(heard))
        return [part for part in (heard[:cut], heard[cut:]) if part]


class Come(NamedTuple):
    room: str


class Go(NamedTuple):
    which: int


class Leave(NamedTuple):
    """End the membership: the last event heard is one's own leaving, lost on the way or not."""

    which: int
    is_lost: bool


class Pause(NamedTuple):
    """Stop hearing and go on from there a few steps of others later, as a catch-up does."""

    which: int
    steps: int


class Let(NamedTuple):
    """Let others run for so many steps, or for so many seconds."""

    steps: int
    seconds: float


Step = Commit | Come | Go | Leave | Pause | Let
rooms = st.sampled_from(ROOMS)
steps = st.lists(
    st.one_of(
        st.builds(Commit, rooms, st.integers(1, 4), st.integers(0, 2**32)),
        st.builds(Commit, rooms, st.integers(1, 4), st.integers(0, 2**32)),
        st.builds(Come, rooms),
        st.builds(Go, st.integers(0, 20)),
        st.builds(Leave, st.integers(0, 20), st.booleans()),
        st.builds(Pause, st.integers(0, 20), st.integers(0, 3)),
        st.builds(Let, st.integers(0, 4), st.sampled_from([0.0, 0.0, 0.1, 6.0])),
    ),
    max_size=25,
)


@dataclass(eq=False)
class Stay:
    """A listener's time in a room, from behind `after`; `last` is set when it has ended on purpose."""

    room: str
    listener: Listener
    after: int
    last: int | None = None


@dataclass
class Model:
    """Carries out the steps and knows what each listener has a right to hear."""

    hub: Hub
    bus: LocalBus
    history: ListedHistory
    here: list[Stay] = field(default_factory=list)
    gone: list[Stay] = field(default_factory=list)

    def left(self, event: Event) -> None:
        """What `chat` does: whoever left does not listen any more."""
        for stay in list(self.here):
            if stay.room == event.room_id and stay.listener.user_id == event.subject:
                self.hub.unlisten(stay.listener, [stay.room])
                stay.last = event.seq
                self.here.remove(stay)
                self.gone.append(stay)

    async def take(self, step: Step) -> None:
        match step:
            case Commit():
                before = list(self.history.rooms[step.room])
                events = [self.history.append_nowait(step.room) for _ in range(step.many)]
                for batch in step.arriving(events, before):
                    self.hub.hear_events(batch)
            case Come():
                await self.hub.activate([step.room])
                self.listen(
                    Stay(step.room, Listener(f"user {len(self.here) + len(self.gone)}"), self.position(step.room))
                )
            case Let():
                for _ in range(step.steps):
                    await trio.lowlevel.checkpoint()
                await trio.sleep(step.seconds)
            case Go() | Leave() | Pause() if self.here:
                await self.take_from(self.here[step.which % len(self.here)], step)

    async def take_from(self, stay: Stay, step: Go | Leave | Pause) -> None:
        match step:
            case Go():
                self.hub.unlisten(stay.listener, [stay.room])
                stay.last = self.position(stay.room)
                self.here.remove(stay)
                self.gone.append(stay)
            case Leave():
                event = self.history.append_nowait(stay.room, "user_left", stay.listener.user_id)
                if not step.is_lost:
                    self.bus.publish([event])
            case Pause():
                self.hub.pause(stay.listener, stay.room)
                heard = stay.after + len(stay.listener.seqs)
                assert heard == self.position(stay.room), "a pause comes after everything up to the position"
                self.here.remove(stay)
                for _ in range(step.steps):
                    await trio.lowlevel.checkpoint()
                if not self.has_left(stay, heard):
                    self.listen(stay, after=heard)

    def has_left(self, stay: Stay, heard: int) -> bool:
        """Whether a membership ended while its listener paused; then there is nothing to go on with."""
        return any(event.subject == stay.listener.user_id for event in self.history.rooms[stay.room][heard:])

    def listen(self, stay: Stay, *, after: int | None = None) -> None:
        assert self.hub.listen(stay.listener, stay.room, after=stay.after if after is None else after, max_bytes=10**6)
        self.here.append(stay)

    def position(self, room_id: str) -> int:
        room = self.hub.room(room_id)
        assert room is not None
        return room.position

    def check(self) -> None:
        for stay in (*self.here, *self.gone):
            last = len(self.history.rooms[stay.room]) if stay.last is None else stay.last
            assert stay.listener.seqs == list(range(stay.after + 1, last + 1))


async def play(steps: list[Step], slice_receivers: int) -> None:
    history, bus = ListedHistory(), LocalBus(trio.current_time)
    for room_id in ROOMS:
        await history.add_room(room_id)
    options = HubOptions(tail_events=50, slice_receivers=slice_receivers, check_s=CHECK_S, linger_s=10_000)
    async with open_hub(bus, options, read_last_seqs=history.last_seqs, read_events=history.events_after) as hub:
        model = Model(hub, bus, history)
        hub.on_membership = model.left
        for step in steps:
            await model.take(step)
        await trio.sleep(CHECK_S + 1)
        model.check()
        assert hub.backlogged_rooms == 0


@settings(max_examples=400, deadline=None)
@given(steps, st.sampled_from([1, 2, 1000]))
def test_every_listener_hears_its_time_in_a_room_once_and_in_order(steps: list[Step], slice_receivers: int) -> None:
    trio.run(play, steps, slice_receivers, clock=trio.testing.MockClock(autojump_threshold=0))
