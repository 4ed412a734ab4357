"""What goes wrong during a torture: one fault at a time, each with its time and that of the recovery.

What a fault is like depends on the seed and its place in the row alone, so that a run can be had again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from tests.torture.disks import slow_syncs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from tests.servers import Server
    from tests.torture.nodes import Cluster, Node
    from tests.torture.probe import Probe

#: Seconds for which something is stopped, is slow, silent or full, and is dead.
STOPPED_S: Final = (0.5, 6.0)
SLOW_S: Final = (1.0, 4.0)
DEAD_S: Final = (0.1, 2.0)
#: By how much a link is slow, and a disk at each sync.
DELAY_S: Final = (0.02, 0.3)
SYNC_S: Final = (0.01, 0.3)
#: Seconds by which a clock jumps, in either direction, and for which it stays there.
JUMP_S: Final = 3600
JUMPED_S: Final = (1.0, 3.0)
#: Seconds between the recovery from one fault and the next one.
PAUSE_S: Final = (0.3, 1.5)
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
    seed: int
    seconds: Callable[[], float]
    #: Called before a node is told to stop, and when it has.
    on_drain: Callable[[Node], Callable[[], None]] = lambda _: lambda: None
    count: int = 0
    dice: random.Random = field(default_factory=random.Random)

    async def inflict(self, kind: str) -> Wound:
        """Do it, wait for the recovery, and then a little longer."""
        self.count += 1
        self.dice = random.Random(f"{self.seed} {self.count} {kind}")
        wound = Wound(kind, self.seconds())
        wound.detail = await FAULTS[kind](self) or ""
        wound.over_s = self.seconds()
        wound.recovered_s = await self.probe.wait_served(within_s=GIVE_UP_S)
        if self.probe.missing:
            tries = ", ".join(f"{count} tries without {what}" for what, count in self.probe.missing.items())
            wound.detail = "; ".join(part for part in (wound.detail, tries) if part)
        await self._sleep(PAUSE_S)
        return wound

    async def _sleep(self, span_s: tuple[float, float]) -> None:
        await trio.sleep(self.dice.uniform(*span_s))

    def _choose_node(self) -> Node:
        return self.dice.choice(self.cluster.nodes)

    # -- nodes ------------------------------------------------------------------------------------------------------

    async def kill_node(self) -> str:
        node = self._choose_node()
        await node.kill()
        await self._sleep(DEAD_S)
        await node.start()
        return node.name

    async def stop_node(self) -> str:
        node = self._choose_node()
        node.pause()
        await self._sleep(STOPPED_S)
        node.resume()
        return node.name

    async def drain_node(self) -> str:
        node = self._choose_node()
        on_stopped = self.on_drain(node)
        await node.drain()
        on_stopped()
        await self._sleep(DEAD_S)
        await node.start()
        return node.name

    async def jump_clock(self) -> str:
        """Forth and back, or back and forth."""
        node = self._choose_node()
        first_s = self.dice.choice((JUMP_S, -JUMP_S))
        for seconds in (first_s, -first_s, 0):
            node.clock.jump(seconds)
            await self._sleep(JUMPED_S)
        return f"{node.name} {first_s:+d} s first"

    # -- disks ------------------------------------------------------------------------------------------------------

    async def fill_disk(self) -> None:
        disk, back_ends = self.cluster.disk, self.cluster.back_ends
        assert disk is not None, "only root can have a disk to fill"
        await trio.to_thread.run_sync(disk.fill)
        await self._sleep(SLOW_S)
        await trio.to_thread.run_sync(disk.free)
        if back_ends is not None:
            # Who runs a PostgreSQL has it started again when its log found no space.
            await trio.to_thread.run_sync(back_ends.postgres.start_again_if_ended)

    async def slow_disk(self) -> str:
        delay_s = self.dice.uniform(*SYNC_S)
        async with slow_syncs(self.cluster.pids_of_disk(), delay_s):
            await self._sleep(SLOW_S)
        return f"{delay_s:.2f} s a sync"

    # -- clients ----------------------------------------------------------------------------------------------------

    async def cut_clients(self) -> str:
        """Reset connections, several times."""
        count = 0
        for _ in range(3):
            links = sorted(self.cluster.doors.links, key=id)
            some = self.dice.sample(links, round(len(links) * self.dice.uniform(0.2, 1)))
            self.cluster.doors.cut(some)
            count += len(some)
            await self._sleep(DEAD_S)
        return f"{count} connections"

    async def slow_clients(self) -> str:
        delay_s = self.cluster.doors.delay_s = self.dice.uniform(*DELAY_S)
        await self._sleep(SLOW_S)
        self.cluster.doors.delay_s = 0
        return f"{delay_s:.2f} s"

    async def silence_clients(self) -> None:
        """Nothing passes in either direction; then all of it, or the connections break."""
        self.cluster.doors.silence()
        await self._sleep(SLOW_S)
        if self.dice.random() < 0.5:
            self.cluster.doors.cut()
        self.cluster.doors.flow()

    # -- what nodes share -------------------------------------------------------------------------------------------

    async def kill_redis(self) -> None:
        await self._kill(self.cluster.shared.redis)

    async def kill_postgres(self) -> None:
        await self._kill(self.cluster.shared.postgres)

    async def _kill(self, server: Server) -> None:
        await trio.to_thread.run_sync(server.kill)
        await self._sleep(DEAD_S)
        await trio.to_thread.run_sync(server.start)

    async def stop_redis(self) -> None:
        await self._stop(self.cluster.shared.redis)

    async def stop_postgres(self) -> None:
        await self._stop(self.cluster.shared.postgres)

    async def _stop(self, server: Server) -> None:
        server.pause()
        await self._sleep(STOPPED_S)
        server.resume()

    async def drop_message(self) -> str:
        """Lose one message of a busy room, then one after which nothing comes that would tell."""
        with trio.move_on_after(LOST_S):
            channel = await self.cluster.shared.link.drop_one(b":room:")
            found_s = await self.probe.time_lost_event(within_s=LOST_S)
            found = "was not found" if found_s is None else f"was found after {found_s:.1f} s"
            return f"{channel.rpartition(':')[2]}; a last one {found}"
        return "nothing to drop"

    async def slow_link(self) -> str:
        delay_s = self.cluster.shared.link.delay_s = self.dice.uniform(*DELAY_S)
        await self._sleep(SLOW_S)
        self.cluster.shared.link.delay_s = 0
        return f"{delay_s:.2f} s"

    async def cut_link(self) -> None:
        """First it says nothing any more, then it is reset."""
        self.cluster.shared.link.silence()
        await self._sleep(SLOW_S)
        self.cluster.shared.link.cut()
        self.cluster.shared.link.flow()


#: Every kind of fault by its name on the command line: those that there are everywhere, and those of several nodes.
OF_ANY: Final[Mapping[str, Callable[[Nemesis], Awaitable[str | None]]]] = {
    "node-kill": Nemesis.kill_node,
    "node-stop": Nemesis.stop_node,
    "node-drain": Nemesis.drain_node,
    "clock-jump": Nemesis.jump_clock,
    "full-disk": Nemesis.fill_disk,
    "slow-disk": Nemesis.slow_disk,
    "client-cut": Nemesis.cut_clients,
    "client-slow": Nemesis.slow_clients,
    "client-silent": Nemesis.silence_clients,
}
OF_SEVERAL: Final[Mapping[str, Callable[[Nemesis], Awaitable[str | None]]]] = {
    "redis-kill": Nemesis.kill_redis,
    "redis-stop": Nemesis.stop_redis,
    "postgres-kill": Nemesis.kill_postgres,
    "postgres-stop": Nemesis.stop_postgres,
    "drop": Nemesis.drop_message,
    "slow-link": Nemesis.slow_link,
    "cut-link": Nemesis.cut_link,
}
FAULTS: Final = {**OF_ANY, **OF_SEVERAL}


def kinds_for(nodes: int) -> list[str]:
    """What can be inflicted on so many nodes."""
    return list(OF_ANY if nodes == 1 else FAULTS)


def schedule(kinds: Sequence[str], seed: int) -> Iterator[str]:
    """The kinds of fault in their order: all of them in each round, without end."""
    dice = random.Random(seed)
    while kinds:
        yield from dice.sample(kinds, len(kinds))
