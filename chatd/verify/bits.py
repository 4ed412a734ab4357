"""Sets of seqs, a bit each: what is remembered of every event of a room while millions of lines go by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BITS: Final = 8192


class Bits:
    """A set of numbers. It takes space where they lie close together, not for what is between."""

    __slots__ = ("_chunks", "count")

    def __init__(self) -> None:
        self._chunks: dict[int, bytearray] = {}
        self.count = 0

    def add(self, number: int) -> bool:
        """Whether it was not in there before."""
        place, bit = divmod(number, CHUNK_BITS)
        chunk = self._chunks.get(place)
        if chunk is None:
            chunk = self._chunks[place] = bytearray(CHUNK_BITS // 8)
        mask = 1 << (bit & 7)
        if chunk[bit >> 3] & mask:
            return False
        chunk[bit >> 3] |= mask
        self.count += 1
        return True

    def __contains__(self, number: int) -> bool:
        place, bit = divmod(number, CHUNK_BITS)
        chunk = self._chunks.get(place)
        return chunk is not None and bool(chunk[bit >> 3] & 1 << (bit & 7))

    def missing(self, start: int, end: int) -> Iterator[int]:
        """The numbers from `start` to before `end` that are not in the set."""
        number = start
        while number < end:
            chunk = self._chunks.get(number // CHUNK_BITS)
            if chunk is not None and number % 8 == 0 and chunk[(number % CHUNK_BITS) >> 3] == 0xFF:
                number += 8
                continue
            if number not in self:
                yield number
            number += 1
