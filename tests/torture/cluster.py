"""Torture several nodes with hundreds of clients while back ends, nodes and links fail, and check every promise.

    python -m tests.torture.cluster --seconds 60 --clients 300 --rooms 20 --nodes 3 --faults all --seed 1
    python -m tests.torture.cluster --seconds 240 --faults node-kill,redis-kill

Prints what it did and what it found; exits with 1, the seed and the folder of the diaries if a promise was broken, or
if service was not back within 10 s of the return of what had failed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from tests.torture.checker import Found, check_database, read_last_seqs, read_postgres
from tests.torture.client import Habits, TortureClient
from tests.torture.diary import write_diaries
from tests.torture.nemesis import FAULTS, Nemesis, Wound
from tests.torture.nodes import Cluster, open_cluster
from tests.torture.probe import Probe
from tests.torture.stays import Judgement, judge_diaries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.daemon import SignedIn

#: How many clients share a user with the one before them.
SHARED_ONE_IN: Final = 5
ROOMS_OF_CLIENT: Final = (2, 4)
#: Seconds within which all are to have connected, and have everything acknowledged and heard at the end.
ARRIVE_S: Final = 30.0
SETTLE_S: Final = 30.0
#: Seconds between two looks at how far the database is, and at how late this process is.
LOOK_S: Final = 0.5
LAG_EVERY_S: Final = 0.1
#: Seconds within which service has to be back.
BACK_WITHIN_S: Final = 10.0


@dataclass
class Report:
    """What was done and what was found."""

    seed: int
    clients: int
    seconds: float
    judgement: Judgement = field(default_factory=Judgement)
    wounds: list[Wound] = field(default_factory=list)
    sent: int = 0
    resent: int = 0
    stored: int = 0
    changes: int = 0
    #: When this process itself was late, and by how much: what it measured then says little of the cluster.
    lags: list[tuple[float, float]] = field(default_factory=list)
    #: Lines of the nodes' logs that warn, by event.
    warnings: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> int:
        return len(self.judgement.promises)

    def latest_s(self, since_s: float, until_s: float) -> float:
        """How long after its first hearer an event of this time had its last one, but for those who replayed it."""
        times = self.judgement.heard_at.values()
        return max((last_s - first_s for first_s, last_s in times if since_s <= first_s < until_s), default=0.0)

    def lag_s(self, since_s: float, until_s: float) -> float:
        """By how much this process was late at most in this time."""
        return max((lag_s for at_s, lag_s in self.lags if since_s <= at_s < until_s), default=0.0)

    def late(self, back_within_s: float) -> list[str]:
        """Faults after which service was not back in time, or not at all."""
        never = [
            f"{wound.kind} at {wound.began_s:.1f} s: service did not come back"
            for wound in self.wounds
            if wound.recovered_s is None
        ]
        return never + [
            f"{wound.kind} at {wound.began_s:.1f} s: service was back {wound.recovered_s:.1f} s after it was over"
            for wound in self.wounds
            if wound.recovered_s is not None and wound.recovered_s > back_within_s
        ]

    def __str__(self) -> str:
        judgement = self.judgement
        refusals = ", ".join(f"{count} {code}" for code, count in judgement.refusals.most_common()) or "none"
        warnings = ", ".join(f"{count} {event}" for event, count in self.warnings.most_common()) or "none"
        return "\n".join(
            [
                f"seed {self.seed}: {self.clients} clients for {self.seconds:.0f} s",
                f"{self.sent} messages sent and {self.resent} sent again, {self.acknowledged} acknowledged",
                f"{self.stored} messages and {self.changes} other events stored",
                f"{judgement.events} events heard, {judgement.replayed} in replays",
                f"{judgement.stays} connections, {judgement.resumes} resumes, {judgement.resyncs} resyncs",
                f"refusals: {refusals}",
                f"warnings of the nodes: {warnings}",
                *self._table(),
                *(f"BROKEN: {fault}" for fault in self.faults[:50]),
                f"{len(self.faults)} faults; seed {self.seed}" if self.faults else "Every promise was kept.",
            ]
        )

    def _table(self) -> list[str]:
        if not self.wounds:
            return [f"latest delivery {self.latest_s(0, float('inf')):.2f} s after the first"]
        lines = ["   at s  fault          over after  service back  latest delivery  own lag"]
        ends = [*(wound.began_s for wound in self.wounds[1:]), inf]
        for wound, until_s in zip(self.wounds, ends, strict=True):
            back = "never" if wound.recovered_s is None else f"{wound.recovered_s:.2f} s"
            latest_s = self.latest_s(wound.began_s - 0.5, until_s)
            lines.append(
                f"{wound.began_s:7.1f}  {wound.kind:13}  {wound.over_s - wound.began_s:8.1f} s  {back:>12}"
                f"  {latest_s:13.2f} s  {self.lag_s(wound.began_s, until_s):5.2f} s  {wound.detail}"
            )
        for kind, count in Counter(wound.kind for wound in self.wounds).items():
            backs = [wound.recovered_s for wound in self.wounds if wound.kind == kind and wound.recovered_s is not None]
            lines.append(f"{count} times {kind}: service back within {max(backs, default=float('nan')):.2f} s")
        return lines


@dataclass
class Torture:
    """A cluster, its clients, and the time of the run."""

    cluster: Cluster
    report: Report
    dice: random.Random
    began_s: float = field(default_factory=trio.current_time)
    clients: list[TortureClient] = field(default_factory=list)
    _stirred: trio.Event = field(default_factory=trio.Event)

    def seconds(self) -> float:
        return trio.current_time() - self.began_s

    def stir(self) -> None:
        """Something has changed for a client."""
        self._stirred.set()

    def port(self) -> int:
        return self.cluster.port or self.dice.choice(self.cluster.nodes).ports[0]

    async def settle_people(self, rooms: int, rate: float) -> Probe:
        """Register everybody and make the rooms, through all nodes at once."""
        count = self.report.clients
        daemons = [node.daemon for node in self.cluster.nodes]
        users: dict[int, SignedIn] = {}
        room_ids: dict[int, str] = {}
        places = trio.CapacityLimiter(10)

        async def register(number: int) -> None:
            async with places:
                users[number] = await daemons[number % len(daemons)].register(f"user{number}")

        async def make_room(number: int) -> None:
            async with places:
                daemon, owner = daemons[number % len(daemons)], users[number % len(users)]
                room_ids[number] = await daemon.create_room(owner, f"room {number}", kind="public")

        async with trio.open_nursery() as nursery:
            for number in range(count - count // SHARED_ONE_IN):
                nursery.start_soon(register, number)
        async with trio.open_nursery() as nursery:
            for number in range(rooms):
                nursery.start_soon(make_room, number)
        for number in range(count):
            number_of_user = number if number in users else number - len(users)
            is_shared = number_of_user < count - len(users)
            habits = Habits(
                rate=rate / count, wander_one_in=20, stay_away=0.5, stray_s=10, resume=0.7,
                replay=0.0 if is_shared else 0.4, patience_s=self.dice.uniform(3, 15), pause_s=(0.05, 1.0),
            )  # fmt: skip
            at_home = self.dice.sample(list(room_ids.values()), min(rooms, self.dice.randint(*ROOMS_OF_CLIENT)))
            self.clients.append(
                TortureClient(
                    f"client{number}", users[number_of_user], at_home, self.port, habits,
                    random.Random(self.dice.random()), self.stir, self.seconds,
                )
            )  # fmt: skip
        user = await daemons[0].register("probe")
        return Probe(self.cluster, user, await daemons[-1].create_room(user, "probe", kind="private"))

    async def wait_until(self, holds: Callable[[], bool], *, within_s: float) -> None:
        """Wait until something holds for the clients, or for so long; what is missing then shows in the report."""
        with trio.move_on_after(within_s):
            while not holds():
                self._stirred = trio.Event()
                with trio.move_on_after(0.5):
                    await self._stirred.wait()

    def are_all_live(self) -> bool:
        return all(client.live for client in self.clients)

    def have_all_arrived(self) -> bool:
        return all(client.epoch for client in self.clients)

    def is_all_acknowledged(self) -> bool:
        return self.are_all_live() and not any(client.pending for client in self.clients)

    def is_all_heard(self, last_seqs: Mapping[str, int]) -> bool:
        """All are connected, and where the database is in every room that they hear."""
        stays = [client.live for client in self.clients]
        return all(
            stay is not None
            and not stay.replaying
            and all(last_seqs[room_id] == seq for room_id, seq in stay.positions.items())
            for stay in stays
        )

    async def suffer(self, nemesis: Nemesis, kinds: Sequence[str], seconds: float) -> None:
        """Every kind of fault once, in random order, and again until the time is over."""
        await self.wait_until(self.have_all_arrived, within_s=ARRIVE_S)
        until_s = self.seconds() + seconds
        waiting: list[str] = []
        is_first_round = True
        while kinds and (is_first_round or self.seconds() < until_s):
            if not waiting:
                waiting = random.Random(self.dice.random()).sample(kinds, len(kinds))
            self.report.wounds.append(await nemesis.inflict(waiting.pop()))
            is_first_round = is_first_round and bool(waiting)
        await trio.sleep(until_s - self.seconds() if until_s > self.seconds() else 0)

    async def watch_lag(self) -> None:
        """Note when this process does not come to its turn: the machine has too much to do then."""
        while True:
            due_s = self.seconds() + LAG_EVERY_S
            await trio.sleep(LAG_EVERY_S)
            if (lag_s := self.seconds() - due_s) > LAG_EVERY_S:
                self.report.lags.append((due_s, lag_s))

    async def settle(self) -> None:
        """Send nothing new; wait until all is acknowledged and heard, or long enough."""
        database = self.cluster.database
        for client in self.clients:
            client.is_sending = False
        await self.wait_until(self.is_all_acknowledged, within_s=SETTLE_S)
        with trio.move_on_after(SETTLE_S):
            last_seqs = await trio.to_thread.run_sync(read_last_seqs, self.cluster.postgres, database)
            while not self.is_all_heard(last_seqs):
                await trio.sleep(LOOK_S)
                last_seqs = await trio.to_thread.run_sync(read_last_seqs, self.cluster.postgres, database)

    def judge(self, found: Found) -> None:
        """Fill the report."""
        report, clients = self.report, self.clients
        report.seconds = self.seconds()
        report.sent = sum(client.sent for client in clients)
        report.resent = sum(client.resent for client in clients)
        report.stored, report.changes = len(found.messages), len(found.events)
        report.judgement = judge_diaries(found, [client.diary for client in clients], is_settled=True)
        for node in self.cluster.nodes:
            for line in [*node.log, *node.daemon.log]:
                if line["level"] != "info":
                    report.warnings[line["event"]] += 1
                if line["level"] in {"error", "critical"}:
                    report.faults.append(f"{node.name} logged {line}")
            report.faults += node.faults
        report.faults += check_database(found, report.judgement.promises.values())
        report.faults += report.judgement.faults
        unanswered = sum(len(client.pending) for client in clients)
        if unanswered:
            report.faults.append(f"{unanswered} messages were never acknowledged although all nodes live")
        if report.acknowledged < len(clients):
            report.faults.append(f"only {report.acknowledged} messages were acknowledged: this proves nothing")


async def torture(
    folder: Path,
    *,
    seconds: float,
    clients: int,
    rooms: int,
    kinds: Sequence[str],
    seed: int,
    nodes: int = 3,
    rate: float = 100,
    has_nginx: bool = True,
    back_within_s: float = inf,
) -> Report:
    """Torture a cluster under a load of `rate` messages a second; if there are faults, diaries and logs are left in the
    folder.
    """
    async with open_cluster(folder, nodes, has_nginx=has_nginx) as cluster:
        run = Torture(cluster, Report(seed, clients, seconds), random.Random(seed))
        probe = await run.settle_people(rooms, rate)
        nemesis = Nemesis(cluster, probe, random.Random(seed), run.seconds)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.watch_lag)
            for client in run.clients:
                nursery.start_soon(client.run)
            await run.suffer(nemesis, kinds, seconds)
            await run.settle()
            nursery.cancel_scope.cancel()
        run.judge(await trio.to_thread.run_sync(read_postgres, cluster.postgres, cluster.database))
    run.report.faults += run.report.late(back_within_s)
    if run.report.faults:
        write_diaries(folder / "diaries", [client.diary for client in run.clients])
        for node in cluster.nodes:
            (folder / f"{node.name}.log").write_bytes(node.raw_log)
    return run.report


def main(argv: Sequence[str] | None = None) -> int:
    """Run one torture and print its report; the exit code says whether every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long there is load, or longer if faults ask it")
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=3, help="nginx needs three")
    parser.add_argument("--rate", type=float, default=100, help="messages a second of all clients together")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--faults", default="all", help=f"all, none, or some of {','.join(FAULTS)}")
    parser.add_argument("--no-nginx", action="store_true", help="let clients choose a node by themselves")
    parser.add_argument("--folder", type=Path, help="keep diaries and logs there (default: a new folder in /tmp)")
    args = parser.parse_args(argv)
    kinds = {"all": list(FAULTS), "none": []}.get(args.faults, args.faults.split(","))
    if unknown := set(kinds) - FAULTS.keys():
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    folder = args.folder or Path(tempfile.mkdtemp(prefix="chatd-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    report = trio.run(
        partial(
            torture, folder, seconds=args.seconds, clients=args.clients, rooms=args.rooms, kinds=kinds, seed=args.seed,
            nodes=args.nodes, rate=args.rate, has_nginx=not args.no_nginx, back_within_s=BACK_WITHIN_S,
        )
    )  # fmt: skip
    sys.stdout.write(f"{report}\n")
    if report.faults:
        sys.stdout.write(f"Diaries and logs are in {folder}\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
