"""A private PostgreSQL for a peer: its own folder and socket, durable (fsync on), gone when the block is left. Found on
PATH or in Debian's versioned folder, installed with apt-get where that is allowed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import processes

SUPERUSER = "postgres"
PROGRAMS = ("initdb", "postgres", "pg_isready", "psql")


@dataclass(frozen=True)
class Postgres:
    """A running server: `url` for clients, `pid` of its first process."""

    url: str
    pid: int


def programs() -> Path | None:
    """The folder that has all of PostgreSQL's programs: Debian's newest, or one on PATH."""
    versioned = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]), reverse=True)
    for folder in [*versioned, *map(Path, os.get_exec_path())]:
        if all((folder / program).exists() for program in PROGRAMS):
            return folder
    return None


def ensure_installed() -> str | None:
    """Installs PostgreSQL if it is missing and may be installed. None: it is there; else one sentence."""
    if programs():
        return None
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = processes.environment({"DEBIAN_FRONTEND": "noninteractive"})
        for command in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "install", "--yes", "postgresql"]):
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False, timeout=600)
    return None if programs() else "PostgreSQL is not installed: install it with your system's packages."


@contextlib.contextmanager
def open_postgres(folder: Path, *, cores: Sequence[int], script: str) -> Iterator[Postgres]:
    """Runs a new server with its data in `folder` and the database `bench`, made by the SQL in `script`.

    Raises StartFailed.
    """
    where = programs()
    if where is None:
        raise processes.StartFailed("PostgreSQL is not installed")
    user = SUPERUSER if os.geteuid() == 0 else None  # it refuses to run as root
    data, log = folder / "postgres", folder / "postgres.log"
    data.mkdir()
    # of its own, because a socket's path may not be longer than 107 bytes
    with tempfile.TemporaryDirectory(prefix="chatd-bench-") as sockets:
        if user:
            shutil.chown(data, user)
            shutil.chown(sockets, user)
        options = ["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        initdb = processes.pinned([str(where / "initdb"), "-D", str(data), *options], cores=cores, user=user)
        processes.run_to_end(initdb, env=processes.environment({}), cwd=Path("/"))
        command = [str(where / "postgres"), "-D", str(data), "-k", sockets, "-c", "listen_addresses=", "-c", "fsync=on"]
        with processes.open_process(
            command, cores=cores, log=log, cwd=Path("/"), user=user, stop_signal=signal.SIGINT
        ) as process:
            ready = [str(where / "pg_isready"), "-q", "-h", sockets]
            processes.wait_until(
                lambda: subprocess.run(ready, check=False, timeout=10).returncode == 0,
                process,
                name="PostgreSQL",
                log=log,
            )
            fill(where / "psql", sockets, f"CREATE DATABASE bench;\n\\connect bench\n{script}")
            yield Postgres(url=f"postgresql://{SUPERUSER}@/bench?host={sockets}", pid=process.pid)


def fill(psql: Path, sockets: str, script: str) -> None:
    command = [str(psql), "-q", "-X", "-v", "ON_ERROR_STOP=1", "-h", sockets, "-U", SUPERUSER, "-d", "postgres"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise processes.StartFailed(f"filling PostgreSQL failed: {done.stderr.strip()[-500:]}")
