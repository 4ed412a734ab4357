"""The hub between a bus that loses and a store that does not: every listener hears each seq once, in order.

Under the mock clock, with the local bus and a listed history (test_histories.py holds it to the real ones).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from chatd.bus.hub import Hub, HubOptions, open_hub
from chatd.bus.local import LocalBus
from chatd.bus.port import Event, Notice
from chatd.bus.repairs import CHECK_PAUSE_S, FILLERS, OUT_CHECK_S, PAGE_EVENTS, POSITIONS_AT_ONCE, REORDER_S
from chatd.bus.room import frame_of
from chatd.errors import Unavailable
from tests.histories import ListedHistory
from tests.listeners import Listener
from tests.scripted import open_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

SMALL = HubOptions(tail_events=5, slice_receivers=2, check_s=5.0, linger_s=60.0)


@dataclass
class Scene:
    """A hub with what is around it."""

    hub: Hub
    bus: LocalBus
    history: ListedHistory
    #: What each listener that stopped had a right to hear.
    stints: list[tuple[Listener, list[int]]] = field(default_factory=list)

    async def listen(self, room_id: str, user_id: str = "somebody") -> Listener:
        """Somebody who hears the room from now on."""
        await self.hub.activate([room_id])
        listener = Listener(user_id)
        room = self.hub.room(room_id)
        assert room is not None
        assert self.hub.listen(listener, room_id, after=room.position)
        return listener

    def commit(
        self, room_id: str, *, lost: bool = False, kind: str = "new_message", subject: str | None = None
    ) -> Event:
        """Store an event and publish it, unless it is lost on the way."""
        event = self.history.append_nowait(room_id, kind, subject)
        if not lost:
            self.bus.publish([event])
        return event


@asynccontextmanager
async def open_scene(options: HubOptions = SMALL, *rooms: str) -> AsyncIterator[Scene]:
    """A hub over a history that has these rooms."""
    history, bus = ListedHistory(), LocalBus(trio.current_time)
    for room_id in rooms or ("room",):
        await history.add_room(room_id)
    async with open_hub(bus, options, read_last_seqs=history.last_seqs, read_events=history.events_after) as hub:
        yield Scene(hub, bus, history)


async def test_a_listener_hears_what_is_committed_from_then_on(autojump_clock: object) -> None:
    async with open_scene() as scene:
        scene.commit("room")
        listener = await scene.listen("room")
        scene.bus.publish([scene.history.append_nowait("room") for _ in range(2)])
        scene.commit("room")
        assert listener.seqs == [2, 3, 4]
        assert listener.received[0] == frame_of(scene.history.rooms["room"][1]) + frame_of(
            scene.history.rooms["room"][2]
        )
        assert scene.hub.deliveries == 3


async def test_events_of_several_rooms_in_one_commit_reach_each_rooms_listeners(autojump_clock: object) -> None:
    async with open_scene(SMALL, "a", "b", "silent") as scene:
        in_a, in_b = await scene.listen("a"), await scene.listen("b")
        scene.bus.publish([scene.history.append_nowait(room_id) for room_id in ("a", "b", "silent", "b", "a", "a")])
        assert (in_a.seqs, in_b.seqs) == ([1, 2, 3], [1, 2])
        assert len(in_a.received) == 1


async def test_what_was_missed_comes_from_the_tail_where_it_reaches_and_fits(autojump_clock: object) -> None:
    async with open_scene() as scene:
        await scene.listen("room")
        for _ in range(8):
            scene.commit("room")
        late, too_late, too_much = Listener(), Listener(), Listener()
        assert scene.hub.listen(late, "room", after=4, max_bytes=1000)
        assert not scene.hub.listen(too_late, "room", after=2, max_bytes=1000)
        assert not scene.hub.listen(too_much, "room", after=4, max_bytes=10)
        scene.commit("room")
        assert late.seqs == [5, 6, 7, 8, 9]
        assert too_late.received == too_much.received == []
        assert not scene.hub.listen(late, "elsewhere", after=0)


async def test_a_hole_is_filled_from_the_store_before_anything_behind_it(autojump_clock: object) -> None:
    async with open_scene() as scene:
        listener = await scene.listen("room")
        scene.commit("room")
        scene.commit("room", lost=True)
        scene.commit("room", lost=True)
        scene.commit("room")
        assert listener.seqs == [1]
        await trio.sleep(2 * REORDER_S)
        assert listener.seqs == [1, 2, 3, 4]
        assert scene.hub.repairs == 1


async def test_a_long_hole_is_read_in_pages(autojump_clock: object) -> None:
    async with open_scene() as scene:
        listener = await scene.listen("room")
        for _ in range(1234):
            scene.commit("room", lost=True)
        scene.commit("room")
        await trio.sleep(1)
        assert listener.seqs == list(range(1, 1236))
        assert scene.hub.repairs == 3


async def test_a_second_hole_that_opens_while_the_first_is_read_is_filled_as_well(autojump_clock: object) -> None:
    async with open_scene() as scene:
        listener = await scene.listen("room")
        scene.commit("room", lost=True)
        scene.commit("room")
        scene.history.gate = trio.Event()
        await trio.sleep(2 * REORDER_S)
        scene.commit("room", lost=True)
        scene.commit("room")
        scene.history.gate.set()
        await trio.sleep(2 * REORDER_S)
        assert listener.seqs == [1, 2, 3, 4]


async def test_a_hole_waits_for_a_store_that_is_out_and_holds_up_no_other_room(autojump_clock: object) -> None:
    async with open_scene(SMALL, "a", "b") as scene:
        in_a, in_b = await scene.listen("a"), await scene.listen("b")
        scene.history.is_out = True
        scene.commit("a", lost=True)
        scene.commit("a")
        await trio.sleep(2)
        scene.commit("b")
        assert (in_a.seqs, in_b.seqs) == ([], [1])
        scene.history.is_out = False
        await trio.sleep(1)
        assert in_a.seqs == [1, 2]


async def test_a_lost_last_event_is_found_within_seconds(autojump_clock: object) -> None:
    async with open_scene(SMALL, "a", "b", "c") as scene:
        listeners = [await scene.listen(room_id) for room_id in "abc"]
        scene.commit("a", lost=True)
        scene.commit("b", lost=True)
        scene.history.asked.clear()
        await trio.sleep(SMALL.check_s + 0.1)
        assert [listener.seqs for listener in listeners] == [[1], [1], []]
        checks = [asked for asked in scene.history.asked if asked[0] == "last_seqs"]
        assert checks == [("last_seqs", "a", "b", "c")]


async def test_the_check_goes_on_after_an_outage(autojump_clock: object) -> None:
    async with open_scene() as scene:
        listener = await scene.listen("room")
        scene.history.is_out = True
        scene.commit("room", lost=True)
        await trio.sleep(3 * SMALL.check_s)
        scene.history.is_out = False
        await trio.sleep(SMALL.check_s + 1)
        assert listener.seqs == [1]


async def test_who_leaves_hears_the_leaving_and_nothing_behind_it(autojump_clock: object) -> None:
    for others in (0, 5):
        async with open_scene() as scene:
            leaver = await scene.listen("room", "leaver")
            stayers = [await scene.listen("room") for _ in range(others + 1)]

            def on_membership(event: Event, scene: Scene = scene, leaver: Listener = leaver) -> None:
                assert event.subject == leaver.user_id
                scene.hub.unlisten(leaver, [event.room_id])

            scene.hub.on_membership = on_membership
            append = scene.history.append_nowait
            scene.bus.publish([append("room"), append("room", "user_left", "leaver"), append("room"), append("room")])
            scene.commit("room")
            await trio.testing.wait_all_tasks_blocked()
            assert leaver.seqs == [1, 2]
            assert [stayer.seqs for stayer in stayers] == [[1, 2, 3, 4, 5]] * (others + 1)


async def test_a_very_large_room_is_served_in_slices_with_others_in_between(autojump_clock: object) -> None:
    async with open_scene(SMALL, "large", "small") as scene:
        crowd = [await scene.listen("large") for _ in range(7)]
        single = await scene.listen("small")
        scene.commit("large")
        scene.commit("small")
        assert single.seqs == [1]
        assert [listener.seqs for listener in crowd] == [[]] * 7
        large = scene.hub.room("large")
        assert large is not None
        assert large.is_behind
        reached = set()
        while not crowd[-1].received:
            reached.add(sum(bool(listener.received) for listener in crowd))
            await trio.lowlevel.checkpoint()
        assert reached >= {2, 4, 6}
        await trio.testing.wait_all_tasks_blocked()
        assert [listener.seqs for listener in crowd] == [[1]] * 7
        assert not large.is_behind


async def test_a_room_that_shrinks_while_it_is_served_keeps_its_order(autojump_clock: object) -> None:
    async with open_scene() as scene:
        crowd = [await scene.listen("room") for _ in range(3)]
        scene.commit("room")
        await trio.lowlevel.checkpoint()
        scene.hub.unlisten(crowd[0], ["room"])
        scene.commit("room")
        await trio.testing.wait_all_tasks_blocked()
        assert [listener.seqs for listener in crowd[1:]] == [[1, 2], [1, 2]]


async def test_who_pauses_has_been_sent_everything_up_to_the_position(autojump_clock: object) -> None:
    async with open_scene() as scene:
        crowd = [await scene.listen("room") for _ in range(7)]
        for _ in range(3):
            scene.commit("room")
        scene.hub.pause(crowd[-1], "room")
        assert crowd[-1].seqs == [1, 2, 3]
        scene.commit("room")
        assert scene.hub.listen(crowd[-1], "room", after=3, max_bytes=1000)
        scene.commit("room")
        await trio.testing.wait_all_tasks_blocked()
        assert [listener.seqs for listener in crowd] == [[1, 2, 3, 4, 5]] * 7


async def test_who_left_a_large_room_hears_the_rest_of_that_stay_before_anything_that_comes_next(
    autojump_clock: object,
) -> None:
    async with open_scene() as scene:
        crowd = [await scene.listen("room") for _ in range(7)]
        for _ in range(3):
            scene.commit("room")
        scene.hub.unlisten(crowd[-1], ["room"])
        assert crowd[-1].seqs == []
        scene.hub.pause(crowd[-1], "room")
        assert crowd[-1].seqs == [1, 2, 3]


async def test_a_seq_that_was_never_stored_is_not_believed_for_good(autojump_clock: object) -> None:
    async with open_scene() as scene:
        listener = await scene.listen("room")
        scene.bus.publish([Event("room", 1000, "new_message", b'{"seq":1000}')])
        room = scene.hub.room("room")
        assert room is not None
        gaps = [room.has_gap]
        await trio.sleep(1)
        assert [*gaps, room.has_gap] == [True, False]
        reads = scene.hub.repairs
        await trio.sleep(4)
        assert scene.hub.repairs == reads
        for _ in range(3):
            scene.commit("room")
        assert listener.seqs == [1, 2, 3]


async def test_a_defect_in_heeding_a_membership_costs_nobody_an_event(autojump_clock: object) -> None:
    async with open_scene() as scene:
        listener = await scene.listen("room")

        def fail(event: Event) -> None:
            raise LookupError("a defect")

        scene.hub.on_membership = fail
        append = scene.history.append_nowait
        scene.bus.publish([append("room"), append("room", "user_left", "ada"), append("room")])
        assert listener.seqs == [1, 2, 3]


async def test_signals_reach_the_others_only_and_notices_whoever_asked(autojump_clock: object) -> None:
    async with open_scene() as scene:
        ada, bob = await scene.listen("room", "ada"), await scene.listen("room", "bob")
        scene.bus.signal("room", b'{"type":"user_typing"}', about="ada")
        assert (len(ada.received), len(bob.received)) == (0, 1)
        heard: list[Notice] = []
        scene.hub.on_notice = heard.append
        scene.bus.announce(Notice("account_disabled", "ada"))
        assert heard == [Notice("account_disabled", "ada")]


async def test_many_activations_at_once_are_one_read(autojump_clock: object) -> None:
    async with open_scene(SMALL, *"abcd") as scene:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(scene.hub.activate, list("abcd"))
        assert scene.history.asked == [("last_seqs", *"abcd")]
        await scene.hub.activate(list("abcd"))
        assert len(scene.history.asked) == 1
        assert scene.hub.active_rooms == 4


async def test_an_unknown_room_does_not_become_active(autojump_clock: object) -> None:
    async with open_scene() as scene:
        await scene.hub.activate(["room", "unknown"])
        assert scene.hub.room("unknown") is None
        assert scene.hub.active_rooms == 1


async def test_what_is_published_while_a_room_is_activated_is_neither_lost_nor_repeated(autojump_clock: object) -> None:
    async with open_scene() as scene:
        scene.commit("room")
        scene.history.gate = trio.Event()
        heard: list[Listener] = []

        async def come() -> None:
            heard.append(await scene.listen("room"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await trio.testing.wait_all_tasks_blocked()
            scene.commit("room", lost=True)
            scene.commit("room")
            scene.history.gate.set()
        await trio.sleep(2 * REORDER_S)
        scene.commit("room")
        assert heard[0].seqs[-1] == 4
        assert heard[0].seqs == list(range(heard[0].seqs[0], 5))


@pytest.mark.parametrize("how", ["outage", "cancelled"])
async def test_an_activation_that_fails_leaves_nothing_and_the_next_one_works(autojump_clock: object, how: str) -> None:
    async with open_scene() as scene:
        if how == "outage":
            scene.history.is_out = True
            with pytest.raises(Unavailable):
                await scene.hub.activate(["room"])
            scene.history.is_out = False
        else:
            scene.history.gate = trio.Event()
            with trio.move_on_after(1):
                await scene.hub.activate(["room"])
            scene.history.gate.set()
            await trio.testing.wait_all_tasks_blocked()
        listener = await scene.listen("room")
        scene.commit("room")
        assert listener.seqs == [1]


async def test_after_an_outage_a_room_that_did_not_become_active_is_not_heard(autojump_clock: object) -> None:
    async with open_scene() as scene:
        scene.history.is_out = True
        with pytest.raises(Unavailable):
            await scene.hub.activate(["room"])
        heard: list[Any] = []
        scene.bus.attach(_Overhearing(scene.hub, heard))
        scene.commit("room")
        assert heard == []


class _Overhearing:
    """Ears that note what the bus says to the hub."""

    def __init__(self, hub: Hub, heard: list[Any]) -> None:
        self._heard = heard
        self.hear_signal, self.hear_broadcasts, self.hear_online = hub.hear_signal, hub.hear_broadcasts, hub.hear_online
        self.hear_notice: Callable[[Notice], None] = hub.hear_notice
        self.hear_loss, self.hear_return = hub.hear_loss, hub.hear_return
        self._hub = hub

    def hear_events(self, events: Sequence[Event]) -> None:
        self._heard.extend(events)
        self._hub.hear_events(events)


async def test_rooms_that_nobody_listens_to_are_forgotten_and_come_back(autojump_clock: object) -> None:
    async with open_scene(SMALL, "quiet", "busy") as scene:
        quiet, busy = await scene.listen("quiet"), await scene.listen("busy")
        scene.commit("quiet")
        scene.hub.unlisten(quiet, ["quiet", "busy", "unknown"])
        await trio.sleep(SMALL.linger_s - SMALL.check_s)
        assert scene.hub.active_rooms == 2
        await trio.sleep(3 * SMALL.check_s)
        assert scene.hub.room("quiet") is None
        heard: list[Any] = []
        scene.bus.attach(_Overhearing(scene.hub, heard))
        scene.commit("quiet")
        scene.commit("busy")
        assert [event.room_id for event in heard] == ["busy"]
        assert busy.seqs == [1]
        again = await scene.listen("quiet")
        scene.commit("quiet")
        assert again.seqs == [3]


async def test_a_room_that_is_activated_again_has_its_whole_time_before_it_is_forgotten(autojump_clock: object) -> None:
    """Between activating and listening others may be waited for."""
    async with open_scene() as scene:
        await scene.hub.activate(["room"])
        await trio.sleep(SMALL.linger_s - 1)
        await scene.hub.activate(["room"])
        await trio.sleep(SMALL.linger_s - 2 * SMALL.check_s)
        assert scene.hub.room("room") is not None


async def test_a_tail_that_tells_of_a_changed_user_is_not_used_any_more(autojump_clock: object) -> None:
    async with open_scene(SMALL, "theirs", "others") as scene:
        for room_id in ("theirs", "others"):
            await scene.listen(room_id)
            sender = "ada" if room_id == "theirs" else "bob"
            scene.bus.publish([scene.history.append_nowait(room_id, subject=sender)])
        scene.hub.forget_tails("ada")
        assert not scene.hub.listen(Listener(), "theirs", after=0, max_bytes=1000)
        assert scene.hub.listen(Listener(), "others", after=0, max_bytes=1000)
        scene.commit("theirs")
        assert scene.hub.listen(Listener(), "theirs", after=1, max_bytes=1000)


async def test_a_backlog_that_grows_too_large_is_served_at_once(autojump_clock: object) -> None:
    async with open_scene() as scene:
        crowd = [await scene.listen("room") for _ in range(5)]
        events = [scene.history.append_nowait("room")._replace(body=b"x" * 400_000) for _ in range(3)]
        scene.bus.publish(events[:2])
        assert not crowd[-1].received
        scene.bus.publish(events[2:])
        assert [sum(map(len, listener.received)) // 400_000 for listener in crowd] == [3] * 5


# Many nodes: a bus that is lost, slow, late


async def test_losses_are_looked_for_soon_and_together(autojump_clock: object) -> None:
    async with open_scene(SMALL, "a", "b") as scene:
        in_a, in_b = await scene.listen("a"), await scene.listen("b")
        scene.commit("a", lost=True)
        scene.commit("b", lost=True)
        scene.history.asked.clear()
        for _ in range(100):
            scene.hub.hear_loss()
        await trio.sleep(CHECK_PAUSE_S)
        assert (in_a.seqs, in_b.seqs) == ([1], [1])
        assert [asked for asked in scene.history.asked if asked[0] == "last_seqs"] == [("last_seqs", "a", "b")]
        for _ in range(10):
            scene.hub.hear_loss()
            await trio.sleep(CHECK_PAUSE_S / 5)
        checks = [asked for asked in scene.history.asked if asked[0] == "last_seqs"]
        assert len(checks) <= 4


async def test_return_of_the_bus_compares_positions_and_tells_whoever_asked(autojump_clock: object) -> None:
    async with open_scene() as scene:
        listener = await scene.listen("room")
        told: list[str] = []
        scene.hub.on_return = lambda: told.append("back")
        scene.commit("room", lost=True)
        scene.hub.hear_return()
        await trio.sleep(CHECK_PAUSE_S)
        assert (listener.seqs, told) == ([1], ["back"])


async def test_positions_are_compared_every_second_while_the_bus_is_out(autojump_clock: object) -> None:
    async with open_scene(SMALL) as scene:
        listener = await scene.listen("room")
        scene.bus.is_out = True
        for count in range(1, 4):
            scene.commit("room", lost=True)
            await trio.sleep(OUT_CHECK_S + 2 * CHECK_PAUSE_S)
            assert len(listener.seqs) == count


async def test_loss_while_a_room_is_opened_is_looked_for_in_that_room_too(autojump_clock: object) -> None:
    async with open_scene() as scene:
        scene.history.gate = trio.Event()
        heard: list[Listener] = []

        async def come() -> None:
            heard.append(await scene.listen("room"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come)
            await trio.testing.wait_all_tasks_blocked()
            scene.commit("room", lost=True)
            scene.hub.hear_return()
            await trio.sleep(0.5)
            scene.history.gate.set()
        await trio.sleep(2 * CHECK_PAUSE_S)
        assert heard[0].seqs == [1]


async def test_positions_of_very_many_rooms_are_compared_in_batches(autojump_clock: object) -> None:
    rooms = [f"room {number}" for number in range(POSITIONS_AT_ONCE + 1)]
    async with open_scene(SMALL, *rooms) as scene:
        await scene.hub.activate(rooms)
        scene.history.asked.clear()
        scene.hub.hear_loss()
        await trio.sleep(0.1)
        assert [len(asked) - 1 for asked in scene.history.asked] == [POSITIONS_AT_ONCE, 1]


async def test_several_rooms_are_mended_at_once_and_each_of_them_in_order(autojump_clock: object) -> None:
    rooms = [f"room {number}" for number in range(3 * FILLERS)]
    async with open_scene(SMALL, *rooms) as scene:
        listeners = [await scene.listen(room_id) for room_id in rooms]
        for room_id in rooms:
            for _ in range(PAGE_EVENTS + 10):
                scene.commit(room_id, lost=True)
            scene.commit(room_id)
        scene.history.asked.clear()
        scene.history.gate = trio.Event()
        await trio.sleep(1)
        assert sorted(asked[1] for asked in scene.history.asked) == rooms[:FILLERS]
        scene.history.gate.set()
        await trio.sleep(1)
        for listener in listeners:
            assert listener.seqs == list(range(1, PAGE_EVENTS + 12))


async def test_event_that_is_only_overtaken_is_not_fetched(autojump_clock: object) -> None:
    async with open_scene() as scene:
        listener = await scene.listen("room")
        late, early = scene.commit("room", lost=True), scene.commit("room", lost=True)
        scene.bus.publish([early])
        await trio.sleep(REORDER_S / 2)
        scene.bus.publish([late])
        await trio.sleep(1)
        assert listener.seqs == [1, 2]
        assert scene.hub.repairs == 0


async def test_who_needs_a_room_to_be_somewhere_waits_until_it_is(autojump_clock: object) -> None:
    async with open_scene(SMALL, "a", "b") as scene:
        await scene.listen("a")
        scene.commit("a", lost=True)
        scene.commit("b")
        await scene.hub.reach({"a": 1, "b": 1})
        assert scene.hub.room("a").position == scene.hub.room("b").position == 1  # type: ignore[union-attr]  # both active
        # An event that comes by itself is not waited for longer than it takes.
        event = scene.commit("a", lost=True)
        reads = scene.hub.repairs
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.hub.reach, {"a": 2})
            await trio.testing.wait_all_tasks_blocked()
            scene.bus.publish([event])
        assert scene.hub.repairs == reads
        await scene.hub.reach({"unknown": 5})


async def test_claimed_position_is_reached_as_far_as_the_store_has_come(autojump_clock: object) -> None:
    async with open_scene() as scene:
        await scene.listen("room")
        scene.commit("room", lost=True)
        await scene.hub.try_to_reach("room", 1_000_000)
        room = scene.hub.room("room")
        assert room is not None
        assert room.position == 1


async def test_who_waits_for_a_room_gives_up_when_the_store_stays_out(autojump_clock: object) -> None:
    async with open_scene() as scene:
        await scene.listen("room")
        scene.commit("room", lost=True)
        scene.history.is_out = True
        with pytest.raises(Unavailable):
            await scene.hub.reach({"room": 1})
        # Nothing comes that would wake them: nobody is to be kept in mind for ever.
        assert scene.hub._repairs.reaching == {}
        scene.history.is_out = False
        await scene.hub.reach({"room": 1})


async def test_room_that_is_forgotten_and_wanted_again_stays_subscribed_on_a_slow_bus(
    autojump_clock: trio.testing.MockClock,
) -> None:
    options = HubOptions(tail_events=5, check_s=5.0, linger_s=10.0)
    for moment in range(20):
        async with open_node("room", options=options, subscribing_s=0.5) as node:
            await node.hub.activate(["room"])
            # Somewhere around the moment at which it is forgotten, and while that takes effect.
            await trio.sleep(14.0 + moment * 0.1)
            await node.hub.activate(["room"])
            await trio.sleep(1.5)
            assert node.hub.room("room") is not None
            assert node.bus.subscribed == {"room"}
