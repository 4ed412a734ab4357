"""Whether the daemon delivers, part by part, with the age of each proof. `server` proves, `/readyz` tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Part(NamedTuple):
    """One part's last proof. `fault` says what was wrong at the last try, if it failed."""

    name: str
    is_fresh: bool
    age_s: float
    fault: str | None


@dataclass(slots=True)
class Health:
    """The last time, by `seconds`, at which each part was proven to work.

    A part is stale after `stale_after_s`, unless its proofs come at another pace and it was said how long they last.
    """

    seconds: Callable[[], float]
    stale_after_s: float
    is_draining: bool = False
    _proven_at: dict[str, float] = field(default_factory=dict)
    _faults: dict[str, str | None] = field(default_factory=dict)
    _lasts_s: dict[str, float] = field(default_factory=dict)

    def prove(self, part: str, *, lasts_s: float | None = None) -> None:
        self._proven_at[part] = self.seconds()
        self._faults[part] = None
        if lasts_s is not None:
            self._lasts_s[part] = lasts_s

    def fail(self, part: str, fault: str) -> None:
        """A try failed; the part is stale once its last proof is too old."""
        self._proven_at.setdefault(part, float("-inf"))
        self._faults[part] = fault

    def parts(self) -> list[Part]:
        now, lasts_s = self.seconds(), self._lasts_s
        return [
            Part(name, now - at <= lasts_s.get(name, self.stale_after_s), now - at, self._faults.get(name))
            for name, at in self._proven_at.items()
        ]

    @property
    def is_ready(self) -> bool:
        parts = self.parts()
        return bool(parts) and all(part.is_fresh for part in parts) and not self.is_draining
