"""What a check found: faults with everything that is concerned, and over how much it went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from chatd.records import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Faults that are kept; further ones are counted.
MAX_KEPT: Final = 10_000
#: Remarks that are printed.
MAX_REMARKS: Final = 20
BEFORE_RESTORE: Final = (
    "before the database was restored from a backup, what clients were told was not compared with it."
)
#: Above it `at_s` is a time of day, seconds since 1970; below it is the time of a run.
FIRST_TIME_OF_DAY_S: Final = 1e9


class Witness(NamedTuple):
    """Who saw it: a client, on its connection, when."""

    client: str
    stay: int
    at_s: float

    def __str__(self) -> str:
        is_time = self.at_s >= FIRST_TIME_OF_DAY_S
        at = format_time(round(self.at_s * 1000)) if is_time else f"{self.at_s:.2f} s"
        return f"{self.client}, connection {self.stay}, {at}"


class Fault(NamedTuple):
    """A promise that was not kept; one without a number is the protocol itself, or a room that did not stay closed."""

    promise: int | None
    detail: str
    witness: Witness | None = None
    room_id: str | None = None
    seq: int | None = None
    message_id: str | None = None

    def __str__(self) -> str:
        """On one line, whatever was in the messages."""
        parts = [] if self.promise is None else [f"promise {self.promise}"]
        parts += [] if self.witness is None else [str(self.witness)]
        told = ": ".join((*parts, self.detail))
        about = {"room": self.room_id, "seq": self.seq, "message": self.message_id}
        words = [f"{name} {value}" for name, value in about.items() if value is not None]
        named = ", ".join(word for word in words if word not in told)
        return " ".join(f"{told} ({named})".split()) if named else " ".join(told.split())


@dataclass
class Findings:
    """Faults and remarks, and what was gone through."""

    faults: list[Fault] = field(default_factory=list)
    #: Faults by promise.
    broken: Counter[int | None] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    #: What clients were refused, by code.
    refusals: Counter[str] = field(default_factory=Counter)
    clients: int = 0
    stays: int = 0
    #: Connections whose database was restored since; they were judged by themselves alone.
    other_epochs: int = 0
    lines: int = 0
    #: Messages that were acknowledged, each counted once.
    acknowledged: int = 0
    events: int = 0
    replayed: int = 0
    resumes: int = 0
    resyncs: int = 0
    #: What the database holds.
    rooms: int = 0
    stored_messages: int = 0
    stored_events: int = 0

    def blame(self, fault: Fault) -> None:
        self.broken[fault.promise] += 1
        if len(self.faults) < MAX_KEPT:
            self.faults.append(fault)

    def note_ack(self, user_id: str, sent: Mapping[str, Any], ack: Mapping[str, Any]) -> None:
        """For who wants more than counts: each acknowledgement with what it is for."""

    def note_heard(self, room_id: str, seq: int, at_s: float) -> None:
        """The same: each event that was heard live."""

    def remark(self, sentence: str) -> None:
        self.remarks.append(sentence)

    def report(self, *, most: int) -> str:
        """What to print: at most so many faults, a line each, and over how much it went."""
        total = self.broken.total()
        lines = [str(fault) for fault in self.faults[:most]]
        if total > len(lines):
            lines.append(f"… and {total - len(lines)} more")
        lines += [f"note: {remark}" for remark in self.remarks[:MAX_REMARKS]]
        if self.other_epochs:
            lines.append(f"note: on {self.other_epochs} connections, {BEFORE_RESTORE}")
        if not self.acknowledged:
            lines.append("note: no message of the database was acknowledged in these logs, so they prove little.")
        lines.append(f"BROKEN: {self._summary()}." if total else "Promises 1 to 5 were kept.")
        lines.append(
            f"Checked: {self.acknowledged} messages acknowledged, {self.events} events heard ({self.replayed} of them "
            f"in replays) by {self.clients} clients on {self.stays} connections, {self.resumes} resumes, "
            f"{self.resyncs} resyncs, {self.lines} lines."
        )
        lines.append(
            f"The database: {self.rooms} rooms, {self.stored_messages} messages, {self.stored_events} other events."
        )
        if self.refusals:
            lines.append(
                "Refused: " + ", ".join(f"{count} {code}" for code, count in self.refusals.most_common()) + "."
            )
        return "\n".join(lines)

    def _summary(self) -> str:
        """Faults by promise, the protocol behind them."""
        kinds = sorted((kind is None, kind or 0, count) for kind, count in self.broken.items())
        counts = ", ".join(
            f"{count} of {'the protocol' if other else f'promise {kind}'}" for other, kind, count in kinds
        )
        total = self.broken.total()
        return f"{total} fault{'s' if total > 1 else ''} ({counts})"
