"""What a person and a program read of a run: lines while it goes on, a table and the goals at its end, JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import figures, machine
from bench.figures import Outcome
from bench.goals import Verdict
from bench.scenarios import CHATD, scenario_named
from bench.servers import SERVERS

DISTURBED = 0.1


def number(value: float, digits: int = 0) -> str:
    """With thin gaps between thousands: 16 000."""
    return f"{value:,.{digits}f}".replace(",", " ")


def result_text(outcome: Outcome) -> str:
    """The figures of a run in one line."""
    found = outcome.figures
    if not found:
        return "—"
    match outcome.mode:
        case "throughput":
            return (
                f"{number(found['messages_per_s'])} messages/s, {number(found['deliveries_per_s'])} deliveries/s,"
                f" ack p50 {found['p50_ms']:.1f} p99 {found['p99_ms']:.1f} ms"
            )
        case "steady":
            behind = f", {found['behind_s']:.1f} s behind at the end" if found["behind_s"] >= 0.1 else ""
            return (
                f"p50 {found['p50_ms']:.1f}, p90 {found['p90_ms']:.1f}, p99 {found['p99_ms']:.1f},"
                f" p99.9 {found['p999_ms']:.1f}, max {found['max_ms']:.0f} ms,"
                f" ack p99 {found['ack_p99_ms']:.1f} ms{behind}"
            )
        case "fanout":
            return (
                f"{found.get('cpu_per_delivery_us', 0):.2f} µs CPU a delivery,"
                f" {number(found['deliveries_per_s'])} deliveries/s, all served p50 {found['p50_ms']:.1f} ms"
            )
        case _:
            return (
                f"{found['connect_s']:.1f} s for all ({number(found['connections_per_s'])}/s),"
                f" {found['kb_per_connection']:.1f} KB each, {found['idle_share']:.1%} CPU idle"
            )


def line_text(outcome: Outcome) -> str:
    """A run in one line, for when it is done."""
    failure = f"  [red]{outcome.failure}[/red]" if outcome.failure else ""
    return f"{outcome.scenario} · {outcome.server}: {result_text(outcome)}{failure}"


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """Every run, with the CPU of all who took part: the one at its limit is what was measured."""
    table = Table(title="chatd beside its peers", title_justify="left", show_lines=False)
    table.add_column("")
    table.add_column("figures", overflow="fold")
    for heading in ("vs Node", "server", "database", "generator"):
        table.add_column(heading, justify="right")
    table.add_column("limited by")
    shown = ""
    for outcome in outcomes:
        if outcome.scenario != shown:
            shown = outcome.scenario
            table.add_section()
            table.add_row(f"[bold]{scenario_named(shown).title}[/bold]")
        table.add_row(*cells(outcomes, outcome), style="bold" if outcome.server == CHATD else "")
    return table


def cells(outcomes: Sequence[Outcome], outcome: Outcome) -> list[str]:
    found = outcome.figures
    text = result_text(outcome)
    if outcome.failure:
        text += f"\n[red]FAILED: {outcome.failure}[/red]"
    if not found:
        return [SERVERS[outcome.server].title, text]
    if found["stranger_share"] > DISTURBED:
        text += f"\n[yellow]disturbed: something else took {found['stranger_share']:.0%} of the server's core[/yellow]"
    ratio = figures.against_node(outcomes, outcome)
    shares = [f"{found[name]:.0%}" for name in ("server_share", "database_share", "generator_share")]
    return [
        SERVERS[outcome.server].title,
        text,
        "" if ratio is None else f"{ratio:.2f}",
        *shares,
        figures.bottleneck(outcome.mode, found),
    ]


def print_report(
    outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], skipped: dict[str, str], console: Console
) -> None:
    """The table, the goals, and what was skipped."""
    console.print(table_of(outcomes))
    console.print("vs Node: how many times better the row's figure is than Node's. CPU: shares of one core.\n")
    for verdict in verdicts:
        mark = {True: "[green]met   [/green]", False: "[red]MISSED[/red]", None: "[dim]open  [/dim]"}[verdict.is_met]
        value = "not measured" if verdict.value is None else f"{verdict.value:.2f}"
        console.print(f"{mark} {verdict.text} — {value}")
    for server, sentence in skipped.items():
        console.print(f"[yellow]SKIPPED {SERVERS[server].title}: {sentence}[/yellow]")


def write_json(
    folder: Path, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], skipped: dict[str, str], command: str
) -> Path:
    """Everything that was measured, in a file named by the time."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = folder / f"{now:%Y-%m-%dT%H-%M-%SZ}.json"
    content = {
        "at": now.isoformat(timespec="seconds"),
        "command": command,
        "machine": machine.description(),
        "skipped": skipped,
        "goals": [asdict(verdict) for verdict in verdicts],
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
