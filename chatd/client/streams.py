"""What a client's user listens to: bounded streams, one for each that was opened, filled by the client's reader.

Room events wait for their taker: while a stream of them is full the client takes nothing more from the server. Notices
(presence, typing, the state of the connection) are dropped instead, the oldest first.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeAlias, TypeVar

import trio

from chatd.protocol import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chatd.client.errors import ClientError


class Connected(NamedTuple):
    """A connection is up, and what was missed is on its way; `is_first` on the first one."""

    is_first: bool


class Lost(NamedTuple):
    """A connection is gone, or could not be made: why, and the seconds until the next try."""

    reason: str
    retry_in_s: float


#: What the server says once and keeps nowhere, and how the connection is.
Notice: TypeAlias = Signal | Connected | Lost

T = TypeVar("T")


class Stream(Generic[T]):
    """An async iterator over what comes after it was opened; close it, or use it as a context manager.

    It ends with the client: normally when the client's block is left, with a ClientError when the server has ended
    the connection for good; what came before is handed out first. Cancelling a wait loses nothing. Tasks that share a
    stream share its items, each goes to one of them.
    """

    def __init__(self, bound: int, *, room_id: str | None, on_taken: Callable[[Stream[T]], None]) -> None:
        assert bound > 0
        self._items: deque[T] = deque()
        self._bound = bound
        self._room_id = room_id
        self._on_taken = on_taken
        self._changed = trio.Event()
        self._is_over = False
        self._failure: ClientError | None = None
        #: Items that were dropped because nobody took them; never room events.
        self.dropped = 0
        #: The item taken last.
        self.taken: T | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next item. Raises a ClientError when the client is over for good."""
        await trio.lowlevel.checkpoint()
        while not self._items:
            if self._failure is not None:
                raise copy.copy(self._failure)
            if self._is_over:
                raise StopAsyncIteration
            await self._changed.wait()
        item = self.taken = self._items.popleft()
        self._on_taken(self)
        return item

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Want nothing more; what was not taken is forgotten. Harmless twice."""
        self._items.clear()
        self.end(None)
        self._on_taken(self)

    # -- the client's side --------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Nothing comes any more."""
        return self._is_over

    def wants(self, room_id: str) -> bool:
        """Whether the events of a room are for this stream."""
        return not self._is_over and self._room_id in (None, room_id)

    @property
    def is_full(self) -> bool:
        return len(self._items) >= self._bound

    @property
    def is_half_full(self) -> bool:
        return len(self._items) > self._bound // 2

    @property
    def waiting(self) -> Iterator[T]:
        """What was not taken yet, in order."""
        return iter(self._items)

    def put(self, item: T) -> None:
        """Hand on an item; who calls sees to it that there is space, or that a few more do no harm."""
        self._items.append(item)
        self._stir()

    def put_or_drop(self, item: T) -> None:
        """Hand on an item, in the place of the oldest if there is no space."""
        if self.is_full:
            self._items.popleft()
            self.dropped += 1
        self.put(item)

    def end(self, failure: ClientError | None) -> None:
        """Nothing more will come; the first reason counts."""
        if not self._is_over:
            self._is_over, self._failure = True, failure
            self._stir()

    def _stir(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
