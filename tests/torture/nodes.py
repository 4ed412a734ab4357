"""Several chatd processes on one PostgreSQL and one Redis of their own, behind nginx, to be killed and started again.

The first node reaches Redis through a proxy, which is where links fail; the others over Redis's unix socket.
"""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from tests.daemon import start_process
from tests.nginx import open_nginx
from tests.proxy import open_proxy
from tests.servers import open_postgres, open_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import Process
    from tests.proxy import Proxy
    from tests.servers import Postgres, Redis

#: Shared by all nodes, so that a token of one is good on the others.
SECRET = "torture" * 8


@dataclass
class Node:
    """One daemon's folder, options and ports; alive for as long as `live` runs, but for the time when it is killed."""

    name: str
    data_dir: Path
    options: dict[str, str]
    ports: tuple[int, int] = (0, 0)
    log: list[dict[str, Any]] = field(default_factory=list)
    raw_log: bytearray = field(default_factory=bytearray)
    faults: list[str] = field(default_factory=list)
    _daemon: Process | None = None
    _is_up: trio.Event = field(default_factory=trio.Event)
    _may_start: trio.Event = field(default_factory=trio.Event)

    @property
    def daemon(self) -> Process:
        assert self._daemon is not None, f"{self.name} does not run"
        return self._daemon

    @property
    def is_up(self) -> bool:
        return self._is_up.is_set()

    async def wait_up(self) -> None:
        await self._is_up.wait()

    async def live(self) -> None:
        """Run the daemon, on the same ports from the second time on; start it again whenever `start` is called."""
        while True:
            options = self.options | {"WEBSOCKET_PORT": str(self.ports[0]), "HTTP_PORT": str(self.ports[1])}
            async with start_process(self.data_dir, limits=False, **options) as daemon:
                self.ports = (daemon.websocket_port, daemon.http_port)
                self._daemon = daemon
                self._may_start = trio.Event()
                self._is_up.set()
                try:
                    status = await daemon.process.wait()
                finally:
                    self.log += daemon.log
                    self.raw_log += daemon.raw_log
            if self.is_up:
                self.faults.append(f"{self.name} ended by itself with {status}: {daemon.log[-1:]}")
            self._is_up = trio.Event()
            await self._may_start.wait()

    async def kill(self) -> None:
        self._is_up = trio.Event()
        self.daemon.process.kill()
        await self.daemon.process.wait()

    async def start(self) -> None:
        """Start it again and wait until it listens."""
        self._may_start.set()
        await self.wait_up()

    def pause(self) -> None:
        self.daemon.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.daemon.process.send_signal(signal.SIGCONT)


@dataclass
class Cluster:
    """All that runs. `port` is nginx's, 0 where there is none."""

    postgres: Postgres
    database: str
    redis: Redis
    proxy: Proxy
    nodes: list[Node]
    port: int = 0


@asynccontextmanager
async def open_cluster(folder: Path, count: int, *, has_nginx: bool = True, **options: str) -> AsyncIterator[Cluster]:
    """So many nodes, all of them listening; they start together on an empty database."""
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(open_postgres())
        redis = stack.enter_context(open_redis())
        proxy = await stack.enter_async_context(open_proxy(partial(trio.open_unix_socket, str(redis.path))))
        database = postgres.new_database()
        shared = {
            "DATABASE_URL": postgres.url(database),
            "DATABASE_MIGRATE": "true",
            "AUTH_SECRET": SECRET,
            "AUTH_ACCESS_MINUTES": "1440",
            **options,
        }
        bus_urls = [f"redis://127.0.0.1:{proxy.port}", *[redis.url] * (count - 1)]
        nodes = [
            Node(f"node{number}", folder / f"node{number}", shared | {"BUS_URL": url, "SERVER_NODE_NAME": f"n{number}"})
            for number, url in enumerate(bus_urls)
        ]
        nursery = await stack.enter_async_context(trio.open_nursery())
        for node in nodes:
            nursery.start_soon(node.live)
        for node in nodes:
            await node.wait_up()
        cluster = Cluster(postgres, database, redis, proxy, nodes)
        if has_nginx:
            log = stack.enter_context((folder / "nginx.log").open("wb"))
            nginx = await stack.enter_async_context(open_nginx([node.daemon for node in nodes], stderr=log.fileno()))
            cluster.port = nginx.websocket_port
        yield cluster
        nursery.cancel_scope.cancel()
