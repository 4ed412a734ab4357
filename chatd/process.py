"""What a daemon asks of its machine before it serves: open files enough, signals that do not kill it, a folder alone.

Called by `__main__` and `server`, before and around everything else; `administration` looks who serves already.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatd import telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

log = telemetry.get_logger(__name__)

LOCK_NAME: Final = "lock"
#: Has a daemon look at what was changed beside it. Who knows nothing of it ignores it.
LOOK: Final = signal.SIGURG
#: Open files beside the connections: the database, the listeners, HTTP, logs.
SPARE_FILES: Final = 100
_PROC: Final = Path("/proc")
#: A state in its tables of sockets.
_LISTENS: Final = "0A"


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Have a folder as its only daemon, by an advisory lock on `<folder>/lock`, which is gone afterwards.

    The folder is made if there is none. The lock ends with the process, however that ends; tools of the command line
    do not ask for it. Raises BlockingIOError if another has it, OSError if it cannot be had. Source: flock(2).
    """
    path = folder / LOCK_NAME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = _lock(path)
    try:
        yield
    finally:
        # While it is still locked: whoever opened it meanwhile finds that it is no longer there.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Lock the file that has this name now. Raises BlockingIOError if somebody else has."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def have_daemon_look(folder: Path) -> bool:
    """Have the daemon of a folder look at what was changed beside it; whether there is one that could be told."""
    process = _holder_of(folder)
    if process is None:
        return False
    try:
        os.kill(process, LOOK)
    except OSError:
        return False
    return True


def find_daemon(folder: Path, port: int) -> int | None:
    """The process that has a port, if it is a daemon of this folder or another chatd; looks and touches nothing.

    None where it is somebody else's, or it cannot be known whose. Source: proc(5).
    """
    holder, listeners = _holder_of(folder), _listeners_on(port)
    if holder is not None and (holder in listeners or not listeners):
        return holder
    return next((process for process in sorted(listeners) if _is_daemon(process)), None)


def _holder_of(folder: Path) -> int | None:
    """Who has the lock of a folder."""
    with suppress(OSError):
        lock = (folder / LOCK_NAME).stat()
        device = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}"
        for line in (_PROC / "locks").read_text().splitlines():
            _, kind, *_, number, place, _, _ = line.split()
            process, (on, _, inode) = int(number), place.rpartition(":")
            # Some file systems, overlays for one, give a file another device here than to stat.
            is_here = inode == str(lock.st_ino) and process > 0 and (on == device or _is_daemon(process))
            if kind == "FLOCK" and is_here:
                return process
    return None


def _listeners_on(port: int) -> set[int]:
    """Who listens on a TCP port, as far as one may look."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    found = set()
    for path in _PROC.glob("[0-9]*/fd"):
        with suppress(OSError):
            if any(str(file.readlink()) in sockets for file in path.iterdir()):
                found.add(int(path.parent.name))
    return found


def _is_daemon(process: int) -> bool:
    with suppress(OSError):
        words = (_PROC / str(process) / "cmdline").read_bytes().split(b"\0")
        return b"serve" in words and any(word.rpartition(b"/")[2] == b"chatd" for word in words)
    return False


def raise_file_limit() -> None:
    """Allow this process as many open files as it may allow itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def forbid_core_dumps() -> None:
    """Leave nothing of this process's memory, in which secrets and messages are, on a disk when it crashes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def warn_of_few_files(connections: int) -> None:
    """Log a warning if so many connections need more open files than are allowed; 0, no limit of them, does not."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if connections and allowed != resource.RLIM_INFINITY and allowed < connections + SPARE_FILES:
        detail = "limits.connections cannot be reached; raise LimitNOFILE (ulimit -Hn) or lower the option."
        log.warning("few_open_files", allowed=allowed, needed=connections + SPARE_FILES, detail=detail)


def ignore_other_signals() -> None:
    """Survive, from the start on, the signals that are to mean something later; `server` listens to them."""
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
