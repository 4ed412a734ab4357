"""What a server that is measured is, where it runs, and how a C program of the bench is made. servers.py starts chatd,
peer_servers.py the others.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench import machine, processes, seed

ROOT = Path(__file__).resolve().parent.parent
GENERATOR = Path(__file__).with_name("generator")
CACHE = ROOT / ".cache" / "bench"


@dataclass(frozen=True)
class Place:
    """Where a server runs: an empty folder of its own on a real disk, and who runs on which core."""

    folder: Path
    cores: machine.Cores


@dataclass(frozen=True)
class Server:
    """A server that is ready: the ports and processes of its nodes (most have one) and their log, the first process of
    its database and of its bus if it has them, and what counts the database's statements.
    """

    ports: tuple[int, ...]
    pids: tuple[int, ...]
    log: Path
    database_pid: int | None = None
    bus_pid: int | None = None
    count_statements: Callable[[], int] | None = None
    #: How it is talked to: what the generator's --dialect takes.
    dialect: str = "chatd"
    #: Where its HTTP side listens, if it has one.
    http_port: int = 0
    #: Kills it (SIGKILL), starts it again on the same port, and says at once what it is now and when that was, by the
    #: monotonic clock.
    kill_and_start: Callable[[], tuple["Server", float]] | None = None
    #: Writes what its database holds of rooms into a new file, for `chatd verify`.
    export: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Kind:
    """How a server is called in tables, how it is started, and what it lacks here (None: nothing, else a sentence)."""

    title: str
    open: Callable[[seed.Population, Place], AbstractContextManager[Server]]
    lacks: Callable[[], str | None]


# ---- programs in C


def compiled(folder: Path, name: str) -> Path:
    """The program made from the C files in `folder`, in .cache/bench; made anew if one or a header is newer.

    Raises StartFailed.
    """
    program = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    sources = sorted(folder.glob("*.c"))
    newest = max(path.stat().st_mtime for path in [*sources, *GENERATOR.glob("*.h")])
    if not program.exists() or program.stat().st_mtime < newest:
        made = CACHE / f"{name}.{os.getpid()}"
        command = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(made), *map(str, sources)]
        processes.run_to_end(command, env=processes.environment({}), cwd=folder, timeout_s=120)
        made.replace(program)
    return program


def compiler_lacks() -> str | None:
    return None if shutil.which("cc") else "There is no C compiler: install gcc or clang with your system's packages."
