"""A database as a checker of the promises reads it, and its export: a copy of what concerns the promises, line by line.

Rows as they are kept, also of rooms and messages that nobody is shown any more. `verify` compares them with what
clients were told. Everything comes in pages, so that memory does not grow with the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from chatd.records import encode_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from chatd.store.database import Database, Params, Row, Transaction
    from chatd.store.queries import Queries

#: Rows of one page.
PAGE_ROWS: Final = 2000
#: Below every number, those of a damaged table as well.
FIRST: Final = -(2**62)


class KeptRoom(NamedTuple):
    """A room with what it says of itself."""

    id: str
    kind: str
    last_seq: int
    message_count: int
    member_count: int


class KeptMember(NamedTuple):
    """Somebody who is in a room."""

    room_id: str
    user_id: str


class KeptMessage(NamedTuple):
    """A message. Times are milliseconds since 1970, `metadata` is JSON text."""

    id: str
    room_id: str
    seq: int
    count_in_room: int
    sender_id: str
    message_type: str
    content: str
    reply_to: str | None
    metadata: str | None
    client_message_id: str | None
    created_at: int
    edited_at: int | None
    deleted_at: int | None


class KeptEvent(NamedTuple):
    """A durable event that is no message, with the JSON text that was sent; of an edit that is not kept.

    `message_id` is the message that it is about.
    """

    room_id: str
    seq: int
    kind: str
    body: str
    message_id: str | None


class Repetition(NamedTuple):
    """A message that is stored more than once."""

    sender_id: str
    client_message_id: str
    times: int


class Place(NamedTuple):
    """Where a message stands."""

    room_id: str
    seq: int
    message_id: str


class NumberVisitor(Protocol):
    """Is shown every number of a room."""

    def see_room(self, room: KeptRoom, *, members: int) -> None: ...

    def see_messages(self, numbers: Sequence[tuple[int, str, int]]) -> None:
        """Seq, id and count in the room of the next messages by seq."""

    def see_events(self, numbers: Sequence[tuple[int]]) -> None: ...


#: What an export has of each room, under which name.
KINDS: Final[dict[str, type[tuple[Any, ...]]]] = {
    "room": KeptRoom, "member": KeptMember, "message": KeptMessage, "event": KeptEvent,
}  # fmt: skip


class Inspection:
    """All of a database that the promises are about. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def rooms(self, *, after: str, limit: int = PAGE_ROWS) -> list[KeptRoom]:
        """Rooms in the order of their ids."""
        rows = await self._database.rows(self._queries["inspection.rooms"], {"after": after, "limit": limit})
        return [KeptRoom(*row) for row in rows]

    async def room(self, room_id: str) -> KeptRoom | None:
        row = await self._database.row(self._queries["inspection.room"], {"id": room_id})
        return None if row is None else KeptRoom(*row)

    async def members(self, room_id: str, *, after: str = "", limit: int = PAGE_ROWS) -> list[KeptMember]:
        params: Params = {"room_id": room_id, "after": after, "limit": limit}
        return [KeptMember(*row) for row in await self._database.rows(self._queries["inspection.members"], params)]

    async def messages(
        self, room_id: str, start: int, *, after_id: str = "", limit: int = PAGE_ROWS
    ) -> list[KeptMessage]:
        """The messages from a seq on, by seq; with `after_id` only those behind that message of the seq."""
        params: Params = {"room_id": room_id, "after": start, "after_id": after_id, "limit": limit}
        return [KeptMessage(*row) for row in await self._database.rows(self._queries["inspection.messages"], params)]

    async def events(self, room_id: str, seq: int, *, limit: int = PAGE_ROWS) -> list[KeptEvent]:
        """The next events behind a seq that are no messages."""
        params: Params = {"room_id": room_id, "after": seq, "limit": limit}
        return [KeptEvent(*row) for row in await self._database.rows(self._queries["inspection.events"], params)]

    async def memberships(self, room_id: str, seq: int, *, limit: int = PAGE_ROWS) -> list[KeptEvent]:
        """As `events`: those alone by which somebody came or left, or everybody left a deleted room."""
        params: Params = {"room_id": room_id, "after": seq, "limit": limit}
        return [KeptEvent(*row) for row in await self._database.rows(self._queries["inspection.memberships"], params)]

    async def rooms_of(self, user_id: str, *, after: str, limit: int = PAGE_ROWS) -> list[str]:
        """The ids of the rooms that a user is a member of, in order."""
        params: Params = {"user_id": user_id, "after": after, "limit": limit}
        return [row[0] for row in await self._database.rows(self._queries["inspection.rooms_of"], params)]

    async def lost_rooms(self, *, limit: int) -> list[str]:
        """Rooms that do not exist and have messages or events."""
        return [row[0] for row in await self._database.rows(self._queries["inspection.lost_rooms"], {"limit": limit})]

    async def repeated_keys(self, *, limit: int) -> list[Repetition]:
        rows = await self._database.rows(self._queries["inspection.repeated_keys"], {"limit": limit})
        return [Repetition(*row) for row in rows]

    async def of_key(self, sender_id: str, key: str, *, limit: int = 10) -> list[Place]:
        """Where the message of a sender stands that came under a key."""
        params: Params = {"sender_id": sender_id, "key": key, "limit": limit}
        return [Place(*row) for row in await self._database.rows(self._queries["inspection.of_key"], params)]

    async def visit_numbers(self, room_id: str, visitor: NumberVisitor) -> None:
        """Show every number of a room, all of it as it is at one moment. It may be on another thread."""
        messages, events = self._queries["inspection.message_numbers"], self._queries["inspection.event_numbers"]

        async def work(tx: Transaction) -> None:
            row = await tx.row(self._queries["inspection.room"], {"id": room_id})
            counted = await tx.row(self._queries["inspection.count_members"], {"room_id": room_id})
            assert row is not None
            assert counted is not None
            visitor.see_room(KeptRoom(*row), members=counted[0])
            after: Params = {"after": FIRST, "after_id": ""}
            while rows := await tx.rows(messages, {"room_id": room_id, "limit": PAGE_ROWS, **after}):
                visitor.see_messages(rows)
                after = {"after": rows[-1][0], "after_id": rows[-1][1]}
            seq = FIRST
            while rows := await tx.rows(events, {"room_id": room_id, "limit": PAGE_ROWS, "after": seq}):
                visitor.see_events(rows)
                seq = rows[-1][0]

        await self._database.read(work)

    async def visit_rows(self, room_id: str, visit: Callable[[str, Sequence[Row]], object]) -> None:
        """Show all rows of a room under their names in `KINDS`, as `visit_numbers` does.

        `room` comes first, without a row where the room does not exist; if it comes again, all of it does.
        """

        async def work(tx: Transaction) -> None:
            of_room: Params = {"room_id": room_id, "limit": PAGE_ROWS}
            row = await tx.row(self._queries["inspection.room"], {"id": room_id})
            visit("room", [] if row is None else [row])
            after: Params = {"after": ""}
            while rows := await tx.rows(self._queries["inspection.members"], {**of_room, **after}):
                visit("member", rows)
                after = {"after": rows[-1][1]}
            after = {"after": FIRST, "after_id": ""}
            while rows := await tx.rows(self._queries["inspection.messages"], {**of_room, **after}):
                visit("message", rows)
                after = {"after": rows[-1][2], "after_id": rows[-1][0]}
            after = {"after": FIRST}
            while rows := await tx.rows(self._queries["inspection.events"], {**of_room, **after}):
                visit("event", rows)
                after = {"after": rows[-1][1]}

        await self._database.read(work)


class InspectionCopy:
    """An export, about to become a database that can be inspected. SQLite only, in an empty file."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def begin(self, epoch: str | None) -> None:
        script = self._queries["inspection.create_copy"].text
        await self._database.transaction(lambda tx: tx.script(script))
        if epoch is not None:
            query = self._queries["inspection.copy_epoch"]
            await self._database.transaction(lambda tx: tx.run(query, {"epoch": epoch}))

    async def add(self, kind: str, rows: Iterable[Row]) -> None:
        """Add rows of one of `KINDS`."""
        names = {
            "room": "inspection.copy_rooms",
            "member": "inspection.copy_members",
            "message": "inspection.copy_messages",
            "event": "inspection.copy_events",
        }
        params: Params = {"rows": encode_json(list(rows)).decode()}
        await self._database.transaction(lambda tx: tx.run(self._queries[names[kind]], params))

    async def end(self) -> None:
        """Make it quick to read."""
        script = self._queries["inspection.index_copy"].text
        await self._database.transaction(lambda tx: tx.script(script))
