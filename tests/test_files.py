"""Files through the real door: sent, stored once, listed, got by whom they are for, removed."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest
import trio

from chatd.clock import wall_clock_ms
from chatd.config import Secret
from chatd.identity.links import FileLinks
from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, open_daemon
from tests.pictures import decode, form, jpeg, upload, uploaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS


def kept(daemon: Daemon) -> list[Path]:
    """Everything in the folder of files but locks."""
    found = (daemon.data_dir / "uploads").rglob("*")
    return sorted(path for path in found if path.is_file() and path.name != "lock")


async def wait_until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not is_so():  # noqa: ASYNC110 - of a folder nobody tells
            await trio.sleep(0.01)


async def test_a_text_is_uploaded_and_got_again(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        answer = await upload(daemon, anna, b"hello\n", "notes.txt")
        assert answer.status == 201
        file = answer.json()["file"]
        assert answer.json()["success"] is True
        assert (file["type"], file["size"], file["name"]) == ("text/plain", 6, "notes.txt")
        assert re.fullmatch(r"/api/files/[\w-]{22}\.txt", file["url"])
        got = await daemon.http("GET", file["url"], token=anna.token)
        assert (got.status, got.body) == (200, b"hello\n")
        assert got.headers["content-type"] == "text/plain; charset=utf-8"
        assert got.headers["content-disposition"] == 'attachment; filename="notes.txt"'
        assert got.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in got.headers["content-security-policy"]
        assert got.headers["etag"] == f'"{hashlib.sha256(b"hello" + bytes([10])).hexdigest()[:32]}"'


async def test_a_photograph_is_served_with_its_thumbnail(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        file = await uploaded(daemon, anna, jpeg(2400, 1200), "фото.jpg")
        assert (file["type"], file["width"], file["height"]) == ("image/jpeg", 2000, 1000)
        got = await daemon.http("GET", file["url"], token=anna.token)
        assert (decode(got.body).width, decode(got.body).height) == (2000, 1000)
        assert got.headers["content-disposition"].startswith("inline; filename=\"____.jpg\"; filename*=UTF-8''%D1")
        thumbnail = await daemon.http("GET", file["thumbnailUrl"], token=anna.token)
        assert thumbnail.headers["content-type"] == "image/webp"
        assert (decode(thumbnail.body).width, decode(thumbnail.body).height) == (300, 150)


async def test_equal_content_is_kept_once(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        anna, ben = await daemon.register("anna"), await daemon.register("ben")
        first, second = await uploaded(daemon, anna, b"same"), await uploaded(daemon, ben, b"same")
        assert first["url"] != second["url"]
        assert len(kept(daemon)) == 1


async def test_two_uploads_at_once_do_not_mix(tmp_path: Path) -> None:
    contents = [bytes([65 + n]) * 300_000 for n in range(4)]
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        files = {}

        async def send(content: bytes) -> None:
            files[content] = await uploaded(daemon, anna, content)

        async with trio.open_nursery() as nursery:
            for content in contents:
                nursery.start_soon(send, content)
        for content, file in files.items():
            assert (await daemon.http("GET", file["url"], token=anna.token)).body == content


async def test_one_lists_and_removes_ones_own_files(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        anna, ben = await daemon.register("anna"), await daemon.register("ben")
        files = [await uploaded(daemon, anna) for _ in range(3)]
        page = (await daemon.http("GET", "/api/upload?limit=2", token=anna.token)).json()
        assert [file["id"] for file in page["files"]] == [files[2]["id"], files[1]["id"]]
        assert page["hasMore"] is True
        rest = (await daemon.http("GET", f"/api/upload?after={page['after']}", token=anna.token)).json()
        assert ([file["id"] for file in rest["files"]], rest["hasMore"]) == ([files[0]["id"]], False)
        assert (await daemon.http("GET", "/api/upload", token=ben.token)).json()["files"] == []

        path = f"/api/upload/{files[0]['id']}"
        assert (await daemon.http("DELETE", path, token=ben.token)).status == 404
        assert (await daemon.http("DELETE", path, token=anna.token)).status == 200
        assert (await daemon.http("DELETE", path, token=anna.token)).status == 404
        assert (await daemon.http("GET", files[0]["url"], token=anna.token)).status == 404


async def test_a_file_of_another_kind_than_its_name_says_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        for content in (b"\x7fELF" + bytes(100), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"", jpeg()[:-200]):
            answer = await upload(daemon, anna, content, "photo.jpg")
            assert (answer.status, answer.json()["code"]) == (422, "file_rejected")
        assert kept(daemon) == []
        assert (await daemon.http("GET", "/api/upload", token=anna.token)).json()["files"] == []


async def test_only_kinds_of_the_options_are_taken(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, UPLOADS_KINDS="png,pdf") as daemon:
        anna = await daemon.register("anna")
        answer = await upload(daemon, anna, jpeg())
        assert (answer.status, answer.json()["code"]) == (422, "file_rejected")
        assert "png, pdf" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"UPLOADS_MAX_BYTES": "1000"}, (413, "file_rejected")),
        ({"UPLOADS_QUOTA_BYTES": "1000"}, (409, "limit_reached")),
        ({"LIMITS_UPLOADS_PER_HOUR": "1"}, (429, "rate_limited")),
        ({}, (401, "unauthenticated")),
    ],
)
async def test_what_would_be_refused_is_refused_before_it_is_sent(
    tmp_path: Path, options: dict[str, str], told: tuple[int, str]
) -> None:
    async with open_daemon(tmp_path, limits=False, **options) as daemon:
        anna = await daemon.register("anna")
        await uploaded(daemon, anna, b"hello")
        token = anna.token if options else "none"
        head = (
            "POST /api/upload HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10000000\r\n"
            f"Content-Type: multipart/form-data; boundary=x\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        stream = await trio.open_tcp_stream("127.0.0.1", daemon.http_port)
        async with stream:
            await stream.send_all(head.encode())
            with trio.fail_after(60):
                answer = b"".join([part async for part in stream])
        assert answer.startswith(b"HTTP/1.1 %d " % told[0])
        assert told[1].encode() in answer


async def test_who_may_send_is_told_to_go_on(tmp_path: Path) -> None:
    body, headers = form(b"hello", "notes.txt")
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        lines = headers | {"Authorization": f"Bearer {anna.token}", "Expect": "100-continue", "Host": "x"}
        stream = await trio.open_tcp_stream("127.0.0.1", daemon.http_port)
        async with stream:
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            await stream.send_all(f"POST /api/upload HTTP/1.1\r\n{head}\r\n".encode())
            with trio.fail_after(30):
                assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
                await stream.send_all(body)
                assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 201 ")


async def test_a_file_that_turns_out_too_large_is_refused_while_it_arrives(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, UPLOADS_MAX_BYTES="1000") as daemon:
        anna = await daemon.register("anna")
        assert (await upload(daemon, anna, b"x" * 1001, "notes.txt")).status == 413
        assert (await upload(daemon, anna, b"x" * 1000, "notes.txt")).status == 201
        assert len(kept(daemon)) == 1


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    body, headers = form(b"x" * 500_000, "notes.txt")
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        lines = headers | {"Authorization": f"Bearer {anna.token}", "Host": "x"}
        head = "POST /api/upload HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        stream = await trio.open_tcp_stream("127.0.0.1", daemon.http_port)
        async with stream:
            await stream.send_all(head.encode() + b"\r\n" + body[:300_000])
            await wait_until(lambda: bool(kept(daemon)))
        await wait_until(lambda: not kept(daemon))
        assert (await daemon.http("GET", "/api/upload", token=anna.token)).json()["files"] == []


async def test_a_quota_bounds_what_one_user_has(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, UPLOADS_QUOTA_BYTES="1000") as daemon:
        anna, ben = await daemon.register("anna"), await daemon.register("ben")
        file = await uploaded(daemon, anna, b"x" * 600)
        answer = await upload(daemon, anna, b"y" * 600, "notes.txt")
        assert (answer.status, answer.json()["code"]) == (409, "limit_reached")
        await uploaded(daemon, ben, b"y" * 600)
        await daemon.http("DELETE", f"/api/upload/{file['id']}", token=anna.token)
        await uploaded(daemon, anna, b"y" * 600)


async def test_uploads_an_hour_are_bounded(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_UPLOADS_PER_HOUR="2") as daemon:
        anna = await daemon.register("anna")
        answers = [await upload(daemon, anna, b"hello", "notes.txt") for _ in range(3)]
        assert [answer.status for answer in answers] == [201, 201, 429]
        assert int(answers[2].headers["retry-after"]) > 60


@pytest.mark.parametrize(("option", "other", "status"), [("AT_ONCE", "ben", 503), ("AT_ONCE_PER_USER", "anna", 429)])
async def test_uploads_at_once_are_bounded(tmp_path: Path, option: str, other: str, status: int) -> None:
    body, headers = form(b"x" * 500_000, "notes.txt")
    async with open_daemon(tmp_path, **{f"UPLOADS_{option}": "1"}, limits=False) as daemon:
        users = {name: await daemon.register(name) for name in ("anna", "ben")}
        lines = headers | {"Authorization": f"Bearer {users['anna'].token}", "Host": "x"}
        head = "POST /api/upload HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        stream = await trio.open_tcp_stream("127.0.0.1", daemon.http_port)
        async with stream:
            await stream.send_all(head.encode() + b"\r\n" + body[:300_000])
            await wait_until(lambda: bool(kept(daemon)))
            assert (await upload(daemon, users[other], b"hello", "notes.txt")).status == status
            await stream.send_all(body[300_000:])
            with trio.fail_after(30):
                assert bytes(await stream.receive_some()).startswith(b"HTTP/1.1 201 ")
        assert (await upload(daemon, users[other], b"hello", "notes.txt")).status == 201


@pytest.mark.parametrize(("total_s", "status"), [("30", b"201"), ("0.4", b"408")])
async def test_an_upload_has_a_time_of_its_own(tmp_path: Path, total_s: str, status: bytes) -> None:
    body, headers = form(b"x" * 100, "notes.txt")
    async with open_daemon(tmp_path, HTTP_BODY_TOTAL_S="0.4", UPLOADS_TOTAL_S=total_s) as daemon:
        anna = await daemon.register("anna")
        lines = headers | {"Authorization": f"Bearer {anna.token}", "Host": "x"}
        head = "POST /api/upload HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        stream = await trio.open_tcp_stream("127.0.0.1", daemon.http_port)
        async with stream:
            await stream.send_all(head.encode() + b"\r\n" + body[:50])
            await trio.sleep(0.8)
            if status == b"201":
                await stream.send_all(body[50:])
            with trio.fail_after(30):
                assert bytes(await stream.receive_some())[9:12] == status


async def test_a_body_that_is_no_form_is_refused(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        answer = await daemon.http("POST", "/api/upload", {"file": "x"}, token=anna.token)
        assert (answer.status, answer.json()["code"]) == (422, "bad_message")
        assert (await daemon.http("POST", "/api/upload", {}, token="none")).status == 401


async def test_uploads_can_be_switched_off(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SERVER_FEATURES_UPLOADS="false") as daemon:
        anna = await daemon.register("anna")
        answer = await upload(daemon, anna, b"hello", "notes.txt")
        assert (answer.status, answer.json()["code"]) == (501, "feature_disabled")


async def test_who_has_a_file_already_is_told_so_and_parts_are_sent_alone(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        anna = await daemon.register("anna")
        file = await uploaded(daemon, anna, b"0123456789")
        whole = await daemon.http("GET", file["url"], token=anna.token)
        same = {"If-None-Match": f'W/"other", {whole.headers["etag"]}'}
        assert (await daemon.http("GET", file["url"], token=anna.token, headers=same)).status == 304
        part = await daemon.http("GET", file["url"], token=anna.token, headers={"Range": "bytes=2-4"})
        assert (part.status, part.body, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
        parts = await daemon.http("GET", file["url"], token=anna.token, headers={"Range": "bytes=0-0,-2"})
        boundary = parts.headers["content-type"].removeprefix("multipart/byteranges; boundary=")
        lines = f"\r\n--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Range: bytes "
        assert parts.body.decode() == f"{lines}0-0/10\r\n\r\n0{lines}8-9/10\r\n\r\n89\r\n--{boundary}--\r\n"
        head = await daemon.http("HEAD", file["url"], token=anna.token)
        assert (head.status, head.headers["content-length"], head.body) == (200, "10", b"")
        over = await daemon.http("GET", file["url"], token=anna.token, headers={"Range": "bytes=10-"})
        assert (over.status, over.headers["content-range"]) == (416, "bytes */10")


async def test_a_link_works_without_a_token_until_it_expires_or_is_altered(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        anna, ben = await daemon.register("anna"), await daemon.register("ben")
        file = await uploaded(daemon, anna, b"hello")
        assert (await daemon.http("GET", file["url"])).status == 401
        assert (await daemon.http("GET", file["url"], token=ben.token)).status == 404
        assert (await daemon.http("POST", f"{file['url']}/link", token=ben.token)).status == 404
        link = (await daemon.http("POST", f"{file['url']}/link", token=anna.token)).json()["url"]
        assert (await daemon.http("GET", link)).body == b"hello"
        other = await uploaded(daemon, anna, b"other")
        for altered in (
            link[:-1] + ("0" if link[-1] != "0" else "1"),
            link.replace("expires=1", "expires=2"),
            re.sub("expires=[0-9]+", "expires=1000", link),
            link.replace(file["url"], other["url"]),
            f"{file['url']}?signature=",
        ):
            assert (await daemon.http("GET", altered)).status == 403


async def test_a_link_that_has_expired_is_refused(tmp_path: Path) -> None:
    secret = Secret("secret-of-the-test-" * 3)
    links = FileLinks(secret, Secret())
    async with open_daemon(tmp_path, AUTH_SECRET=secret.reveal()) as daemon:
        anna = await daemon.register("anna")
        file = await uploaded(daemon, anna, b"hello")
        name, now_ms = file["url"].rpartition("/")[2], wall_clock_ms()
        good, over = (links.sign(name, maker_id=anna.id, expires_at_ms=now_ms + left) for left in (600_000, -1))
        assert (await daemon.http("GET", f"{file['url']}?{good}")).status == 200
        answer = await daemon.http("GET", f"{file['url']}?{over}")
        assert answer.status == 403
        assert "expired" in answer.json()["detail"]


async def test_uploads_are_counted_and_noted(tmp_path: Path) -> None:
    body, headers = form(b"x" * 500_000, "notes.txt")
    async with open_daemon(tmp_path, UPLOADS_MAX_BYTES="1000000") as daemon:
        anna = await daemon.register("anna")
        file = await uploaded(daemon, anna, b"hello")
        assert (await upload(daemon, anna, b"x" * 1_000_001)).status == 413
        assert (await upload(daemon, anna, b"\0")).status == 422
        lines = headers | {"Authorization": f"Bearer {anna.token}", "Host": "x"}
        head = "POST /api/upload HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        async with await trio.open_tcp_stream("127.0.0.1", daemon.http_port) as stream:
            await stream.send_all(head.encode() + b"\r\n" + body[:300_000])
            await wait_until(lambda: len(kept(daemon)) > 1)
        await wait_until(lambda: len(kept(daemon)) == 1)
        assert (await daemon.http("POST", f"{file['url']}/link", token=anna.token)).status == 201
        assert (await daemon.http("DELETE", f"/api/upload/{file['id']}", token=anna.token)).status == 200
        told = (await daemon.http("GET", "/metrics")).body.decode()
        for number in (
            'chatd_uploads_total{end="stored"} 1.0', 'chatd_uploads_total{end="refused"} 2.0',
            'chatd_uploads_total{end="broken_off"} 1.0', "chatd_upload_bytes_total 5.0", "chatd_uploads_under_way 0.0",
        ):  # fmt: skip
            assert f"\n{number}\n" in told
        wanted = ["file_uploaded", "upload_refused", "upload_refused", "file_linked", "file_removed"]
        sql = (
            "SELECT action, user_id FROM audit_events WHERE action LIKE '%file%' OR action LIKE '%upload%' ORDER BY id"
        )
        await wait_until(lambda: len(daemon.rows(sql)) == len(wanted))
        assert daemon.rows(sql) == [(action, anna.id) for action in wanted]
