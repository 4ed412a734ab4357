"""The hub against made-up histories of coming, going, losing, repeating and shuffling, small rooms and large ones.

Rooms are opened while events are stored, forgotten and opened again; the bus loses, repeats and shuffles, goes and
comes back, and so does the store. Whatever happens, each listener hears every event of its time in the room once, in
order, and nothing else, the tail is what the store has, and a lost last event is found within 5 s. What is large is
made small here: pages, blocks, what a backlog may hold and how many events wait before their time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chatd.bus.hub import Hub, HubOptions, open_hub
from chatd.bus.room import frame_of
from chatd.errors import Unavailable
from tests.histories import ListedHistory
from tests.listeners import Listener
from tests.models import count_steps, interleaved, often, programs, run, steps_of
from tests.scripted import ScriptedBus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chatd.bus.port import Event

ROOMS = ("a", "b")
CHECK_S = 4.5
LINGER_S = 3.0
#: A lost last event is found within so many seconds.
FOUND_S = 5.0
#: Steps of the loop after which a signal has been told in a large room.
SIGNAL_STEPS = 5


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """So that a few events reach every bound."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chatd.bus.hub.MAX_BACKLOG_BYTES", 120)
        patch.setattr("chatd.bus.repairs.PAGE_EVENTS", 3)
        patch.setattr("chatd.bus.room.MAX_EARLY", 4)
        patch.setattr("chatd.bus.room.BLOCK_BYTES", 40)
        yield


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
    """Some have the room opened and listen as soon as it is."""

    room: str
    many: int


class Go(NamedTuple):
    which: int


class Leave(NamedTuple):
    """End the membership: the last event heard is one's own leaving, lost on the way or not, not those behind it."""

    which: int
    is_lost: bool
    behind: int


class Pause(NamedTuple):
    """Stop hearing and go on from there a few steps of others later, as a catch-up does."""

    which: int
    steps: int


class Let(NamedTuple):
    """Let others run for so many steps, or for so many seconds."""

    steps: int
    seconds: float


class Rush(NamedTuple):
    """Events are heard one by one while listeners go, so that a large room becomes a small one that is still served."""

    room: str
    seed: int


class Ask(NamedTuple):
    """Somebody wants a room at least where it is, by one of the hub's ways."""

    room: str
    how: str


class Signal(NamedTuple):
    """Something ephemeral about the user of a listener, or about nobody here."""

    room: str
    which: int | None


class Tell(NamedTuple):
    """The hub is told that something may have been lost, that a user has changed, or to serve what waits."""

    what: str
    room: str


class Outage(NamedTuple):
    """The bus or the store is out, or back if it was out."""

    of_store: bool


Step = Commit | Come | Go | Leave | Pause | Let | Rush | Ask | Signal | Tell | Outage
rooms = st.sampled_from(ROOMS)
places = st.integers(0, 20)
step: st.SearchStrategy[Step] = often(
    (6, st.builds(Commit, rooms, st.integers(1, 4), st.integers(0, 2**32))),
    (5, st.builds(Come, st.sampled_from([*ROOMS, *ROOMS, *ROOMS, "nowhere"]), st.integers(1, 3))),
    (3, st.builds(Go, places)),
    (2, st.builds(Leave, places, st.booleans(), st.integers(0, 2))),
    (3, st.builds(Pause, places, st.integers(0, 3))),
    (6, st.builds(Let, st.integers(0, 4), st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.1, 8.0]))),
    (2, st.builds(Rush, rooms, st.integers(0, 2**32))),
    (2, st.builds(Ask, rooms, st.sampled_from(["reach", "try_to_reach", "read_own"]))),
    (1, st.builds(Signal, rooms, st.one_of(st.none(), places))),
    (1, st.builds(Tell, st.sampled_from(["loss", "tails", "backlog"]), rooms)),
    (2, st.builds(Outage, st.booleans())),
)
program = interleaved(steps_of(step, most=50))


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
    bus: ScriptedBus
    history: ListedHistory
    nursery: trio.Nursery
    users: int = 0
    signals: int = 0
    store_was_out: bool = False
    here: list[Stay] = field(default_factory=list)
    gone: list[Stay] = field(default_factory=list)
    paused: set[Stay] = field(default_factory=set)

    def left(self, event: Event) -> None:
        """What `chat` does: whoever left does not listen any more."""
        for stay in list(self.here):
            if stay.room == event.room_id and stay.listener.user_id == event.subject:
                self.hub.unlisten(stay.listener, [stay.room])
                self.end(stay, event.seq)

    def end(self, stay: Stay, last: int) -> None:
        stay.last = last
        if stay in self.here:
            self.here.remove(stay)
        self.gone.append(stay)

    async def take(self, step: Step) -> None:
        match step:
            case Commit():
                before = list(self.history.rooms[step.room])
                events = [self.history.append_nowait(step.room) for _ in range(step.many)]
                self.bring(step.room, *step.arriving(events, before))
            case Come():
                for _ in range(step.many):
                    self.nursery.start_soon(self.come, step.room)
            case Let():
                for _ in range(step.steps):
                    await trio.lowlevel.checkpoint()
                await trio.sleep(step.seconds)
            case Rush():
                await self.rush(step.room, random.Random(step.seed))
            case Ask():
                self.nursery.start_soon(self.ask, step.room, step.how)
            case Signal():
                await self.signal(step)
            case Tell():
                self.tell(step)
            case Outage():
                self.turn(of_store=step.of_store)
            case Go() | Leave() | Pause() if self.here:
                self.take_from(self.here[step.which % len(self.here)], step)

    async def rush(self, room_id: str, dice: random.Random) -> None:
        for _ in range(8):
            here = [stay for stay in self.here if stay.room == room_id]
            match dice.randrange(4):
                case 0 if here:
                    self.take_from(dice.choice(here), Go(0))
                case 1:
                    await trio.lowlevel.checkpoint()
                case _:
                    self.bring(room_id, [self.history.append_nowait(room_id)])

    def turn(self, *, of_store: bool) -> None:
        if of_store:
            self.store_was_out = True
            self.history.is_out = not self.history.is_out
        elif self.bus.is_out:
            self.bus.come_back()
        else:
            self.bus.go()

    def bring(self, room_id: str, *batches: list[Event]) -> None:
        """What the bus carries to those who subscribed."""
        if room_id in self.bus.subscribed and not self.bus.is_out:
            for batch in batches:
                self.hub.hear_events(batch)

    async def come(self, room_id: str) -> None:
        try:
            await self.hub.activate([room_id])
        except Unavailable:
            assert self.store_was_out
            return
        assert (self.hub.room(room_id) is None) == (room_id == "nowhere")
        if room_id != "nowhere":
            self.users += 1
            stay = Stay(room_id, Listener(f"user {self.users}"), self.position(room_id))
            assert self.hub.listen(stay.listener, room_id, after=stay.after)
            self.here.append(stay)

    async def ask(self, room_id: str, how: str) -> None:
        """Where the room is afterwards: at least where it was."""
        if how == "read_own":
            event = self.history.append_nowait(room_id)
            self.hub.note_stored(event)
        stored, was_active = len(self.history.rooms[room_id]), self.hub.room(room_id) is not None
        try:
            if how == "reach":
                await self.hub.reach({room_id: stored})
            elif how == "try_to_reach":
                await self.hub.try_to_reach(room_id, stored + 5)
            else:
                room = await self.hub.read_own(room_id)
                assert room is not None or was_active
        except Unavailable:
            assert self.store_was_out, "the store has it, and nobody fetches it"
            return
        room = self.hub.room(room_id)
        assert room is None or room.position >= stored

    async def signal(self, step: Signal) -> None:
        """A small room is told at once, a large one soon: those of it who are still there."""
        self.signals += 1
        body = b'{"signal":%d}' % self.signals
        about = (
            "nobody" if step.which is None or not self.here else self.here[step.which % len(self.here)].listener.user_id
        )
        room, before = self.hub.room(step.room), list(self.here)
        is_large = room is not None and len(room.listeners) > self.hub._options.slice_receivers
        self.hub.hear_signal(step.room, body, about)
        for _ in range(SIGNAL_STEPS if is_large else 0):
            await trio.lowlevel.checkpoint()
        for stay in (*self.here, *self.paused):
            told = sum(body in frames for frames in stay.listener.received)
            is_meant = stay.room == step.room and stay.listener.user_id != about
            if stay in self.here and (stay in before or not is_large):
                assert told == is_meant
            else:
                assert told <= (is_meant and is_large)

    def tell(self, step: Tell) -> None:
        match step.what:
            case "loss":
                self.hub.hear_loss()
            case "tails" if self.history.rooms[step.room]:
                self.hub.forget_tails(self.history.rooms[step.room][-1].subject or "")
            case "backlog":
                self.hub.send_backlog(step.room)
                for stay in self.here:
                    if stay.room == step.room:
                        assert stay.after + len(stay.listener.seqs) == self.position(step.room)

    def take_from(self, stay: Stay, step: Go | Leave | Pause) -> None:
        match step:
            case Go():
                self.hub.unlisten(stay.listener, [stay.room])
                self.end(stay, self.position(stay.room))
            case Leave():
                event = self.history.append_nowait(stay.room, "user_left", stay.listener.user_id)
                batch = [event, *(self.history.append_nowait(stay.room) for _ in range(step.behind))]
                if not step.is_lost:
                    self.bring(stay.room, batch)
            case Pause():
                self.hub.pause(stay.listener, stay.room)
                heard = stay.after + len(stay.listener.seqs)
                assert heard == self.position(stay.room), "a pause comes after everything up to the position"
                self.here.remove(stay)
                self.paused.add(stay)
                self.nursery.start_soon(self.go_on, stay, heard, step.steps)

    async def go_on(self, stay: Stay, heard: int, steps: int) -> None:
        """As `chat.catchup` does it, from the tail or with pages of the store."""
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        while not self.has_left(stay, heard):
            try:
                await self.hub.activate([stay.room])
                if self.has_left(stay, heard):
                    break
                if self.hub.listen(stay.listener, stay.room, after=heard, max_bytes=100):
                    self.here.append(stay)
                    self.paused.remove(stay)
                    return
                position = self.position(stay.room)
                page = await self.history.events_after(stay.room, heard, 2)
            except Unavailable:
                await trio.sleep(0.3)
                continue
            for event in page:
                if event.seq <= position and not self.has_left(stay, heard):
                    stay.listener.outbox.put(frame_of(event))
                    heard = event.seq
        self.paused.remove(stay)
        self.end(stay, heard)

    def has_left(self, stay: Stay, heard: int) -> bool:
        """Whether a membership ended while its listener paused; then there is nothing to go on with."""
        return any(event.subject == stay.listener.user_id for event in self.history.rooms[stay.room][heard:])

    def position(self, room_id: str) -> int:
        room = self.hub.room(room_id)
        assert room is not None, "a room is not forgotten under whoever listens, or is about to"
        return room.position

    def check_now(self) -> None:
        """Nobody is ahead of anybody, and the tail is what the store has."""
        for stay in self.here:
            seqs = stay.listener.seqs
            assert seqs == list(range(stay.after + 1, stay.after + len(seqs) + 1))
            assert stay.after + len(seqs) <= self.position(stay.room)
        for room_id in ROOMS:
            if (room := self.hub.room(room_id)) is not None:
                stored = self.history.rooms[room_id][: room.position]
                assert len(stored) == room.position
                assert list(room.tail) == stored[room.position - len(room.tail) :]
                for back in range(len(room.tail) + 2):
                    is_kept = back <= len(room.tail)
                    assert room.events_after(room.position - back) == (
                        stored[room.position - back :] if is_kept else None
                    )

    def check(self) -> None:
        """At the end everybody who is here has heard everything."""
        assert not self.paused
        for stay in self.here:
            assert not self.has_left(stay, stay.after), "who has left hears nothing any more"
        for stay in (*self.here, *self.gone):
            last = len(self.history.rooms[stay.room]) if stay.last is None else stay.last
            assert stay.listener.seqs == list(range(stay.after + 1, last + 1))


async def play(steps: list[Step], slice_receivers: int, tail_events: int) -> None:
    history, bus = ListedHistory(), ScriptedBus(subscribing_s=0.01)
    for room_id in ROOMS:
        await history.add_room(room_id)
    options = HubOptions(tail_events=tail_events, slice_receivers=slice_receivers, check_s=CHECK_S, linger_s=LINGER_S)
    async with (
        open_hub(bus, options, read_last_seqs=history.last_seqs, read_events=history.events_after) as hub,
        trio.open_nursery() as nursery,
    ):
        model = Model(hub, bus, history, nursery)
        hub.on_membership = model.left
        for step in steps:
            await model.take(step)
            model.check_now()
        history.is_out = False
        if bus.is_out:
            bus.come_back()
        await trio.sleep(FOUND_S)
        model.check_now()
        model.check()
        assert not any(room.is_behind for room_id in ROOMS if (room := hub.room(room_id)) is not None)
        await trio.sleep(LINGER_S + 2 * CHECK_S)
        heard = {stay.room for stay in model.here}
        assert set(hub.heard_rooms()) == heard
        assert (hub.active_rooms, bus.subscribed) == (len(heard), heard), "what nobody listens to is forgotten"


@programs(250)
@given(program, st.sampled_from([1, 2, 3, 1000]), st.sampled_from([0, 2, 50]))
def test_every_listener_hears_its_time_in_a_room_once_and_in_order(
    steps: list[Step], slice_receivers: int, tail_events: int
) -> None:
    count_steps("hub", len(steps))
    run(play, steps, slice_receivers, tail_events)
