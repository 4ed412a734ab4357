"""One WebSocket connection as the rules see it: whose it is, which rooms it is in, and where its answers go.

`nursery` makes it and owns the socket; a rule never sees more of the connection than this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.protocol import ServerMessage, encode
from chatd.wire.frames import text_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from chatd.errors import ErrorCode
    from chatd.wire.outbox import Outbox


@dataclass(frozen=True, slots=True)
class Line:
    """What a connection offers to its session.

    `end(code, reason)` ends it, once and for all; `refused(code)` counts a refusal towards the penalty;
    `authenticated()` stops the clock of the first message; `wait_for_space()` waits until half of the outbox is free;
    `settled()` is called when an answer that was promised has been given.
    """

    outbox: Outbox
    end: Callable[[int, str], None]
    refused: Callable[[ErrorCode], None]
    authenticated: Callable[[], None]
    wait_for_space: Callable[[], Awaitable[None]]
    settled: Callable[[], None]


class Membership(NamedTuple):
    """The user's role in a room as of a seq of it: what changed up to there is in it, later changes are to be heard.

    Notices of several nodes and a room's events come in any order; by their seqs the newest of them counts.
    """

    role: str
    seq: int


#: What most sessions have to resume.
NO_ROOMS: Final[frozenset[str]] = frozenset()


class CatchUp:
    """Missed events of a room on their way to a session: the seq up to which they have been sent.

    A replay has been asked for; the others follow a joining.
    """

    __slots__ = ("is_replay", "position")

    def __init__(self, position: int, *, is_replay: bool) -> None:
        self.position = position
        self.is_replay = is_replay


def _nothing(*_: object) -> None:
    pass


async def _no_space() -> None:
    pass


class Session:
    """A connection's user, rooms and budget. Before it has authenticated `user_id` is empty."""

    __slots__ = (
        "address", "agent", "catching_up", "changes", "connection_id", "expires_at_ms", "following", "has_arrived",
        "heard", "is_settling", "joining", "leaving", "line", "outbox", "pending", "put", "requests_full_at",
        "resuming", "rooms", "session_ids", "user_id", "username",
    )  # fmt: skip

    def __init__(self, connection_id: str, address: str, line: Line) -> None:
        self.connection_id = connection_id
        self.address = address
        #: What the client says it is.
        self.agent = ""
        self.line = line
        self.outbox = line.outbox
        self.put = line.outbox.put
        self.user_id = ""
        self.username = ""
        #: The sign-in that the token belongs to; two of them while one token is exchanged for another.
        self.session_ids: frozenset[str] = frozenset()
        self.expires_at_ms = 0
        #: The rooms that the user is a member of.
        self.rooms: dict[str, Membership] = {}
        #: Rooms whose missed events are being sent, each by the last call that began to.
        self.catching_up: dict[str, CatchUp] = {}
        #: Rooms that a resume has named and is still to come to.
        self.resuming: frozenset[str] | set[str] = NO_ROOMS
        #: Rooms that this connection is about to join by itself, with the newest leaving heard of meanwhile (or 0).
        self.joining: dict[str, int] = {}
        #: Rooms of which the store is asked whether the user is a member, with the seq to go on behind.
        self.following: dict[str, int] = {}
        #: Rooms that the user has left, of which the session still hears what came before that.
        self.leaving: set[str] = set()
        #: The seq up to which the session had heard each room when it stopped to: it is not to hear anything twice.
        self.heard: dict[str, int] = {}
        #: Counts what changed in the user's memberships, so that a stale read of them is found out.
        self.changes = 0
        #: The store is being asked for all rooms of its user.
        self.is_settling = False
        #: Messages that wait for their commit.
        self.pending = 0
        #: Its client has been told `authenticated`: from then on events may follow.
        self.has_arrived = False
        self.requests_full_at = 0.0

    def role_in(self, room_id: str) -> str | None:
        """The user's role in a room, `None` for no member."""
        known = self.rooms.get(room_id)
        return None if known is None else known.role

    def is_concerned_with(self, room_id: str) -> bool:
        """Whether it is in a room, on its way into it or out of it, or may be about to find itself in it."""
        return self.is_settling or any(
            room_id in places for places in (self.rooms, self.leaving, self.joining, self.following, self.catching_up)
        )

    def is_to_replay(self, room_id: str) -> bool:
        """Whether a replay that was asked for is to send what comes next of a room, so that nothing else may."""
        catching_up = self.catching_up.get(room_id)
        return room_id in self.resuming or (catching_up is not None and catching_up.is_replay)

    def enter(self, room_id: str, role: str, seq: int) -> None:
        """Note a membership as of a seq; what is known from later on stays."""
        known = self.rooms.get(room_id)
        self.rooms[room_id] = Membership(role, seq) if known is None else Membership(role, max(seq, known.seq))
        self.leaving.discard(room_id)
        self.changes += 1

    def hang_up(self) -> None:
        """Let go of a connection that has ended: whoever still holds the session (a commit, say) does nothing."""
        self.line = Line(self.outbox, _nothing, _nothing, _nothing, _no_space, _nothing)

    def send(self, message: ServerMessage) -> None:
        self.put(text_frame(encode(message)))
