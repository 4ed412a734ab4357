"""Private PostgreSQL and Redis servers for tests: one of each for a whole run, or one of a test's own that it may kill.

`shared_postgres` and `shared_redis` start theirs when they are first asked for; conftest stops them at the end of the
run. They forget everything in a crash (fsync off); those that `open_postgres` and `open_redis` start do not.
Everything listens on unix sockets in folders of its own, so that nothing outside is touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from socket import AF_UNIX, socket
from typing import TYPE_CHECKING, Final

from chatd.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: What the shared servers live in; closed by conftest.
RUN: Final = ExitStack()
#: initdb and postgres refuse root; Debian's package makes this user.
SUPERUSER: Final = "postgres"
START_S: Final = 30.0
#: What a server is told that may lose everything in a crash: it writes, and keeps of its log, as little as it can.
FORGETFUL: Final = (
    "fsync=off", "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0", "max_wal_size=128MB",
)  # fmt: skip


@dataclass
class Server:
    """A server process that a test may stop, continue, kill and start again on the same data."""

    name: str
    command: Sequence[str]
    is_ready: Callable[[], bool]
    user: str | None = None
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            self.command, user=self.user, group=self.user, cwd="/", stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, extra_groups=[] if self.user else None,
        )  # fmt: skip
        self.wait_ready()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while not self.is_ready():
            assert self.process.poll() is None, f"{self.name} ended at its start: {' '.join(self.command)}"
            assert time.monotonic() < deadline, f"{self.name} did not start within {START_S:g} s"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it with SIGKILL, children included."""
        self._signal(signal.SIGKILL)
        self.process.wait()

    def start_again_if_ended(self) -> None:
        """Wait until it answers, or start it if it has given up."""
        try:
            self.wait_ready()
        except AssertionError:
            self.start()

    def pause(self) -> None:
        """SIGSTOP, to every process of it."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def pids(self) -> list[int]:
        """The server and its children, which are no process group (PostgreSQL's lead sessions of their own)."""
        pid = self.process.pid
        with suppress(OSError):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
            return [pid, *map(int, children)]
        return []

    def _signal(self, number: signal.Signals) -> None:
        with suppress(OSError):
            for target in self.pids():
                os.kill(target, number)


@dataclass
class Postgres(Server):
    """`url(database)` is where clients connect; `sockets` is the folder of its unix socket."""

    programs: Path = field(kw_only=True)
    sockets: Path = field(kw_only=True)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{SUPERUSER}@/{database}?host={self.sockets}"

    def sql(self, script: str, database: str = "postgres") -> str:
        """Run SQL with psql as superuser; what it printed, without decoration."""
        command = [str(self.programs / "psql"), "-qXAt", "-v", "ON_ERROR_STOP=1", "-h", str(self.sockets)]
        done = subprocess.run(
            [*command, "-U", SUPERUSER, "-d", database], input=script, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def new_database(self, template: str = "template1") -> str:
        """Make a database and return its name."""
        name = "t" + new_id().replace("-", "")
        self.sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return name


@dataclass
class Redis(Server):
    """`url` is where clients connect; `path` is that of its unix socket."""

    path: Path = field(kw_only=True)

    @property
    def url(self) -> str:
        return f"unix://{self.path}"


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs: Debian's newest, or one on PATH."""
    versioned = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]), reverse=True)
    for folder in [*versioned, *map(Path, os.get_exec_path())]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise AssertionError("PostgreSQL is missing: run tests/setup_system.sh as root, or install `postgresql`.")


@contextmanager
def open_postgres(
    *, is_durable: bool = True, options: Sequence[str] = (), parent: Path | None = None
) -> Iterator[Postgres]:
    """A new PostgreSQL, killed at the end; `options` like `max_connections=500`. Its folder is in `parent`."""
    programs = postgres_programs()
    user = SUPERUSER if os.geteuid() == 0 else None
    # Its own short folder: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="chatd-pg-", ignore_cleanup_errors=True, dir=parent) as name:
        folder = Path(name)
        if user:
            shutil.chown(folder, user, user)
        initdb = [str(programs / "initdb"), "-D", str(folder / "data"), "-U", SUPERUSER, "-A", "trust", "--no-sync"]
        subprocess.run(
            [*initdb, "-E", "UTF8", "--locale", "C"], user=user, group=user, extra_groups=[] if user else None,
            cwd="/", check=True, capture_output=True,
        )  # fmt: skip
        # Shared memory in its folder, which goes with it: of a server that is killed other kinds would stay behind.
        settings = [
            "listen_addresses=",
            "dynamic_shared_memory_type=mmap",
            *([] if is_durable else FORGETFUL),
            *options,
        ]
        command = [str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder)]
        command += [part for setting in settings for part in ("-c", setting)]
        ready = [
            str(programs / "psql"),
            "-qXAt",
            "-h",
            str(folder),
            "-U",
            SUPERUSER,
            "-d",
            "postgres",
            "-c",
            "SELECT 1",
        ]
        server = Postgres(
            "PostgreSQL", command, lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0,
            user, programs=programs, sockets=folder,
        )  # fmt: skip
        server.start()
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def open_redis(*, options: Sequence[str] = ()) -> Iterator[Redis]:
    """A new Redis that keeps nothing on disk, killed at the end; `options` as on its command line."""
    program = shutil.which("redis-server")
    assert program, "Redis is missing: run tests/setup_system.sh as root, or install `redis-server`."
    with tempfile.TemporaryDirectory(prefix="chatd-redis-", ignore_cleanup_errors=True) as name:
        path = Path(name) / "redis.sock"
        command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
        server = Redis("Redis", [*command, "--dir", name, *options], lambda: _answers(path), path=path)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def _answers(path: Path) -> bool:
    with socket(AF_UNIX) as sock:
        sock.settimeout(1)
        try:
            sock.connect(str(path))
            sock.sendall(b"PING\r\n")
            return sock.recv(100).startswith(b"+PONG")
        except OSError:
            return False


@cache
def shared_postgres() -> Postgres:
    """The run's PostgreSQL."""
    return RUN.enter_context(open_postgres(is_durable=False, options=["max_connections=300"]))


@cache
def shared_redis() -> Redis:
    """The run's Redis."""
    return RUN.enter_context(open_redis())
