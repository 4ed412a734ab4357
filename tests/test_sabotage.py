"""chatd broken on purpose: the torture in its shortest form finds each, and names the promise that was broken."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.daemon import CHATD
from tests.torture.run import torture
from tests.torture.sabotage import SABOTAGES, sabotaged

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon import Program
    from tests.torture.report import Report

#: What is wrong, what happens meanwhile so that it shows (often enough for chance), and what is said of it.
SHOWN = {
    "early-ack": (["node-kill"] * 5, "promise 1: .* was acknowledged as seq .* and is lost"),
    "skipped-event": (["client-slow"], "promise 4: .* heard seq .* was next: a hole"),
    "live-first": (["client-cut"], "promise 5: .* heard seq .* (again|was next: a hole)"),
    "repeated-event": (["client-cut"], "promise 5: .* heard seq .* again"),
    "no-key": (["client-silent", "node-kill"] * 2, "promise 2: .* is stored 2 times"),
    "old-words": (["client-cut"] * 3, "promise [35]: .* as it was before"),
}


async def run_short(folder: Path, kinds: list[str], program: Program, *, settle_s: float) -> Report:
    """Each kind of fault at least once."""
    return await torture(
        folder, nodes=1, seconds=3, clients=30, rooms=3, kinds=kinds, seed=11, rate=300, program=program,
        settle_s=settle_s,
    )  # fmt: skip


def test_every_sabotage_is_tried() -> None:
    assert SHOWN.keys() == SABOTAGES.keys()


async def test_chatd_as_it_is_keeps_every_promise_meanwhile(tmp_path: Path) -> None:
    report = await run_short(tmp_path, ["client-cut", "node-kill"], CHATD, settle_s=20)
    assert report.faults == [], str(report)


@pytest.mark.parametrize("sabotage", SHOWN)
async def test_a_broken_promise_is_found_and_named(tmp_path: Path, sabotage: str) -> None:
    kinds, sentence = SHOWN[sabotage]
    # Nobody waits long for what never comes.
    report = await run_short(tmp_path, kinds, sabotaged(sabotage), settle_s=2)
    assert any(re.match(sentence, fault) for fault in report.faults), str(report)
