"""What concerns single users, as typed calls: made in batches, listed, read, forgotten.

The text of a message is never copied: it is looked up when a notification is shown, so that it goes with the message,
and with the membership of whoever looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from chatd.ids import new_id, oldest_id_of
from chatd.records import encode_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.store.database import Database, Params, Row, Transaction, Value
    from chatd.store.queries import Queries

Kind: TypeAlias = Literal["mention", "reply", "reaction", "direct", "invitation"]
Notify: TypeAlias = Literal["all", "mentions", "none"]

#: Behind every id in any collation: ids are hexadecimal.
NEWEST: Final = "g"
#: Notifications that one statement removes.
FORGET_AT_ONCE: Final = 1000


class Concern(NamedTuple):
    """Something that may concern somebody.

    `target` says whom: the key of a name for a mention, a message's id for a reply and a reaction, a user's id for an
    invitation; a direct message concerns whoever else is in the room. `edit_seq` is that of the edit by which a message
    mentions somebody, who is told unless they were told of the message before.
    """

    kind: Kind
    room_id: str
    message_id: str | None
    actor_id: str
    target: str = ""
    emoji: str | None = None
    edit_seq: int | None = None


class NotificationRow(NamedTuple):
    """A notification as its user sees it; without an excerpt where there is nothing to show any more."""

    id: str
    user_id: str
    kind: Kind
    room_id: str
    room_name: str
    message_id: str | None
    seq: int | None
    actor_id: str
    actor_name: str
    emoji: str | None
    excerpt: str | None
    created_at: int
    is_unread: bool


class Notifications:
    """Everything that is kept of notifications. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def add(self, concerns: Sequence[Concern], *, now_ms: int) -> list[NotificationRow]:
        """Store what these concerns are to whoever wants to hear of them, and return it; two statements at most.

        Nobody is told of what they did themselves, of what somebody did whom they have blocked, of a room that they
        are not in or do not want to hear of, and of the same twice before they have read it.
        """
        wanted = [(n, *concern) for n, concern in enumerate(concerns)]
        reaching: Params = {"wanted": encode_json(wanted).decode()}
        rows: dict[tuple[str | None, ...], NotificationRow] = {}
        kept: list[tuple[object, ...]] = []
        for n, user_id, room_name, seq, actor_name, excerpt in await self._database.rows(
            self._queries["notifications.reached"], reaching
        ):
            concern = concerns[n]
            # One message tells somebody once, whatever it is to them; a conversation does, until it is read.
            told = concern.room_id if concern.kind == "direct" else concern.message_id or concern.room_id
            key = (user_id, told, concern.actor_id if concern.kind == "reaction" else None)
            if key not in rows:
                rows[key] = row = NotificationRow(
                    new_id(), user_id, concern.kind, concern.room_id, room_name, concern.message_id, seq,
                    concern.actor_id, actor_name, concern.emoji, excerpt or None, now_ms, is_unread=True,
                )  # fmt: skip
                kept.append(_kept(row, concern))
        if rows:
            added: Params = {"notifications": encode_json(kept).decode()}
            await self._run("notifications.add", added)
        return list(rows.values())

    async def page(self, user_id: str, *, before: str, limit: int) -> tuple[list[NotificationRow], int]:
        """The user's newest notifications below the id `before`, and how many are unread (1000 for more)."""
        wanted: Params = {"user_id": user_id, "before": before or NEWEST, "limit": limit}

        async def work(tx: Transaction) -> tuple[Sequence[Row], Row | None]:
            rows = await tx.rows(self._queries["notifications.page"], wanted)
            return rows, await tx.row(self._queries["notifications.unread"], {"user_id": user_id})

        rows, unread = await self._database.read(work)
        found = [NotificationRow(*row)._replace(excerpt=row[10] or None, is_unread=bool(row[12])) for row in rows]
        return found, 0 if unread is None else int(unread[0])

    async def mark_read(self, user_id: str, ids: Sequence[str] | None, *, now_ms: int) -> int:
        """Mark these notifications of the user read, or (`None`) all; how many are unread then."""
        marking: dict[str, Value] = {"user_id": user_id, "now": now_ms}
        if ids is None:
            await self._run("notifications.read_all", marking)
        else:
            await self._run("notifications.read_some", {**marking, "ids": encode_json(ids).decode()})
        row = await self._database.row(self._queries["notifications.unread"], {"user_id": user_id})
        return 0 if row is None else int(row[0])

    async def preference(self, room_id: str, user_id: str) -> Notify | None:
        """What a member wants to hear of a room; `None` for no member."""
        member: Params = {"room_id": room_id, "user_id": user_id}
        row = await self._database.row(self._queries["notifications.preference"], member)
        return None if row is None else row[0]

    async def prefer(self, room_id: str, user_id: str, notify: Notify) -> bool:
        """Set that; whether the user is a member."""
        return await self._run("notifications.prefer", {"room_id": room_id, "user_id": user_id, "notify": notify}) > 0

    async def forget(self, before_ms: int) -> None:
        """Remove what was made before a time, some at a time, so that nobody waits long for it."""
        old: Params = {"before": oldest_id_of(before_ms), "limit": FORGET_AT_ONCE}
        while await self._run("notifications.forget", old) == FORGET_AT_ONCE:
            pass

    async def _run(self, name: str, params: Params) -> int:
        query = self._queries[name]
        return await self._database.transaction(lambda tx: tx.run(query, params))


def _kept(row: NotificationRow, concern: Concern) -> tuple[object, ...]:
    return (
        row.id, row.user_id, row.kind, row.room_id, row.message_id, row.actor_id, row.emoji, row.created_at,
        concern.edit_seq,
    )  # fmt: skip
