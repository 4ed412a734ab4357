"""Runs the bench of history and search (history.py) as a row: a process of its own on the server's core, rooms of a
thousand messages, ten thousand, and so on. Called by harness.py.
"""

import json
import subprocess
import sys
import time
from typing import Any

from bench import postgres, processes
from bench.figures import Outcome
from bench.load import Progress
from bench.scenarios import CHATD, Scenario
from bench.server import ROOT, Place

SMALLEST = 1000
ROUNDS = 300
KINDS = {CHATD: "sqlite"}
#: The rows of history.py that have a figure of their own; all are in the plot.
NAMED = {"page_ms": "the newest page", "send_ms": "a message sent", "search_ms": "a search for a rare word"}
#: A search for a frequent word looks at what it finds, so it is not expected to stay the same.
GROWING = ("a search for a frequent word",)


def sizes_up_to(most: int) -> list[int]:
    """Powers of ten from a thousand on, and `most` as the last."""
    sizes, size = [], SMALLEST
    while size < most:
        sizes.append(size)
        size *= 10
    return [*sizes, most]


def measured(scenario: Scenario, server: str, number: int, place: Place, on_progress: Progress) -> Outcome:
    """What history.py finds on the server's database; a failure where it ends badly."""
    kind, sizes = KINDS.get(server, "postgres"), sizes_up_to(scenario.most_messages)
    found, log = place.folder / "history.json", place.folder / "history.log"
    command = [sys.executable, "-m", "bench.history", "--only", kind, "--sizes", ",".join(map(str, sizes))]
    command += ["--rounds", str(ROUNDS if sizes[-1] > 10_000 else 5), "--json", str(found)]

    def outcome(failure: str | None, **more: Any) -> Outcome:
        return Outcome(scenario.name, scenario.mode, server, number, failure=failure, **more)

    if kind == "postgres" and (lacking := postgres.ensure_installed()):
        return outcome(lacking)
    # its databases are as large as the rooms: on a real disk, where the other servers have theirs
    environment = processes.environment({"PYTHONPATH": str(ROOT), "TMPDIR": str(place.folder)})
    with processes.open_process(command, cores=place.cores.server, log=log, env=environment, cwd=ROOT) as process:
        began = time.monotonic()
        while process.poll() is None:
            on_progress("reading", time.monotonic() - began, scenario.length_s())
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    if not found.exists():
        return outcome(f"history.py ended with {process.returncode}: {processes.last_line(log)}")
    rows = json.loads(found.read_text())["rows"][kind]
    growth = {row["name"]: list(zip(sizes, row["medians_ms"], strict=True)) for row in rows}
    flat = [points[-1][1] / points[0][1] for name, points in growth.items() if name not in GROWING]
    figures = {"most_messages": float(sizes[-1]), "worst_ratio": max(flat)}
    figures |= {figure: growth[name][-1][1] for figure, name in NAMED.items()}
    return outcome(None, figures=figures, load={"growth": growth, "rows": rows})
