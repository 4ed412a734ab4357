"""What is tortured: one chatd on its embedded database, or several on a PostgreSQL and a Redis of their own.

Clients reach the nodes through `doors`, a proxy in which their connections fail, or directly, or through nginx where
there is one. The first of several nodes reaches Redis through a proxy, too; the others over Redis's unix socket. What
keeps the data stands on a small disk of its own where that can be had.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import trio

from chatd.verify.verification import export
from tests.daemon import CHATD, start_program
from tests.nginx import open_nginx
from tests.proxy import Pieces, open_proxy
from tests.servers import open_postgres, open_redis
from tests.torture.checker import Found, read_database, read_postgres
from tests.torture.clocks import JumpingClock
from tests.torture.disks import open_small_disk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.daemon import Process, Program
    from tests.proxy import Proxy
    from tests.servers import Postgres, Redis
    from tests.torture.disks import Disk

#: Shared by all nodes, so that a token of one is good on the others.
SECRET: Final = "torture" * 8
#: Room for the data, and how much of it PostgreSQL takes for its log at most.
DISK_MIB: Final = 768
LOG_MIB: Final = 128
#: Seconds within which a node that is told to stop has to be gone: its drain, and a little.
STOP_S: Final = 15.0


@dataclass
class Node:
    """One daemon's folder, options and ports; alive for as long as `live` runs, but for the time when it is killed."""

    name: str
    data_dir: Path
    options: dict[str, str]
    program: Program
    clock: JumpingClock
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
            async with start_program(self.program, self.data_dir, limits=False, **options) as daemon:
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

    async def drain(self) -> None:
        """Tell it to stop and wait until it has."""
        self._is_up = trio.Event()
        process = self.daemon.process
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(STOP_S):
            await process.wait()
        if process.returncode != 0:
            self.faults.append(f"{self.name} was told to stop and ended with {process.returncode}")
        if process.returncode is None:
            await self.kill()

    async def start(self) -> None:
        """Start it again and wait until it listens."""
        self._may_start.set()
        await self.wait_up()

    def pause(self) -> None:
        self.daemon.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.daemon.process.send_signal(signal.SIGCONT)


@dataclass
class BackEnds:
    """What several nodes share; `link` is the first one's way to Redis."""

    postgres: Postgres
    database: str
    redis: Redis
    link: Proxy


@dataclass
class Cluster:
    """All that runs. `port` is nginx's, 0 where there is none; `disk` is what keeps the data."""

    nodes: list[Node]
    doors: Proxy
    disk: Disk | None
    back_ends: BackEnds | None = None
    port: int = 0

    @property
    def shared(self) -> BackEnds:
        assert self.back_ends is not None, "one embedded node has no back ends"
        return self.back_ends

    def read_found(self) -> Found:
        """The whole database, past the daemons."""
        if self.back_ends is None:
            return read_database(self.nodes[0].data_dir / "chatd.db")
        return read_postgres(self.back_ends.postgres, self.back_ends.database)

    def read_last_seqs(self) -> dict[str, int]:
        """How far each room has come."""
        if self.back_ends is None:
            return dict(self.nodes[0].daemon.rows("SELECT id, last_seq FROM rooms"))
        rows = self.back_ends.postgres.sql("SELECT id, last_seq FROM rooms", self.back_ends.database)
        return {room_id: int(seq) for room_id, seq in (row.split("|") for row in rows.splitlines())}

    async def keep_data(self, folder: Path) -> None:
        """Leave the database there: the embedded one as it is, else an export."""
        if self.back_ends is None:
            shutil.copytree(self.nodes[0].data_dir, folder / "data")
        else:
            url = self.back_ends.postgres.url(self.back_ends.database)
            await export(url, folder / "database.ndjson", data_path=folder)

    def pids_of_disk(self) -> list[int]:
        """The processes that write to the disk."""
        if self.back_ends is None:
            return [self.nodes[0].daemon.process.pid]
        return self.back_ends.postgres.pids()


@asynccontextmanager
async def open_cluster(
    folder: Path, count: int, *, has_nginx: bool = True, program: Program = CHATD, **options: str
) -> AsyncIterator[Cluster]:
    """So many nodes, all of them listening; several start together on an empty database."""
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(open_small_disk(DISK_MIB)) if os.geteuid() == 0 else None
        shared = {
            "AUTH_SECRET": SECRET,
            "AUTH_ACCESS_MINUTES": "1440",
            # So that who reads nothing for a while comes to the bound.
            "WEBSOCKET_OUTBOX_BYTES": "262144",
            **options,
        }
        back_ends, urls = None, [""]
        if count > 1:
            back_ends = await open_back_ends(stack, disk)
            shared |= {
                "DATABASE_URL": back_ends.postgres.url(back_ends.database),
                "DATABASE_MIGRATE": "true",
            }
            urls = [f"redis://127.0.0.1:{back_ends.link.port}", *[back_ends.redis.url] * (count - 1)]
        nodes = []
        for number, url in enumerate(urls):
            name = f"node{number}"
            home = folder if disk is None or count > 1 else disk.folder
            of_node = {"BUS_URL": url, "SERVER_NODE_NAME": f"n{number}"} if url else {}
            clock = JumpingClock(folder, name)
            of_clock = replace(program, variables={**program.variables, **clock.variables})
            nodes.append(Node(name, home / name, shared | of_node, of_clock, clock))
        nursery = await stack.enter_async_context(trio.open_nursery())
        for node in nodes:
            nursery.start_soon(node.live)
        for node in nodes:
            await node.wait_up()
        port = 0
        if count > 1 and has_nginx:
            log = stack.enter_context((folder / "nginx.log").open("wb"))
            nginx = await stack.enter_async_context(open_nginx([node.daemon for node in nodes], stderr=log.fileno()))
            port = nginx.websocket_port
        doors = await stack.enter_async_context(open_proxy(partial(_enter, cycle(nodes)), cutter=Pieces))
        yield Cluster(nodes, doors, disk, back_ends, port)
        nursery.cancel_scope.cancel()


async def open_back_ends(stack: AsyncExitStack, disk: Disk | None) -> BackEnds:
    """A durable PostgreSQL on the disk, and a Redis."""
    options = [f"max_wal_size={LOG_MIB}MB"] if disk is not None else []
    postgres = stack.enter_context(open_postgres(options=options, parent=None if disk is None else disk.folder))
    redis = stack.enter_context(open_redis())
    link = await stack.enter_async_context(open_proxy(partial(trio.open_unix_socket, str(redis.path))))
    return BackEnds(postgres, postgres.new_database(), redis, link)


async def _enter(turns: Iterator[Node]) -> trio.abc.Stream:
    """A connection to each node in turn; what is refused is tried again by its client."""
    return await trio.open_tcp_stream("127.0.0.1", next(turns).ports[0])
