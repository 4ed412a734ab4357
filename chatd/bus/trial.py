"""Whether a Redis can carry the bus: is it there, is it one, how far away, and may we do what the bus does.

`redis` greets every new connection with the trial; `chatd check` asks for it with `try_redis`. It leaves nothing behind
but keys that vanish within a second.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.asyncio_loop import run_asyncio
from chatd.bus.devices import Keys, Lives, beat_call, claim_call, sum_call, write_call
from chatd.bus.link import LinkLost, Refused, open_link
from chatd.bus.outgoing import Call
from chatd.bus.payload import Word, encode_word
from chatd.bus.scripts import TAKE
from chatd.errors import Unavailable
from chatd.ids import new_id

if TYPE_CHECKING:
    from chatd.bus.link import Arguments, Link

#: Round trips of which the fastest counts.
PINGS: Final = 5


class RedisState(NamedTuple):
    """`missing_rights` names each thing that the bus does and Redis refuses, with what it says."""

    version: str
    latency_ms: float
    missing_rights: tuple[str, ...]


def trial_of(prefix: str, node: str) -> dict[str, Arguments]:
    """One of each command that the bus needs, by what it is for, to be exchanged at once.

    The scripts are in full, so that Redis knows them from then on. Nobody else uses the room, so that nothing is heard
    of it between the replies.
    """
    # The roll that all nodes share is left as it is.
    keys, lives = Keys.of(prefix, f":trial:{node}"), Lives(1000, 1000, 1000)
    nodes, own, room = Keys.of(prefix).nodes, keys.hashes + node, f"{prefix}:room:trial:{node}"
    return {
        "limits": Call(TAKE, [f"{prefix}:rate:{node}"], [1, 1, 0]).in_full(),
        "writing devices": write_call(keys, node, ["trial", 1, "new", "trial", 0, 0], lives=lives).in_full(),
        "counting devices": sum_call(keys, node, ["trial"]).in_full(),
        "signs of life": beat_call(keys, node, lives=lives).in_full(),
        "finding who is gone": claim_call(keys, grace_ms=0).in_full(),
        "taking devices away": ("DEL", own, *keys[:-1]),
        "taking the node away": ("ZREM", nodes, node),
        "publishing notices": ("PUBLISH", f"{prefix}:notices", encode_word(Word(node, 0))),
        "publishing events": ("PUBLISH", room, b""),
        "hearing events": ("SUBSCRIBE", room),
        "hearing them no more": ("UNSUBSCRIBE", room),
    }


async def greet(link: Link, prefix: str, node: str, word: Word) -> None:
    """Try it on a link that is about to serve, with a true word in the place of the notice. Raises `LinkLost`."""
    trial = trial_of(prefix, node)
    trial["publishing notices"] = ("PUBLISH", f"{prefix}:notices", encode_word(word))
    for purpose, reply in zip(trial, await link.exchange([*trial.values()]), strict=True):
        if type(reply) is Refused:
            raise LinkLost(f"Redis refuses what the bus needs for {purpose}: {reply.detail}.")


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
        trial = trial_of(prefix, f"trial:{new_id()}")
        refused = {
            name: reply.detail
            for name, reply in zip(trial, await link.exchange([*trial.values()]), strict=True)
            if type(reply) is Refused
        }
        (info,) = await link.exchange([("INFO", "server")])
        # The last: a connection that hears can do nothing else.
        (reply,) = await link.exchange([("SUBSCRIBE", f"{prefix}:notices")])
        if type(reply) is Refused:
            refused["hearing notices"] = reply.detail
    return RedisState(_version(info), min(took_s) * 1000, tuple(f"{name}: {why}" for name, why in refused.items()))


def _version(info: object) -> str:
    """From the answer to INFO, which not everybody may ask for."""
    if isinstance(info, bytes):
        for line in info.decode(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "redis_version":
                return value
    return "unknown"
