"""What a torture did and what it found, in lines for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from tests.torture.stays import Judgement

if TYPE_CHECKING:
    from tests.torture.nemesis import Wound


@dataclass
class Report:
    """What was done and what was found."""

    seed: int
    clients: int
    seconds: float
    judgement: Judgement = field(default_factory=Judgement)
    wounds: list[Wound] = field(default_factory=list)
    sent: int = 0
    resent: int = 0
    #: Messages that were acknowledged by either door.
    acknowledged: int = 0
    #: Acknowledgements by HTTP, and messages that it told as history.
    posted: int = 0
    told_by_http: int = 0
    stored: int = 0
    changes: int = 0
    #: How often a client was told that its node stops.
    told_of_shutdown: int = 0
    #: When this process itself was late, and by how much: what it measured then says little of the cluster.
    lags: list[tuple[float, float]] = field(default_factory=list)
    #: Lines of the nodes' logs that warn, by event.
    warnings: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    http_answers: Counter[str] = field(default_factory=Counter)
    close_codes: Counter[int | None] = field(default_factory=Counter)
    #: How the nodes say that connections ended.
    node_codes: Counter[int | None] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def latest_s(self, since_s: float, until_s: float) -> float:
        """How long after its first hearer an event of this time had its last one, but for those who replayed it."""
        times = self.judgement.heard_at.values()
        return max((last_s - first_s for first_s, last_s in times if since_s <= first_s < until_s), default=0.0)

    def lag_s(self, since_s: float, until_s: float) -> float:
        """By how much this process was late at most in this time."""
        return max((lag_s for at_s, lag_s in self.lags if since_s <= at_s < until_s), default=0.0)

    def late(self, back_within_s: float) -> list[str]:
        """Faults after which service was not back in time, or not at all."""
        never = [
            f"{wound.kind} at {wound.began_s:.1f} s: service did not come back"
            for wound in self.wounds
            if wound.recovered_s is None
        ]
        return never + [
            f"{wound.kind} at {wound.began_s:.1f} s: service was back {wound.recovered_s:.1f} s after it was over"
            for wound in self.wounds
            if wound.recovered_s is not None and wound.recovered_s > back_within_s
        ]

    def __str__(self) -> str:
        judgement = self.judgement
        return "\n".join(
            [
                f"seed {self.seed}: {self.clients} clients for {self.seconds:.0f} s",
                f"{self.sent} messages sent and {self.resent} sent again",
                f"{self.acknowledged} messages acknowledged, {self.posted} of them by HTTP",
                f"{self.stored} messages and {self.changes} other events stored, {self.told_by_http} told by HTTP",
                f"{judgement.events} events heard, {judgement.replayed} in replays",
                f"{judgement.stays} connections, {judgement.resumes} resumes, {judgement.resyncs} resyncs",
                f"{self.told_of_shutdown} clients told of a shutdown",
                f"acts: {_listed(self.acts)}",
                f"refusals: {_listed(judgement.refusals)}",
                f"answers by HTTP: {_listed(self.http_answers)}",
                f"connections ended with: {_listed(self.close_codes)}",
                f"by the nodes' word with: {_listed(self.node_codes)}",
                f"warnings of the nodes: {_listed(self.warnings)}",
                *self._table(),
                *(f"BROKEN: {fault}" for fault in self.faults[:50]),
                f"{len(self.faults)} faults; seed {self.seed}" if self.faults else "Every promise was kept.",
            ]
        )

    def _table(self) -> list[str]:
        if not self.wounds:
            return [f"latest delivery {self.latest_s(0, float('inf')):.2f} s after the first"]
        lines = ["   at s  fault          over after  service back  latest delivery  own lag"]
        ends = [*(wound.began_s for wound in self.wounds[1:]), inf]
        for wound, until_s in zip(self.wounds, ends, strict=True):
            back = "never" if wound.recovered_s is None else f"{wound.recovered_s:.2f} s"
            latest_s = self.latest_s(wound.began_s - 0.5, until_s)
            lines.append(
                f"{wound.began_s:7.1f}  {wound.kind:13}  {wound.over_s - wound.began_s:8.1f} s  {back:>12}"
                f"  {latest_s:13.2f} s  {self.lag_s(wound.began_s, until_s):5.2f} s  {wound.detail}"
            )
        counts = Counter(wound.kind for wound in self.wounds)
        for kind, count in counts.items():
            backs = [wound.recovered_s for wound in self.wounds if wound.kind == kind and wound.recovered_s is not None]
            lines.append(f"{count} times {kind}: service back within {max(backs, default=float('nan')):.2f} s")
        least = min(counts.values())
        return [*lines, f"{counts.total()} faults of {len(counts)} kinds were inflicted, each at least {least} times"]


def _listed(counts: Counter[str] | Counter[int | None]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.most_common()) or "none"
