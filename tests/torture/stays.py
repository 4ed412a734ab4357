"""Has diaries judged by the database, as `chatd verify` judges logs, and keeps more of what they tell than counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from chatd.verify.clients import ClientJudge
from chatd.verify.findings import Findings
from chatd.verify.stays import Rules
from chatd.verify.truth import Truth
from chatd.verify.verification import open_evidence
from tests.torture.checker import Found, Promise, run_apart

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tests.torture.diary import Diary


#: Who is kicked, muted, or acts on what somebody else has just deleted, is refused; nobody else is refused for good.
RULES: Final = Rules(
    is_peaceful=True,
    tolerated=frozenset({"not_a_member", "not_found", "forbidden", "muted", "conflict", "limit_reached"}),
)


@dataclass
class Judgement:
    """What is wrong, a sentence each, and what was counted on the way."""

    faults: list[str] = field(default_factory=list)
    promises: dict[str, Promise] = field(default_factory=dict)
    events: int = 0
    replayed: int = 0
    resumes: int = 0
    resyncs: int = 0
    stays: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    #: When each event was heard live for the first and for the last time, by room and seq.
    heard_at: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)


@dataclass
class _Recorded(Findings):
    """Findings that remember each acknowledgement, and when each event was heard."""

    promises: dict[str, Promise] = field(default_factory=dict)
    heard_at: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)

    def note_ack(self, user_id: str, sent: Mapping[str, Any], ack: Mapping[str, Any]) -> None:
        key = ack.get("clientMessageId", ack["messageId"])
        promise = Promise(user_id, key, ack["roomId"], sent["content"], ack["messageId"], ack["seq"])
        self.promises.setdefault(key, promise)

    def note_heard(self, room_id: str, seq: int, at_s: float) -> None:
        first_s, last_s = self.heard_at.get((room_id, seq), (at_s, at_s))
        self.heard_at[room_id, seq] = (min(first_s, at_s), max(last_s, at_s))


def judge_diaries(found: Found, diaries: Collection[Diary], *, is_settled: bool) -> Judgement:
    """Go through everything that clients wrote down; with `is_settled` they were to hear all before the end."""
    findings = _Recorded()
    run_apart(_judge, found.source, diaries, findings, RULES._replace(is_settled=is_settled))
    return Judgement(
        faults=list(map(str, findings.faults)),
        promises=findings.promises,
        events=findings.events,
        replayed=findings.replayed,
        resumes=findings.resumes,
        resyncs=findings.resyncs,
        stays=findings.stays,
        refusals=findings.refusals,
        heard_at=findings.heard_at,
    )


async def _judge(source: str, diaries: Collection[Diary], findings: Findings, rules: Rules) -> None:
    async with open_evidence(source, Path()) as evidence:
        truth = Truth(*evidence)
        await trio.to_thread.run_sync(_judge_all, diaries, truth, findings, rules)


def _judge_all(diaries: Collection[Diary], truth: Truth, findings: Findings, rules: Rules) -> None:
    devices = Counter(diary.user_id for diary in diaries)
    for diary in diaries:
        is_shared = devices[diary.user_id] > 1
        judge = ClientJudge(diary.head, truth=truth, findings=findings, rules=rules, is_shared=is_shared)
        for line in diary.lines:
            judge.judge(line)
        judge.end()
