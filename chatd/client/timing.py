"""When a client comes back, when it looks whether its server lives, and when it fetches a new token: arithmetic only.

Nothing in here sleeps or knows a clock. Times are seconds of whichever clock the caller uses throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import random

#: Seconds within which a new connection has to be authenticated.
HANDSHAKE_S: Final = 10.0
#: Silence past the server's own heartbeat, as a factor, after which a connection is given up.
DEAD_AFTER_HEARTBEATS: Final = 1.5
#: A token is renewed when this part of its remaining life is over, or a minute before its end if that is later.
RENEW_AT: Final = 0.8
RENEW_BEFORE_S: Final = 60.0
#: However late a clock says that it is, tokens are not renewed faster.
RENEW_AFTER_S: Final = 5.0


class Bounds(NamedTuple):
    """The shortest and the longest wait before a reconnect, in seconds."""

    least_s: float
    most_s: float


class Backoff:
    """Full jitter: each wait is drawn between the shortest and a ceiling that doubles with every failure."""

    def __init__(self, bounds: Bounds, dice: random.Random) -> None:
        self._bounds = bounds
        self._dice = dice
        self._failures = 0

    def reset(self) -> None:
        self._failures = 0

    def next_s(self, *, at_least_s: float = 0.0) -> float:
        """Seconds to wait this time: the draw, on top of what the server asked for."""
        least, most = self._bounds
        ceiling = min(most, 2 * least * 2 ** min(self._failures, 30))
        self._failures += 1
        return at_least_s + self._dice.uniform(least, max(least, ceiling))


@dataclass(slots=True)
class Pulse:
    """The signs of life of one connection: any byte that comes is one."""

    heard_at: float
    heartbeat_s: float = 0.0
    pinged_at: float | None = None

    def authenticated(self, heartbeat_s: float) -> None:
        """From here on the server says something at least this often."""
        self.heartbeat_s = heartbeat_s

    def hear(self, now: float) -> None:
        self.heard_at = max(self.heard_at, now)

    @property
    def dead_at(self) -> float:
        """When a connection that stays silent is given up."""
        silence_s = DEAD_AFTER_HEARTBEATS * self.heartbeat_s if self.heartbeat_s else HANDSHAKE_S
        return self.heard_at + silence_s

    @property
    def _is_asked(self) -> bool:
        return self.pinged_at is not None and self.pinged_at >= self.heard_at

    def wants_ping(self, now: float) -> bool:
        """Whether the peer has to be asked for a sign of life; True once for a silence."""
        if not self.heartbeat_s or self._is_asked or now < self.heard_at + self.heartbeat_s:
            return False
        self.pinged_at = now
        return True

    @property
    def due_at(self) -> float:
        """When this has to be looked at again."""
        if not self.heartbeat_s or self._is_asked:
            return self.dead_at
        return self.heard_at + self.heartbeat_s


def renew_in_s(left_s: float) -> float:
    """Seconds until a token with so much life left is renewed."""
    return max(RENEW_AFTER_S, left_s * RENEW_AT, left_s - RENEW_BEFORE_S)
