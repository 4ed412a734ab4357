"""Links in a message's text: found, listed in its metadata, and refused where they would run something.

The door to linkify_it, which knows where a link ends; where one may begin is found here first, so that text without any
costs next to nothing. Only what says itself that it is a link counts: `setup.py` is a name, not a page in Paraguay.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from linkify_it import LinkifyIt

from chatd.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Keys of a message's metadata that are the server's.
LINKS: Final = "links"
PREVIEWS: Final = "previews"
#: Links that are listed of one message.
MAX_LINKS: Final = 20
#: Places that are looked at, and characters of one link: what is looked at for nothing is bounded too.
_MAX_STARTS: Final = 50
_MAX_CHARACTERS: Final = 2048

_START: Final = re.compile(r"(?<![^\W_])(?:(?P<scheme>https?|ftp|mailto):|www\.)", re.IGNORECASE)
#: Schemes that run what stands behind them or reach into the reader's machine, with something behind them that is no
#: prose ("data: see below" and "javascript: the good parts" are); within another link they are that one's business.
_DANGEROUS: Final = re.compile(
    r"(?<![\w=/?&%+.-])(?:(?P<script>javascript|vbscript|livescript|mocha):(?=\S)"
    r"|(?P<data>data):(?=[\w.+-]*/?[\w.+-]*[;,])|(?P<file>file|filesystem|blob|jar|view-source):(?=/|\w+:))",
    re.IGNORECASE,
)
#: What browsers leave out of a URL before they read it.
_BROKEN: Final = re.compile(r"[\t\n\r]")

_linkify: Final = LinkifyIt()


def check_links(content: str) -> None:
    """Raise `Refusal` (`bad_message`) if the text has a link that would run something or read the reader's files."""
    if ":" not in content:
        return
    found = _DANGEROUS.search(content)
    if found is None and _BROKEN.search(content):
        found = _DANGEROUS.search(_BROKEN.sub("", content))
    if found is not None:
        scheme = (found["script"] or found["data"] or found["file"]).lower()
        raise Refusal(
            "bad_message",
            f"The field `content` has a link that begins with `{scheme}:`, which may harm whoever follows it; "
            "leave it out, or send it as `code`.",
        )


def find_links(content: str) -> list[str]:
    """The links of a text in their order, each once, at most `MAX_LINKS`."""
    if ":" not in content and "www." not in content.lower():
        return []
    return list(dict.fromkeys(_links(content)))[:MAX_LINKS]


def _links(content: str) -> Iterator[str]:
    position = 0
    for _ in range(_MAX_STARTS):
        start = _START.search(content, position)
        if start is None:
            return
        position = start.end()
        scheme = start["scheme"]
        # Without a scheme it is read as if it had one.
        head = "http://" if scheme is None else ""
        text = head + content[start.start() : start.start() + _MAX_CHARACTERS]
        name = (scheme or "http").lower() + ":"
        length = int(_linkify.test_schema_at(text, name, len(name)))
        if length:
            link = text[: len(name) + length]
            yield link
            position = start.start() + len(link) - len(head)


def with_links(metadata: dict[str, Any] | None, content: str, message_type: str) -> dict[str, Any] | None:
    """A message's metadata with the links of its text under `links`, whatever its sender put there; `code` has none.

    Without `previews`, which come later, when the pages have been read.
    """
    links = [] if message_type == "code" else find_links(content)
    if metadata is not None and not metadata.keys().isdisjoint((LINKS, PREVIEWS)):
        metadata = {name: value for name, value in metadata.items() if name not in (LINKS, PREVIEWS)}
    return {**(metadata or {}), LINKS: links} if links else metadata
