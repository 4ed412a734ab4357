"""Who is typing: told to the others of a room, ended by whatever ends it, and never more often than it may be."""

from __future__ import annotations

import itertools
import re
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import trio

from chatd.bus.hub import HubOptions, open_hub
from chatd.bus.local import LocalBus
from chatd.bus.port import Notice
from chatd.chat.session import Line, Session
from chatd.chat.sessions import Sessions
from chatd.chat.typists import MAX_NAMED, SLACK_S, Typists
from chatd.config import TypingOptions
from chatd.protocol import UserStoppedTyping, UserTyping, encode
from chatd.signals import Bell, time_typing
from chatd.store.rooms import NewRoom
from chatd.wire.outbox import Outbox
from tests.daemon import ON_BOTH_BACK_ENDS, open_daemon
from tests.histories import ListedHistory
from tests.stopped import is_silent, open_door
from tests.test_cluster import hear, open_nodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from chatd.bus.hub import Hub
    from chatd.chat.context import Chat
    from tests.daemon import Client, Daemon, SignedIn
    from tests.rawclient import RawClient
    from tests.stopped import StoppedDoor

OPTIONS = TypingOptions()
EXPIRES_S, EVERY_S = OPTIONS.expires_s, OPTIONS.every_s


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path, limits=False, SERVER_FEATURES_PRESENCE="false") as opened:
        yield opened


async def hears_no_typing(client: Client) -> bool:
    """Nobody's, for a while; whatever else it hears."""
    with trio.move_on_after(0.3):
        while True:
            client.inbox.append(await client.receive())
    return not any("typing" in heard["type"] for heard in client.inbox)


async def people(daemon: Daemon) -> tuple[SignedIn, SignedIn, str]:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    return ada, bob, await daemon.create_room(ada, members=[bob.id])


# Through the door


@ON_BOTH_BACK_ENDS
@pytest.mark.parametrize("at_once", ["500", "1"])
async def test_the_others_of_the_room_are_told_and_not_the_typist(tmp_path: Path, at_once: str) -> None:
    options = {"SERVER_FEATURES_PRESENCE": "false", "WEBSOCKET_FANOUT_SLICE": at_once}
    async with open_daemon(tmp_path, limits=False, **options) as daemon:
        ada, bob, room_id = await people(daemon)
        cy = await daemon.register("cyd")
        async with (
            daemon.connect(ada) as listener, daemon.connect(bob) as typist, daemon.connect(bob) as other_device,
            daemon.connect(cy) as stranger,
        ):  # fmt: skip
            for client in (typist, other_device, stranger):
                client.inbox.clear()
            await typist.send(type="typing_start", roomId=room_id)
            expected = {"roomId": room_id, "userId": bob.id, "username": "bob"}
            assert await hear(listener, "user_typing") == {"type": "user_typing", **expected}
            for asker, typing in ((listener, [bob.id]), (typist, []), (other_device, [])):
                for request in ("get_history", "join_room"):
                    assert (await asker.ask(type=request, roomId=room_id))["typing"] == typing
            await typist.send(type="typing_stop", roomId=room_id)
            assert await hear(listener, "user_stopped_typing") == {"type": "user_stopped_typing", **expected}
            assert (await listener.ask(type="get_history", roomId=room_id))["typing"] == []
            for client in (typist, other_device, stranger):
                assert await hears_no_typing(client)


async def test_a_request_with_an_id_is_answered_and_one_without_is_not(daemon: Daemon) -> None:
    _, bob, room_id = await people(daemon)
    async with daemon.connect(bob) as client:
        client.inbox.clear()
        await client.send(type="typing_start", roomId=room_id)
        for request in ("typing_start", "typing_stop"):
            assert await client.ask(type=request, roomId=room_id, id="1") == {"type": "ok", "id": "1"}
        assert client.inbox == []


async def test_several_type_at_once(daemon: Daemon) -> None:
    users = [await daemon.register(f"user{number}") for number in range(4)]
    room_id = await daemon.create_room(users[0], members=[user.id for user in users[1:]])
    async with (
        daemon.connect(users[0]) as listener, daemon.connect(users[1]) as one, daemon.connect(users[2]) as two,
        daemon.connect(users[3]) as three,
    ):  # fmt: skip
        for typist in (one, two, three):
            await typist.send(type="typing_start", roomId=room_id)
        typing = {(await hear(listener, "user_typing"))["userId"] for _ in range(3)}
        assert typing == {user.id for user in users[1:]}
        history = await listener.ask(type="get_history", roomId=room_id)
        assert set(history["typing"]) == typing


@pytest.mark.parametrize("end", ["message", "http", "leave", "disconnect"])
async def test_typing_ends_with_what_the_typist_does(daemon: Daemon, end: str) -> None:
    ada, bob, room_id = await people(daemon)
    async with daemon.connect(ada) as listener, daemon.connect(bob) as typist:
        await typist.send(type="typing_start", roomId=room_id)
        await hear(listener, "user_typing")
        match end:
            case "message":
                await typist.send(type="send_message", roomId=room_id, content="hi")
            case "http":
                path = f"/api/rooms/{room_id}/messages"
                assert (await daemon.http("POST", path, {"content": "hi"}, token=bob.token)).status == 201
            case "leave":
                await typist.send(type="leave_room", roomId=room_id)
            case _:
                await typist.connection.aclose()
        await hear(listener, "user_stopped_typing", userId=bob.id)
        listener.inbox = [heard for heard in listener.inbox if heard["type"] == "user_stopped_typing"]
        assert listener.inbox == []


async def test_another_device_s_end_is_not_the_typist_s(daemon: Daemon) -> None:
    ada, bob, room_id = await people(daemon)
    async with daemon.connect(ada) as listener, daemon.connect(bob) as typist:
        listener.inbox.clear()
        async with daemon.connect(bob):
            await typist.send(type="typing_start", roomId=room_id)
            await hear(listener, "user_typing")
        assert await hears_no_typing(listener)


async def test_only_who_may_send_can_be_typing(daemon: Daemon) -> None:
    ada, bob, room_id = await people(daemon)
    daemon.rows(f"UPDATE room_members SET role = 'readonly' WHERE user_id = '{bob.id}'")
    cy = await daemon.register("cyd")
    async with daemon.connect(ada) as listener, daemon.connect(bob) as reader, daemon.connect(cy) as stranger:
        listener.inbox.clear()
        refused = await reader.ask(type="typing_start", roomId=room_id)
        assert refused["code"] == "forbidden"
        for missing in (room_id, "no such room"):
            for request in ("typing_start", "typing_stop"):
                assert (await stranger.ask(type=request, roomId=missing))["code"] == "not_a_member"
        assert await hears_no_typing(listener)


async def test_who_is_muted_cannot_be_typing(daemon: Daemon) -> None:
    ada, bob, room_id = await people(daemon)
    async with daemon.connect(ada) as listener, daemon.connect(bob) as typist:
        listener.inbox.clear()
        daemon.rows(f"UPDATE room_members SET muted_until = 9000000000000 WHERE user_id = '{bob.id}'")
        assert (await typist.ask(type="typing_start", roomId=room_id))["code"] == "muted"
        assert await hears_no_typing(listener)
        daemon.rows(f"UPDATE room_members SET muted_until = 1 WHERE user_id = '{bob.id}'")
        assert (await typist.ask(type="typing_start", roomId=room_id))["type"] == "ok"
        await hear(listener, "user_typing")


async def test_switched_off_it_is_refused(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, SERVER_FEATURES_TYPING="false") as daemon:
        _, bob, room_id = await people(daemon)
        async with daemon.connect(bob) as client:
            for request in ("typing_start", "typing_stop"):
                assert (await client.ask(type=request, roomId=room_id))["code"] == "feature_disabled"
            assert (await client.ask(type="get_history", roomId=room_id))["typing"] == []


# Several nodes


async def test_typing_is_told_and_ended_on_every_node(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 3, limits=False, SERVER_FEATURES_PRESENCE="false") as nodes:
        ada, bob, room_id = await people(nodes[0])
        async with (
            nodes[0].connect(bob) as typist, nodes[1].connect(ada) as listener, nodes[2].connect(ada) as other,
            nodes[2].connect(bob) as other_device,
        ):  # fmt: skip
            other_device.inbox.clear()
            await typist.send(type="typing_start", roomId=room_id)
            for client in (listener, other):
                await hear(client, "user_typing", userId=bob.id)
                assert (await client.ask(type="get_history", roomId=room_id))["typing"] == [bob.id]
            # A message through another node ends it, too, and on the typist's own node.
            await other_device.send(type="send_message", roomId=room_id, content="hi")
            for client in (listener, other):
                await hear(client, "user_stopped_typing", userId=bob.id)
            for client in (listener, other):
                assert (await client.ask(type="get_history", roomId=room_id))["typing"] == []
            assert all(heard["type"] != "user_typing" for heard in other_device.inbox)


# The clock, through the door


@asynccontextmanager
async def typing_people(folder: Path, clock: MockClock) -> AsyncIterator[tuple[StoppedDoor, RawClient, RawClient]]:
    """A door, who listens and who types in `room`."""
    quiet = {"WEBSOCKET_HEARTBEAT_S": "600", "WEBSOCKET_DEAD_AFTER_S": "700", "SERVER_FEATURES_PRESENCE": "false"}
    async with open_door(folder, clock, **quiet) as door:
        ada_id, _, ada_token = await door.sign_up("ada")
        bob_id, _, bob_token = await door.sign_up("bob")
        room = NewRoom("room", "private", "room", None, None)
        await door.chat.rooms.add(room, owner_id=ada_id, member_ids=[bob_id], now_ms=0)
        async with door.connect(ada_token) as (listener, _), door.connect(bob_token) as (typist, _):
            yield door, listener, typist


async def say(typist: RawClient, kind: str) -> None:
    assert (await typist.ask(type=kind, roomId="room", id="1"))["type"] == "ok"


async def test_it_expires_five_seconds_after_the_last_start(tmp_path: Path, mock_clock: MockClock) -> None:
    async with typing_people(tmp_path, mock_clock) as (door, listener, typist):
        await say(typist, "typing_start")
        assert (await listener.receive_json())["type"] == "user_typing"
        await door.jump(2)
        # Within the three seconds: it lasts longer, and nobody is told.
        await say(typist, "typing_start")
        await door.jump(EXPIRES_S - 0.01)
        assert is_silent(listener)
        await door.jump(0.02)
        assert (await listener.receive_json())["type"] == "user_stopped_typing"
        await door.jump(60)
        assert is_silent(listener)


async def test_one_start_in_three_seconds_is_told_whatever_is_sent(tmp_path: Path, mock_clock: MockClock) -> None:
    async with typing_people(tmp_path, mock_clock) as (door, listener, typist):
        began = mock_clock.current_time()
        heard: list[tuple[str, float]] = []
        for _ in range(60):
            for kind in ("typing_start", "typing_start", "typing_stop"):
                await say(typist, kind)
            await say(typist, "typing_start")
            await door.jump(0.25)
            while not is_silent(listener):
                heard.append(((await listener.receive_json())["type"], mock_clock.current_time() - began))
        starts = [at for kind, at in heard if kind == "user_typing"]
        assert 4 <= len(starts) <= 6
        assert all(later - earlier > EVERY_S - 0.26 for earlier, later in itertools.pairwise(starts))
        # Nobody is told that it is over who was not told of the start.
        assert [kind for kind, _ in heard[::2]] == ["user_typing"] * len(heard[::2])
        assert [kind for kind, _ in heard[1::2]] == ["user_stopped_typing"] * len(heard[1::2])


async def test_who_begins_anew_too_soon_is_told_when_the_time_is_over(tmp_path: Path, mock_clock: MockClock) -> None:
    async with typing_people(tmp_path, mock_clock) as (door, listener, typist):
        for kind in ("typing_start", "typing_stop", "typing_start"):
            await say(typist, kind)
        assert [(await listener.receive_json())["type"] for _ in range(2)] == ["user_typing", "user_stopped_typing"]
        await door.jump(EVERY_S - 0.01)
        assert is_silent(listener)
        await door.jump(0.02)
        assert (await listener.receive_json())["type"] == "user_typing"
        await door.jump(EXPIRES_S - EVERY_S)
        assert (await listener.receive_json())["type"] == "user_stopped_typing"


async def test_who_types_on_is_told_again_every_three_seconds(tmp_path: Path, mock_clock: MockClock) -> None:
    """So that other nodes know that the typist's node lives."""
    async with typing_people(tmp_path, mock_clock) as (door, listener, typist):
        for _ in range(4):
            await say(typist, "typing_start")
            assert (await listener.receive_json())["type"] == "user_typing"
            await door.jump(EVERY_S)


# The typists of a node


class Overheard(LocalBus):
    """Notes the signals that this node sends: kind and user."""

    def __init__(self) -> None:
        super().__init__(trio.current_time)
        self.sent: list[tuple[str, str]] = []

    def signal(self, room_id: str, body: bytes, *, about: str, kind: str = "") -> None:
        self.sent.append((kind.partition(":")[0], about))
        super().signal(room_id, body, about=about, kind=kind)


class Scene:
    """The typists of a node in `room`, to which the user `listener` listens."""

    def __init__(self, hub: Hub, bus: Overheard, typists: Typists, sessions: Sessions) -> None:
        self.hub, self.bus, self.typists, self.sessions = hub, bus, typists, sessions
        self.heard: list[str] = []

    def session(self, user_id: str) -> Session:
        outbox = Outbox(self._take, bound_bytes=10**6, on_waiting=_fail, on_overflow=_fail, on_broken=_fail)
        line = Line(
            outbox=outbox, end=lambda _code, _reason: None, refused=lambda _: None, authenticated=lambda: None,
            wait_for_space=trio.lowlevel.checkpoint, settled=lambda: None,
        )  # fmt: skip
        session = Session(f"connection of {user_id}", "", line)
        session.user_id = session.username = user_id
        self.sessions.add(session)
        return session

    def _take(self, frames: bytes) -> int:
        self.heard += re.findall(r'"type":"(\w+)"', frames.decode(errors="replace"))
        return len(frames)

    def hear(self, kind: str, user_id: str, *, room_id: str = "room") -> None:
        """What another node signals; as it does, so do all other nodes hear it."""
        body = encode(UserTyping(room_id=room_id, user_id=user_id, username=user_id))
        if kind == "typed":
            body = encode(UserStoppedTyping(room_id=room_id, user_id=user_id, username=user_id))
        self.hub.hear_signal(room_id, body, user_id, f"{kind}:another node")


def _fail() -> None:
    raise AssertionError("this socket takes everything")


@asynccontextmanager
async def open_scene(options: TypingOptions = OPTIONS) -> AsyncIterator[Scene]:
    bus, history, bell = Overheard(), ListedHistory(), Bell()
    await history.add_room("room")
    async with (
        open_hub(bus, HubOptions(), read_last_seqs=history.last_seqs, read_events=history.events_after) as hub,
        trio.open_nursery() as nursery,
    ):
        sessions = Sessions(hub, bus, follow=lambda _session, _room_id: None, look_again=lambda _: None)
        typists = Typists(hub, bus, sessions, options=options, seconds=trio.current_time, on_due=bell.ring)
        scene = Scene(hub, bus, typists, sessions)
        nursery.start_soon(time_typing, cast("Chat", SimpleNamespace(typists=typists)), bell)
        await hub.activate(["room"])
        assert hub.listen(scene.session("listener"), "room", after=0)
        yield scene
        nursery.cancel_scope.cancel()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with open_scene() as opened:
        yield opened


async def test_what_another_node_does_not_end_is_ended_here_and_told_to_no_other_node(
    autojump_clock: object, scene: Scene
) -> None:
    scene.hear("typing", "ada")
    assert scene.typists.named("room") == ["ada"]
    await trio.sleep(EVERY_S + EXPIRES_S)
    assert scene.typists.named("room") == ["ada"]
    await trio.sleep(SLACK_S + 0.01)
    assert scene.typists.named("room") == []
    assert scene.heard == ["user_typing", "user_stopped_typing"]
    assert scene.bus.sent == []


async def test_what_another_node_repeats_lasts_and_what_it_ends_is_over(autojump_clock: object, scene: Scene) -> None:
    for _ in range(5):
        scene.hear("typing", "ada")
        await trio.sleep(EVERY_S)
    assert scene.typists.named("room") == ["ada"]
    scene.hear("typed", "ada")
    assert scene.typists.named("room") == []
    await trio.sleep(60)
    assert scene.heard == ["user_typing"] * 5 + ["user_stopped_typing"]


async def test_a_start_on_another_node_keeps_one_here_from_being_told_too_soon(
    autojump_clock: object, scene: Scene
) -> None:
    scene.hear("typing", "ada")
    await trio.sleep(1)
    scene.typists.begin("room", scene.session("ada"))
    assert scene.bus.sent == []
    # It is this node's to end from now on.
    await trio.sleep(EXPIRES_S + 0.01)
    assert scene.bus.sent == [("typed", "ada")]
    assert scene.heard == ["user_typing", "user_stopped_typing"]


async def test_an_end_on_another_node_ends_it_here(autojump_clock: object, scene: Scene) -> None:
    """A message that was sent through it, say."""
    scene.typists.begin("room", scene.session("ada"))
    scene.hear("typed", "ada")
    assert scene.typists.named("room") == []
    await trio.sleep(60)
    assert scene.bus.sent == [("typing", "ada")]


async def test_of_a_leaving_that_all_nodes_hear_of_only_the_typist_s_node_tells(
    autojump_clock: object, scene: Scene
) -> None:
    scene.hear("typing", "ada")
    scene.typists.begin("room", scene.session("bob"))
    for user_id in ("ada", "bob", "cyd"):
        scene.sessions.heed(Notice("member_left", user_id, "room", seq=7))
    assert scene.typists.named("room") == []
    assert scene.bus.sent == [("typing", "bob"), ("typed", "bob")]


async def test_a_message_here_ends_what_is_typed_on_another_node(autojump_clock: object, scene: Scene) -> None:
    scene.hear("typing", "ada")
    scene.typists.stop("room", "ada")
    scene.typists.stop("room", "ada")
    assert scene.bus.sent == [("typed", "ada")]


async def test_of_two_devices_the_last_that_typed_counts(autojump_clock: object, scene: Scene) -> None:
    one, other = scene.session("ada"), scene.session("ada")
    scene.typists.begin("room", one)
    scene.typists.begin("room", other)
    scene.sessions.remove(one, 0)
    assert scene.typists.named("room") == ["ada"]
    scene.sessions.remove(other, 0)
    assert scene.typists.named("room") == []
    assert scene.bus.sent == [("typing", "ada"), ("typed", "ada")]


async def test_nothing_is_kept_of_who_does_not_type_any_more(autojump_clock: object, scene: Scene) -> None:
    sessions = [scene.session(f"user {number}") for number in range(20)]
    for session in sessions:
        scene.typists.begin("room", session)
        scene.typists.begin("other room", session)
    for number in range(20):
        scene.hear("typing", f"remote {number}")
        scene.hear("typing", f"remote {number}", room_id="other room")
    for session in sessions[:5]:
        scene.sessions.remove(session, 0)
    scene.typists.stop("room", "user 7")
    assert len(scene.typists.named("room")) == 34
    await trio.sleep(60)
    assert scene.typists.next_due == float("inf")
    assert not scene.typists._rooms
    assert not scene.typists._of_session
    assert scene.typists._count == 0


async def test_no_more_are_noted_than_there_may_be(autojump_clock: MockClock) -> None:
    async with open_scene(TypingOptions(max_typists=3)) as scene:
        for number in range(5):
            scene.typists.begin("room", scene.session(f"user {number}"))
            scene.hear("typing", f"remote {number}")
        assert len(scene.typists.named("room")) == 3
        await trio.sleep(60)
        scene.typists.begin("room", scene.session("late"))
        assert scene.typists.named("room") == ["late"]


async def test_a_history_names_no_more_than_a_hundred(autojump_clock: object, scene: Scene) -> None:
    for number in range(MAX_NAMED + 10):
        scene.hear("typing", f"remote {number}")
    assert len(scene.typists.named("room")) == MAX_NAMED
