"""The WebSocket door on a clock that stands still until a test moves it: real sockets, exact times, nothing slept.

The time of day follows the same clock. What takes a thread (the database) takes no time on it; a test waits for such
an answer by reading it.
"""

from __future__ import annotations

import select
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatd.assembly import open_chat
from chatd.chat.accounts import Origin, register
from chatd.configfile import load_config
from chatd.limits.admission import Admission
from chatd.nursery import Door, serve_websockets
from chatd.sockets import bind
from tests.daemon import environment
from tests.rawclient import RawClient, open_raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from chatd.chat.context import Chat
    from chatd.connection import Connection

#: The time of day at which every clock starts.
START_MS = 1_767_225_600_000


@contextmanager
def real_time_limit(seconds: float) -> Iterator[None]:
    """A deadline that passes also where the clock stands still."""
    token = trio.lowlevel.current_trio_token()
    with trio.CancelScope() as scope:
        timer = threading.Timer(seconds, token.run_sync_soon, [scope.cancel])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
    assert not scope.cancelled_caught, f"nothing happened for {seconds} s of real time"


@dataclass
class StoppedDoor:
    """A door with its chat behind it."""

    chat: Chat
    door: Door
    port: int
    clock: MockClock

    async def jump(self, seconds: float) -> None:
        """Let all do what they have to do, move the clock, and let all do what is due then."""
        await wait_all_tasks_blocked()
        self.clock.jump(seconds)
        await wait_all_tasks_blocked()

    async def sign_up(self, username: str = "ada") -> tuple[str, str, str]:
        """A new user: id, session id, access token."""
        grant = await register(
            self.chat, Origin("", ""), email=f"{username}@example.org", username=username, password="correct horse"
        )
        claims = self.chat.tokens.read(grant.token, self.chat.clock())
        return claims.user_id, claims.session_id, grant.token

    @asynccontextmanager
    async def connect(
        self, token: str | None = None, *, receive_buffer: int | None = None
    ) -> AsyncIterator[tuple[RawClient, Connection]]:
        """A client, authenticated with a token if one is given, and its connection in the server."""
        others = set(self.door.connections)
        async with open_raw(self.port, receive_buffer=receive_buffer) as client:
            [connection] = self.door.connections - others
            if token is not None:
                assert (await client.ask(type="authenticate", token=token))["type"] == "authenticated"
            yield client, connection


async def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait for what the kernel brings, in real time; the clock stands still."""
    for _ in range(10_000):
        if is_true():
            return
        await trio.to_thread.run_sync(time.sleep, 0.001)
    raise AssertionError("nothing came for 10 s of real time")


def is_silent(client: RawClient) -> bool:
    """Nothing has come to this client, also not the end of the stream."""
    return not select.select([client.stream.socket.fileno()], [], [], 0)[0]


@asynccontextmanager
async def open_door(data_dir: Path, clock: MockClock, **options: str) -> AsyncIterator[StoppedDoor]:
    """Options by name, as for `open_daemon`; no limits but those."""
    config = load_config(None, environment(data_dir, limits=False, **options))
    with real_time_limit(20):
        async with open_chat(config, clock=lambda: START_MS + round(clock.current_time() * 1000)) as chat:
            [listener] = bind("websocket", "127.0.0.1", 0)
            door = Door(chat, config.websocket, Admission(config.limits, trio.current_time), chat.metrics)
            with listener:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(serve_websockets, [listener], door, draining=trio.Event()))
                    yield StoppedDoor(chat, door, listener.getsockname()[1], clock)
                    nursery.cancel_scope.cancel()
