"""Starts chatd's peers (peers/*/README.md), each with what it needs: a PostgreSQL, packages, a compiled program. Called
through the table in servers.py.
"""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from bench import postgres, processes, seed
from bench.server import CACHE, ROOT, Place, Server, compiled

PEERS = Path(__file__).with_name("peers")


# ---- peers on PostgreSQL


@contextlib.contextmanager
def open_peer(
    command: list[str], population: seed.Population, place: Place, *, name: str, dialect: str = "chatd"
) -> Iterator[Server]:
    """A peer that takes PORT, DATABASE_URL and JWT_SECRET, with a PostgreSQL of its own."""
    script = (PEERS / "schema.sql").read_text() + seed.postgres_script(population)
    port, log = processes.free_port(), place.folder / f"{name}.log"
    with postgres.open_postgres(place.folder, cores=place.cores.database, script=script) as database:
        options = {"PORT": str(port), "DATABASE_URL": database.url, "JWT_SECRET": population.secret}
        options |= {"NODE_ENV": "production", "PYTHONPATH": str(ROOT)}
        with processes.open_process(
            command, cores=place.cores.server, log=log, env=processes.environment(options)
        ) as process:
            processes.wait_until(lambda: processes.answers(port), process, name=name, log=log)
            yield Server((port,), (process.pid,), log, database.pid, dialect=dialect)


def open_node(population: seed.Population, place: Place) -> AbstractContextManager[Server]:
    """ws and pg: peers/node."""
    return open_peer(["node", str(CACHE / "node" / "server.js")], population, place, name="node")


def open_socket_io(population: seed.Population, place: Place) -> AbstractContextManager[Server]:
    """Socket.IO and pg: peers/socketio."""
    command = ["node", str(CACHE / "socketio" / "server.js")]
    return open_peer(command, population, place, name="socketio", dialect="socketio")


def npm_lacks(peer: str) -> str | None:
    """Installs the peer's packages into .cache/bench when they are not there, or are others than locked."""
    if not shutil.which("node") or not shutil.which("npm"):
        return "Node.js with npm is not installed: install it with your system's packages."
    folder = CACHE / peer
    folder.mkdir(parents=True, exist_ok=True)
    locked, installed = PEERS / peer / "package-lock.json", folder / "package-lock.json"
    is_installed = (folder / ".installed").exists() and installed.read_bytes() == locked.read_bytes()
    for file in ("package.json", "package-lock.json", "server.js"):
        shutil.copy(PEERS / peer / file, folder / file)
    if not is_installed:
        command = ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            return f"npm could not install the packages of peers/{peer}: {done.stderr.strip()[-300:]}"
        (folder / ".installed").touch()
    return postgres.ensure_installed()


def open_websockets(population: seed.Population, place: Place) -> AbstractContextManager[Server]:
    """websockets and asyncpg: peers/websockets_plain."""
    return open_python("websockets_plain", population, place)


def open_fastapi(population: seed.Population, place: Place) -> AbstractContextManager[Server]:
    """FastAPI on uvicorn, and asyncpg: peers/fastapi_plain."""
    return open_python("fastapi_plain", population, place)


def open_trio_plain(population: seed.Population, place: Place) -> AbstractContextManager[Server]:
    """trio-websocket and triopg: peers/trio_plain."""
    return open_python("trio_plain", population, place)


def open_python(peer: str, population: seed.Population, place: Place) -> AbstractContextManager[Server]:
    return open_peer([sys.executable, str(PEERS / peer / "server.py")], population, place, name=peer)


# ---- without a database


@contextlib.contextmanager
def open_centrifugo(population: seed.Population, place: Place) -> Iterator[Server]:
    """The program on PATH with its in-memory engine: peers/centrifugo. Options of version 5 and of version 6, each of
    which passes over the other's.
    """
    port, log, config = processes.free_port(), place.folder / "centrifugo.log", place.folder / "centrifugo.json"
    may = {
        "allow_subscribe_for_client": True,
        "allow_publish_for_subscriber": True,
        "history_size": 100,
        "history_ttl": "3600s",
    }
    secret = population.secret
    config.write_text(
        json.dumps(
            {
                "token_hmac_secret_key": secret,
                "address": "127.0.0.1",
                "port": port,
                **may,
                "client": {"token": {"hmac_secret_key": secret}},
                "http_server": {"address": "127.0.0.1", "port": port},
                "channel": {"without_namespace": may},
            }
        )
    )
    command = ["centrifugo", "--config", str(config)]
    with processes.open_process(command, cores=place.cores.server, log=log) as process:
        processes.wait_until(lambda: processes.answers(port), process, name="centrifugo", log=log)
        yield Server((port,), (process.pid,), log, dialect="centrifugo")


def centrifugo_lacks() -> str | None:
    return None if shutil.which("centrifugo") else "centrifugo is not on PATH (bench/peers/centrifugo)."


def tinode_lacks() -> str:
    return (
        "it needs users and topics that its own tool makes; nobody has taught the bench that (bench/peers/centrifugo)."
    )


def open_nothing(population: seed.Population, place: Place) -> AbstractContextManager[Server]:
    """For a peer that is always skipped."""
    raise processes.StartFailed(f"the bench cannot start it for {len(population.users)} people in {place.folder}")


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
