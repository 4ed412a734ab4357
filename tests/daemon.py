"""A whole chatd for end-to-end tests: in this process on real sockets, or as a process of its own.

`open_daemon` runs `server.serve` inside of the test, so that coverage sees it and a defect fails the test;
`start_process` runs `python -m chatd serve`, for tests that kill it. Both use free ports and a folder of the test's.
A module with `pytestmark = ON_BOTH_BACK_ENDS` runs its tests twice: embedded, and on PostgreSQL with Redis.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from chatd.configfile import load_config
from chatd.server import serve
from tests.servers import shared_postgres, shared_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

#: Hashing that is quick, and for tests that are about something else no limits in the way.
QUICK = {"CHATD_AUTH_BCRYPT_COST": "4"}
#: No chatd.toml, also where there is one in the working directory.
NO_FILE = Path(os.devnull)
NO_LIMITS = {
    f"CHATD_LIMITS_{name}": "0"
    for name in (
        "MESSAGES_PER_MINUTE", "REQUESTS_PER_MINUTE", "REFUSALS_PER_MINUTE", "ROOMS_PER_HOUR", "JOINS_PER_HOUR",
        "CONVERSATIONS_PER_HOUR",
        "RENAMES_PER_HOUR", "SIGN_INS_PER_HOUR", "API_PER_MINUTE", "CONNECTIONS_PER_ADDRESS", "CONNECTIONS_PER_USER",
        "NEW_CONNECTIONS_PER_SECOND",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """An HTTP answer: header names in lower case, `body` as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class SignedIn:
    """A user with what a sign-in gave."""

    id: str
    username: str
    token: str
    refresh_token: str


@dataclass
class Client:
    """A WebSocket client of the test: JSON out, JSON in, waiting with a deadline. `inbox` is what was passed over."""

    connection: WebSocketConnection
    inbox: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, **message: Any) -> None:
        await self.connection.send_message(json.dumps(message))

    async def send_text(self, text: str) -> None:
        await self.connection.send_message(text)

    async def receive(self, *, within_s: float = 30) -> dict[str, Any]:
        """The next message. Raises trio.TooSlowError, or ConnectionClosed whose `reason` has the close code."""
        with trio.fail_after(within_s):
            message: dict[str, Any] = json.loads(await self.connection.get_message())
            return message

    async def wait_for(self, kind: str, *, within_s: float = 30) -> dict[str, Any]:
        """The next message of a type; others go into `inbox`."""
        with trio.fail_after(within_s):
            while True:
                message = await self.receive(within_s=within_s)
                if message["type"] == kind:
                    return message
                self.inbox.append(message)

    async def heard(self, kind: str) -> dict[str, Any]:
        """A message of a type that was passed over, or else the next one."""
        for index, message in enumerate(self.inbox):
            if message["type"] == kind:
                return self.inbox.pop(index)
        return await self.wait_for(kind)

    async def ask(self, **message: Any) -> dict[str, Any]:
        """Send a request with an `id` and return the reply that carries it; others go into `inbox`."""
        request_id = message.setdefault("id", os.urandom(8).hex())
        await self.send(**message)
        while True:
            reply = await self.receive()
            if reply.get("id") == request_id:
                return reply
            self.inbox.append(reply)

    async def wait_closed(self, *, within_s: float = 30) -> tuple[int, str]:
        """Read until the server has closed: the close code and reason. What came before goes into `inbox`."""
        with trio.fail_after(within_s):
            while True:
                try:
                    self.inbox.append(json.loads(await self.connection.get_message()))
                except ConnectionClosed as closed:
                    reason = closed.reason
                    return (1006, "") if reason is None else (reason.code, reason.reason or "")


@dataclass
class Daemon:
    """Where a daemon listens, and short ways to use it."""

    websocket_port: int
    http_port: int
    data_dir: Path
    #: Set to begin the drain of a daemon in this process.
    stop: trio.Event = field(default_factory=trio.Event, kw_only=True)

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.websocket_port}/"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask or change the database behind the daemon's back; columns need names that differ."""
        if _DISTRIBUTED.is_on:
            return _DISTRIBUTED.rows(self.data_dir, statement)
        with closing(sqlite3.connect(self.data_dir / "chatd.db", isolation_level=None, timeout=5)) as database:
            return database.execute(statement).fetchall()

    async def http(
        self, method: str, path: str, body: object = None, *, token: str | None = None, headers: Mapping[str, str] = {}
    ) -> Answer:
        """One HTTP request on a connection of its own."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"Host": f"127.0.0.1:{self.http_port}", "Connection": "close"}
        if body is not None:
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        lines |= headers
        if token is not None:
            lines["Authorization"] = f"Bearer {token}"
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        with trio.fail_after(30):
            stream = await trio.open_tcp_stream("127.0.0.1", self.http_port)
            async with stream:
                await stream.send_all(head.encode() + b"\r\n" + data)
                received = b"".join([part async for part in stream])
        top, _, answer_body = received.partition(b"\r\n\r\n")
        status_line, *header_lines = top.decode("latin-1").split("\r\n")
        found = dict(line.split(": ", 1) for line in header_lines)
        return Answer(int(status_line.split(" ")[1]), {k.lower(): v for k, v in found.items()}, answer_body)

    async def register(self, username: str, password: str = "correct horse") -> SignedIn:
        body = {"email": f"{username}@example.org", "username": username, "password": password}
        answer = await self.http("POST", "/api/auth/register", body)
        assert answer.status == 201, answer.body
        granted = answer.json()
        return SignedIn(granted["user"]["id"], username, granted["token"], granted["refreshToken"])

    async def lobby(self, user: SignedIn) -> str:
        """The id of the lobby room."""
        rooms = (await self.http("GET", "/api/rooms", token=user.token)).json()["rooms"]
        return str(next(room["id"] for room in rooms if room["name"] == "lobby"))

    async def create_room(self, owner: SignedIn, name: str = "room", **fields: Any) -> str:
        answer = await self.http("POST", "/api/rooms", {"name": name, **fields}, token=owner.token)
        assert answer.status == 201, answer.body
        return str(answer.json()["id"])

    @asynccontextmanager
    async def connect(self, user: SignedIn | None = None, *, headers: Mapping[str, str] = {}) -> AsyncIterator[Client]:
        """A WebSocket client, authenticated as `user` if one is given (its `authenticated` is in `inbox`)."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.websocket_port)
        async with stream, trio.open_nursery() as nursery:
            connection = await wrap_client_stream(
                nursery, stream, f"127.0.0.1:{self.websocket_port}", "/",
                extra_headers=[(k.encode(), v.encode()) for k, v in headers.items()],
                max_message_size=16 * 1024 * 1024, message_queue_size=10_000,
            )  # fmt: skip
            client = Client(connection)
            if user is not None:
                await client.send(type="authenticate", token=user.token)
                client.inbox.append(await client.wait_for("authenticated"))
            try:
                yield client
            finally:
                with trio.move_on_after(2, shield=True):
                    await connection.aclose()
                nursery.cancel_scope.cancel()


ON_BOTH_BACK_ENDS = pytest.mark.usefixtures("back_ends")
#: For a test in such a module which reaches into the embedded database's file.
ON_EMBEDDED = pytest.mark.parametrize("back_ends", ["embedded"], indirect=True)


@dataclass
class Distributed:
    """The databases that daemons of a test run stand on, one for each data folder, so that a restart finds its own."""

    is_on: bool = False
    _databases: dict[Path, str] = field(default_factory=dict)

    def options(self, data_dir: Path) -> dict[str, str]:
        """CHATD_… variables for a daemon of this folder."""
        if not self.is_on:
            return {}
        if data_dir not in self._databases:
            self._databases[data_dir] = shared_postgres().new_database()
        name = self._databases[data_dir]
        return {
            "CHATD_DATABASE_URL": shared_postgres().url(name),
            "CHATD_DATABASE_MIGRATE": "true",
            "CHATD_BUS_URL": shared_redis().url,
            "CHATD_BUS_PREFIX": name,
            "CHATD_AUTH_SECRET": "a secret that all nodes of this test know",
        }

    def rows(self, data_dir: Path, statement: str) -> list[tuple[Any, ...]]:
        """What `Daemon.rows` says, of PostgreSQL."""
        postgres, name = shared_postgres(), self._databases[data_dir]
        if not statement.lstrip().upper().startswith("SELECT"):
            postgres.sql(statement, name)
            return []
        found = postgres.sql(f"SELECT row_to_json(found) FROM ({statement}) AS found", name)
        return [tuple(json.loads(line).values()) for line in found.splitlines()]


_DISTRIBUTED = Distributed()


@pytest.fixture(params=["embedded", "distributed"])
def back_ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the daemons of this test stand on."""
    kind: str = request.param
    monkeypatch.setattr(_DISTRIBUTED, "is_on", kind == "distributed")
    return kind


def environment(data_dir: Path, *, limits: bool = False, **options: str) -> dict[str, str]:
    """CHATD_… variables for a test: free ports, quick hashing, and no limits unless asked for."""
    ports = {"CHATD_WEBSOCKET_PORT": "0", "CHATD_HTTP_PORT": "0", "CHATD_SERVER_DATA_DIR": str(data_dir)}
    given = {f"CHATD_{name}": value for name, value in options.items()}
    return ports | QUICK | ({} if limits else NO_LIMITS) | _DISTRIBUTED.options(data_dir) | given


@asynccontextmanager
async def open_daemon(data_dir: Path, *, limits: bool = False, **options: str) -> AsyncIterator[Daemon]:
    """A daemon in this process, drained at the end. Options by name: `LIMITS_MESSAGES_PER_MINUTE="5"`."""
    config = load_config(NO_FILE, environment(data_dir, limits=limits, **options))
    stop, is_listening, ports = trio.Event(), trio.Event(), [0, 0]

    def on_listening(websocket_port: int, http_port: int) -> None:
        ports[:] = websocket_port, http_port
        is_listening.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, config, on_listening, stop=stop))
        with trio.fail_after(30):
            await is_listening.wait()
        try:
            yield Daemon(ports[0], ports[1], data_dir, stop=stop)
        finally:
            stop.set()


@dataclass(frozen=True)
class Program:
    """What Python is to run as a daemon, and what it finds in its environment beside CHATD_… ."""

    arguments: tuple[str, ...] = ("-m", "chatd")
    variables: Mapping[str, str] = field(default_factory=dict)
    config: Path = NO_FILE


CHATD = Program()


@dataclass
class Process(Daemon):
    """A daemon of its own process; `log` is what it wrote so far, a dict a line."""

    process: trio.Process
    log: list[dict[str, Any]]
    #: The same as it came.
    raw_log: bytearray = field(default_factory=bytearray, kw_only=True)

    async def wait_for_log(self, event: str, *, within_s: float = 30) -> dict[str, Any]:
        with trio.fail_after(within_s):
            while True:
                for line in self.log:
                    if line.get("event") == event:
                        return line
                await trio.sleep(0.01)


def start_process(data_dir: Path, *, limits: bool = False, **options: str) -> AbstractAsyncContextManager[Process]:
    """A daemon as a process, killed at the end if it still runs."""
    return start_program(CHATD, data_dir, limits=limits, **options)


@asynccontextmanager
async def start_program(
    program: Program, data_dir: Path, *, limits: bool = False, **options: str
) -> AsyncIterator[Process]:
    """The same of a program that is not quite chatd's own."""
    variables = os.environ | program.variables | environment(data_dir, limits=limits, **options)
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            [sys.executable, *program.arguments, "serve", "--config", str(program.config)], env=variables, stderr=PIPE
        )
        daemon = Process(0, 0, data_dir, process, [])
        nursery.start_soon(_read_log, daemon)
        try:
            listening = await daemon.wait_for_log("listening", within_s=30)
            daemon.websocket_port, daemon.http_port = listening["websocket"], listening["http"]
            yield daemon
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


async def _read_log(daemon: Process) -> None:
    assert daemon.process.stderr is not None
    rest = b""
    async for part in daemon.process.stderr:
        daemon.raw_log += part
        *lines, rest = (rest + part).split(b"\n")
        daemon.log.extend(json.loads(line) for line in lines if line.startswith(b"{"))
