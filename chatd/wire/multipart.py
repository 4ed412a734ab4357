"""A form with one file in it, out of the bytes of a request as they arrive. The one door to the library multipart.

Pure: bytes in, what they mean out, the same however they are cut. Nothing is kept of what went through but the end of
what may be the beginning of a boundary. Leaves the bytes to whoever feeds it (`chatd.chat.files`). Source: RFC 7578.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

import multipart

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The field that has the file; others are read over.
FIELD: Final = "file"
MAX_FIELDS: Final = 8
MAX_HEADERS: Final = 8
MAX_HEADER_BYTES: Final = 4096
#: What a form may have around its file: boundaries, headers and short fields.
MAX_FRAME_BYTES: Final = 64 * 1024
MAX_NAME_CHARACTERS: Final = 200
#: RFC 2046 section 5.1.1.
MAX_BOUNDARY_CHARACTERS: Final = 70

#: What is in no name: control characters, and those that turn the direction of writing, which disguise its ending.
_UNNAMEABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class BadForm(Exception):
    """The body is no such form; `str()` is a sentence that says what is wrong."""


class FileBegins:
    """From here on the bytes are the file's. `name` is the user's, without folders and what no name has."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


#: What comes out: where the file begins, then its bytes.
Event: TypeAlias = FileBegins | bytes


class FileForm:
    """Reads one form. Raises `BadForm` where it is none, and for two files."""

    def __init__(self, content_type: str) -> None:
        kind, options = multipart.parse_options_header(content_type)
        boundary = options.get("boundary", "")
        if kind != "multipart/form-data" or not 0 < len(boundary) <= MAX_BOUNDARY_CHARACTERS or not boundary.isascii():
            raise BadForm("Send the file as multipart/form-data, in a field `file`.")
        self._parser = multipart.PushMultipartParser(
            boundary, max_header_size=MAX_HEADER_BYTES, max_header_count=MAX_HEADERS, max_segment_count=MAX_FIELDS
        )
        self._has_begun = False
        self._is_in_file = False
        self._around = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """What the next bytes bring; to be gone through to its end before the next call."""
        if not data:
            return
        file_bytes = 0
        try:
            for event in self._parser.parse(data):
                if event is None:
                    self._is_in_file = False
                elif not isinstance(event, multipart.MultipartSegment):
                    if self._is_in_file:
                        file_bytes += len(event)
                        yield bytes(event)
                elif event.name == FIELD:
                    yield self._begin(event.filename)
        except multipart.MultipartError as error:
            raise _bad_form() from error
        # What was kept back of the call before counts as the file's now: it may be less than nothing for once.
        self._around += len(data) - file_bytes
        if self._around > MAX_FRAME_BYTES:
            raise BadForm("The form has too much beside its file; send the file alone.")

    def end(self) -> None:
        """The body is over. Raises `BadForm` if the form is not, or had no file."""
        try:
            self._parser.close()
        except multipart.MultipartError as error:
            raise _bad_form() from error
        if not self._has_begun:
            raise BadForm("The form has no field `file` with a file; send one.")

    def _begin(self, name: str | None) -> FileBegins:
        if self._has_begun:
            raise BadForm("The form has two fields `file`; send one file at a time.")
        self._has_begun = self._is_in_file = True
        return FileBegins(clean_name(name or ""))


def clean_name(name: str) -> str:
    """The name of a file as its user sees it: the last part of a path, without what no name has, never empty."""
    last = re.split(r"[/\\]", name)[-1]
    printable = " ".join(_UNNAMEABLE.sub("", last).split()).strip(". ")
    if len(printable) > MAX_NAME_CHARACTERS:
        stem, dot, ending = printable.rpartition(".")
        printable = f"{stem[: MAX_NAME_CHARACTERS - 11]}.{ending}" if dot and len(ending) <= 10 else printable
    return printable[:MAX_NAME_CHARACTERS] or "file"


def _bad_form() -> BadForm:
    return BadForm("The body is no complete multipart/form-data; send it as a browser or curl does.")
