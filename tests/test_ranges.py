"""Parts of files: what a Range asks for, as nginx has it, and the kernel sending them to readers of any speed."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chatd.wire.ranges import MAX_RANGES, Slice, content_disposition, parse_range
from tests.daemon import Answer, Daemon, SignedIn, open_daemon
from tests.nginx import NOBODY, NOGROUP, free_port, nginx_program
from tests.pictures import uploaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONTENT = "".join(f"{n:05d} line of the file\n" for n in range(500)).encode()
SIZE = len(CONTENT)

RANGES = [
    "bytes=0-0", "bytes=0-", f"bytes=0-{SIZE - 1}", f"bytes=0-{SIZE}", f"bytes=0-{SIZE * 5}", "bytes=1-3", "bytes=-1",
    "bytes=-0", f"bytes=-{SIZE}", f"bytes=-{SIZE + 1}", "bytes=-999999", f"bytes={SIZE - 1}-", f"bytes={SIZE}-",
    f"bytes={SIZE + 5}-", "bytes=5-4", "bytes=0-0,2-2", "bytes=0-0,-1", "bytes=0-9, 20-29", "bytes=0-9,5-14",
    "bytes=20-29,0-9", f"bytes=0-0,{SIZE}-", f"bytes={SIZE}-,0-0", f"bytes=0-,0-{SIZE}", f"bytes={SIZE}-,{SIZE + 1}-",
    "bytes=0-0,0-0,0-0", "bytes=100-199,300-399,-100", "bytes=", "bytes=-", "bytes=abc", "bytes=1", "bytes=1-2-3",
    "bytes=--1", "bytes=1-a", "bytes= 1-2", "bytes=1 - 2", "bytes=1-2 ", "bytes=1-2,", "bytes=,1-2", "bytes=1-2,,3-4",
    "bytes=99999999999999999999-", "bytes=0-99999999999999999999", "bytes=-99999999999999999999", "bits=0-1",
    "BYTES=0-1", "0-1", "bytes 0-1", "bytes=0x1-0x2", "bytes=+1-2", "bytes=1.0-2", "bytes=0-1;2-3", "bytes=²-3",
]  # fmt: skip


@asynccontextmanager
async def open_static_nginx(content: bytes) -> AsyncIterator[Daemon]:
    """nginx that serves one text, /file.txt."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="chatd-nginx-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # noqa: ASYNC240 - a folder of the test
        (folder / "file.txt").write_bytes(content)
        (folder / "nginx.conf").write_text(
            f"""daemon off; pid {name}/pid; error_log stderr crit; worker_processes 1; master_process off;
            events {{ }}
            http {{ access_log off; types {{ text/plain txt; }} charset utf-8;
                client_body_temp_path {name}/b; proxy_temp_path {name}/p; fastcgi_temp_path {name}/f;
                uwsgi_temp_path {name}/u; scgi_temp_path {name}/s;
                server {{ listen 127.0.0.1:{port}; root {name}; }} }}"""
        )
        os.chown(folder, *((65534, 65534) if NOBODY else (-1, -1)))
        process = await trio.lowlevel.open_process(
            [nginx_program(), "-p", name, "-c", str(folder / "nginx.conf")], user=NOBODY, group=NOGROUP,
            extra_groups=None if NOBODY is None else [], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with trio.fail_after(30):
                while True:
                    try:
                        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    except OSError:
                        await trio.sleep(0.01)
                    else:
                        break
            yield Daemon(0, port, folder)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def told(answer: Answer) -> tuple[object, ...]:
    """What two servers have to agree on: the boundary is each one's own, and so are the words of a refusal."""
    kind = answer.headers["content-type"] if answer.status < 300 else ""
    boundary = re.search("boundary=(.*)", kind)
    body = answer.body if answer.status < 300 else b""
    if boundary:
        kind, body = "several", body.replace(boundary[1].encode(), b"BOUNDARY")
    return answer.status, kind, answer.headers.get("content-range"), body


async def test_parts_are_those_that_nginx_serves_byte_for_byte(tmp_path: Path) -> None:
    different = []
    async with open_daemon(tmp_path) as daemon, open_static_nginx(CONTENT) as nginx:
        anna = await daemon.register("anna")
        file = await uploaded(daemon, anna, CONTENT)
        for value in RANGES:
            headers = {"Range": value.encode().decode("latin-1")} if not value.isascii() else {"Range": value}
            ours = told(await daemon.http("GET", file["url"], token=anna.token, headers=headers))
            theirs = told(await nginx.http("GET", "/file.txt", headers=headers))
            if ours != theirs:
                different.append((value, ours[:3], theirs[:3]))
    assert different == []


async def test_if_range_and_if_none_match_are_those_of_nginx(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon, open_static_nginx(CONTENT) as nginx:
        anna = await daemon.register("anna")
        file = await uploaded(daemon, anna, CONTENT)
        tags = [
            (await server.http("HEAD", path, token=anna.token)).headers["etag"]
            for server, path in ((daemon, file["url"]), (nginx, "/file.txt"))
        ]
        for header in (
            {"If-Range": "TAG", "Range": "bytes=0-4"},
            {"If-Range": '"other"', "Range": "bytes=0-4"},
            {"If-None-Match": "TAG"},
            {"If-None-Match": "W/TAG"},
            {"If-None-Match": '"a", TAG'},
            {"If-None-Match": "*"},
            {"If-None-Match": '"other"'},
            {"If-None-Match": "TAG", "Range": "bytes=0-4"},
        ):
            answers = [
                await server.http(
                    "GET", path, token=anna.token, headers={k: v.replace("TAG", tag) for k, v in header.items()}
                )
                for server, path, tag in ((daemon, file["url"], tags[0]), (nginx, "/file.txt", tags[1]))
            ]
            assert told(answers[0]) == told(answers[1]), header


@given(size=st.integers(1, 50), parts=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1))
def test_parts_are_within_the_file_and_never_more_than_it(size: int, parts: list[tuple[int, int]]) -> None:
    found = parse_range("bytes=" + ",".join(f"{start}-{end}" for start, end in parts), size)
    if found is not None:
        assert all(part.size > 0 and part.offset + part.size <= size for part in found)
        assert sum(part.size for part in found) <= size


def test_very_many_parts_are_the_whole() -> None:
    assert parse_range("bytes=" + ",".join(["0-0"] * MAX_RANGES), 1000) == [Slice(0, 1)] * MAX_RANGES
    assert parse_range("bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)), 1000) is None


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.txt", 'attachment; filename="a.txt"'),
        ("a b.txt", 'attachment; filename="a b.txt"'),
        ('a".txt', "attachment; filename=\"a_.txt\"; filename*=UTF-8''a%22.txt"),
        ("100%.txt", "attachment; filename=\"100_.txt\"; filename*=UTF-8''100%25.txt"),
        ("naïve.txt", "attachment; filename=\"na_ve.txt\"; filename*=UTF-8''na%C3%AFve.txt"),
        ("写真.jpg", "attachment; filename=\"__.jpg\"; filename*=UTF-8''%E5%86%99%E7%9C%9F.jpg"),
        ("a'b*(c).txt", 'attachment; filename="a\'b*(c).txt"'),
    ],
)
def test_a_name_in_any_alphabet_is_given_back(name: str, header: str) -> None:
    assert content_disposition(name, is_inline=False) == header


async def _open_get(daemon: Daemon, user: SignedIn, url: str, *, receive_bytes: int) -> trio.SocketStream:
    """A connection on which a file has been asked for, and which takes little at a time."""
    sock = trio.socket.socket()
    sock.setsockopt(SOL_SOCKET, SO_RCVBUF, receive_bytes)
    await sock.connect(("127.0.0.1", daemon.http_port))
    stream = trio.SocketStream(sock)
    await stream.send_all(
        f"GET {url} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {user.token}\r\nConnection: close\r\n\r\n".encode()
    )
    return stream


async def test_slow_readers_each_get_the_whole_file_while_others_are_served(tmp_path: Path) -> None:
    content = b"".join(b"%09d\n" % n for n in range(300_000))
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        file = await uploaded(daemon, anna, content)
        streams = [await _open_get(daemon, anna, file["url"], receive_bytes=4096) for _ in range(20)]
        assert (await daemon.http("GET", file["url"], token=anna.token)).body == content
        for stream in streams:
            async with stream:
                with trio.fail_after(60):
                    answer = b"".join([part async for part in stream])
            assert answer.endswith(content)


async def test_a_reader_who_takes_nothing_is_let_go(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, HTTP_WRITE_TIMEOUT_S="0.2") as daemon:
        anna = await daemon.register("anna")
        file = await uploaded(daemon, anna, b"x" * 9_000_000)
        async with await _open_get(daemon, anna, file["url"], receive_bytes=4096) as stream:
            await trio.sleep(1)
            with trio.fail_after(60):
                received = 0
                try:
                    while part := await stream.receive_some():
                        received += len(part)
                except trio.BrokenResourceError:
                    pass
            assert received < 9_000_000
        descriptors = Path("/proc/self/fd")
        with trio.fail_after(30):
            while any("/blobs/" in os.path.realpath(path) for path in descriptors.iterdir()):  # noqa: ASYNC110, ASYNC240 - of descriptors nobody tells
                await trio.sleep(0.01)
