"""Answers that are parts of a file: which parts a `Range` asks for, and what they look like on the wire.

Pure. `Segments` names the parts without having them: `chatd.listener` has the kernel send them where it can. Reads
ranges as nginx does, and leaves out what a client has already. Source: RFC 9110 sections 13 and 14.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol
from urllib.parse import quote

from chatd.wire.http import Response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.wire.http import Headers, Request

#: Asked for more parts than this, the whole is sent.
MAX_RANGES: Final = 50
#: Where a number ends to make sense.
MAX_DIGITS: Final = 18
READ_BYTES: Final = 64 * 1024

_ONE_RANGE: Final = re.compile(r" *(?:(?P<start>\d+) *- *(?P<end>\d*)|-(?P<suffix>\d+)) *", re.ASCII)
#: Of RFC 8187: what stands as it is in a value with an alphabet of its own.
_ATTRIBUTE_CHARACTERS: Final = "!#$&+-.^_`|~"
_NOT_QUOTABLE: Final = re.compile(r'[^\x20-\x7e]|["\\%]')


class Slice(NamedTuple):
    """A part of a file, in bytes."""

    offset: int
    size: int


class Source(Protocol):
    """What the parts are of. `descriptor` is that of an open file, if it is one."""

    @property
    def descriptor(self) -> int | None: ...
    async def read(self, offset: int, size: int) -> bytes: ...
    async def aclose(self) -> None: ...


class Segments:
    """A body (`Stream`) of bytes that are here and parts of a source."""

    def __init__(self, source: Source, parts: Sequence[bytes | Slice]) -> None:
        self.source = source
        self.parts = tuple(parts)
        self._rest = list(self.parts)

    @property
    def length(self) -> int:
        return sum(len(part) if isinstance(part, bytes) else part.size for part in self.parts)

    def take(self) -> bytes | Slice | None:
        """The next part, which somebody else sends; `None` at the end."""
        return self._rest.pop(0) if self._rest else None

    async def read_part(self) -> bytes:
        """The next bytes; for who cannot have the kernel send them. Raises EOFError where the source is cut off."""
        while self._rest:
            part = self._rest.pop(0)
            if isinstance(part, bytes):
                return part
            if part.size:
                data = await self.source.read(part.offset, min(part.size, READ_BYTES))
                if not data:
                    raise EOFError
                self._rest.insert(0, Slice(part.offset + len(data), part.size - len(data)))
                return data
        return b""

    async def aclose(self) -> None:
        await self.source.aclose()


class Download(NamedTuple):
    """A file as it is offered: `headers` go with every answer that has any of it."""

    size: int
    mime_type: str
    etag: str
    headers: Headers = ()


def is_known(request: Request, download: Download) -> bool:
    """Whether the client has it already (`If-None-Match`)."""
    given = request.header("if-none-match")
    if given is None:
        return False
    return given.strip() == "*" or download.etag in {tag.strip().removeprefix("W/") for tag in given.split(",")}


def not_modified(download: Download) -> Response:
    return Response(304, (("etag", download.etag), *download.headers))


def answer_with(request: Request, download: Download, source: Source) -> Response:
    """The file or those parts of it that are asked for; the source is the answer's own from here on."""
    found: list[Slice] | None = None
    if request.method == "GET" and request.header("if-range") in (None, download.etag):
        found = parse_range(request.header("range") or "", download.size)
    common = (("etag", download.etag), ("accept-ranges", "bytes"), *download.headers)
    kind = ("content-type", download.mime_type)
    if found is None:
        return Response(200, (kind, *common), Segments(source, [Slice(0, download.size)]))
    if not found:
        # The source is let go by whoever sends the answer.
        unsatisfied = ("content-range", f"bytes */{download.size}")
        return Response(416, (unsatisfied, *common), Segments(source, []))
    if len(found) == 1:
        place = ("content-range", _content_range(found[0], download.size))
        return Response(206, (kind, place, *common), Segments(source, found))
    boundary = secrets.token_hex(16)
    parts: list[bytes | Slice] = []
    for part in found:
        place_line = f"Content-Range: {_content_range(part, download.size)}"
        parts += [f"\r\n--{boundary}\r\nContent-Type: {download.mime_type}\r\n{place_line}\r\n\r\n".encode(), part]
    parts.append(f"\r\n--{boundary}--\r\n".encode())
    several = ("content-type", f"multipart/byteranges; boundary={boundary}")
    return Response(206, (several, *common), Segments(source, parts))


def parse_range(value: str, size: int) -> list[Slice] | None:
    """The parts that a `Range` asks for; `None` for the whole, an empty list for what there is none of.

    As nginx: parts that begin behind the end are left out, and parts that are together more than the whole make it
    the whole.
    """
    if value[:6].lower() != "bytes=" or len(value) == 6:
        return None
    texts = value[6:].split(",")
    if len(texts) > MAX_RANGES:
        return None
    found = []
    for text in texts:
        match = _ONE_RANGE.fullmatch(text)
        if match is None or any(len(number or "") > MAX_DIGITS for number in match.groups()):
            return []
        if match["suffix"] is not None:
            start, end = max(0, size - int(match["suffix"])), size
        else:
            start, end = int(match["start"]), min(int(match["end"] or size) + 1, size)
        if start < end:
            found.append(Slice(start, end - start))
    return None if sum(part.size for part in found) > size else found


def _content_range(part: Slice, size: int) -> str:
    return f"bytes {part.offset}-{part.offset + part.size - 1}/{size}"


def content_disposition(name: str, *, is_inline: bool) -> str:
    """How a file is to be named where it is saved, in any alphabet (RFC 6266, RFC 8187)."""
    kind = "inline" if is_inline else "attachment"
    plain = _NOT_QUOTABLE.sub("_", name)
    if plain == name:
        return f'{kind}; filename="{name}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe=_ATTRIBUTE_CHARACTERS)}"
