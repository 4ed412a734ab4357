"""A receiver for tests of delivery: it keeps the frames it is given, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_SEQ = re.compile(rb'"seq":(\d+)')


@dataclass(eq=False)
class Listener:
    """Somebody's connection, as far as delivery goes."""

    user_id: str = "somebody"
    received: list[bytes] = field(default_factory=list)
    ephemeral: list[bytes] = field(default_factory=list)

    def put(self, frames: bytes) -> None:
        self.received.append(frames)

    def put_ephemeral(self, frames: bytes) -> None:
        self.ephemeral.append(frames)

    @property
    def seqs(self) -> list[int]:
        """The seqs heard, one for each event."""
        return [int(seq) for seq in _SEQ.findall(b"".join(self.received))]
