"""A torture client: a device that does everything there is (`acts`), resends under the same `clientMessageId` what was
not acknowledged, drops its connection now and then, and writes down all that it sends and is told. It judges nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Final, get_args

import trio

from chatd.protocol import RoomChange, wire_name
from tests.torture.acts import act
from tests.torture.connection import BROKEN, Connection, open_connection
from tests.torture.diary import Diary, Line, What

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from tests.torture.drafts import Sent
    from tests.torture.web import Web

#: Unacknowledged messages past which a client waits.
MAX_PENDING: Final = 200
#: Seconds between two looks at what is to be sent again, at most.
TICK_S: Final = 0.5
#: Bytes that the kernel keeps for one in so many connections, as on a small device.
SMALL_BUFFER: Final = 4096
SMALL_ONE_IN: Final = 4
#: Messages of a room that a client remembers, to reply to, and its own ones, to change.
REMEMBERED: Final = 20
#: Rooms in which it does something, beside those that it has begun with.
MORE_ROOMS: Final = 4
#: What tells of a room's position beside messages.
CHANGES: Final = frozenset(wire_name(kind.__name__) for kind in get_args(RoomChange)) - {"new_message", "new_dm"}


@dataclass(frozen=True)
class Habits:
    """How a client behaves.

    It does `rate` things a second, nearly all of them messages; of those who leave a room a share of `stay_away` is in
    no hurry to come back. It drops a connection after `stray_s` on the average, and asks to resume in a share of
    `resume` of its arrivals, and for what it missed in a share of `replay` of its joins. Of an unanswered request it is
    tired after `patience_s`.
    """

    rate: float = 1.0
    stay_away: float = 0.0
    stray_s: float = inf
    resume: float = 0.0
    replay: float = 0.0
    patience_s: float = 20.0
    pause_s: tuple[float, float] = (0.01, 0.1)


class Stay:
    """One connection: where it is in every room that it hears, and what it has asked."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        #: The token that it has shown last.
        self.token = ""
        self.scope = trio.CancelScope()
        self.positions: dict[str, int] = {}
        #: Rooms whose missed events are being replayed.
        self.replaying: set[str] = set()
        self.is_authenticated = trio.Event()
        self.was_told_of_shutdown = False
        #: It has read slowly or not at all for a while: what waits for it may take longer than a stop.
        self.was_slow = False
        #: Its client has ended it by itself.
        self.was_cut = False
        self.answers: dict[str, dict[str, Any]] = {}
        self.answered = trio.Event()
        #: When each message that has no answer yet was sent.
        self.unanswered: dict[str, float] = {}
        #: Messages that were refused for a while.
        self.refused: list[str] = []

    @property
    def is_over(self) -> bool:
        return self.connection.close_code is not None

    def excuse(self) -> None:
        """What is unanswered is not overdue: the client itself was away."""
        self.unanswered = dict.fromkeys(self.unanswered, trio.current_time())

    def end(self) -> None:
        """Have it ended, without a word to the server."""
        if self.connection.close_code is None:
            self.was_cut = True
            self.connection.close_code = BROKEN
        self.scope.cancel()


@dataclass
class TortureClient:
    """One device of a user with one connection at a time, for as long as `run` runs."""

    name: str
    web: Web
    rooms: list[str]
    #: The port to try next.
    port: Callable[[], int]
    habits: Habits
    dice: random.Random
    #: Called when something has changed that somebody may wait for.
    stir: Callable[[], None]
    #: The time of the diary.
    seconds: Callable[[], float] = trio.current_time
    pending: dict[str, Sent] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    stays: list[Stay] = field(default_factory=list)
    is_sending: bool = True
    sent: int = 0
    resent: int = 0
    resumes: int = 0
    heard: int = 0
    epoch: str = ""
    asked: int = 0
    acts: Counter[str] = field(default_factory=Counter)
    #: What was told in another way than it was sent.
    faults: list[str] = field(default_factory=list)
    #: The newest messages of each room, and those of its own anywhere.
    heard_ids: dict[str, deque[str]] = field(default_factory=dict)
    own_ids: deque[str] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    #: Other users, and the rooms that it has made, each with who was in them.
    peers: Sequence[str] = ()
    made: dict[str, Sequence[str]] = field(default_factory=dict)
    direct: set[str] = field(default_factory=set)
    _calmed: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.diary = Diary(self.name, self.web.user.id)
        self.at_home = len(self.rooms)
        # Where it was in each room when it last heard of it, on any connection.
        self.known: dict[str, int] = {}
        # What it said, until it hears it itself.
        self.said: dict[str, Sent] = {}

    async def run(self) -> None:
        """Connect, and connect again whenever it is over."""
        while True:
            receive_buffer = SMALL_BUFFER if self.dice.randrange(SMALL_ONE_IN) == 0 else 0
            async with open_connection(self.port(), receive_buffer=receive_buffer) as connection:
                if connection is not None:
                    await self._stay(Stay(connection, len(self.stays)))
            self.stir()
            await trio.sleep(self.dice.uniform(*self.habits.pause_s))

    def calm(self) -> None:
        """Send nothing new and read all that comes."""
        self.is_sending = False
        self._calmed.set()

    async def rest(self, seconds: float) -> None:
        """Do nothing for a while, or until one is to be calm."""
        with trio.move_on_after(seconds):
            await self._calmed.wait()

    @property
    def live(self) -> Stay | None:
        """The connection that is up and authenticated, if there is one."""
        stay = self.stays[-1] if self.stays else None
        return stay if stay is not None and stay.is_authenticated.is_set() and not stay.is_over else None

    def note(self, stay: Stay, what: What, message: dict[str, Any]) -> None:
        self.diary.lines.append(Line(round(self.seconds(), 4), stay.number, what, message))

    async def _stay(self, stay: Stay) -> None:
        self.stays.append(stay)
        self.note(stay, "opens", {"port": stay.connection.port})
        async with trio.open_nursery() as nursery:
            stay.scope = nursery.cancel_scope
            nursery.start_soon(self._work, stay)
            if self.habits.stray_s < inf:
                nursery.start_soon(self._stray, stay)
            await self._listen(stay)
            nursery.cancel_scope.cancel()
        stay.end()
        self.known |= stay.positions
        self.note(stay, "ends", {"code": stay.connection.close_code})

    # -- what it does -----------------------------------------------------------------------------------------------

    async def _stray(self, stay: Stay) -> None:
        await trio.sleep(self.dice.expovariate(1 / self.habits.stray_s))
        await stay.connection.flowing.wait()
        if self.is_sending:
            if self.dice.random() < 0.5:
                await stay.connection.close()
            stay.end()

    async def _send(self, stay: Stay, **message: Any) -> None:
        self.note(stay, "sent", {name: value for name, value in message.items() if name != "token"})
        await stay.connection.send(**message)

    async def _work(self, stay: Stay) -> None:
        await self._authenticate(stay)
        for room_id in self.rooms:
            if room_id not in stay.positions and (not self.known or not self.habits.stay_away):
                await self.join(stay, room_id)
        for sent in list(self.pending.values()):
            self.resent += 1
            await self.post(stay, sent)
        next_s = trio.current_time()
        while True:
            next_s += self.dice.expovariate(self.habits.rate)
            while (now_s := trio.current_time()) < next_s:
                await trio.sleep(min(TICK_S, next_s - now_s))
                await self._send_again(stay)
            next_s = max(next_s, now_s - 1)
            if self.is_sending and len(self.pending) < MAX_PENDING:
                await act(self, stay)

    async def _authenticate(self, stay: Stay) -> None:
        resume = {}
        known = self.known
        if self.epoch and known and self.dice.random() < self.habits.resume:
            self.resumes += 1
            rooms = {room_id: seq for room_id, seq in known.items() if self.dice.random() < 0.9}
            resume = {"resume": {"epoch": self.epoch, "rooms": rooms}}
            stay.replaying = set(rooms)
            stay.positions = dict(rooms)
        stay.token = self.web.token
        await self._send(stay, type="authenticate", token=stay.token, **resume)
        with trio.move_on_after(self.habits.patience_s) as scope:
            await stay.is_authenticated.wait()
        if scope.cancelled_caught:
            await self.give_up(stay)

    async def show_token(self, stay: Stay) -> None:
        """Authenticate a live connection with the newest token, unless it is just catching up."""
        if not stay.replaying:
            stay.token = self.web.token
            await self.ask(stay, "authenticate", token=stay.token)

    def add_pending(self, sent: Sent) -> Sent:
        """Note a message as one that is to be acknowledged."""
        self.pending[sent.key] = self.said[sent.key] = sent
        return sent

    async def post(self, stay: Stay, sent: Sent) -> None:
        stay.unanswered[sent.key] = trio.current_time()
        await self._send(stay, id=sent.key, **sent.request)

    async def _send_again(self, stay: Stay) -> None:
        """Send what was refused for a while; come back where there is no answer for too long."""
        refused, stay.refused = stay.refused, []
        for key in refused:
            if (sent := self.pending.get(key)) is not None:
                self.resent += 1
                await self.post(stay, sent)
        oldest_s = next(iter(stay.unanswered.values()), inf)
        if trio.current_time() - oldest_s > self.habits.patience_s:
            await self.give_up(stay)

    async def give_up(self, stay: Stay) -> None:
        """Have the connection ended, and wait for that."""
        stay.end()
        await trio.sleep_forever()

    async def join(self, stay: Stay, room_id: str) -> None:
        await self.ask(stay, "join_room", roomId=room_id, limit=1)

    async def come_back(self, stay: Stay, room_id: str) -> None:
        """Join a room that it does not hear, now and then with all that was missed."""
        if room_id in self.known and self.dice.random() < self.habits.replay:
            stay.replaying.add(room_id)
            await self.ask(stay, "join_room", roomId=room_id, afterSeq=self.known[room_id])
        else:
            await self.join(stay, room_id)

    async def ask(self, stay: Stay, kind: str, **fields: Any) -> None:
        """Send a request and wait for its answer, again after a while if it was refused for a while."""
        while True:
            self.asked += 1
            request_id = f"{kind} {self.asked}"
            await self._send(stay, type=kind, id=request_id, **fields)
            with trio.move_on_after(self.habits.patience_s) as scope:
                while request_id not in stay.answers:
                    await stay.answered.wait()
            if scope.cancelled_caught:
                await self.give_up(stay)
            answer = stay.answers.pop(request_id)
            if answer["type"] != "error":
                return
            if not answer["temporary"]:
                stay.replaying.discard(fields.get("roomId", ""))
                return
            await trio.sleep(self.dice.uniform(0.1, 0.5))

    async def ask_for_nothing(self, stay: Stay, kind: str, **fields: Any) -> None:
        """Send a request whose answer nobody waits for; a connection that takes no more ends."""
        with trio.move_on_after(self.habits.patience_s) as scope:
            await self._send(stay, type=kind, **fields)
        if scope.cancelled_caught:
            await self.give_up(stay)

    # -- what it hears ----------------------------------------------------------------------------------------------

    async def _listen(self, stay: Stay) -> None:
        while messages := await stay.connection.receive():
            for message in messages:
                if message["type"] == "auth_error" and stay.token in self.web.doubtful:
                    # It has ended this sign-in itself; the next connection has another one.
                    continue
                self.note(stay, "heard", message)
                self.hear(stay, message)

    def hear(self, stay: Stay, message: dict[str, Any]) -> None:
        """Follow what a message of this connection says."""
        match message["type"]:
            case "new_message" | "new_dm":
                self._hear_event(stay, message["message"], kind=message["type"])
                self._remember(message["message"])
            case kind if kind in CHANGES:
                self._hear_event(stay, message, kind=kind)
            case "message_ack":
                self.own_ids.append(message["messageId"])
                key = message["clientMessageId"]
                stay.unanswered.pop(key, None)
                self.pending.pop(key, None)
                self.acknowledged.add(key)
                self.stir()
            case "room_history" if message.get("id", "").startswith("join_room"):
                stay.positions.setdefault(message["roomId"], message["seq"])
            case "caught_up" | "resync":
                self._hear_end_of_replay(stay, message)
            case "authenticated":
                self.epoch = message["epoch"]
                stay.positions = {room["roomId"]: room["lastSeq"] for room in message["rooms"]} | stay.positions
                stay.is_authenticated.set()
                self.stir()
            case "server_shutdown":
                stay.was_told_of_shutdown = True
            case "error":
                self._hear_error(stay, message)
        if (request_id := message.get("id")) is not None and message["type"] != "message_ack":
            stay.answers[request_id] = message
            stay.answered.set()
            stay.answered = trio.Event()

    def _hear_event(self, stay: Stay, event: dict[str, Any], *, kind: str) -> None:
        self.heard += 1
        room_id = event["roomId"]
        stay.positions[room_id] = event["seq"]
        if kind == "new_dm":
            self.direct.add(room_id)
        elif room_id not in self.rooms and len(self.rooms) < self.at_home + MORE_ROOMS:
            self.rooms.append(room_id)
        is_own_leaving = kind == "user_left" and event["userId"] == self.web.user.id
        if is_own_leaving and room_id not in stay.replaying:
            self._forget(stay, room_id)

    def _remember(self, message: dict[str, Any]) -> None:
        self.heard_ids.setdefault(message["roomId"], deque(maxlen=REMEMBERED)).append(message["id"])
        sent = self.said.pop(message.get("clientMessageId", ""), None) if self._is_own(message) else None
        if sent is not None and sent.differs_from(message):
            self.faults.append(f"{sent} was sent and told as {message}")

    def _is_own(self, message: dict[str, Any]) -> bool:
        return bool(message["senderId"] == self.web.user.id)

    def _hear_end_of_replay(self, stay: Stay, message: dict[str, Any]) -> None:
        room_id = message["roomId"]
        stay.replaying.discard(room_id)
        if message["type"] == "resync" and message["reason"] == "not_a_member":
            self._forget(stay, room_id)
        elif message["type"] == "resync":
            stay.positions[room_id] = message["seq"]

    def _hear_error(self, stay: Stay, error: dict[str, Any]) -> None:
        if not stay.is_authenticated.is_set():
            stay.end()
        sent = self.pending.get(error.get("id", ""))
        if sent is None:
            return
        stay.unanswered.pop(sent.key, None)
        if error["temporary"]:
            stay.refused.append(sent.key)
        else:
            # Another device of the user has left the room meanwhile, or somebody else had a say.
            del self.pending[sent.key]
            if error["code"] == "not_a_member":
                stay.positions.pop(sent.room_id, None)
            self.stir()

    def _forget(self, stay: Stay, room_id: str) -> None:
        if room_id in stay.positions:
            self.known[room_id] = stay.positions.pop(room_id)
