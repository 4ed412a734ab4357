"""One connection to Redis: commands out, replies in, and every failure as one sentence. The door to redis-py.

Everything async in here is asyncio's, on the loop of `asyncio_loop`. Of redis-py it is the connection alone that is
used: URL, TLS, authentication, packing and parsing. Its client and its PubSub cost three times as much a message (a
timeout, a lock and a dictionary for each), and its retries and resubscriptions would hide from `redis` what was lost.
`redis` decides when to connect, what to send and what a loss means.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import AuthenticationError, InvalidResponse, NoScriptError, RedisError, ResponseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from redis.asyncio.connection import AbstractConnection

#: So often is it looked within `timeout_s` whether Redis has said something.
CHECKS: Final = 4

#: One command with its arguments.
Arguments: TypeAlias = tuple[str | bytes | int | float, ...]


class Refused(NamedTuple):
    """What Redis says in the place of a reply when it does not do as it is told; `detail` in its own words."""

    detail: str
    is_unknown_script: bool = False


#: Bytes, an integer, a list of them, nothing, or a refusal.
Reply: TypeAlias = Any


class LinkLost(Exception):
    """The connection is gone, or of no use; `str()` is a sentence that says why and holds no secret."""


class Link:
    """An open connection. Made by `open_link`. One task may send while another reads."""

    def __init__(self, connection: AbstractConnection, *, timeout_s: float, place: str) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._place = place
        self._writer: asyncio.StreamWriter | None = None
        #: For `watch_links`: Redis has something to say; it has said something since this was taken back.
        self.is_owed = False
        self.has_heard = False

    async def _connect(self) -> None:
        try:
            with self._translated():
                async with asyncio.timeout(self._timeout_s):
                    await self._connection.connect()  # type: ignore[no-untyped-call]  # redis-py's oversight
        finally:
            self._writer = self._connection._writer

    async def exchange(self, commands: Sequence[Arguments]) -> list[Reply]:
        """Send these commands at once and read a reply for each. Raises `LinkLost`, also after `timeout_s`."""
        with self._translated():
            async with asyncio.timeout(self._timeout_s):
                await self._send(commands)
                return [await self._read() for _ in commands]

    async def talk(self, commands: Sequence[Arguments]) -> list[Reply]:
        """`exchange` without a limit, which costs a sixth of it: `watch_links` has one."""
        with self._translated():
            self.is_owed = True
            await self._send(commands)
            replies = [await self._read() for _ in commands]
            self.is_owed = False
            return replies

    async def send(self, commands: Sequence[Arguments]) -> None:
        """Send commands whose replies another task reads. Raises `LinkLost`."""
        with self._translated():
            self.is_owed = True
            await self._send(commands)

    async def read(self) -> Reply:
        """The next reply or message, however long it takes. Raises `LinkLost`."""
        with self._translated():
            return await self._read()

    async def _send(self, commands: Sequence[Arguments]) -> None:
        packed = self._connection.pack_commands(commands)
        await self._connection.send_packed_command(packed, check_health=False)

    async def _read(self) -> Reply:
        try:
            reply = await self._connection.read_response(timeout=math.inf)
        except ResponseError as error:
            reply = Refused(str(error), isinstance(error, NoScriptError))
        self.has_heard = True
        return reply

    async def _close(self) -> None:
        """Close at once. What the kernel did not take is thrown away: a stopped server would never take it."""
        # redis-py closes politely only, and forgets the writer when it closes by itself
        if self._writer is not None:
            self._writer.transport.abort()
        await self._connection.disconnect(nowait=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, OSError, EOFError) as error:
            raise LinkLost(_sentence(error, self._place)) from error


@asynccontextmanager
async def open_link(url: str, *, timeout_s: float) -> AsyncIterator[Link]:
    """A connection, authenticated as the URL says; closed at once at the end of the block. Raises `LinkLost`."""
    try:
        options: dict[str, Any] = {**parse_url(url)}
        kind = options.pop("connection_class", Connection)
        options |= {"socket_timeout": None, "socket_connect_timeout": timeout_s, "health_check_interval": 0}
        # RESP2: its messages are plain lists. CLIENT SETINFO (driver_info) would need a right of its own.
        connection = kind(**options, protocol=2, retry_on_timeout=False, driver_info=None)
    except (ValueError, TypeError) as error:
        raise LinkLost("bus.url is no URL that Redis could be found by.") from error
    place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    link = Link(connection, timeout_s=timeout_s, place=place)
    try:
        await link._connect()
        yield link
    finally:
        await link._close()


async def watch_links(sending: Link, hearing: Link, *, timeout_s: float, doubted: asyncio.Event) -> None:
    """Raise `LinkLost` when Redis owes an answer and has been silent for `timeout_s`, or when the link is `doubted`.

    Silence is counted, not clocked: a node that was stopped itself finds the answers when it goes on.
    """
    silences = {sending: 0, hearing: 0}
    while max(silences.values()) < CHECKS:
        sending.has_heard = hearing.has_heard = False
        try:
            async with asyncio.timeout(timeout_s / CHECKS):
                await hearing.send([("PING",)])
                await doubted.wait()
            raise LinkLost("Redis did not confirm a subscription in time.")
        except TimeoutError:
            silences = {
                link: checks + 1 if link.is_owed and not link.has_heard else 0 for link, checks in silences.items()
            }
    raise LinkLost(f"Redis has said nothing for {timeout_s:g} s.")


def _sentence(error: BaseException, place: str) -> str:
    """What went wrong; redis-py wraps errors in errors, so the whole chain is looked through."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, AuthenticationError):
            return f"Redis at {place} refuses the user or the password of bus.url."
        if isinstance(link, InvalidResponse):
            return f"What answers at {place} is not a Redis."
        if isinstance(link, TimeoutError):
            return f"Redis at {place} does not answer."
        if isinstance(link, OSError) and link.strerror:
            return f"Redis at {place} cannot be reached: {link.strerror}."
    return f"Redis at {place} is lost: {str(error).rstrip('.')}."


def first_sentence(lost: BaseException) -> str:
    """Of a `LinkLost`, or of the first one in groups of them."""
    while isinstance(lost, BaseExceptionGroup):
        lost = lost.exceptions[0]
    return str(lost)
