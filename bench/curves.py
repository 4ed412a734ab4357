"""Draws what changes: throughput and CPU over the time of a run, and figures over the size of what they are of. Called
by page.py; plot.py draws the figures themselves.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from bench.figures import Outcome, headline_median
from bench.plot import COLOURS, new_figure
from bench.rows import SCENARIOS, title_of
from bench.scenarios import CURVES
from bench.servers import SERVERS

#: Between two points of a curve over time there is at least so much time, so that it shows more than ticks.
STEP_S = 0.5


def draw_over_time(outcomes: Sequence[Outcome], path: Path) -> bool:
    """Writes a PNG with two panels for every row: deliveries a second, and CPU; False: nothing was sampled."""
    sampled = [outcome for outcome in outcomes if len(outcome.load.get("timeline", ())) > 2]
    scenarios = list(dict.fromkeys(outcome.scenario for outcome in sampled))
    if not scenarios:
        return False
    figure, panels = new_figure(2 * len(scenarios))
    for number, scenario in enumerate(scenarios):
        rates, shares = panels[2 * number], panels[2 * number + 1]
        for run in (outcome for outcome in sampled if outcome.scenario == scenario):
            label = SERVERS[run.server].title if run.round == 1 else None
            at_s, per_s = over_time(run.load["timeline"], "delivered")
            rates.plot(at_s, per_s, color=COLOURS.get(run.server), label=label)
            at_s, per_s = over_time(run.load["timeline"], "server_cpu_s")
            shares.plot(at_s, [100 * share for share in per_s], color=COLOURS.get(run.server), label=label)
        rates.set_title(title_of(scenario), loc="left", fontsize=10)
        for axes, what in ((rates, "deliveries/s"), (shares, "CPU of the server, % of a core")):
            axes.set_ylabel(what, fontsize=9)
            axes.set_xlabel("s", fontsize=9)
            axes.set_ylim(bottom=0)
            axes.grid(visible=True, alpha=0.3)
        rates.legend(fontsize=8)
    figure.savefig(path, dpi=90)
    return True


def over_time(timeline: Sequence[dict[str, Any]], what: str) -> tuple[list[float], list[float]]:
    """By how much the total `what` grew a second, between points of the timeline."""
    at_s, per_s = [], []
    last = timeline[0]
    for point in timeline[1:]:
        length_s = point["at_s"] - last["at_s"]
        if length_s >= STEP_S:
            at_s.append(point["at_s"])
            per_s.append((point[what] - last[what]) / length_s)
            last = point
    return at_s, per_s


def draw_growth(outcomes: Sequence[Outcome], path: Path) -> bool:
    """Writes a PNG with a panel for every curve of which there are two points or more; False: there is none."""
    found = [*curves_of_rows(outcomes), *curves_of_stores(outcomes)]
    if not found:
        return False
    figure, panels = new_figure(len(found))
    for axes, (title, across, up, lines) in zip(panels, found, strict=True):
        draw_curve(axes, lines)
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel(across, fontsize=9)
        axes.set_ylabel(up, fontsize=9)
    figure.savefig(path, dpi=110)
    return True


Lines = dict[str, tuple[str | None, list[tuple[float, float]]]]
Panel = tuple[str, str, str, Lines]


def curves_of_rows(outcomes: Sequence[Outcome]) -> Iterator[Panel]:
    """(title, what is across, what is up, the points of each server) of every curve that the rows are points of."""
    for name, curve in CURVES.items():
        lines: Lines = {}
        rows = sorted((row for row in SCENARIOS if row.curve == name), key=lambda row: int(getattr(row, curve.size)))
        for row in rows:
            for server in dict.fromkeys(run.server for run in outcomes if run.scenario == row.name):
                value = headline_median(outcomes, row.name, server, curve.figure)
                if value is not None:
                    points = lines.setdefault(SERVERS[server].title, (COLOURS.get(server), []))[1]
                    points.append((float(getattr(row, curve.size)), value))
        if any(len(points) > 1 for _, points in lines.values()):
            yield curve.title, curve.size.replace("_", " "), curve.unit, lines


def curves_of_stores(outcomes: Sequence[Outcome]) -> Iterator[Panel]:
    """The same of runs that measured rooms of several sizes themselves (bench/history.py)."""
    for run in outcomes:
        growth = run.load.get("growth")
        if growth and run.round == 1:
            lines: Lines = {what: (None, [(size, ms) for size, ms in points]) for what, points in growth.items()}
            yield f"{title_of(run.scenario)}: {SERVERS[run.server].title}", "messages in the room", "ms", lines


def draw_curve(axes: Axes, lines: Lines) -> None:
    for label, (colour, points) in lines.items():
        axes.plot([size for size, _ in points], [value for _, value in points], "o-", color=colour, label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
