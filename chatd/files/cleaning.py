"""Removing what nobody needs: files that nothing shows for a day, and what broke off on its way in or out.

Runs on every node, a few statements at a time; two that do the same at once do no harm. A blob's row goes before its
bytes, so that no file is ever without them. Once a day all that is kept is compared with what is known.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from chatd.clock import Clock
    from chatd.config import UploadOptions
    from chatd.files.blobs import Blobs
    from chatd.store.files import Files

log = telemetry.get_logger(__name__)

HOUR_MS: Final = 3_600_000
#: Seconds between two cleanings, and how many of them there are between two comparisons of all that is kept.
EVERY_S: Final = 300.0
CLEANINGS_A_DAY: Final = 288
#: Rows that one transaction looks at.
AT_ONCE: Final = 100
#: What was asked for or put within this time may be part of an upload that is still on its way.
SPARED_MS: Final = 2 * HOUR_MS


class Cleaner:
    """Does one cleaning after the other."""

    def __init__(self, files: Files, blobs: Blobs, *, clock: Clock, keep_ms: int) -> None:
        self._files = files
        self._blobs = blobs
        self._clock = clock
        self._keep_ms = keep_ms

    async def clean(self) -> int:
        """Remove files that nothing shows, and then blobs that no file is made of. How many bytes' worth of blobs.

        Raises `Unavailable`.
        """
        while True:
            now_ms = self._clock()
            looked, removed = await self._files.look(now_ms=now_ms, next_ms=now_ms + self._keep_ms, limit=AT_ONCE)
            if removed:
                log.info("files_removed", count=removed)
            if looked < AT_ONCE:
                break
        forgotten = 0
        while keys := await self._files.forget_blobs(before_ms=self._clock() - SPARED_MS, limit=AT_ONCE):
            await self._blobs.remove(keys)
            forgotten += len(keys)
        return forgotten

    async def compare(self) -> int:
        """Remove bytes that no row knows: what a process left that was killed between the two. How many."""
        after, removed = "", 0
        while kept := await self._blobs.page(after):
            after = kept[-1].key
            old = [blob.key for blob in kept if blob.at_ms < self._clock() - SPARED_MS]
            unknown = set(old) - await self._files.known_keys(old)
            await self._blobs.remove(unknown)
            removed += len(unknown)
        if removed:
            log.info("blobs_without_files_removed", count=removed)
        return removed


@asynccontextmanager
async def open_cleaning(files: Files, blobs: Blobs, options: UploadOptions, *, clock: Clock) -> AsyncIterator[None]:
    """Clean for as long as the block lasts."""
    cleaner = Cleaner(files, blobs, clock=clock, keep_ms=options.keep_unshown_hours * HOUR_MS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_clean_forever, cleaner)
        yield
        nursery.cancel_scope.cancel()


async def _clean_forever(cleaner: Cleaner) -> None:
    cleanings = 0
    while True:
        try:
            await cleaner.clean()
            if cleanings % CLEANINGS_A_DAY == 0:
                await cleaner.compare()
        except Refusal as refusal:
            log.warning("file_cleaning_failed", detail=refusal.detail)
        cleanings += 1
        await trio.sleep(EVERY_S)
