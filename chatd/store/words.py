"""A text as the words that it is found by, the same for every database: without case, accents and punctuation.

No language is preferred: there are no stop words and no stems. Scripts that put no spaces between words (Chinese,
Japanese, Thai, …) are taken character by character, and several in a row are looked for in a row. What is stored and
what is asked for goes through the same functions, so that they meet; no database has ideas of its own about words.

Source: https://www.unicode.org/reports/tr15/ (NFKD, NFKC), https://www.unicode.org/reports/tr29/#Word_Boundaries
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Characters of a word; what is behind them makes no difference.
MAX_WORD: Final = 64
#: Several words that stand in this order without another between them.
Phrase = tuple[str, ...]

_ASCII_WORD: Final = re.compile(r"[a-z0-9]+")
#: Vowel signs and accents that are characters of their own belong to the word that they stand in.
_MARKS: Final = "".join(
    character for character in map(chr, range(0x300, 0x20000)) if unicodedata.category(character) in ("Mn", "Mc")
)
_SPACELESS: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
#: Makes marks letters and underlines spaces, so that `\w` alone tells what belongs to words: a set of all marks in the
#: expression costs a hundred times as much a character.
_AS_LETTERS: Final = str.maketrans(dict.fromkeys(_MARKS, "a") | {"_": " "})
_RUN: Final = re.compile(r"\w+")
_HAS_SPACELESS: Final = re.compile(f"[{_SPACELESS}]")
#: One character of a script without spaces, or as much of a run as is of other ones.
_PIECE: Final = re.compile(f"[{_SPACELESS}]|[^{_SPACELESS}]+")
_ACCENTS: Final = re.compile("[\u0300-\u036f]")


class Word(NamedTuple):
    """A word, and where in the text it stands."""

    text: str
    start: int
    end: int


def words_of(text: str) -> list[str]:
    """The words of a text in their order."""
    if text.isascii():
        return [word[:MAX_WORD] for word in _ASCII_WORD.findall(text.lower())]
    found: list[str] = []
    for start, end in _runs_of(text):
        run = text[start:end]
        pieces = _PIECE.findall(run) if _HAS_SPACELESS.search(run) else (run,)
        found += [word for piece in pieces if (word := _plain(piece))]
    return found


def places_of(text: str) -> Iterator[Word]:
    """The words of a text in their order, with where they stand in it."""
    for start, end in _runs_of(text):
        run = text[start:end]
        if not _HAS_SPACELESS.search(run):
            if word := _plain(run):
                yield Word(word, start, end)
            continue
        for piece in _PIECE.finditer(run):
            if word := _plain(piece[0]):
                yield Word(word, start + piece.start(), start + piece.end())


def _runs_of(text: str) -> Iterator[tuple[int, int]]:
    """Where characters of words stand in a row, from one place to before another."""
    return (run.span() for run in _RUN.finditer(text.translate(_AS_LETTERS)))


@lru_cache(maxsize=16_384)
def _plain(word: str) -> str:
    if word.isascii():
        return word.lower()[:MAX_WORD]
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", word.casefold()))
    letters = unicodedata.normalize("NFKC", bare).casefold()
    # What is compatible with a letter may be written with signs that are none.
    return "".join(letter for letter in letters if letter.isalnum() or letter in _MARKS)[:MAX_WORD]


def phrases_of(query: str) -> list[Phrase]:
    """What a query asks for, each once: every word of it, and as a phrase what is in quotes or hangs together."""
    parts = (quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|([^\s"]+)', query))
    return list(dict.fromkeys(phrase for phrase in (tuple(words_of(part)) for part in parts) if phrase))


def places_in(words: Sequence[str], phrase: Phrase) -> Iterator[int]:
    """Where a phrase begins among the words of a text."""
    first, length = phrase[0], len(phrase)
    for start, word in enumerate(words):
        if word == first and tuple(words[start : start + length]) == phrase:
            yield start
