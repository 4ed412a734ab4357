"""What one client wrote down: every message that it sent and was told, when, and on which of its connections.

A diary is the wire itself. Clients judge nothing while they live; `checker` and `stays` read the diaries afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Texts of messages that are kept decoded: what one client is told, others are told soon.
SHARED_TEXTS: Final = 20_000

What: TypeAlias = Literal["opens", "sent", "heard", "ends"]


class Line(NamedTuple):
    """At `at_s` (seconds of the run) on connection number `stay`; messages are shared and never changed."""

    at_s: float
    stay: int
    what: What
    message: dict[str, Any]


@dataclass
class Diary:
    """All lines of one client, a device of a user."""

    name: str
    user_id: str
    lines: list[Line] = field(default_factory=list)

    def stays(self) -> dict[int, list[Line]]:
        """The lines of each connection, in order."""
        found: dict[int, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.stay, []).append(line)
        return found


@lru_cache(maxsize=SHARED_TEXTS)
def parse_shared(text: bytes) -> dict[str, Any]:
    """A message, the same object for all who are told the same."""
    return msgspec.json.decode(text, type=dict[str, Any])


def write_diaries(folder: Path, diaries: Iterable[Diary]) -> None:
    """A file for each client: a line that says whose it is, then a JSON object a line."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = msgspec.json.Encoder()
    for diary in diaries:
        with (folder / f"{diary.name}.ndjson").open("wb") as file:
            file.write(encoder.encode({"name": diary.name, "user_id": diary.user_id}) + b"\n")
            file.writelines(encoder.encode(line._asdict()) + b"\n" for line in diary.lines)


def read_diaries(folder: Path) -> list[Diary]:
    """What `write_diaries` wrote."""
    found = []
    for path in sorted(folder.glob("*.ndjson")):
        head, *lines = path.read_bytes().splitlines()
        whose = parse_shared(head)
        told = msgspec.json.Decoder(dict[str, Any])
        found.append(Diary(whose["name"], whose["user_id"], [Line(**told.decode(line)) for line in lines]))
    return found
