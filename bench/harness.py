"""Runs the plan: each scenario on each of its servers in turn, each time with a new server in a new folder and new
people. Shows progress, gives an outcome for every run, and never lets one server's failure end the others' runs.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench import figures, flames, k6_load, load, machine, processes, seed, store_load
from bench.scenarios import OURS, Scenario
from bench.server import CACHE, Place, compiler_lacks
from bench.servers import SERVERS

SETTLE_S = 3.0
CALM = 0.1
#: What is kept of a run: what its clients said and heard, and an export of the database; not both are logs by name.
LOG = "clients.ndjson"
EXPORT = "database.export"


@dataclass(frozen=True)
class Run:
    """One run of the plan."""

    scenario: Scenario
    server: str
    round: int


def plan(scenarios: Sequence[Scenario], servers: Sequence[str], rounds: int) -> list[Run]:
    """Row by row, the servers of a row one after the other, so that what the machine does meets all of them alike."""
    return [
        Run(scenario, server, number)
        for scenario in scenarios
        for number in range(1, rounds + 1)
        for server in scenario.servers
        if server in servers
    ]


def what_is_lacking(servers: Sequence[str]) -> dict[str, str]:
    """Installs what can be installed. A sentence for each server that cannot run here."""
    lacking = {server: SERVERS[server].lacks() for server in servers}
    return {server: sentence for server, sentence in lacking.items() if sentence}


def execute(
    runs: Sequence[Run],
    console: Console,
    *,
    patience_s: float = 0,
    niceness: int = 0,
    logs: Path | None = None,
    pictures: Path | None = None,
) -> Iterator[figures.Outcome]:
    """Runs the plan, with a progress bar on the console. Waits up to `patience_s` for calm before each run. What can be
    verified of runs of chatd goes to the folder `logs`, a flame graph of each run to the folder `pictures`.
    """
    cores = machine.cores()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
    with (
        leave_alone(cores.server),
        be_nice(niceness),
        open_folder() as folder,
        Progress(*columns, console=console, refresh_per_second=4) as progress,
    ):
        total = sum(run.scenario.length_s() + SETTLE_S for run in runs)
        whole = progress.add_task("all", total=total, detail=f"0 of {len(runs)}")
        for number, run in enumerate(runs, start=1):
            own = folder / f"{number:03}"
            own.mkdir()
            task = progress.add_task(f"{run.scenario.name} · {run.server}", total=None, detail="starting")
            wait_for_calm(cores, patience_s)
            kept = log_folder(logs, run.scenario.name, run.server, run.round) if logs and is_logged(run) else None
            picture = pictures / f"{run.scenario.name}-{run.server}-{run.round}.svg" if pictures else None
            yield execute_one(run, Place(own, cores), partial(show, progress, task), kept=kept, picture=picture)
            progress.remove_task(task)
            progress.update(
                whole, advance=run.scenario.length_s() + SETTLE_S, detail=f"{number} of {len(runs)}", refresh=True
            )
            shutil.rmtree(own, ignore_errors=True)


def is_logged(run: Run) -> bool:
    """Whether what its clients said and heard can be kept: the native generator's, of chatd."""
    return run.server in OURS and run.scenario.mode not in {"k6", "store"}


def wait_for_calm(cores: machine.Cores, patience_s: float) -> None:
    """Returns when nothing else runs on the cores in use, at the latest after `patience_s`."""
    used = {*cores.server, *cores.generator, *cores.database}
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        before, began = machine.busy_s(used), time.monotonic()
        time.sleep(0.5)
        if (machine.busy_s(used) - before) / (time.monotonic() - began) < CALM:
            return


def show(progress: Progress, task: TaskID, phase: str, done: float, total: float) -> None:
    progress.update(task, completed=done, total=total, detail=phase)


def log_folder(logs: Path, scenario: str, server: str, number: int) -> Path:
    """Where a run's clients and its database are kept."""
    return logs / f"{scenario}-{server}-{number}"


def execute_one(
    run: Run, place: Place, on_progress: load.Progress, *, kept: Path | None = None, picture: Path | None = None
) -> figures.Outcome:
    """Starts the server, loads it, stops it. What goes wrong becomes the outcome's failure. What the clients said and
    heard is `kept` in a folder with what the database says; a flame graph of the window becomes the file `picture`.
    """
    scenario = run.scenario
    if scenario.mode == "store":
        return store_load.measured(run.scenario, run.server, run.round, place, on_progress)
    population = seed.make_population(scenario.connections, scenario.room_size)
    clients = place.folder / "clients"
    seed.write_clients(population, clients)
    if kept is not None:
        kept.mkdir(parents=True)
    try:
        with (
            SERVERS[run.server].open(population, place) as server,
            receive_on(place.cores.generator) if scenario.is_steered else contextlib.nullcontext(),
            flames.open_profiler(scenario, picture, place.cores) as on_begin,
        ):
            if scenario.mode == "k6":
                done = k6_load.run_k6(
                    scenario, server, clients=clients, cores=place.cores, on_progress=on_progress, on_begin=on_begin
                )
            else:
                done = load.run_load(
                    scenario,
                    server,
                    clients=clients,
                    cores=place.cores,
                    on_progress=on_progress,
                    on_begin=on_begin,
                    log=kept / LOG if kept else None,
                )
            if kept is not None and server.export is not None:
                server.export(kept / EXPORT)
        failure = figures.failure_of(done)
        if failure:
            kept = CACHE / f"failed-{scenario.name}-{run.server}.log"
            shutil.copy(server.log, kept)
            failure += f"; its log: {kept}"
    except (processes.StartFailed, load.LoadFailed) as error:
        return figures.Outcome(scenario.name, scenario.mode, run.server, run.round, failure=str(error))
    return figures.Outcome(
        scenario.name,
        scenario.mode,
        run.server,
        run.round,
        figures=figures.figures_of(scenario.mode, done, len({*place.cores.generator, *place.cores.database})),
        failure=failure,
        load=done.as_json(),
    )


@contextlib.contextmanager
def leave_alone(cores: Sequence[int]) -> Iterator[None]:
    """Keeps the harness itself away from these cores while the block lasts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def receive_on(cores: Sequence[int]) -> Iterator[None]:
    """Has the kernel do what it does for the receiver of a loopback packet on these cores (receive packet steering,
    Documentation/networking/scaling.rst). Else it does so in the sender's `send`, and every server would pay for the
    clients' network stack, which in life is another machine's. Needs root; the report says whether it was so.
    """
    try:
        before = machine.STEERING.read_text()
        machine.STEERING.write_text(f"{sum(1 << core for core in cores):x}")
    except OSError:
        yield
        return
    try:
        yield
    finally:
        machine.STEERING.write_text(before)


@contextlib.contextmanager
def be_nice(niceness: int) -> Iterator[None]:
    """Gives this process, and every process started in the block, this niceness. Below 0 needs root, else it exits with
    a sentence. Where the kernel shares cores between sessions first (sched(7), autogroup), the session gets it too.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        set_niceness(niceness)
    except PermissionError:
        sys.exit(f"Only root may run the bench with --nice {niceness}.")
    try:
        yield
    finally:
        set_niceness(before)


def set_niceness(niceness: int) -> None:
    if niceness == os.getpriority(os.PRIO_PROCESS, 0):
        return
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    group = Path("/proc/self/autogroup")
    if group.exists():
        group.write_text(str(niceness))


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder on a real disk for every server's data, since each message is fsynced: in .cache/bench, or in /var/tmp
    where another user (PostgreSQL's) cannot reach the checkout. Gone when the block is left.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    is_reachable = all(parent.stat().st_mode & 0o001 for parent in [CACHE, *CACHE.parents])
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE if is_reachable else "/var/tmp"))  # noqa: S108  (a real disk)
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_machine() -> None:
    """Exits with one sentence where nothing can be measured."""
    if lacking := compiler_lacks():
        sys.exit(lacking)
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        sys.exit("The bench needs Linux and two cores: one for the server, one for the load.")
