"""A private PostgreSQL for a peer or for chatd's nodes: its own folder and socket, durable (fsync on), gone when the
block is left, and the count of the statements that it was given. Found on PATH or in Debian's versioned folder,
installed with apt-get where that is allowed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import processes

SUPERUSER = "postgres"
DATABASE = "bench"
PROGRAMS = ("initdb", "postgres", "pg_isready", "psql")
COUNTING = ("shared_preload_libraries=pg_stat_statements",)
#: Of the measured database only, while whoever asks is connected to another one. BEGIN and COMMIT are statements too.
COUNT = (
    "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements(false)"
    " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = 'bench');\n"
)


@dataclass(frozen=True)
class Postgres:
    """A running server: `url` for clients, `pid` of its first process, the folder of its socket, and psql's path."""

    url: str
    pid: int
    sockets: str
    psql: Path

    def client(self, database: str) -> list[str]:
        """The command line of psql: quiet, bare, ended by an error."""
        options = ["-qXAt", "-v", "ON_ERROR_STOP=1", "-h", self.sockets, "-U", SUPERUSER, "-d", database]
        return [str(self.psql), *options]


def programs() -> Path | None:
    """The folder that has all of PostgreSQL's programs: Debian's newest, or one on PATH."""
    versioned = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]), reverse=True)
    for folder in [*versioned, *map(Path, os.get_exec_path())]:
        if all((folder / program).exists() for program in PROGRAMS):
            return folder
    return None


def ensure_installed() -> str | None:
    """Installs PostgreSQL if it is missing and may be installed. None: it is there; else one sentence."""
    if not programs():
        processes.install("postgresql")
    return None if programs() else "PostgreSQL is not installed: install it with your system's packages."


@contextlib.contextmanager
def open_postgres(
    folder: Path, *, cores: Sequence[int], script: str = "", settings: Sequence[str] = ()
) -> Iterator[Postgres]:
    """Runs a new server with its data in `folder` and the database `bench`, made by the SQL in `script`.

    `settings` are like `work_mem=8MB`. Raises StartFailed.
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
        command = [str(where / "postgres"), "-D", str(data), "-k", sockets]
        for setting in ("listen_addresses=", "fsync=on", *settings):
            command += ["-c", setting]
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
            url = f"postgresql://{SUPERUSER}@/{DATABASE}?host={sockets}"
            server = Postgres(url, process.pid, sockets, where / "psql")
            run_script(server, f"CREATE DATABASE {DATABASE};\n", database="postgres")
            run_script(server, script)
            yield server


def run_script(server: Postgres, script: str, *, database: str = DATABASE) -> None:
    """Gives SQL to psql. Raises StartFailed with what psql says."""
    done = subprocess.run(
        server.client(database), input=script, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise processes.StartFailed(f"filling PostgreSQL failed: {done.stderr.strip()[-500:]}")


@contextlib.contextmanager
def open_counter(server: Postgres, *, cores: Sequence[int]) -> Iterator[Callable[[], int]]:
    """A function that says how many statements the database `bench` has been given. Needs COUNTING in the settings.

    One psql answers all calls, so that a call takes about a millisecond. Raises StartFailed.
    """
    run_script(server, "CREATE EXTENSION pg_stat_statements;\n", database="postgres")
    with subprocess.Popen(
        processes.pinned(server.client("postgres"), cores=cores),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:

        def count() -> int:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(COUNT)
            return int(process.stdout.readline())

        try:
            yield count
        finally:
            processes.stop(process)
