"""chatd broken on purpose: the torture in its shortest form finds each, and names the promise that was broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.torture.run import torture
from tests.torture.sabotage import SABOTAGES, sabotaged

if TYPE_CHECKING:
    from pathlib import Path

    from tests.torture.report import Report

#: What is wrong, what has to happen for it to show, and what is said of it.
SHOWN = {
    "early-ack": ("node-kill", "promise 1"),
    "skipped-event": ("client-slow", "promise 4"),
    "live-first": ("client-cut", "promise 5"),
    "repeated-event": ("client-cut", "promise 5"),
    "no-key": ("node-kill", "promise 2"),
}


async def run_short(folder: Path, kind: str, sabotage: str) -> Report:
    """One or two faults within some seconds; nobody waits long for what never comes."""
    return await torture(
        folder, nodes=1, seconds=3, clients=20, rooms=3, kinds=[kind], seed=11, rate=150, settle_s=2,
        program=sabotaged(sabotage),
    )  # fmt: skip


def test_every_sabotage_is_tried() -> None:
    assert SHOWN.keys() == SABOTAGES.keys()


@pytest.mark.parametrize("sabotage", SHOWN)
async def test_a_broken_promise_is_found_and_named(tmp_path: Path, sabotage: str) -> None:
    kind, promise = SHOWN[sabotage]
    report = await run_short(tmp_path, kind, sabotage)
    assert any(fault.startswith(promise) for fault in report.faults), str(report)
