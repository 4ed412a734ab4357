"""Changes of a room that are decided inside of the transaction that stores them: edits, reactions, roles, settings.

An `Act` brings a function that gets a `Scene`: the room as it is at that moment, locked until the commit, and the
transaction. It reads what the decision needs, refuses by raising, or writes and adds the room's next events. What it
found is true when it is stored, whatever other nodes do meanwhile. The journal runs acts in order with everything else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from chatd.bus.port import Event
from chatd.errors import Refusal
from chatd.protocol import NewDm, NewMessage, RoomChange, encode, wire_name
from chatd.records import encode_json, parse_json
from chatd.store.entries import NO_STANDING, Head, Standing, settled_by_writer

if TYPE_CHECKING:
    from chatd.store.database import Params, Row, Transaction, Value
    from chatd.store.entries import Settle
    from chatd.store.queries import Queries


class Scene:
    """A room in the hands of one act, inside of a transaction.

    Queries are named as in sql/queries; all calls raise `Conflict` and `Unavailable`.
    """

    def __init__(self, tx: Transaction, queries: Queries, room_id: str, head: Head, *, now_ms: int) -> None:
        self._tx = tx
        self._queries = queries
        self.room_id = room_id
        #: Where the room is; what is changed in it is stored. `next_seq` raises its `last_seq`.
        self.head = head
        self.now_ms = now_ms
        self.events: list[Event] = []
        self.event_rows: list[tuple[object, ...]] = []
        self.has_written = False

    async def row(self, name: str, /, **params: Value) -> Row | None:
        return await self._tx.row(self._queries[name], params)

    async def rows(self, name: str, /, **params: Value) -> list[Row]:
        return await self._tx.rows(self._queries[name], params)

    async def run(self, name: str, /, **params: Value) -> int:
        """Run a statement that writes; the number of rows it changed."""
        changed = await self._tx.run(self._queries[name], params)
        # What has changed nothing need not be undone, and with it the whole commit.
        self.has_written = self.has_written or changed != 0
        return changed

    async def standing(self, user_id: str) -> Standing:
        """How a user stands in the room; somebody who is no member has no role."""
        [standing] = await self.standings(user_id)
        return standing

    async def standings(self, *user_ids: str) -> list[Standing]:
        """How several users stand, by one read."""
        keys = [(self.room_id, user_id) for user_id in user_ids]
        found = await read_standings(self._tx, self._queries, keys)
        return [found[key] for key in keys]

    def next_seq(self) -> int:
        """The seq of the next event, which has to be added then."""
        self.head.last_seq += 1
        return self.head.last_seq

    def add_event(
        self, event: RoomChange, *, subject: str | None = None, message_id: str | None = None, kind: str = ""
    ) -> None:
        """Store and publish an event under the seq that it carries.

        `subject` is the user whom it is about, `message_id` the message; the body of a `message_edited` is not kept,
        because a replay makes it from the message. `kind` is what the nodes know it by, where that is not its type.
        """
        assert not isinstance(event, NewMessage | NewDm), "a message is a `Post`"
        kind, body = kind or wire_name(type(event).__name__), encode(event)
        self.has_written = True
        self.events.append(Event(self.room_id, event.seq, kind, body, subject))
        kept = "{}" if kind == "message_edited" else body.decode()
        self.event_rows.append((self.room_id, event.seq, kind, kept, self.now_ms, message_id))


Decide: TypeAlias = Callable[[Scene], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Act:
    """A change of a room. `decide` awaits nothing but the calls of its scene, and may be run again from its start.

    A `Refusal` that it raises undoes all that it has done. An act that adds no event settles as a `duplicate` with the
    room's newest seq.
    """

    room_id: str
    decide: Decide
    settle: Settle = settled_by_writer
    #: Where the room is that no store knows, and which nobody is in: a canary's. Its events are published, not kept.
    head: Head | None = None


async def read_standings(
    tx: Transaction, queries: Queries, keys: list[tuple[str, str]]
) -> dict[tuple[str, str], Standing]:
    """How (room, user) pairs stand."""
    params: Params = {"keys": encode_json(keys).decode()}
    row = await tx.row(queries["journal.standings"], params)
    assert row is not None
    found = dict.fromkeys(keys, NO_STANDING)
    for room_id, user_id, role, muted_until_ms, posted_at_ms, banned_at_ms in parse_json(row[0]):
        found[room_id, user_id] = Standing(role, muted_until_ms, posted_at_ms, banned_at_ms is not None)
    return found


async def play(act: Act, scene: Scene) -> Refusal | None:
    """Run an act; a refusal before it has written anything is its outcome, a later one is raised."""
    try:
        await act.decide(scene)
    except Refusal as refusal:
        if scene.has_written:
            raise
        return refusal
    return None
