"""What may stand in a message: length, characters, markup, words, links, metadata. Both doors check with this.

Lengths are in characters (Unicode code points), as people count them, and of what was sent. `clean_content` is the way
of every text that becomes a message's, new or edited.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final, Literal

from chatd.chat.links import check_links
from chatd.chat.markup import escape_html, has_html, strip_html
from chatd.errors import Refusal
from chatd.records import encode_json

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.config import LimitOptions

#: Control characters but tab, newline and carriage return (C0, DEL, C1).
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
#: A character that shows: no space, none of those that Unicode has no ink for (Default_Ignorable_Code_Point of UAX #44,
#: the marks around interlinear annotations), and not the empty pattern of Braille.
_VISIBLE: Final = re.compile(
    "[^\\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
#: A NUL character in JSON text; behind an odd number of backslashes it is these six characters as such.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def clean_content(chat: Chat, content: str, message_type: str) -> str:
    """The content of a message as it is to be stored. Raises `Refusal`: `bad_message` or `content_too_long`.

    `code` is what it is: neither its markup nor its links mean anything. The word filter goes over everything.
    """
    content = check_content(content, chat.options.limits)
    if message_type != "code":
        if chat.options.messages.html != "keep" and has_html(content):
            content = _without_html(content, chat.options.messages.html)
        check_links(content)
    return chat.word_filter.apply(content)


def _without_html(content: str, what: Literal["strip", "escape"]) -> str:
    if what == "escape":
        return escape_html(content)
    text = strip_html(content)
    if text is None:
        raise Refusal("bad_message", "The field `content` hides HTML tags in HTML tags; send it as `code`.")
    if not _VISIBLE.search(text):
        raise Refusal(
            "bad_message", "The field `content` has nothing but HTML tags, which are left out; send it as `code`."
        )
    return text


def check_content(content: str, limits: LimitOptions) -> str:
    """The content if its length and characters are good. Raises `Refusal`: `bad_message` or `content_too_long`."""
    if limits.content_characters and len(content) > limits.content_characters:
        raise Refusal(
            "content_too_long",
            f"The field `content` has {len(content)} characters; at most {limits.content_characters} are allowed.",
        )
    if not _VISIBLE.search(content):
        raise Refusal("bad_message", "The field `content` is empty, or nothing in it can be seen; write something.")
    if not (content.isascii() and content.isprintable()) and _CONTROL.search(content):
        raise Refusal("bad_message", "The field `content` has control characters; only tab and new line are allowed.")
    return content


def check_metadata(metadata: dict[str, Any] | None, limits: LimitOptions) -> bytes | None:
    """Metadata as JSON text. Raises `Refusal` (`bad_message`) if it is too large or has a NUL character in it."""
    if metadata is None:
        return None
    if limits.metadata_depth and _is_deeper(metadata, limits.metadata_depth):
        raise Refusal("bad_message", f"The field `metadata` is nested more than {limits.metadata_depth} levels deep.")
    try:
        encoded = encode_json(metadata)
    except RecursionError:
        raise Refusal("bad_message", "The field `metadata` is nested too deeply; keep it flat.") from None
    if limits.metadata_bytes and len(encoded) > limits.metadata_bytes:
        raise Refusal(
            "bad_message",
            f"The field `metadata` has {len(encoded)} bytes as JSON; at most {limits.metadata_bytes} are allowed.",
        )
    if _NUL.search(encoded):
        raise Refusal("bad_message", "The field `metadata` has a NUL character in it.")
    return encoded


def _is_deeper(value: object, levels: int) -> bool:
    """Whether objects and lists are nested in each other more than so many levels deep; looks no deeper."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deeper(inner, levels - 1) for inner in value)


def check_client_message_id(client_message_id: str | None, limits: LimitOptions) -> None:
    limit = limits.client_message_id_bytes
    if client_message_id is None:
        return
    if limit and len(client_message_id.encode()) > limit:
        raise Refusal("bad_message", f"The field `clientMessageId` is longer than {limit} bytes.")
    if not client_message_id.isprintable():
        raise Refusal("bad_message", "The field `clientMessageId` has characters that cannot be printed.")


def hash_request(*parts: str | bytes | None) -> str:
    """A short hash of all that a sender asked for: tells a repeat from another message under the same key."""
    return hashlib.blake2b(encode_json(parts), digest_size=16).hexdigest()
