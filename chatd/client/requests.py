"""Requests on their way: each is sent again, in order, until it is answered or refused for good.

Pure: it is told the time and what happened, and says what may leave. Messages are kept in order among themselves and
are slowed down together when the server says so; other requests wait each for itself. Used by `core`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from chatd.client.errors import ClientError
from chatd.protocol import ClientMessage, SendDm, SendMessage, ServerReply

#: What became of a request; a ClientError is raised to who asked.
Outcome: TypeAlias = ServerReply | ClientError
Settle: TypeAlias = Callable[[Outcome], None]

#: Messages that may be unanswered at once. A server that refuses them all must not close for too many refusals.
MAX_IN_FLIGHT: Final = 8
#: Messages that follow a `rate_limited` are spread over the minute, a little slower than the limit, for so long.
PACED_S: Final = 60.0
PACE: Final = 1.1
#: Where the server does not say how long to wait: at first, and at most.
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 20.0


@dataclass(slots=True, eq=False)
class Request:
    """One request; `settle` is called once, unless it is dropped before."""

    id: str
    number: int
    message: ClientMessage
    settle: Settle
    is_message: bool
    is_waiting: bool = True
    due_at: float = 0.0
    sends: int = 0
    refusals: int = 0

    def __lt__(self, other: Request) -> bool:
        return self.number < other.number


class Requests:
    """All requests that are not settled yet."""

    def __init__(self) -> None:
        self._all: dict[str, Request] = {}
        self._messages: list[Request] = []
        self._numbers = 0
        self._in_flight = 0
        self._messages_at = 0.0
        self._pace_s = 0.0
        self._paced_until = float("-inf")

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._all

    def add(self, request_id: str, message: ClientMessage, settle: Settle) -> Request:
        """Keep a request until it is settled or dropped."""
        assert request_id not in self._all
        self._numbers += 1
        request = Request(request_id, self._numbers, message, settle, isinstance(message, SendMessage | SendDm))
        self._all[request_id] = request
        if request.is_message:
            heapq.heappush(self._messages, request)
        return request

    def drop(self, request: Request) -> None:
        """Forget a request whose asker has gone."""
        if self._all.pop(request.id, None) is request and request.is_message and not request.is_waiting:
            self._in_flight -= 1

    def get(self, request_id: str | None) -> Request | None:
        return self._all.get(request_id) if request_id is not None else None

    def settle(self, request: Request, outcome: Outcome) -> None:
        """Answer a request and forget it."""
        self.drop(request)
        request.settle(outcome)

    def fail(self, error: ClientError) -> None:
        """Answer all of them with an error."""
        for request in list(self._all.values()):
            self.settle(request, error)

    # -- sending ----------------------------------------------------------------------------------------------------

    def take(self, now: float) -> Iterator[Request]:
        """Those that may leave now, in order; each counts as sent when it is yielded."""
        for request in list(self._all.values()):
            if not request.is_message and request.is_waiting and request.due_at <= now:
                request.is_waiting = False
                request.sends += 1
                yield request
        while (message := self._next_message()) and self._messages_at <= now and self._has_room(now):
            heapq.heappop(self._messages)
            message.is_waiting = False
            message.sends += 1
            self._in_flight += 1
            if now < self._paced_until:
                self._messages_at = now + self._pace_s
            yield message

    def _next_message(self) -> Request | None:
        while self._messages:
            request = self._messages[0]
            if self._all.get(request.id) is request:
                return request
            heapq.heappop(self._messages)
        return None

    def _has_room(self, now: float) -> bool:
        return self._in_flight < (1 if now < self._paced_until else MAX_IN_FLIGHT)

    def due_at(self, now: float) -> float:
        """When something may leave that waits for nothing but the time; infinity if there is no such thing."""
        waiting = [r.due_at for r in self._all.values() if not r.is_message and r.is_waiting]
        if self._next_message() is not None and self._has_room(now):
            waiting.append(self._messages_at)
        return min(waiting, default=float("inf"))

    # -- what happens to them -----------------------------------------------------------------------------------------

    def put_off(self, request: Request, now: float, *, wait_s: float | None, pace_s: float = 0.0) -> None:
        """Send a request again after so many seconds, or when a backoff says; `pace_s` spreads the messages behind it.

        A message holds up those behind it, so that they do not overtake it.
        """
        if wait_s is None:
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(request.refusals, 10))
        request.refusals += 1
        if request.is_message:
            self._messages_at = max(self._messages_at, now + wait_s)
            if pace_s:
                self._pace_s, self._paced_until = pace_s * PACE, now + PACED_S
        request.due_at = now + wait_s
        self._wait(request)

    def lose(self) -> None:
        """The connection is gone: what was not answered leaves again on the next one."""
        for request in self._all.values():
            self._wait(request)

    def _wait(self, request: Request) -> None:
        if request.is_waiting:
            return
        request.is_waiting = True
        if request.is_message:
            self._in_flight -= 1
            heapq.heappush(self._messages, request)
