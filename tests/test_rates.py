"""Budgets that refill evenly: so many at once, then one whenever the wait that was told is over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.limits.rates import Rate, spend

MESSAGES = Rate(30, 60.0)


def spend_all(full_at: float, now: float, rate: Rate) -> tuple[float, int, int]:
    """Take one after the other at one moment: the new `full_at`, how many were granted, and the wait after them."""
    granted = 0
    while True:
        full_at, wait_ms = spend(full_at, now, rate)
        if wait_ms:
            return full_at, granted, wait_ms
        granted += 1


def test_whole_burst_is_granted_at_once_and_the_next_one_waits_for_its_share() -> None:
    _, granted, wait_ms = spend_all(0.0, 1000.0, MESSAGES)
    assert granted == 30
    assert wait_ms == pytest.approx(2000, abs=2)


def test_refusal_takes_nothing() -> None:
    full_at, _, wait_ms = spend_all(0.0, 1000.0, MESSAGES)
    assert spend(full_at, 1000.0, MESSAGES) == (full_at, wait_ms)


def test_budget_is_full_again_after_its_period_and_holds_no_more_than_a_burst() -> None:
    full_at, *_ = spend_all(0.0, 1000.0, MESSAGES)
    assert full_at == pytest.approx(1060.0)
    assert spend_all(full_at, 1060.0, MESSAGES)[1] == 30
    assert spend_all(full_at, 9999.0, MESSAGES)[1] == 30


def test_several_are_taken_together_or_not_at_all() -> None:
    full_at, wait_ms = spend(0.0, 1000.0, MESSAGES, count=29)
    assert wait_ms == 0
    full_at, wait_ms = spend(full_at, 1000.0, MESSAGES, count=2)
    assert wait_ms == pytest.approx(2000, abs=2)
    assert spend_all(full_at, 1000.0, MESSAGES)[1] == 1


def test_burst_of_zero_is_no_limit() -> None:
    assert spend(5.0, 1.0, Rate(0, 60.0), count=10**9) == (5.0, 0)


rates = st.builds(Rate, st.integers(1, 10_000), st.sampled_from([1.0, 60.0, 3600.0]))


@given(rates, st.floats(0, 10**7), st.lists(st.floats(0, 100), max_size=30))
def test_wait_that_is_told_is_true(rate: Rate, now: float, pauses: list[float]) -> None:
    full_at = 0.0
    for pause in pauses:
        now += pause
        full_at, _, wait_ms = spend_all(full_at, now, rate)
        assert spend(full_at, now + wait_ms / 1000, rate)[1] == 0
        if wait_ms > 5:
            assert spend(full_at, now + (wait_ms - 5) / 1000, rate)[1] > 0


@given(rates, st.floats(0, 10**7), st.lists(st.floats(0, 100), max_size=30))
def test_no_more_is_granted_than_a_burst_and_what_was_refilled(rate: Rate, now: float, pauses: list[float]) -> None:
    full_at, granted, _ = spend_all(0.0, now, rate)
    began, total = now, granted
    for pause in pauses:
        now += pause
        full_at, granted, _ = spend_all(full_at, now, rate)
        total += granted
    # One more for the thousandth of a second of grace, and for floating point.
    assert total <= rate.burst + (now - began + 0.002) * rate.burst / rate.per_s + 1
