"""The figures that chatd has promised, as data, and whether a run shows them. report.py prints them."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import Outcome, headline_median, is_disturbed, rounds_that_count
from bench.scenarios import CHATD, FLOOR, NODE, ONE_NODE, TWO_NODES


@dataclass(frozen=True)
class Goal:
    """A bound for a figure of chatd (`server` says which) in a scenario, or, with `against`, for its ratio to another
    server's figure.
    """

    scenario: str
    text: str
    figure: str
    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    server: str = CHATD


@dataclass(frozen=True)
class Verdict:
    """What a run says of a goal. `value` and `is_met` are None where it was not measured. `is_disturbed`: no round of
    one of the servers was free of strangers on its cores, so the value means little.
    """

    text: str
    value: float | None
    is_met: bool | None
    is_disturbed: bool = False


GOALS = (
    Goal("rooms-of-1", "messages/s, at least 1.2 times Node's", "messages_per_s", NODE, at_least=1.2),
    Goal("rooms-of-10", "messages/s, at least 1.2 times Node's", "messages_per_s", NODE, at_least=1.2),
    Goal(
        "rooms-of-10",
        "on PostgreSQL and Redis, CPU a message at most twice the embedded daemon's",
        "cpu_per_message_us",
        CHATD,
        at_most=2,
        server=ONE_NODE,
    ),
    Goal(
        "rooms-of-10",
        "on PostgreSQL and Redis, messages/s, at least 5 000",
        "messages_per_s",
        at_least=5000,
        server=ONE_NODE,
    ),
    Goal(
        "rooms-of-10",
        "on PostgreSQL and Redis, statements a message, at most 0.2",
        "statements_per_message",
        at_most=0.2,
        server=ONE_NODE,
    ),
    Goal("steady-nodes", "two nodes, p99 below 25 ms", "p99_ms", at_most=25, server=TWO_NODES),
    Goal("room-of-1000", "deliveries/s, at least 15 times Node's", "deliveries_per_s", NODE, at_least=15),
    Goal("steady-rooms-of-10", "p99 not above Node's", "p99_ms", NODE, at_most=1),
    Goal("steady-rooms-of-95", "p99 below 20 ms", "p99_ms", at_most=20),
    Goal("fanout-1000", "CPU a delivery at most 1.6 times the floor's", "cpu_per_delivery_us", FLOOR, at_most=1.6),
    Goal("connect-9500", "KB an idle authenticated connection, at most 30", "kb_per_connection", at_most=30),
    Goal("connect-9500", "seconds until all are authenticated, at most 10", "connect_s", at_most=10),
    Goal("storm", "seconds from the start until all are back, at most 15", "recover_s", at_most=15),
    Goal(
        "storm",
        "on PostgreSQL and Redis, seconds from the start until all are back, at most 15",
        "recover_s",
        at_most=15,
        server=ONE_NODE,
    ),
    Goal(
        "storm",
        "on PostgreSQL and Redis, statements of the recovery a room, at most 5",
        "statements_per_room",
        at_most=5,
        server=ONE_NODE,
    ),
)


def verdicts(outcomes: Sequence[Outcome]) -> list[Verdict]:
    """A verdict on every goal whose scenario was run."""
    run = {outcome.scenario for outcome in outcomes}
    return [verdict(goal, outcomes) for goal in GOALS if goal.scenario in run]


def verdict(goal: Goal, outcomes: Sequence[Outcome]) -> Verdict:
    """A run of chatd whose deliveries did not add up meets no goal."""
    text = f"{goal.scenario}: {goal.text}"
    value = headline_median(outcomes, goal.scenario, goal.server, goal.figure)
    if value is not None and goal.against:
        other = headline_median(outcomes, goal.scenario, goal.against, goal.figure)
        value = value / other if other else None
    if value is None:
        return Verdict(text, None, None)
    is_sound = not any(run.failure for run in outcomes if (run.scenario, run.server) == (goal.scenario, goal.server))
    is_within = (goal.at_least is None or value >= goal.at_least) and (goal.at_most is None or value <= goal.at_most)
    counted = [rounds_that_count(outcomes, goal.scenario, server) for server in (goal.server, goal.against) if server]
    return Verdict(text, value, is_sound and is_within, any(is_disturbed(runs[0]) for runs in counted))
