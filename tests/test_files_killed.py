"""kill -9 in the middle of uploads and of messages that show them, again and again: nothing is half there."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import asynccontextmanager
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, Final

import trio

from chatd.files.cleaning import HOUR_MS, Cleaner
from chatd.files.folder import Folder
from chatd.store.files import Files
from chatd.store.queries import Queries
from chatd.store.sqlite import open_sqlite
from tests.daemon import NO_FILE, Daemon, environment, start_process
from tests.pictures import jpeg, upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import SignedIn

KILLS: Final = 20
#: For each thing that has to come.
PATIENCE_S: Final = 60
#: Starts a daemon for each line of its input, forked from a process that has read all of chatd: reading takes most of a
#: start. Says its process, and when that has ended.
STARTER: Final = """
import os, sys
from chatd.__main__ import main
for _ in sys.stdin:
    process = os.fork()
    if not process:
        main(["serve", "--config", sys.argv[1]])
    print(process, flush=True)
    os.waitpid(process, 0)
    print("ended", flush=True)
"""


class Starter:
    """Starts and kills daemons on the same data, one after the other; all write one log."""

    def __init__(self, process: trio.Process, data_dir: Path, log: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders, self._said, self._rest = process.stdin, process.stdout, b""
        self._data_dir = data_dir
        self._log = trio.Path(log)
        self._starts = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Daemon]:
        """A daemon that listens; killed at the end of the block, and gone behind it."""
        await self._orders.send_all(b"\n")
        process = int(await self._line())
        self._starts += 1
        try:
            listening = await self._listening()
            yield Daemon(listening["websocket"], listening["http"], self._data_dir)
        finally:
            os.kill(process, signal.SIGKILL)
        assert await self._line() == b"ended"

    async def _line(self) -> bytes:
        with trio.fail_after(PATIENCE_S):
            while b"\n" not in self._rest:
                part = await self._said.receive_some()
                assert part, "what starts daemons has ended"
                self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    async def _listening(self) -> Any:
        with trio.fail_after(PATIENCE_S):
            while True:
                lines = (await self._log.read_bytes()).splitlines(keepends=True)
                told = [line for line in lines if b'"listening"' in line and line.endswith(b"\n")]
                if len(told) == self._starts:
                    return json.loads(told[-1])
                await trio.sleep(0.01)


@asynccontextmanager
async def open_starter(data_dir: Path, log: Path) -> AsyncIterator[Starter]:
    command = [sys.executable, "-c", STARTER, str(NO_FILE)]
    variables = os.environ | environment(data_dir, LIMITS_UPLOADS_PER_HOUR="0", AUTH_ACCESS_MINUTES="60")
    with log.open("ab") as output:
        process = await trio.lowlevel.open_process(command, env=variables, stdin=PIPE, stdout=PIPE, stderr=output)
    try:
        yield Starter(process, data_dir, log)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def send(daemon: Daemon, user: SignedIn, room: str, shown: dict[str, str], over: trio.Event) -> None:
    """Upload one file after the other and show it, until it is over; what was acknowledged goes to `shown`."""
    while not over.is_set():
        is_image = random.random() < 0.3
        content = jpeg(random.randrange(20, 400), 200) if is_image else random.randbytes(200_000).hex().encode()
        try:
            answer = await upload(daemon, user, content, "photo.jpg" if is_image else "notes.txt")
            file = answer.json()["file"]
            body = {"content": "look", "messageType": "image" if is_image else "file", "fileId": file["id"]}
            message = (await daemon.http("POST", f"/api/rooms/{room}/messages", body, token=user.token)).json()
            shown[message["id"]] = file["url"]
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, ValueError, IndexError, KeyError):
            # It is killed, or this machine has no time for it.
            await trio.sleep(0.01)


async def test_a_daemon_killed_among_uploads_leaves_no_row_without_file_and_no_orphan(tmp_path: Path) -> None:
    shown: dict[str, str] = {}
    room = ""
    users: list[SignedIn] = []
    async with open_starter(tmp_path / "data", tmp_path / "log") as starter:
        for _ in range(KILLS):
            async with trio.open_nursery() as nursery, starter.running() as daemon:
                if not users:
                    users = [await daemon.register(f"user{n}") for n in range(4)]
                    room = await daemon.create_room(users[0], members=[user.id for user in users[1:]])
                over, before = trio.Event(), len(shown)
                for user in users:
                    nursery.start_soon(send, daemon, user, room, shown, over)
                with trio.fail_after(PATIENCE_S):
                    while len(shown) == before:  # noqa: ASYNC110 - of several senders the first
                        await trio.sleep(0.01)
                await trio.sleep(random.uniform(0, 0.2))
                over.set()
    assert len(shown) >= KILLS

    data = tmp_path / "data"
    async with start_process(data) as daemon:
        assert len(list((data / "uploads/incoming").iterdir())) == 1
        messages: list[Any] = daemon.rows("SELECT id, attachment, file_id FROM messages WHERE file_id IS NOT NULL")
        assert {row[0] for row in messages} >= set(shown)
        for _, attachment, file_id in messages:
            assert json.loads(attachment)["fileId"] == file_id
            for url in filter(None, (json.loads(attachment).get(name) for name in ("url", "thumbnailUrl"))):
                assert (await daemon.http("GET", url, token=users[1].token)).status == 200

    async with open_sqlite(data / "chatd.db", readers=1) as database:
        files, folder = Files(database, Queries("sqlite")), Folder(data / "uploads/blobs")

        def later_ms() -> int:
            return int(time.time() * 1000) + 30 * HOUR_MS

        cleaner = Cleaner(files, folder, clock=later_ms, keep_ms=HOUR_MS)
        await cleaner.clean()
        await cleaner.compare()
    used = {row[0] for row in daemon.rows("SELECT key FROM file_blobs")}
    kept = {path.name for path in (data / "uploads/blobs").rglob("*") if path.is_file()}
    assert kept == used
    assert {row[0] for row in daemon.rows("SELECT id FROM file_uploads")} == {row[2] for row in messages}
