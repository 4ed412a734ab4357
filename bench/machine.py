"""What the machine tells: which cores serve for what, CPU time and memory of processes from /proc, and what it is, for
the report.
"""

import contextlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
#: Which cores do the receiving side of loopback's packets, as a mask; 0: the sender's.
STEERING = Path("/sys/class/net/lo/queues/rx-0/rps_cpus")
LIBRARIES = ("trio", "wsproto", "msgspec", "trio-websocket", "triopg", "asyncpg", "redis")


@dataclass(frozen=True)
class Cores:
    """Which cores serve for what. On two, the database and the bus share the generator's."""

    server: tuple[int, ...]
    generator: tuple[int, ...]
    database: tuple[int, ...]


def cores() -> Cores:
    """The last core for the server, the first for the generator, those between (else the first) for the database."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(
        server=(allowed[-1],),
        generator=(allowed[0],),
        database=tuple(allowed[1:-1]) or (allowed[0],),
    )


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of these processes with all their threads, and of their children that ended."""
    return sum(sum(map(int, stat_fields(pid)[11:15])) for pid in pids) / TICKS_PER_S


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (state); those of a process that is gone are zeros."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ["0"] * 50
    return text.rpartition(")")[2].split()


def with_children(pid: int) -> list[int]:
    """The process and its children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        children = []
    return [pid, *map(int, children)]


def share_niceness(pids: Iterable[int]) -> None:
    """Gives these processes' sessions this process's niceness, where the kernel shares cores between sessions first
    (sched(7), autogroup). A session begins without one, and each process of PostgreSQL's has a session of its own.
    """
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    for pid in pids if niceness else ():
        with contextlib.suppress(OSError):  # it has ended, or there are no such groups
            Path(f"/proc/{pid}/autogroup").write_text(str(niceness))


def memory_bytes(pid: int) -> int:
    """Resident memory of the process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def open_files(pid: int) -> int:
    """How many files, sockets among them, the process has open; 0 if it is gone, or before
    Linux 6.2, which tells the number without a look at each.
    """
    try:
        return Path(f"/proc/{pid}/fd").stat().st_size
    except (FileNotFoundError, ProcessLookupError):
        return 0


def busy_s(cores: Iterable[int]) -> float:
    """Time for which these cores together have not been idle, since some moment in the past.

    From the time that they were idle: that is measured, while time at work is sampled by the clock tick, which a load
    with a steady beat misleads.
    """
    names, working_s = {f"cpu{core}" for core in cores}, 0.0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in names:
            idle, waiting, stolen = int(fields[3]), int(fields[4]), int(fields[7])
            working_s += time.monotonic() - (idle + waiting + stolen) / TICKS_PER_S
    return working_s


def description() -> dict[str, object]:
    """The machine and the versions of what runs on it."""
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    versions = {"python": platform.python_version(), "kernel": platform.release()}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = "none"
    for name, command in {
        "node": ["node", "--version"],
        "cc": ["cc", "--version"],
        "redis-server": ["redis-server", "--version"],
        "commit": ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
    }.items():
        versions[name] = first_line(command)
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb": memory_kb // 1024,
        "load_average": os.getloadavg()[0],
        "receives_on_load_core": is_steerable(),
        "versions": versions,
    }


def is_steerable() -> bool:
    """Whether the kernel can be told on which cores to receive what is sent on loopback."""
    return os.access(STEERING, os.W_OK)


def first_line(command: list[str]) -> str:
    """What a program prints first; "none" if it is not there."""
    if not shutil.which(command[0]):
        return "none"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return (done.stdout.strip().splitlines() or ["none"])[0]
