"""The torture in its short form, and that its checker finds what is broken: a check that cannot fail is a defect."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from chatd.store.entries import Stored
from tests.daemon import SignedIn
from tests.stores import join, leave, open_store, post
from tests.torture.checker import check_database, check_order, check_promises, read_database
from tests.torture.client import Promise, Stay, TortureClient
from tests.torture.connection import Connection
from tests.torture.kill import Report, torture

if TYPE_CHECKING:
    from pathlib import Path


async def test_kill_9_under_load_loses_nothing_acknowledged_and_repeats_nothing(tmp_path: Path) -> None:
    report = await torture(tmp_path, kills=5, rate=500, clients=50, seed=5)
    assert report.faults == [], str(report)
    assert report.kills == 5
    assert report.acknowledged == report.sent == report.stored


async def test_sigterm_under_load_tells_everybody_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    report = await torture(tmp_path, stops=1, rate=500, clients=50, seed=6)
    assert report.faults == [], str(report)
    assert report.told == 50
    assert max(report.stopped_within_s) < 10


# -- the checker ------------------------------------------------------------------------------------------------------

#: Lets the table hold what its constraints forbid.
UNBOUND = """
CREATE TABLE copies AS SELECT * FROM messages;
DROP TABLE messages;
ALTER TABLE copies RENAME TO messages;
"""
COPY = """
INSERT INTO messages SELECT 'copy', room_id, {seq}, {count}, sender_id, message_type, content, reply_to, file_id,
       metadata, client_message_id, request_hash, created_at, edited_at, deleted_at, deleted_by, pinned_at, pinned_by
FROM messages WHERE client_message_id = 'ada-3';
"""


@pytest.fixture
async def kept(tmp_path: Path) -> tuple[Path, list[Promise]]:
    """A sound database with one room: seqs 1 to 5 by ada, bob joins, 7 to 11 by ada, bob leaves, 13 to 17 by ada."""
    promises = []
    async with open_store("sqlite", tmp_path) as store:
        ada, bob = await store.add_user("ada"), await store.add_user("bob")
        room_id = await store.add_room(ada)
        async with store.open_journal() as written:
            for number in range(1, 16):
                key = f"ada-{number}"
                stored = await written.journal.write(post(ada, room_id, key, client_message_id=key, request_hash=key))
                assert isinstance(stored, Stored)
                promises.append(Promise(ada.id, key, room_id, key, stored.message_id, stored.seq))
                if number % 5 == 0 and number < 15:
                    await written.journal.write((join if number == 5 else leave)(bob, room_id))
    return tmp_path / "chatd.db", promises


def faults_of(path: Path, promises: list[Promise]) -> list[str]:
    found = read_database(path)
    return [*check_database(found, promises), *check_order(found.messages)]


async def test_a_sound_database_has_no_faults(kept: tuple[Path, list[Promise]]) -> None:
    assert faults_of(*kept) == []


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        pytest.param(
            "DELETE FROM messages WHERE seq = 4",
            ["has holes at [4] of 17", "says it has 15 messages and has 14", "ada-4 was acknowledged as seq 4 of"],
            id="a deleted message",
        ),
        pytest.param(
            "DELETE FROM messages WHERE seq = 17; UPDATE rooms SET last_seq = 16, message_count = 14",
            ["ada-15 was acknowledged as seq 17"],
            id="a last message that never was",
        ),
        pytest.param("DELETE FROM room_events WHERE seq = 12", ["has holes at [12] of 17"], id="a deleted event"),
        pytest.param(
            "UPDATE messages SET seq = 18 WHERE seq = 17; UPDATE rooms SET last_seq = 18",
            ["has holes at [17] of 18", "ada-15 was acknowledged as"],
            id="a hole before the last",
        ),
        pytest.param("UPDATE rooms SET last_seq = 16", ["ends at 16 and has the numbers [17]"], id="a seq too many"),
        pytest.param(
            "UPDATE room_events SET seq = 5 WHERE seq = 6",
            ["has holes at [6]", "has the numbers [5] more than once"],
            id="a number given to two",
        ),
        pytest.param(
            UNBOUND + COPY.format(seq=18, count=16) + "UPDATE rooms SET last_seq = 18, message_count = 16",
            ["ada-3 of", "is stored 2 times", "ada-3 was acknowledged as", "ada-3 stands behind ada-15"],
            id="a key stored twice",
        ),
        pytest.param(
            "UPDATE messages SET content = 'else' WHERE seq = 3", ["ada-3 was acknowledged as"], id="another content"
        ),
        pytest.param(
            "UPDATE messages SET seq = 99 WHERE seq = 2; UPDATE messages SET seq = 2 WHERE seq = 3;"
            "UPDATE messages SET seq = 3 WHERE seq = 99",
            ["ada-2 was acknowledged as", "ada-3 was acknowledged as", "ada-2 stands behind ada-3"],
            id="two that changed places",
        ),
        pytest.param(
            "UPDATE rooms SET member_count = 2", ["says it has 2 members and has 1"], id="a wrong member count"
        ),
        pytest.param("UPDATE rooms SET message_count = 14", ["says it has 14 messages"], id="a wrong message count"),
        pytest.param(
            "PRAGMA foreign_keys = OFF; UPDATE room_events SET room_id = 'gone' WHERE seq = 6",
            ["room gone does not exist", "has holes at [6]"],
            id="an event of no room",
        ),
    ],
)
async def test_damage_is_found(kept: tuple[Path, list[Promise]], damage: str, told: list[str]) -> None:
    path, promises = kept
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(damage)
    faults = "\n".join(faults_of(path, promises))
    for sentence in told:
        assert sentence in faults


async def test_a_history_that_lacks_or_repeats_a_message_is_found(kept: tuple[Path, list[Promise]]) -> None:
    path, promises = kept
    messages = read_database(path).messages
    assert check_promises(messages, promises) == []
    assert "ada-1 was acknowledged" in check_promises(messages[1:], promises)[0]
    assert "ada-15 was acknowledged" in check_promises([*messages, messages[-1]], promises)[0]


def event(seq: int) -> dict[str, Any]:
    return {"type": "new_message", "message": {"roomId": "r", "seq": seq}}


def ack(key: str, seq: int, room_id: str = "r") -> dict[str, Any]:
    return {"type": "message_ack", "clientMessageId": key, "roomId": room_id, "messageId": f"m{seq}", "seq": seq}


@pytest.mark.parametrize(
    ("heard", "told"),
    [
        ([event(5), event(6), event(7)], None),
        ([event(5), event(7)], "heard seq 7 in room r where 6 was next"),
        ([event(5), event(5)], "heard seq 5 in room r where 6 was next"),
        ([event(6), event(5)], "heard seq 6 in room r where 5 was next"),
        ([{"type": "user_left", "roomId": "r", "seq": 5, "userId": "me"}, event(6)], "where None was next"),
        ([ack("me-1", 5), ack("me-1", 5)], None),
        ([ack("me-1", 5), ack("me-1", 6)], "was promised"),
        ([ack("me-1", 5, "elsewhere")], "acknowledged in elsewhere"),
        ([ack("stranger", 5)], "which it did not send"),
        ([{"type": "error", "temporary": False, "code": "internal"}], "heard {'type': 'error'"),
    ],
)
async def test_a_client_notes_what_is_wrong_with_what_it_hears(heard: list[dict[str, Any]], told: str | None) -> None:
    user = SignedIn("me", "me", "token", "refresh")
    client = TortureClient(user, ["r"], 0, 1.0, random.Random(1), lambda: None)
    client.add_pending("me-1", "r", "hello")
    one, _ = trio.testing.memory_stream_pair()
    stay = Stay(Connection(one, b""))
    client.hear(stay, {"type": "authenticated", "rooms": [{"roomId": "r", "lastSeq": 4}]})
    for message in heard:
        client.hear(stay, message)
    if told is None:
        assert client.faults == []
    else:
        assert told in client.faults[0]


def test_a_report_with_faults_names_them_and_the_seed() -> None:
    report = Report(seed=42, faults=["room r has holes at [1]"])
    assert "BROKEN: room r has holes at [1]" in str(report)
    assert "seed 42" in str(report).splitlines()[-1]
    assert "Every promise was kept." in str(Report(seed=42))
