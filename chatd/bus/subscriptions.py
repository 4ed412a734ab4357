"""Which channels this node wants to hear, which Redis was told of, and which it has confirmed.

Wishes change at once and in the order of the calls; telling Redis comes later, together. All of it is sync and knows no
connection: `redis` sends what `take_changes` gives and reports each confirmation. Redis confirms in the order in which
it was told (Redis, Pub/Sub), so counting is enough.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from chatd.bus.link import Arguments


class _Batch:
    """Changes that go out together: `confirmed` is set when Redis has taken the last one."""

    __slots__ = ("confirmed", "missing", "rooms")

    def __init__(self) -> None:
        self.confirmed = trio.Event()
        self.missing = 0
        self.rooms: list[str] = []


class Subscriptions:
    """`always` is heard whatever is wished. `on_change` is called when there is something to tell Redis."""

    def __init__(self, prefix: str, *, always: bytes, on_change: Callable[[], None]) -> None:
        self._prefix = prefix
        self._always = always
        self._on_change = on_change
        self._rooms: dict[bytes, str] = {}
        # What Redis was told on this connection, and those channels whose wish may differ from it.
        self._told: set[bytes] = set()
        self._changes: dict[bytes, None] = {}
        self._next = _Batch()
        self._under_way: deque[_Batch] = deque()
        # For each room that is wished for and not confirmed: what it waits for.
        self._unconfirmed: dict[str, _Batch] = {}

    def channel_of(self, room_id: str) -> bytes:
        return f"{self._prefix}{room_id}".encode()

    def room_of(self, channel: bytes) -> str | None:
        """The room of a channel that is wished for now."""
        return self._rooms.get(channel)

    @property
    def is_settled(self) -> bool:
        """Redis has confirmed all that is wished for."""
        return not self._changes and not self._under_way

    @property
    def is_under_way(self) -> bool:
        """Redis was told something that it has not confirmed."""
        return bool(self._under_way)

    @property
    def has_changes(self) -> bool:
        return bool(self._changes)

    def want(self, room_ids: Iterable[str]) -> set[trio.Event]:
        """Wish to hear these rooms; the events after which Redis has confirmed all of them, or the link is lost."""
        waits = set()
        is_changed = False
        for room_id in room_ids:
            channel = self.channel_of(room_id)
            if channel not in self._rooms:
                self._rooms[channel] = room_id
                self._changes[channel] = None
                self._unconfirmed[room_id] = self._next
                self._next.rooms.append(room_id)
                is_changed = True
            if (batch := self._unconfirmed.get(room_id)) is not None:
                waits.add(batch.confirmed)
        if is_changed:
            self._on_change()
        return waits

    def unwant(self, room_ids: Iterable[str]) -> None:
        """Hear no more of these rooms, from now on."""
        for room_id in room_ids:
            channel = self.channel_of(room_id)
            if self._rooms.pop(channel, None) is not None:
                self._changes[channel] = None
                self._unconfirmed.pop(room_id, None)
        if self._changes:
            self._on_change()

    def begin(self) -> None:
        """A new connection, on which Redis was told nothing: everything is to be told."""
        self._changes = dict.fromkeys([self._always, *self._rooms])

    def end(self) -> None:
        """The connection is lost: nobody waits for it any longer."""
        for batch in (*self._under_way, self._next):
            batch.confirmed.set()
        self._told.clear()
        self._changes.clear()
        self._under_way.clear()
        self._unconfirmed.clear()
        self._next = _Batch()

    def take_changes(self, max_channels: int) -> list[Arguments]:
        """Commands for at most so many changes, the oldest first; none if the changes undid each other."""
        news: list[bytes] = []
        olds: list[bytes] = []
        for channel in list(self._changes)[:max_channels]:
            del self._changes[channel]
            is_wanted = channel in self._rooms or channel == self._always
            if is_wanted != (channel in self._told):
                (news if is_wanted else olds).append(channel)
        self._told.update(news)
        self._told.difference_update(olds)
        batch = _Batch()
        if not self._changes:
            # The last part: whoever waits for any of them waits for this one.
            batch, self._next = self._next, batch
        batch.missing = len(news) + len(olds)
        self._under_way.append(batch)
        self._finish()
        commands: list[Arguments] = []
        if news:
            commands.append(("SUBSCRIBE", *news))
        if olds:
            commands.append(("UNSUBSCRIBE", *olds))
        return commands

    def confirm(self) -> None:
        """Redis has confirmed one more channel."""
        if self._under_way:
            self._under_way[0].missing -= 1
            self._finish()

    def _finish(self) -> None:
        while self._under_way and self._under_way[0].missing <= 0:
            batch = self._under_way.popleft()
            for room_id in batch.rooms:
                if self._unconfirmed.get(room_id) is batch:
                    del self._unconfirmed[room_id]
            batch.confirmed.set()
