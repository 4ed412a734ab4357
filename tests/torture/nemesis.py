"""What goes wrong during a cluster's torture: one fault at a time, each with its time and that of the recovery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Mapping

    from tests.servers import Server
    from tests.torture.nodes import Cluster
    from tests.torture.probe import Probe

#: Seconds for which something is stopped, is slow or is silent, and is dead.
STOPPED_S: Final = 10.0
SLOW_S: Final = 5.0
DELAY_S: Final = 0.2
DEAD_S: Final = (1.0, 3.0)
#: Seconds between the recovery from one fault and the next one.
PAUSE_S: Final = 2.0
#: Seconds after which it is given up that service comes back.
GIVE_UP_S: Final = 40.0
#: Seconds within which a lost last event has to be found, and those that a try to lose one may take.
LOST_S: Final = 15.0


@dataclass
class Wound:
    """A fault that was inflicted: when it began, when all that it had taken was there again, and when service was."""

    kind: str
    began_s: float
    over_s: float = 0
    recovered_s: float | None = None
    detail: str = ""


@dataclass
class Nemesis:
    """Inflicts faults on a cluster."""

    cluster: Cluster
    probe: Probe
    dice: random.Random
    seconds: Callable[[], float]

    async def inflict(self, kind: str) -> Wound:
        """Do it, wait for the recovery, and then a little longer."""
        wound = Wound(kind, self.seconds())
        wound.detail = await FAULTS[kind](self) or ""
        wound.over_s = self.seconds()
        wound.recovered_s = await self.probe.wait_served(within_s=GIVE_UP_S)
        if self.probe.missing:
            tries = ", ".join(f"{count} tries without {what}" for what, count in self.probe.missing.items())
            wound.detail = "; ".join(part for part in (wound.detail, tries) if part)
        await trio.sleep(PAUSE_S)
        return wound

    async def kill_redis(self) -> None:
        await self._kill(self.cluster.redis)

    async def kill_postgres(self) -> None:
        await self._kill(self.cluster.postgres)

    async def _kill(self, server: Server) -> None:
        await trio.to_thread.run_sync(server.kill)
        await trio.sleep(self.dice.uniform(*DEAD_S))
        await trio.to_thread.run_sync(server.start)

    async def stop_redis(self) -> None:
        self.cluster.redis.pause()
        await trio.sleep(STOPPED_S)
        self.cluster.redis.resume()

    async def kill_node(self) -> str:
        node = self.dice.choice(self.cluster.nodes)
        await node.kill()
        await trio.sleep(self.dice.uniform(*DEAD_S))
        await node.start()
        return node.name

    async def stop_node(self) -> str:
        node = self.dice.choice(self.cluster.nodes)
        node.pause()
        await trio.sleep(STOPPED_S)
        node.resume()
        return node.name

    async def drop_message(self) -> str:
        """Lose one message of a busy room, then one after which nothing comes that would tell."""
        with trio.move_on_after(LOST_S):
            channel = await self.cluster.proxy.drop_one(b":room:")
            found_s = await self.probe.time_lost_event(within_s=LOST_S)
            found = "was not found" if found_s is None else f"was found after {found_s:.1f} s"
            return f"{channel.rpartition(':')[2]}; a last one {found}"
        return "nothing to drop"

    async def slow_link(self) -> None:
        self.cluster.proxy.delay_s = DELAY_S
        await trio.sleep(SLOW_S)
        self.cluster.proxy.delay_s = 0

    async def cut_link(self) -> None:
        """First it says nothing any more, then it is reset."""
        self.cluster.proxy.silence()
        await trio.sleep(SLOW_S)
        self.cluster.proxy.cut()
        self.cluster.proxy.flow()


#: Every kind of fault by its name on the command line.
FAULTS: Final[Mapping[str, Callable[[Nemesis], Awaitable[str | None]]]] = {
    "redis-kill": Nemesis.kill_redis,
    "redis-stop": Nemesis.stop_redis,
    "postgres-kill": Nemesis.kill_postgres,
    "node-kill": Nemesis.kill_node,
    "node-stop": Nemesis.stop_node,
    "drop": Nemesis.drop_message,
    "slow-link": Nemesis.slow_link,
    "cut-link": Nemesis.cut_link,
}
