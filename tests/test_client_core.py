"""The client's state without sockets: a made-up server, connections that end anywhere, and what may never happen.

The model below is a server of a few lines that keeps promises 2, 3 and 5 of spec/protocol.md. hypothesis chooses who
speaks when and where connections are cut; after every step what the user was handed has to be one unbroken sequence.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chatd import protocol
from chatd.client.core import NOWHERE, ROOMS_AT_ONCE, Core, place_of
from chatd.client.errors import Refused
from chatd.protocol import LeaveRoom, NewMessage, Resync, SendMessage, UserLeft, decode_server, encode
from chatd.records import Limits, Message, RoomEntry

if TYPE_CHECKING:
    from chatd.client.core import RoomEvent
    from chatd.client.requests import Outcome
    from chatd.protocol import ServerMessage

ROOMS: Final = ("a", "b")
ME: Final = "me"
AT: Final = "2026-01-31T12:00:00.123Z"


def limits(*, message_bytes: int = 65_536, messages_per_minute: int = 30) -> Limits:
    return Limits(
        messages_per_minute=messages_per_minute, requests_per_minute=120, content_characters=10_000,
        message_bytes=message_bytes, metadata_bytes=4096,
    )  # fmt: skip


def authenticated(
    request_id: str | None, rooms: dict[str, int], *, epoch: str = "e1", bounds: Limits | None = None
) -> protocol.Authenticated:
    entries = [
        RoomEntry(room_id=room_id, name=room_id, kind="public", last_seq=seq, last_read_seq=0, unread=0)
        for room_id, seq in rooms.items()
    ]
    return protocol.Authenticated(
        id=request_id, user_id=ME, username="me", connection_id="c", epoch=epoch, expires_at=AT, heartbeat_seconds=20.0,
        limits=bounds or limits(), rooms=entries,
    )  # fmt: skip


def new_message(room_id: str, seq: int, content: str = "x") -> NewMessage:
    message = Message(
        id=f"{room_id}{seq}", room_id=room_id, seq=seq, sender_id=ME, sender_name="me", message_type="text",
        content=content, created_at=AT,
    )  # fmt: skip
    return NewMessage(message=message)


def anywhere(_room_id: str) -> bool:
    return True


def nowhere(_room_id: str) -> bool:
    return False


def live(core: Core, rooms: dict[str, int], **fields: Any) -> None:
    """Bring a core to its next connection, authenticated."""
    hello = json.loads(core.begin("token"))
    core.hear(authenticated(hello["id"], rooms, **fields), 0.0, has_space=anywhere)


def sent(core: Core, now: float = 0.0, *, may_catch_up: bool = True) -> list[dict[str, Any]]:
    return [json.loads(text) for text in core.take(now, may_catch_up=may_catch_up)]


def ask(core: Core, message: protocol.ClientMessage) -> list[Outcome]:
    """Ask, and return the list into which the outcome will come."""
    outcomes: list[Outcome] = []
    core.ask(message, outcomes.append)
    return outcomes


# -- the model --------------------------------------------------------------------------------------------------------


class Server:
    """What is durable, and one connection. It is honest; the line is not."""

    def __init__(self) -> None:
        self.epoch = 1
        self.logs: dict[str, list[Any]] = {room_id: [] for room_id in ROOMS}
        self.members = dict.fromkeys(ROOMS, True)
        self.keys: dict[str, tuple[str, int]] = {}
        self.to_client: deque[str] = deque()
        self.to_server: deque[dict[str, Any]] = deque()
        self.hears: set[str] = set()

    def append(self, room_id: str, event: Any) -> None:
        self.logs[room_id].append(event)
        if room_id in self.hears:
            self.tell(event)
        if isinstance(event, UserLeft):
            self.hears.discard(room_id)

    def tell(self, message: ServerMessage) -> None:
        self.to_client.append(encode(message).decode())

    def post(self, room_id: str, content: str) -> int:
        seq = len(self.logs[room_id]) + 1
        self.append(room_id, new_message(room_id, seq, content))
        return seq

    def answer(self, told: dict[str, Any]) -> None:
        """One message of the client."""
        request_id, room_id = told.get("id"), told.get("roomId", "")
        match told["type"]:
            case "authenticate":
                self._authenticate(told)
            case "send_message":
                key = told["clientMessageId"]
                is_duplicate = key in self.keys
                if not is_duplicate and not self.members[room_id]:
                    self.tell(protocol.Error(id=request_id, message="no", code="not_a_member", temporary=False))
                    return
                if not is_duplicate:
                    self.keys[key] = room_id, self.post(room_id, told["content"])
                place, seq = self.keys[key]
                self.tell(
                    protocol.MessageAck(
                        id=request_id, message_id=f"{place}{seq}", room_id=place, seq=seq, created_at=AT,
                        duplicate=is_duplicate, client_message_id=key,
                    )
                )  # fmt: skip
            case "join_room":
                self.members[room_id] = True
                self.tell(self._history(room_id, request_id))
                self.hears.add(room_id)
            case "leave_room":
                if not self.members[room_id]:
                    self.tell(protocol.Error(id=request_id, message="no", code="not_a_member", temporary=False))
                    return
                self.leave(room_id)
                self.tell(protocol.Ok(id=request_id))

    def leave(self, room_id: str) -> None:
        self.members[room_id] = False
        seq = len(self.logs[room_id]) + 1
        left = UserLeft(room_id=room_id, seq=seq, user_id=ME, username="me", online=True, reason="left")
        self.append(room_id, left)

    def _history(self, room_id: str, request_id: str | None) -> protocol.RoomHistory:
        return protocol.RoomHistory(
            id=request_id, room_id=room_id, messages=[], seq=len(self.logs[room_id]), has_more=False, typing=[],
            read_cursors=[],
        )  # fmt: skip

    def _authenticate(self, told: dict[str, Any]) -> None:
        wanted = told.get("resume", {"epoch": "", "rooms": {}})
        mine = {room_id: len(self.logs[room_id]) for room_id in ROOMS if self.members[room_id]}
        self.hears |= mine.keys() - wanted["rooms"].keys()
        self.tell(authenticated(told.get("id"), mine, epoch=f"e{self.epoch}"))
        for room_id, after in wanted["rooms"].items():
            seq = len(self.logs[room_id])
            if not self.members[room_id]:
                self.tell(Resync(room_id=room_id, oldest_seq=0, seq=0, reason="not_a_member"))
                continue
            self.hears.add(room_id)
            if wanted["epoch"] != f"e{self.epoch}" or after > seq:
                self.tell(Resync(room_id=room_id, oldest_seq=1, seq=seq, reason="epoch_changed"))
                continue
            for event in self.logs[room_id][after:]:
                self.tell(event)
            self.tell(protocol.CaughtUp(room_id=room_id, seq=seq))

    def hang_up(self) -> None:
        self.to_client.clear()
        self.to_server.clear()
        self.hears.clear()

    def restore(self, room_id: str, kept: int) -> None:
        """Come back from a backup: the end of a log is gone, and what comes next is something else."""
        self.epoch += 1
        self.logs[room_id] = self.logs[room_id][:kept]
        self.keys = {key: place for key, place in self.keys.items() if place[0] != room_id or place[1] <= kept}


class Storm(RuleBasedStateMachine):
    """A core, a server, a line between them that is cut anywhere, and a user with little space."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Core()
        self.server = Server()
        self.now = 0.0
        self.is_connected = False
        self.space = 3
        self.waiting: deque[RoomEvent] = deque()
        self.handed: dict[str, list[RoomEvent]] = {room_id: [] for room_id in ROOMS}
        self.asked: dict[str, list[Outcome]] = {}
        self.is_restored = False

    # what may happen

    @rule()
    def connect(self) -> None:
        self.cut()
        self.is_connected = True
        self.server.to_server.append(json.loads(self.core.begin("token")))

    @precondition(lambda self: self.is_connected)
    @rule()
    def cut(self) -> None:
        self.is_connected = False
        self.server.hang_up()
        self.core.lose()

    @rule(room_id=st.sampled_from(ROOMS))
    def send(self, room_id: str) -> None:
        key = f"k{len(self.asked)}"
        self.asked[key] = ask(self.core, SendMessage(room_id=room_id, content=key, client_message_id=key))

    @rule(room_id=st.sampled_from(ROOMS))
    def join(self, room_id: str) -> None:
        ask(self.core, protocol.JoinRoom(room_id=room_id))

    @rule(room_id=st.sampled_from(ROOMS))
    def leave(self, room_id: str) -> None:
        ask(self.core, LeaveRoom(room_id=room_id))

    @rule(room_id=st.sampled_from(ROOMS))
    def others_speak(self, room_id: str) -> None:
        self.server.post(room_id, "from others")

    @rule(room_id=st.sampled_from(ROOMS))
    def be_kicked(self, room_id: str) -> None:
        if self.server.members[room_id]:
            self.server.leave(room_id)

    @precondition(lambda self: self.is_connected)
    @rule()
    def client_writes(self) -> None:
        self.now += 0.3
        for text in self.core.take(self.now, may_catch_up=len(self.waiting) < 2):
            self.server.to_server.append(json.loads(text))

    @precondition(lambda self: self.server.to_server)
    @rule(refuse=st.booleans())
    def server_reads(self, *, refuse: bool) -> None:
        told = self.server.to_server.popleft()
        if refuse and told["type"] != "authenticate":
            error = protocol.Error(id=told["id"], message="later", code="unavailable", temporary=True)
            self.server.tell(error)
        else:
            self.server.answer(told)

    @precondition(lambda self: self.server.to_client)
    @rule(times=st.integers(1, 8))
    def client_reads(self, times: int) -> None:
        for _ in range(min(times, len(self.server.to_client))):
            message = decode_server(self.server.to_client.popleft())
            told = self.core.hear(message, self.now, has_space=lambda _: len(self.waiting) < self.space)
            if told is not None:
                assert isinstance(told, NewMessage | UserLeft | Resync)
                self.waiting.append(told)

    @precondition(lambda self: self.waiting)
    @rule()
    def user_takes(self) -> None:
        event = self.waiting.popleft()
        self.handed[place_of(event)[0]].append(event)

    @precondition(lambda self: self.waiting or self.core.positions)
    @rule()
    def client_starts_anew(self) -> None:
        """Another process goes on from a checkpoint."""
        checkpoint = self.core.checkpoint(self.waiting)
        self.cut()
        self.core = Core(epoch=checkpoint.epoch, positions=dict(checkpoint.rooms))
        self.waiting.clear()
        self.asked.clear()

    @precondition(lambda self: not self.is_restored)
    @rule(room_id=st.sampled_from(ROOMS), kept=st.integers(0, 3))
    def server_is_restored(self, room_id: str, kept: int) -> None:
        """Only once, and with everything cut, as a restart does."""
        self.cut()
        self.is_restored = True
        self.server.restore(room_id, kept)

    # what has to hold

    @invariant()
    def each_event_comes_once_and_in_order(self) -> None:
        for room_id, handed in self.handed.items():
            position: int | None = None
            for event in handed:
                seq = place_of(event)[1]
                if isinstance(event, Resync):
                    position = None if event.reason == "not_a_member" else seq
                    continue
                assert position is None or seq == position + 1, (room_id, position, seq)
                position = None if isinstance(event, UserLeft) else seq

    @invariant()
    def acknowledged_is_stored_once(self) -> None:
        if self.is_restored:
            return
        for log in self.server.logs.values():
            mine = [e.message.content for e in log if isinstance(e, NewMessage) and e.message.content != "from others"]
            assert len(mine) == len(set(mine))
        for key, outcomes in self.asked.items():
            assert len(outcomes) <= 1
            if outcomes and isinstance(outcomes[0], protocol.MessageAck):
                assert (outcomes[0].room_id, outcomes[0].seq) == self.server.keys[key]

    def teardown(self) -> None:
        """When nothing disturbs any more, everything is answered and everything is handed over."""
        self.connect()
        for _ in range(400):
            self.now += 30.0
            self.client_writes()
            while self.server.to_server:
                self.server.answer(self.server.to_server.popleft())
            while self.server.to_client:
                self.client_reads(1)
                self.each_event_comes_once_and_in_order()
            if not self.waiting and not len(self.core.requests) and not self.core.behind:
                break
            while self.waiting:
                self.user_takes()
        assert len(self.core.requests) == 0
        assert all(len(outcomes) == 1 for outcomes in self.asked.values())
        self.each_event_comes_once_and_in_order()
        self.acknowledged_is_stored_once()
        for room_id in ROOMS:
            if self.server.members[room_id]:
                assert self.core.positions[room_id] == len(self.server.logs[room_id])
            else:
                assert room_id not in self.core.positions


Storm.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestStorm = Storm.TestCase


# -- single facts -----------------------------------------------------------------------------------------------------


def test_first_hello_resumes_nothing_and_the_next_resumes_where_it_was() -> None:
    core = Core()
    assert "resume" not in json.loads(core.begin("t"))
    live(core, {"a": 5})
    core.hear(new_message("a", 6), 0.0, has_space=anywhere)
    assert json.loads(core.begin("t"))["resume"] == {"epoch": "e1", "rooms": {"a": 6}}


def test_repeat_is_dropped_and_a_gap_is_asked_for() -> None:
    core = Core()
    live(core, {"a": 5})
    assert core.hear(new_message("a", 5), 0.0, has_space=anywhere) is None
    assert core.hear(new_message("a", 7), 0.0, has_space=anywhere) is None
    [asked] = sent(core)
    assert asked["resume"] == {"epoch": "e1", "rooms": {"a": 5}}
    assert sent(core) == []


def test_event_without_space_is_passed_over_and_asked_for_when_there_is_space() -> None:
    core = Core()
    live(core, {"a": 5})
    assert core.hear(new_message("a", 6), 0.0, has_space=nowhere) is None
    assert sent(core, may_catch_up=False) == []
    assert core.due_at(0.0, may_catch_up=False) == float("inf")
    assert core.due_at(0.0, may_catch_up=True) == 0.0
    [asked] = sent(core)
    assert asked["resume"]["rooms"] == {"a": 5}
    assert core.hear(new_message("a", 6), 0.0, has_space=anywhere) is not None


def test_room_that_stays_behind_is_asked_for_once_a_second() -> None:
    core = Core()
    live(core, {"a": 5})
    core.hear(new_message("a", 7), 0.0, has_space=anywhere)
    assert len(sent(core, 0.0)) == 1
    core.hear(protocol.CaughtUp(room_id="a", seq=7), 0.1, has_space=anywhere)
    assert sent(core, 0.5) == []
    assert core.due_at(0.5, may_catch_up=True) == 1.0
    assert [each["type"] for each in sent(core, 1.0)] == ["authenticate"]


def test_many_rooms_are_resumed_in_several_messages() -> None:
    core = Core()
    rooms = {f"room{number}": number for number in range(ROOMS_AT_ONCE * 2 + 1)}
    live(core, rooms)
    hello = json.loads(core.begin("t"))
    resumed = dict(hello["resume"]["rooms"])
    assert len(resumed) == ROOMS_AT_ONCE
    core.hear(authenticated(hello["id"], rooms), 0.0, has_space=anywhere)
    for now in (0.0, 1.0):
        [asked] = sent(core, now)
        assert len(json.dumps(asked)) < 65_536
        resumed |= asked["resume"]["rooms"]
    assert resumed == rooms
    assert sent(core, 2.0) == []


def test_rooms_of_another_epoch_are_not_taken_for_positions_of_this_one() -> None:
    core = Core()
    rooms = {f"room{number}": 7 for number in range(ROOMS_AT_ONCE + 1)}
    live(core, rooms)
    hello = json.loads(core.begin("t"))
    core.hear(authenticated(hello["id"], rooms, epoch="e2"), 0.0, has_space=anywhere)
    [asked] = sent(core)
    assert asked["resume"] == {"epoch": "e2", "rooms": {f"room{ROOMS_AT_ONCE}": NOWHERE}}
    # an event before the `resync` is not to be taken for the next one
    assert core.hear(new_message("room0", 8), 0.0, has_space=anywhere) is None
    resync = Resync(room_id="room0", oldest_seq=1, seq=8, reason="epoch_changed")
    assert core.hear(resync, 0.0, has_space=anywhere) is resync
    assert core.hear(new_message("room0", 9), 0.0, has_space=anywhere) is not None


def test_event_of_a_newer_server_is_handed_on_in_its_place() -> None:
    core = Core()
    live(core, {"a": 5})
    for seq, is_event in ((7, False), (6, True), (6, False)):
        told = core.hear(protocol.Unknown("poll", {"roomId": "a", "seq": seq}), 0.0, has_space=anywhere)
        assert (told is not None) is is_event
    assert core.hear(new_message("a", 7), 0.0, has_space=anywhere) is not None
    for fields in ({}, {"roomId": "b", "seq": 1}, {"roomId": "a", "seq": True}, {"roomId": 1, "seq": 8}):
        assert core.hear(protocol.Unknown("poll", fields), 0.0, has_space=anywhere) is None


def test_message_too_large_for_the_server_is_refused_here_because_it_would_close_the_connection() -> None:
    core = Core()
    live(core, {}, bounds=limits(message_bytes=200))
    outcomes = ask(core, SendMessage(room_id="a", content="x" * 200, client_message_id="k"))
    assert sent(core) == []
    assert isinstance(outcomes[0], Refused)
    assert outcomes[0].code == "content_too_long"


def test_leave_that_was_done_before_its_answer_got_lost_is_done() -> None:
    core = Core()
    live(core, {"a": 1})
    outcomes = ask(core, LeaveRoom(room_id="a"))
    sent(core)
    live(core, {})
    [again] = sent(core)
    core.hear(
        protocol.Error(id=again["id"], message="no", code="not_a_member", temporary=False), 0.0, has_space=anywhere
    )
    assert isinstance(outcomes[0], protocol.Ok)


def test_leave_of_a_stranger_is_refused() -> None:
    core = Core()
    live(core, {"a": 1})
    outcomes = ask(core, LeaveRoom(room_id="a"))
    [asked] = sent(core)
    core.hear(
        protocol.Error(id=asked["id"], message="no", code="not_a_member", temporary=False), 0.0, has_space=anywhere
    )
    assert isinstance(outcomes[0], Refused)


def test_nothing_is_sent_to_a_server_that_leaves_and_it_says_when_to_come_back() -> None:
    core = Core()
    live(core, {"a": 1})
    shutdown = protocol.ServerShutdown(reason="restart", reconnect_after_ms=1500)
    assert core.hear(shutdown, 0.0, has_space=anywhere) is shutdown
    ask(core, LeaveRoom(room_id="a"))
    assert sent(core) == []
    assert core.due_at(0.0, may_catch_up=True) == float("inf")
    assert core.line.reconnect_after_s == 1.5
    live(core, {"a": 1})
    assert [each["type"] for each in sent(core)] == ["leave_room"]


def test_server_that_can_let_nobody_in_is_left_for_as_long_as_it_says() -> None:
    core = Core()
    hello = json.loads(core.begin("t"))
    busy = protocol.Error(id=hello["id"], message="busy", code="overloaded", temporary=True, retry_after_ms=700)
    core.hear(busy, 0.0, has_space=anywhere)
    assert core.line.must_reconnect
    assert core.line.reconnect_after_s == 0.7


def test_own_requests_do_not_count_as_the_users() -> None:
    core = Core()
    live(core, {"a": 5})
    core.renew("fresh")
    was_asked = core.is_asked
    assert not was_asked
    assert [(each["type"], each["token"]) for each in sent(core)] == [("authenticate", "fresh")]
    ask(core, LeaveRoom(room_id="a"))
    assert core.is_asked
    core.lose()
    # what was its own is forgotten with the connection: the next hello says it all
    live(core, {"a": 5})
    assert [each["type"] for each in sent(core)] == ["leave_room"]


def test_ids_of_users_and_of_the_client_do_not_meet() -> None:
    core = Core()
    live(core, {})
    for key in ("q2", "q3", "q3"):
        ask(core, SendMessage(room_id="a", content="x", client_message_id=key))
    ask(core, LeaveRoom(room_id="a"))
    told = sent(core)
    assert len({each["id"] for each in told}) == 4
    assert [each["clientMessageId"] for each in told if each["type"] == "send_message"] == ["q2", "q3", "q3"]


@pytest.mark.parametrize("reason", ["too_old", "epoch_changed"])
def test_checkpoint_before_a_resync_that_was_not_taken_leads_to_another(reason: Any) -> None:
    core = Core()
    live(core, {"a": 5, "b": 5})
    waiting: list[RoomEvent] = [new_message("b", 5), Resync(room_id="a", oldest_seq=1, seq=9, reason=reason)]
    waiting.append(new_message("a", 10))
    assert core.checkpoint(waiting).rooms == {"a": NOWHERE, "b": 4}
