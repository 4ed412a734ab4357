"""What a person and a program read of a run: lines while it goes on, a table and the goals at its end, JSON."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from bench import figures, machine
from bench.figures import Outcome
from bench.goals import Verdict
from bench.rows import title_of
from bench.scenarios import OURS
from bench.servers import SERVERS
from bench.summary import print_summary
from bench.texts import number, percent


@dataclass(frozen=True)
class Column:
    """A figure as a column of a mode's table."""

    heading: str
    figure: str
    text: Callable[[float], str] = number


COLUMNS = {
    "throughput": (
        Column("messages/s", "messages_per_s"),
        Column("deliveries/s", "deliveries_per_s"),
        Column("ack p50\nms", "p50_ms"),
        Column("ack p99\nms", "p99_ms"),
        Column("CPU µs\na message", "cpu_per_message_us"),
        Column("statements\na message", "statements_per_message"),
    ),
    "echo": (
        Column("pings/s", "messages_per_s"),
        Column("p50 ms", "p50_ms"),
        Column("p99", "p99_ms"),
        Column("CPU µs\na ping", "cpu_per_message_us"),
    ),
    "churn": (
        Column("back/s", "returns_per_s"),
        Column("authenticated\np50 ms", "back_p50_ms"),
        Column("p99", "back_p99_ms"),
        Column("told others\na second", "events_per_s"),
        Column("CPU µs\na return", "cpu_per_return_us"),
    ),
    "store": (
        Column("rooms up to", "most_messages"),
        Column("newest page\nms", "page_ms"),
        Column("send ms", "send_ms"),
        Column("rare word\nms", "search_ms"),
        Column("worst ratio\nto the smallest", "worst_ratio"),
    ),
    "steady": (
        Column("p50 ms", "p50_ms"),
        Column("p90", "p90_ms"),
        Column("p99", "p99_ms"),
        Column("p99.9", "p999_ms"),
        Column("max", "max_ms"),
        Column("ack p99", "ack_p99_ms"),
        Column("behind s", "behind_s"),
        Column("slow\nclosed", "slow_closed"),
        Column("most MB", "most_memory_mb"),
        Column("memory\ngrew to", "memory_growth"),
        Column("CPU µs\na message", "cpu_per_message_us"),
        Column("statements\na message", "statements_per_message"),
    ),
    "fanout": (
        Column("CPU µs a delivery", "cpu_per_delivery_us"),
        Column("deliveries/s", "deliveries_per_s"),
        Column("all served p50 ms", "p50_ms"),
    ),
    "storm": (
        Column("first back s", "first_s"),
        Column("half back s", "half_s"),
        Column("all back s", "recover_s"),
        Column("CPU s", "recover_server_cpu_s"),
        Column("tries each", "tries_per_connection"),
        Column("statements\na room", "statements_per_room"),
    ),
    "k6": (
        Column("messages/s", "messages_per_s"),
        Column("deliveries/s", "deliveries_per_s"),
        Column("p50 ms", "p50_ms"),
        Column("p99", "p99_ms"),
        Column("ack p99", "ack_p99_ms"),
        Column("connect p99", "connect_p99_ms"),
        Column("caught up max", "caught_up_max_ms"),
        Column("page p99", "page_p99_ms"),
        Column("upload p99", "upload_p99_ms"),
        Column("thresholds\ncrossed", "crossed"),
    ),
    "connect": (
        Column("all in s", "connect_s"),
        Column("connections/s", "connections_per_s"),
        Column("KB each", "kb_per_connection"),
        Column("CPU when idle", "idle_share", percent),
    ),
}
SHARES = {"server_share": "server", "database_share": "db", "bus_share": "bus", "generator_share": "generator"}


def line_text(outcome: Outcome) -> str:
    """A run in one line, for when it is done."""
    columns = [column for column in COLUMNS[outcome.mode] if column.figure in outcome.figures]
    found = ", ".join(f"{column.heading} {text_of(outcome, column)}" for column in columns).replace("\n", " ")
    failure = f"[red]FAILED: {outcome.failure}[/red]" if outcome.failure else ""
    return f"{outcome.scenario} · {outcome.server}: {found} {failure}"


def text_of(run: Outcome, column: Column) -> str:
    return column.text(run.figures[column.figure]) if column.figure in run.figures else ""


def table_of(outcomes: Sequence[Outcome], scenario: str) -> Table:
    """The scenario's runs, with the CPU of all who took part: the one at its limit is what was measured."""
    runs = [outcome for outcome in outcomes if outcome.scenario == scenario]
    # what none of them has (statements of an embedded database, a bus) takes no place
    columns = [column for column in COLUMNS[runs[0].mode] if any(column.figure in run.figures for run in runs)]
    shares = {share: name for share, name in SHARES.items() if any(run.figures.get(share) for run in runs)}
    title = f"[bold]{title_of(scenario)}[/bold] ({scenario})"
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", min_width=25)
    for column in columns:
        table.add_column(column.heading, justify="right")
    table.add_column("vs Node", justify="right")
    table.add_column(f"CPU %\n{'·'.join(shares.values())}", justify="right")
    table.add_column("limit")
    for run in runs:
        style = "bold" if run.server in OURS else ""
        if not run.figures:
            table.add_row(SERVERS[run.server].title, *["—"] * len(columns), style=style)
            continue
        texts = [text_of(run, column) for column in columns]
        ratio = figures.against_node(outcomes, run)
        texts.append("" if ratio is None else number(ratio))
        texts.append(" · ".join(f"{run.figures[share] * 100:.0f}" for share in shares))
        texts.append(figures.bottleneck(run.mode, run.figures))
        table.add_row(SERVERS[run.server].title, *texts, style=style)
    return table


def remarks(runs: Sequence[Outcome]) -> Iterator[str]:
    """What one must know of a scenario's runs beside their figures."""
    disturbed: dict[str, float] = {}
    for run in runs:
        title = SERVERS[run.server].title
        if run.failure:
            yield f"[red]FAILED {title}: {run.failure}[/red]"
        if run.figures and figures.bottleneck(run.mode, run.figures) == "generator":
            yield f"[yellow]{title}: the generator was the bottleneck, the server can do more[/yellow]"
        if run.figures.get("send_lag_ms", 0) > figures.LATE_MS:
            late = number(run.figures["send_lag_ms"])
            yield f"[yellow]{title}: up to {late} ms of its latency is the generator's, which sent that late[/yellow]"
        share = max(run.figures.get(figure, 0) for figure in figures.STRANGERS)
        if share > figures.DISTURBED:
            disturbed[title] = max(share, disturbed.get(title, 0))
    if disturbed:
        shares = ", ".join(f"{title} ({share:.0%})" for title, share in disturbed.items())
        yield f"[yellow]disturbed, something else took that much of a core that it had: {shares}[/yellow]"


def print_report(
    outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], skipped: dict[str, str], console: Console
) -> None:
    """The table, the goals, and what was skipped."""
    for scenario in dict.fromkeys(outcome.scenario for outcome in outcomes):
        console.print(table_of(outcomes, scenario))
        for remark in remarks([outcome for outcome in outcomes if outcome.scenario == scenario]):
            console.print(remark)
    console.print("\nvs Node: how many times better than Node. CPU: of one core. behind: what came after the end.\n")
    for verdict in verdicts:
        mark = {True: "[green]met   [/green]", False: "[red]MISSED[/red]", None: "[dim]open  [/dim]"}[verdict.is_met]
        value = "not measured" if verdict.value is None else f"{verdict.value:.2f}"
        caution = " [yellow](disturbed)[/yellow]" if verdict.is_disturbed else ""
        console.print(f"{mark} {verdict.text} — {value}{caution}")
    for server, sentence in skipped.items():
        console.print(f"[yellow]SKIPPED {SERVERS[server].title}: {sentence}[/yellow]")
    if outcomes:
        print_summary(outcomes, verdicts, console)


def new_folder(results: Path) -> Path:
    """A folder for all that a run leaves behind, named by the time."""
    folder = results / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}"
    folder.mkdir(parents=True)
    return folder


def write_json(
    folder: Path, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], skipped: dict[str, str], command: str
) -> Path:
    """Everything that was measured, as run.json in the folder."""
    path = folder / "run.json"
    content = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine.description(),
        "skipped": skipped,
        "goals": [asdict(verdict) for verdict in verdicts],
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
