"""The chat list as typed calls: each of a user's rooms with its last message, its reader and its participants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.records import encode_json, parse_json
from chatd.store.messages import as_shown

if TYPE_CHECKING:
    from chatd.records import Message
    from chatd.store.database import Database, Params, Row, Transaction
    from chatd.store.queries import Queries

#: Participants that a row names.
PARTICIPANTS: Final = 10


class Place(NamedTuple):
    """A place in a list that begins with the newest activity (milliseconds); of rooms of one moment the id counts."""

    activity: int
    room_id: str


#: Before the first one.
TOP: Final = Place(2**53, "")


class ParticipantRow(NamedTuple):
    """A member whom a row names."""

    user_id: str
    username: str
    display_name: str | None


class ChatRow(NamedTuple):
    """A room or conversation as one of its members has it. `last_message` is as everybody sees it now."""

    room_id: str
    kind: str
    name: str
    topic: str | None
    member_count: int
    last_seq: int
    read_seq: int
    unread: int
    activity: int
    last_message: Message | None
    participants: list[ParticipantRow]

    @property
    def place(self) -> Place:
        return Place(self.activity, self.room_id)


class Chats:
    """What is in a user's chat list. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def page(self, user_id: str, *, behind: Place, limit: int, offset: int = 0) -> list[ChatRow]:
        """A user's chats behind a place, the newest activity first, in two queries."""
        page: Params = {
            "user_id": user_id, "activity": behind.activity, "room_id": behind.room_id, "limit": limit,
            "offset": offset, "participants": PARTICIPANTS,
        }  # fmt: skip

        async def work(tx: Transaction) -> tuple[list[Row], dict[str, Message]]:
            rows = await tx.rows(self._queries["chats.page"], page)
            ids = [row[-2] for row in rows if row[-2] is not None]
            last = await tx.rows(self._queries["messages.of_ids"], {"ids": encode_json(ids).decode()})
            return rows, {row[0]: as_shown(row) for row in last}

        rows, last = await self._database.read(work)
        found = []
        for *facts, last_id, participants in rows:
            named = [ParticipantRow(*participant) for participant in parse_json(participants)]
            found.append(ChatRow._make((*facts, last.get(last_id), named)))
        return found
