"""Warnings about what may happen a thousand times a second, each kind once in a while."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from chatd.telemetry import Logger

#: Seconds between two lines of a kind.
LOG_AGAIN_S: Final = 60.0


class SeldomLogger:
    """Writes a warning unless one of the same name was written a short time ago."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._logged_at: dict[str, float] = {}

    def warning(self, event: str, **fields: object) -> None:
        now = time.monotonic()
        if now - self._logged_at.get(event, -LOG_AGAIN_S) >= LOG_AGAIN_S:
            self._logged_at[event] = now
            self._log.warning(event, **fields)
