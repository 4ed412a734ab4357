"""Judges the logs of clients, one client and one connection after the other; what is kept of either ends with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from chatd.verify.findings import Fault
from chatd.verify.log import Head, LogFault, read_log
from chatd.verify.stays import Rules, StayJudge

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from chatd.verify.findings import Findings
    from chatd.verify.log import Line
    from chatd.verify.truth import Truth

#: Lines between two looks at whether the work is still wanted.
LOOK_EVERY: Final = 10_000


class ClientJudge:
    """Goes through the lines of one client. Another connection begins where the number of the last one changes."""

    def __init__(self, head: Head, *, truth: Truth, findings: Findings, rules: Rules, is_shared: bool = False) -> None:
        self._head = head
        self._truth = truth
        self._findings = findings
        self._rules = rules
        self._is_shared = is_shared
        self._stay: StayJudge | None = None
        #: Rooms that this client has been told it is in, each with a seq of that time.
        self._must_hear: dict[str, int] = {}

    def judge(self, line: Line) -> None:
        stay = self._stay
        if stay is None or stay.number != line.stay:
            if stay is not None:
                self._leave(stay)
            stay = self._stay = StayJudge(
                self._head, line.stay, truth=self._truth, findings=self._findings, rules=self._rules,
                is_shared=self._is_shared,
            )  # fmt: skip
        stay.judge(line, self._must_hear)

    def _leave(self, stay: StayJudge) -> None:
        stay.close()
        self._findings.stays += 1
        self._findings.other_epochs += not stay.is_of_this_epoch

    def end(self) -> None:
        """There are no more lines of this client."""
        self._findings.clients += 1
        if self._stay is not None:
            self._leave(self._stay)
        if self._rules.is_settled:
            if self._stay is None:
                self._findings.blame(Fault(None, f"{self._head.name} was never connected"))
            else:
                self._stay.judge_end()


class Log(NamedTuple):
    """A log up to where it is judged."""

    path: Path
    size: int


def find_ends(paths: Iterable[Path]) -> list[Log]:
    """Where the logs end now. A database that is read from now on holds all that they tell of. Raises `LogFault`."""
    try:
        return [Log(path, path.stat().st_size) for path in paths]
    except OSError as error:
        raise LogFault(f"{error.filename} cannot be read: {error.strerror}.") from error


def judge_logs(logs: Iterable[Log], truth: Truth, findings: Findings, rules: Rules) -> None:
    """Judge logs, on a thread that Trio has started. Raises `LogFault`, and `Unavailable`."""
    for log in logs:
        _judge_log(log, truth, findings, rules)
    findings.acknowledged = truth.acknowledged


def _judge_log(log: Log, truth: Truth, findings: Findings, rules: Rules) -> None:
    judges: dict[str, ClientJudge] = {}
    current: ClientJudge | None = None
    path = log.path
    for read in read_log(path, size=log.size, remark=findings.remark):
        if isinstance(read, Head):
            if (known := judges.get(read.name)) is not None:
                known.end()
            current = judges[read.name] = ClientJudge(read, truth=truth, findings=findings, rules=rules)
            continue
        findings.lines += 1
        if findings.lines % LOOK_EVERY == 0:
            trio.from_thread.check_cancelled()
        judge = current if read.name is None else judges.get(read.name)
        if judge is None:
            findings.remark(f"{path} has lines of {read.name}, whose user it does not say: they were passed over.")
            continue
        judge.judge(read)
    for judge in judges.values():
        judge.end()
