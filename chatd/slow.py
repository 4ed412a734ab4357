"""What takes longer than it should is said in the log, once each time, with what it was. The threshold is an option."""

from __future__ import annotations

from chatd import telemetry

log = telemetry.get_logger(__name__)


class SlowLog:
    """Logs operations above `slow_ms`; 0 logs none. `count` says how many there were."""

    def __init__(self, slow_ms: int = 0) -> None:
        self.slow_s = slow_ms / 1000 or float("inf")
        self.count = 0

    def note(self, what: str, seconds: float, **ids: str) -> None:
        """`what` is a word of chatd's own: a query's name, a message's type, a route."""
        if seconds > self.slow_s:
            self.count += 1
            log.warning("slow_operation", what=what, milliseconds=round(seconds * 1000), **ids)
