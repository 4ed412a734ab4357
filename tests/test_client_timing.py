"""When the client comes back, asks for a sign of life, gives up, renews its token and sends again: arithmetic only."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.client.errors import ClientClosed
from chatd.client.requests import FIRST_WAIT_S, LONGEST_WAIT_S, MAX_IN_FLIGHT, PACE, PACED_S, Request, Requests
from chatd.client.timing import DEAD_AFTER_HEARTBEATS, HANDSHAKE_S, RENEW_AFTER_S, Backoff, Bounds, Pulse, renew_in_s
from chatd.protocol import LeaveRoom, MessageAck, Ok, SendMessage

BOUNDS = Bounds(0.5, 20.0)


# -- coming back ------------------------------------------------------------------------------------------------------


@given(seed=st.integers(), failures=st.integers(0, 2000))
def test_wait_stays_within_its_bounds_however_often_it_failed(seed: int, failures: int) -> None:
    backoff = Backoff(BOUNDS, random.Random(seed))
    for _ in range(failures):
        backoff.next_s()
    assert 0.5 <= backoff.next_s() <= 20.0
    assert 7.5 <= backoff.next_s(at_least_s=7.0) <= 27.0


def test_waits_grow_and_are_spread_over_all_of_their_range() -> None:
    backoff = Backoff(BOUNDS, random.Random(1))
    firsts, later = [], []
    for _ in range(1000):
        backoff.reset()
        firsts.append(backoff.next_s())
        for _ in range(6):
            backoff.next_s()
        later.append(backoff.next_s())
    assert max(firsts) <= 1.0
    assert min(later) < 2.0
    assert max(later) > 18.0
    assert 9.0 < sum(later) / len(later) < 11.5


def test_bounds_may_be_one_number() -> None:
    assert Backoff(Bounds(0.0, 0.0), random.Random(1)).next_s() == 0.0


# -- signs of life ----------------------------------------------------------------------------------------------------


def test_connection_that_is_not_authenticated_in_time_is_given_up() -> None:
    pulse = Pulse(100.0)
    assert pulse.due_at == pulse.dead_at == 100.0 + HANDSHAKE_S
    assert not pulse.wants_ping(105.0)


def test_silent_server_is_asked_once_and_then_given_up() -> None:
    pulse = Pulse(100.0)
    pulse.authenticated(20.0)
    assert pulse.due_at == 120.0
    assert not pulse.wants_ping(119.9)
    assert pulse.wants_ping(120.0)
    assert not pulse.wants_ping(121.0)
    assert pulse.due_at == pulse.dead_at == 100.0 + 20.0 * DEAD_AFTER_HEARTBEATS
    pulse.hear(125.0)
    assert pulse.due_at == 145.0
    assert pulse.wants_ping(145.0)


def test_time_that_goes_back_is_not_heard() -> None:
    pulse = Pulse(100.0)
    pulse.hear(90.0)
    assert pulse.heard_at == 100.0


# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left_s", "renew_s"),
    [(900.0, 840.0), (100.0, 80.0), (3600.0, 3540.0), (0.0, RENEW_AFTER_S), (-50.0, RENEW_AFTER_S)],
)
def test_token_is_renewed_well_before_its_end_and_never_in_a_loop(left_s: float, renew_s: float) -> None:
    assert renew_in_s(left_s) == renew_s


# -- requests ---------------------------------------------------------------------------------------------------------


def message(key: str) -> SendMessage:
    return SendMessage(room_id="r", content=key, client_message_id=key)


def ack(key: str) -> MessageAck:
    return MessageAck(id=key, message_id="m", room_id="r", seq=1, created_at="", duplicate=False)


def requests_with(count: int) -> Requests:
    requests = Requests()
    for number in range(count):
        requests.add(f"{number}", message(f"{number}"), lambda _: None)
    return requests


def taken(requests: Requests, now: float) -> list[str]:
    return [request.id for request in requests.take(now)]


def test_so_many_messages_are_on_their_way_and_the_next_follow_each_answer() -> None:
    requests = requests_with(MAX_IN_FLIGHT + 2)
    assert taken(requests, 0.0) == [f"{number}" for number in range(MAX_IN_FLIGHT)]
    assert requests.due_at(0.0) == float("inf")
    requests.settle(request_of(requests, "3"), ack("3"))
    assert taken(requests, 0.0) == [f"{MAX_IN_FLIGHT}"]


def request_of(requests: Requests, request_id: str) -> Request:
    found = requests.get(request_id)
    assert found is not None
    return found


def test_what_was_lost_leaves_again_in_the_first_order() -> None:
    requests = requests_with(4)
    assert taken(requests, 0.0) == ["0", "1", "2", "3"]
    requests.settle(request_of(requests, "1"), ack("1"))
    requests.lose()
    assert taken(requests, 0.0) == ["0", "2", "3"]


def test_message_that_is_put_off_holds_up_those_behind_it_and_nothing_else() -> None:
    requests = requests_with(2)
    leave = requests.add("leave", LeaveRoom(room_id="r"), lambda _: None)
    assert taken(requests, 0.0) == ["leave", "0", "1"]
    requests.put_off(request_of(requests, "0"), 0.0, wait_s=2.0)
    requests.put_off(leave, 0.0, wait_s=5.0)
    requests.add("2", message("2"), lambda _: None)
    assert requests.due_at(0.0) == 2.0
    assert taken(requests, 1.9) == []
    assert taken(requests, 2.0) == ["0", "2"]
    assert taken(requests, 5.0) == ["leave"]


def test_past_a_limit_messages_are_spread_one_at_a_time_until_a_quiet_minute_has_passed() -> None:
    requests = requests_with(4)
    taken(requests, 0.0)
    for number in range(4):
        requests.put_off(request_of(requests, f"{number}"), 0.0, wait_s=2.0, pace_s=2.0)
    assert taken(requests, 2.0) == ["0"]
    requests.settle(request_of(requests, "0"), ack("0"))
    assert taken(requests, 2.1) == []
    assert requests.due_at(2.1) == 2.0 + 2.0 * PACE
    assert taken(requests, 2.0 + 2.0 * PACE) == ["1"]
    assert taken(requests, 10.0) == []
    assert taken(requests, PACED_S + 1) == ["2", "3"]


def test_wait_that_the_server_does_not_name_grows_to_its_bound() -> None:
    requests = requests_with(1)
    waits, now = [], 0.0
    for _ in range(12):
        assert taken(requests, now) == ["0"]
        requests.put_off(request_of(requests, "0"), now, wait_s=None)
        waits.append(requests.due_at(now) - now)
        now = requests.due_at(now)
    assert waits[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits[-1] == pytest.approx(LONGEST_WAIT_S)


def test_request_that_was_dropped_is_not_sent_and_makes_room() -> None:
    requests = requests_with(MAX_IN_FLIGHT + 3)
    first = taken(requests, 0.0)
    requests.drop(request_of(requests, f"{MAX_IN_FLIGHT}"))
    requests.drop(request_of(requests, first[0]))
    assert taken(requests, 0.0) == [f"{MAX_IN_FLIGHT + 1}"]
    assert len(requests) == MAX_IN_FLIGHT + 1


def test_all_hear_of_the_end_once() -> None:
    requests = Requests()
    outcomes: list[object] = []
    requests.add("a", message("a"), outcomes.append)
    settled = requests.add("b", LeaveRoom(room_id="r"), outcomes.append)
    requests.settle(settled, Ok())
    requests.fail(ClientClosed())
    requests.fail(ClientClosed())
    assert [type(outcome) for outcome in outcomes] == [Ok, ClientClosed]
