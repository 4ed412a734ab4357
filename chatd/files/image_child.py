"""The program that decodes one image, run by `images` as a process of its own. The one door to libvips.

    python -m chatd.files.image_child '{"source": …, "target": …, "thumbnail": …, "kind": "jpeg", …}'

It binds itself before it looks at the file: memory, CPU seconds, the size of what it writes, the number of its files.
It ends with 0 and a line of JSON on its output, or otherwise when the image is not to be had: whatever happens to it
happens to nobody else. Written out anew, an image has nothing of the file that was sent but its pixels.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, Final, NamedTuple

#: No image is higher than libvips can make one.
MAX_HEIGHT: Final = 10_000_000
MAX_FILES: Final = 64
#: A moving image may have so many pictures.
MAX_PAGES: Final = 1000

JPEG_QUALITY: Final = 85
WEBP_QUALITY: Final = 82
THUMBNAIL_QUALITY: Final = 75

#: The daemon's messages come first where both want the CPU (nice(2)); not so far that it never gets there.
NICENESS: Final = 5


class Task(NamedTuple):
    """What is to be done, and within which bounds. Widths are in pixels."""

    source: str
    target: str
    thumbnail: str
    kind: str
    width: int
    thumbnail_width: int
    max_pixels: int
    memory_bytes: int
    seconds: int
    max_bytes: int


class BadImage(Exception):
    """It is not what it says it is, or larger than is allowed."""


def bind(task: Task) -> None:
    """Have the kernel end this process where it takes too much or too long, whether or not its parent still lives."""
    # Where a sandbox forbids it, the image is worth more than the order.
    with suppress(OSError):
        os.nice(NICENESS)
    signal.alarm(task.seconds)
    for limit, bound in (
        (resource.RLIMIT_AS, task.memory_bytes),
        (resource.RLIMIT_CPU, task.seconds),
        (resource.RLIMIT_FSIZE, task.max_bytes),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (bound, bound))


def end_with_parent() -> None:
    """Wait for the end of the input, which nothing comes from and the parent's end closes, and end."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def convert(task: Task) -> dict[str, int]:
    """Write the image and its thumbnail; their sizes in pixels. Raises `BadImage`, and libvips' own errors."""
    import pyvips  # noqa: PLC0415 - not before the process is bound

    pyvips.block_untrusted_set(True)
    pyvips.cache_set_max(0)
    options = "[n=-1]" if task.kind in ("gif", "webp") else ""
    header = pyvips.Image.new_from_file(task.source + options)
    _check(header, task)
    image = pyvips.Image.thumbnail(
        task.source + options, task.width, height=MAX_HEIGHT, size="down", fail_on="error", output_profile="srgb"
    )
    _save(image, task)
    # Made of what was written: that it can be read is shown with it.
    thumbnail = pyvips.Image.thumbnail(
        task.target, task.thumbnail_width, height=MAX_HEIGHT, size="down", fail_on="error"
    )
    thumbnail.webpsave(task.thumbnail, Q=THUMBNAIL_QUALITY, keep="none")
    pages = _number(image, "n-pages", 1)
    height = _number(image, "page-height", image.height) if pages > 1 else image.height
    return {"width": image.width, "height": height}


def _check(header: Any, task: Task) -> None:
    """What the header says, before a pixel is decoded."""
    loader = str(header.get("vips-loader"))
    if loader != f"{task.kind}load":
        raise BadImage(f"it is read by {loader}")
    pages = _number(header, "n-pages", 1)
    # Its height is that of all its pictures, one below the other.
    if header.width * header.height > task.max_pixels or pages > MAX_PAGES:
        raise BadImage(f"{header.width} x {header.height} pixels, {pages} pictures")


def _number(image: Any, name: str, otherwise: int) -> int:
    return int(image.get(name)) if image.get_typeof(name) else otherwise


def _save(image: Any, task: Task) -> None:
    if task.kind == "jpeg":
        image.jpegsave(task.target, Q=JPEG_QUALITY, optimize_coding=True, keep="none")
    elif task.kind == "png":
        image.pngsave(task.target, compression=6, keep="none")
    elif task.kind == "gif":
        image.gifsave(task.target, keep="none")
    else:
        image.webpsave(task.target, Q=WEBP_QUALITY, keep="none")


def main() -> int:
    os.umask(0o077)
    task = Task(**json.loads(sys.argv[1]))
    bind(task)
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        sizes = convert(task)
    except Exception as error:  # noqa: BLE001 - see below
        # The boundary of this process: whatever it is, the image is refused.
        print(" ".join(str(error).split())[:500])  # noqa: T201 - what its parent logs
        return 1
    print(json.dumps(sizes))  # noqa: T201 - what its parent reads
    return 0


if __name__ == "__main__":
    sys.exit(main())
