"""The bus as everybody above it sees it: events of rooms, ephemeral signals, notices to every node, who is there.

An implementation carries what is published on any node to every node that subscribed, in the order of each room, and
may lose some of it: the hub repairs from the store. `LocalBus` is the simple one, for a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from chatd.limits.rates import Rate


class Event(NamedTuple):
    """A durable event of a room, encoded once for the whole cluster.

    `body` is the finished JSON text. `subject` is the user whom it is about: its sender,
    or the member who came or went.
    """

    room_id: str
    seq: int
    kind: str
    body: bytes
    subject: str | None = None


class Notice(NamedTuple):
    """Something that every node has to act on: whoever is concerned has live connections anywhere.

    `member_joined` and `member_left` carry a room and its seq, the first the role too where it is known;
    `member_updated` carries them with the new role, `room_deleted` without a user;
    `session_revoked` carries a session, or none for all sessions of the user, `profile_changed` a new username.
    """

    kind: Literal[
        "member_joined", "member_left", "member_updated", "room_deleted", "session_revoked", "account_disabled",
        "profile_changed",
    ]  # fmt: skip
    user_id: str
    room_id: str | None = None
    seq: int = 0
    session_id: str | None = None
    username: str | None = None
    role: str | None = None


class Broadcast(NamedTuple):
    """An ephemeral event for everybody in any of these rooms, each once, but the user `about` (empty: for all).

    It is also for every device of the users `to`.
    """

    room_ids: Sequence[str]
    body: bytes
    about: str = ""
    to: Sequence[str] = ()


class Ears(Protocol):
    """What a bus calls on its node, on the Trio thread; nothing in here waits."""

    def hear_events(self, events: Sequence[Event]) -> None: ...
    def hear_signal(self, room_id: str, body: bytes, about: str, kind: str = "") -> None: ...
    def hear_broadcasts(self, broadcasts: Sequence[Broadcast]) -> None: ...
    def hear_notice(self, notice: Notice) -> None: ...
    def hear_online(self, user_ids: Sequence[str]) -> None:
        """Nobody saw these users online before; it falls to this node, of all nodes, to tell others."""

    def hear_loss(self) -> None:
        """Events may have been lost: the positions of rooms have to be compared with the store soon."""

    def hear_return(self) -> None:
        """Events and notices may have been missed, and every subscription stands: the bus was away and is back, or has
        found that a notice got lost.
        """


class Bus(Protocol):
    """Who hears what, across nodes.

    While a bus is out (a server behind it is gone) nothing here fails and nothing waits long: what is published is
    lost, rates and devices are this node's own, subscriptions are kept for later, and the ears are told what to mend.
    """

    @property
    def is_out(self) -> bool:
        """Nothing is carried at the moment: positions are worth comparing more often."""

    def attach(self, ears: Ears) -> None:
        """Deliver what is heard to `ears`; called once, before anything is subscribed."""

    def publish(self, events: Sequence[Event]) -> None:
        """Send committed events to every subscribed node, this one included. Never waits, may lose."""

    def signal(self, room_id: str, body: bytes, *, about: str, kind: str = "") -> None:
        """Send an ephemeral event to every subscribed node, for everybody in the room but the user `about`.

        Nodes that act on it themselves know it by its `kind`, a word.
        """

    def broadcast(self, broadcasts: Sequence[Broadcast]) -> None:
        """Send ephemeral events to every node; while the bus is out, to this one."""

    def announce(self, notice: Notice) -> None:
        """Send a notice to every node, this one included; kept for later while the bus is out, so it may come twice."""

    async def subscribe(self, room_ids: Iterable[str]) -> None:
        """Hear these rooms; what is published after the return is heard, or `hear_return` is called later.

        Subscribing and unsubscribing take effect in the order of the calls, whether they are waited for or not.
        """

    async def unsubscribe(self, room_ids: Iterable[str]) -> None: ...

    async def take(self, key: str, rate: Rate, *, count: int = 1) -> int:
        """Take `count` from the budget of `key`, shared by all nodes.

        0 if it was granted, else the milliseconds after which it would be; a refusal takes nothing.
        """

    def arrived(self, user_id: str) -> None:
        """A connection of the user lives on this node now."""

    def appeared(self, user_id: str) -> None:
        """Such a connection has shown that it is the user's, who is seen online from now on."""

    def departed(self, user_id: str, *, grace_s: float = 0.0) -> None:
        """A connection is gone; if it was the user's last anywhere, they are seen offline `grace_s` later."""

    async def devices(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """How many connections each of these users has on all nodes; users without one are left out."""

    async def online(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """Those of these users who are seen online, with their connections: none while their grace lasts."""

    async def claim_offline(self) -> Sequence[str]:
        """Users whom nobody sees online any more, since the last call of any node: it falls to the caller to tell.

        Also those of nodes that died. Nobody while the bus is out: only all nodes together can know.
        """


#: Makes the time in seconds for rates; Trio's clock in the daemon.
Seconds = Callable[[], float]
