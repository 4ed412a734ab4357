"""Draws the rows of a run: a panel a row, bars for rates and costs, the whole distribution for latencies. curves.py
draws what changes over time and grows. These two are the only doors to matplotlib.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import HEADLINES, Outcome, headline_median
from bench.rows import title_of
from bench.scenarios import (
    CENTRIFUGO,
    CHATD,
    FASTAPI,
    FLOOR,
    NODE,
    ONE_NODE,
    SOCKET_IO,
    TRIO_PLAIN,
    TWO_NODES,
    WEBSOCKETS,
)
from bench.servers import SERVERS

COLOURS = {
    CHATD: "#2563eb",
    ONE_NODE: "#7c3aed",
    TWO_NODES: "#db2777",
    NODE: "#65a30d",
    SOCKET_IO: "#0d9488",
    WEBSOCKETS: "#dc2626",
    FASTAPI: "#92400e",
    TRIO_PLAIN: "#d97706",
    CENTRIFUGO: "#0891b2",
    FLOOR: "#6b7280",
}
PERCENTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)


def new_figure(panels: int, *, most_columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, side by side."""
    columns = min(most_columns, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(7 * columns, 3.4 * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(panels)]


def draw_rows(outcomes: Sequence[Outcome], path: Path) -> bool:
    """Writes a PNG with a panel for every row that has figures; False: there is none."""
    measured = [outcome for outcome in outcomes if outcome.figures and outcome.mode in HEADLINES]
    scenarios = list(dict.fromkeys(outcome.scenario for outcome in measured))
    if not scenarios:
        return False
    figure, panels = new_figure(len(scenarios))
    for axes, scenario in zip(panels, scenarios, strict=True):
        runs = [outcome for outcome in measured if outcome.scenario == scenario]
        axes.set_title(title_of(scenario), loc="left", fontsize=10)
        if runs[0].mode == "steady":
            draw_latencies(axes, runs)
        elif runs[0].mode == "storm":
            draw_recovery(axes, runs)
        else:
            draw_bars(axes, runs)
    figure.savefig(path, dpi=110)
    return True


def draw_bars(axes: Axes, runs: Sequence[Outcome]) -> None:
    """The headline of each server, the median of its rounds."""
    headline = HEADLINES[runs[0].mode]
    for server in dict.fromkeys(run.server for run in runs):
        value = headline_median(runs, runs[0].scenario, server, headline.figure) or 0.0
        bars = axes.barh(SERVERS[server].title, value, color=COLOURS.get(server))
        axes.bar_label(bars, fmt="{:,.4g}" if value < 1000 else "{:,.0f}", padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel(headline.unit + (" (less is better)" if headline.is_lower_better else ""), fontsize=9)


def draw_latencies(axes: Axes, runs: Sequence[Outcome]) -> None:
    """Latency over the share of deliveries that are slower, both on a logarithmic scale."""
    timed = [run for run in runs if run.load["report"]["delivery_times"]["slots"]]
    if not timed:
        axes.text(0.5, 0.5, "nothing was timed", ha="center")
        return
    for run in timed:
        slower, latency_ms = distribution(run.load["report"]["delivery_times"]["slots"])
        label = SERVERS[run.server].title if run.round == 1 else None
        axes.plot(slower, latency_ms, color=COLOURS.get(run.server), label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    axes.set_xticks([1 - share for share in PERCENTILES], [f"p{share * 100:g}" for share in PERCENTILES])
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)
    axes.set_ylabel("ms from the intended send", fontsize=9)
    axes.legend(fontsize=9)


def draw_recovery(axes: Axes, runs: Sequence[Outcome]) -> None:
    """How many clients were back and caught up, over the seconds since the daemon was started again."""
    for run in runs:
        at_s = [at - run.load["started_again_at_s"] for at, _ in run.load["report"]["recovered"]]
        back = [count for _, count in run.load["report"]["recovered"]]
        label = SERVERS[run.server].title if run.round == 1 else None
        axes.plot([0.0, *at_s], [0, *back], color=COLOURS.get(run.server), label=label, drawstyle="steps-post")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.set_xlabel("s since the daemon was started again", fontsize=9)
    axes.set_ylabel("clients caught up", fontsize=9)
    axes.legend(fontsize=9)


def distribution(slots: Sequence[Sequence[Any]]) -> tuple[list[float], list[float]]:
    """From [upper end in µs, count] slots: the share that is slower, and the latency in ms."""
    total = sum(count for _, count in slots)
    slower, latency_ms, below = [], [], 0
    for upper_us, count in slots:
        below += count
        slower.append(max(1 - below / total, 0.5 / total))
        latency_ms.append(upper_us / 1000)
    return slower, latency_ms
