"""Starts what is measured: chatd and its peers, each seeded, pinned to the server's core, ready on its port, and gone
when the block is left. `SERVERS` is the table; a new peer is one row and one function.
"""

import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import machine, postgres, processes, redis, seed
from bench.scenarios import CHATD, FLOOR, NODE, ONE_NODE, TRIO_PLAIN, TWO_NODES

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(__file__).with_name("peers")
GENERATOR = Path(__file__).with_name("generator")
CACHE = ROOT / ".cache" / "bench"
NODE_FOLDER = CACHE / "node"
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


@dataclass(frozen=True)
class Place:
    """Where a server runs: an empty folder of its own on a real disk, and who runs on which core."""

    folder: Path
    cores: machine.Cores


@dataclass(frozen=True)
class Server:
    """A server that is ready: the ports and processes of its nodes (most have one) and their log, the first process of
    its database and of its bus if it has them, and what counts the database's statements.
    """

    ports: tuple[int, ...]
    pids: tuple[int, ...]
    log: Path
    database_pid: int | None = None
    bus_pid: int | None = None
    count_statements: Callable[[], int] | None = None
    #: Where its HTTP side listens, if it has one.
    http_port: int = 0
    #: Kills it (SIGKILL), starts it again on the same port, and says at once what it is now and when that was, by the
    #: monotonic clock.
    kill_and_start: Callable[[], tuple["Server", float]] | None = None
    #: Writes what its database holds of rooms into a new file, for `chatd verify`.
    export: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Kind:
    """How a server is called in tables, how it is started, and what it lacks here (None: nothing, else a sentence)."""

    title: str
    open: Callable[[seed.Population, Place], AbstractContextManager[Server]]
    lacks: Callable[[], str | None]


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


# ---- peers on PostgreSQL


@contextlib.contextmanager
def open_peer(
    command: list[str], population: seed.Population, place: Place, *, name: str, env: dict[str, str]
) -> Iterator[Server]:
    """A peer that takes PORT, DATABASE_URL and JWT_SECRET, with a PostgreSQL of its own."""
    script = (PEERS / "schema.sql").read_text() + seed.postgres_script(population)
    port, log = processes.free_port(), place.folder / f"{name}.log"
    with postgres.open_postgres(place.folder, cores=place.cores.database, script=script) as database:
        options = {"PORT": str(port), "DATABASE_URL": database.url, "JWT_SECRET": population.secret, **env}
        with processes.open_process(
            command, cores=place.cores.server, log=log, env=processes.environment(options)
        ) as process:
            processes.wait_until(lambda: processes.answers(port), process, name=name, log=log)
            yield Server((port,), (process.pid,), log, database.pid)


def open_node(population: seed.Population, place: Place) -> AbstractContextManager[Server]:
    """ws and pg: peers/node."""
    command = ["node", str(NODE_FOLDER / "server.js")]
    return open_peer(command, population, place, name="node", env={"NODE_ENV": "production"})


def node_lacks() -> str | None:
    """Installs the peer's packages into .cache/bench/node when they are not there, or are others than locked."""
    if not shutil.which("node") or not shutil.which("npm"):
        return "Node.js with npm is not installed: install it with your system's packages."
    NODE_FOLDER.mkdir(parents=True, exist_ok=True)
    locked, installed = PEERS / "node" / "package-lock.json", NODE_FOLDER / "package-lock.json"
    is_installed = (NODE_FOLDER / ".installed").exists() and installed.read_bytes() == locked.read_bytes()
    for file in ("package.json", "package-lock.json", "server.js"):
        shutil.copy(PEERS / "node" / file, NODE_FOLDER / file)
    if not is_installed:
        command = ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=NODE_FOLDER, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            return f"npm could not install the Node peer's packages: {done.stderr.strip()[-300:]}"
        (NODE_FOLDER / ".installed").touch()
    return postgres.ensure_installed()


def open_trio_plain(population: seed.Population, place: Place) -> AbstractContextManager[Server]:
    """trio-websocket and triopg: peers/trio_plain."""
    command = [sys.executable, str(PEERS / "trio_plain" / "server.py")]
    return open_peer(command, population, place, name="trio_plain", env={})


# ---- the floor


@contextlib.contextmanager
def open_floor(population: seed.Population, place: Place) -> Iterator[Server]:
    """The C program that does nothing but send: peers/floor. It takes anyone, so the population does not matter."""
    del population
    port, log = processes.free_port(), place.folder / "floor.log"
    command = [str(compiled(PEERS / "floor", "floor")), str(port)]
    with processes.open_process(command, cores=place.cores.server, log=log) as process:
        processes.wait_until(lambda: processes.answers(port), process, name="floor", log=log)
        yield Server((port,), (process.pid,), log)


def compiled(folder: Path, name: str) -> Path:
    """The program made from the C files in `folder`, in .cache/bench; made anew if one or a header is newer.

    Raises StartFailed.
    """
    program = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    sources = sorted(folder.glob("*.c"))
    newest = max(path.stat().st_mtime for path in [*sources, *GENERATOR.glob("*.h")])
    if not program.exists() or program.stat().st_mtime < newest:
        made = CACHE / f"{name}.{os.getpid()}"
        command = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(made), *map(str, sources)]
        processes.run_to_end(command, env=processes.environment({}), cwd=folder, timeout_s=120)
        made.replace(program)
    return program


def compiler_lacks() -> str | None:
    return None if shutil.which("cc") else "There is no C compiler: install gcc or clang with your system's packages."


SERVERS = {
    CHATD: Kind("chatd", open_chatd, chatd_lacks),
    ONE_NODE: Kind("chatd, PostgreSQL + Redis", partial(open_nodes, count=1), nodes_lack),
    TWO_NODES: Kind("chatd, two nodes", partial(open_nodes, count=2), nodes_lack),
    NODE: Kind("Node ws + pg", open_node, node_lacks),
    TRIO_PLAIN: Kind("trio-websocket + triopg", open_trio_plain, postgres.ensure_installed),
    FLOOR: Kind("C, only send", open_floor, compiler_lacks),
}
