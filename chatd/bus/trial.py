"""Whether a Redis can carry the bus: is it there, is it one, how far away, and may we do what the bus does.

`redis` greets every new connection with the trial; `chatd check` asks for it with `try_redis`. It leaves nothing behind
but keys that vanish within a second.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.asyncio_loop import run_asyncio
from chatd.bus.link import LinkLost, Refused, open_link
from chatd.bus.outgoing import Call
from chatd.bus.scripts import BEAT, SUM_COUNTS, TAKE, WRITE_COUNTS
from chatd.errors import Unavailable
from chatd.ids import new_id

if TYPE_CHECKING:
    from chatd.bus.link import Arguments

#: Round trips of which the fastest counts.
PINGS: Final = 5


class RedisState(NamedTuple):
    """`missing_rights` names each thing that the bus does and Redis refuses, with what it says."""

    version: str
    latency_ms: float
    missing_rights: tuple[str, ...]


def trial_commands(prefix: str, node: str) -> list[Arguments]:
    """One of each that the bus needs to send, the scripts in full, so that Redis knows them from then on."""
    nodes, own = f"{prefix}:nodes", f"{prefix}:node:{node}"
    return [
        Call(TAKE, [f"{prefix}:rate:{node}"], [1, 1, 0]).in_full(),
        Call(WRITE_COUNTS, [own], [1000, "trial", 1, "trial", 0]).in_full(),
        Call(SUM_COUNTS, [nodes], [node, f"{prefix}:node:", "trial"]).in_full(),
        Call(BEAT, [nodes, own], [node, 1000]).in_full(),
        ("DEL", own),
        ("ZREM", nodes, node),
    ]


async def try_redis(url: str, *, prefix: str, timeout_s: float) -> RedisState:
    """Look at a Redis, on the asyncio loop of the caller's block. Raises `Unavailable` with what is wrong."""
    try:
        return await run_asyncio(_try(url, prefix=prefix, timeout_s=timeout_s))
    except LinkLost as lost:
        raise Unavailable(str(lost)) from lost


async def _try(url: str, *, prefix: str, timeout_s: float) -> RedisState:
    loop = asyncio.get_running_loop()
    async with open_link(url, timeout_s=timeout_s) as link:
        took_s = []
        for _ in range(PINGS):
            began = loop.time()
            await link.exchange([("PING",)])
            took_s.append(loop.time() - began)
        room, node = f"{prefix}:room:trial", f"trial:{new_id()}"
        names = ("limits", "writing devices", "counting devices", "beats", "DEL", "ZREM", "PUBLISH", "PUBLISH to rooms")
        commands = [
            *trial_commands(prefix, node),
            # nonsense, which nodes pass over in silence
            ("PUBLISH", f"{prefix}:trial", b""),
            ("PUBLISH", room, b""),
        ]
        refused = [
            (name, reply)
            for name, reply in zip(names, await link.exchange(commands), strict=True)
            if type(reply) is Refused
        ]
        (info,) = await link.exchange([("INFO", "server")])
        # The last: a connection that has subscribed can do nothing else.
        for name, channel in (("SUBSCRIBE", f"{prefix}:notices"), ("SUBSCRIBE to rooms", room)):
            (reply,) = await link.exchange([("SUBSCRIBE", channel)])
            if type(reply) is Refused:
                refused.append((name, reply))
    missing = tuple(f"{name}: {reply.detail}" for name, reply in refused)
    return RedisState(_version(info), min(took_s) * 1000, missing)


def _version(info: object) -> str:
    """From the answer to INFO, which not everybody may ask for."""
    if isinstance(info, bytes):
        for line in info.decode(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "redis_version":
                return value
    return "unknown"
