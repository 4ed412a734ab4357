"""Who is let in at the door: connections a node and an address, and how many new ones a second.

Decided before the upgrade is accepted, sync, and told with a status and a time to come back. An address counts from
the moment of its connection, so that half-open ones of one address cannot take all places; only whom a trusted proxy
speaks for is known later.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final

from chatd.limits.addresses import limited_as
from chatd.limits.rates import Rate, spend

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatd.config import LimitOptions
    from chatd.metrics import UpgradeRefusal


#: Nobody is sent away for longer than so many seconds, however many come.
MAX_TURN_S: Final = 60


@dataclass(frozen=True, slots=True)
class NotAdmitted:
    """Why a connection is not let in: an HTTP status, a sentence, and the seconds after which to try again."""

    reason: UpgradeRefusal
    status: int
    detail: str
    retry_after_s: int


class Admission:
    """Counts the connections of a node. `seconds` is the event loop's clock."""

    def __init__(self, limits: LimitOptions, seconds: Callable[[], float]) -> None:
        self.limits = limits
        self._seconds = seconds
        self._by_address: Counter[str] = Counter()
        self._full_at = 0.0
        # When the next one who is refused may come back, so that the refused come one after the other.
        self._next_turn = 0.0
        self.count = 0
        #: Those who were refused and are being told why.
        self.lingering = 0
        #: Connections that were ever let in.
        self.ever = 0
        self.is_draining = False

    def enter(self) -> NotAdmitted | None:
        """Count a connection in, which `leave` must count out again; or say why not, and count nothing."""
        limits = self.limits
        if self.is_draining:
            return NotAdmitted("draining", 503, "The server is stopping; try again in a moment.", 2)
        if limits.connections and self.count >= limits.connections:
            return NotAdmitted("node_full", 503, f"The server has {self.count} connections and takes no more.", 10)
        rate = Rate(limits.new_connections_per_second, 1.0)
        now = self._seconds()
        self._full_at, wait_ms = spend(self._full_at, now, rate)
        if wait_ms:
            detail = "Too many connect at once; try again in a moment."
            return NotAdmitted("too_fast", 503, detail, self._take_turn(now))
        self.count += 1
        self.ever += 1
        return None

    def _take_turn(self, now: float) -> int:
        """The seconds after which one who is refused now finds a place, if all others come when they were told."""
        turn = min(max(self._next_turn, now + 1), now + MAX_TURN_S)
        self._next_turn = turn + 1 / self.limits.new_connections_per_second
        return ceil(round(turn - now, 3))

    def leave(self) -> None:
        self.count -= 1

    def enter_address(self, address: str) -> NotAdmitted | None:
        """Count an address in, once it is known, which `leave_address` must count out again."""
        address = limited_as(address)
        limit = self.limits.connections_per_address
        if limit and self._by_address[address] >= limit:
            detail = f"Your address has {limit} connections; close one of them first."
            return NotAdmitted("address_full", 429, detail, 10)
        self._by_address[address] += 1
        return None

    def leave_address(self, address: str) -> None:
        address = limited_as(address)
        self._by_address[address] -= 1
        if self._by_address[address] <= 0:
            del self._by_address[address]
