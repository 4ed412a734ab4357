"""The bench's command line: `python -m bench` runs the short set, `run NAME…` any rows, `list` says which there are,
`compare A B` holds two reports beside each other.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import comparison, flames, goals, harness, machine, page, report
from bench.rows import SCENARIOS, short_set, shortened
from bench.scenarios import OURS, Scenario
from bench.servers import SERVERS

RESULTS = Path(__file__).with_name("results")
WIDTH = 140  # of what is written to a file or a pipe
EXAMPLE = "example: python -m bench run steady-rooms-of-10 fanout-1000 --servers chatd,node --repeat 3"


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measures chatd beside its peers, on this machine.", epilog=EXAMPLE
    )
    parser.add_argument("command", nargs="?", choices=("run", "list", "compare"), default="run", help="default: run")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="rows to run (default: the short set), or two reports to compare"
    )
    parser.add_argument("--all", action="store_true", help="every row on every server: hours")
    parser.add_argument("--servers", default=",".join(SERVERS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="rounds of each row (default: 1)")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of the measured window (default: 10)")
    parser.add_argument(
        "--patience", type=float, default=10, metavar="S", help="seconds to wait for a calm machine (default: 10)"
    )
    parser.add_argument(
        "--nice", type=int, default=0, metavar="N", help="niceness of all that is measured; -10 keeps strangers off"
    )
    parser.add_argument(
        "--profile", action="store_true", help="a flame graph of each run of a Python server, by py-spy; costs it time"
    )
    parser.add_argument("--quick", action="store_true", help="a second with few connections: shows that it works")
    parser.add_argument(
        "--log", type=Path, metavar="FOLDER", help="keep what chatd's clients said and heard there, for `chatd verify`"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="default: bench/results")
    options = parser.parse_intermixed_args(arguments)
    if options.command == "compare":
        if len(options.names) != 2:
            parser.error("compare wants two reports: compare A.json B.json")
        return options
    known = {scenario.name for scenario in SCENARIOS}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no row is called {unknown[0]}; there are {', '.join(sorted(known))}")
    options.servers = options.servers.split(",")
    if unknown := [server for server in options.servers if server not in SERVERS]:
        parser.error(f"no server is called {unknown[0]!r}; there are {', '.join(SERVERS)}")
    if options.repeat < 1 or (options.seconds is not None and options.seconds <= 0):
        parser.error("--repeat and --seconds must be above 0")
    if options.profile and (lacking := flames.lacks()):
        parser.error(lacking)
    if options.log is not None and options.log.exists():
        parser.error(f"--log {options.log} is there already; give a new folder")
    return options


def chosen(options: argparse.Namespace) -> list[Scenario]:
    """The rows that the options name, as long as they say; without a name the short set."""
    rows = [scenario for scenario in SCENARIOS if options.all or scenario.name in options.names]
    if not rows:
        rows = short_set()
    if options.quick:
        rows = [shortened(scenario) for scenario in rows]
    if options.seconds:
        rows = [replace(scenario, seconds=options.seconds) for scenario in rows]
    return rows


def main(arguments: Sequence[str]) -> int:
    """0: every run of chatd that took place added up; 1: one did not, or none took place, or a report is none."""
    options = parsed(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    if options.command == "list":
        list_rows()
        return 0
    if options.command == "compare":
        return compare(options.names, console)
    return run(options, shlex.join(["python", "-m", "bench", *arguments]), console)


def list_rows() -> None:
    """A line for each row; those with a star are in the short set."""
    for scenario in SCENARIOS:
        star = "*" if scenario.short else " "
        print(f"{star} {scenario.name:20} {scenario.title} ({', '.join(scenario.servers)})")
    print("* in the short set. By itself: python -m bench.uploads (messages beside uploads, and without)")


def compare(names: Sequence[str], console: Console) -> int:
    """Prints how many times the figures of the first report those of the second are."""
    try:
        before, after = (comparison.read_report(Path(name)) for name in names)
    except comparison.Unreadable as error:
        print(error, file=sys.stderr)
        return 1
    comparison.print_comparison(before, after, console)
    return 0


def run(options: argparse.Namespace, command: str, console: Console) -> int:
    """Runs the plan and leaves its report behind."""
    harness.check_machine()
    skipped = harness.what_is_lacking(options.servers)
    for server, sentence in skipped.items():
        console.print(f"[yellow]Skipping {SERVERS[server].title}: {sentence}[/yellow]")
    servers = [server for server in options.servers if server not in skipped]
    outcomes = []
    folder = report.new_folder(options.results)
    runs = harness.plan(chosen(options), servers, options.repeat)
    for outcome in harness.execute(
        runs,
        console,
        patience_s=options.patience,
        niceness=options.nice,
        logs=options.log,
        pictures=folder if options.profile else None,
    ):
        outcomes.append(outcome)
        console.print(report.line_text(outcome))
    verdicts = [] if options.quick else goals.verdicts(outcomes)
    if not machine.is_steerable():
        console.print("[yellow]Not root: the servers pay for the clients' side of the network too.[/yellow]")
    if options.quick:
        console.print("[yellow]--quick: a second with few connections; the figures mean nothing.[/yellow]")
    report.print_report(outcomes, verdicts, skipped, console)
    report.write_json(folder, outcomes, verdicts, skipped, command)
    console.print(f"\nReport: {page.write(folder, outcomes, verdicts, skipped, command)}", soft_wrap=True)
    for picture in sorted(folder.glob("*.svg")):
        console.print(f"Flame graph: {picture}", soft_wrap=True)
    for log in sorted(folder.glob("*.log")):
        console.print(f"[yellow]No flame graph: {log} has what py-spy said[/yellow]", soft_wrap=True)
    for one in outcomes if options.log else []:
        kept = harness.log_folder(options.log, one.scenario, one.server, one.round)
        if kept.exists():
            console.print(f"chatd verify --settled {kept} --database {kept / harness.EXPORT}", soft_wrap=True)
    return 1 if not outcomes or any(one.failure for one in outcomes if one.server in OURS) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
