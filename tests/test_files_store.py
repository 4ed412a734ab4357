"""What is kept of files, on each database: what is shown stays, what nobody needs goes, rows before bytes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from chatd.errors import Refusal
from chatd.files.cleaning import AT_ONCE, HOUR_MS, SPARED_MS, Cleaner
from chatd.files.folder import Folder
from chatd.ids import new_id
from chatd.records import Attachment
from chatd.store.database import Conflict
from chatd.store.files import NO_ID, File, Files
from tests.stores import Store, post

if TYPE_CHECKING:
    from pathlib import Path

    from chatd.store.accounts import Account

DAY_MS = 24 * HOUR_MS


async def put(files: Files, folder: Folder, owner: Account, path: Path, content: bytes, *, now_ms: int = 0) -> File:
    """A file whose bytes are in the folder."""
    sha256 = hashlib.sha256(content).hexdigest()
    claim = await files.claim(sha256, size=len(content), now_ms=now_ms)
    if not claim.is_stored:
        await trio.Path(path).write_bytes(content)
        await folder.put(claim.key, path)
    file = File(
        new_id(), owner.id, new_id(), "notes.txt", "text/plain", len(content), sha256, None, None, None, None, None,
        now_ms,
    )  # fmt: skip
    assert await files.add(file, quota_bytes=0, look_at_ms=now_ms + DAY_MS)
    return file


class At:
    """A clock that stands."""

    def __init__(self) -> None:
        self.now_ms = 0

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def files(store: Store) -> Files:
    return Files(store.database, store.queries)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "blobs")


async def keys(folder: Folder) -> list[str]:
    found, after = [], ""
    while page := await folder.page(after):
        found += [kept.key for kept in page]
        after = found[-1]
    return found


async def test_a_file_that_nothing_shows_goes_after_a_day_and_its_bytes_with_it(
    store: Store, files: Files, folder: Folder, tmp_path: Path
) -> None:
    anna, clock = await store.add_user("anna"), At()
    cleaner = Cleaner(files, folder, clock=clock, keep_ms=DAY_MS)
    file = await put(files, folder, anna, tmp_path / "x", b"hello")
    clock.now_ms = DAY_MS - 1
    await cleaner.clean()
    assert await files.by_name(file.name) is not None
    assert len(await keys(folder)) == 1
    clock.now_ms = DAY_MS
    assert await cleaner.clean() == 1
    assert await files.by_name(file.name) is None
    assert await keys(folder) == []


async def test_what_a_message_a_profile_or_another_file_shows_stays(
    store: Store, files: Files, folder: Folder, tmp_path: Path
) -> None:
    anna, clock = await store.add_user("anna"), At()
    room = await store.add_room(anna)
    cleaner = Cleaner(files, folder, clock=clock, keep_ms=DAY_MS)
    shown, avatar, other = [await put(files, folder, anna, tmp_path / "x", bytes([n])) for n in range(3)]
    same = await put(files, folder, anna, tmp_path / "x", bytes([2]))
    attachment = Attachment(file_id=shown.id, url="", mime_type="", size=1, name="")
    async with store.open_journal() as written:
        await written.journal.write(post(anna, room, message_type="file", attachment=attachment))
    await store.database.write(store.queries["accounts.change_profile"], {
        "id": anna.id, "username": "anna", "username_key": "anna", "display_name": None, "status_message": None,
        "avatar_file_id": avatar.id, "now": 0,
    })  # fmt: skip
    await files.hold(same.id, anna.id, until_ms=0, look_at_ms=9 * DAY_MS)
    clock.now_ms = 2 * DAY_MS
    await cleaner.clean()
    left = [file.id for file in await files.page(anna.id, before=NO_ID, limit=10)]
    assert left == [same.id, avatar.id, shown.id]
    assert await files.by_name(other.name) is None
    assert len(await keys(folder)) == 3


async def test_more_files_than_are_looked_at_at_once_all_go(
    store: Store, files: Files, folder: Folder, tmp_path: Path
) -> None:
    anna, clock = await store.add_user("anna"), At()
    for n in range(AT_ONCE + 5):
        await put(files, folder, anna, tmp_path / "x", b"%d" % n)
    clock.now_ms = 2 * DAY_MS
    assert await Cleaner(files, folder, clock=clock, keep_ms=DAY_MS).clean() == AT_ONCE + 5
    assert await files.usage(anna.id) == 0


async def test_bytes_that_no_row_knows_go_and_those_of_an_upload_on_its_way_stay(
    store: Store, files: Files, folder: Folder, tmp_path: Path
) -> None:
    anna, clock = await store.add_user("anna"), At()
    cleaner = Cleaner(files, folder, clock=clock, keep_ms=DAY_MS)
    kept = await put(files, folder, anna, tmp_path / "x", b"kept")
    (tmp_path / "x").write_bytes(b"left")
    await folder.put("ff-left", tmp_path / "x")
    at_ms = (await folder.page("fe"))[0].at_ms
    clock.now_ms = at_ms + SPARED_MS
    assert await cleaner.compare() == 0
    clock.now_ms += 1
    assert await cleaner.compare() == 1
    named = await files.by_name(kept.name)
    assert named is not None
    assert await keys(folder) == [named.key]


async def test_a_content_that_was_removed_and_comes_again_has_another_key(
    store: Store, files: Files, folder: Folder, tmp_path: Path
) -> None:
    """What is being removed from the disk cannot be what is just being put there."""
    anna = await store.add_user("anna")
    claim = await files.claim("sum", size=1, now_ms=0)
    again = await files.claim("sum", size=1, now_ms=5)
    assert again == claim
    assert await files.forget_blobs(before_ms=5, limit=10) == []
    assert await files.forget_blobs(before_ms=6, limit=10) == [claim.key]
    assert (await files.claim("sum", size=1, now_ms=7)).key != claim.key
    file = await put(files, folder, anna, tmp_path / "x", b"hello")
    with pytest.raises(Conflict):
        await files.add(replace(file, id="other", name="other", sha256="none"), quota_bytes=0, look_at_ms=0)


async def test_a_quota_counts_what_is_there(store: Store, files: Files, folder: Folder, tmp_path: Path) -> None:
    anna = await store.add_user("anna")
    file = await put(files, folder, anna, tmp_path / "x", b"12345")
    other = replace(file, id=new_id(), name="other")
    assert not await files.add(other, quota_bytes=9, look_at_ms=0)
    assert await files.add(other, quota_bytes=10, look_at_ms=0)
    assert await files.usage(anna.id) == 10


async def test_a_folder_that_does_not_work_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_bytes(b"")
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(Refusal, match="folder of files"):
        await Folder(tmp_path / "blobs").put("key", tmp_path / "x")
