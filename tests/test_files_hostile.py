"""Hostile files through the real door: each refused or made harmless, the daemon unharmed, nothing left behind."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from tests.daemon import open_daemon
from tests.hostile_files import CLEANED, REFUSED, SAVED
from tests.pictures import BOUNDARY, form, jpeg, upload, uploaded

if TYPE_CHECKING:
    from tests.daemon import Daemon, SignedIn


def kept(daemon: Daemon) -> list[Path]:
    found = (daemon.data_dir / "uploads").rglob("*")
    return sorted(path for path in found if path.is_file() and path.name != "lock")


def children_of(pid: int, name: bytes) -> list[bytes]:
    """What those children of a process were started as that have this in it."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with suppress(OSError):
                found.append(Path(f"/proc/{child}/cmdline").read_bytes())
    return [line for line in found if name in line]


async def test_hostile_files_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    assert len(REFUSED) + len(CLEANED) + len(SAVED) >= 80
    async with open_daemon(tmp_path, LIMITS_UPLOADS_PER_HOUR="0") as daemon:
        anna = await daemon.register("anna")
        for case, name, content in REFUSED:
            answer = await upload(daemon, anna, content, name)
            assert (answer.status, answer.json()["code"]) == (422, "file_rejected"), case
            assert kept(daemon) == [], case
        assert (await daemon.http("GET", "/api/upload", token=anna.token)).json()["files"] == []
        assert (await daemon.http("GET", "/healthz")).status == 200
        # It still does its work, and nobody's process is left.
        await uploaded(daemon, anna, jpeg(), "photo.jpg")
        assert not children_of(os.getpid(), b"image_child")


async def test_what_hides_in_images_is_gone_and_names_are_only_data(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_UPLOADS_PER_HOUR="0") as daemon:
        anna = await daemon.register("anna")
        for case, name, content in CLEANED:
            file = await uploaded(daemon, anna, content, name)
            assert file["url"].startswith("/api/files/"), case
            for url in (file["url"], file["thumbnailUrl"]):
                got = await daemon.http("GET", url, token=anna.token)
                assert b"script" not in got.body, case
                assert got.headers["content-type"].startswith("image/"), case
                assert got.headers["content-type"] != "image/svg+xml", case
                assert "/" not in got.headers["content-disposition"].partition("filename*")[0], case


async def test_what_is_not_looked_into_is_saved_and_never_shown(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_UPLOADS_PER_HOUR="0") as daemon:
        anna = await daemon.register("anna")
        for case, name, content in SAVED:
            file = await uploaded(daemon, anna, content, name)
            got = await daemon.http("GET", file["url"], token=anna.token)
            assert got.body == content, case
            assert got.headers["content-type"] in {
                "application/zip", "text/plain; charset=utf-8", "text/markdown; charset=utf-8",
            }, case  # fmt: skip
            assert got.headers["content-disposition"].startswith("attachment;"), case
            assert got.headers["x-content-type-options"] == "nosniff", case
            assert got.headers["content-security-policy"].endswith("sandbox"), case


async def test_a_pdf_that_would_run_something_is_shown_with_leave_for_nothing(tmp_path: Path) -> None:
    pdf = b"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\n<script>\n%%EOF\n"
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        file = await uploaded(daemon, anna, pdf, "page.html")
        assert file["url"].endswith(".pdf")
        got = await daemon.http("GET", file["url"], token=anna.token)
        assert got.body == pdf
        assert got.headers["content-type"] == "application/pdf"
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["content-disposition"] == 'inline; filename="page.html"'
        policy = got.headers["content-security-policy"].split("; ")
        assert policy[0] == "default-src 'none'"
        assert not [rule for rule in policy if rule.startswith("script-src")]


async def test_an_image_that_takes_too_long_or_too_much_memory_is_refused(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, UPLOADS_IMAGE_S="0.05", UPLOADS_IMAGE_PIXELS="1000000000") as daemon:
        anna = await daemon.register("anna")
        assert (await upload(daemon, anna, jpeg(3000, 3000))).status == 422
        assert kept(daemon) == []


async def raw(daemon: Daemon, user: SignedIn, headers: dict[str, str], data: bytes) -> bytes:
    """The answer to a request whose body is sent as it is."""
    lines = {"Host": "x", "Authorization": f"Bearer {user.token}", "Connection": "close", **headers}
    head = "POST /api/upload HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    stream = await trio.open_tcp_stream("127.0.0.1", daemon.http_port)
    async with stream:
        await stream.send_all(head.encode() + b"\r\n" + data)
        await stream.send_eof()
        with trio.fail_after(30):
            return b"".join([part async for part in stream])


BODY, HEADERS = form(b"hello", "notes.txt")
CHUNKED = {"Content-Type": HEADERS["Content-Type"], "Transfer-Encoding": "chunked"}


@pytest.mark.parametrize(
    ("headers", "data", "status"),
    [
        (CHUNKED, b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY), b"201"),
        (CHUNKED, b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n", b"201"),
        (CHUNKED, b"zz\r\n" + BODY, b"400"),
        (CHUNKED, b"-5\r\n" + BODY, b"400"),
        (CHUNKED, b"5\r\nabcdeXX", b"400"),
        (CHUNKED, b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY) - 4, BODY[:-4]), b"422"),
        (CHUNKED, b"%x\r\n%s\r\n" % (len(BODY), BODY), b""),
        (HEADERS | {"Content-Length": str(len(BODY) + 10)}, BODY, b""),
        (HEADERS | {"Content-Length": str(len(BODY) - 4)}, BODY[:-4], b"422"),
        (HEADERS | {"Transfer-Encoding": "chunked"}, BODY, b"400"),
        (HEADERS | {"Content-Type": "multipart/form-data"}, BODY, b"422"),
        (HEADERS | {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}x"}, BODY, b"422"),
        (HEADERS | {"Content-Length": "-1"}, BODY, b"400"),
        (HEADERS | {"Content-Length": "99999999999999999999"}, BODY, b"413"),
    ],
)
async def test_a_body_with_a_wrong_end_stores_nothing(
    tmp_path: Path, headers: dict[str, str], data: bytes, status: bytes
) -> None:
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        answer = await raw(daemon, anna, headers, data)
        assert answer[9:12] == status, answer
        assert len(kept(daemon)) == (1 if status == b"201" else 0)
        assert (await daemon.http("GET", "/healthz")).status == 200
