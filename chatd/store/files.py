"""Files that users send and the blobs that they are made of, as typed calls. Their bytes are for `chatd.files` to keep.

A blob's row comes before its bytes and goes before them: whatever is cut off on the way leaves at most a row or bytes
that nobody uses, which `files.cleaning` finds. A file's row comes when all of its bytes are durable.
"""

from __future__ import annotations

import secrets
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

from chatd.records import encode_json
from chatd.store.database import Conflict

if TYPE_CHECKING:
    from collections.abc import Collection

    from chatd.store.database import Database, Params, Transaction
    from chatd.store.queries import Queries

#: Above every id.
NO_ID = "~"


@dataclass(frozen=True, slots=True)
class File:
    """A row of `file_uploads`: `name` is made by the daemon, `original_name` is what the user calls it."""

    id: str
    owner_id: str
    name: str
    original_name: str
    mime_type: str
    size: int
    sha256: str
    width: int | None
    height: int | None
    thumbnail_name: str | None
    thumbnail_size: int | None
    thumbnail_sha256: str | None
    created_at: int


class Named(NamedTuple):
    """A file that was asked for by its name or its thumbnail's, with the keys of their blobs."""

    file: File
    key: str
    thumbnail_key: str | None


class Claim(NamedTuple):
    """The key under which a content is to be stored, or is stored already."""

    key: str
    is_stored: bool


class Shown(NamedTuple):
    """Whether a message or a profile shows a file, and whether one may be about to."""

    is_shown: bool
    is_held: bool


class Files:
    """Everything that is kept of files. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def claim(self, sha256: str, *, size: int, now_ms: int) -> Claim:
        """Have a blob for a content, which is not removed for a while even if no file is made of it."""
        params: Params = {"sha256": sha256, "key": f"{sha256}-{secrets.token_hex(4)}", "size": size, "now": now_ms}
        row = await self._database.write(self._queries["files.claim_blob"], params)
        assert row is not None
        return Claim(row[0], is_stored=row[1] is not None)

    async def usage(self, owner_id: str) -> int:
        """How many bytes all files of a user have."""
        row = await self._database.row(self._queries["files.usage"], {"owner_id": owner_id})
        return 0 if row is None else int(row[0])

    async def add(self, file: File, *, quota_bytes: int, look_at_ms: int) -> bool:
        """Add a file whose blobs are stored; False, and nothing happens, where it would pass the quota (0: none).

        Raises `Conflict` where a blob is gone, which it is only if storing it took longer than blobs wait.
        """

        async def work(tx: Transaction) -> bool:
            if quota_bytes:
                await tx.row(self._queries["files.lock_owner"], {"owner_id": file.owner_id})
                row = await tx.row(self._queries["files.usage"], {"owner_id": file.owner_id})
                assert row is not None
                if row[0] + file.size > quota_bytes:
                    return False
            named = dict(zip((field.name for field in fields(File)), astuple(file), strict=True))
            await tx.run(self._queries["files.add"], named | {"look_at": look_at_ms})
            for sha256 in filter(None, (file.sha256, file.thumbnail_sha256)):
                await tx.run(self._queries["files.note_stored"], {"sha256": sha256, "now": file.created_at})
            return True

        return await self._database.transaction(work)

    async def page(self, owner_id: str, *, before: str, limit: int, offset: int = 0) -> list[File]:
        """The newest files of a user below the id `before`, newest first."""
        params: Params = {"owner_id": owner_id, "before": before, "limit": limit, "offset": offset}
        return [File(*row) for row in await self._database.rows(self._queries["files.page"], params)]

    async def by_name(self, name: str) -> Named | None:
        """The file that is called so, or whose thumbnail is."""
        row = await self._database.row(self._queries["files.by_name"], {"name": name})
        return None if row is None else Named(File(*row[:-2]), row[-2], row[-1])

    async def is_for(self, file_id: str, user_id: str) -> bool:
        """Whether a message that a user may see shows a file, or somebody's profile does."""
        params: Params = {"id": file_id, "user_id": user_id}
        return await self._database.row(self._queries["files.is_for"], params) is not None

    async def is_linkable(self, file_id: str, maker_id: str) -> bool:
        """Whether who has a link of a user's may see a file: for as long as the user may show it to others."""
        params: Params = {"id": file_id, "user_id": maker_id}
        return await self._database.row(self._queries["files.is_linkable"], params) is not None

    async def hold(self, file_id: str, owner_id: str, *, until_ms: int, look_at_ms: int) -> File | None:
        """A user's own file, kept from being removed until then, for it is about to be shown."""
        params: Params = {"id": file_id, "owner_id": owner_id, "until": until_ms, "look_at": look_at_ms}
        row = await self._database.write(self._queries["files.hold"], params)
        return None if row is None else File(*row)

    async def release(self, file_id: str, *, look_at_ms: int) -> None:
        """Have it looked at then whether anything shows a file still."""
        params: Params = {"id": file_id, "look_at": look_at_ms}
        await self._database.transaction(lambda tx: tx.run(self._queries["files.release"], params))

    async def shown(self, file_id: str, owner_id: str, *, now_ms: int) -> Shown | None:
        """Whether a user's own file is in use; `None` where there is none."""
        params: Params = {"id": file_id, "owner_id": owner_id, "now": now_ms}
        row = await self._database.row(self._queries["files.shown"], params)
        return None if row is None else Shown(bool(row[0]), bool(row[1]))

    async def remove_own(self, file_id: str, owner_id: str, *, now_ms: int) -> bool:
        """Remove a user's own file if nothing shows it and nothing is about to."""
        params: Params = {"id": file_id, "owner_id": owner_id, "now": now_ms}
        return await self._database.transaction(lambda tx: tx.run(self._queries["files.remove_own"], params)) > 0

    async def look(self, *, now_ms: int, next_ms: int, limit: int) -> tuple[int, int]:
        """Look at files whose time has come: remove those that nothing shows, look at the others again then.

        How many were looked at, and how many of them were removed.
        """
        # One statement a file: nobody who deletes a message waits for more than one of them.
        rows = await self._database.rows(self._queries["files.due"], {"now": now_ms, "limit": limit})
        removed = 0
        for file_id, is_shown in rows:
            if is_shown:
                await self.release(file_id, look_at_ms=next_ms)
                continue
            unshown: Params = {"id": file_id, "now": now_ms}
            removed += await self._database.write(self._queries["files.remove_unshown"], unshown) is not None
        return len(rows), removed

    async def forget_blobs(self, *, before_ms: int, limit: int) -> list[str]:
        """Forget blobs that no file is made of and nobody has asked for since then; the keys of their bytes."""
        unused: Params = {"before": before_ms, "limit": limit}
        keys = []
        for (sha256,) in await self._database.rows(self._queries["files.unused_blobs"], unused):
            try:
                row = await self._database.write(
                    self._queries["files.remove_blob"], {"sha256": sha256, "before": before_ms}
                )
            except Conflict:
                continue  # A file has just been made of it.
            if row is not None:
                keys.append(row[0])
        return keys

    async def known_keys(self, keys: Collection[str]) -> set[str]:
        """Those of these keys that blobs have."""
        wanted: Params = {"keys": encode_json(list(keys)).decode()}
        return {row[0] for row in await self._database.rows(self._queries["files.known_keys"], wanted)}
