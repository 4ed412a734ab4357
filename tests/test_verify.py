"""`chatd verify` on what real clients wrote down: all holds as it is, and what is damaged is found and named."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest
import trio

from chatd.backends import StartFault
from chatd.backups import back_up, restore
from chatd.client import open_client
from chatd.config import DatabaseOptions, Secret
from chatd.configfile import load_config
from chatd.protocol import MessageDeleted, NewMessage
from chatd.records import encode_json
from chatd.store.postgres import IDLE_IN_TRANSACTION_MS
from chatd.store.sqlite import SqliteDatabase
from chatd.verify import truth
from chatd.verify.bits import Bits
from chatd.verify.exports import ExportFault
from chatd.verify.findings import MAX_KEPT, Fault, Findings, Witness
from chatd.verify.log import Head, Line, LogFault, read_log
from chatd.verify.soundness import RoomNumbers
from chatd.verify.stays import Rules
from chatd.verify.verification import export, find_logs, verify
from tests import client_storm
from tests.daemon import ON_BOTH_BACK_ENDS, environment, open_daemon
from tests.shell import Shell, contents, run_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from chatd.client import Client
    from chatd.store.database import Work
    from tests.daemon import Daemon

T = TypeVar("T")

QUIET: Final = "Promises 1 to 5 were kept."


def ignore(done: int, total: int) -> None:
    """The progress, to nobody."""


async def talk(client: Client, room_id: str, *contents: str) -> None:
    for content in contents:
        await client.send(room_id, content, client_message_id=content)


async def hear(client: Client, room_id: str, content: str) -> None:
    """Join and wait for a message."""
    with client.room(room_id) as events:
        if any(message.content == content for message in (await client.join(room_id)).messages):
            return
        async for event in events:
            if isinstance(event, NewMessage) and event.message.content == content:
                return


async def live(daemon: Daemon, logs: Path) -> str:
    """Ada and bob talk in a room, bob goes away and resumes; what they write down. The id of the room."""
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, kind="public")
    async with open_client(daemon.ws_url, token=ada.token, record=logs / "ada.ndjson") as client:
        await talk(client, room_id, "ada-1", "ada-2")
        async with open_client(daemon.ws_url, token=bob.token, record=logs / "bob.ndjson") as other:
            await hear(other, room_id, "ada-2")
            await talk(other, room_id, "bob-1")
            checkpoint = other.checkpoint()
        await talk(client, room_id, *(f"ada-{number}" for number in range(3, 11)))
        async with open_client(daemon.ws_url, token=bob.token, record=logs / "bob.ndjson", resume=checkpoint) as other:
            with other.room(room_id) as events:
                await talk(client, room_id, "ada-11")
                async for event in events:
                    if isinstance(event, NewMessage) and event.message.content == "ada-11":
                        break
        await hear(client, room_id, "ada-11")
    return room_id


@ON_BOTH_BACK_ENDS
async def test_messages_that_change_are_no_fault_live_replayed_or_exported(tmp_path: Path) -> None:
    config = load_config(None, environment(tmp_path / "data"))
    logs = tmp_path / "logs"
    logs.mkdir()
    async with open_daemon(tmp_path / "data") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, kind="public")
        async with daemon.connect(ada) as writer:
            async with open_client(daemon.ws_url, token=bob.token, record=logs / "bob.ndjson") as client:
                await client.join(room_id)
                with client.room(room_id) as events:
                    await change_messages(writer, room_id)
                    await hear_deletion(events)
                checkpoint = client.checkpoint()
            await change_messages(writer, room_id)
            async with open_client(
                daemon.ws_url, token=bob.token, record=logs / "bob.ndjson", resume=checkpoint
            ) as client:
                with client.room(room_id) as events:
                    await hear_deletion(events)
                assert (await client.get_history(room_id)).messages
        exported = tmp_path / "export.ndjson"
        await export(config.database, exported, data_path=tmp_path / "data")
        for source in (config.database, str(exported)):
            findings = Findings()
            await verify(find_logs([logs]), source, Rules(), data_path=tmp_path / "data", findings=findings)
            assert findings.faults == []
            assert findings.events > findings.replayed >= 7


async def change_messages(writer: Any, room_id: str) -> None:
    """Everything that becomes of messages; in the end one of two is deleted."""
    sent = [
        (await writer.ask(type="send_message", roomId=room_id, content=content))["messageId"] for content in ("a", "b")
    ]
    for message_id in sent:
        await writer.ask(type="edit_message", messageId=message_id, content="edited")
        await writer.ask(type="add_reaction", messageId=message_id, emoji="+")
        await writer.ask(type="pin_message", messageId=message_id)
    await writer.ask(type="delete_message", messageId=sent[0])


async def hear_deletion(events: Any) -> None:
    async for event in events:
        if isinstance(event, MessageDeleted):
            return


@pytest.fixture
async def recorded(tmp_path: Path) -> Path:
    """A folder with the data of a daemon that has stopped, and the logs of its clients."""
    (tmp_path / "logs").mkdir()
    async with open_daemon(tmp_path / "data") as daemon:
        await live(daemon, tmp_path / "logs")
    return tmp_path


async def check(folder: Path, source: str | None = None, **rules: Any) -> Findings:
    findings = Findings()
    await verify(
        find_logs([folder / "logs"]), source or str(folder / "data" / "chatd.db"), Rules(**rules), data_path=folder,
        findings=findings,
    )  # fmt: skip
    return findings


def faults(findings: Findings) -> str:
    return "\n".join(map(str, findings.faults))


# -- what is sound ----------------------------------------------------------------------------------------------------


@ON_BOTH_BACK_ENDS
async def test_clients_of_a_daemon_that_runs_have_nothing_to_complain_of(tmp_path: Path) -> None:
    config = load_config(None, environment(tmp_path / "data"))
    (tmp_path / "logs").mkdir()
    async with open_daemon(tmp_path / "data") as daemon:
        await live(daemon, tmp_path / "logs")
        findings = Findings()
        await verify(
            find_logs([tmp_path / "logs"]), config.database, Rules(), data_path=tmp_path / "data", findings=findings
        )
        exported = tmp_path / "export.ndjson"
        await export(config.database, exported, data_path=tmp_path / "data")
    assert findings.faults == []
    assert (findings.acknowledged, findings.clients, findings.stays, findings.resumes) == (12, 3, 3, 1)
    assert findings.events > findings.replayed >= 8
    assert findings.stored_messages == 12
    of_export = await check(tmp_path, str(exported))
    assert of_export == findings


@ON_BOTH_BACK_ENDS
async def test_what_goes_on_while_it_is_checked_is_no_fault(tmp_path: Path) -> None:
    config = load_config(None, environment(tmp_path / "data"))
    (tmp_path / "logs").mkdir()
    async with open_daemon(tmp_path / "data") as daemon, trio.open_nursery() as nursery:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        has_begun = trio.Event()

        async def write() -> None:
            async with open_client(daemon.ws_url, token=ada.token, record=tmp_path / "logs" / "ada.ndjson") as client:
                for number in range(1_000_000):
                    await client.send(room_id, f"message {number}")
                    if number == 10:
                        has_begun.set()

        nursery.start_soon(write)
        await has_begun.wait()
        acknowledged = []
        for _ in range(3):
            findings = Findings()
            logs = find_logs([tmp_path / "logs"])
            await verify(logs, config.database, Rules(), data_path=tmp_path / "data", findings=findings)
            assert findings.faults == []
            acknowledged.append(findings.acknowledged)
        nursery.cancel_scope.cancel()
    assert acknowledged == sorted(acknowledged)
    assert acknowledged[0] >= 10


@pytest.mark.parametrize("back_ends", ["distributed"], indirect=True)
async def test_postgres_waits_while_the_checker_or_the_disk_of_an_export_is_held_up(
    back_ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than a daemon may pause in its transaction, and than one call may take."""
    config = load_config(None, environment(tmp_path / "data"))
    monkeypatch.setattr("chatd.store.inspection.PAGE_ROWS", 5)
    monkeypatch.setattr("chatd.verify.verification.TIMEOUT_S", 1.5)
    held_up: list[str] = []

    def hold_up(who: str) -> None:
        if who not in held_up:
            held_up.append(who)
            time.sleep(max(1.5, IDLE_IN_TRANSACTION_MS / 1000) + 0.3)

    def see_messages(self: RoomNumbers, numbers: Sequence[tuple[int, str, int]]) -> None:
        right(self, numbers)
        hold_up("checker")

    def encode(line: dict[str, object]) -> bytes:
        if line["row"] == "message":
            hold_up("export")
        return encode_json(line)

    right = RoomNumbers.see_messages
    monkeypatch.setattr(RoomNumbers, "see_messages", see_messages)
    monkeypatch.setattr("chatd.verify.exports.encode_json", encode)
    (tmp_path / "logs").mkdir()
    async with open_daemon(tmp_path / "data") as daemon:
        await live(daemon, tmp_path / "logs")
        findings = Findings()
        logs = find_logs([tmp_path / "logs"])
        await verify(logs, config.database, Rules(), data_path=tmp_path / "data", findings=findings)
        assert findings.faults == []
        exported = tmp_path / "export.ndjson"
        await export(config.database, exported, data_path=tmp_path / "data")
    assert held_up == ["checker", "export"]
    monkeypatch.undo()
    assert await check(tmp_path, str(exported)) == findings


async def test_clients_in_a_storm_wrote_down_that_all_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    numbers = count()

    def open_recorded(url: str, **options: Any) -> AbstractAsyncContextManager[Client]:
        return open_client(url, record=tmp_path / "logs" / f"{next(numbers)}.ndjson", **options)

    monkeypatch.setattr(client_storm, "open_client", open_recorded)
    await client_storm.storm(tmp_path / "data", seed=3, cuts=40)
    findings = await check(tmp_path)
    assert faults(findings) == ""
    assert findings.acknowledged > 0
    assert findings.resumes > 0


async def test_a_url_is_a_database(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    for source in (url, DatabaseOptions(url=Secret(url))):
        with pytest.RaisesGroup(StartFault, flatten_subgroups=True, allow_unwrapped=True):
            await verify([], source, Rules(), data_path=tmp_path, findings=Findings())


async def test_looking_changes_nothing(recorded: Path) -> None:
    before = contents(recorded)
    await check(recorded)
    assert contents(recorded) == before


# -- what is broken ---------------------------------------------------------------------------------------------------


def damage_database(folder: Path, script: str) -> None:
    with closing(sqlite3.connect(folder / "data" / "chatd.db")) as connection:
        connection.executescript(script)


DAMAGE: Final = {
    "a message that was lost": (
        "DELETE FROM messages WHERE content = 'ada-5'",
        ["promise 1: client-* ada-5 was acknowledged as seq 7 of room * and is lost", "promise 3: * has holes at [7]"],
    ),
    "another content": (
        "UPDATE messages SET content = 'else' WHERE content = 'ada-5'",
        [
            "is stored with another content",
            "promise 3: * heard new_message 7 of room * another content (seq 7, message *)",
        ],
    ),
    "another place": (
        "UPDATE messages SET seq = 99 WHERE content = 'ada-11'; UPDATE rooms SET last_seq = 99 WHERE last_seq = 13",
        ["ada-11 was acknowledged as seq 13 of room * and is stored as seq 99 of room"],
    ),
    "another sender": (
        "UPDATE messages SET sender_id = (SELECT sender_id FROM messages WHERE content = 'bob-1') WHERE seq = 7",
        ["ada-5 was acknowledged as seq 7 of room * with another sender", "another senderId"],
    ),
    "nothing of a joining": ("DELETE FROM room_events WHERE kind = 'user_joined'", ["promise 3: * heard user_joined"]),
    "no room": (
        "PRAGMA foreign_keys = OFF; DELETE FROM rooms WHERE last_seq = 13",
        ["there is no such room", "does not exist and has numbers"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_of_a_database_is_found_in_it_and_in_its_export(recorded: Path, damage: str) -> None:
    script, told = DAMAGE[damage]
    damage_database(recorded, script)
    findings = await check(recorded)
    exported = recorded / "export.ndjson"
    await export(str(recorded / "data" / "chatd.db"), exported, data_path=recorded)
    assert (await check(recorded, str(exported))).faults == findings.faults
    for sentence in told:
        assert any(_is_like(str(fault), sentence) for fault in findings.faults), faults(findings)


def _is_like(text: str, pattern: str) -> bool:
    at = 0
    for part in pattern.split("*"):
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


async def test_a_message_that_is_stored_twice_is_found_in_an_export(recorded: Path) -> None:
    """No database lets that be."""
    exported = recorded / "export.ndjson"
    await export(str(recorded / "data" / "chatd.db"), exported, data_path=recorded)
    lines = exported.read_text().splitlines()
    number = next(number for number, line in enumerate(lines) if '"content":"ada-5"' in line)
    lines.insert(number + 1, lines[number].replace('"seq":7', '"seq":8'))
    exported.write_text("\n".join(lines) + "\n")
    findings = await check(recorded, str(exported))
    assert findings.broken[2] == 1
    assert "is stored 2 times: seq 7 of room" in faults(findings)
    assert "has the numbers [8] more than once" in faults(findings)


def change_log(folder: Path, name: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
    path = folder / "logs" / name
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def find(lines: list[dict[str, Any]], kind: str, seq: int) -> int:
    for number, line in enumerate(lines):
        told = line.get("message", {})
        is_heard = line.get("what") == "heard" and told.get("type") == kind
        if is_heard and told.get("message", told).get("seq") == seq:
            return number
    raise AssertionError(f"nothing of {kind} {seq}")


async def test_a_hole_in_what_was_heard_is_named_with_all_that_is_concerned(recorded: Path) -> None:
    change_log(recorded, "ada.ndjson", lambda lines: lines.pop(find(lines, "new_message", 7)))
    [fault] = (await check(recorded)).faults
    assert (fault.promise, fault.seq, fault.witness and fault.witness.stay) == (4, 8, 1)
    assert fault.room_id
    assert _is_like(
        str(fault), "promise 4: client-*, connection 1, 20*Z: heard seq 8 of room * where 7 was next: a hole"
    )


async def test_a_hole_in_a_resume_is_one_of_promise_five(recorded: Path) -> None:
    change_log(recorded, "bob.ndjson", lambda lines: lines.pop(find(lines, "new_message", 7)))
    findings = await check(recorded)
    assert [fault.promise for fault in findings.faults] == [5]
    change_log(recorded, "bob.ndjson", lambda lines: lines.pop(find(lines, "caught_up", 12)))
    assert "heard seq 8" in faults(await check(recorded))


async def test_a_client_that_was_not_told_the_last_event_is_found_where_all_had_settled(recorded: Path) -> None:
    def cut(lines: list[dict[str, Any]]) -> None:
        del lines[find(lines, "new_message", 13) :]

    change_log(recorded, "bob.ndjson", cut)
    assert (await check(recorded)).faults == []
    assert "up to 12 at the end, which is at 13" in faults(await check(recorded, is_settled=True))


async def test_a_history_with_a_hole_is_found(recorded: Path) -> None:
    def forget(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line.get("message", {}).get("type") == "room_history":
                del line["message"]["messages"][3]

    change_log(recorded, "ada.ndjson", forget)
    assert "that is not whole before" in faults(await check(recorded))


async def test_a_message_that_is_no_message_is_a_fault_and_no_end(recorded: Path) -> None:
    change_log(recorded, "ada.ndjson", lambda lines: lines[find(lines, "new_message", 7)]["message"].pop("message"))
    assert "heard a new_message that is not as it should be: KeyError('message')" in faults(await check(recorded))


async def test_a_client_that_asks_nonsense_is_answered_with_errors_and_that_is_all(recorded: Path) -> None:
    def ask(lines: list[dict[str, Any]]) -> None:
        sent = next(line for line in lines if line.get("what") == "sent")
        nonsense: list[dict[str, Any]] = [
            {"type": "join_room", "roomId": ["r"], "afterSeq": 3},
            {"type": "join_room", "roomId": "r", "afterSeq": "3"},
            {"type": "authenticate", "resume": {"rooms": [1]}},
            {"type": "authenticate", "resume": "all"},
            {"id": 7},
            {},
        ]
        lines[1:1] = [{**sent, "message": message} for message in nonsense]

    change_log(recorded, "bob.ndjson", ask)
    assert faults(await check(recorded)) == ""


async def test_what_was_edited_since_may_have_been_heard_otherwise(recorded: Path) -> None:
    damage_database(recorded, "UPDATE messages SET content = 'better', edited_at = 1 WHERE content = 'ada-5'")
    assert (await check(recorded)).faults == []


# -- resumes ----------------------------------------------------------------------------------------------------------


def resync(reason: str, lines: list[dict[str, Any]]) -> None:
    """A resume that was refused, and after which nothing more is told."""
    number = find(lines, "caught_up", 12)
    lines[number]["message"] |= {"type": "resync", "reason": reason, "oldestSeq": 1}
    begin = max(n for n, line in enumerate(lines) if line.get("message", {}).get("type") == "authenticated")
    lines[begin + 1 :] = [lines[number]]


async def test_a_resync_needs_its_reason(recorded: Path) -> None:
    change_log(recorded, "bob.ndjson", partial(resync, "too_old"))
    assert "promise 5" in faults(await check(recorded))
    assert (await check(recorded, max_resume_events=5)).faults == []
    change_log(
        recorded, "bob.ndjson", lambda lines: lines[find(lines, "resync", 12)]["message"].update(reason="epoch_changed")
    )
    assert "epoch_changed" in faults(await check(recorded))
    change_log(
        recorded, "bob.ndjson", lambda lines: lines[find(lines, "resync", 12)]["message"].update(reason="not_a_member")
    )
    assert "no member, although it is one" in faults(await check(recorded))


async def test_what_was_heard_before_a_restore_is_not_held_against_the_backup(tmp_path: Path) -> None:
    config = load_config(None, environment(tmp_path / "data"))
    (tmp_path / "logs").mkdir()
    async with open_daemon(tmp_path / "data") as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        async with open_client(daemon.ws_url, token=ada.token, record=tmp_path / "logs" / "ada.ndjson") as client:
            await talk(client, room_id, "kept")
            await back_up(config, tmp_path / "backup.db", ignore)
            await talk(client, room_id, "lost", "lost as well")
            checkpoint = client.checkpoint()
    await restore(config, tmp_path / "backup.db", ignore)
    async with (
        open_daemon(tmp_path / "data") as daemon,
        open_client(
            daemon.ws_url, token=ada.token, record=tmp_path / "logs" / "ada.ndjson", resume=checkpoint
        ) as client,
    ):
        with client.room(room_id) as events:
            await anext(events)
            await talk(client, room_id, "new")
    findings = await check(tmp_path)
    assert findings.faults == []
    assert (findings.acknowledged, findings.resyncs, findings.other_epochs) == (1, 1, 1)


async def test_a_room_that_is_asked_for_again_while_it_is_heard_is_replayed_behind_what_comes_live(
    recorded: Path,
) -> None:
    """As `chatd.client` does for a user who was slow to take events."""
    events: dict[int, dict[str, Any]] = {}
    replayed = (await check(recorded)).replayed

    def ask_again(lines: list[dict[str, Any]]) -> None:
        events.update({seq: lines[find(lines, "new_message", seq)] for seq in range(9, 13)})
        told = next(line for line in lines if line.get("message", {}).get("type") == "authenticated")
        room_id, stay = events[9]["message"]["message"]["roomId"], events[9]["stay"]
        hello = {"type": "authenticate", "resume": {"epoch": told["message"]["epoch"], "rooms": {room_id: 8}}}
        again = [
            {"at_s": 1, "stay": stay, "what": "sent", "message": hello},
            {**told, "message": {**told["message"], "rooms": [{"roomId": room_id, "lastSeq": 11}]}},
        ]
        caught_up = {"type": "caught_up", "roomId": room_id, "seq": 11}
        at = find(lines, "new_message", 11)
        lines[at:at] = again
        at = find(lines, "new_message", 11) + 1
        lines[at:at] = [events[9], events[10], events[11], {**told, "message": caught_up}]

    change_log(recorded, "ada.ndjson", ask_again)
    findings = await check(recorded)
    assert faults(findings) == ""
    assert findings.replayed == replayed + 3
    change_log(recorded, "ada.ndjson", lambda lines: lines.remove(events[10]))
    assert _is_like(faults(await check(recorded)), "heard seq 11 of room * where 10 was next")


@pytest.mark.parametrize("repeats", [0, 1, 2])
async def test_what_comes_live_before_the_replay_from_where_one_is_may_come_in_it_once_more(
    recorded: Path, repeats: int
) -> None:
    def ask_from_there(lines: list[dict[str, Any]]) -> None:
        at = find(lines, "new_message", 11)
        live = lines[at]
        room_id = live["message"]["message"]["roomId"]
        request = {"type": "join_room", "id": "again", "roomId": room_id, "afterSeq": 10}
        caught_up = {"type": "caught_up", "id": "again", "roomId": room_id, "seq": 11}
        asked = {"at_s": 1, "stay": live["stay"], "what": "sent", "message": request}
        lines[at : at + 1] = [asked, live, *[live] * repeats, {**live, "message": caught_up}]

    change_log(recorded, "ada.ndjson", ask_from_there)
    told = faults(await check(recorded))
    assert told == "" if repeats < 2 else _is_like(told, "heard seq 11 of room * again")


# -- logs -------------------------------------------------------------------------------------------------------------


async def test_a_log_that_ends_in_the_middle_of_a_line_is_fine_and_said(recorded: Path) -> None:
    path = recorded / "logs" / "ada.ndjson"
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    findings = await check(recorded)
    assert findings.faults == []
    assert "ends in the middle of a line" in findings.report(most=1)
    # The next client of the same user adds to it.
    path.write_bytes(whole[:-30] + (recorded / "logs" / "bob.ndjson").read_bytes())
    (recorded / "logs" / "bob.ndjson").unlink()
    findings = await check(recorded)
    assert (faults(findings), findings.clients, len(findings.remarks)) == ("", 3, 1)


async def test_a_log_is_read_up_to_where_it_ended_at_first(tmp_path: Path) -> None:
    path = tmp_path / "log.ndjson"
    line = b'{"at_s":1,"stay":1,"what":"ends","message":{}}\n'
    path.write_bytes(b'{"name":"a","user_id":"u"}\n' + line + line)
    remarks: list[str] = []
    size = path.stat().st_size
    assert len(list(read_log(path, size=size, remark=remarks.append))) == 3
    assert len(list(read_log(path, size=size - len(line), remark=remarks.append))) == 2
    assert remarks == []
    assert len(list(read_log(path, size=size - 5, remark=remarks.append))) == 2
    assert len(remarks) == 1
    assert list(read_log(path, size=0, remark=remarks.append)) == []


@pytest.mark.parametrize(
    "text",
    [
        "Dear diary\nToday",
        '{"name":"a","user_id":"u"}\n{"at_s":1}\n{}\n',
        '{"at_s":1,"stay":1,"what":"ends","message":{}}\n',
        '{"name":"a","user_id":"u"}\n{"at_s":1,"stay":1,"what":"ends","message":{"a":"\xff"}}\n\n',
    ],
    ids=["prose", "no line", "no head", "not UTF-8"],
)
def test_what_is_no_log_is_said_with_its_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.ndjson"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(LogFault, match=r"log\.ndjson:[12]"):
        list(read_log(path, size=len(text), remark=pytest.fail))


async def test_clients_may_share_a_log(recorded: Path) -> None:
    """Their lines in any order, each with its name."""
    whole: list[list[dict[str, Any]]] = []
    for name in ("ada", "bob"):
        path = recorded / "logs" / f"{name}.ndjson"
        head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        if name == "bob":
            lines = lines[: next(number for number, line in enumerate(lines) if "user_id" in line)]
        whole.append([head, *({**line, "name": head["name"]} for line in lines)])
    mixed = [line for pair in zip(*whole, strict=False) for line in pair] + whole[0][len(whole[1]) :]
    (recorded / "logs" / "all.ndjson").write_text("".join(json.dumps(line) + "\n" for line in mixed))
    findings = await check(recorded)
    assert (faults(findings), findings.clients) == ("", 2)
    with (recorded / "logs" / "all.ndjson").open("a") as file:
        file.write(json.dumps({**mixed[-1], "name": "eve"}) + "\n")
    assert "lines of eve, whose user it does not say" in "\n".join((await check(recorded)).remarks)


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


async def test_the_command_says_what_is_kept_and_what_is_broken_and_ends_accordingly(recorded: Path) -> None:
    async def run(*arguments: str) -> tuple[int, str, str]:
        return await trio.to_thread.run_sync(partial(run_process, recorded, "verify", *arguments))

    status, out, err = await run("logs")
    assert (status, err) == (0, ""), err
    assert QUIET in out
    assert "12 messages acknowledged" in out
    damage_database(recorded, "DELETE FROM messages WHERE seq IN (3, 5, 7)")
    status, out, err = await run("logs/ada.ndjson", "logs/bob.ndjson", "--faults", "2", "--export", "export.ndjson")
    assert (status, err) == (1, ""), err
    assert len([line for line in out.splitlines() if line.startswith("promise")]) == 2
    assert "… and " in out
    assert "BROKEN: " in out
    status, of_export, _ = await run("logs", "--faults", "2", "--database", "export.ndjson")
    assert status == 1
    assert set(out.splitlines()) - set(of_export.splitlines()) == {out.splitlines()[0]}


def test_wrong_usage_ends_with_two(shell: Shell) -> None:
    shell.told("user", "list")
    (shell.folder / "log.ndjson").write_text("no log\n")
    (shell.folder / "half.ndjson").write_text('{"row":"chatd-export","version":2,"epoch":"e"}\n')
    (shell.folder / "old.ndjson").write_text('{"row":"chatd-export","version":0,"epoch":"e"}\n')
    (shell.folder / "empty").mkdir()
    (shell.folder / "nothing.ndjson").touch()
    for arguments, told in (
        ([], "needs logs of clients"),
        (["gone.ndjson"], "There is no log gone.ndjson"),
        (["empty"], "no log (*.ndjson) in the folder"),
        (["log.ndjson"], "log.ndjson:1 is no line of a client's log"),
        (["nothing.ndjson", "--faults", "0"], "at least one"),
        (["nothing.ndjson", "--database", "half.ndjson"], "is not whole"),
        (["nothing.ndjson", "--database", "old.ndjson"], "of another chatd"),
    ):
        done = shell.run("verify", *arguments)
        assert (done.status, done.out) == (2, ""), done
        assert told in done.err
    done = shell.run("verify", "nothing.ndjson")
    assert (done.status, "they prove little" in done.out) == (0, True)


def test_a_database_that_cannot_be_used_is_said_in_one_sentence(shell: Shell) -> None:
    (shell.folder / "nothing.ndjson").touch()
    assert "cannot be read" in shell.refusal("verify", "nothing.ndjson")
    assert "neither a database" in shell.refusal("verify", "nothing.ndjson", "--database", "nothing.ndjson")
    with closing(sqlite3.connect(shell.folder / "other.db")) as connection:
        connection.execute("CREATE TABLE x (y)")
    assert "no database of a chatd" in shell.refusal("verify", "nothing.ndjson", "--database", "other.db")
    (shell.folder / "other.db-wal").write_bytes(b"log")
    assert "start its daemon once" in shell.refusal("verify", "nothing.ndjson", "--database", "other.db")


async def test_an_export_replaces_nothing_and_is_nobody_elses(recorded: Path) -> None:
    source, path = str(recorded / "data" / "chatd.db"), recorded / "export.ndjson"
    await export(source, path, data_path=recorded)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ExportFault, match="is there already"):
        await export(source, path, data_path=recorded)
    with pytest.raises(ExportFault, match="cannot be written"):
        await export(source, recorded / "no" / "export.ndjson", data_path=recorded)


async def test_a_transaction_that_is_run_again_leaves_nothing_twice_in_an_export(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, read = str(recorded / "data" / "chatd.db"), SqliteDatabase.read
    await export(source, recorded / "once.ndjson", data_path=recorded)

    async def read_again(self: SqliteDatabase, work: Work[T]) -> T:
        await read(self, work)
        return await read(self, work)

    monkeypatch.setattr(SqliteDatabase, "read", read_again)
    await export(source, recorded / "again.ndjson", data_path=recorded)
    assert (recorded / "again.ndjson").read_bytes() == (recorded / "once.ndjson").read_bytes()


# -- the parts --------------------------------------------------------------------------------------------------------


def test_faults_beyond_a_bound_are_counted_only() -> None:
    findings = Findings()
    for seq in range(MAX_KEPT + 5):
        findings.blame(Fault(4, "a hole", Witness("ada", 1, 2.0), "r", seq))
    assert len(findings.faults) == MAX_KEPT
    told = findings.report(most=1)
    assert told.startswith("promise 4: ada, connection 1, 2.00 s: a hole (room r, seq 0)\n")
    assert f"… and {MAX_KEPT + 4} more" in told
    assert f"{MAX_KEPT + 5} faults ({MAX_KEPT + 5} of promise 4)" in told


def test_a_fault_is_one_line_whatever_was_heard() -> None:
    assert str(Fault(None, "heard a\nb", None, "r", 1, "m")) == "heard a b (room r, seq 1, message m)"


def test_bits_are_a_set_of_numbers() -> None:
    bits = Bits()
    numbers = [1, 2, 3, 8, 9, 8191, 8192, 8193, 2**40]
    assert all(bits.add(number) for number in numbers)
    assert not any(bits.add(number) for number in numbers)
    assert bits.count == len(numbers)
    assert [number for number in range(20) if number in bits] == [1, 2, 3, 8, 9]
    assert list(bits.missing(1, 12)) == [4, 5, 6, 7, 10, 11]
    assert list(bits.missing(8190, 8195)) == [8190, 8194]
    for number in range(16, 32):
        bits.add(number)
    assert list(bits.missing(14, 34)) == [14, 15, 32, 33]


async def test_pages_that_were_not_used_for_long_are_forgotten(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pages as small as they can be everything is read again and again, and the answer is the same."""
    expected = await check(recorded)
    monkeypatch.setattr(truth, "PAGE_SEQS", 2)
    monkeypatch.setattr(truth, "PAGES", 1)
    assert await check(recorded) == expected


def test_a_line_knows_its_client() -> None:
    assert Line(1.0, 2, "opens", {}).name is None
    assert Head("ada", "u").user_id == "u"
