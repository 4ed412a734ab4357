"""Pictures and other files for tests, made by libvips itself, and the form that carries one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pyvips

if TYPE_CHECKING:
    from tests.daemon import Answer, Daemon, SignedIn

BOUNDARY = "-----------------------boundary-of-the-test"


def form(content: bytes, name: str = "photo.jpg") -> tuple[bytes, dict[str, str]]:
    """A body with one file, and its headers."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": str(len(body))}


async def upload(daemon: Daemon, user: SignedIn, content: bytes, name: str = "photo.jpg") -> Answer:
    body, headers = form(content, name)
    return await daemon.http("POST", "/api/upload", body, token=user.token, headers=headers)


async def uploaded(daemon: Daemon, user: SignedIn, content: bytes | None = None, name: str = "notes.txt") -> Any:
    """The file as the answer has it; some text of its own unless a content is given."""
    answer = await upload(daemon, user, os.urandom(20).hex().encode() if content is None else content, name)
    assert answer.status == 201, answer.body
    return answer.json()["file"]


def picture(width: int = 40, height: int = 30, *, bands: int = 3) -> Any:
    """A picture whose upper left quarter is red and whose rest is green; with four bands half transparent."""
    green = (pyvips.Image.black(width, height) + 1).bandjoin([1, 1]) * [0, 200, 0]
    red = (pyvips.Image.black(width // 2, height // 2) + 1).bandjoin([1, 1]) * [200, 0, 0]
    made = green.insert(red, 0, 0)
    if bands == 4:
        made = made.bandjoin(128)
    return made.cast("uchar").copy(interpretation="srgb")


def tagged(image: Any, **tags: str | int) -> Any:
    """The image with EXIF tags: `exif_ifd3_GPSLatitude="…"`, `orientation=6`."""
    made = image.copy()
    for name, value in tags.items():
        kind = pyvips.GValue.gint_type if isinstance(value, int) else pyvips.GValue.gstr_type
        made.set_type(kind, name.replace("_", "-", 2) if name.startswith("exif_ifd") else name, value)
    return made


def moving(width: int = 40, height: int = 30, *, pictures: int = 5) -> Any:
    """A picture that moves: so many pictures below each other."""
    frames = [picture(width, height) * [1, 1 - i / (2 * pictures), 1] for i in range(pictures)]
    made = pyvips.Image.arrayjoin([frame.cast("uchar") for frame in frames], across=1).copy(interpretation="srgb")
    made = made.copy()
    made.set_type(pyvips.GValue.gint_type, "page-height", height)
    made.set_type(pyvips.GValue.array_int_type, "delay", [80] * pictures)
    return made


def jpeg(width: int = 40, height: int = 30) -> bytes:
    return bytes(picture(width, height).jpegsave_buffer())


def png(width: int = 40, height: int = 30, *, bands: int = 3) -> bytes:
    return bytes(picture(width, height, bands=bands).pngsave_buffer())


def decode(data: bytes, options: str = "") -> Any:
    """Served bytes as a picture."""
    return pyvips.Image.new_from_buffer(data, options)
