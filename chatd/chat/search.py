"""Searching what was written in one's rooms: what a query may be, which message fits it best, and what is shown of it.

The store gives the newest messages that have all the words; here they are put in order, alike whatever the database,
and cut to an excerpt that says which parts of it match. A message in which the words are not any more is left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.chat.permissions import check_may
from chatd.chat.rooms import visible_room
from chatd.errors import Refusal
from chatd.records import ExcerptPart, SearchResult, format_time, format_time_or_none
from chatd.store.search import LOOKED_AT
from chatd.store.words import Word, phrases_of, places_in, places_of, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chatd.chat.context import Chat
    from chatd.store.search import Found
    from chatd.store.words import Phrase

#: Words and phrases of one query.
MAX_PHRASES: Final = 20
#: Characters of an excerpt, and how many of them stand before the first match.
EXCERPT: Final = 200
BEFORE: Final = 60
#: How soon a further match of a word counts little, and how much a longer message counts less (the k1 and b of BM25);
#: words that a message commonly has.
_SATURATION: Final = 1.2
_BY_LENGTH: Final = 0.75
_COMMON_WORDS: Final = 12


class Wanted(NamedTuple):
    """What is looked for: in one room or in all of one's own, from one sender or from everybody (empty)."""

    query: str
    room_id: str
    sender_id: str


async def search(
    chat: Chat, user_id: str, wanted: Wanted, *, limit: int, offset: int
) -> tuple[list[SearchResult], bool]:
    """The best results behind the first `offset`, and whether there are more. Raises `Refusal`."""
    phrases = _phrases(wanted.query, chat.options.search.query_characters)
    if wanted.room_id:
        check_may((await visible_room(chat, user_id, wanted.room_id)).role, "read")
    found = await chat.search.find(
        user_id,
        phrases,
        room_id=wanted.room_id,
        sender_id=wanted.sender_id,
        limit=chat.options.search.matches,
        timeout_s=chat.options.search.timeout_s,
    )
    ranked = _in_order(found, phrases)
    page = [_result(message, phrases) for message in ranked[offset : offset + limit]]
    return page, len(ranked) > offset + limit


def _phrases(query: str, max_characters: int) -> list[Phrase]:
    if len(query) > max_characters:
        raise Refusal(
            "bad_message", f"The parameter `q` has {len(query)} characters; at most {max_characters} are looked for."
        )
    phrases = phrases_of(query)
    if not phrases:
        raise Refusal("bad_message", "The parameter `q` has no word in it; give letters or digits to look for.")
    if len(phrases) > MAX_PHRASES:
        raise Refusal(
            "bad_message", f"The parameter `q` has {len(phrases)} words; at most {MAX_PHRASES} are looked for."
        )
    return phrases


def _in_order(found: Sequence[Found], phrases: Sequence[Phrase]) -> list[Found]:
    """Messages by how well they match, of those that match alike the newest first; without those that do not."""
    scored = [(_score(message, phrases), message.id, message) for message in found]
    return [message for score, _, message in sorted(scored, reverse=True) if score > 0]


def _score(message: Found, phrases: Sequence[Phrase]) -> float:
    """How well a message matches: each phrase counts, the more the shorter the message is."""
    words = words_of(message.content)
    counts = [words.count(phrase[0]) if len(phrase) == 1 else sum(1 for _ in places_in(words, phrase))
              for phrase in phrases]  # fmt: skip
    if not all(counts):
        # Of a long message the rest may have them.
        return math.ulp(0.0) if len(message.content) == LOOKED_AT else 0.0
    length = 1 - _BY_LENGTH + _BY_LENGTH * len(words) / _COMMON_WORDS
    return sum(count * (_SATURATION + 1) / (count + _SATURATION * length) for count in counts)


def _result(message: Found, phrases: Sequence[Phrase]) -> SearchResult:
    return SearchResult(
        message_id=message.id,
        room_id=message.room_id,
        seq=message.seq,
        sender_id=message.sender_id,
        sender_name=message.sender_name,
        message_type=message.message_type,
        created_at=format_time(message.created_at),
        edited_at=format_time_or_none(message.edited_at),
        excerpt=excerpt_of(message.content, phrases),
    )


def excerpt_of(content: str, phrases: Sequence[Phrase]) -> list[ExcerptPart]:
    """The part of a text around its first match, as parts that match and parts that do not."""
    words = list(places_of(content))
    spans = sorted(set(_spans(words, phrases)))
    first = spans[0][0] if spans else 0
    start = max(first - BEFORE, 0)
    if start:
        # Not in the middle of a word, where there is one to begin with.
        start = next((word.start for word in words if start <= word.start <= first), first)
    end = min(start + EXCERPT, len(content))
    parts: list[ExcerptPart] = []
    position = start
    for since, until in spans:
        if since < position or since >= end:
            continue
        if since > position:
            parts.append(ExcerptPart(text=content[position:since]))
        position = min(until, end)
        parts.append(ExcerptPart(text=content[since:position], match=True))
    if position < end:
        parts.append(ExcerptPart(text=content[position:end]))
    if start:
        parts.insert(0, ExcerptPart(text="…"))
    if end < len(content):
        parts.append(ExcerptPart(text="…"))
    return parts


def _spans(words: Sequence[Word], phrases: Sequence[Phrase]) -> Iterator[tuple[int, int]]:
    """Where in the text phrases stand."""
    texts = [word.text for word in words]
    for phrase in phrases:
        for place in places_in(texts, phrase):
            yield words[place].start, words[place + len(phrase) - 1].end
