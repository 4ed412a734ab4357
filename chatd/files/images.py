"""Images made safe: each decoded and written anew by a process of its own, with limits and a deadline.

The process sees nothing of the daemon but the paths that it is given, and none of its environment, in which secrets
are. So many run at once; the others wait.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from chatd import telemetry
from chatd.errors import Refusal, Unavailable
from chatd.files.image_child import Task

if TYPE_CHECKING:
    from pathlib import Path

    from chatd.config import UploadOptions
    from chatd.files.kinds import Kind

log = telemetry.get_logger(__name__)

#: What the child finds around it: one thread for the pixels, and memory that is given back at once.
_ENVIRONMENT: Final = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "VIPS_CONCURRENCY": "1",
    "VIPS_BLOCK_UNTRUSTED": "1",
    "VIPS_WARNING": "0",
    "MALLOC_ARENA_MAX": "2",
}
#: What is written anew may be so many times larger than the largest file that may be sent.
GROWTH: Final = 4


class Sizes(NamedTuple):
    """Of an image, in pixels."""

    width: int
    height: int


class Images:
    """Makes images safe, at most `uploads.images_at_once` of them at once."""

    def __init__(self, options: UploadOptions) -> None:
        self._options = options
        self._places = trio.Semaphore(options.images_at_once)

    async def convert(self, kind: Kind, source: Path, *, target: Path, thumbnail: Path) -> Sizes:
        """Write the image of `source` anew, and its thumbnail.

        Raises `Refusal` (`file_rejected`) where it is none that can be had within the limits; the caller removes what
        is left of the targets. Cancelling ends the process.
        """
        task = Task(
            source=str(source),
            target=str(target),
            thumbnail=str(thumbnail),
            kind=kind.name,
            width=self._options.image_width,
            thumbnail_width=self._options.thumbnail_width,
            max_pixels=self._options.image_pixels,
            memory_bytes=self._options.image_memory_bytes,
            seconds=math.ceil(self._options.image_s),
            max_bytes=GROWTH * self._options.max_bytes,
        )
        async with self._places:
            status, said = await self._run(task)
        if status == 0:
            return Sizes(**json.loads(said))
        log.info("image_rejected", kind=kind.name, status=status, detail=said.decode("utf-8", "replace").strip())
        raise Refusal(
            "file_rejected",
            "This image cannot be read, or is too large when it is unpacked; save it anew, smaller, and try again.",
        )

    async def _run(self, task: Task) -> tuple[int, bytes]:
        """The exit status of the process, and what it said. Past its deadline it is killed."""
        command = [sys.executable, "-I", "-m", "chatd.files.image_child", json.dumps(task._asdict())]
        # Nothing is written to it: the kernel closes it where this process is killed, which ends the child.
        reading, writing = os.pipe()
        try:
            with trio.move_on_after(self._options.image_s):
                done = await trio.run_process(
                    command, stdin=reading, capture_stdout=True, stderr=subprocess.DEVNULL, check=False,
                    env=_ENVIRONMENT, cwd="/", deliver_cancel=_kill,
                )  # fmt: skip
                return done.returncode, done.stdout
        except OSError as error:
            raise Unavailable(f"Images cannot be looked at now ({error.strerror}); try again later.") from error
        finally:
            os.close(reading)
            os.close(writing)
        return -signal.SIGKILL, b"it took too long"


async def _kill(process: trio.Process) -> None:
    process.kill()
