"""What one client wrote down: every message that it sent and was told, when, and on which of its connections.

A diary is a log of `chatd.verify` that is still in memory. Clients judge nothing while they live; `checker` and `stays`
have the diaries judged afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from chatd.verify.log import Head, read_log, write_log
from chatd.verify.log import Line as Line
from chatd.verify.log import What as What

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Texts of messages that are kept decoded: what one client is told, others are told soon.
SHARED_TEXTS: Final = 20_000


@dataclass
class Diary:
    """All lines of one client, a device of a user. The messages in them are shared and never changed."""

    name: str
    user_id: str
    lines: list[Line] = field(default_factory=list)

    @property
    def head(self) -> Head:
        return Head(self.name, self.user_id)


@lru_cache(maxsize=SHARED_TEXTS)
def parse_shared(text: bytes) -> dict[str, Any]:
    """A message, the same object for all who are told the same."""
    return msgspec.json.decode(text, type=dict[str, Any])


def write_diaries(folder: Path, diaries: Iterable[Diary]) -> None:
    """A log for each client, for `chatd verify`."""
    folder.mkdir(parents=True, exist_ok=True)
    for diary in diaries:
        write_log(folder / f"{diary.name}.ndjson", diary.head, diary.lines)


def read_diaries(folder: Path) -> list[Diary]:
    """What `write_diaries` wrote."""
    found: list[Diary] = []
    for path in sorted(folder.glob("*.ndjson")):
        for read in read_log(path, size=path.stat().st_size, remark=_refuse):
            if isinstance(read, Head):
                found.append(Diary(read.name, read.user_id))
            else:
                found[-1].lines.append(read)
    return found


def _refuse(remark: str) -> None:
    raise AssertionError(remark)
