"""A receiver for tests of delivery: it keeps the frames it is given, in order."""

from __future__ import annotations

import re

from chatd.wire.outbox import Outbox

_SEQ = re.compile(rb'"seq":(\d+)')


class Listener:
    """Somebody's connection, as far as delivery goes: an outbox whose socket takes everything."""

    def __init__(self, user_id: str = "somebody") -> None:
        self.user_id = user_id
        self.received: list[bytes] = []
        self.outbox = Outbox(
            self._take, bound_bytes=1, on_waiting=self._fail, on_overflow=self._fail, on_broken=self._fail
        )

    def _take(self, frames: bytes) -> int:
        self.received.append(frames)
        return len(frames)

    def _fail(self) -> None:
        raise AssertionError("this socket takes everything")

    @property
    def seqs(self) -> list[int]:
        """The seqs heard, one for each event."""
        return [int(seq) for seq in _SEQ.findall(b"".join(self.received))]
