"""Where files arrive: a folder of this process alone, in which nothing outlives the upload that it belongs to.

Each process has a folder of its own under `incoming`, locked for as long as it lives. What a killed one has left is
found by its lock being free and removed at the next start. Writing and hashing are done in threads, in large pieces.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from chatd import telemetry
from chatd.errors import Unavailable
from chatd.ids import new_id
from chatd.process import hold_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

log = telemetry.get_logger(__name__)

#: What arrives is gathered to so much before it goes to a thread.
GATHER_BYTES: Final = 64 * 1024
#: So much of a file waits for the disk at most: the database's commits stand behind all that does, and so does the
#: sender, who is not to be faster than the disk.
SYNC_BYTES: Final = 256 * 1024
#: What a file costs beside its bytes, in the pace of all: those that would end together end one after the other.
FILE_BYTES: Final = 512 * 1024
#: The first bytes of a file, which its kind is judged by, and the last.
HEAD_BYTES: Final = 4096
TAIL_BYTES: Final = 70_000
THREADS: Final = 1
CLEAR_TRIES: Final = 3


class Pace:
    """So many bytes a second of all files together (0: no bound), evenly: what is behind them is not to be late."""

    def __init__(self, bytes_per_second: int) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0

    async def wait_turn(self, size: int) -> None:
        """Wait until so many bytes may go on, behind those that asked before. Cancelled, the turn passes unused."""
        if not self._bytes_per_second:
            return
        turn_at = max(self._free_at, trio.current_time())
        self._free_at = turn_at + size / self._bytes_per_second
        await trio.sleep_until(turn_at)


class Arriving:
    """A file on its way in: written in order, then finished, then read by its path."""

    def __init__(self, path: Path, limiter: trio.CapacityLimiter, pace: Pace) -> None:
        self.path = path
        self.size = 0
        self._limiter = limiter
        self._pace = pace
        self._gathered = bytearray()
        self._hash = hashlib.sha256()
        self._unsynced = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    async def write(self, data: bytes) -> None:
        """Add bytes. Raises `Unavailable` when the disk does not take them."""
        self._gathered += data
        self.size += len(data)
        if len(self._gathered) >= GATHER_BYTES:
            await self._flush()

    async def finish(self) -> None:
        """Write what is left. Raises `Unavailable`."""
        await self._flush()
        await self._pace.wait_turn(FILE_BYTES)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    async def read_ends(self) -> tuple[bytes, bytes]:
        """The first and the last bytes of what has been written."""
        descriptor, tail_at = self._descriptor, max(0, self.size - TAIL_BYTES)
        return await _in_thread(
            lambda: (os.pread(descriptor, HEAD_BYTES, 0), os.pread(descriptor, TAIL_BYTES, tail_at)), self._limiter
        )

    async def check(self, fits: Callable[[Iterator[bytes]], bool]) -> bool:
        """What `fits` says of all the bytes, which it is given in pieces, in a thread."""
        return await _in_thread(lambda: fits(self._pieces()), self._limiter)

    def _pieces(self) -> Iterator[bytes]:
        for offset in range(0, self.size, GATHER_BYTES):
            yield os.pread(self._descriptor, GATHER_BYTES, offset)

    async def _flush(self) -> None:
        await self._pace.wait_turn(len(self._gathered))
        data, self._gathered = self._gathered, bytearray()
        await _in_thread(lambda: self._write(data), self._limiter)

    def _write(self, data: bytearray) -> None:
        self._hash.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            os.fdatasync(self._descriptor)
            self._unsynced = 0

    def close(self) -> None:
        os.close(self._descriptor)
        with suppress(FileNotFoundError):
            self.path.unlink()


async def _in_thread(work: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
    try:
        # Never left alone when cancelled: the file that it works on is closed next.
        return await trio.to_thread.run_sync(work, limiter=limiter)
    except OSError as error:
        raise Unavailable(f"The disk does not take files ({error.strerror}); try again later.") from error


class Incoming:
    """The folder in which files of this process arrive. Made by `open_incoming`."""

    def __init__(self, path: Path, pace: Pace) -> None:
        self._path = path
        self._limiter = trio.CapacityLimiter(THREADS)
        self._pace = pace

    @contextmanager
    def receive(self) -> Iterator[Arriving]:
        """A new file, gone at the end of the block unless it was moved away. Raises `Unavailable`."""
        try:
            arriving = Arriving(self.new_path(), self._limiter, self._pace)
        except OSError as error:
            raise Unavailable(f"The disk does not take files ({error.strerror}); try again later.") from error
        try:
            yield arriving
        finally:
            arriving.close()

    def new_path(self) -> Path:
        """Where a file could be made."""
        return self._path / new_id()

    @contextmanager
    def made(self, *paths: Path) -> Iterator[None]:
        """Files that somebody else makes there are gone at the end of the block unless they were moved away."""
        try:
            yield
        finally:
            for path in paths:
                with suppress(FileNotFoundError):
                    path.unlink()


@asynccontextmanager
async def open_incoming(path: Path, *, bytes_per_second: int) -> AsyncIterator[Incoming]:
    """A folder of this process in `path`, gone at the end; what dead processes have left there goes at once.

    Files arrive there at most so fast, all together (0: no bound). Raises OSError where it cannot be made.
    """
    with ExitStack() as stack:
        await trio.to_thread.run_sync(_clear, path)
        own = await trio.to_thread.run_sync(_make_own, path, stack)
        try:
            yield Incoming(own, Pace(bytes_per_second))
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _make_own(path: Path, stack: ExitStack) -> Path:
    while True:
        own = path / new_id()
        # Another process that starts may have taken it for a dead one's before it was locked.
        with suppress(FileNotFoundError, BlockingIOError):
            stack.enter_context(hold_folder(own))
            return own


def _clear(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in path.iterdir():
        # A child of the dead process may still write there, until it finds that it is alone.
        for _ in range(CLEAR_TRIES):
            with suppress(OSError), hold_folder(left):
                shutil.rmtree(left)
                log.info("uploads_cleared", folder=left.name)
                break
