"""Where the bytes of files are kept: one suite over the folder and over an S3-compatible server."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]  # published without types
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]  # as above
from botocore.credentials import Credentials  # type: ignore[import-untyped]  # as above

from chatd.administration import check
from chatd.backends import StartFault
from chatd.clock import wall_clock_ms
from chatd.config import Secret
from chatd.configfile import load_config
from chatd.errors import Unavailable
from chatd.files.folder import Folder
from chatd.files.s3 import S3, Bucket
from chatd.files.signatures import NO_BODY, Signer
from tests import s3_server
from tests.daemon import NO_FILE, environment, open_daemon
from tests.pictures import jpeg, upload, uploaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chatd.config import Config
    from chatd.files.blobs import Blobs

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with s3_server.open_s3() as url:
        yield url


def store_at(url: str, *, secret: str = s3_server.SECRET) -> S3:
    return S3.at(
        url, key_id=s3_server.KEY_ID, secret=Secret(secret), region=s3_server.REGION, clock=wall_clock_ms, timeout_s=30
    )


@pytest.fixture(params=["folder", "s3", "s3 with a prefix"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """An empty place of each kind."""
    if request.param == "folder":
        return Folder(tmp_path / "blobs")
    url: str = request.getfixturevalue("s3_url")
    prefix = os.urandom(4).hex() if "prefix" in request.param else f"{os.urandom(4).hex()}/files"
    return store_at(f"{url}/{prefix}")


async def put(blobs: Blobs, tmp_path: Path, content: bytes, *, ending: str = "") -> str:
    """Put a content under a key that begins with its SHA-256, as keys do."""
    path = trio.Path(tmp_path) / "arrived"
    await path.write_bytes(content)
    key = f"{hashlib.sha256(content).hexdigest()}-{ending}"
    await blobs.put(key, tmp_path / "arrived")
    return key


async def read(blobs: Blobs, key: str, offset: int, size: int) -> bytes:
    opened = await blobs.open(key)
    assert opened is not None
    parts = []
    try:
        while size and (part := await opened.read(offset, size)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
    finally:
        await opened.aclose()
        await opened.aclose()
    return b"".join(parts)


async def test_what_was_put_is_read_whole_and_in_parts(blobs: Blobs, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    key = await put(blobs, tmp_path, content)
    assert await read(blobs, key, 0, 300_000) == content
    assert await read(blobs, key, 299_999, 10) == content[-1:]
    opened = await blobs.open(key)
    assert opened is not None
    assert (await opened.read(100_000, 5))[:1] == content[100_000:100_001]
    assert (await opened.read(7, 5))[:1] == content[7:8]
    await opened.aclose()


async def test_putting_again_does_no_harm_and_what_is_missing_is_not_there(blobs: Blobs, tmp_path: Path) -> None:
    assert await blobs.open("0" * 64 + "-none") is None
    key = await put(blobs, tmp_path, b"hello")
    assert await put(blobs, tmp_path, b"hello") == key
    assert await read(blobs, key, 0, 10) == b"hello"
    await blobs.remove([key, "0" * 64 + "-none"])
    assert await blobs.open(key) is None


async def test_what_is_kept_is_listed_in_order(blobs: Blobs, tmp_path: Path) -> None:
    assert await blobs.page("") == []
    keys = sorted([await put(blobs, tmp_path, b"%d" % n, ending=str(n)) for n in range(12)])
    found, after = [], ""
    while page := await blobs.page(after):
        found += page
        after = page[-1].key
    assert [kept.key for kept in found] == keys
    assert all(abs(kept.at_ms - wall_clock_ms()) < 60_000 for kept in found)


async def test_an_open_one_is_read_to_its_end_though_it_is_removed(tmp_path: Path) -> None:
    blobs = Folder(tmp_path / "blobs")
    key = await put(blobs, tmp_path, b"hello")
    opened = await blobs.open(key)
    assert opened is not None
    await blobs.remove([key])
    assert await opened.read(0, 10) == b"hello"
    await opened.aclose()


async def test_a_list_of_more_than_a_thousand_is_gone_through(s3_url: str, tmp_path: Path) -> None:
    store = store_at(f"{s3_url}/many")
    (tmp_path / "empty").write_bytes(b"")
    async with trio.open_nursery() as nursery:
        for part in range(10):

            async def put_some(part: int = part) -> None:
                for n in range(101):
                    await store.put(f"{part:02d}{n:03d}", tmp_path / "empty")

            nursery.start_soon(put_some)
    first = await store.page("")
    assert len(first) + len(await store.page(first[-1].key)) == 1010


async def test_a_server_that_is_not_there_or_refuses_is_unavailable(s3_url: str, tmp_path: Path) -> None:
    nowhere = (store_at("http://127.0.0.1:9/bucket"), store_at(s3_url.replace("/bucket", "/no-such-bucket")))
    for store in (*nowhere, store_at(s3_url, secret="another")):
        with pytest.raises(Unavailable):
            await put(store, tmp_path, b"hello")
        with pytest.raises(Unavailable):
            await store.page("")


async def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def say_nothing(_stream: trio.SocketStream) -> None:
            await trio.sleep_forever()

        nursery.start_soon(trio.serve_listeners, say_nothing, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/bucket"
        store = S3.at(url, key_id="k", secret=Secret("s"), region="r", clock=wall_clock_ms, timeout_s=0.1)
        with pytest.raises(Unavailable):
            await store.open("key")
        nursery.cancel_scope.cancel()


def test_a_signature_is_that_of_the_example_of_aws() -> None:
    signer = Signer("AKIAIOSFODNN7EXAMPLE", Secret(SECRET), "us-east-1")
    signed = signer.sign(
        "GET", "/test.txt", headers={"host": "examplebucket.s3.amazonaws.com", "range": "bytes=0-9"}, query={},
        payload=NO_BODY, now_s=1369353600,
    )  # fmt: skip
    assert signed["x-amz-date"] == "20130524T000000Z"
    assert signed["authorization"].endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/bucket", {"list-type": "2", "prefix": "a/b/", "start-after": "a/b/é ~x"}),
        ("PUT", "/bucket/prefix/0123-ab", {}),
        ("DELETE", "/bucket/a b", {}),
    ],
)
def test_signatures_are_those_of_boto(method: str, path: str, query: dict[str, str]) -> None:
    signer = Signer("AKIAIOSFODNN7EXAMPLE", Secret(SECRET), "eu-west-1")
    signed = signer.sign(
        method, path, headers={"host": "s3.example.org:9000"}, query=query, payload=NO_BODY, now_s=1369353600
    )
    request = AWSRequest(method, f"http://s3.example.org:9000{path.replace(' ', '%20')}", params=query)
    request.headers["host"] = "s3.example.org:9000"
    request.context["timestamp"] = signed["x-amz-date"]
    request.headers["X-Amz-Content-SHA256"] = NO_BODY
    request.headers["X-Amz-Date"] = signed["x-amz-date"]
    auth = S3SigV4Auth(Credentials("AKIAIOSFODNN7EXAMPLE", SECRET), "s3", "eu-west-1")
    canonical = auth.canonical_request(request)
    signature = auth.signature(auth.string_to_sign(request, canonical), request)
    assert signed["authorization"].endswith(f"Signature={signature}")


@pytest.mark.parametrize(
    ("url", "bucket"),
    [
        ("https://s3.example.org/bucket", Bucket("s3.example.org", 443, "/bucket", is_tls=True)),
        ("http://127.0.0.1:9000/b/p/q/", Bucket("127.0.0.1", 9000, "/b/p/q", is_tls=False)),
    ],
)
def test_a_bucket_is_told_by_its_url(url: str, bucket: Bucket) -> None:
    assert Bucket.of(url) == bucket
    assert Bucket.of("http://127.0.0.1:9000/b/p/q").prefix == "p/q/"
    assert Bucket.of("http://127.0.0.1:9000/b").prefix == ""


async def test_nodes_with_a_bucket_serve_each_others_files(s3_url: str, tmp_path: Path) -> None:
    options = {
        "UPLOADS_S3_URL": f"{s3_url}/nodes", "UPLOADS_S3_KEY_ID": s3_server.KEY_ID,
        "UPLOADS_S3_SECRET": s3_server.SECRET,
    }  # fmt: skip
    text = b"".join(b"%07d\n" % n for n in range(50_000))
    async with open_daemon(tmp_path, limits=False, **options) as daemon:
        anna = await daemon.register("anna")
        photo, notes = await uploaded(daemon, anna, jpeg(), "photo.jpg"), await uploaded(daemon, anna, text)
        assert not [path for path in (tmp_path / "uploads").rglob("*") if path.is_file() and path.name != "lock"]
    # Another one that has nothing but the database and the bucket.
    (tmp_path / "uploads" / "incoming").rmdir()
    async with open_daemon(tmp_path, limits=False, **options) as daemon:
        for url in (photo["url"], photo["thumbnailUrl"]):
            assert (await daemon.http("GET", url, token=anna.token)).status == 200
        assert (await daemon.http("GET", notes["url"], token=anna.token)).body == text
        parts = {"Range": "bytes=0-6,399992-"}
        several = await daemon.http("GET", notes["url"], token=anna.token, headers=parts)
        assert (several.status, b"0000000" in several.body, b"0049999" in several.body) == (206, True, True)


async def test_while_the_bucket_is_out_uploads_are_refused_and_come_again(tmp_path: Path) -> None:
    options = {
        "UPLOADS_S3_URL": "http://127.0.0.1:9/bucket", "UPLOADS_S3_KEY_ID": "test", "UPLOADS_S3_SECRET": "test",
    }  # fmt: skip
    async with open_daemon(tmp_path, limits=False, **options) as daemon:
        anna = await daemon.register("anna")
        answer = await upload(daemon, anna, b"hello", "notes.txt")
        assert (answer.status, answer.json()["code"]) == (503, "unavailable")
        assert (await daemon.http("GET", "/api/upload", token=anna.token)).json()["files"] == []


def checked(tmp_path: Path, url: str, *, secret: str = s3_server.SECRET) -> Config:
    """The configuration of a daemon that keeps its files in a bucket."""
    options = {"UPLOADS_S3_URL": url, "UPLOADS_S3_KEY_ID": s3_server.KEY_ID, "UPLOADS_S3_SECRET": secret}
    return load_config(NO_FILE, environment(tmp_path / "data", limits=False, **options))


async def test_check_tries_the_bucket_and_leaves_nothing_in_it(s3_url: str, tmp_path: Path) -> None:
    url = f"{s3_url}/checked"
    assert f"files: {url}, 5 requests in " in await check(checked(tmp_path, url))
    assert await store_at(url).page("") == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("bucket", "secret"), [("bucket", "another"), ("no-such-bucket", s3_server.SECRET), ("", s3_server.SECRET)]
)
async def test_check_names_a_bucket_that_does_not_do_what_is_needed(
    s3_url: str, tmp_path: Path, bucket: str, secret: str
) -> None:
    url = s3_url.replace("bucket", bucket) if bucket else "http://127.0.0.1:9/bucket"
    with pytest.raises(StartFault, match=f"s3_url: the bucket {url} does not list its objects"):
        await check(checked(tmp_path, url, secret=secret))


async def test_check_names_the_right_that_a_key_lacks(s3_url: str, tmp_path: Path) -> None:
    config = checked(tmp_path, s3_url)
    uploads = msgspec.structs.replace(config.uploads, s3_key_id=s3_server.READER_ID)
    with pytest.raises(StartFault, match="does not take an object"):
        await check(msgspec.structs.replace(config, uploads=uploads))


async def test_check_names_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    config = load_config(NO_FILE, environment(tmp_path, limits=False, UPLOADS_DIR=str(tmp_path / "file/uploads")))
    with pytest.raises(StartFault, match=r"\[uploads\] dir: .*file"):
        await check(config)
