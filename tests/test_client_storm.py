"""The short form of the client's storm (tests/client_storm.py has the long one), and that it finds what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from chatd.client.core import Core
from chatd.client.requests import Requests
from tests.client_storm import storm
from tests.daemon import ON_BOTH_BACK_ENDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chatd.protocol import Resume


@ON_BOTH_BACK_ENDS
async def test_client_that_is_cut_again_and_again_loses_and_repeats_nothing(tmp_path: Path) -> None:
    report = await storm(tmp_path, seed=1, cuts=80)
    assert report.faults == [], str(report)
    assert report.cuts >= 80
    assert report.handed > report.sent > 0


@pytest.mark.parametrize("nodes", [2, 3])
async def test_client_that_comes_back_to_any_of_several_nodes_loses_and_repeats_nothing(
    nodes: int, tmp_path: Path
) -> None:
    report = await storm(tmp_path, seed=1, cuts=40, nodes=nodes)
    assert report.faults == [], str(report)
    assert report.nodes == nodes
    assert report.cuts >= 40
    assert report.handed > report.sent > 0


async def test_client_that_resumes_one_event_too_late_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Resume] = Core._resume

    def wrong(self: Core, room_ids: list[str]) -> Resume:
        self.positions = {room_id: seq - (seq > 3) for room_id, seq in self.positions.items()}
        return right(self, room_ids)

    monkeypatch.setattr(Core, "_resume", wrong)
    report = await storm(tmp_path, seed=1, cuts=20)
    assert any("was handed seq" in fault for fault in report.faults), str(report)


async def test_client_that_sends_again_under_another_key_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Requests.lose

    def wrong(self: Requests) -> None:
        right(self)
        for request in self._all.values():
            if request.is_message:
                other_key = f"{request.id}-{request.sends}"
                request.message = msgspec.structs.replace(request.message, client_message_id=other_key)

    monkeypatch.setattr(Requests, "lose", wrong)
    monkeypatch.setattr("tests.client_storm.SETTLE_WITHIN_S", 3)
    report = await storm(tmp_path, seed=1, cuts=80)
    assert any("stored 2 times" in fault for fault in report.faults), str(report)
