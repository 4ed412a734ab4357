"""Finding messages by their words, in the rooms that somebody is in. Candidates only: `chat.search` puts them in order.

Every statement is bounded by what it looks at: a room's newest part first, older ones only while too little is found.
What is found is read from the messages themselves, in the same state of the database as the memberships, so that an
index that is a moment behind shows nothing that is not there or not to be seen.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.errors import Refusal, Unavailable
from chatd.records import encode_json
from chatd.store.search_terms import Window, query_of, windows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chatd.store.database import Database, Params, Row, Transaction
    from chatd.store.queries import Queries
    from chatd.store.words import Phrase

#: Rooms of one user that are looked into, and how many of them by one statement.
MAX_ROOMS: Final = 2000
ROOMS_AT_ONCE: Final = 100
#: Of one of several rooms so many matches are wanted at least.
MIN_OF_ROOM: Final = 2
#: Characters of a message that are looked at to tell how well it matches, and to show where.
LOOKED_AT: Final = 2000


class Found(NamedTuple):
    """A message that has the words; of a long one `content` is the beginning."""

    id: str
    room_id: str
    seq: int
    sender_id: str
    sender_name: str
    message_type: str
    created_at: int
    edited_at: int | None
    content: str


class Search:
    """Looks into the index. Raises `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def find(
        self, user_id: str, phrases: Sequence[Phrase], *, room_id: str, sender_id: str, limit: int, timeout_s: float
    ) -> list[Found]:
        """The newest messages that have all the phrases, at most `limit`, in no order that matters.

        Of all rooms of the user or of one, of everybody or of one sender (empty: all). Raises `Refusal` (`unavailable`)
        when it takes longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s

        async def work(tx: Transaction) -> list[Found]:
            await tx.row(self._queries["search.bound"], {"timeout_ms": str(max(int(timeout_s * 1000), 1))})
            who: Params = {"user_id": user_id, "room_id": room_id, "limit": MAX_ROOMS}
            rooms = await tx.rows(self._queries["search.rooms_of"], who)
            places: dict[tuple[str, int], None] = {}
            for windows in _ages(rooms):
                for start in range(0, len(windows), ROOMS_AT_ONCE):
                    _check_time(deadline, timeout_s)
                    part = windows[start : start + ROOMS_AT_ONCE]
                    places |= await self._matches(tx, rooms, part, phrases, sender_id=sender_id, limit=limit)
                if len(places) >= limit:
                    break
            _check_time(deadline, timeout_s)
            wanted: Params = {"places": encode_json(list(places)).decode(), "limit": limit, "characters": LOOKED_AT}
            return [Found(*row) for row in await tx.rows(self._queries["search.found"], wanted)]

        try:
            return await self._database.read(work)
        except Unavailable:
            _check_time(deadline, timeout_s)
            raise

    async def _matches(
        self,
        tx: Transaction,
        rooms: Sequence[Row],
        windows: Sequence[Window],
        phrases: Sequence[Phrase],
        *,
        sender_id: str,
        limit: int,
    ) -> dict[tuple[str, int], None]:
        """Where matches stand: room and seq."""
        dialect = self._database.dialect
        # SQLite takes so many of each room, PostgreSQL of all together, where the last windows show some a second time.
        of_each = limit if len(rooms) == 1 else max(2 * limit // len(rooms), MIN_OF_ROOM)
        asked: Params = {
            "query": query_of(dialect, phrases, sender_id=sender_id, windows=windows),
            "stretches": encode_json([window[:3] for window in windows]).decode(),
            "limit": of_each if dialect == "sqlite" else 2 * limit,
        }
        room_ids = {number: room_id for number, room_id, _ in rooms}
        return {
            (room_ids[number], seq): None
            for number, seq in await tx.rows(self._queries["search.matches"], asked)
            if number in room_ids
        }


def _ages(rooms: Sequence[Row]) -> Iterator[list[Window]]:
    """The newest parts of all rooms, then older ones of those that are larger."""
    parts = [list(windows_of(number, indexed_seq)) for number, _, indexed_seq in rooms]
    for age in range(max(map(len, parts), default=0)):
        yield [part[age] for part in parts if age < len(part)]


def _check_time(deadline: float, timeout_s: float) -> None:
    if time.monotonic() >= deadline:
        raise Refusal(
            "unavailable", f"The search took longer than {timeout_s:g} s; name a room with `roomId`, or rarer words."
        )
