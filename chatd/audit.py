"""When the audit trail is written: beside everything else, many events by one statement, and the rest at the end.

`server` opens it around the time in which it serves. What is noted, and when too much is, is decided in `chat.audit`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.errors import Refusal
from chatd.store.database import Conflict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from chatd.chat.audit import Audit
    from chatd.clock import Clock
    from chatd.config import AuditOptions
    from chatd.metrics import Metrics
    from chatd.signals import Bell
    from chatd.store.audit import AuditTrail

log = telemetry.get_logger(__name__)

#: Seconds in which events gather for one statement: few, for on SQLite the journal waits while they are written.
GATHER_S: Final = 0.05
#: Seconds between two tries while the database is out.
RETRY_S: Final = 1.0
#: Seconds for what is left at the end.
LAST_S: Final = 2.0
#: Seconds between two removals of what is too old.
FORGET_S: Final = 3600.0
DAY_MS: Final = 86_400_000


class Writer:
    """Moves events from the queue into the database. Made by `open_audit`."""

    def __init__(self, audit: Audit, trail: AuditTrail, metrics: Metrics, options: AuditOptions) -> None:
        self._audit = audit
        self._trail = trail
        self._metrics = metrics
        self._most = max(1, round(options.per_second * GATHER_S))
        self._is_failing = False
        self._told_dropped = 0

    async def write_all(self, bell: Bell) -> None:
        """Write what is noted, for ever; asleep while nothing is."""
        while True:
            await bell.wait_rung()
            while self._audit.waiting:
                await trio.sleep(GATHER_S)
                if not await self.write_some():
                    await trio.sleep(RETRY_S)

    async def write_some(self) -> bool:
        """Write the oldest events; False if that has to be tried again, which is logged once."""
        self._tell_dropped()
        events = self._audit.take(self._most)
        try:
            # What was taken is written or put back, also where all this ends meanwhile.
            with trio.CancelScope(shield=True):
                await self._trail.add(events)
        except Refusal as refusal:
            self._audit.put_back(events)
            if not self._is_failing:
                log.warning("audit_waits", events=self._audit.waiting, detail=refusal.detail)
            self._is_failing = True
            return False
        except (Conflict, ValueError):
            # A defect of one batch; the next ones are not to wait for it.
            log.exception("audit_failed", events=len(events))
        self._is_failing = False
        self._metrics.audit_events.inc(len(events))
        return True

    def _tell_dropped(self) -> None:
        new = self._audit.dropped - self._told_dropped
        if new:
            self._told_dropped += new
            self._metrics.audit_dropped.inc(new)
            log.warning("audit_dropped", events=new, detail="More happens than may be kept; see audit.per_second.")


async def _forget(trail: AuditTrail, keep_days: int, clock: Clock) -> None:
    while True:
        try:
            await trail.forget(clock() - keep_days * DAY_MS)
        except Refusal as refusal:
            log.warning("audit_not_forgotten", detail=refusal.detail)
        await trio.sleep(FORGET_S)


@asynccontextmanager
async def open_audit(
    audit: Audit, trail: AuditTrail, options: AuditOptions, *, metrics: Metrics, bell: Bell, clock: Clock
) -> AsyncIterator[None]:
    """Write for as long as the block lasts, and what is left at its end."""
    audit.keeps_messages = options.messages
    writer = Writer(audit, trail, metrics, options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write_all, bell)
        nursery.start_soon(_forget, trail, options.keep_days, clock)
        yield
        nursery.cancel_scope.cancel()
    with trio.move_on_after(LAST_S):
        while audit.waiting and await writer.write_some():
            pass
