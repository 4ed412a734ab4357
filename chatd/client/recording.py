"""What a client writes down for `chatd verify`: every message on its wire and every event that it handed on.

NDJSON, as `chatd.verify.log` reads it (docs/verify.md describes it). Tokens are left out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from chatd.ids import new_id
from chatd.records import encode_json, parse_json

#: Where lines go: a file, or a function that takes a line without its end.
Record: TypeAlias = Path | str | Callable[[bytes], object]
What: TypeAlias = Literal["opens", "sent", "heard", "ends", "handed"]

HIDDEN: Final = "…"
#: Lines kept until it is known whose they are: those of connections that did not come to be.
MAX_HELD: Final = 1000


class Recorder:
    """Writes lines. The first one says who it is, so those before the first `authenticated` wait for it."""

    def __init__(self, write: Callable[[bytes], object] | None) -> None:
        self._write = write
        # The last of them: a connection that comes to be has its beginning in here.
        self._held: deque[bytes] = deque(maxlen=MAX_HELD)
        self._is_named = False

    @property
    def is_on(self) -> bool:
        return self._write is not None

    def name(self, user_id: str) -> None:
        """Whose lines these are."""
        if self._write is None or self._is_named:
            return
        self._is_named = True
        self._write(encode_json({"name": f"client-{new_id()}", "user_id": user_id}))
        for line in self._held:
            self._write(line)
        self._held.clear()

    def note(self, stay: int, what: What, message: dict[str, Any] | str) -> None:
        """A line of connection number `stay`; text is a message as it is on the wire."""
        if self._write is None:
            return
        told = parse_json(message) if isinstance(message, str) else message
        if what == "sent" and "token" in told:
            told["token"] = HIDDEN
        line = encode_json({"at_s": round(time.time(), 4), "stay": stay, "what": what, "message": told})
        if self._is_named:
            self._write(line)
        else:
            self._held.append(line)


@contextmanager
def open_recorder(record: Record | None) -> Iterator[Recorder]:
    """A recorder for a file, which it adds to, or for a function."""
    if record is None or callable(record):
        yield Recorder(record)
        return
    # a line at a time, so that a process that is killed has written what it knew; the page cache takes it at once
    with Path(record).open("ab", buffering=0) as file:
        yield Recorder(lambda line: file.write(line + b"\n"))
