"""Whether files can be kept where the configuration says, tried without leaving anything; for `chatd check`."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import trio

from chatd.clock import wall_clock_ms
from chatd.errors import Unavailable
from chatd.files.s3 import S3

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from chatd.config import UploadOptions

#: What the object of a trial begins with: no key of a file does. One that is left is removed by the daily comparison.
TRIAL: Final = "chatd-check-"
_CONTENT: Final = b"chatd check\n"


async def describe_uploads(options: UploadOptions) -> str:
    """Where files are kept and how fast that answers. Raises `Unavailable` with a sentence where it does not work."""
    described = _describe_folder(Path(options.dir))
    if not options.s3_url:
        return described
    began = time.perf_counter()
    store = S3.at(
        options.s3_url, key_id=options.s3_key_id, secret=options.s3_secret, region=options.s3_region,
        clock=wall_clock_ms, timeout_s=options.s3_timeout_s,
    )  # fmt: skip
    steps = await _try(store, options.s3_url)
    return f"{options.s3_url}, {steps} requests in {(time.perf_counter() - began) * 1000:.1f} ms"


def _describe_folder(folder: Path) -> str:
    there = next(path for path in (folder, *folder.absolute().parents) if os.access(path, os.F_OK))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise Unavailable(f"[uploads] dir: files cannot be written to {folder}; change the owner of {there}.")
    return str(folder) if there == folder else f"{folder}, which the first start makes"


async def _try(store: S3, url: str) -> int:
    """Do once with an object of one's own what a daemon does with files; how many requests that took."""
    key = TRIAL + secrets.token_hex(8)

    async def put() -> None:
        with TemporaryDirectory(prefix=TRIAL) as name:
            path = Path(name) / "content"
            await trio.Path(path).write_bytes(_CONTENT)
            await store.put(key, path)

    async def get() -> None:
        opened = await store.open(key)
        if opened is None:
            raise Unavailable("it is not there")
        try:
            if not await opened.read(0, len(_CONTENT)):
                raise Unavailable("it is empty")
        finally:
            await opened.aclose()

    steps: dict[str, Callable[[], Awaitable[object]]] = {
        "list its objects": lambda: store.page(""),
        "take an object": put,
        "give it back": get,
        "remove it": lambda: store.remove([key]),
    }
    for step, work in steps.items():
        try:
            await work()
        except Unavailable as error:
            if step == "give it back":
                with suppress(Unavailable):
                    await store.remove([key])
            sentence = f"[uploads] s3_url: the bucket {url} does not {step}; look at the key's rights and at s3_region."
            raise Unavailable(sentence) from error
    return len(steps) + 1
