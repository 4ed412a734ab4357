"""The figures that chatd has promised, as data, and whether a run shows them. report.py prints them."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.figures import Outcome, headline_median, is_disturbed, rounds_that_count
from bench.scenarios import CHATD, FLOOR, NODE, ONE_NODE, PEERS, TWO_NODES


@dataclass(frozen=True)
class Goal:
    """A bound for a figure of chatd (`server` says which) in a scenario, or, with `against`, for its ratio to another
    server's figure, there or in another row (`against_row`).
    """

    scenario: str
    text: str
    figure: str
    against: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    server: str = CHATD
    against_row: str = ""

    @property
    def other(self) -> tuple[str, str] | None:
        """The row and the server that the figure is held against."""
        return (self.against_row or self.scenario, self.against) if self.against else None


@dataclass(frozen=True)
class Verdict:
    """What a run says of a goal. `value` and `is_met` are None where it was not measured. `is_disturbed`: no round of
    one of the servers was free of strangers on its cores, so the value means little.
    """

    text: str
    value: float | None
    is_met: bool | None
    is_disturbed: bool = False


#: The rows that are held against every peer, with what is asked of the ratio to Node's and to the others'.
BY_ROOM_SIZE = {"rooms-of-1": 2.0, "rooms-of-10": 2.0, "rooms-of-100": 2.0, "room-of-1000": 20.0}

GOALS = (
    *(
        Goal(row, f"messages/s, at least {times:g} times Node's", "messages_per_s", NODE, at_least=times)
        for row, times in BY_ROOM_SIZE.items()
    ),
    *(
        Goal(row, f"messages/s, ahead of {peer}", "messages_per_s", peer, at_least=1)
        for row in BY_ROOM_SIZE
        for peer in PEERS
        if peer != NODE
    ),
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
    Goal("steady-rooms-of-10", "p99 below 5 ms", "p99_ms", at_most=5),
    Goal("steady-rooms-of-10", "p99 at most half of Node's", "p99_ms", NODE, at_most=0.5),
    Goal(
        "steady-rooms-of-10",
        "CPU a delivery within 20 % of that with 100 connections",
        "cpu_per_delivery_us",
        CHATD,
        at_least=0.8,
        at_most=1.2,
        against_row="steady-100",
    ),
    Goal("steady-rooms-of-100", "p99 below 20 ms", "p99_ms", at_most=20),
    Goal("steady-tenfold", "10 000 messages/s held", "messages_per_s", at_least=9900),
    Goal(
        "slow-readers",
        "p99 of those who read at most twice that where all read",
        "p99_ms",
        CHATD,
        at_most=2,
        against_row="fast-readers",
    ),
    Goal("slow-readers", "all 30 who do not read are closed", "slow_closed", at_least=30),
    *(
        Goal(row, "CPU a delivery at most 1.5 times the floor's", "cpu_per_delivery_us", FLOOR, at_most=1.5)
        for row in ("fanout-100", "fanout-1000", "fanout-10000")
    ),
    Goal("connect-10000", "KB an idle authenticated connection, at most 25", "kb_per_connection", at_most=25),
    Goal("connect-10000", "seconds until all are authenticated, at most 10", "connect_s", at_most=10),
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
    *(
        Goal(
            "soak",
            f"{where}, memory at the end within 5 % of that after a twelfth",
            "memory_growth",
            at_most=1.05,
            server=server,
        )
        for server, where in ((CHATD, "embedded"), (ONE_NODE, "on PostgreSQL and Redis"))
    ),
    *(
        Goal(
            "history",
            f"{where}, pages and sends with 10 000 000 messages at most twice those with 1 000",
            "worst_ratio",
            at_most=2,
            server=server,
        )
        for server, where in ((CHATD, "on SQLite"), (ONE_NODE, "on PostgreSQL"))
    ),
)


def verdicts(outcomes: Sequence[Outcome]) -> list[Verdict]:
    """A verdict on every goal whose row was run on the servers that it is about."""
    run = {(outcome.scenario, outcome.server) for outcome in outcomes}
    return [verdict(goal, outcomes) for goal in GOALS if {(goal.scenario, goal.server), goal.other} <= run | {None}]


def verdict(goal: Goal, outcomes: Sequence[Outcome]) -> Verdict:
    """A run of chatd whose deliveries did not add up meets no goal."""
    text = f"{goal.scenario}: {goal.text}"
    value = headline_median(outcomes, goal.scenario, goal.server, goal.figure)
    if value is not None and goal.other:
        other = headline_median(outcomes, *goal.other, goal.figure)
        value = value / other if other else None
    if value is None:
        return Verdict(text, None, None)
    is_sound = not any(run.failure for run in outcomes if (run.scenario, run.server) == (goal.scenario, goal.server))
    is_within = (goal.at_least is None or value >= goal.at_least) and (goal.at_most is None or value <= goal.at_most)
    sides = [(goal.scenario, goal.server), *([goal.other] if goal.other else [])]
    counted = [rounds_that_count(outcomes, *side) for side in sides]
    return Verdict(text, value, is_sound and is_within, any(is_disturbed(runs[0]) for runs in counted))
