"""Who is let in: connections a node, an address and a second, counted in and out."""

from __future__ import annotations

from chatd.config import LimitOptions
from chatd.limits.admission import MAX_TURN_S, Admission, NotAdmitted


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def reason(refused: NotAdmitted | None) -> tuple[str, int] | None:
    return None if refused is None else (refused.reason, refused.status)


def test_node_takes_as_many_connections_as_it_may_and_one_more_when_one_left() -> None:
    admission = Admission(LimitOptions(connections=2), Clock())
    assert [reason(admission.enter()) for _ in range(3)] == [None, None, ("node_full", 503)]
    assert admission.count == 2
    admission.leave()
    assert admission.enter() is None
    assert reason(admission.enter()) == ("node_full", 503)


def test_new_connections_a_second_are_bounded_and_told_when_to_come_back() -> None:
    clock = Clock()
    admission = Admission(LimitOptions(new_connections_per_second=10), clock)
    assert [admission.enter() for _ in range(10)] == [None] * 10
    refused = admission.enter()
    assert reason(refused) == ("too_fast", 503)
    assert refused is not None
    assert refused.retry_after_s == 1
    assert admission.count == 10
    clock.now += refused.retry_after_s
    assert [admission.enter() for _ in range(10)] == [None] * 10


def test_those_who_are_refused_are_told_to_come_one_after_the_other_and_are_let_in_then() -> None:
    clock = Clock()
    admission = Admission(LimitOptions(connections=0, new_connections_per_second=10), clock)
    waiting = [refused for refused in [admission.enter() for _ in range(100)] if refused is not None]
    turns = [refused.retry_after_s for refused in waiting]
    assert turns == sorted(turns)
    assert turns[-1] == 10
    began = clock.now
    for turn in sorted(set(turns)):
        clock.now = began + turn
        assert all(admission.enter() is None for _ in range(turns.count(turn)))


def test_nobody_is_sent_away_for_long() -> None:
    admission = Admission(LimitOptions(connections=0, new_connections_per_second=1), Clock())
    refused = [admission.enter() for _ in range(1000)][-1]
    assert refused is not None
    assert refused.retry_after_s == MAX_TURN_S


def test_full_node_spends_nothing_of_the_rate() -> None:
    admission = Admission(LimitOptions(connections=1, new_connections_per_second=2), Clock())
    assert admission.enter() is None
    for _ in range(5):
        assert reason(admission.enter()) == ("node_full", 503)
    admission.leave()
    assert admission.enter() is None


def test_address_has_a_bound_of_its_own() -> None:
    admission = Admission(LimitOptions(connections_per_address=2), Clock())
    assert [reason(admission.enter_address("a")) for _ in range(3)] == [None, None, ("address_full", 429)]
    assert admission.enter_address("b") is None
    admission.leave_address("a")
    assert admission.enter_address("a") is None
    assert reason(admission.enter_address("a")) == ("address_full", 429)


def test_addresses_of_one_ipv6_subscriber_are_one() -> None:
    admission = Admission(LimitOptions(connections_per_address=2), Clock())
    assert [reason(admission.enter_address(f"2001:db8::{end}")) for end in "123"] == [None, None, ("address_full", 429)]
    assert admission.enter_address("2001:db8:0:1::1") is None
    admission.leave_address("2001:db8::2")
    assert admission.enter_address("2001:db8::3") is None


def test_addresses_that_left_are_forgotten() -> None:
    admission = Admission(LimitOptions(), Clock())
    for number in range(100):
        admission.enter_address(str(number))
    for number in range(100):
        admission.leave_address(str(number))
    assert not admission._by_address


def test_nobody_is_let_in_while_the_server_stops() -> None:
    admission = Admission(LimitOptions(), Clock())
    admission.is_draining = True
    refused = admission.enter()
    assert reason(refused) == ("draining", 503)
    assert refused is not None
    assert refused.retry_after_s > 0


def test_limit_of_zero_is_none() -> None:
    limits = LimitOptions(connections=0, connections_per_address=0, new_connections_per_second=0)
    admission = Admission(limits, Clock())
    assert {admission.enter() for _ in range(5000)} == {None}
    assert {admission.enter_address("a") for _ in range(5000)} == {None}
