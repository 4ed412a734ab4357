"""The time of day. Rules are given a clock, so that tests can give them another.

Intervals and timeouts are measured by Trio's own clock, which never jumps; this one dates messages and tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

#: Milliseconds since 1970 in UTC.
Clock: TypeAlias = Callable[[], int]


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000
