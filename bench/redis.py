"""A private Redis for chatd's nodes: a unix socket in a folder of its own, nothing on disk, gone when the block is
left. Found on PATH, installed with apt-get where that is allowed.
"""

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import processes

PROGRAM = "redis-server"


@dataclass(frozen=True)
class Redis:
    """A running server: `url` for clients, `pid` of its process."""

    url: str
    pid: int


def ensure_installed() -> str | None:
    """Installs Redis if it is missing and may be installed. None: it is there; else one sentence."""
    if not shutil.which(PROGRAM):
        processes.install("redis-server")
    return None if shutil.which(PROGRAM) else "Redis is not installed: install it with your system's packages."


@contextlib.contextmanager
def open_redis(folder: Path, *, cores: Sequence[int]) -> Iterator[Redis]:
    """Runs a new server, which writes its log to `folder`. Raises StartFailed."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise processes.StartFailed("Redis is not installed")
    log = folder / "redis.log"
    # of its own, because a socket's path may not be longer than 107 bytes
    with tempfile.TemporaryDirectory(prefix="chatd-bench-") as sockets:
        path = Path(sockets) / "redis.sock"
        command = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
        with processes.open_process([*command, "--dir", sockets], cores=cores, log=log) as process:
            processes.wait_until(lambda: answers(path), process, name="Redis", log=log)
            yield Redis(url=f"unix://{path}", pid=process.pid)


def answers(path: Path) -> bool:
    """Whether something on the socket answers PING as Redis does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(100).startswith(b"+PONG")
        except OSError:
            return False
