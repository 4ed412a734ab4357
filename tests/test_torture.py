"""The torture's checker finds what is broken: a check that cannot fail is a defect."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest
from msgspec.structs import replace

from chatd.records import format_time
from chatd.store.entries import Stored
from tests.stores import join, leave, open_store, post
from tests.torture.checker import Found, Promise, check_database, check_order, check_promises, read_database
from tests.torture.diary import Diary, Line, read_diaries, write_diaries
from tests.torture.stays import judge_diaries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


# -- the checker ------------------------------------------------------------------------------------------------------

#: Lets the table hold what its constraints forbid.
UNBOUND = """
CREATE TABLE copies AS SELECT * FROM messages;
DROP TABLE messages;
ALTER TABLE copies RENAME TO messages;
"""
COPY = """
CREATE TABLE one AS SELECT * FROM messages WHERE client_message_id = 'ada-3';
UPDATE one SET id = 'copy', seq = {seq}, count_in_room = {count};
INSERT INTO messages SELECT * FROM one;
DROP TABLE one;
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


# -- what clients were told -------------------------------------------------------------------------------------------


def sound_diaries(path: Path) -> tuple[Found, list[Diary]]:
    """What the clients of this database would have written down: ada from 1 to 17 on two connections, bob from 6 to 12.

    Ada's first connection ends at seq 9, her second one resumes from there. Bob joins, hears all, leaves and stays.
    """
    found = read_database(path)
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT id, created_at FROM messages").fetchall()
    times = {message_id: format_time(created_at) for message_id, created_at in rows}
    room_id = next(iter(found.heads))
    events: dict[int, dict[str, Any]] = {change.seq: json.loads(change.body) for change in found.events}
    for kept in found.messages:
        told = {"id": kept.message_id, "roomId": room_id, "seq": kept.seq, "senderId": kept.sender_id}
        told |= {"messageType": "text", "content": kept.content, "createdAt": times[kept.message_id]}
        told |= {"clientMessageId": kept.key}
        events[kept.seq] = {"type": "new_message", "message": told}
    ada = Diary("ada", found.messages[0].sender_id)
    bob = Diary("bob", events[6]["userId"])

    def opens(diary: Diary, stay: int, last_seq: int | None, **resume: Any) -> None:
        rooms = [] if last_seq is None else [{"roomId": room_id, "lastSeq": last_seq}]
        diary.lines += [
            Line(0, stay, "opens", {}),
            Line(0, stay, "sent", {"type": "authenticate", **resume}),
            Line(0, stay, "heard", {"type": "authenticated", "rooms": rooms}),
        ]

    def hears(diary: Diary, stay: int, *seqs: int) -> None:
        for seq in seqs:
            event = events[seq]
            if diary is ada and event["type"] == "new_message":
                message = event["message"]
                key = message["clientMessageId"]
                ask = {"type": "send_message", "id": key, "roomId": room_id, "content": key, "clientMessageId": key}
                ack = {"type": "message_ack", "id": key, "roomId": room_id, "clientMessageId": key, "seq": seq}
                diary.lines += [
                    Line(seq, stay, "sent", ask),
                    Line(seq, stay, "heard", {**ack, "messageId": message["id"], "duplicate": False}),
                ]
            diary.lines.append(Line(seq, stay, "heard", event))

    opens(ada, 0, 0)
    hears(ada, 0, *range(1, 10))
    ada.lines.append(Line(9, 0, "ends", {"code": 1006}))
    opens(ada, 1, 12, resume={"epoch": "e", "rooms": {room_id: 9}})
    hears(ada, 1, *range(10, 13))
    ada.lines.append(Line(12, 1, "heard", {"type": "caught_up", "roomId": room_id, "seq": 12}))
    hears(ada, 1, *range(13, 18))
    opens(bob, 0, None)
    bob.lines += [
        Line(6, 0, "sent", {"type": "join_room", "id": "join", "roomId": room_id}),
        Line(6, 0, "heard", {"type": "room_history", "id": "join", "roomId": room_id, "seq": 6, "messages": []}),
    ]
    hears(bob, 0, *range(7, 12))
    bob.lines += [
        Line(12, 0, "sent", {"type": "leave_room", "id": "leave", "roomId": room_id}),
        Line(12, 0, "heard", {"type": "ok", "id": "leave"}),
    ]
    hears(bob, 0, 12)
    return found, [ada, bob]


async def test_sound_diaries_have_no_faults(kept: tuple[Path, list[Promise]]) -> None:
    found, diaries = sound_diaries(kept[0])
    judgement = judge_diaries(found, diaries, is_settled=True)
    assert judgement.faults == []
    assert sorted(judgement.promises.values()) == sorted(kept[1])
    assert (judgement.stays, judgement.resumes, judgement.replayed, judgement.events) == (3, 1, 3, 23)


async def test_diaries_are_read_as_they_were_written(kept: tuple[Path, list[Promise]], tmp_path: Path) -> None:
    _, diaries = sound_diaries(kept[0])
    write_diaries(tmp_path / "diaries", diaries)
    assert read_diaries(tmp_path / "diaries") == diaries


def line_of(diary: Diary, kind: str, at: int | None = None) -> int:
    """Which line tells of this."""
    for number, line in enumerate(diary.lines):
        where = line.message.get("message", line.message)
        if line.message.get("type") == kind and (at is None or where.get("seq") == at):
            return number
    raise AssertionError(f"{diary.name} wrote of no {kind} {at}")


def change(diary: Diary, kind: str, at: int | None = None, **fields: Any) -> None:
    """Have a line say something else."""
    number = line_of(diary, kind, at)
    line = diary.lines[number]
    message = line.message | fields
    if "content" in fields:
        message = line.message | {"message": line.message["message"] | fields}
    diary.lines[number] = replace(line, message=message)


def drop(diary: Diary, kind: str, seq: int | None = None) -> None:
    del diary.lines[line_of(diary, kind, seq)]


def repeat(diary: Diary, kind: str, seq: int, *, behind: int) -> None:
    """Tell an event once more, behind another one."""
    line, number = diary.lines[line_of(diary, kind, seq)], line_of(diary, "new_message", behind)
    diary.lines.insert(number + 1, replace(line, stay=diary.lines[number].stay))


def tell(diary: Diary, **message: Any) -> None:
    """Tell one more thing at the end."""
    diary.lines.append(Line(40, diary.lines[-1].stay, "heard", message))


def exchange_acks(ada: Diary, one: int, other: int) -> None:
    change(ada, "message_ack", one, seq=100 + other)
    change(ada, "message_ack", other, seq=100 + one)


def wait_in_vain(bob: Diary) -> None:
    drop(bob, "user_left", 12)
    tell(bob, type="pong")


def send_again(ada: Diary, **fields: Any) -> None:
    """The last message of ada, acknowledged as it was but for some fields."""
    for kind in ("send_message", "message_ack"):
        number = next(n for n, line in enumerate(ada.lines) if line.message.get("id") == "ada-15" and kind in str(line))
        line = ada.lines[number]
        ada.lines.append(replace(line, message=line.message | (fields if kind == "message_ack" else {})))


def forget_room(ada: Diary) -> None:
    """On its return ada asks for no room and is told of none."""
    del ada.lines[line_of(ada, "caught_up")]
    for number, line in enumerate(ada.lines):
        if line.stay == 1 and line.message.get("type") == "authenticate":
            ada.lines[number] = replace(line, message={"type": "authenticate"})
        elif line.stay == 1 and line.message.get("type") == "authenticated":
            ada.lines[number] = replace(line, message={"type": "authenticated", "rooms": []})


ADA_IS_TOLD: Final[dict[str, tuple[Callable[[Diary], object], str]]] = {
    "nothing of an event": (lambda ada: drop(ada, "new_message", 4), "heard seq 5 of room * where 4 was next: a hole"),
    "an event twice": (lambda ada: repeat(ada, "new_message", 4, behind=4), "heard seq 4 of room * again"),
    "an event too late": (lambda ada: repeat(ada, "new_message", 4, behind=5), "heard seq 4 of room * again"),
    "nothing of the last": (lambda ada: drop(ada, "new_message", 17), "up to 16 at the end, which is at 17"),
    "another content": (lambda ada: change(ada, "new_message", 4, content="else"), "which is not what is stored"),
    "another event": (lambda ada: change(ada, "user_joined", 6, username="eve"), "which is not what is stored"),
    "nothing of a replayed one": (lambda ada: drop(ada, "new_message", 10), "heard seq 11 of room * where 10 was next"),
    "a replayed one again": (lambda ada: repeat(ada, "new_message", 9, behind=10), "heard seq 9 of room * again"),
    "to be caught up too soon": (lambda ada: drop(ada, "user_left", 12), "is told to be caught up at 12 of room *"),
    "not that it is caught up": (lambda ada: drop(ada, "caught_up"), "was never caught up in room *"),
    "to be caught up twice": (lambda ada: tell(ada, type="caught_up", roomId="r", seq=1), "having asked for no replay"),
    "that it cannot resume": (
        lambda ada: change(ada, "caught_up", type="resync", reason="too_old"), "cannot resume room * from 12: too_old"
    ),
    "that it is no member": (
        lambda ada: change(ada, "caught_up", type="resync", reason="not_a_member"), "no member, although it is one"
    ),
    "no room on its return": (forget_room, "is a member of room *, which it is not told when it authenticates"),
    "a position that never was": (
        lambda ada: change(ada, "authenticated", rooms=[{"roomId": "r", "lastSeq": 1}]),
        "is told seq 1 of room r, which never came so far",
    ),
    "an ack that differs": (
        lambda ada: send_again(ada, seq=99, duplicate=True), "was acknowledged as seq 99 of room * stored as seq 17"
    ),
    "an ack as new once more": (send_again, "heard twice that ada-15"),
    "an ack once more": (
        lambda ada: tell(ada, **ada.lines[line_of(ada, "message_ack", 17)].message), "or was answered before"
    ),
    "an ack of another room": (
        lambda ada: change(ada, "message_ack", 4, roomId="elsewhere"), "sent ada-4 to room *, acknowledged in elsewhere"
    ),
    "an ack of a stranger": (
        lambda ada: change(ada, "message_ack", 4, clientMessageId="eve-1"), "an ack of eve-1, which it did not send"
    ),
    "acks out of order": (
        lambda ada: exchange_acks(ada, 3, 4),
        "did not keep the order of their sending",
    ),
    "no": (
        lambda ada: change(ada, "message_ack", 17, type="error", code="internal", temporary=False),
        "asked {'type': 'send_message'",
    ),
    "what nobody knows": (lambda ada: tell(ada, type="gossip"), "heard gossip, which is no word of the protocol"),
    "history that never was": (
        lambda ada: tell(ada, type="room_history", roomId="r", seq=17, messages=[{
            "id": "m", "roomId": "r", "seq": 3, "senderId": "eve", "content": "hi",
        }]),
        "as history, which is not what is stored",
    ),
    "nothing any more": (lambda ada: ada.lines.append(Line(40, 1, "ends", {})), "is not connected at the end"),
    "nothing at all": (lambda ada: ada.lines.clear(), "was never connected"),
}  # fmt: skip

BOB_IS_TOLD: Final[dict[str, tuple[Callable[[Diary], object], str]]] = {
    "too much, having left": (
        lambda bob: bob.lines.append(
            Line(40, 0, "heard", {"type": "user_joined", "roomId": "r", "seq": 13, "userId": "eve", "username": "eve"})
        ),
        "heard seq 13 of room r, which it does not hear",
    ),
    "nothing of its leaving": (wait_in_vain, "left room * at 12.00 s and was never told"),
    "a later start than there was": (lambda bob: change(bob, "room_history", seq=7), "heard seq 7 of room * again"),
    "an earlier start than there was": (lambda bob: change(bob, "room_history", seq=4), "where 5 was next: a hole"),
}  # fmt: skip


def assert_found(faults: list[str], told: str) -> None:
    pattern = ".*".join(re.escape(part) for part in told.split("*"))
    assert any(re.search(pattern, fault) for fault in faults), faults


@pytest.mark.parametrize("damage", ADA_IS_TOLD)
async def test_what_a_member_should_not_be_told_is_found(kept: tuple[Path, list[Promise]], damage: str) -> None:
    found, diaries = sound_diaries(kept[0])
    do_damage, told = ADA_IS_TOLD[damage]
    do_damage(diaries[0])
    assert_found(judge_diaries(found, diaries, is_settled=True).faults, told)


@pytest.mark.parametrize("damage", BOB_IS_TOLD)
async def test_what_a_guest_should_not_be_told_is_found(kept: tuple[Path, list[Promise]], damage: str) -> None:
    found, diaries = sound_diaries(kept[0])
    do_damage, told = BOB_IS_TOLD[damage]
    do_damage(diaries[1])
    assert_found(judge_diaries(found, diaries, is_settled=True).faults, told)


async def test_hearing_a_room_after_leaving_it_is_found(kept: tuple[Path, list[Promise]]) -> None:
    """Also where no `user_left` came that would have told the client."""
    found, diaries = sound_diaries(kept[0])
    ada, bob = diaries
    bob.lines[-1:] = [ada.lines[line_of(ada, "user_left", 12)], ada.lines[line_of(ada, "new_message", 13)]]
    assert_found(
        judge_diaries(found, diaries, is_settled=True).faults, "heard seq 13 of room *, which it does not hear"
    )
    del bob.lines[-2]
    assert_found(
        judge_diaries(found, diaries, is_settled=True).faults, "seq 13 of room *, of which it was no member then"
    )


async def test_a_member_who_does_not_hear_its_room_at_the_end_is_found(kept: tuple[Path, list[Promise]]) -> None:
    found, diaries = sound_diaries(kept[0])
    change(diaries[0], "authenticated", rooms=[])
    diaries[0].lines[:] = [line for line in diaries[0].lines if line.stay == 0 and line.at_s == 0]
    faults = judge_diaries(found, diaries, is_settled=True).faults
    assert_found(faults, "is a member of room * at the end and does not hear it")


# -- messages that were changed ---------------------------------------------------------------------------------------

EDITED_MS: Final = 1_700_000_000_000
#: Ada's third message as it is shown by now, edited or deleted.
EDITED: Final = {"content": "other words", "editedAt": format_time(EDITED_MS)}
DELETED: Final = {"content": "", "deletedAt": format_time(EDITED_MS)}
STORED: Final = {
    "edited": f"UPDATE messages SET content = 'other words', edited_at = {EDITED_MS} WHERE seq = 3",
    "deleted": f"UPDATE messages SET content = '', deleted_at = {EDITED_MS} WHERE seq = 3",
}
#: How ada is told of it one time after the other, and what is wrong with that.
CHANGED_IS_TOLD: Final[dict[str, tuple[str, list[dict[str, Any]], str]]] = {
    "as it is": ("edited", [{}, EDITED, EDITED], ""),
    "as it was": ("edited", [EDITED, {}], "as it was before it was edited at"),
    "as edited later": (
        "edited",
        [{**EDITED, "editedAt": "2100-01-01T00:00:00.000Z"}],
        "edited at 2100*which it was not",
    ),
    "as gone": ("deleted", [{}, DELETED, DELETED], ""),
    "as it was before it was gone": ("deleted", [DELETED, {}], "as it was before it was deleted, of which it was told"),
    "as gone and with what it said": ("deleted", [{**DELETED, "content": "ada-3"}], "with what it said before"),
    "as gone and with reactions": ("deleted", [{**DELETED, "reactions": [1]}], "with what it said before"),
    "as gone, which it is not": ("edited", [DELETED], "as deleted then, which it was not"),
}


@pytest.mark.parametrize("told", CHANGED_IS_TOLD)
async def test_a_changed_message_is_told_as_it_is_by_then(kept: tuple[Path, list[Promise]], told: str) -> None:
    became, states, wrong = CHANGED_IS_TOLD[told]
    _, diaries = sound_diaries(kept[0])
    with closing(sqlite3.connect(kept[0])) as connection:
        connection.executescript(STORED[became])
    ada = diaries[0]
    third = ada.lines[line_of(ada, "new_message", 3)].message["message"]
    for state in states:
        tell(ada, type="room_history", roomId=third["roomId"], seq=17, messages=[third | state])
    found = read_database(kept[0])
    assert found.changed == {third["id"]}
    judgement = judge_diaries(found, diaries, is_settled=True)
    assert check_database(found, judgement.promises.values()) == []
    if wrong:
        assert_found(judgement.faults, wrong)
    else:
        assert judgement.faults == []


EDIT_AS_REPLAYED: Final = "is replayed message * as it was before seq 12, which was before it came back"


@pytest.mark.parametrize("told_as", [{}, EDITED], ids=["as it was", "as it is"])
async def test_who_comes_back_is_replayed_what_a_message_says_by_then(
    kept: tuple[Path, list[Promise]], told_as: dict[str, Any]
) -> None:
    """Ada comes back behind seq 9; the tenth message was edited at seq 12."""
    _, diaries = sound_diaries(kept[0])
    ada = diaries[0]
    tenth = ada.lines[line_of(ada, "new_message", 10)].message["message"]
    with closing(sqlite3.connect(kept[0])) as connection:
        connection.executescript(
            f"{STORED['edited'].replace('seq = 3', 'seq = 10')};"
            "UPDATE room_events SET kind = 'message_edited', body = '{}', "
            f"message_id = '{tenth['id']}' WHERE seq = 12"
        )
    edit = {"type": "message_edited", "roomId": tenth["roomId"], "seq": 12, "message": tenth | EDITED}
    number = line_of(ada, "user_left", 12)
    ada.lines[number] = replace(ada.lines[number], message=edit)
    number = line_of(ada, "new_message", 10)
    ada.lines[number] = replace(ada.lines[number], message={"type": "new_message", "message": tenth | told_as})
    faults = judge_diaries(read_database(kept[0]), [ada], is_settled=True).faults
    if told_as:
        assert faults == []
    else:
        assert_found(faults, EDIT_AS_REPLAYED)


async def test_a_refusal_is_tolerated_unless_its_client_was_a_member_all_the_time(
    kept: tuple[Path, list[Promise]],
) -> None:
    found, diaries = sound_diaries(kept[0])
    ada, room_id = diaries[0], next(iter(found.heads))
    ada.lines.append(Line(40, 1, "sent", {"type": "edit_message", "id": "e", "messageId": "m", "content": "x"}))
    tell(ada, type="error", id="e", code="not_found", temporary=False)
    assert judge_diaries(found, diaries, is_settled=True).faults == []
    ada.lines.append(Line(40, 1, "sent", {"type": "get_history", "id": "h", "roomId": room_id}))
    tell(ada, type="error", id="h", code="not_a_member", temporary=False)
    assert_found(judge_diaries(found, diaries, is_settled=True).faults, "having been a member from before to the end")
