"""What a page says of itself: title, description and site, out of the head of its HTML. Pure: no network.

Pages are anybody's: whatever they hold becomes short plain text. Source: https://ogp.me/,
https://html.spec.whatwg.org/multipage/semantics.html#the-meta-element
"""

from __future__ import annotations

import re
from contextlib import suppress
from html.parser import HTMLParser
from typing import Final, NamedTuple

#: Characters that are kept of each.
MAX_TITLE: Final = 200
MAX_DESCRIPTION: Final = 400
MAX_SITE: Final = 100

_CHARSET: Final = re.compile(rb"<meta[^>]{0,100}charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
#: Character sets of pages; Python has others, which are for other things.
_KNOWN: Final = re.compile(
    r"utf-?(8|16|16le|16be)|us-ascii|ascii|latin-?1|iso-?8859-?\d+|windows-\d+|cp\d+|koi8-[ru]|gb\w+|big5\w*"
    r"|euc[-_](jp|kr)|shift[-_]jis|sjis|tis-620|macintosh",
    re.IGNORECASE,
)


class PageHead(NamedTuple):
    """What a page is called; an absent part is empty."""

    title: str
    description: str
    site: str


def read_head(body: bytes, charset: str) -> PageHead:
    """The head of a page that begins with these bytes, in the character set that its server or the page itself says."""
    reader = _Reader()
    # So html.parser says that there is no such declaration; what came before it counts.
    with suppress(AssertionError):
        reader.feed(_text_of(body, charset))
    named = reader.named
    return PageHead(
        _plain(named.get("og:title") or reader.title, MAX_TITLE),
        _plain(named.get("og:description") or named.get("description", ""), MAX_DESCRIPTION),
        _plain(named.get("og:site_name", ""), MAX_SITE),
    )


def _text_of(body: bytes, charset: str) -> str:
    declared = _CHARSET.search(body[:2048])
    named = (charset, declared[1].decode("ascii") if declared else "")
    name = next((name for name in named if _KNOWN.fullmatch(name)), "utf-8")
    try:
        return body.decode(name, "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


class _Reader(HTMLParser):
    """Reads up to the body; what a page calls itself later on counts for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.named: dict[str, str] = {}
        self._is_in_title = False
        self._is_over = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_over = self._is_over or tag == "body"
        if self._is_over:
            return
        self._is_in_title = tag == "title" and not self.title
        if tag == "meta":
            found = {name: value or "" for name, value in attrs}
            name = (found.get("property") or found.get("name") or "").lower()
            self.named.setdefault(name, found.get("content", ""))

    def handle_endtag(self, tag: str) -> None:
        self._is_in_title = False
        self._is_over = self._is_over or tag == "head"

    def handle_data(self, data: str) -> None:
        if self._is_in_title:
            self.title += data


def _plain(text: str, max_characters: int) -> str:
    """One line of printable characters."""
    words = "".join(letter if letter.isprintable() else " " for letter in text).split()
    line = " ".join(words)
    return line if len(line) <= max_characters else line[: max_characters - 1].rstrip() + "…"
