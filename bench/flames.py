"""Flame graphs on request (`--profile`): py-spy looks at the server a hundred times a second over the measured window,
from the generator's core, without a change to the server. Only what is Python can be looked at. Called by harness.py.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import machine, processes
from bench.scenarios import Scenario
from bench.server import Server

#: Beside the Python that runs the bench, where pip puts it.
PROGRAM = Path(sys.executable).with_name("py-spy")
PER_SECOND = 100
#: Beyond the window, for writing the picture.
PATIENCE_S = 30.0

OnBegin = Callable[[Server], None]


def lacks() -> str | None:
    return None if PROGRAM.exists() else "py-spy is not installed: pip install py-spy, beside this Python."


@contextlib.contextmanager
def open_profiler(scenario: Scenario, picture: Path | None, cores: machine.Cores) -> Iterator[OnBegin]:
    """What is to be called with the server when the window begins. Behind the block the picture is there, or beside its
    place a .log with what py-spy said. Does nothing without `picture`.
    """
    running: list[subprocess.Popen[bytes]] = []

    def begin(server: Server) -> None:
        for number, pid in enumerate(server.pids if picture else ()):
            assert picture is not None
            path = picture if number == 0 else picture.with_stem(f"{picture.stem}-node{number + 1}")
            command = [str(PROGRAM), "record", "--pid", str(pid), "--output", str(path), "--rate", str(PER_SECOND)]
            command += ["--duration", str(max(1, round(scenario.window_s())))]
            with path.with_suffix(".log").open("ab") as log:
                running.append(
                    subprocess.Popen(
                        processes.pinned(command, cores=cores.generator),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )

    try:
        yield begin
    finally:
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
            processes.stop(process)
        if picture:
            forget_what_went_well(picture)


def forget_what_went_well(picture: Path) -> None:
    for log in picture.parent.glob(f"{picture.stem}*.log"):
        if log.with_suffix(".svg").exists():
            log.unlink()
