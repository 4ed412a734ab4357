"""Backup and restore: complete while it is written to, put back whole, and clients of the old epoch are told."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio

from chatd.backups import back_up, restore
from chatd.configfile import load_config
from chatd.errors import Unavailable
from chatd.store.copies import copy_database
from tests.daemon import environment, open_daemon, start_process
from tests.shell import Shell, contents

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon import Daemon, SignedIn


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def ignore(done: int, total: int) -> None:
    """The progress, to nobody."""


async def say(daemon: Daemon, user: SignedIn, room_id: str, *texts: str) -> list[int]:
    async with daemon.connect(user) as client:
        return [(await client.ask(type="send_message", roomId=room_id, content=text))["seq"] for text in texts]


async def told(daemon: Daemon, user: SignedIn, room_id: str) -> list[str]:
    """What the history says."""
    answer = await daemon.http("GET", f"/api/rooms/{room_id}/messages?limit=100", token=user.token)
    return [message["content"] for message in answer.json()["messages"]]


async def test_a_backup_taken_while_it_is_written_to_holds_all_that_was_acknowledged_before(tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    config = load_config(None, environment(tmp_path / "data"))
    acknowledged: list[str] = []
    async with open_daemon(tmp_path / "data") as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        has_begun, is_copied, may_end = trio.Event(), trio.Event(), 0

        async def write() -> None:
            async with daemon.connect(ada) as client:
                while not is_copied.is_set() or len(acknowledged) < may_end:
                    text = str(len(acknowledged))
                    await client.ask(type="send_message", roomId=room_id, content=text)
                    acknowledged.append(text)
                    if len(acknowledged) == 20:
                        has_begun.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await has_begun.wait()
            before = list(acknowledged)
            assert "bytes" in await back_up(config, file, ignore)
            may_end = len(acknowledged) + 20
            is_copied.set()
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        stored = [text for (text,) in database.execute("SELECT content FROM messages ORDER BY seq")]
        heads = database.execute("SELECT last_seq FROM rooms WHERE id = ?", [room_id]).fetchall()
    assert stored[: len(before)] == before
    assert heads == [(len(stored),)]
    assert file.stat().st_mode & 0o777 == 0o600
    assert {path.partition("/")[0] for path in contents(tmp_path)} == {"backup.db", "data"}


async def test_restoring_goes_back_under_a_new_epoch_and_keeps_what_was_there(tmp_path: Path) -> None:
    config = load_config(None, environment(tmp_path / "data"))
    async with open_daemon(tmp_path / "data") as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        await say(daemon, ada, room_id, "kept")
        await back_up(config, tmp_path / "backup.db", ignore)
        await say(daemon, ada, room_id, "lost", "lost as well")
        async with daemon.connect(ada) as client:
            epoch = client.inbox[0]["epoch"]
            position = client.inbox[0]["rooms"][0]["lastSeq"]
        with pytest.RaisesGroup(pytest.RaisesExc(Exception, match="Another daemon runs"), flatten_subgroups=True):
            async with trio.open_nursery():
                await restore(config, tmp_path / "backup.db", ignore)

    assert "replaced" in await restore(config, tmp_path / "backup.db", ignore)
    async with open_daemon(tmp_path / "data") as daemon:
        assert await told(daemon, ada, room_id) == ["kept"]
        async with daemon.connect() as client:
            await client.send(
                type="authenticate", token=ada.token, resume={"epoch": epoch, "rooms": {room_id: position}}
            )
            authenticated = await client.receive()
            assert authenticated["epoch"] != epoch
            resync = await client.receive()
            assert (resync["type"], resync["reason"]) == ("resync", "epoch_changed")
            assert resync["seq"] == authenticated["rooms"][0]["lastSeq"] < position
            # From there it hears what comes, in order.
            ack = await client.ask(type="send_message", roomId=room_id, content="new")
            event = await client.heard("new_message")
            assert event["message"]["seq"] == ack["seq"] == resync["seq"] + 1
    [replaced] = [path for path in contents(tmp_path) if "replaced" in path]
    with closing(sqlite3.connect(f"{(tmp_path / replaced).as_uri()}?mode=ro", uri=True)) as database:
        stored = [text for (text,) in database.execute("SELECT content FROM messages ORDER BY seq")]
    assert stored == ["kept", "lost", "lost as well"]


async def test_restoring_over_what_a_killed_daemon_left_does_not_mix_the_two(tmp_path: Path) -> None:
    config = load_config(None, environment(tmp_path / "data"))
    async with start_process(tmp_path / "data") as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        await say(daemon, ada, room_id, "kept")
        await back_up(config, tmp_path / "backup.db", ignore)
        await say(daemon, ada, room_id, *["in the log of the old one"] * 50)
        daemon.process.kill()
        await daemon.process.wait()
    assert (tmp_path / "data" / "chatd.db-wal").stat().st_size > 0
    await restore(config, tmp_path / "backup.db", ignore)
    async with open_daemon(tmp_path / "data") as daemon:
        assert await told(daemon, ada, room_id) == ["kept"]


async def test_a_damaged_database_is_replaced_as_well(tmp_path: Path) -> None:
    config = load_config(None, environment(tmp_path / "data"))
    async with open_daemon(tmp_path / "data") as daemon:
        ada = await daemon.register("ada")
        await back_up(config, tmp_path / "backup.db", ignore)
    (tmp_path / "data" / "chatd.db").write_bytes(os.urandom(100_000))
    with pytest.raises(Unavailable, match="damaged or no database"):
        copy_database(tmp_path / "data" / "chatd.db", tmp_path / "copy.db", ignore)
    await restore(config, tmp_path / "backup.db", ignore)
    async with open_daemon(tmp_path / "data") as daemon:
        assert await daemon.lobby(ada)


def test_what_cannot_be_backed_up_or_restored_is_said_in_one_sentence(shell: Shell) -> None:
    assert "There is no database" in shell.refusal("backup", "copy.db")
    assert "There is no file nothing.db" in shell.refusal("restore", "nothing.db")
    shell.told("user", "list")
    assert shell.told("backup", "copy.db").startswith("copy.db: ")
    assert "is there already" in shell.refusal("backup", "copy.db")
    assert "cannot be written" in shell.refusal("backup", "no/such/folder/copy.db")
    (shell.folder / "diary.db").write_text("Dear diary, " * 1000)
    assert "diary.db" in shell.refusal("restore", "diary.db")
    (shell.folder / "empty.db").touch()
    assert "no backup of a chatd" in shell.refusal("restore", "empty.db")
