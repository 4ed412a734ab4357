"""What the index holds of a message and what it is asked for, in the words of each database.

FTS5 (SQLite) finds words within a stretch of rowids, so there the words and the sender are all. A `tsvector`
(PostgreSQL) knows no order, so there a message's room, and which stretch of it, are words as well: `#12` and `#12.3`.
`search` asks and `search_index` keeps with these; both leave it to `words` what a word is.

Source: https://www.sqlite.org/fts5.html#full_text_query_syntax,
https://www.postgresql.org/docs/15/datatype-textsearch.html
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.store.words import words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chatd.store.database import Dialect
    from chatd.store.words import Phrase

#: Words of one message that it is found by, and letters of all of them: a `tsvector` takes a megabyte.
MAX_WORDS: Final = 10_000
MAX_LETTERS: Final = 200_000
#: A stretch of a room has 2^13 seqs; the migration says so too.
STRETCH_BITS: Final = 13
#: Stretches that are looked at first, and then, before all the rest.
NEAR: Final = 2
FAR: Final = 10
#: What PostgreSQL keeps of a word's places: so many, none above 16 383.
_MAX_PLACES: Final = 255
_MAX_PLACE: Final = 16_383


class Window(NamedTuple):
    """A part of a room's history, from one seq to before another, and the words of a `tsvector` that stand for it."""

    number: int
    since: int
    before: int
    names: tuple[str, ...]


def windows_of(number: int, last_seq: int) -> Iterator[Window]:
    """All of a room, newest part first: each is several times as large as the one before, and few are needed for what
    is common. The last one's names stand for more than it has.
    """
    newest = last_seq >> STRETCH_BITS
    near, far = max(newest - NEAR + 1, 0), max(newest - FAR + 1, 0)
    yield Window(number, near << STRETCH_BITS, last_seq + 1, _names(number, near, newest + 1))
    if near:
        yield Window(number, far << STRETCH_BITS, near << STRETCH_BITS, _names(number, far, near))
    if far:
        yield Window(number, 0, far << STRETCH_BITS, (f"#{number}",))


def _names(number: int, first: int, before: int) -> tuple[str, ...]:
    return tuple(f"#{number}.{stretch}" for stretch in range(first, before))


def entry_of(dialect: Dialect, number: int, seq: int, *, sender_id: str, created_at: int, content: str) -> list[object]:
    """A message as `search.add` takes it."""
    words = words_of(content)[:MAX_WORDS]
    while sum(map(len, words)) > MAX_LETTERS:
        words = words[: len(words) // 2]
    sender = _plain_id(sender_id)
    if dialect == "sqlite":
        return [number, seq, created_at, " ".join(words), sender]
    return [number, seq, created_at, _vector(words, ("@" + sender, f"#{number}", f"#{number}.{seq >> STRETCH_BITS}"))]


def _vector(words: Sequence[str], names: Sequence[str]) -> str:
    """The text of a `tsvector`. Words have neither quotes nor backslashes in them."""
    places: dict[str, list[str]] = {}
    for place, word in enumerate(words, start=1):
        known = places.setdefault(word, [])
        if len(known) < _MAX_PLACES and place <= _MAX_PLACE:
            known.append(str(place))
    found = [f"'{word}':{','.join(at)}" if at else f"'{word}'" for word, at in places.items()]
    return " ".join([*found, *(f"'{name}'" for name in names)])


def query_of(dialect: Dialect, phrases: Sequence[Phrase], *, sender_id: str, windows: Sequence[Window]) -> str:
    """Messages that have all the phrases, from a sender unless that is empty, as `search.matches` takes it."""
    if dialect == "sqlite":
        wanted = " AND ".join(f'"{" ".join(phrase)}"' for phrase in phrases)
        return f"words : ({wanted})" + (f' AND sender : "{_plain_id(sender_id)}"' if sender_id else "")
    parts = ["(" + " <-> ".join(f"'{word}'" for word in phrase) + ")" for phrase in phrases]
    if sender_id:
        parts.append(f"'@{_plain_id(sender_id)}'")
    names = " | ".join(f"'{name}'" for window in windows for name in window.names)
    return " & ".join([*parts, f"({names})"])


@lru_cache(maxsize=4096)
def _plain_id(user_id: str) -> str:
    """An id as one word, whatever somebody gave for one."""
    return "".join(letter for letter in user_id.lower() if letter.isascii() and letter.isalnum())
