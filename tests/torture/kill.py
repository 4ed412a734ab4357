"""Kill or stop a daemon under load, again and again, and check that every promise was kept.

    python -m tests.torture.kill --kills 20 --rate 500 --clients 50 --seed 1
    python -m tests.torture.kill --stops 5

Prints what it did and what it found; exits with 1 and the seed if a promise was broken.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Final

import trio

from tests.daemon import Process, SignedIn, start_process
from tests.torture.checker import Kept, check_database, check_order, check_promises, kept_of_history, read_database
from tests.torture.client import Habits, TortureClient
from tests.torture.stays import judge_diaries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

#: Rooms, and how many of them each client is in.
ROOMS: Final = 8
ROOMS_OF_CLIENT: Final = 2
#: Seconds of load between two deaths, from when the daemon listens.
LIFE_S: Final = (0.1, 2.5)
#: Seconds within which a daemon that was told to stop has to be gone, and a reason for giving up on acknowledgements.
STOP_WITHIN_S: Final = 10
SETTLE_WITHIN_S: Final = 20


@dataclass
class Report:
    """What was done and what was found."""

    seed: int
    kills: int = 0
    stops: int = 0
    killed_at_s: list[float] = field(default_factory=list)
    stopped_within_s: list[float] = field(default_factory=list)
    told: int = 0
    sent: int = 0
    resent: int = 0
    acknowledged: int = 0
    heard: int = 0
    connections: int = 0
    stored: int = 0
    events: int = 0
    in_history: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lives = ", ".join(f"{life_s:.1f}" for life_s in self.killed_at_s)
        stops = ", ".join(f"{stop_s:.2f}" for stop_s in self.stopped_within_s)
        lines = [
            f"seed {self.seed}: {self.kills} kills after {lives or 'no'} s",
            f"{self.stops} stops within {stops or 'no'} s, {self.told} clients told of them",
            f"{self.sent} messages sent and {self.resent} sent again over {self.connections} connections",
            f"{self.acknowledged} acknowledged, {self.heard} events heard",
            f"{self.stored} messages and {self.events} other events in the database, {self.in_history} in the history",
            *(f"BROKEN: {fault}" for fault in self.faults[:50]),
            f"{len(self.faults)} faults; seed {self.seed}" if self.faults else "Every promise was kept.",
        ]
        return "\n".join(lines)


@dataclass
class Torture:
    """A daemon's folder and ports, and the clients that live through its deaths."""

    data_dir: Path
    report: Report
    dice: random.Random
    ports: tuple[int, int] = (0, 0)
    clients: list[TortureClient] = field(default_factory=list)
    rooms: list[str] = field(default_factory=list)
    _stirred: trio.Event = field(default_factory=trio.Event)

    @asynccontextmanager
    async def open_life(self) -> AsyncIterator[Process]:
        """A daemon on the same folder and, from the second on, the same ports."""
        websocket_port, http_port = self.ports
        async with start_process(
            self.data_dir, AUTH_ACCESS_MINUTES="1440", WEBSOCKET_PORT=str(websocket_port), HTTP_PORT=str(http_port)
        ) as daemon:
            self.ports = (daemon.websocket_port, daemon.http_port)
            yield daemon

    async def settle_people(self, daemon: Process, count: int, rate: float) -> None:
        """Register everybody and make the rooms."""
        users: list[SignedIn] = [await daemon.register(f"client{number}") for number in range(count)]
        self.rooms = [await daemon.create_room(users[0], f"room {number}", kind="public") for number in range(ROOMS)]
        for user in users:
            rooms = self.dice.sample(self.rooms, ROOMS_OF_CLIENT)
            dice = random.Random(self.dice.random())
            self.clients.append(
                TortureClient(
                    user.username, user, rooms, lambda: self.ports[0], Habits(rate=rate / count), dice, self.stir
                )
            )

    def stir(self) -> None:
        """Something has changed for a client."""
        self._stirred.set()

    async def wait_until(self, holds: Callable[[], bool], *, within_s: float) -> None:
        """Wait until something holds for the clients, or for so long; what is missing then shows in the report."""
        with trio.move_on_after(within_s):
            while not holds():
                self._stirred = trio.Event()
                await self._stirred.wait()

    def are_all_live(self) -> bool:
        return all(client.live for client in self.clients)

    async def kill(self) -> None:
        """Live for a while, then die without a word."""
        async with self.open_life() as daemon:
            life_s = self.dice.uniform(*LIFE_S)
            await trio.sleep(life_s)
            daemon.process.kill()
            await daemon.process.wait()
        self.report.kills += 1
        self.report.killed_at_s.append(life_s)

    async def stop(self) -> None:
        """Live until everybody is there and a little longer, then be told to stop."""
        async with self.open_life() as daemon:
            await self.wait_until(self.are_all_live, within_s=SETTLE_WITHIN_S)
            await trio.sleep(self.dice.uniform(0.2, 1.5))
            stays = [(client.user.username, client.live) for client in self.clients]
            began = trio.current_time()
            daemon.process.send_signal(SIGTERM)
            with trio.move_on_after(STOP_WITHIN_S):
                await daemon.process.wait()
            stopped_s = trio.current_time() - began
        self.report.stops += 1
        self.report.stopped_within_s.append(stopped_s)
        if daemon.process.returncode != 0:
            self.report.faults.append(f"SIGTERM: exit {daemon.process.returncode} after {stopped_s:.1f} s")
        await self.wait_until(lambda: all(stay is None or stay.is_over for _, stay in stays), within_s=2)
        for name, stay in stays:
            if stay is not None:
                self.report.told += stay.was_told_of_shutdown
                if not stay.was_told_of_shutdown or stay.connection.close_code != 1012:
                    told = "told" if stay.was_told_of_shutdown else "not told"
                    self.report.faults.append(f"{name}: {told} of the shutdown, closed {stay.connection.close_code}")

    async def finish(self) -> list[Kept]:
        """Live until all is acknowledged; then read the whole history, and stop."""
        async with self.open_life() as daemon:
            await self.wait_until(self.are_all_live, within_s=SETTLE_WITHIN_S)
            for client in self.clients:
                client.is_sending = False
            await self.wait_until(lambda: not any(c.pending for c in self.clients), within_s=SETTLE_WITHIN_S)
            history = await self.read_history(daemon)
            daemon.process.send_signal(SIGTERM)
            await daemon.process.wait()
        return history

    async def read_history(self, daemon: Process) -> list[Kept]:
        """Everything that HTTP tells to the rooms' owner."""
        token, found = self.clients[0].user.token, []
        for room_id in self.rooms:
            after, has_more = 0, True
            while has_more:
                answer = await daemon.http(
                    "GET", f"/api/rooms/{room_id}/messages?limit=100&afterSeq={after}", token=token
                )
                assert answer.status == 200, answer.body
                page = answer.json()
                found += kept_of_history(page["messages"])
                has_more = page["hasMore"]
                after = found[-1].seq if has_more else after
        return found

    def judge(self, history: Sequence[Kept]) -> None:
        """Fill the report."""
        report, clients = self.report, self.clients
        report.sent = sum(client.sent for client in clients)
        report.resent = sum(client.resent for client in clients)
        report.heard = sum(client.heard for client in clients)
        report.connections = sum(len(client.stays) for client in clients)
        found = read_database(self.data_dir / "chatd.db")
        judgement = judge_diaries(found, [client.diary for client in clients], is_settled=False)
        promises = judgement.promises.values()
        report.acknowledged = len(promises)
        report.stored, report.events, report.in_history = len(found.messages), len(found.events), len(history)
        report.faults += judgement.faults
        report.faults += check_database(found, promises)
        report.faults += check_order(found.messages)
        report.faults += [f"in the history: {fault}" for fault in check_promises(history, promises)]
        if sorted(history) != sorted(found.messages):
            report.faults.append("the history over HTTP is not what the database holds")
        unanswered = sum(len(client.pending) for client in clients)
        if unanswered:
            report.faults.append(f"{unanswered} messages were never acknowledged although the daemon lives")
        if report.acknowledged < 10 * (report.kills + report.stops):
            report.faults.append(f"only {report.acknowledged} messages were acknowledged: this proves nothing")


async def torture(
    data_dir: Path, *, kills: int = 0, stops: int = 0, rate: float = 500, clients: int = 50, seed: int = 0
) -> Report:
    """Kill and stop a daemon so often, in random order, under a load of `rate` messages a second."""
    run = Torture(data_dir, Report(seed), random.Random(seed))
    deaths = [run.kill] * kills + [run.stop] * stops
    run.dice.shuffle(deaths)
    async with run.open_life() as daemon:
        await run.settle_people(daemon, clients, rate)
    async with trio.open_nursery() as nursery:
        for client in run.clients:
            nursery.start_soon(client.run)
        for die in deaths:
            await die()
        history = await run.finish()
        nursery.cancel_scope.cancel()
    run.judge(history)
    return run.report


def main(argv: Sequence[str] | None = None) -> int:
    """Run one torture and print its report; the exit code says whether every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="how often the daemon is killed with -9")
    parser.add_argument("--stops", type=int, default=0, help="how often it is told to stop with SIGTERM")
    parser.add_argument("--rate", type=float, default=500, help="messages a second of all clients together")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--data-dir", type=Path, help="keep the database there (default: a temporary folder)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        report = trio.run(_run, args.data_dir or Path(folder), args)
    sys.stdout.write(f"{report}\n")
    return 1 if report.faults else 0


async def _run(data_dir: Path, args: argparse.Namespace) -> Report:
    return await torture(
        data_dir, kills=args.kills, stops=args.stops, rate=args.rate, clients=args.clients, seed=args.seed
    )


if __name__ == "__main__":
    sys.exit(main())
