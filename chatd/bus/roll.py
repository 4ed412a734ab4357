"""Who is there, as one process knows it: how many connections each user has, and who is seen online.

A user is seen online from the first connection that has proven to be theirs until some time after the last one: the
grace, which that one leaves behind. All of it sync; `local` is the bus on it, `devices` shares the like between nodes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.bus.port import Seconds


class Roll:
    """The users of this process."""

    def __init__(self, seconds: Seconds) -> None:
        self._seconds = seconds
        self._counts: Counter[str] = Counter()
        # Those who are seen online; when those of them are seen offline who have no connection.
        self._online: set[str] = set()
        self._leaving: dict[str, float] = {}
        self._next_due = float("inf")

    def arrived(self, user_id: str) -> None:
        self._counts[user_id] += 1

    def appeared(self, user_id: str) -> bool:
        """Whether nobody saw the user online before."""
        self._leaving.pop(user_id, None)
        is_new = user_id not in self._online
        self._online.add(user_id)
        return is_new

    def departed(self, user_id: str, grace_s: float) -> None:
        self._counts[user_id] -= 1
        if self._counts[user_id] <= 0:
            del self._counts[user_id]
            if user_id in self._online and user_id not in self._leaving:
                due = self._leaving[user_id] = self._seconds() + grace_s
                self._next_due = min(self._next_due, due)

    def devices(self, user_ids: Sequence[str]) -> dict[str, int]:
        """Users without a connection are left out."""
        return {user_id: self._counts[user_id] for user_id in user_ids if user_id in self._counts}

    def online(self, user_ids: Sequence[str]) -> dict[str, int]:
        now = self._seconds()
        return {
            user_id: self._counts.get(user_id, 0)
            for user_id in user_ids
            if user_id in self._online and self._leaving.get(user_id, now + 1) > now
        }

    def take_offline(self) -> list[str]:
        """Users whose grace is over."""
        now = self._seconds()
        if now < self._next_due:
            return []
        gone = [user_id for user_id, due in self._leaving.items() if due <= now]
        for user_id in gone:
            del self._leaving[user_id]
            self._online.discard(user_id)
        self._next_due = min(self._leaving.values(), default=float("inf"))
        return gone
