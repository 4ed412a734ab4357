"""What a client knows: what it asked and was not answered, and where it is in every room. No sockets, no tasks.

Pure: `client` and `live` tell it what a connection said and when, and ask it what to send; it never waits or reads a
clock. The rules of resuming are here and nowhere else. An event is taken if it is the next one of its room; what
came before is a repeat and dropped, what comes too early leaves the room behind, and a room that is behind is asked
for again from its position (`authenticate.resume`) as soon as its user has space for what was missed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count, islice
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from chatd.client.errors import Refused
from chatd.client.requests import Request, Requests, Settle
from chatd.protocol import (
    Authenticate,
    Authenticated,
    AuthError,
    CaughtUp,
    ClientMessage,
    Error,
    JoinRoom,
    LeaveRoom,
    MessageAck,
    NewDm,
    NewMessage,
    Ok,
    Pong,
    Resume,
    Resync,
    RoomChange,
    RoomHistory,
    RoomUpdated,
    ServerMessage,
    ServerReply,
    ServerShutdown,
    Signal,
    Unknown,
    UserLeft,
    encode,
    with_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from chatd.records import RoomEntry

#: A position that no room reaches: the server answers it with `resync`, as it does a stale epoch.
NOWHERE: Final = 2**53
#: Rooms in one `authenticate.resume`, which has to fit into one message of 64 KiB; further ones follow in others.
ROOMS_AT_ONCE: Final = 500
#: Seconds between two times that the same rooms are asked for again.
CATCH_UP_EVERY_S: Final = 1.0

#: What a stream of events holds, in the order of each room.
RoomEvent: TypeAlias = RoomChange | Resync | Unknown


def kind_of(event: RoomEvent) -> str:
    """The event's `type` on the wire."""
    return event.type if isinstance(event, Unknown) else str(event.__struct_config__.tag)


def place_of(event: RoomEvent) -> tuple[str, int]:
    """The room of an event, and its seq there."""
    if isinstance(event, NewMessage | NewDm):
        return event.message.room_id, event.message.seq
    if isinstance(event, Unknown):
        return event.fields["roomId"], event.fields["seq"]
    return event.room_id, event.seq


class Checkpoint(NamedTuple):
    """Where a client is: the epoch of the server's database, and the seq of the last event of each room that it has.

    Keep it, and give it to `open_client(resume=…)` to go on from there, in another process or another year.
    """

    epoch: str
    rooms: Mapping[str, int]


@dataclass(slots=True)
class Line:
    """What holds for one connection only."""

    hello_id: str
    is_authenticated: bool = False
    is_leaving: bool = False
    #: Seconds until the next connection, where the server said so.
    reconnect_after_s: float | None = None
    #: The server cannot let this connection in now; another may.
    must_reconnect: bool = False
    auth_error: AuthError | None = None


def _nothing(_outcome: object) -> None:
    pass


@dataclass
class Core:
    """A client's state through all of its connections."""

    epoch: str = ""
    #: The seq of the last event that was taken of each room that is heard.
    positions: dict[str, int] = field(default_factory=dict)
    #: Rooms of which events went by without being taken.
    behind: set[str] = field(default_factory=set)
    #: Rooms that were asked for again and are not caught up yet.
    resuming: set[str] = field(default_factory=set)
    requests: Requests = field(default_factory=Requests)
    #: The last `authenticated`.
    told: Authenticated | None = None
    entries: dict[str, RoomEntry] = field(default_factory=dict)
    _line: Line | None = None
    _ids: count[int] = field(default_factory=lambda: count(1))
    _token: str = ""
    #: Requests of the client's own, not of its user.
    _own: set[str] = field(default_factory=set)
    _catch_up_at: float = float("-inf")

    @property
    def line(self) -> Line:
        assert self._line is not None, "there is a connection"
        return self._line

    @property
    def is_live(self) -> bool:
        """A connection is up and authenticated."""
        return self._line is not None and self._line.is_authenticated

    @property
    def is_asked(self) -> bool:
        """The user waits for an answer."""
        return len(self.requests) > len(self._own)

    # -- connections --------------------------------------------------------------------------------------------------

    def begin(self, token: str) -> str:
        """The first message of a new connection: who it is, and where it goes on."""
        self.lose()
        self._token = token
        self._line = Line(hello_id=self._new_id())
        resume = self._resume(self.positions) if self.positions else None
        return encode(Authenticate(id=self._line.hello_id, token=token, resume=resume)).decode()

    def _resume(self, room_ids: Iterable[str]) -> Resume:
        wanted = list(islice(room_ids, ROOMS_AT_ONCE))
        self.resuming.update(wanted)
        self.behind.difference_update(wanted)
        return Resume(epoch=self.epoch, rooms={room_id: self.positions[room_id] for room_id in wanted})

    def lose(self) -> None:
        """The connection is over: what was not answered is sent again on the next."""
        self._line = None
        for request_id in self._own:
            if (request := self.requests.get(request_id)) is not None:
                self.requests.drop(request)
        self._own.clear()
        self.requests.lose()
        self.resuming.clear()
        self._catch_up_at = float("-inf")

    def renew(self, token: str) -> None:
        """Extend the live connection with a fresh token, if there is one."""
        self._token = token
        if self.is_live:
            self._ask_self(Authenticate(token=token))

    def _ask_self(self, message: ClientMessage) -> None:
        self._own.add(self._add(message, _nothing).id)

    # -- requests -----------------------------------------------------------------------------------------------------

    def ask(self, message: ClientMessage, settle: Settle) -> Request:
        """Send a message of the user until it is answered; `settle` hears the reply, or what it was refused with."""
        return self._add(message, settle)

    def _add(self, message: ClientMessage, settle: Settle) -> Request:
        key = getattr(message, "client_message_id", None)
        request_id = key if key is not None and key not in self.requests else self._new_id()
        return self.requests.add(request_id, with_id(message, request_id), settle)

    def _new_id(self) -> str:
        """An id that no request under way has; those of messages are their user's choice."""
        return next(found for number in self._ids if (found := f"q{number}") not in self.requests)

    def take(self, now: float, *, may_catch_up: bool) -> list[str]:
        """What to send now. With `may_catch_up` what was missed is asked for, since there is space for it."""
        if self._line is None or not self._line.is_authenticated or self._line.is_leaving:
            return []
        if may_catch_up and now >= self._catch_up_at:
            self._catch_up(now)
        assert self.told is not None
        texts = []
        for request in self.requests.take(now):
            text = encode(request.message)
            if self.told.limits.message_bytes and len(text) > self.told.limits.message_bytes:
                detail = f"This message has {len(text)} bytes; at most {self.told.limits.message_bytes} are taken."
                self.requests.settle(request, Refused("content_too_long", detail))
                continue
            texts.append(text.decode())
        return texts

    def _catch_up(self, now: float) -> None:
        if behind := self.behind - self.resuming:
            self._catch_up_at = now + CATCH_UP_EVERY_S
            self._ask_self(Authenticate(token=self._token, resume=self._resume(behind)))

    def due_at(self, now: float, *, may_catch_up: bool) -> float:
        """When `take` has something that waits for nothing but the time; infinity if nothing does."""
        if not self.is_live or self.line.is_leaving:
            return float("inf")
        due = self.requests.due_at(now)
        if may_catch_up and self.behind - self.resuming:
            due = min(due, max(now, self._catch_up_at))
        return due

    # -- what the server says -----------------------------------------------------------------------------------------

    def hear(
        self, message: ServerMessage | Unknown, now: float, *, has_space: Callable[[str], bool]
    ) -> RoomEvent | Signal | None:
        """Take a message in; what of it is for the user, if anything.

        An event of a room for which `has_space` is False is passed over and asked for again later.
        """
        match message:
            case Authenticated():
                self._hear_authenticated(message)
            case AuthError():
                self.line.auth_error = message
            case Error():
                self._hear_error(message, now)
            case Resync():
                return self._hear_resync(message)
            case CaughtUp():
                self._hear_caught_up(message)
            case MessageAck() | Ok() | Pong():
                self._settle(message)
            case RoomHistory():
                self._hear_history(message)
            case ServerShutdown():
                self.line.is_leaving = True
                self.line.reconnect_after_s = message.reconnect_after_ms / 1000
                return message
            case Unknown():
                return self._hear_unknown(message, has_space)
            case _ if isinstance(message, RoomChange):
                return self._hear_change(message, has_space)
            case _:
                return message
        return None

    def _hear_authenticated(self, message: Authenticated) -> None:
        is_hello = message.id == self.line.hello_id
        if is_hello:
            self.line.is_authenticated = True
        if self.epoch and message.epoch != self.epoch:
            # What was in the hello is answered with `resync`; what was not must not be taken for positions of now.
            self.positions = dict.fromkeys(self.positions, NOWHERE)
        self.epoch, self.told = message.epoch, message
        self.entries = {entry.room_id: entry for entry in message.rooms}
        for entry in message.rooms:
            if entry.room_id not in self.positions:
                self.positions[entry.room_id] = entry.last_seq
            elif is_hello and entry.room_id not in self.resuming:
                self.behind.add(entry.room_id)
        self._settle(message)

    def _settle(self, message: ServerReply) -> None:
        request = self.requests.get(message.id)
        if request is not None:
            self._own.discard(request.id)
            self.requests.settle(request, message)

    def _hear_error(self, error: Error, now: float) -> None:
        wait_s = None if error.retry_after_ms is None else error.retry_after_ms / 1000
        if error.id == self.line.hello_id:
            self.line.must_reconnect, self.line.reconnect_after_s = True, wait_s
            return
        request = self.requests.get(error.id)
        if request is None:
            return
        if error.temporary:
            per_minute = self.told.limits.messages_per_minute if self.told is not None else 0
            pace_s = 60 / per_minute if error.code == "rate_limited" and per_minute else 0.0
            self.requests.put_off(request, now, wait_s=wait_s, pace_s=pace_s)
        elif isinstance(request.message, LeaveRoom) and request.sends > 1 and error.code == "not_a_member":
            # The first time it was done, and its answer got lost.
            self.requests.settle(request, Ok(id=request.id))
        else:
            self._own.discard(request.id)
            self.requests.settle(request, Refused(error.code, error.message))

    def _hear_history(self, history: RoomHistory) -> None:
        request = self.requests.get(history.id)
        if request is not None and isinstance(request.message, JoinRoom):
            position = self.positions.setdefault(history.room_id, history.seq)
            if position < history.seq:
                # It was heard before, and something has gone by: the membership had ended meanwhile, say.
                self.behind.add(history.room_id)
        self._settle(history)

    def _hear_caught_up(self, message: CaughtUp) -> None:
        self.resuming.discard(message.room_id)
        # Missing is a room whose replay told of one's leaving, and which was joined again since.
        if self.positions.setdefault(message.room_id, message.seq) < message.seq:
            self.behind.add(message.room_id)
        else:
            self.behind.discard(message.room_id)
        self._settle(message)

    def _hear_resync(self, message: Resync) -> RoomEvent | None:
        was_known = message.room_id in self.positions
        self._forget(message.room_id)
        if message.reason != "not_a_member":
            self.positions[message.room_id] = message.seq
        self._settle(message)
        return message if was_known else None

    def _forget(self, room_id: str) -> None:
        self.positions.pop(room_id, None)
        self.behind.discard(room_id)
        self.resuming.discard(room_id)

    def _hear_change(self, event: RoomChange, has_space: Callable[[str], bool]) -> RoomEvent | None:
        room_id, seq = place_of(event)
        if not self._is_next(room_id, seq, has_space=has_space):
            return None
        is_leaving = isinstance(event, UserLeft) and self.told is not None and event.user_id == self.told.user_id
        if is_leaving or (isinstance(event, RoomUpdated) and event.deleted_at is not None):
            # The last that is heard of this room, unless it is joined again.
            self._forget(room_id)
        return event

    def _hear_unknown(self, message: Unknown, has_space: Callable[[str], bool]) -> RoomEvent | None:
        """A message of a newer server; one that has the next seq of its room is an event."""
        room_id, seq = message.fields.get("roomId"), message.fields.get("seq")
        if not isinstance(room_id, str) or type(seq) is not int or room_id not in self.positions:
            return None
        is_event = seq == self.positions[room_id] + 1 and self._is_next(room_id, seq, has_space=has_space)
        return message if is_event else None

    def _is_next(self, room_id: str, seq: int, *, has_space: Callable[[str], bool]) -> bool:
        """Whether this event is the next of its room and there is space for it; then it counts as taken."""
        # A room that another device has joined, or a new direct room, is heard from its first event on.
        position = self.positions.setdefault(room_id, seq - 1)
        if seq <= position:
            return False
        if seq > position + 1 or not has_space(room_id):
            self.behind.add(room_id)
            return False
        self.positions[room_id] = seq
        return True

    # -- what the user may know ---------------------------------------------------------------------------------------

    def checkpoint(self, waiting: Iterable[RoomEvent]) -> Checkpoint:
        """Where the user is, who has not taken these events yet."""
        rooms = dict(self.positions)
        stale = set()
        for event in waiting:
            room_id, seq = place_of(event)
            rooms[room_id] = min(seq - 1, rooms.get(room_id, seq - 1))
            if isinstance(event, Resync):
                stale.add(room_id)
        # who has not been told that a room cannot be replayed is told again
        return Checkpoint(self.epoch, rooms | dict.fromkeys(stale, NOWHERE))
