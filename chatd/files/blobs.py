"""The port to where the bytes of files are kept: put once, never changed, read in any part, removed.

`folder` is its simple implementation, `s3` the one that several nodes share. A key is made by `store.files` and never
used again, so that an adapter has neither versions nor locks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


class Opened(Protocol):
    """Bytes that are open for reading until `aclose`, also if they are removed meanwhile.

    `descriptor` is that of a file whose bytes these are, from its beginning, or `None`.
    """

    @property
    def descriptor(self) -> int | None: ...

    async def read(self, offset: int, size: int) -> bytes:
        """At most `size` bytes, at least one before the end. Cheapest from where the last reading ended."""

    async def aclose(self) -> None:
        """Let go of it, also when cancelled; twice does no harm."""


class Kept(NamedTuple):
    """A key that is there, and when it was put (milliseconds since 1970)."""

    key: str
    at_ms: int


class Blobs(Protocol):
    """Where bytes are kept. All calls raise `Unavailable`."""

    async def put(self, key: str, path: Path) -> None:
        """Keep the bytes of a file, which may be gone afterwards; durable when it returns. Again does no harm."""

    async def open(self, key: str) -> Opened | None:
        """What is kept under a key."""

    async def remove(self, keys: Collection[str]) -> None:
        """Remove what is there of these."""

    async def page(self, after: str) -> list[Kept]:
        """Some of what is kept, in order of the keys, behind the key `after`; nothing at the end."""
