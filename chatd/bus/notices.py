"""Notices numbered by their node, so that each is acted on once and a lost one is noticed.

A node numbers what it announces, keeps it until it was both sent and heard here, and now and then tells how far its
numbers have come: a node that finds a number missing has everything read again that notices tell. So it does where a
node falls silent without a last word, for what that has stored it may have told nobody. While the bus is out a notice
acts on its own node at once and is kept for the others. All of it is sync and knows no connection.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from chatd.bus.payload import Word

if TYPE_CHECKING:
    from chatd.bus.port import Notice

#: Notices kept while the bus is out; beyond, the oldest are dropped, and every node finds that they are missing.
MAX_KEPT: Final = 10_000
#: Nodes whose numbers are remembered, those heard last. Each start of a daemon is another node.
MAX_NODES: Final = 1_000
#: A node of which nothing was heard for so many beats of this one has fallen silent.
SILENT_BEATS: Final = 3
#: In the place of a number: the last word of a node that has told everything.
FAREWELL: Final = -1


class Kept:
    """A notice of this node, until it was sent to Redis and heard here."""

    __slots__ = ("is_heard", "is_sent", "notice", "number")

    def __init__(self, number: int, notice: Notice) -> None:
        self.number = number
        self.notice = notice
        self.is_sent = False
        self.is_heard = False


class Notices:
    """What this node announces, and the last number of each node that it heard."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._number = 0
        self._kept: deque[Kept] = deque()
        self._heard: dict[str, int] = {}
        # How many beats ago each of them was heard.
        self._silence: dict[str, int] = {}

    def keep(self, notice: Notice) -> Kept:
        """Number a notice that is announced now."""
        self._number += 1
        kept = Kept(self._number, notice)
        self._kept.append(kept)
        if len(self._kept) > MAX_KEPT and self._kept[0].is_heard:
            self._kept.popleft()
        return kept

    def word_of(self, kept: Kept) -> Word:
        return Word(self._node, kept.number, notice=kept.notice)

    def word(self, *, has_lost: bool = False, is_last: bool = False) -> Word:
        """How far the numbers have come, for a node that hears it behind all notices that were announced before.

        Where something is lost the last word is as any other, and the others find out that it was the last.
        """
        return Word(self._node, FAREWELL if is_last and not has_lost else self._number, has_lost)

    def word_before_unsent(self, *, has_lost: bool) -> Word:
        """The same for a node that hears it before those that could not be sent yet."""
        unsent = self.unsent()
        return Word(self._node, unsent[0].number - 1 if unsent else self._number, has_lost)

    def unsent(self) -> list[Kept]:
        """In the order in which they were announced."""
        return [kept for kept in self._kept if not kept.is_sent]

    def forget_sent(self, kept: Kept) -> None:
        """Redis has taken it."""
        kept.is_sent = True
        self._trim()

    def unheard(self) -> list[Notice]:
        """Notices of this node that it has not heard yet; from now on they count as heard."""
        return self._hear_own(self._number)

    def forget_others(self) -> None:
        """Numbers were missed while there was no connection; that is mended without them."""
        self._heard.clear()
        self._silence.clear()

    def beat(self) -> list[str]:
        """The nodes that have fallen silent since the last beat, which are forgotten."""
        self._silence = {node: beats + 1 for node, beats in self._silence.items()}
        silent = [node for node, beats in self._silence.items() if beats > SILENT_BEATS]
        for node in silent:
            self._forget(node)
        return silent

    def _forget(self, node: str) -> None:
        self._heard.pop(node, None)
        self._silence.pop(node, None)

    def hear(self, word: Word) -> tuple[list[Notice], bool]:
        """What is to be acted on, and whether something of that node was missed."""
        if word.node == self._node:
            return self._hear_own(word.number), False
        if word.number == FAREWELL:
            self._forget(word.node)
            return [], False
        last = self._heard.pop(word.node, None)
        self._heard[word.node] = word.number if last is None else max(last, word.number)
        self._silence[word.node] = 0
        if len(self._heard) > MAX_NODES:
            self._forget(next(iter(self._heard)))
        if last is not None and word.number <= last:
            return [], False
        is_gap = last is not None and word.number > last + (word.notice is not None)
        return [word.notice] if word.notice is not None else [], is_gap

    def _hear_own(self, number: int) -> list[Notice]:
        notices = []
        for kept in self._kept:
            if kept.number <= number and not kept.is_heard:
                kept.is_heard = True
                notices.append(kept.notice)
        self._trim()
        return notices

    def _trim(self) -> None:
        while self._kept and self._kept[0].is_heard and self._kept[0].is_sent:
            self._kept.popleft()
