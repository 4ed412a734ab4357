"""Blobs in a folder of this machine, which several nodes on it, or on a shared file system, may have in common.

256 folders by the first two characters of the key. A blob comes by renaming, so that it is there whole or not at all,
and the folder is synced before anybody is told. The daemon's event loop never waits for the disk here.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from chatd.errors import Unavailable
from chatd.files.blobs import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

T = TypeVar("T")

#: Threads that wait for this disk at once.
THREADS: Final = 2
SHARD_CHARACTERS: Final = 2


class OpenFile:
    """A file that is open for reading."""

    def __init__(self, descriptor: int, limiter: trio.CapacityLimiter) -> None:
        self._descriptor: int | None = descriptor
        self._limiter = limiter

    @property
    def descriptor(self) -> int | None:
        return self._descriptor

    async def read(self, offset: int, size: int) -> bytes:
        assert self._descriptor is not None
        return await trio.to_thread.run_sync(os.pread, self._descriptor, size, offset, limiter=self._limiter)

    async def aclose(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class Folder:
    """`Blobs` in a folder, which is made when the first one comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._limiter = trio.CapacityLimiter(THREADS)

    async def put(self, key: str, path: Path) -> None:
        await self._in_thread(self._put, key, path)

    async def open(self, key: str) -> OpenFile | None:
        descriptor = await self._in_thread(self._open, key)
        return None if descriptor is None else OpenFile(descriptor, self._limiter)

    async def remove(self, keys: Collection[str]) -> None:
        await self._in_thread(self._remove, list(keys))

    async def page(self, after: str) -> list[Kept]:
        return await self._in_thread(self._page, after)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        try:
            return await trio.to_thread.run_sync(work, *arguments, limiter=self._limiter)
        except OSError as error:
            raise Unavailable(f"The folder of files does not work ({error.strerror}); try again later.") from error

    def _of(self, key: str) -> Path:
        return self._path / key[:SHARD_CHARACTERS] / key

    def _put(self, key: str, path: Path) -> None:
        target = self._of(key)
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync(target.parent.parent)
        sync(path)
        path.replace(target)
        sync(target.parent)

    def _open(self, key: str) -> int | None:
        try:
            descriptor = os.open(self._of(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        # The kernel begins to read now, so that `sendfile` does not wait for the disk.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        return descriptor

    def _remove(self, keys: list[str]) -> None:
        for key in keys:
            self._of(key).unlink(missing_ok=True)

    def _page(self, after: str) -> list[Kept]:
        """All of the first folder that has anything behind `after`."""
        if not self._path.is_dir():
            return []
        for shard in sorted(self._path.iterdir()):
            if len(shard.name) != SHARD_CHARACTERS or shard.name < after[:SHARD_CHARACTERS]:
                continue
            found = []
            for entry in os.scandir(shard):
                if entry.name > after:
                    with suppress(FileNotFoundError):
                        found.append(Kept(entry.name, entry.stat().st_mtime_ns // 1_000_000))
            if found:
                return sorted(found)
        return []


def sync(path: Path) -> None:
    """Have a file or a folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
