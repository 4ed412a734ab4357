"""Starts and ends processes for the bench: pinned, logged to a file, ended by their id when the block is left. Says
when one answers on its port, installs what one needs. Knows nothing about what they are (servers.py, postgres.py,
redis.py, load.py).
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PINNED = Path(__file__).with_name("pinned.py")
STOP_S = 15.0


class StartFailed(Exception):
    """A process did not come up; its text says which, and the last line that it wrote."""


def pinned(command: Sequence[str], *, cores: Sequence[int], user: str | None = None) -> list[str]:
    """The command line that runs `command` on these cores only."""
    return [sys.executable, "-I", str(PINNED), ",".join(map(str, cores)), user or "-", *command]


@contextlib.contextmanager
def open_process(
    command: Sequence[str],
    *,
    cores: Sequence[int],
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `command` while the block lasts, then stops it: `stop_signal`, and SIGKILL if that takes more than 15 s."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            pinned(command, cores=cores, user=user),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if env is None else dict(env),
            cwd=cwd,
        )
        try:
            yield process
        finally:
            stop(process, stop_signal)


def stop(process: subprocess.Popen[Any], stop_signal: signal.Signals = signal.SIGTERM) -> None:
    """Ends the process if it still runs, and waits for it."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def run_to_end(command: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout_s: float = 60.0) -> None:
    """Raises StartFailed with what it wrote if it does not exit with 0 in time."""
    try:
        done = subprocess.run(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StartFailed(f"`{' '.join(command)}` did not end within {timeout_s:.0f} s") from error
    if done.returncode:
        raise StartFailed(f"`{' '.join(command)}` failed: {done.stdout.decode(errors='replace').strip()[-500:]}")


def wait_until(
    is_ready: Callable[[], bool], process: subprocess.Popen[bytes], *, name: str, log: Path, within_s: float = 30.0
) -> None:
    """Returns once `is_ready` says so. Raises StartFailed if the process ends, or the time does."""
    end = time.monotonic() + within_s
    while not is_ready():
        if process.poll() is not None:
            raise StartFailed(f"{name} ended with {process.returncode}: {last_line(log)}")
        if time.monotonic() > end:
            raise StartFailed(f"{name} was not ready within {within_s:.0f} s: {last_line(log)}")
        time.sleep(0.02)


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1][:500] if lines else "it wrote nothing"


def answers(port: int) -> bool:
    """Whether something accepts connections on the port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def install(package: str) -> None:
    """Installs a package of Debian's if that is allowed and apt-get is there; who asked looks whether it worked."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    own = environment({"DEBIAN_FRONTEND": "noninteractive"})
    for command in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "install", "--yes", package]):
        subprocess.run(command, env=own, stdout=subprocess.DEVNULL, check=False, timeout=600)


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The bench's own environment without any option of chatd, and `own` on top."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHATD_")} | dict(own)
