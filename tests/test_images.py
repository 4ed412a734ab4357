"""What becomes of images, by decoding what is served: upright, without tags, within their sizes, moving still."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.daemon import Daemon, open_daemon, start_process
from tests.pictures import decode, moving, picture, tagged, upload, uploaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

GPS = {
    "exif_ifd3_GPSLatitude": "52/1 30/1 0/1 (52, 30, 0, Rational, 3 components, 24 bytes)",
    "exif_ifd0_Make": "Secret Camera (Secret Camera, ASCII, 14 components, 14 bytes)",
}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path, LIMITS_UPLOADS_PER_HOUR="0") as opened:
        yield opened


async def served(daemon: Daemon, content: bytes, name: str = "photo.jpg") -> tuple[Any, bytes, bytes]:
    """The file as the answer has it, and what is served of it and of its thumbnail."""
    anna = await daemon.register("anna")
    file = await uploaded(daemon, anna, content, name)
    bodies = [(await daemon.http("GET", file[url], token=anna.token)).body for url in ("url", "thumbnailUrl")]
    return file, bodies[0], bodies[1]


async def test_position_and_camera_of_a_photograph_are_gone(daemon: Daemon) -> None:
    sent = bytes(tagged(picture(400, 300), **GPS).jpegsave_buffer())
    assert b"Secret Camera" in sent
    assert decode(sent).get_typeof("exif-ifd3-GPSLatitude")
    _, image, thumbnail = await served(daemon, sent)
    for data in (image, thumbnail):
        assert b"Secret" not in data
        assert b"Exif" not in data
        assert not [field for field in decode(data).get_fields() if field.startswith(("exif", "xmp", "iptc", "icc"))]


async def test_a_photograph_that_lies_on_its_side_is_turned_upright(daemon: Daemon) -> None:
    sent = bytes(tagged(picture(400, 300), orientation=6).jpegsave_buffer())
    file, image, thumbnail = await served(daemon, sent)
    assert (file["width"], file["height"]) == (300, 400)
    upright = decode(image)
    assert (upright.width, upright.height) == (300, 400)
    # The red quarter, upper left as it was sent, is upper right when it is turned.
    assert upright.getpoint(250, 50)[0] > 150
    assert upright.getpoint(50, 50)[0] < 100
    assert not upright.get_typeof("orientation")
    assert (decode(thumbnail).width, decode(thumbnail).height) == (300, 400)


async def test_a_wide_photograph_is_made_as_wide_as_is_allowed_and_a_small_one_stays(daemon: Daemon) -> None:
    file, image, thumbnail = await served(daemon, bytes(picture(3000, 600).jpegsave_buffer()))
    assert (file["width"], file["height"], file["size"]) == (2000, 400, len(image))
    assert (decode(image).width, decode(thumbnail).width) == (2000, 300)
    ben = await daemon.register("ben")
    small = await uploaded(daemon, ben, bytes(picture(40, 30).jpegsave_buffer()), "small.jpg")
    assert (small["width"], small["height"]) == (40, 30)


async def test_a_transparent_png_stays_transparent(daemon: Daemon) -> None:
    _, image, thumbnail = await served(daemon, bytes(picture(400, 300, bands=4).pngsave_buffer()), "photo.png")
    for data in (image, thumbnail):
        assert decode(data).bands == 4
        assert 100 < decode(data).getpoint(5, 5)[3] < 150


@pytest.mark.parametrize("kind", ["gif", "webp"])
async def test_a_moving_image_still_moves_and_its_thumbnail_stands(daemon: Daemon, kind: str) -> None:
    still = moving(2400, 400)
    sent = bytes(still.gifsave_buffer() if kind == "gif" else still.webpsave_buffer())
    file, image, thumbnail = await served(daemon, sent, f"photo.{kind}")
    assert file["type"] == f"image/{kind}"
    moved = decode(image, "[n=-1]")
    assert (moved.get("n-pages"), moved.get("page-height"), moved.get("delay")) == (5, file["height"], [80] * 5)
    assert moved.width == file["width"] == 2000
    assert decode(thumbnail).width == 300
    assert not decode(thumbnail).get_typeof("n-pages")


@pytest.mark.parametrize("space", ["p3", "cmyk", "rgb16", "b-w"])
async def test_a_picture_of_another_colour_space_looks_the_same(daemon: Daemon, space: str) -> None:
    """What says how its colours are meant goes with the metadata, so the colours are converted before."""
    plain = picture(400, 300)
    if space in ("p3", "cmyk"):
        sent = plain.icc_transform(space, input_profile="srgb").jpegsave_buffer()
    else:
        sent = plain.colourspace(space).pngsave_buffer()
    _, image, _ = await served(daemon, bytes(sent))
    shown = decode(image)
    assert shown.interpretation == "srgb"
    red, green, _ = shown.getpoint(5, 5)
    # Paper has no such red, and grey none at all.
    assert (abs(red - 200) < 20 and green < 50) if space != "b-w" else red == green


async def test_the_same_photograph_of_two_users_is_kept_once(daemon: Daemon) -> None:
    sent = bytes(picture(400, 300).jpegsave_buffer())
    await served(daemon, sent)
    await uploaded(daemon, await daemon.register("ben"), sent)
    blobs = [path for path in (daemon.data_dir / "uploads" / "blobs").rglob("*") if path.is_file()]
    assert len(blobs) == 2


async def test_what_decodes_an_image_ends_with_its_daemon(tmp_path: Path) -> None:
    """What it leaves behind is removed at the next start, which it must not write to then."""

    def children() -> list[Path]:
        needle = str(tmp_path).encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                said = path.read_bytes()
                if b"image_child" in said and needle in said:
                    found.append(path)
        return found

    async def wait_until(is_so: Callable[[], bool]) -> None:
        with trio.fail_after(60):
            while not is_so():  # noqa: ASYNC110 - of processes nobody tells
                await trio.sleep(0.005)

    content = bytes(picture(6000, 6000).pngsave_buffer(compression=1))
    async with start_process(tmp_path) as daemon, trio.open_nursery() as nursery:
        anna = await daemon.register("anna")

        async def send() -> None:
            with suppress(OSError, trio.BrokenResourceError, IndexError):
                await upload(daemon, anna, content, "photo.png")

        nursery.start_soon(send)
        await wait_until(lambda: bool(children()))
        daemon.process.kill()
        await wait_until(lambda: not children())
    # The lock, what arrived, and perhaps the image that it had begun; not the thumbnail, which comes last.
    left = [path for path in (tmp_path / "uploads" / "incoming").rglob("*") if path.is_file()]
    assert len(left) < 4
