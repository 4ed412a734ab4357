"""The hand-over from a room's past to its present, against made-up histories and clients that hold it to its word.

The devices of one user come, go and come back on one node, with resumes, joins, leavings and fresh tokens as the
program says, while other nodes store messages, joinings and leavings. Rules, sessions, hub, journal and SQL are the
daemon's own; the program says what the bus brings when, when it or the store is out and how much a socket takes.
Whatever happens, each device hears each event once and in order, from where it asked for, up to the last one;
`caught_up` names the last event before it; what is refused or cannot be replayed is told with the right reason; and
nothing is heard of a room while its user is no member.
"""

from __future__ import annotations

import json
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chatd import telemetry
from chatd.bus.hub import HubOptions, open_hub
from chatd.bus.port import Notice
from chatd.chat.canary import Canary
from chatd.chat.context import Chat, Options, flush
from chatd.chat.delivered import Deliveries
from chatd.chat.dispatch import dispatch
from chatd.chat.presence import Presence
from chatd.chat.receipts import MAX_NAMED, Cursors
from chatd.chat.session import Line, Session
from chatd.chat.sessions import Sessions
from chatd.chat.typists import Typists
from chatd.config import (
    AuthOptions,
    Features,
    HttpOptions,
    LimitOptions,
    MessageOptions,
    PresenceOptions,
    ResumeOptions,
    Secret,
    TypingOptions,
    WebSocketOptions,
)
from chatd.errors import CloseCode, Unavailable
from chatd.identity.tokens import Tokens
from chatd.loader import open_loader
from chatd.metrics import Metrics
from chatd.store.accounts import Accounts
from chatd.store.journal import JournalOptions, open_journal
from chatd.store.messages import NO_SEQ, Messages
from chatd.store.presence import Statuses
from chatd.store.receipts import Receipts
from chatd.store.rooms import Rooms
from chatd.upkeep import Followers, SecondLooks, read_arrivals
from chatd.wire.frames import close_frame
from chatd.wire.outbox import Outbox
from tests.inline import QUERIES, InlineSqlite, account, open_copy
from tests.logs import own_logging
from tests.models import count_steps, interleaved, often, programs, run, steps_of
from tests.rawclient import TEXT, take_frame
from tests.scripted import NOTICE_OF, ScriptedBus
from tests.stores import join, leave, post

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator, Iterator, Sequence

    from chatd.bus.port import Event
    from chatd.store.database import Work
    from chatd.store.journal import Journal

T = TypeVar("T")

USER, OTHER = account("ada"), account("eve")
ROOMS = ("a", "b")
DEVICES = 3
EPOCH = "epoch"
#: A room stays for longer than anybody waits for it who is about to listen (`REACH_S` of `repairs`), as it always does.
LINGER_S = 6.0
START_MS = 1_767_225_600_000
METRICS = Metrics()
EVENTS = {"new_message", "user_joined", "user_left"}
#: So long as nothing is asked of the clock: no limit is the subject here.
NO_LIMITS = LimitOptions(
    messages_per_minute=0, joins_per_hour=0, requests_per_minute=0, refusals_per_minute=0, connections_per_user=0
)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """So that a few events reach every bound."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chatd.chat.catchup.PAGE_EVENTS", 6)
        patch.setattr("chatd.chat.catchup.TAIL_STEP", 2)
        patch.setattr("chatd.chat.catchup.BLOCK_BYTES", 600)
        patch.setattr("chatd.bus.room.BLOCK_BYTES", 600)
        patch.setattr("chatd.bus.hub.MAX_BACKLOG_BYTES", 2000)
        patch.setattr("chatd.bus.repairs.PAGE_EVENTS", 3)
        yield


class Say(NamedTuple):
    """Somebody says so much through another node, one after the other."""

    room: str
    many: int


class Change(NamedTuple):
    """The user joins a room through another node, or leaves it there if a member; twice, and it is as it was."""

    room: str
    times: int


class Hold(NamedTuple):
    """The bus holds back what is published, or, if it did, brings it by and by."""


class Outage(NamedTuple):
    """The bus or the store is out, or back if it was out."""

    of_store: bool


class Let(NamedTuple):
    """Others run for so many steps, or for so many seconds."""

    steps: int
    seconds: float


class Connect(NamedTuple):
    """A device that is not connected comes, if it may (back) to where it was or that much before, or from anew."""

    device: int
    how: str
    back: int


class Cut(NamedTuple):
    """A connection is lost, with whatever was on its way."""

    device: int


class Ask(NamedTuple):
    """A device asks for something of a room, behind whatever it has asked for before."""

    device: int
    what: str
    room: str
    back: int


class Pace(NamedTuple):
    """From now on the socket of a device takes so many bytes at once, `None` for any number."""

    device: int
    most: int | None


Step = Say | Change | Hold | Outage | Let | Connect | Cut | Ask | Pace
rooms = st.sampled_from(ROOMS)
devices = st.integers(0, DEVICES - 1)
back = st.sampled_from([0, 0, 0, 1, 2, 5, 9])
step: st.SearchStrategy[Step] = often(
    (8, st.builds(Say, rooms, st.integers(1, 12))),
    (2, st.builds(Change, rooms, st.integers(1, 2))),
    (1, st.builds(Hold)),
    (1, st.builds(Outage, st.booleans())),
    (8, st.builds(Let, st.integers(0, 12), st.sampled_from([0.0, 0.0, 0.0, 0.0, 0.05, 1.2, 12.0]))),
    (5, st.builds(Connect, devices, st.sampled_from(["resume", "resume", "resume", "ahead", "stale", "anew"]), back)),
    (2, st.builds(Cut, devices)),
    (6, st.builds(Ask, devices, st.sampled_from(
        ["after", "after", "after", "join", "rejoin", "rejoin", "leave", "extend", "history", "send"]), rooms, back)),
    (2, st.builds(Pace, devices, st.sampled_from([None, None, 0, 50, 400]))),
)  # fmt: skip
program = interleaved(steps_of(step, most=60))


class BusyBus(ScriptedBus):
    """Brings what is published by and by, one room beside the other, and now and then loses or repeats something."""

    def __init__(self) -> None:
        super().__init__(subscribing_s=0.01)
        self.is_holding = False
        self.has_some = trio.Event()

    def publish(self, events: Sequence[Event]) -> None:
        super().publish(events)
        self.has_some.set()

    def announce(self, notice: Notice) -> None:
        super().announce(notice)
        self.has_some.set()

    async def carry_on(self) -> None:
        while True:
            await self.has_some.wait()
            await some_steps(4)
            if self.waiting and not self.is_holding:
                self.carry(random.choice(self.waiting), times=random.choice([0, *[1] * 12, 2]))
            else:
                self.has_some = trio.Event()

    def hold(self, *, is_holding: bool) -> None:
        self.is_holding = is_holding
        self.has_some.set()


async def some_steps(most: int) -> None:
    """Let others run for a while."""
    for _ in range(random.randrange(most + 1)):
        await trio.lowlevel.checkpoint()


class SlowSqlite(InlineSqlite):
    """A database that takes its time, before it looks and behind that, and is out while the program says so."""

    is_out = False
    was_out = False

    async def read(self, work: Work[T]) -> T:
        await self._wait()
        found = self._read(work)
        await self._wait()
        return found

    async def transaction(self, work: Work[T], *, is_lasting: bool = True) -> T:
        await self._wait()
        found = self._write(work)
        # Cancelling waits for the end of what has begun.
        with trio.CancelScope(shield=True):
            await some_steps(2)
        return found

    async def _wait(self) -> None:
        await trio.lowlevel.checkpoint()
        await some_steps(6)
        if random.random() < 0.1:
            await trio.sleep(random.choice([0.001, 0.2]))
        if self.is_out:
            raise Unavailable("The test has cut the line.")


@dataclass(eq=False)
class Truth:
    """What is stored, as the model looks at it."""

    database: InlineSqlite
    was_slow: bool = False

    def last_seq(self, room_id: str) -> int:
        return int(self.database.look("SELECT last_seq FROM rooms WHERE id = ?", room_id)[0][0])

    def is_member(self, room_id: str) -> bool:
        return bool(
            self.database.look("SELECT 1 FROM room_members WHERE room_id = ? AND user_id = ?", room_id, USER.id)
        )

    def changes(self, room_id: str) -> list[tuple[int, str]]:
        """The user's joinings and leavings of a room, in order."""
        found = self.database.look("SELECT seq, kind, body FROM room_events WHERE room_id = ? ORDER BY seq", room_id)
        return [(seq, kind) for seq, kind, body in found if json.loads(body)["userId"] == USER.id]

    def has_left_between(self, room_id: str, after: int, before: int) -> bool:
        return any(kind == "user_left" and after <= seq < before for seq, kind in self.changes(room_id))

    def may_hear(self, room_id: str, seq: int) -> bool:
        """Within a stay of the user: from its joining to its leaving."""
        is_member = False
        for changed_at, kind in self.changes(room_id):
            if changed_at > seq:
                return is_member
            is_member = kind == "user_joined" or changed_at == seq
        return is_member


@dataclass(eq=False)
class Request:
    """What a device has asked for, until it is answered."""

    type: str
    room: str = ""
    after: int = -1
    is_stale: bool = False
    has_begun: bool = False
    #: How often the user's membership had changed when it was asked.
    changes: int = 0

    @property
    def is_replay(self) -> bool:
        return self.after >= 0


@dataclass(eq=False)
class Device:
    """A client: where it is in each room, what it waits for, and its connection while it has one."""

    truth: Truth
    number: int
    #: The seq of the last event heard of each room, kept from connection to connection.
    positions: dict[str, int] = field(default_factory=dict)
    #: Rooms that it hears on this connection, as far as it knows.
    live: set[str] = field(default_factory=set)
    waiting: dict[str, Request] = field(default_factory=dict)
    #: Rooms that it joined by itself and has not left by itself since.
    joined: set[str] = field(default_factory=set)
    codes: list[int] = field(default_factory=list)
    bodies: dict[tuple[str, int], bytes] = field(default_factory=dict)
    pace: int | None = None
    connection: Connection | None = None
    has_arrived: bool = False
    faults: list[Exception] = field(default_factory=list)
    last_id: int = 0

    # -- what it asks for ------------------------------------------------------------------------------------------

    def ask(
        self, request_type: str, room: str = "", after: int | None = None, fields: dict[str, object] | None = None
    ) -> None:
        assert self.connection is not None
        self.last_id += 1
        request_id = str(self.last_id)
        changes = len(self.truth.changes(room)) if room else 0
        self.waiting[request_id] = Request(request_type, room, -1 if after is None else after, changes=changes)
        asked: dict[str, object] = {"type": request_type, "id": request_id, **(fields or {})}
        if room:
            asked["roomId"] = room
        if after is not None:
            asked["afterSeq"] = after
        self.connection.requests.send_nowait(json.dumps(asked))

    def authenticate(self, token: str, positions: dict[str, int], *, epoch: str) -> None:
        """Each room of a resume is answered by itself, without an id."""
        for room_id, after in positions.items():
            changes = len(self.truth.changes(room_id))
            self.waiting[f"{room_id} of {self.last_id + 1}"] = Request(
                "resume", room_id, after, is_stale=epoch != EPOCH, changes=changes
            )
        fields: dict[str, object] = {"token": token}
        if positions:
            fields["resume"] = {"epoch": epoch, "rooms": positions}
        self.ask("authenticate", fields=fields)

    # -- what it hears ---------------------------------------------------------------------------------------------

    def hear(self, payload: bytes) -> None:
        told = json.loads(payload)
        match told["type"]:
            case "authenticated":
                self.hear_authenticated(told)
            case kind if kind in EVENTS:
                event = told.get("message", told)
                self.hear_event(event["roomId"], event["seq"])
                self.bodies[event["roomId"], event["seq"]] = payload
                if kind == "user_left" and event["userId"] == USER.id:
                    self.live.discard(event["roomId"])
            case "caught_up":
                self.hear_caught_up(told)
            case "resync":
                self.hear_resync(told)
            case "room_history":
                self.hear_history(told)
            case "ok":
                self.joined.discard(self.answered(told, "leave_room").room)
            case "message_ack":
                self.answered(told, "send_message")
                found = self.truth.database.look("SELECT seq FROM messages WHERE id = ?", told["messageId"])
                assert found == [(told["seq"],)], "what is acknowledged is stored"
            case "error":
                self.hear_error(told)
            case kind:
                raise AssertionError(f"{kind} is not expected: {told}")

    def answered(self, told: dict[str, Any], *kinds: str) -> Request:
        request = self.waiting.pop(told["id"])
        assert not kinds or request.type in kinds
        return request

    def resume_answered(self, told: dict[str, Any]) -> Request:
        """The request that `caught_up` or `resync` answers: by its id, or the first resume of the room."""
        if "id" in told:
            return self.answered(told, "join_room")
        key = next(
            key for key, asked in self.waiting.items() if asked.type == "resume" and asked.room == told["roomId"]
        )
        return self.waiting.pop(key)

    def hear_error(self, told: dict[str, Any]) -> None:
        """It may come again at once; who has not arrived had better begin anew."""
        assert self.connection is not None
        request = self.answered(told)
        refused = {"not_found", "not_a_member", "forbidden", "unavailable", "overloaded"}
        assert told["code"] in refused | ({"unauthenticated"} if not self.has_arrived else set()), told
        if request.type == "authenticate":
            self.waiting = {key: asked for key, asked in self.waiting.items() if not key.endswith(f" of {told['id']}")}
            if not self.has_arrived:
                self.connection.scope.cancel()

    def hear_authenticated(self, told: dict[str, Any]) -> None:
        assert told["epoch"] == EPOCH
        self.answered(told, "authenticate")
        self.has_arrived = True
        resumed = {asked.room: asked.after for key, asked in self.waiting.items() if key.endswith(f" of {told['id']}")}
        # Of a room that it is in no more it starts anew.
        for room_id in self.positions.keys() - self.live - {room["roomId"] for room in told["rooms"]}:
            del self.positions[room_id]
        for room in told["rooms"]:
            room_id, last_seq = room["roomId"], room["lastSeq"]
            assert last_seq <= self.truth.last_seq(room_id)
            if room_id in resumed and room_id not in self.live:
                self.positions[room_id] = resumed[room_id]
            elif room_id not in resumed and room_id not in self.live:
                self.positions[room_id] = last_seq
                self.live.add(room_id)

    def hear_event(self, room_id: str, seq: int) -> None:
        if not self.replays(room_id) and not (room_id in self.joined and self.truth.is_member(room_id)):
            # A member may ask for all of a room's past, and one that joins is sent what this node has not heard yet.
            assert self.truth.may_hear(room_id, seq), "an event of a time when its user was no member"
        to_come = [
            asked
            for key, asked in self.waiting.items()
            if asked.type == "resume"
            and asked.room == room_id
            and not asked.has_begun
            # Its sign-in has been answered.
            and key.partition(" of ")[2] not in self.waiting
        ]
        if to_come and room_id not in self.live:
            # Also where its user has joined on another device meanwhile.
            assert seq == to_come[0].after + 1, f"{seq} of {room_id} comes before what it is to resume"
            to_come[0].has_begun |= self.positions.get(room_id) == to_come[0].after
        known = self.positions.get(room_id)
        if known is not None and seq != known + 1:
            request = next((asked for asked in self.replays(room_id) if seq == asked.after + 1), None)
            if request is not None and not request.has_begun:
                request.has_begun = True
            else:
                # The first one of a later stay: its own leaving need not have been heard.
                assert seq > known, f"{seq} of {room_id} comes after {known}"
                assert self.truth.has_left_between(room_id, known, seq), f"{seq} of {room_id} comes after {known}"
        self.positions[room_id] = seq
        self.live.add(room_id)

    def replays(self, room_id: str) -> list[Request]:
        return [asked for asked in self.waiting.values() if asked.room == room_id and asked.is_replay]

    def hear_caught_up(self, told: dict[str, Any]) -> None:
        request = self.resume_answered(told)
        room_id, seq = told["roomId"], told["seq"]
        assert not request.is_stale
        assert request.is_replay
        if request.after == seq and not request.has_begun:
            # Nothing was missed.
            self.positions[room_id] = seq
        assert self.positions[room_id] == seq, "`caught_up` names the event before it"
        assert seq <= self.truth.last_seq(room_id)
        self.live.add(room_id)

    def hear_resync(self, told: dict[str, Any]) -> None:
        request = self.resume_answered(told)
        room_id, seq, last_seq = told["roomId"], told["seq"], self.truth.last_seq(told["roomId"])
        assert request.is_replay
        if told["reason"] == "not_a_member":
            is_changed = len(self.truth.changes(room_id)) > request.changes
            # This node may have heard only now of what had changed before it was asked.
            is_changed |= self.truth.has_left_between(room_id, request.after, NO_SEQ)
            assert is_changed or not self.truth.is_member(room_id), "a member is told to be none"
            self.live.discard(room_id)
            self.positions.pop(room_id, None)
            return
        assert seq <= last_seq
        if told["reason"] == "too_old":
            assert self.connection is not None
            assert not request.is_stale
            assert seq - request.after > self.connection.chat.options.resume.max_events
        else:
            assert told["reason"] == "epoch_changed"
            assert request.is_stale or request.after > last_seq
        self.positions[room_id] = seq
        self.live.add(room_id)

    def hear_history(self, told: dict[str, Any]) -> None:
        request = self.answered(told, "join_room", "get_history")
        room_id = told["roomId"]
        seqs = [message["seq"] for message in told["messages"]]
        stored = self.truth.database.look("SELECT seq FROM messages WHERE room_id = ? ORDER BY seq", room_id)
        # What else has come up to the room's position is on its way live where no joining asked.
        last = told["seq"] if request.type == "join_room" else max(seqs, default=0)
        expected = [row[0] for row in stored if row[0] <= last]
        assert seqs == expected[len(expected) - len(seqs) :], "a page has no holes"
        assert told["hasMore"] == (len(seqs) < len(expected))
        assert max(seqs, default=0) <= told["seq"] <= self.truth.last_seq(room_id)
        if request.type != "join_room":
            return
        self.joined.add(room_id)
        known = self.positions.get(room_id, -1) if room_id in self.live else -1
        if known < told["seq"]:
            # Of an earlier stay it need not have heard the leaving; otherwise a history tells nothing that is to come.
            assert known < 0 or self.truth.has_left_between(room_id, known, told["seq"]), f"a hole behind {known}"
            self.positions[room_id] = told["seq"]
            self.live.add(room_id)

    def check(self) -> None:
        """At the end: everything is answered, and everything has been heard."""
        assert self.waiting == {}
        for room_id in ROOMS:
            if self.truth.is_member(room_id):
                assert room_id in self.live, f"device {self.number} is a member and hears nothing of {room_id}"
                heard, last_seq = self.positions[room_id], self.truth.last_seq(room_id)
                assert heard == last_seq, f"device {self.number} lacks the end of {room_id}"


class Connection:
    """What `connection` is to a session, with a socket that takes what its device says."""

    def __init__(self, chat: Chat, device: Device) -> None:
        self.chat = chat
        self.device = device
        self.requests, self._asked = trio.open_memory_channel[str](1000)
        self.scope = trio.CancelScope()
        self._unread = b""
        self._is_over = False
        self._waiting = trio.Event()
        self._written = trio.Event()
        self._ended = trio.Event()
        self._outbox = Outbox(
            self._send, bound_bytes=chat.options.websocket.outbox_bytes, on_waiting=self._wake,
            on_overflow=partial(self.end, CloseCode.SLOW_READER, "too slow", drop=True), on_broken=self._wake,
        )  # fmt: skip
        line = Line(
            outbox=self._outbox, end=self.end, refused=lambda _: None, authenticated=lambda: None,
            wait_for_space=self._wait_for_space, settled=lambda: None,
        )  # fmt: skip
        self.session = Session(f"connection of {device.number}", "", line)

    async def serve(self) -> None:
        async with trio.open_nursery() as nursery:
            self.scope = nursery.cancel_scope
            nursery.start_soon(self._read)
            nursery.start_soon(self._write)
            nursery.start_soon(self._wait_closed)
        self._is_over = True
        self._outbox.detach()
        self.chat.sessions.remove(self.session, self.chat.clock())
        self.session.hang_up()
        self.device.connection = None
        self.device.has_arrived = False
        self.device.waiting.clear()
        self.device.live.clear()
        self.device.joined.clear()

    def end(self, code: int, reason: str, *, drop: bool = False) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self.device.codes.append(code)
            self._outbox.end(close_frame(code, reason), drop=drop)
            self._written.set()

    async def _read(self) -> None:
        async for text in self._asked:
            if not self._ended.is_set():
                await dispatch(self.chat, self.session, text)

    async def _write(self) -> None:
        while True:
            await self._waiting.wait()
            while not self._outbox.is_empty:
                await trio.sleep(0.01)
                self._outbox.write()
                self._written.set()
                self._written = trio.Event()
            self._waiting = trio.Event()

    async def _wait_closed(self) -> None:
        await self._ended.wait()
        await trio.sleep(0.05)
        self.scope.cancel()

    async def _wait_for_space(self) -> None:
        half = self.chat.options.websocket.outbox_bytes // 2
        while self._outbox.waiting_bytes > half and not self._ended.is_set():
            await self._written.wait()

    def _wake(self) -> None:
        self._waiting.set()

    def _send(self, data: bytes) -> int:
        assert not self._is_over
        count = len(data) if self.device.pace is None else min(self.device.pace, len(data))
        if count == 0:
            raise BlockingIOError
        self._unread += data[:count]
        while (found := take_frame(self._unread)) is not None:
            frame, self._unread = found
            if frame.opcode == TEXT and not self.scope.cancel_called:
                try:
                    self.device.hear(frame.payload)
                except Exception as fault:  # noqa: BLE001 - not the daemon's, which would go on: `check` raises it
                    self.device.faults.append(fault)
        return count


@dataclass
class Model:
    """Carries out the steps."""

    chat: Chat
    database: SlowSqlite
    bus: BusyBus
    elsewhere: Journal
    nursery: trio.Nursery
    truth: Truth
    devices: list[Device] = field(init=False)

    def __post_init__(self) -> None:
        self.devices = [Device(self.truth, number) for number in range(DEVICES)]

    async def take(self, step: Step) -> None:
        match step:
            case Say():
                self.nursery.start_soon(self.say, step.room, step.many)
            case Change():
                changes = [leave, join] if self.truth.is_member(step.room) else [join, leave]
                for change in changes[: step.times]:
                    self.elsewhere.append(change(USER, step.room))
            case Hold():
                self.bus.hold(is_holding=not self.bus.is_holding)
            case Outage(of_store=True):
                self.database.is_out = not self.database.is_out
                self.database.was_out = True
            case Outage():
                if self.bus.is_out:
                    self.bus.come_back()
                else:
                    self.bus.go()
            case Let():
                for _ in range(step.steps):
                    await trio.lowlevel.checkpoint()
                await trio.sleep(step.seconds)
            case Connect() | Cut() | Ask() | Pace():
                self.take_of(self.devices[step.device], step)

    async def say(self, room_id: str, many: int) -> None:
        for _ in range(many):
            self.elsewhere.append(post(OTHER, room_id))
            await some_steps(8)

    def take_of(self, device: Device, step: Connect | Cut | Ask | Pace) -> None:
        match step:
            case Connect() if device.connection is None:
                self.connect(device, step.how, step.back)
            case Cut() if device.connection is not None:
                device.connection.scope.cancel()
            case Ask() if device.connection is not None and not device.connection.scope.cancel_called:
                self.ask(device, step)
            case Pace():
                self.truth.was_slow |= step.most is not None
                device.pace = step.most

    def connect(self, device: Device, how: str, back: int = 0) -> None:
        device.connection = Connection(self.chat, device)
        positions = {room_id: max(0, seq - back) for room_id, seq in device.positions.items()}
        if how == "anew":
            positions = {}
        if how == "ahead":
            # It was on another node, which has heard all.
            positions = {room_id: max(0, self.truth.last_seq(room_id) - back) for room_id in ROOMS}
        device.positions = dict(positions)
        device.authenticate(self.token(), positions, epoch="another" if how == "stale" else EPOCH)
        self.nursery.start_soon(device.connection.serve)

    def token(self) -> str:
        return self.chat.tokens.issue(USER.id, "sign-in", self.chat.clock())

    def ask(self, device: Device, step: Ask) -> None:
        after = max(0, device.positions.get(step.room, 0) - step.back)
        match step.what:
            case "after":
                device.ask("join_room", step.room, after)
            case "join":
                device.ask("join_room", step.room)
            case "leave":
                device.ask("leave_room", step.room)
            case "rejoin":
                device.ask("leave_room", step.room)
                device.ask("join_room", step.room)
            case "history":
                device.ask("get_history", step.room)
            case "send":
                device.ask("send_message", step.room, fields={"content": "hello"})
            case "extend":
                positions = {step.room: after} if step.back and step.room in device.positions else {}
                device.authenticate(self.token(), positions, epoch=EPOCH)

    async def settle(self) -> None:
        """All is back, whoever is away comes back to where it was, and everything is brought."""
        self.database.is_out = False
        for device in self.devices:
            device.pace = None
        self.bus.hold(is_holding=False)
        for seconds in (5, 30, 10):
            if seconds == 5:
                self.bus.come_back()
            await trio.sleep(seconds)
            for device in self.devices:
                if device.connection is None and seconds > 5:
                    self.connect(device, "resume")
        await trio.sleep(10)

    async def check(self) -> None:
        for device in self.devices:
            for fault in device.faults:
                raise fault
            assert device.connection is not None
            allowed = set()
            if self.truth.was_slow:
                allowed.add(CloseCode.SLOW_READER)
            if self.database.was_out:
                allowed.add(CloseCode.TRY_LATER)
            assert set(device.codes) <= allowed
            device.check()
        for room_id in ROOMS:
            stored = {event.seq: event.body for event in await self.chat.messages.events_after(room_id, 0, 10_000)}
            assert len(stored) == self.truth.last_seq(room_id)
            for device in self.devices:
                for (heard_in, seq), body in device.bodies.items():
                    assert heard_in != room_id or stored[seq] == body, "a replay is byte for byte what was live"


@asynccontextmanager
async def open_model(
    connection: sqlite3.Connection, *, tail: int, slice_receivers: int, max_events: int, outbox_bytes: int
) -> AsyncIterator[Model]:
    """A node, and another journal that stands for all other nodes."""
    database, bus = SlowSqlite(connection), BusyBus()
    accounts, rooms, messages = Accounts(database, QUERIES), Rooms(database, QUERIES), Messages(database, QUERIES)
    followers, second_looks = Followers(), SecondLooks()
    holding: list[Outbox] = []
    options = HubOptions(tail_events=tail, slice_receivers=slice_receivers, linger_s=LINGER_S)

    def clock() -> int:
        return START_MS + round(trio.current_time() * 1000)

    def publish(events: Sequence[Event], *, is_own: bool) -> None:
        bus.publish(events)
        for event in events:
            if is_own:
                hub.note_stored(event)
            if event.subject is not None and event.kind in NOTICE_OF:
                bus.announce(Notice(NOTICE_OF[event.kind], event.subject, event.room_id, event.seq))  # type: ignore[arg-type]  # its values are kinds

    def journal(behind: InlineSqlite, *, is_own: bool) -> Any:
        return open_journal(
            behind, QUERIES, JournalOptions(), clock=clock, metrics=METRICS, publish=partial(publish, is_own=is_own),
            after_batch=partial(flush, holding),
        )  # fmt: skip

    async with (
        open_hub(bus, options, read_last_seqs=rooms.last_seqs, read_events=messages.events_after) as hub,
        open_loader(partial(read_arrivals, accounts, rooms), gather_s=0.005) as arrivals,
        open_loader(messages.events_of, max_keys=2) as missed,
        open_loader(partial(Receipts(database, QUERIES).readers, limit=MAX_NAMED)) as readers,
        journal(database, is_own=True) as own_journal,
        journal(InlineSqlite(connection), is_own=False) as elsewhere,
        trio.open_nursery() as nursery,
    ):
        sessions = Sessions(hub, bus, follow=followers.queue, look_again=second_looks.queue)
        chat = Chat(
            options=Options(
                NO_LIMITS, AuthOptions(), MessageOptions(), ResumeOptions(max_events=max_events),
                WebSocketOptions(outbox_bytes=outbox_bytes), HttpOptions(), Features(),
                PresenceOptions(), TypingOptions(),
            ),
            epoch=EPOCH, clock=clock, seconds=trio.current_time, bus=bus, hub=hub,
            journal=own_journal, accounts=accounts, rooms=rooms, messages=messages, arrivals=arrivals, missed=missed,
            sessions=sessions, statuses=Statuses(database, QUERIES), presence=Presence(hub, on_news=lambda: None),
            typists=Typists(
                hub, bus, sessions, options=TypingOptions(), seconds=trio.current_time, on_due=lambda: None
            ),
            tokens=Tokens(Secret("s" * 32), Secret(), access_s=10**6), passwords=cast("Any", None), metrics=METRICS,
            health=cast("Any", None), holding=holding, search=cast("Any", None),
            receipts=cast("Any", None), marks=cast("Any", None), deliveries=Deliveries(hub),
            cursors=Cursors(hub, readers, seconds=trio.current_time),
            direct=cast("Any", None), blocks=cast("Any", None), chats=cast("Any", None),
            moderation=cast("Any", None), lobby_id="", notifications=cast("Any", None), notifier=cast("Any", None),
            files=cast("Any", None), depot=cast("Any", None), file_links=cast("Any", None),
            canary=Canary(hub),
        )  # fmt: skip
        nursery.start_soon(bus.carry_on)
        nursery.start_soon(followers.let_follow, chat)
        nursery.start_soon(second_looks.look, chat)
        yield Model(chat, database, bus, elsewhere, nursery, Truth(database))
        nursery.cancel_scope.cancel()


class Sizes(NamedTuple):
    tail: int
    slice_receivers: int
    max_events: int
    outbox_bytes: int


async def play(connection: sqlite3.Connection, steps: list[Step], sizes: Sizes) -> None:
    async with open_model(connection, **sizes._asdict()) as model:
        for room_id in ROOMS:
            await model.elsewhere.write(join(USER, room_id))
        for device in model.devices[:2]:
            model.connect(device, "anew")
        for step in steps:
            await model.take(step)
        await model.settle()
        await model.check()


sizes = st.builds(
    Sizes, st.sampled_from([0, 3, 50]), st.sampled_from([1, 1000]), st.sampled_from([10_000, 10_000, 6]),
    st.sampled_from([4000, 4000, 1_000_000]),
)  # fmt: skip


@programs(100)
@given(program, sizes)
def test_every_device_hears_each_event_once_and_in_order_however_it_comes_back(steps: list[Step], sizes: Sizes) -> None:
    count_steps("resume", len(steps))
    with own_logging(), open_copy((USER.id, OTHER.id), ROOMS) as connection:
        # Outages are logged: not here.
        telemetry.configure_logging("error", "json", StringIO())
        connection.execute(
            "INSERT INTO user_sessions VALUES ('sign-in', ?, 'hash', '', '', 1, 1, ?, NULL)", (USER.id, 2**50)
        )
        run(play, connection, steps, sizes)
