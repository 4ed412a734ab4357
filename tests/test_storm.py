"""A crowd that comes back at once: let in little by little, told when to try again, at a cost that grows with rooms."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.assembly import GATHER_S
from tests.counting import CountedDatabase, count_queries
from tests.daemon import ON_BOTH_BACK_ENDS, ON_EMBEDDED, open_daemon
from tests.rawclient import message, open_raw
from tests.stopped import open_door, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from chatd.connection import Connection
    from chatd.store.database import Params, Row
    from chatd.store.queries import Query
    from tests.daemon import Daemon, SignedIn
    from tests.rawclient import RawClient

pytestmark = ON_BOTH_BACK_ENDS

ROOMS = 20
MEMBERS = 10


async def make_people(daemon: Daemon) -> list[tuple[SignedIn, str]]:
    """Users in rooms of ten, each with the room."""
    people = []
    for number in range(ROOMS):
        members = [await daemon.register(f"user{number}x{member}") for member in range(MEMBERS)]
        room_id = await daemon.create_room(members[0], members=[user.id for user in members[1:]])
        people += [(user, room_id) for user in members]
    return people


async def test_queries_of_a_storm_grow_with_rooms_and_not_with_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    count_queries(monkeypatch, asked)
    async with open_daemon(tmp_path) as daemon:
        people = await make_people(daemon)
        async with daemon.connect(people[0][0]) as client:
            epoch = client.inbox[0]["epoch"]
        for room_id in dict.fromkeys(room_id for _, room_id in people):
            for _ in range(3):
                path = f"/api/rooms/{room_id}/messages"
                writer = next(user for user, its_room in people if its_room == room_id)
                assert (await daemon.http("POST", path, {"content": "missed"}, token=writer.token)).status == 201
    async with open_daemon(tmp_path) as daemon:
        asked.clear()
        heard: list[list[int]] = []

        async def come_back(user: SignedIn, room_id: str) -> None:
            async with open_raw(daemon.websocket_port) as client:
                resume = {"epoch": epoch, "rooms": {room_id: 0}}
                await client.send(message(type="authenticate", token=user.token, resume=resume))
                told: list[Any] = []
                while not told or told[-1]["type"] != "caught_up":
                    told.append(await client.receive_json())
                heard.append([each["message"]["seq"] for each in told if each["type"] == "new_message"])

        async with trio.open_nursery() as nursery:
            for user, room_id in people:
                nursery.start_soon(come_back, user, room_id)
        assert heard == [[1, 2, 3]] * (ROOMS * MEMBERS)
        # Positions, messages and other events of a room, each at most once; the crowd's memberships in a few reads.
        per_room = {name: count for name, count in asked.items() if name.split(".")[0] in {"rooms", "messages"}}
        assert sum(asked.values()) <= 3 * ROOMS, per_room
        assert asked["messages.of_stretches"] <= ROOMS
        assert asked["accounts.standings"] <= ROOMS


# The clock stands still: that of the event loop under PostgreSQL's adapter does not.
@ON_EMBEDDED
async def test_those_who_authenticate_one_soon_after_the_other_share_one_read(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    count_queries(monkeypatch, asked)
    rows, may_answer = CountedDatabase.rows, trio.Event()

    async def answer_late(self: CountedDatabase, query: Query, params: Params) -> list[Row]:
        found = await rows(self, query, params)
        await may_answer.wait()
        return found

    async with AsyncExitStack() as stack:
        door = await stack.enter_async_context(open_door(tmp_path, mock_clock))
        _, _, token = await door.sign_up()
        pairs = [await stack.enter_async_context(door.connect()) for _ in range(10)]
        clients = [client for client, _ in pairs]
        asked.clear()
        monkeypatch.setattr(CountedDatabase, "rows", answer_late)

        async def authenticate(client: RawClient, connection: Connection) -> None:
            bytes_read = connection.bytes_read
            await client.send(message(type="authenticate", token=token))
            await wait_until(lambda: connection.bytes_read > bytes_read)
            await wait_all_tasks_blocked()

        await authenticate(*pairs[0])
        await authenticate(*pairs[1])
        may_answer.set()
        assert (await clients[0].receive_json())["type"] == "authenticated"
        for pair in pairs[2:]:
            await authenticate(*pair)
        assert asked["accounts.standings"] == asked["rooms.of_users"] == 1
        await door.jump(GATHER_S)
        for client in clients[1:]:
            assert (await client.receive_json())["type"] == "authenticated"
        assert asked["accounts.standings"] == asked["rooms.of_users"] == 2
