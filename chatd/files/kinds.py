"""What a file is, judged by its content alone. The one door to puremagic.

What is not among the kinds that are let in is refused, whatever its name says. A file that is cut off, or that says at
its end something else than at its beginning, is none. Images get their real test in `images`, where they are decoded.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import puremagic

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kind(NamedTuple):
    """A kind of file: its name in the options, its MIME type, the ending of the names that it is served under."""

    name: str
    mime_type: str
    ending: str

    @property
    def is_image(self) -> bool:
        return self.mime_type.startswith("image/")


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("jpeg", "image/jpeg", "jpg"),
        Kind("png", "image/png", "png"),
        Kind("gif", "image/gif", "gif"),
        Kind("webp", "image/webp", "webp"),
        Kind("pdf", "application/pdf", "pdf"),
        Kind("zip", "application/zip", "zip"),
        Kind("txt", "text/plain", "txt"),
        Kind("markdown", "text/markdown", "md"),
    )
}

_BY_MIME_TYPE: Final = {kind.mime_type: kind for kind in KINDS.values()}
#: What is text as far as its characters go and is made to be run or laid out by a browser.
_ACTIVE: Final = re.compile(rb"(?i)\s*<(?:!doctype|\?xml|html|head|body|script|svg|iframe|math|x?htm)")
_MARKDOWN_NAME: Final = re.compile(r"(?i).*\.(?:md|markdown)")
#: Control characters that no text has: all but tab, line feed, form feed, carriage return and escape. In UTF-8 their
#: bytes stand for nothing else, and looking for bytes is quick.
_NOT_TEXT: Final = bytes({*range(32), 127} - {*b"\t\n\f\r\x1b"})
#: PDF readers look for the end of a document in so many of its last bytes.
_PDF_END_BYTES: Final = 1024
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_END_BYTES: Final = 22


def judge(head: bytes, tail: bytes) -> Kind | None:
    """The kind of a file by its first and last bytes, `None` where it may be text or is something else."""
    for mime_type in _mime_types(head):
        kind = _BY_MIME_TYPE.get(mime_type)
        if kind is not None and not mime_type.startswith("text/") and _is_whole(kind, tail):
            return kind
    return None


def judge_text(name: str, head: bytes) -> Kind | None:
    """The kind of a file that is text if all of it is (`is_text`): what tells markdown from other text is its name."""
    if not head or _ACTIVE.match(head.removeprefix(codecs.BOM_UTF8)) or _is_known(head):
        return None
    return KINDS["markdown" if _MARKDOWN_NAME.fullmatch(name) else "txt"]


def is_text(pieces: Iterator[bytes]) -> bool:
    """Whether all of it is UTF-8 without control characters that no text has."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in pieces:
            decoder.decode(piece)
            if len(piece.translate(None, _NOT_TEXT)) < len(piece):
                return False
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


def _mime_types(head: bytes) -> list[str]:
    """What it may be by its first bytes, the likeliest first."""
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return []
    # Many formats are zip archives; to whom it matters which is no question of their first bytes.
    is_zip = head.startswith((b"PK\x03\x04", _ZIP_END))
    return ["application/zip"] if is_zip else [match.mime_type for match in found if head.startswith(match.byte_match)]


def _is_known(head: bytes) -> bool:
    """Whether it begins like something that is no text."""
    return any(mime_type and not mime_type.startswith("text/") for mime_type in _mime_types(head))


def _is_whole(kind: Kind, tail: bytes) -> bool:
    if kind.name == "pdf":
        return b"%%EOF" in tail[-_PDF_END_BYTES:]
    if kind.name == "zip":
        at = tail.rfind(_ZIP_END)
        # The end record names the length of the comment that is behind it, and nothing is behind that.
        return at >= 0 and len(tail) == at + _ZIP_END_BYTES + int.from_bytes(tail[at + 20 : at + 22], "little")
    return True
