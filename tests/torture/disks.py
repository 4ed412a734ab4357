"""Disks that fail: a small one that can be filled up and freed, and one on which every sync takes its time.

The small one is a tmpfs, which only root can mount; the slow one is `strace`, which holds up the calls of processes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator

#: What is left when a disk is filled up: a file that takes all that is free.
FILLER: Final = "filler"
#: Calls that are held up on a slow disk.
SYNCS: Final = "fsync,fdatasync"
PAGE_BYTES: Final = 4096


@dataclass(frozen=True)
class Disk:
    """A disk of its own; `folder` is where it is."""

    folder: Path

    def fill(self) -> None:
        """Take all that is free, to the last page, also while others write."""
        with (self.folder / FILLER).open("ab", buffering=0) as file:
            for size in (1024 * 1024, PAGE_BYTES):
                try:
                    while True:
                        os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
                except OSError:
                    continue

    def free(self) -> None:
        (self.folder / FILLER).unlink(missing_ok=True)


@contextmanager
def open_small_disk(size_mib: int) -> Iterator[Disk]:
    """A disk of so many MiB in memory, in a folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="chatd-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"A small disk can only be mounted as root ({done.stderr.strip()})."
    folder.chmod(0o755)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@asynccontextmanager
async def slow_syncs(pids: Collection[int], delay_s: float) -> AsyncIterator[None]:
    """Hold up every sync of these processes for so long, while the block runs."""
    program = shutil.which("strace")
    assert program, "strace is missing: run tests/setup_system.sh as root, or install `strace`."
    whom = [part for pid in pids for part in ("-p", str(pid))]
    inject = f"inject={SYNCS}:delay_enter={round(delay_s * 1_000_000)}"
    process = await trio.lowlevel.open_process(
        [program, "-f", "-qq", "-o", os.devnull, "-e", f"trace={SYNCS}", "-e", inject, *whom],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        # It lets go of the processes before it ends.
        process.send_signal(signal.SIGINT)
        with trio.CancelScope(shield=True):
            await process.wait()
