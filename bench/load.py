"""Runs the native generator against a server and watches the server meanwhile: CPU time over exactly the generator's
measured window, memory, and a timeline for the plots. Called by harness.py.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, process_time
from typing import Any

from bench import machine, processes
from bench.scenarios import Scenario
from bench.server import GENERATOR, Server, compiled

Progress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Sample:
    """What had been used up at one moment, by whom, and for how long the cores had been busy."""

    at_s: float
    server_cpu_s: float
    database_cpu_s: float
    bus_cpu_s: float
    harness_cpu_s: float
    server_core_s: float
    load_cores_s: float
    memory_bytes: int
    #: that the database has been given, where they are counted
    statements: int | None
    #: open files of the server, nearly all of them sockets
    sockets: int = 0


@dataclass
class Load:
    """What one run of the generator gave: its own report, and samples of the server by the generator's marks."""

    report: dict[str, Any]
    marks: dict[str, Sample] = field(default_factory=dict)
    #: When the server was started again, by the machine's monotonic clock, which the generator's report uses too.
    started_again_at_s: float | None = None
    timeline: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class LoadFailed(Exception):
    """The generator gave no report; its text says why."""


def run_load(
    scenario: Scenario,
    server: Server,
    *,
    clients: Path,
    cores: machine.Cores,
    on_progress: Progress,
    on_begin: Callable[[Server], None] = lambda _: None,
    log: Path | None = None,
) -> Load:
    """Runs the scenario's load to its end. `on_progress` gets phase, done and total, `on_begin` the server when the
    window begins. Raises LoadFailed.

    What the clients send and hear goes to the file `log`.

    The generator ends by itself whatever the server does; there is no deadline here.
    """
    command = [str(compiled(GENERATOR, "generator")), scenario.mode]
    command += ["--port", ",".join(map(str, server.ports)), "--clients", str(clients), "--dialect", server.dialect]
    for flag, value in scenario.flags().items():
        command += [flag, str(value)]
    if log is not None:
        command += ["--log", str(log)]
    load = Load({}, {"start": sample(server, cores)})
    said = []
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            processes.pinned(command, cores=cores.generator),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as process,
    ):
        try:
            assert process.stderr is not None
            for line in process.stderr:
                match line.split():
                    case ["mark", "kill"]:
                        assert server.kill_and_start is not None
                        server, load.started_again_at_s = server.kill_and_start()
                    case ["mark", name]:
                        load.marks[name] = sample(server, cores)
                        if name == "begin":
                            on_begin(server)
                    case ["progress", phase, done, total, *totals]:
                        on_progress(phase, float(done), float(total))
                        machine.share_niceness(database_pids(server))
                        load.timeline.append(point(phase, sample(server, cores), load.marks["start"], totals))
                    case _:
                        said.append(line.strip())
        finally:
            processes.stop(process)
        output.seek(0)
        text = output.read()
    if process.returncode or not text:
        why = " ".join(said) or f"it ended with {process.returncode}"
        raise LoadFailed(f"{why} (server: {processes.last_line(server.log)})")
    load.report = json.loads(text)
    load.marks["finish"] = sample(server, cores)
    return load


def point(phase: str, now: Sample, start: Sample, totals: list[str]) -> dict[str, Any]:
    """A point of the timeline. `totals`: messages acknowledged and delivered so far."""
    acknowledged, delivered = map(int, totals)
    return {
        "phase": phase,
        "at_s": round(now.at_s - start.at_s, 3),
        "acknowledged": acknowledged,
        "delivered": delivered,
        "server_cpu_s": round(now.server_cpu_s - start.server_cpu_s, 3),
        "memory_bytes": now.memory_bytes,
        "database_cpu_s": round(now.database_cpu_s - start.database_cpu_s, 3),
        "bus_cpu_s": round(now.bus_cpu_s - start.bus_cpu_s, 3),
        "statements": now.statements,
        "sockets": now.sockets,
    }


def sample(server: Server, cores: machine.Cores) -> Sample:
    bus = [server.bus_pid] if server.bus_pid else []
    return Sample(
        at_s=monotonic(),
        server_cpu_s=machine.cpu_s(server.pids),
        database_cpu_s=machine.cpu_s(database_pids(server)),
        bus_cpu_s=machine.cpu_s(bus),
        harness_cpu_s=process_time(),
        server_core_s=machine.busy_s(cores.server),
        load_cores_s=machine.busy_s({*cores.generator, *cores.database}),
        memory_bytes=sum(map(machine.memory_bytes, server.pids)),
        statements=server.count_statements() if server.count_statements else None,
        sockets=sum(map(machine.open_files, server.pids)),
    )


def database_pids(server: Server) -> list[int]:
    return machine.with_children(server.database_pid) if server.database_pid else []
