"""The end of a report, to be read at a glance: a line a row with chatd's figure, the best of the others' and how many
times better chatd is, then how many goals were met. Called by report.py.
"""

from collections.abc import Sequence
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from bench import figures
from bench.figures import HEADLINES, Outcome, headline_median
from bench.goals import Verdict
from bench.rows import title_of
from bench.scenarios import CHATD, FLOOR, OURS
from bench.servers import SERVERS
from bench.texts import number


def print_summary(outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], console: Console) -> None:
    """A table of a line a row, and a line about the goals."""
    table = Table(title="[bold]At a glance[/bold]", title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    for heading in ("", "", "chatd", "best other", "", "times\nbetter", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for scenario in dict.fromkeys(outcome.scenario for outcome in outcomes):
        table.add_row(*line_of(outcomes, scenario))
    console.print(table)
    if verdicts:
        counts = {is_met: sum(1 for each in verdicts if each.is_met is is_met) for is_met in (True, False, None)}
        doubtful = sum(1 for each in verdicts if each.is_disturbed)
        said = f"Goals: {counts[True]} met, {counts[False]} missed, {counts[None]} not measured"
        console.print(said + (f"; {doubtful} of them disturbed: again on a quiet machine" if doubtful else ""))


def line_of(outcomes: Sequence[Outcome], scenario: str) -> list[str]:
    """Title, unit, chatd's figure, the best of the others', whose that is, how many times better, what is doubtful."""
    runs = [run for run in outcomes if run.scenario == scenario]
    headline = HEADLINES[runs[0].mode]
    values = {
        server: value
        for server in dict.fromkeys(run.server for run in runs)
        if (value := headline_median(runs, scenario, server, headline.figure)) is not None
    }
    mine = values.get(CHATD)
    # one that lost something is not the best at anything, and the floor is no chat server
    failed = {run.server for run in runs if run.failure}
    others = {server: value for server, value in values.items() if server not in {*OURS, FLOOR, *failed}}
    best = (min if headline.is_lower_better else max)(others, key=lambda server: others[server], default="")
    ratio = figures.times_better(mine, others.get(best), is_lower_better=headline.is_lower_better)
    return [
        title_of(scenario),
        headline.unit,
        "—" if mine is None else number(mine),
        number(others[best]) if best else "",
        SERVERS[best].title if best else "",
        "" if ratio is None else number(ratio),
        doubts(runs),
    ]


def doubts(runs: Sequence[Outcome]) -> str:
    """What is wrong with chatd's runs, in a word or two."""
    mine = [run for run in runs if run.server in OURS]
    measured = [run for run in mine if run.figures]
    if any(run.failure for run in mine):
        return "[red]FAILED[/red]"
    if measured and all(figures.is_disturbed(run) for run in measured):
        return "[yellow]disturbed[/yellow]"
    shares = [run.figures.get("generator_share", 0) for run in measured]
    return "[yellow]the generator's[/yellow]" if shares and median(shares) >= figures.BUSY else ""
