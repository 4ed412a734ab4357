"""Two reports beside each other: `python -m bench compare A.json B.json`. For each row and server that both have, how
many times the figure of A that of B is, with the spread that repeated rounds give. Reads what report.py wrote.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.figures import HEADLINES, Headline, Outcome, rounds_that_count
from bench.rows import title_of
from bench.servers import SERVERS
from bench.texts import number

#: What is compared beside a row's headline, where both reports have it.
ALSO = (
    Headline("cpu_per_message_us", "µs CPU a message", is_lower_better=True),
    Headline("memory_mb", "MB", is_lower_better=True),
)


class Unreadable(Exception):
    """A file is no report of the bench; its text says which and why."""


@dataclass(frozen=True)
class Report:
    """What a file says: its runs, the machine that they were on, and the command that repeats them."""

    path: Path
    machine: dict[str, Any]
    command: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Ratio:
    """How many times B's figure A's is. `lowest` and `highest` are those of single rounds against single rounds; None
    where one side has a single round, whose spread nobody knows.
    """

    scenario: str
    server: str
    headline: Headline
    before: float
    after: float
    lowest: float | None
    highest: float | None

    @property
    def value(self) -> float:
        return self.after / self.before

    @property
    def says(self) -> str:
        """What the ratio means: nothing, where the spread reaches both sides of 1."""
        if self.lowest is None or self.highest is None:
            return "one round: unknown"
        if self.lowest <= 1 <= self.highest:
            return "within the spread"
        return "better" if (self.value < 1) == self.headline.is_lower_better else "worse"


def read_report(path: Path) -> Report:
    """Reads the JSON of a run, or the folder that has it. Raises Unreadable."""
    file = path / "run.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text())
        outcomes = tuple(Outcome(**outcome) for outcome in content["outcomes"])
        return Report(file, content["machine"], content["command"], outcomes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{file} is no report of the bench: {error!r}") from error


def ratios(before: Report, after: Report) -> Iterator[Ratio]:
    """Every figure that is compared, of each row and server that both reports have."""
    seen = dict.fromkeys((run.scenario, run.server) for run in before.outcomes)
    for scenario, server in seen:
        old = rounds_that_count(before.outcomes, scenario, server)
        new = rounds_that_count(after.outcomes, scenario, server)
        if not old or not new:
            continue
        headline = HEADLINES[old[0].mode]
        for wanted in dict.fromkeys((headline, *ALSO)):
            ratio = ratio_of(old, new, wanted)
            if ratio is not None:
                yield ratio


def ratio_of(old: Sequence[Outcome], new: Sequence[Outcome], headline: Headline) -> Ratio | None:
    """None: one of the sides does not have the figure, or it is zero."""
    befores, afters = (
        [run.figures[headline.figure] for run in runs if run.figures.get(headline.figure)] for runs in (old, new)
    )
    if not befores or not afters:
        return None
    has_spread = len(befores) > 1 and len(afters) > 1
    return Ratio(
        old[0].scenario,
        old[0].server,
        headline,
        median(befores),
        median(afters),
        min(afters) / max(befores) if has_spread else None,
        max(afters) / min(befores) if has_spread else None,
    )


def print_comparison(before: Report, after: Report, console: Console) -> None:
    """The table, and what makes the two reports unlike each other."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("", "", "", "A", "B", "B / A", "spread", ""):
        table.add_column(heading, justify="right" if heading in {"A", "B", "B / A", "spread"} else "left")
    last = None
    for ratio in ratios(before, after):
        spread = "" if ratio.lowest is None or ratio.highest is None else f"{ratio.lowest:.2f} … {ratio.highest:.2f}"
        style = {"worse": "red", "better": "green"}.get(ratio.says, "")
        table.add_row(
            title_of(ratio.scenario) if ratio.scenario != last else "",
            SERVERS[ratio.server].title if ratio.server in SERVERS else ratio.server,
            ratio.headline.unit,
            number(ratio.before),
            number(ratio.after),
            f"{ratio.value:.2f}",
            spread,
            ratio.says,
            style=style,
        )
        last = ratio.scenario
    console.print(f"A: {before.path}, {before.command}\nB: {after.path}, {after.command}", soft_wrap=True)
    if not table.rows:
        console.print("[yellow]No row was run on the same server in both.[/yellow]")
        return
    console.print(table)
    for difference in differences(before.machine, after.machine):
        console.print(f"[yellow]{difference}[/yellow]")
    for report in (before, after):
        for run in report.outcomes:
            if run.failure:
                console.print(f"[red]{report.path}: {run.scenario} · {run.server} FAILED: {run.failure}[/red]")


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What of the machine and the versions was not the same: such figures are not to be compared without a thought."""
    for name in ("cpu", "cores", "memory_mb", "receives_on_load_core"):
        if before.get(name) != after.get(name):
            yield f"another {name}: {before.get(name)} and {after.get(name)}"
    old, new = before.get("versions", {}), after.get("versions", {})
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield f"another {name}: {old.get(name)} and {new.get(name)}"
