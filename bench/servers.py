"""Starts what is measured: chatd here, its peers in peer_servers.py, each seeded, pinned to the server's core, ready on
its port, and gone when the block is left. `SERVERS` is the table; a new peer is one row and one function.
"""

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import peer_servers, postgres, processes, redis, seed
from bench.scenarios import (
    CENTRIFUGO,
    CHATD,
    FASTAPI,
    FLOOR,
    NODE,
    ONE_NODE,
    SOCKET_IO,
    TINODE,
    TRIO_PLAIN,
    TWO_NODES,
    WEBSOCKETS,
)
from bench.server import ROOT, Kind, compiler_lacks
from bench.server import Place as Place
from bench.server import Server as Server

CHATD_COMMAND = (sys.executable, "-m", "chatd")
EXPORT_S = 600
NO_LIMITS = {
    f"CHATD_LIMITS_{name}": "0"
    for name in (
        "MESSAGES_PER_MINUTE",
        "REQUESTS_PER_MINUTE",
        "CONNECTIONS_PER_ADDRESS",
        "CONNECTIONS_PER_USER",
        "NEW_CONNECTIONS_PER_SECOND",
        "JOINS_PER_HOUR",
        "API_PER_MINUTE",
        "UPLOADS_PER_HOUR",
        "MEMBERS_PER_ROOM",
    )
} | {"CHATD_HTTP_MAX_CONNECTIONS": "0", "CHATD_HTTP_CONNECTIONS_PER_ADDRESS": "0"}
#: So large that nobody reaches it; but nodes count it in Redis, message by message, as those in use do.
COUNTED_LIMITS = {"CHATD_LIMITS_MESSAGES_PER_MINUTE": "1000000000"}


#: Starts a daemon whose ports are these options: its process and its log.
StartOnPorts = Callable[[dict[str, str]], AbstractContextManager[tuple[subprocess.Popen[bytes], Path]]]


# ---- chatd


@contextlib.contextmanager
def open_chatd(population: seed.Population, place: Place) -> Iterator[Server]:
    """The daemon on its embedded database, every limit off."""
    data = place.folder / "data"
    data.mkdir()
    options = {"CHATD_SERVER_DATA_DIR": str(data)}
    migrate_chatd(population, place, options)
    seed.fill_chatd(population, data / "chatd.db")
    with contextlib.ExitStack() as daemons:
        node = daemons.enter_context(open_daemon(population, place, options))
        port, process, log = node.port, node.process, node.log
        export = partial(export_chatd, population, place, options)
        server = Server((port,), (process.pid,), log, http_port=node.http_port, export=export)
        yield restartable(server, process, daemons, lambda ports: start_daemon(population, place, {**options, **ports}))


@contextlib.contextmanager
def open_nodes(population: seed.Population, place: Place, *, count: int) -> Iterator[Server]:
    """So many daemons on one PostgreSQL and one Redis, on the server's core together. No limit is in the way, but
    messages are counted.
    """
    cores = place.cores.database
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres.open_postgres(place.folder, cores=cores, settings=postgres.COUNTING))
        bus = stack.enter_context(redis.open_redis(place.folder, cores=cores))
        options = {
            "CHATD_DATABASE_URL": database.url,
            "CHATD_DATABASE_MIGRATE": "false",
            "CHATD_BUS_URL": bus.url,
            "CHATD_BUS_PREFIX": "bench",
            **COUNTED_LIMITS,
        }
        migrate_chatd(population, place, options)
        postgres.run_script(database, seed.chatd_script(population))
        nodes: list[Daemon] = []
        own = options
        for number in range(1, count + 1):
            data = place.folder / f"node{number}"
            data.mkdir()
            own = {**options, "CHATD_SERVER_DATA_DIR": str(data), "CHATD_SERVER_NODE_NAME": data.name}
            nodes.append(stack.enter_context(open_daemon(population, place, own)))
        counter = stack.enter_context(postgres.open_counter(database, cores=cores))
        export = partial(export_chatd, population, place, options)
        server = Server(
            tuple(node.port for node in nodes),
            tuple(node.process.pid for node in nodes),
            nodes[0].log,
            database.pid,
            bus.pid,
            counter,
            http_port=nodes[0].http_port,
            export=export,
        )
        if count == 1:
            server = restartable(
                server, nodes[0].process, stack, lambda more: start_daemon(population, place, {**own, **more})
            )
        yield server


class Daemon(NamedTuple):
    """A daemon that is ready, on ports of its own. Daemons at one place share their log."""

    port: int
    http_port: int
    process: subprocess.Popen[bytes]
    log: Path


@contextlib.contextmanager
def open_daemon(population: seed.Population, place: Place, options: dict[str, str]) -> Iterator[Daemon]:
    port, http_port = processes.free_port(), processes.free_port()
    ports = {"CHATD_WEBSOCKET_PORT": str(port), "CHATD_HTTP_PORT": str(http_port)}
    with start_daemon(population, place, {**options, **ports}) as (process, log):
        processes.wait_until(lambda: is_ready(http_port), process, name="chatd", log=log)
        yield Daemon(port, http_port, process, log)


@contextlib.contextmanager
def start_daemon(
    population: seed.Population, place: Place, options: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A daemon that has been started, with its log."""
    environment, log = chatd_environment(population, options), place.folder / "chatd.log"
    # away from the checkout, whose chatd.toml may have been changed by whoever tries things there
    with processes.open_process(
        [*CHATD_COMMAND, "serve"], cores=place.cores.server, log=log, env=environment, cwd=place.folder
    ) as process:
        yield process, log


def restartable(
    server: Server, process: subprocess.Popen[bytes], daemons: contextlib.ExitStack, start: StartOnPorts
) -> Server:
    """The server of one daemon, which can be killed and started again; the new one is stopped by `daemons`."""

    def kill_and_start() -> tuple[Server, float]:
        process.kill()
        process.wait()
        ports = {"CHATD_WEBSOCKET_PORT": str(server.ports[0]), "CHATD_HTTP_PORT": str(processes.free_port())}
        began = time.monotonic()
        started, _ = daemons.enter_context(start(ports))
        return replace(server, pids=(started.pid,)), began

    return replace(server, kill_and_start=kill_and_start)


def migrate_chatd(population: seed.Population, place: Place, options: dict[str, str]) -> None:
    environment = chatd_environment(population, options)
    processes.run_to_end([*CHATD_COMMAND, "migrate", "up"], env=environment, cwd=place.folder)


def export_chatd(population: seed.Population, place: Place, options: dict[str, str], path: Path) -> None:
    environment = chatd_environment(population, options)
    command = [*CHATD_COMMAND, "verify", "--export", str(path.absolute())]
    processes.run_to_end(command, env=environment, cwd=place.folder, timeout_s=EXPORT_S)


def chatd_environment(population: seed.Population, options: dict[str, str]) -> dict[str, str]:
    own = {"CHATD_AUTH_SECRET": population.secret, "PYTHONPATH": str(ROOT), **NO_LIMITS, **options}
    return processes.environment(own)


def is_ready(http_port: int) -> bool:
    """Whether GET /readyz says 200."""
    connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def chatd_lacks() -> str | None:
    return None if (ROOT / "chatd" / "__main__.py").exists() else "chatd has no __main__.py yet."


def nodes_lack() -> str | None:
    return chatd_lacks() or postgres.ensure_installed() or redis.ensure_installed()


SERVERS = {
    CHATD: Kind("chatd", open_chatd, chatd_lacks),
    ONE_NODE: Kind("chatd, PostgreSQL + Redis", partial(open_nodes, count=1), nodes_lack),
    TWO_NODES: Kind("chatd, two nodes", partial(open_nodes, count=2), nodes_lack),
    NODE: Kind("Node ws + pg", peer_servers.open_node, partial(peer_servers.npm_lacks, "node")),
    SOCKET_IO: Kind("Node Socket.IO + pg", peer_servers.open_socket_io, partial(peer_servers.npm_lacks, "socketio")),
    WEBSOCKETS: Kind("Python websockets", peer_servers.open_websockets, postgres.ensure_installed),
    FASTAPI: Kind("Python FastAPI", peer_servers.open_fastapi, postgres.ensure_installed),
    TRIO_PLAIN: Kind("trio-websocket + triopg", peer_servers.open_trio_plain, postgres.ensure_installed),
    CENTRIFUGO: Kind("Centrifugo, in memory", peer_servers.open_centrifugo, peer_servers.centrifugo_lacks),
    TINODE: Kind("Tinode", peer_servers.open_nothing, peer_servers.tinode_lacks),
    FLOOR: Kind("C, only send", peer_servers.open_floor, compiler_lacks),
}
