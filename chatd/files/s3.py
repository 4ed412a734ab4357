"""Blobs in a bucket of an S3-compatible server, which several nodes share. Path-style addresses, one object a blob.

Native to Trio: a handful of plain requests (PUT, GET with Range, HEAD, DELETE, ListObjectsV2), signed by `signatures`,
need neither a library's threads nor its own retries. What a server has answered 200 to is durable, as S3 promises.
"""

from __future__ import annotations

import html
import re
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlsplit

import trio

from chatd import telemetry
from chatd.errors import Unavailable
from chatd.files.blobs import Kept
from chatd.files.s3_link import Exchange, connect, translated
from chatd.files.signatures import NO_BODY, UNSIGNED, Signer, quoted_query

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from chatd.clock import Clock
    from chatd.config import Secret

log = telemetry.get_logger(__name__)

#: Of a list of 1000 objects, and of what a server says of an error.
MAX_LIST_BYTES: Final = 2 * 1024 * 1024
PORTS: Final = {"http": 80, "https": 443}
_ENTRY: Final = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)
_KEY: Final = re.compile(r"<Key>(.*?)</Key>", re.DOTALL)
_MODIFIED: Final = re.compile(r"<LastModified>(.*?)</LastModified>")
_SHA256: Final = re.compile(r"[0-9a-f]{64}(?=-)")


class Bucket(NamedTuple):
    """Where the objects are: the path begins with the bucket and ends without a slash."""

    host: str
    port: int
    path: str
    is_tls: bool

    @classmethod
    def of(cls, url: str) -> Bucket:
        """Of a URL like https://s3.example.org/bucket/prefix."""
        parts = urlsplit(url)
        port = parts.port or PORTS[parts.scheme]
        return cls(parts.hostname or "", port, parts.path.rstrip("/"), parts.scheme == "https")

    @property
    def authority(self) -> str:
        is_usual = self.port == PORTS["https" if self.is_tls else "http"]
        return self.host if is_usual else f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        return self.path.split("/")[1]

    @property
    def prefix(self) -> str:
        """What the keys of all objects begin with."""
        return "".join(part + "/" for part in self.path.split("/")[2:])


class S3:
    """`Blobs` in a bucket."""

    def __init__(self, bucket: Bucket, signer: Signer, *, clock: Clock, timeout_s: float) -> None:
        self._bucket = bucket
        self._signer = signer
        self._clock = clock
        self._timeout_s = timeout_s

    @classmethod
    def at(cls, url: str, *, key_id: str, secret: Secret, region: str, clock: Clock, timeout_s: float) -> S3:
        return cls(Bucket.of(url), Signer(key_id, secret, region), clock=clock, timeout_s=timeout_s)

    async def put(self, key: str, path: Path) -> None:
        match = _SHA256.match(key)
        async with translated():
            exchange = await self.ask("PUT", self._path(key), body=path, payload=match[0] if match else UNSIGNED)
            await self._end(exchange, "PUT", {200})

    async def open(self, key: str) -> S3Object | None:
        async with translated():
            status = await self._end(await self.ask("HEAD", self._path(key)), "HEAD", {200, 404})
        return None if status == 404 else S3Object(self, self._path(key))

    async def remove(self, keys: Collection[str]) -> None:
        async with translated():
            for key in keys:
                await self._end(await self.ask("DELETE", self._path(key)), "DELETE", {200, 204, 404})

    async def page(self, after: str) -> list[Kept]:
        prefix = self._bucket.prefix
        query = {"list-type": "2", "prefix": prefix}
        if after:
            query["start-after"] = prefix + after
        async with translated():
            exchange = await self.ask("GET", f"/{self._bucket.name}", query=query)
            try:
                text = (await exchange.read(max_bytes=MAX_LIST_BYTES)).decode("utf-8", "replace")
            finally:
                await exchange.aclose()
        if exchange.status != 200:
            raise _unexpected("LIST", exchange.status)
        found = []
        for entry in _ENTRY.findall(text):
            key, modified = _KEY.search(entry), _MODIFIED.search(entry)
            if key is not None and modified is not None:
                at_ms = int(datetime.fromisoformat(modified[1]).timestamp() * 1000)
                found.append(Kept(html.unescape(key[1]).removeprefix(prefix), at_ms))
        return sorted(found)

    async def ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, query: dict[str, str] | None = None,
        body: Path | None = None, payload: str = NO_BODY,
    ) -> Exchange:  # fmt: skip
        """Send a request; its answer is the caller's to close. Raises `s3_link.TROUBLES`."""
        bucket, query = self._bucket, query or {}
        signed = self._signer.sign(
            method, path, headers={"host": bucket.authority, **(headers or {})}, query=query, payload=payload,
            now_s=self._clock() / 1000,
        )  # fmt: skip
        # What is not signed: where this connection ends, and where the body does.
        signed |= {"connection": "close"}
        if body is not None:
            signed |= {"content-length": str((await trio.Path(body).stat()).st_size)}
        target = quote(path, safe="/~") + (f"?{quoted_query(query)}" if query else "")
        exchange = await connect(bucket.host, bucket.port, is_tls=bucket.is_tls, timeout_s=self._timeout_s)
        try:
            await exchange.send(method, target, signed, body)
        except BaseException:
            await exchange.aclose()
            raise
        return exchange

    async def _end(self, exchange: Exchange, method: str, expected: set[int]) -> int:
        await exchange.aclose()
        if exchange.status not in expected:
            raise _unexpected(method, exchange.status)
        return exchange.status

    def _path(self, key: str) -> str:
        return f"{self._bucket.path}/{key}"


class S3Object:
    """An object that is there. Read on from where it was, it is one request; from elsewhere, another one."""

    descriptor = None

    def __init__(self, store: S3, path: str) -> None:
        self._store = store
        self._path = path
        self._exchange: Exchange | None = None
        self._position = 0
        self._rest = b""

    async def read(self, offset: int, size: int) -> bytes:
        async with translated():
            if self._exchange is None or offset != self._position:
                await self.aclose()
                self._exchange = await self._store.ask("GET", self._path, headers={"range": f"bytes={offset}-"})
                self._position, self._rest = offset, b""
                if self._exchange.status not in (200, 206) or (self._exchange.status == 200 and offset):
                    raise _unexpected("GET", self._exchange.status)
            data = self._rest or await self._exchange.read_part()
        data, self._rest = data[:size], data[size:]
        self._position += len(data)
        return data

    async def aclose(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.aclose()


def _unexpected(method: str, status: int) -> Unavailable:
    log.warning("s3_refused", method=method, status=status)
    return Unavailable("Where files are kept does not do what it is asked; try again later.")
