"""The torture in its short forms, on one node and on three; `python -m tests.torture` is the long one."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from tests.torture.__main__ import main
from tests.torture.acts import ACTS
from tests.torture.checker import Promise
from tests.torture.nemesis import FAULTS, OF_ANY, Wound, kinds_for, schedule
from tests.torture.report import Report
from tests.torture.run import torture
from tests.torture.stays import Judgement

if TYPE_CHECKING:
    from pathlib import Path

#: Only root can mount a disk to fill.
DISKS = ["full-disk"] if os.geteuid() == 0 else []


async def test_one_node_keeps_every_promise_while_it_dies_stops_and_fails(tmp_path: Path) -> None:
    kinds = ["node-kill", "node-drain", "client-cut", "clock-jump", *DISKS]
    report = await torture(tmp_path, nodes=1, seconds=15, clients=40, rooms=8, kinds=kinds, seed=5, rate=200)
    assert report.faults == [], str(report)
    assert {wound.kind for wound in report.wounds} == set(kinds)
    assert report.acknowledged > 500
    assert report.judgement.resumes > 10
    assert report.told_of_shutdown > 0


async def test_three_nodes_keep_every_promise_while_they_and_their_back_ends_die(tmp_path: Path) -> None:
    kinds = ["redis-kill", "postgres-kill", "node-kill", "drop", "client-cut", *DISKS]
    report = await torture(tmp_path, nodes=3, seconds=15, clients=30, rooms=6, kinds=kinds, seed=7, rate=100)
    assert report.faults == [], str(report)
    assert {wound.kind for wound in report.wounds} == set(kinds)
    assert report.acknowledged > 200
    assert report.judgement.resumes > 10


async def test_clients_do_everything_there_is(tmp_path: Path) -> None:
    report = await torture(tmp_path, nodes=1, seconds=8, clients=60, rooms=6, kinds=[], seed=1, rate=400)
    assert report.faults == [], str(report)
    # Few stop reading, for whoever does is lost to all else for a while; so it may be nobody here.
    assert report.acts.keys() | {"halt"} == ACTS.keys()


def test_a_seed_gives_the_same_faults_in_the_same_order() -> None:
    first, again, other = (list(islice(schedule(kinds_for(3), seed), 100)) for seed in (1, 1, 2))
    assert first == again != other
    assert set(first) == FAULTS.keys()
    assert set(kinds_for(1)) == OF_ANY.keys()


def test_a_fault_that_there_is_not_is_refused_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--nodes", "1", "--faults", "redis-kill"])
    assert "no such fault with 1 node(s): redis-kill" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--nodes", "1", "--each", "0"])
    assert "inflicted at least once" in capsys.readouterr().err


async def test_a_run_ends_when_every_kind_of_fault_was_inflicted_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DEAD_S", "SLOW_S", "PAUSE_S"):
        monkeypatch.setattr(f"tests.torture.nemesis.{name}", (0.05, 0.1))
    kinds = ["client-cut", "client-slow"]
    report = await torture(tmp_path, nodes=1, seconds=0, clients=10, rooms=3, kinds=kinds, seed=3, each=2, rate=60)
    assert report.faults == [], str(report)
    assert [wound.kind for wound in report.wounds] == list(islice(schedule(kinds, 3), 4))
    assert "4 faults of 2 kinds were inflicted, each at least 2 times" in str(report)


def test_a_report_tells_of_each_fault_and_when_service_was_back() -> None:
    promise = Promise("ada", "ada-1", "r", "hello", "m1", 1)
    judgement = Judgement(promises={"ada-1": promise}, heard_at={("r", 1): (3.0, 3.5), ("r", 2): (20.0, 20.1)})
    wounds = [Wound("drop", 3.0, 4.0, 0.25, "room r"), Wound("node-kill", 12.0, 14.0, 11.0), Wound("drop", 30, 31)]
    report = Report(42, 30, 60, judgement=judgement, acknowledged=1, wounds=wounds, faults=["room r has holes at [1]"])
    told = str(report)
    assert "1 messages acknowledged" in told
    assert "    3.0  drop                1.0 s        0.25 s           0.50 s   0.00 s  room r" in told
    assert "never" in told
    assert "2 times drop: service back within 0.25 s" in told
    assert "BROKEN: room r has holes at [1]" in told
    assert "seed 42" in told.splitlines()[-1]
    assert report.late(10) == [
        "drop at 30.0 s: service did not come back",
        "node-kill at 12.0 s: service was back 11.0 s after it was over",
    ]
    assert "Every promise was kept." in str(Report(42, 30, 60))
