"""What is opened behind the daemon: nothing of asyncio on the embedded back ends, one loop for PostgreSQL and Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from chatd.assembly import open_chat
from chatd.configfile import load_config
from tests.daemon import NO_FILE, environment
from tests.servers import shared_postgres

if TYPE_CHECKING:
    from chatd.config import Config

CHECKOUT = Path(__file__).parent.parent
NAMES = ("one", "another", "a third")
#: What only several nodes need.
DISTRIBUTED = {"triopg", "asyncpg", "trio_asyncio", "redis"}
#: A whole life of everything behind the sockets; which modules it took, and how many asyncio loops were made.
LIFE = """
import asyncio, json, os, sys
import trio
loops = []
make = asyncio.BaseEventLoop.__init__
def counted(loop):
    loops.append(loop)
    make(loop)
asyncio.BaseEventLoop.__init__ = counted
from chatd.configfile import load_config
from chatd.assembly import open_chat
async def live():
    async with open_chat(load_config(None, os.environ)) as chat:
        await chat.hub.activate(["nowhere"])
trio.run(live)
print(json.dumps([sorted({name.split(".")[0] for name in sys.modules}), len(loops)]))
"""


@pytest.mark.usefixtures("back_ends")
def test_asyncio_is_there_only_where_a_url_asks_for_it(tmp_path: Path, back_ends: str) -> None:
    variables = os.environ | environment(tmp_path / "data") | {"PYTHONPATH": str(CHECKOUT)}
    # Coverage of a subprocess imports what it likes.
    variables = {name: value for name, value in variables.items() if not name.startswith(("COV_", "COVERAGE_"))}
    done = subprocess.run([sys.executable, "-c", LIFE], env=variables, cwd=tmp_path, capture_output=True, check=True)
    modules, loops = json.loads(done.stdout)
    if back_ends == "embedded":
        assert DISTRIBUTED & set(modules) == set()
        assert loops == 0
    else:
        assert set(modules) >= DISTRIBUTED
        assert loops == 1


@pytest.fixture
def shared(tmp_path: Path) -> tuple[Config, ...]:
    """Nodes on one new database."""
    postgres = shared_postgres()
    url = postgres.url(postgres.new_database())
    options = {"DATABASE_URL": url, "DATABASE_MIGRATE": "true", "AUTH_SECRET": "s" * 32}
    return tuple(load_config(NO_FILE, environment(tmp_path / name, limits=False, **options)) for name in NAMES)


async def test_nodes_that_start_one_after_the_other_find_the_same_lobby_and_epoch(
    shared: tuple[Config, ...],
) -> None:
    async with open_chat(shared[0]) as one:
        rooms = await one.rooms.visible("", after="", limit=10, offset=0)
        async with open_chat(shared[1]) as other:
            assert other.epoch == one.epoch
            assert await other.rooms.visible("", after="", limit=10, offset=0) == rooms
    assert [room.name for room in rooms] == ["lobby"]


async def test_nodes_that_start_together_migrate_once_and_make_one_lobby(shared: tuple[Config, ...]) -> None:
    epochs: list[str] = []
    lobbies: list[list[str]] = []
    all_are_open = trio.Event()

    async def live(config: Config) -> None:
        async with open_chat(config) as chat:
            epochs.append(chat.epoch)
            if len(epochs) == len(shared):
                all_are_open.set()
            await all_are_open.wait()
            lobbies.append([room.id for room in await chat.rooms.visible("", after="", limit=10, offset=0)])

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for config in shared:
                nursery.start_soon(live, config)
    assert len(set(epochs)) == 1
    assert [len(found) for found in lobbies] == [1] * len(shared)
    assert len({room_id for [room_id] in lobbies}) == 1
