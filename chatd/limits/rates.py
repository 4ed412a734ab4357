"""Rates: so many at once, refilled evenly. The generic cell rate algorithm keeps one number a budget.

Source: ITU-T I.371, Annex A (virtual scheduling).
"""

from __future__ import annotations

from typing import NamedTuple


class Rate(NamedTuple):
    """`burst` at once, refilled evenly over `per_s` seconds; a burst of 0 means no limit."""

    burst: int
    per_s: float


def spend(full_at: float, now: float, rate: Rate, *, count: int = 1) -> tuple[float, int]:
    """Take `count` from a budget that will be full again at `full_at` (seconds, as `now`).

    The new `full_at` and 0 if it was granted; the old one and the milliseconds to wait if not.
    """
    if rate.burst <= 0:
        return full_at, 0
    would_be = max(full_at, now) + count * rate.per_s / rate.burst
    # A thousandth of a second of grace, so that floating point never refuses the last one of a full budget.
    over_s = would_be - now - rate.per_s
    if over_s > 0.001:
        return full_at, int(over_s * 1000) + 1
    return would_be, 0
