"""Many who ask at once share one query: the data-loader pattern on Trio.

While one load is under way, further keys gather for the next. Used where a crowd asks for alike things (memberships
at sign-in, positions of rooms); what is loaded is not kept. A loader may be told to gather for a moment between two
loads, so that the number of loads in a storm depends on how long it lasts, not on how many come.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

import trio

from chatd.errors import Refusal, Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: What they hear who still wait when the loader closes.
STOPPING: Final = Unavailable("The server is stopping; try again in a moment.")

Load = Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]


class _Wanted(Generic[V]):
    """One key's answer to be; `waiters` share it."""

    __slots__ = ("done", "refusal", "value")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.value: V | None = None
        self.refusal: Refusal | None = None

    async def wait_value(self) -> V | None:
        """Wait for the load; each waiter gets a refusal of its own."""
        await self.done.wait()
        match self.refusal:
            case None:
                return self.value
            case Unavailable() as out:
                raise Unavailable(out.detail) from out
            case refusal:
                raise Refusal(refusal.code, refusal.detail, retry_after_ms=refusal.retry_after_ms) from refusal


class Loader(Generic[K, V]):
    """Loads values by key, in batches. Made by `open_loader`."""

    def __init__(self, load: Load[K, V], *, max_keys: int, gather_s: float) -> None:
        self._load = load
        self._max_keys = max_keys
        self._gather_s = gather_s
        self._wanted: dict[K, _Wanted[V]] = {}
        self._wake = trio.Event()

    async def get(self, key: K) -> V | None:
        """The value of `key`, or `None` where there is none; read after this call began.

        Raises the `Refusal` that the load raised. Cancelling loses nothing: others who wait are still served.
        """
        wanted = self._wanted.get(key)
        if wanted is None:
            wanted = self._wanted[key] = _Wanted()
            self._wake.set()
        return await wanted.wait_value()

    async def get_many(self, keys: Sequence[K]) -> dict[K, V]:
        """The values of those keys that have one; one load where they fit. Others run meanwhile, also without keys."""
        for key in keys:
            self._wanted.setdefault(key, _Wanted())
        wanted = {key: self._wanted[key] for key in keys}
        if wanted:
            self._wake.set()
        else:
            await trio.lowlevel.checkpoint()
        found = {}
        for key, entry in wanted.items():
            value = await entry.wait_value()
            if value is not None:
                found[key] = value
        return found

    async def _serve(self) -> None:
        try:
            while True:
                await self._wake.wait()
                await self._serve_batch()
                if self._wanted and self._gather_s:
                    # They came while one load lasted, so more are about to come.
                    await trio.sleep(self._gather_s)
        finally:
            _settle(self._wanted, STOPPING)

    async def _serve_batch(self) -> None:
        keys = list(self._wanted)[: self._max_keys]
        batch = {key: self._wanted.pop(key) for key in keys}
        if not self._wanted:
            self._wake = trio.Event()
        # What they hear if this load is cancelled, for then the server stops.
        outcome: Mapping[K, V] | Refusal = STOPPING
        try:
            outcome = await self._load(keys)
        except Refusal as refusal:
            outcome = refusal
        finally:
            _settle(batch, outcome)


def _settle(batch: Mapping[K, _Wanted[V]], outcome: Mapping[K, V] | Refusal) -> None:
    for key, wanted in batch.items():
        if isinstance(outcome, Refusal):
            wanted.refusal = outcome
        else:
            wanted.value = outcome.get(key)
        wanted.done.set()


@asynccontextmanager
async def open_loader(load: Load[K, V], *, max_keys: int = 500, gather_s: float = 0.0) -> AsyncIterator[Loader[K, V]]:
    """A loader that serves for as long as the block lasts; `load` gets at most `max_keys` different keys at once.

    Where others asked while one load lasted, the next begins `gather_s` later: a single question is never held up, and
    a crowd that comes little by little shares few loads.
    """
    loader = Loader(load, max_keys=max_keys, gather_s=gather_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loader._serve)
        yield loader
        nursery.cancel_scope.cancel()
