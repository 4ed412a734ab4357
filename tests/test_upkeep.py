"""What is done beside the connections: parts are proven apart from each other, and what failed is tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from chatd import upkeep
from chatd.bus.port import Notice
from chatd.errors import Unavailable
from tests.scripted import open_node
from tests.stopped import open_door

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from trio.testing import MockClock

    from chatd.health import Part
    from tests.stopped import StoppedDoor


async def out(*_: object, **__: object) -> None:
    raise Unavailable("The test has cut the line.")


async def parts(door: StoppedDoor) -> dict[str, Part]:
    """The parts, some proofs later."""
    for _ in range(8):
        await door.jump(upkeep.UPKEEP_S)
        # The database writes in a thread, for which the clock does not wait; this is written behind the proof.
        await door.chat.accounts.saw({"nobody": 0})
    return {part.name: part for part in door.chat.health.parts()}


async def test_all_parts_are_proven(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        assert {name: part.is_fresh for name, part in (await parts(door)).items()} == {
            "database": True,
            "bus": True,
            "delivery": True,
        }


async def test_database_that_is_out_does_not_hide_the_bus(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        monkeypatch.setattr("chatd.store.facts.Facts.prove", out)
        found = await parts(door)
        assert {name: part.is_fresh for name, part in found.items()} == {
            "database": False,
            "bus": True,
            "delivery": True,
        }
        assert found["database"].fault == "The test has cut the line."


async def test_bus_that_is_out_does_not_hide_the_database(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        monkeypatch.setattr(door.chat.bus, "publish", lambda _: None)
        monkeypatch.setattr(door.chat.bus, "is_out", True)
        found = await parts(door)
        assert {name: part.is_fresh for name, part in found.items()} == {
            "database": True,
            "bus": False,
            "delivery": False,
        }
        assert found["bus"].fault is not None
        assert "out" in found["bus"].fault


async def test_device_that_cannot_follow_while_the_store_is_out_follows_later(autojump_clock: object) -> None:
    async with open_node("room") as node:
        device = await node.arrive("ada")
        joined = node.commit("room", "user_joined", "ada")
        node.history.is_out = True
        node.bus.hear(Notice("member_joined", "ada", "room", joined.seq))
        await trio.sleep(10)
        assert (device.closed, device.seqs("room")) == ([], [])
        node.history.is_out = False
        await trio.sleep(2 * upkeep.RETRY_S)
        assert device.seqs("room") == [1]


async def test_device_that_is_told_of_too_many_joins_is_sent_away(autojump_clock: object) -> None:
    async with open_node() as node:
        device = await node.arrive("ada")
        for number in range(upkeep.MAX_FOLLOWING + 2):
            node.bus.hear(Notice("member_joined", "ada", f"room {number}", 1))
        assert {code for code, _ in device.closed} == {1013}


async def test_a_room_that_many_are_brought_into_at_once_sends_no_device_away(autojump_clock: object) -> None:
    async with open_node("room") as node:
        devices = [await node.arrive(f"user{number}") for number in range(upkeep.FOLLOW_AT_ONCE + 100)]
        for number, _ in enumerate(devices):
            node.bus.hear(Notice("member_joined", f"user{number}", "room", 0))
        await trio.sleep(1)
        assert [device for device in devices if device.closed] == []


async def test_defect_in_a_second_look_ends_that_connection_alone(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_node("room") as node:
        good, bad = await node.arrive("ada"), await node.arrive("eve")

        def refresh(_chat: object, session: object, _arrival: object) -> None:
            if session is bad.session:
                raise RuntimeError("a defect of this test")

        monkeypatch.setattr(upkeep, "refresh", refresh)
        node.bus.come_back()
        await trio.sleep(1)
        assert ([code for code, _ in bad.closed], good.closed) == ([1011], [])
