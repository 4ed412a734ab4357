"""What the figures of a run are: from the generator's report and the server's samples to numbers with a name, the one
that counts for each mode, what was the bottleneck, and whether the deliveries add up. Pure functions, for
harness.py, report.py and plot.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench import k6_load
from bench.load import Load
from bench.scenarios import NODE

BUSY = 0.85
DISTURBED = 0.1
LATE_MS = 5.0
#: A window so long shows whether memory grows.
LONG_S = 60.0
STRANGERS = ("server_core_strangers", "load_core_strangers")


@dataclass(frozen=True)
class Headline:
    """The figure of a mode that is compared between servers."""

    figure: str
    unit: str
    is_lower_better: bool = False


HEADLINES = {
    "throughput": Headline("deliveries_per_s", "deliveries/s"),
    "steady": Headline("p99_ms", "ms p99", is_lower_better=True),
    "fanout": Headline("cpu_per_delivery_us", "µs CPU a delivery", is_lower_better=True),
    "storm": Headline("recover_s", "s until all are back", is_lower_better=True),
    "echo": Headline("messages_per_s", "pings answered a second"),
    "churn": Headline("cpu_per_return_us", "µs CPU of one who goes and comes back", is_lower_better=True),
    "store": Headline("worst_ratio", "times the smallest room's time, at worst", is_lower_better=True),
    "k6": Headline("p99_ms", "ms p99", is_lower_better=True),
    "connect": Headline("kb_per_connection", "KB a connection", is_lower_better=True),
}


@dataclass(frozen=True)
class Outcome:
    """One run of a scenario on a server. `failure`: why it has no figures, or why they do not count."""

    scenario: str
    mode: str
    server: str
    round: int
    figures: dict[str, float] = field(default_factory=dict)
    failure: str | None = None
    load: dict[str, Any] = field(default_factory=dict)


def figures_of(mode: str, load: Load, load_cores: int) -> dict[str, float]:
    """Every figure of a run by name; shares are of one core. `load_cores`: how many generator and database have."""
    report, marks = load.report, load.marks
    begin, end = marks["begin"], marks["end"]
    length_s = max(end.at_s - begin.at_s, 1e-9)
    server_cpu_s = end.server_cpu_s - begin.server_cpu_s
    database_cpu_s, bus_cpu_s = end.database_cpu_s - begin.database_cpu_s, end.bus_cpu_s - begin.bus_cpu_s
    load_cpu_s = report["cpu_seconds"] + database_cpu_s + bus_cpu_s
    harness_cpu_s = end.harness_cpu_s - begin.harness_cpu_s
    figures = {
        "server_share": server_cpu_s / length_s,
        "database_share": database_cpu_s / length_s,
        "bus_share": bus_cpu_s / length_s,
        "generator_share": report["cpu_seconds"] / max(report["window_seconds"], 1e-9),
        "load_cores_share": (load_cpu_s + harness_cpu_s) / length_s / load_cores,
        # what else ran on the cores in use: above a few percent, something disturbed the run
        "server_core_strangers": max(0.0, end.server_core_s - begin.server_core_s - server_cpu_s) / length_s,
        "load_core_strangers": max(0.0, end.load_cores_s - begin.load_cores_s - load_cpu_s - harness_cpu_s) / length_s,
        "connect_s": report["connect_seconds"],
        "memory_mb": marks["finish"].memory_bytes / 1e6,
    }
    if mode == "connect":
        grown = marks["idle-end"].memory_bytes - marks["start"].memory_bytes
        idle_s = marks["idle-end"].at_s - marks["idle-begin"].at_s
        figures["connections_per_s"] = report["live"] / max(report["connect_seconds"], 1e-9)
        figures["kb_per_connection"] = grown / 1000 / max(report["live"], 1)
        figures["idle_share"] = (marks["idle-end"].server_cpu_s - marks["idle-begin"].server_cpu_s) / idle_s
        return figures
    figures["most_memory_mb"] = max([point["memory_bytes"] / 1e6 for point in load.timeline], default=0.0)
    if mode == "storm":
        return figures | storm_figures(load)
    if mode == "churn":
        return figures | churn_figures(load, server_cpu_s)
    if mode == "k6":
        return figures | k6_load.figures_of(load)
    figures["messages_per_s"] = report["messages_per_s"]
    figures["deliveries_per_s"] = report["deliveries_per_s"]
    delivered = report["window_delivered"]
    if delivered:
        figures["cpu_per_delivery_us"] = server_cpu_s / delivered * 1e6
    acknowledged = report["window_acknowledged"]
    if acknowledged:
        figures["cpu_per_message_us"] = server_cpu_s / acknowledged * 1e6
        if begin.statements is not None and end.statements is not None:
            figures["statements_per_message"] = (end.statements - begin.statements) / acknowledged
    figures |= memory_figures(load)
    if report.get("slow"):
        figures["slow_closed"] = report["slow_closed"]
    times = {"throughput": "ack_times", "echo": "ack_times", "steady": "delivery_times", "fanout": "round_times"}[mode]
    # where nothing was timed there is no time, and no 0
    for prefix, timed in (("", report[times]), ("ack_", report["ack_times"])):
        for point in ("p50", "p90", "p99", "p999", "max") if timed["count"] else ():
            figures[f"{prefix}{point}_ms"] = timed[f"{point}_us"] / 1e3
    figures["behind_s"] = report["behind_seconds"]
    figures["send_lag_ms"] = report["send_lag_max_us"] / 1e3
    return figures


def storm_figures(load: Load) -> dict[str, float]:
    """Seconds from the second start of the daemon until so many were back, and what that cost the database."""
    report, began = load.report, load.started_again_at_s
    assert began is not None
    figures = {
        "recover_server_cpu_s": load.marks["end"].server_cpu_s - load.marks["begin"].server_cpu_s,
        "tries_per_connection": report["tries"] / report["connections"],
    }
    for name, share in (("first_s", 0.0), ("half_s", 0.5), ("recover_s", 1.0)):
        times = [at_s - began for at_s, back in report["recovered"] if back >= share * report["connections"]]
        if times:
            figures[name] = times[0]
    begin, end = load.marks["begin"].statements, load.marks["end"].statements
    if begin is not None and end is not None:
        figures["statements_per_room"] = (end - begin) / report["rooms"]
    return figures


def churn_figures(load: Load, server_cpu_s: float) -> dict[str, float]:
    """Of those who came back in the window, as many as went; and what others were told of it."""
    report = load.report
    seconds = max(report["window_seconds"], 1e-9)
    return {
        "returns_per_s": report["window_left"] / seconds,
        "cpu_per_return_us": server_cpu_s / max(report["window_left"], 1) * 1e6,
        "events_per_s": report["window_other_frames"] / seconds,
        "back_p50_ms": report["handshake_times"]["p50_us"] / 1e3,
        "back_p99_ms": report["handshake_times"]["p99_us"] / 1e3,
    }


def memory_figures(load: Load) -> dict[str, float]:
    """How much larger the server is at the end of a long window than after a twelfth of it: five minutes of an hour."""
    window = [point for point in load.timeline if point["phase"] == "measure"]
    if not window or window[-1]["at_s"] - window[0]["at_s"] < LONG_S:
        return {}
    early_s = window[0]["at_s"] + (window[-1]["at_s"] - window[0]["at_s"]) / 12
    early = next(point for point in window if point["at_s"] >= early_s)
    return {"memory_growth": window[-1]["memory_bytes"] / max(early["memory_bytes"], 1)}


def failure_of(load: Load) -> str | None:
    """One sentence where connections or deliveries do not add up; None: all that was due has come, once."""
    report = load.report
    if "metrics" in report:
        return k6_load.failure_of(load)
    faults = []
    if report["failed"] or report["live"] < report["connections"]:
        faults.append(
            f"{report['connections'] - report['live']} of {report['connections']} connections were not authenticated"
            f" ({report['first_failure'] or 'no answer in time'})"
        )
    if report["lost"]:
        faults.append(f"{report['lost']} connections were lost ({report['first_loss']})")
    if report["refused"]:
        faults.append(f"{report['refused']} messages were refused ({report['first_refusal']})")
    if report["unacknowledged"]:
        faults.append(f"{report['unacknowledged']} messages were never acknowledged")
    if report["missing"]:
        faults.append(f"{report['missing']} of {report['missing'] + report['delivered']} deliveries never came")
    if report.get("resyncs"):
        faults.append(f"{report['resyncs']} clients could not resume")
    if report["surplus"]:
        faults.append(f"{report['surplus']} deliveries came too often")
    return "; ".join(faults) or None


def bottleneck(mode: str, figures: dict[str, float]) -> str:
    """Which process had its core full in the window; "generator" makes the row a figure of the generator. A row without
    a generator has no shares.
    """
    if figures.get("generator_share", 0) >= BUSY:
        return "generator"
    if figures.get("server_share", 0) >= BUSY:
        return "server"
    if figures.get("load_cores_share", 0) >= BUSY:
        return "db + generator"
    return {"throughput": "waiting", "echo": "waiting", "connect": "waiting", "storm": "waiting"}.get(mode, "")


def is_disturbed(outcome: Outcome) -> bool:
    """Whether something else ran on the cores in use for more than a tenth of the window."""
    return any(outcome.figures.get(name, 0) > DISTURBED for name in STRANGERS)


def rounds_that_count(outcomes: Iterable[Outcome], scenario: str, server: str) -> list[Outcome]:
    """The runs with figures: those that nothing disturbed, or all where all were disturbed."""
    measured = [run for run in outcomes if (run.scenario, run.server) == (scenario, server) and run.figures]
    return [run for run in measured if not is_disturbed(run)] or measured


def headline_median(outcomes: Iterable[Outcome], scenario: str, server: str, figure: str) -> float | None:
    """The figure's median over the rounds that count; None: it was not measured."""
    values = [run.figures[figure] for run in rounds_that_count(outcomes, scenario, server) if figure in run.figures]
    return median(values) if values else None


def times_better(mine: float | None, other: float | None, *, is_lower_better: bool) -> float | None:
    """How many times better `mine` is than `other`; None: one of them is not known."""
    if not mine or not other:
        return None
    return other / mine if is_lower_better else mine / other


def against_node(outcomes: Iterable[Outcome], outcome: Outcome) -> float | None:
    """How many times better this run's headline is than Node's median in the same row."""
    headline = HEADLINES[outcome.mode]
    node = headline_median(outcomes, outcome.scenario, NODE, headline.figure)
    mine = outcome.figures.get(headline.figure)
    return times_better(mine, node, is_lower_better=headline.is_lower_better)
