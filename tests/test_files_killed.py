"""kill -9 in the middle of uploads and of messages that show them, again and again: nothing is half there."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any

import trio

from chatd.files.cleaning import HOUR_MS, Cleaner
from chatd.files.folder import Folder
from chatd.store.files import Files
from chatd.store.queries import Queries
from chatd.store.sqlite import open_sqlite
from tests.daemon import start_process
from tests.pictures import jpeg, upload

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon import Process, SignedIn

KILLS = 20


async def send_without_end(daemon: Process, user: SignedIn, room: str, shown: dict[str, str]) -> None:
    """Upload one file after the other and show it, until the daemon is gone; what was acknowledged goes to `shown`."""
    try:
        while True:
            is_image = random.random() < 0.3
            content = jpeg(random.randrange(20, 400), 200) if is_image else random.randbytes(200_000).hex().encode()
            answer = await upload(daemon, user, content, "photo.jpg" if is_image else "notes.txt")
            file = answer.json()["file"]
            body = {"content": "look", "messageType": "image" if is_image else "file", "fileId": file["id"]}
            message = (await daemon.http("POST", f"/api/rooms/{room}/messages", body, token=user.token)).json()
            shown[message["id"]] = file["url"]
    except (OSError, trio.BrokenResourceError, ValueError, IndexError, KeyError):
        return


async def test_a_daemon_killed_among_uploads_leaves_no_row_without_file_and_no_orphan(tmp_path: Path) -> None:
    shown: dict[str, str] = {}
    room, users = "", []
    for turn in range(KILLS):
        async with start_process(tmp_path, LIMITS_UPLOADS_PER_HOUR="0", AUTH_ACCESS_MINUTES="60") as daemon:
            if not turn:
                users = [await daemon.register(f"user{n}") for n in range(4)]
                room = await daemon.create_room(users[0], members=[user.id for user in users[1:]])
            async with trio.open_nursery() as nursery:
                for user in users:
                    nursery.start_soon(send_without_end, daemon, user, room, shown)
                await trio.sleep(random.uniform(0.1, 0.8))
                daemon.process.kill()
    assert shown

    async with start_process(tmp_path, LIMITS_UPLOADS_PER_HOUR="0") as daemon:
        incoming = tmp_path / "uploads" / "incoming"
        assert len(list(incoming.iterdir())) == 1
        messages: list[Any] = daemon.rows("SELECT id, attachment, file_id FROM messages WHERE file_id IS NOT NULL")
        assert {row[0] for row in messages} >= set(shown)
        for _, attachment, file_id in messages:
            assert json.loads(attachment)["fileId"] == file_id
            for url in filter(None, (json.loads(attachment).get(name) for name in ("url", "thumbnailUrl"))):
                assert (await daemon.http("GET", url, token=users[1].token)).status == 200

    async with open_sqlite(tmp_path / "chatd.db", readers=1) as database:
        files, folder = Files(database, Queries("sqlite")), Folder(tmp_path / "uploads" / "blobs")

        def later_ms() -> int:
            return int(time.time() * 1000) + 30 * HOUR_MS

        cleaner = Cleaner(files, folder, clock=later_ms, keep_ms=HOUR_MS)
        await cleaner.clean()
        await cleaner.compare()
    used = {row[0] for row in daemon.rows("SELECT key FROM file_blobs")}
    kept = {path.name for path in (tmp_path / "uploads" / "blobs").rglob("*") if path.is_file()}
    assert kept == used
    assert {row[0] for row in daemon.rows("SELECT id FROM file_uploads")} == {row[2] for row in messages}
