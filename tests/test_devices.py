"""The roll of who is there, over several nodes on one Redis: nodes that die, and a Redis that is out or forgets."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest
import redis
import trio

from chatd.asyncio_loop import open_asyncio_loop
from chatd.ids import new_id
from tests.buses import RecordingEars, open_node
from tests.servers import open_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from chatd.bus.redis import RedisBus
    from tests.servers import Redis

#: After so long without a sign of life a node counts as dead.
LIFE_S = 0.6


@pytest.fixture
def server() -> Iterator[Redis]:
    """A Redis of the test's own, which it may stop and kill."""
    with open_redis() as opened:
        yield opened


class Node:
    """A bus, and whom it found to be online or offline."""

    def __init__(self, bus: RedisBus) -> None:
        self.bus = bus
        self.ears = RecordingEars()
        self.gone: list[str] = []
        bus.attach(self.ears)

    @property
    def online(self) -> list[str]:
        return self.ears.online

    def connect(self, *user_ids: str) -> None:
        for user_id in user_ids:
            self.bus.arrived(user_id)
            self.bus.appeared(user_id)

    async def claim(self) -> None:
        self.gone += await self.bus.claim_offline()

    def die(self) -> None:
        """As if it had been killed: it says nothing more."""
        self.bus._beat_all = trio.sleep_forever  # type: ignore[method-assign]
        self.bus._has_outgoing.set = lambda: None  # type: ignore[method-assign]


@asynccontextmanager
async def open_nodes(server: Redis, count: int, *, life_s: float = LIFE_S) -> AsyncIterator[list[Node]]:
    async with open_asyncio_loop(), AsyncExitStack() as stack:
        yield [
            Node(await stack.enter_async_context(open_node(server.url, node=new_id(), timeout_s=0.5, expiry_s=life_s)))
            for _ in range(count)
        ]


async def claim_until(nodes: Sequence[Node], is_so: Callable[[], Any]) -> None:
    """Let all nodes look who is gone until something is so."""
    with trio.fail_after(30):
        while not is_so():
            for node in nodes:
                await node.claim()
            await trio.sleep(0.02)


async def claim_for(nodes: Sequence[Node], seconds: float) -> None:
    with trio.move_on_after(seconds):
        await claim_until(nodes, lambda: False)


def ask(server: Redis, *command: str) -> Any:
    with closing(redis.Redis.from_url(server.url)) as client:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's oversight


async def test_of_a_user_on_several_nodes_the_first_is_told_of_and_the_last(server: Redis) -> None:
    async with open_nodes(server, 3, life_s=30) as nodes:
        one, two, three = nodes
        one.connect("ada")
        await one.ears.wait_until(lambda: one.online)
        two.connect("ada", "bob")
        await two.ears.wait_until(lambda: two.online)
        one.bus.departed("ada")
        await claim_for(nodes, 0.3)
        assert await three.bus.online(["ada", "bob"]) == {"ada": 1, "bob": 1}
        two.bus.departed("ada")
        await claim_until(nodes, lambda: any(node.gone for node in nodes))
        await claim_for(nodes, 0.3)
        assert [user_id for node in nodes for user_id in node.gone] == ["ada"]
        assert [node.online for node in nodes] == [["ada"], ["bob"], []]


async def test_users_of_a_dead_node_are_gone_once_unless_they_are_elsewhere(server: Redis) -> None:
    users = [f"user {number}" for number in range(1300)]
    async with open_nodes(server, 3) as nodes:
        dead, *others = nodes
        dead.connect(*users)
        others[0].connect("user 7", "user 1200")
        await dead.ears.wait_until(lambda: len(dead.online) >= 1298)
        dead.die()
        await claim_until(others, lambda: sum(len(node.gone) for node in others) >= 1298)
        await claim_for(others, 0.3)
        gone = sorted(user_id for node in others for user_id in node.gone)
        assert gone == sorted(set(users) - {"user 7", "user 1200"})
        # All of it is cleaned up.
        assert ask(server, "KEYS", f"test:node:{dead.bus._node}") == []
        assert ask(server, "ZCARD", "test:online") == 2
        assert ask(server, "ZCARD", "test:leaving") == 0


async def test_who_moves_from_a_dead_node_in_time_is_no_news(server: Redis) -> None:
    async with open_nodes(server, 2) as (dead, other):
        dead.connect("ada")
        await dead.ears.wait_until(lambda: dead.online)
        dead.die()
        other.connect("ada")
        await claim_for([other], 3 * LIFE_S)
        assert other.online == other.gone == []


async def test_a_node_that_was_silent_for_long_and_lives_tells_that_its_users_are_back(server: Redis) -> None:
    async with open_nodes(server, 2) as (silent, other):
        silent.connect("ada")
        await silent.ears.wait_until(lambda: silent.online)
        ask(server, "ZADD", "test:nodes", "1", silent.bus._node)
        await claim_until([other], lambda: other.gone)
        assert other.gone == ["ada"]
        # Its next beat shows it that others took it for dead.
        await silent.ears.wait_until(lambda: len(silent.online) == 2)
        assert await other.bus.online(["ada"]) == {"ada": 1}


async def test_a_redis_that_forgets_all_makes_nobody_come_or_go(server: Redis) -> None:
    async with open_nodes(server, 2) as nodes:
        one, two = nodes
        one.connect("ada")
        two.connect("bob")
        await claim_until(nodes, lambda: two.online and one.online)
        ask(server, "FLUSHALL")
        await claim_for(nodes, 2 * LIFE_S)
        assert (one.online, two.online) == (["ada"], ["bob"])
        assert one.gone == two.gone == []
        assert await one.bus.online(["ada", "bob"]) == {"ada": 1, "bob": 1}
        one.bus.departed("ada")
        await claim_until(nodes, lambda: one.gone or two.gone)
        assert one.gone + two.gone == ["ada"]


@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_after_an_outage_of_redis_only_what_changed_is_told(server: Redis, how: str) -> None:
    async with open_nodes(server, 2) as nodes:
        one, two = nodes
        one.connect("ada", "bob", "cyd")
        two.connect("dan", "cyd")
        await claim_until(nodes, lambda: len(one.online) + len(two.online) == 4)
        for node in nodes:
            node.online.clear()
        server.kill() if how == "killed" else server.pause()
        with trio.fail_after(30):
            while not (one.bus.is_out and two.bus.is_out):  # noqa: ASYNC110 - wakes nobody
                await trio.sleep(0.01)
        one.bus.departed("bob")
        one.bus.departed("cyd")
        two.connect("eve")
        # It is told where it is known, and nobody is said to be gone who may be elsewhere.
        assert two.online == ["eve"]
        assert await two.bus.online(["dan", "eve", "ada"]) == {"dan": 1, "eve": 1}
        await claim_for(nodes, 2 * LIFE_S)
        assert one.gone == two.gone == []
        server.start() if how == "killed" else server.resume()
        await claim_until(nodes, lambda: one.gone or two.gone)
        await claim_for(nodes, 2 * LIFE_S)
        assert one.gone + two.gone == ["bob"]
        assert (one.online, two.online) == ([], ["eve", "eve"])
        assert await one.bus.online(["ada", "bob", "cyd", "dan", "eve"]) == {"ada": 1, "cyd": 1, "dan": 1, "eve": 1}


async def test_whose_leaving_was_lost_is_found_later_and_not_at_once(server: Redis) -> None:
    async with open_nodes(server, 1) as [node]:
        node.connect("ada", "bob")
        await node.ears.wait_until(lambda: len(node.online) == 2)
        # Nobody has counted a ghost, and both are to be looked after.
        ask(server, "ZADD", "test:online", "1", "ghost", "1", "ada")
        await node.claim()
        assert node.gone == []
        await claim_until([node], lambda: node.gone)
        assert node.gone == ["ghost"]
        await claim_for([node], LIFE_S)
        assert node.gone == ["ghost"]


async def test_the_roll_is_not_kept_for_ever(server: Redis) -> None:
    async with open_nodes(server, 1) as [node]:
        node.connect("ada", "bob")
        await node.ears.wait_until(lambda: node.online)
        node.bus.departed("bob", grace_s=100)
        await node.bus.online(["bob"])
        keys = ask(server, "KEYS", "*")
        assert len(keys) == 5
        assert all(0 < ask(server, "PTTL", key.decode()) <= 86_400_000 for key in keys)


async def test_a_claim_that_redis_refuses_finds_nobody(server: Redis) -> None:
    async with open_nodes(server, 1) as [node]:
        ask(server, "SET", "test:leaving", "no set")
        await node.claim()
        assert node.gone == []
