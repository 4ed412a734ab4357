"""The fake history and the real stores, by one suite: what the hub may rely on when it reads."""

from __future__ import annotations

from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import pytest

from chatd.store.entries import Post
from chatd.store.messages import Stretch
from chatd.store.queries import Query
from tests.histories import History, ListedHistory
from tests.stores import KINDS, Store, join, leave, open_store, post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from chatd.bus.port import Event
    from chatd.store.database import Params
    from chatd.store.entries import Entry

ADD_GUEST = Query(
    "test.add_guest",
    "INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq) "
    "VALUES (:room_id, :user_id, 'member', 0, 0) ON CONFLICT DO NOTHING",
)
REMOVE_GUEST = Query("test.remove_guest", "DELETE FROM room_members WHERE room_id = :room_id AND user_id = :user_id")


class StoredHistory:
    """`History` through the journal and the typed calls of a real store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add_room(self, name: str) -> str:
        return await self._store.add_room(name=name)

    async def append(self, room_id: str, kind: str = "new_message", subject: str | None = None) -> Event:
        """Store an event; whoever leaves has to have joined before."""
        user = await self._store.accounts.by_username(subject or "ada")
        user = user or await self._store.add_user(subject or "ada")
        match kind:
            case "user_joined":
                entry: Entry = join(user, room_id)
            case "user_left":
                entry = leave(user, room_id)
            case _:
                entry = post(user, room_id)
        as_member = self._as_member(user.id, room_id) if isinstance(entry, Post) else nullcontext()
        async with as_member, self._store.open_journal() as written:
            await written.journal.write(entry)
        return written.published[0]

    @asynccontextmanager
    async def _as_member(self, user_id: str, room_id: str) -> AsyncIterator[None]:
        """Somebody who is no member may send meanwhile, without an event that says so."""
        params: Params = {"room_id": room_id, "user_id": user_id}
        added = await self._store.database.transaction(lambda tx: tx.run(ADD_GUEST, params))
        yield
        if added:
            await self._store.database.transaction(lambda tx: tx.run(REMOVE_GUEST, params))

    async def events_after(self, room_id: str, seq: int, limit: int) -> list[Event]:
        return await self._store.messages.events_after(room_id, seq, limit)

    async def events_of(self, stretches: Sequence[Stretch]) -> Mapping[Stretch, list[Event]]:
        return await self._store.messages.events_of(stretches)

    async def last_seqs(self, room_ids: Sequence[str]) -> Mapping[str, int]:
        return await self._store.rooms.last_seqs(room_ids)


@pytest.fixture(params=["listed", *KINDS])
async def history(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[History]:
    """The fake, and each real one."""
    if request.param == "listed":
        yield ListedHistory()
        return
    async with open_store(request.param, tmp_path) as store:
        yield StoredHistory(store)


async def test_events_are_numbered_by_room_and_read_back_as_they_were(history: History) -> None:
    first, second = await history.add_room("first"), await history.add_room("second")
    events = [await history.append(first) for _ in range(3)]
    others = [await history.append(second)]
    assert [event.seq for event in (*events, *others)] == [1, 2, 3, 1]
    for after in range(4):
        for limit in (1, 2, 9):
            assert await history.events_after(first, after, limit) == events[after : after + limit]
    assert await history.events_after(second, 0, 9) == others
    assert await history.events_after(first, 99, 9) == []


async def test_an_event_names_whom_it_is_about(history: History) -> None:
    room_id = await history.add_room("room")
    joined = await history.append(room_id, "user_joined", "bob")
    assert (joined.kind, joined.seq) == ("user_joined", 1)
    left = await history.append(room_id, "user_left", "bob")
    assert (left.kind, left.subject) == ("user_left", joined.subject)
    assert left.subject is not None
    said = await history.append(room_id, "new_message", "eve")
    assert said.subject not in (None, left.subject)
    assert await history.events_after(room_id, 0, 3) == [joined, left, said]


async def test_positions_are_told_of_rooms_that_exist(history: History) -> None:
    first, second = await history.add_room("first"), await history.add_room("second")
    await history.append(second)
    assert await history.last_seqs([second, first, "unknown"]) == {first: 0, second: 1}
    assert await history.last_seqs([]) == {}
    assert await history.events_after("unknown", 0, 9) == []


async def test_stretches_of_many_rooms_are_read_together_each_for_itself(history: History) -> None:
    first, second = await history.add_room("first"), await history.add_room("second")
    kinds = ["new_message", "user_joined", "new_message", "user_left", "new_message"]
    events = [await history.append(first, kind, "bob" if kind.startswith("user") else None) for kind in kinds]
    others = [await history.append(second)]
    wanted = {
        Stretch(first, 0, 5): events,
        # The same in part, also with the same beginning, and what is not there yet.
        Stretch(first, 0, 2): events[:2],
        Stretch(first, 1, 4): events[1:4],
        Stretch(first, 4, 9): events[4:],
        Stretch(second, 0, 1): others,
        Stretch(second, 1, 9): [],
        Stretch("unknown", 0, 9): [],
    }
    assert await history.events_of(list(wanted)) == wanted
    assert await history.events_of([]) == {}
