"""The one asyncio loop of a daemon whose back ends speak asyncio: triopg's and redis-py's, inside of Trio.

The door to trio_asyncio. `backends` opens it before the adapters and only for them: on the embedded back ends no such
loop runs and nothing of this is imported. An asyncio task on it runs on Trio's thread and may call whatever is sync.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio_asyncio

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Coroutine

T = TypeVar("T")


@asynccontextmanager
async def open_asyncio_loop() -> AsyncIterator[asyncio.AbstractEventLoop]:
    """Run an asyncio loop for as long as the block lasts; what is awaited inside of the block finds it by itself."""
    async with trio_asyncio.open_loop() as loop:
        yield loop


async def run_asyncio(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run an asyncio coroutine on the loop of the block; cancelling cancels it and waits until it has ended."""
    return await trio_asyncio.run_aio_coroutine(coroutine)  # type: ignore[no-any-return]  # it has no types
