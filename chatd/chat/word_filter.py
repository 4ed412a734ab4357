"""The operator's list of words that are starred out or refused: whole words, whatever their case, in any script.

A word of a message is looked up, so that the length of the list costs nothing: a regular expression of a thousand words
takes a hundred times as long. `server` reads the list at the start; `clean_content` asks it.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatd.config import ConfigError
from chatd.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from chatd.config import MessageOptions

_WORD: Final = re.compile(r"[^\W_]+")


class WordFilter:
    """What is not to be said; an entry of several words is found whatever stands between them."""

    def __init__(self, entries: Iterable[str] = (), *, refuses: bool = False) -> None:
        self._refuses = refuses
        #: The words behind the first one, by the first one; longer entries first.
        self._rest: dict[str, list[tuple[str, ...]]] = {}
        for entry in entries:
            first, *rest = (_plain(found[0]) for found in _WORD.finditer(entry))
            self._rest.setdefault(first, []).append(tuple(rest))
        for rests in self._rest.values():
            rests.sort(key=len, reverse=True)

    def apply(self, content: str) -> str:
        """The text with stars for what is on the list. Raises `Refusal` (`bad_message`) if that is to be refused."""
        if not self._rest:
            return content
        spans = list(self._spans(content))
        if spans and self._refuses:
            raise Refusal("bad_message", "The field `content` has a word that is not allowed here; say it differently.")
        for start, end in reversed(spans):
            content = content[:start] + "*" * (end - start) + content[end:]
        return content

    def _spans(self, content: str) -> Iterator[tuple[int, int]]:
        words = [(_plain(found[0]), found.start(), found.end()) for found in _WORD.finditer(content)]
        position = 0
        while position < len(words):
            length = self._length_at(words, position)
            if length:
                yield words[position][1], words[position + length - 1][2]
            position += length or 1

    def _length_at(self, words: list[tuple[str, int, int]], position: int) -> int:
        """How many words an entry has that begins here; 0 if none does."""
        for rest in self._rest.get(words[position][0], ()):
            behind = words[position + 1 : position + 1 + len(rest)]
            if tuple(word for word, _, _ in behind) == rest:
                return 1 + len(rest)
        return 0


def _plain(word: str) -> str:
    """A word as it is compared: neither case nor the width of its letters tells it from another."""
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


NO_WORDS: Final = WordFilter()


def read_word_filter(options: MessageOptions) -> WordFilter:
    """The filter of `messages.word_filter` and `messages.word_filter_file`. Raises `ConfigError`."""
    entries = list(options.word_filter)
    if options.word_filter_file:
        try:
            lines = Path(options.word_filter_file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
            raise ConfigError(
                f"[messages] word_filter_file: {options.word_filter_file} cannot be read ({reason})."
            ) from error
        entries += [line for line in (line.partition("#")[0].strip() for line in lines) if line]
    for entry in entries:
        if not _WORD.search(entry):
            raise ConfigError(f"[messages] word_filter: {entry!r} has no letter or digit in it, so no word.")
    return WordFilter(entries, refuses=options.word_filter_action == "refuse")
