"""What a node does with a file on its way in: let it in, judge it, make images safe, and hand what came of it over.

`chat.files` leads an upload through here and says who may send what; `store.files` remembers what is kept, `blobs`
keeps it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from chatd.errors import Refusal, Unavailable
from chatd.files.folder import Folder
from chatd.files.images import Images, Sizes
from chatd.files.incoming import open_incoming
from chatd.files.kinds import KINDS, Kind, is_text, judge, judge_text
from chatd.files.s3 import S3

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractContextManager

    from chatd.clock import Clock
    from chatd.config import UploadOptions
    from chatd.files.blobs import Blobs
    from chatd.files.incoming import Arriving, Incoming

#: Said to whom there is no place for.
RETRY_MS = 1000


class Piece(NamedTuple):
    """Bytes that are to be kept, in a file that may be moved away."""

    path: Path
    sha256: str
    size: int


class Made(NamedTuple):
    """What is to be kept of a file that arrived."""

    content: Piece
    thumbnail: Piece | None = None
    sizes: Sizes | None = None


class Depot:
    """One for each daemon. Made by `open_depot`."""

    def __init__(self, options: UploadOptions, incoming: Incoming, blobs: Blobs) -> None:
        self._options = options
        self._incoming = incoming
        self._images = Images(options)
        self._by_user: Counter[str] = Counter()
        self.blobs = blobs
        #: Held while an upload writes to the database: who sends a message waits for one of them then, not for all that
        #: end at the same time.
        self.recording = trio.Lock()
        self.kinds = frozenset(options.kinds)

    @contextmanager
    def admit(self, user_id: str) -> Iterator[None]:
        """A place for one upload of a user, for as long as the block lasts. Raises `Refusal` where there is none."""
        options = self._options
        if self._by_user[user_id] >= options.at_once_per_user:
            detail = f"{options.at_once_per_user} uploads of yours are on their way; wait for one of them."
            raise Refusal("rate_limited", detail, retry_after_ms=RETRY_MS)
        if self._by_user.total() >= options.at_once:
            raise Refusal("overloaded", "Too many files are on their way; try again.", retry_after_ms=RETRY_MS)
        self._by_user[user_id] += 1
        try:
            yield
        finally:
            self._by_user[user_id] -= 1
            if not self._by_user[user_id]:
                del self._by_user[user_id]

    def receive(self) -> AbstractContextManager[Arriving]:
        """A file to write what arrives to; nothing of it is left behind the block. Raises `Unavailable`."""
        return self._incoming.receive()

    async def judge(self, arrived: Arriving, name: str) -> Kind:
        """The kind of a file that has arrived, by its content. Raises `Refusal` (`file_rejected`)."""
        head, tail = await arrived.read_ends()
        kind = judge(head, tail)
        if kind is None:
            kind = judge_text(name, head)
            if kind is not None and not await arrived.check(is_text):
                kind = None
        if kind is None or kind.name not in self.kinds:
            named = ", ".join(name for name in KINDS if name in self.kinds)
            raise Refusal("file_rejected", f"This file is not of a kind that is taken here: {named}.")
        return kind

    @asynccontextmanager
    async def make(self, arrived: Arriving, kind: Kind) -> AsyncIterator[Made]:
        """What is to be kept of a file, until the end of the block. Raises `Refusal` (`file_rejected`)."""
        if not kind.is_image:
            yield Made(Piece(arrived.path, arrived.sha256, arrived.size))
            return
        target, thumbnail = self._incoming.new_path(), self._incoming.new_path()
        with self._incoming.made(target, thumbnail):
            sizes = await self._images.convert(kind, arrived.path, target=target, thumbnail=thumbnail)
            yield Made(await _piece(target), await _piece(thumbnail), sizes)


async def _piece(path: Path) -> Piece:
    def measure() -> Piece:
        with path.open("rb") as file:
            return Piece(path, hashlib.file_digest(file, "sha256").hexdigest(), file.tell())

    try:
        return await trio.to_thread.run_sync(measure)
    except OSError as error:
        raise Unavailable(f"The disk does not take files ({error.strerror}); try again later.") from error


@asynccontextmanager
async def open_depot(options: UploadOptions, *, clock: Clock) -> AsyncIterator[Depot]:
    """A depot in the folder of the options, which is made. Raises OSError where that cannot be had."""
    folder = Path(options.dir)
    blobs: Blobs = Folder(folder / "blobs")
    if options.s3_url:
        blobs = S3.at(
            options.s3_url, key_id=options.s3_key_id, secret=options.s3_secret, region=options.s3_region, clock=clock,
            timeout_s=options.s3_timeout_s,
        )  # fmt: skip
    async with open_incoming(folder / "incoming", bytes_per_second=options.bytes_per_second) as incoming:
        yield Depot(options, incoming, blobs)
