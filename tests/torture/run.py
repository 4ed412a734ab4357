"""A torture from its begin to its verdict: people and rooms, load and faults, calm, and what is found then."""

from __future__ import annotations

import gc
import random
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

import trio

from tests.daemon import CHATD, SignedIn
from tests.torture.checker import Found, check_database, check_promises, kept_of_history
from tests.torture.client import Habits, TortureClient
from tests.torture.diary import write_diaries
from tests.torture.nemesis import Nemesis, schedule
from tests.torture.nodes import Cluster, open_cluster
from tests.torture.probe import Probe
from tests.torture.report import Report
from tests.torture.stays import judge_diaries
from tests.torture.web import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tests.daemon import Program
    from tests.torture.checker import Kept
    from tests.torture.nodes import Node

#: How many clients share a user with the one before them.
SHARED_ONE_IN: Final = 5
ROOMS_OF_CLIENT: Final = (2, 4)
#: The share of connections that come through the doors, which fail.
THROUGH_DOORS: Final = 0.4
#: Seconds within which all are to have connected, and have everything acknowledged at the end, and heard.
ARRIVE_S: Final = 30.0
SETTLE_S: Final = 40.0
#: Seconds between two looks at how far the database is, and at how late this process is.
LOOK_S: Final = 0.5
LAG_EVERY_S: Final = 0.1
#: How a connection may end: by either side, in a restart, by a node that is out or finds its client slow or silent for
#: too long, and by the end of a sign-in.
GOOD_ENDS: Final = frozenset({None, 1000, 1006, 1012, 1013, 4008, 4009, 4501, 4502, 4506})


@dataclass
class Torture:
    """A cluster, its clients, and the time of the run."""

    cluster: Cluster
    report: Report
    #: Seconds for which is waited at the end until all is acknowledged, and until all is heard.
    settle_s: float = SETTLE_S
    began_s: float = field(default_factory=trio.current_time)
    clients: list[TortureClient] = field(default_factory=list)
    rooms: list[str] = field(default_factory=list)
    history: list[Kept] = field(default_factory=list)
    #: Whose rooms they are: one who never connects.
    owner: SignedIn = field(init=False)
    _stirred: trio.Event = field(default_factory=trio.Event)

    def seconds(self) -> float:
        return trio.current_time() - self.began_s

    def stir(self) -> None:
        """Something has changed for a client."""
        self._stirred.set()

    def port(self, dice: random.Random) -> int:
        """Where a client tries to connect."""
        if dice.random() < THROUGH_DOORS:
            return self.cluster.doors.port
        return self.cluster.port or dice.choice(self.cluster.nodes).ports[0]

    def http_port(self, dice: random.Random) -> int:
        return dice.choice(self.cluster.nodes).ports[1]

    async def settle_people(self, rooms: int, rate: float) -> Probe:
        """Register everybody and make the rooms, through all nodes at once."""
        count = self.report.clients
        daemons = [node.daemon for node in self.cluster.nodes]
        owner = await daemons[0].register("owner")
        users: dict[int, SignedIn] = {}
        room_ids: dict[int, str] = {}
        places = trio.CapacityLimiter(10)

        async def register(number: int) -> None:
            async with places:
                users[number] = await daemons[number % len(daemons)].register(f"user{number}")

        async def make_room(number: int) -> None:
            async with places:
                daemon = daemons[number % len(daemons)]
                room_ids[number] = await daemon.create_room(owner, f"room {number}", kind="public")

        async with trio.open_nursery() as nursery:
            for number in range(count - count // SHARED_ONE_IN):
                nursery.start_soon(register, number)
            for number in range(rooms):
                nursery.start_soon(make_room, number)
        self.owner, self.rooms = owner, [room_ids[number] for number in range(rooms)]
        for number in range(count):
            await self._add_client(number, users, rate / count)
        user = await daemons[0].register("probe")
        return Probe(self.cluster, user, await daemons[-1].create_room(user, "probe", kind="private"))

    async def _add_client(self, number: int, users: Mapping[int, SignedIn], rate: float) -> None:
        number_of_user = number if number in users else number - len(users)
        is_shared = number_of_user < self.report.clients - len(users)
        dice = random.Random(f"{self.report.seed} client {number}")
        habits = Habits(
            rate=rate, stay_away=0.5, stray_s=20, resume=0.7, replay=0.0 if is_shared else 0.4,
            patience_s=dice.uniform(3, 15), pause_s=(0.05, 1.0),
        )  # fmt: skip
        web = Web(users[number_of_user], partial(self.http_port, dice))
        if number not in users:
            # A device of its own, which neither ends the other's sign-in nor spends its tokens.
            assert await web.sign_in()
        at_home = dice.sample(self.rooms, min(len(self.rooms), dice.randint(*ROOMS_OF_CLIENT)))
        self.clients.append(
            TortureClient(
                f"client{number}", web, at_home, partial(self.port, dice), habits, dice, self.stir, self.seconds,
                peers=[user.id for user in users.values() if user is not users[number_of_user]],
            )
        )  # fmt: skip

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

    async def suffer(self, nemesis: Nemesis, kinds: Sequence[str], seconds: float, each: int) -> None:
        """Every kind of fault so many times, all of them in random order, and again until the time is over."""
        await self.wait_until(self.have_all_arrived, within_s=ARRIVE_S)
        until_s = self.seconds() + seconds
        for number, kind in enumerate(schedule(kinds, self.report.seed)):
            if number >= each * len(kinds) and self.seconds() >= until_s:
                break
            self.report.wounds.append(await nemesis.inflict(kind))
        await trio.sleep(max(0, until_s - self.seconds()))

    def watch_drain(self, node: Node) -> Callable[[], None]:
        """Those who have read all the time and are connected straight to a node are told before it stops."""
        stays = [(client, stay) for client in self.clients if (stay := client.live) and not stay.was_slow]
        stays = [(client, stay) for client, stay in stays if stay.connection.port == node.ports[0]]

        def look() -> None:
            for client, stay in stays:
                is_gone = stay.was_cut or stay.was_slow
                self.report.told_of_shutdown += stay.was_told_of_shutdown
                if not stay.was_told_of_shutdown and not is_gone and stay.connection.close_code not in {1013, 4506}:
                    self.report.faults.append(
                        f"{client.name}: not told that {node.name} stops, closed {stay.connection.close_code}"
                    )

        return look

    async def watch_lag(self) -> None:
        """Note when this process does not come to its turn: the machine has too much to do then."""
        while True:
            due_s = self.seconds() + LAG_EVERY_S
            await trio.sleep(LAG_EVERY_S)
            if (lag_s := self.seconds() - due_s) > LAG_EVERY_S:
                self.report.lags.append((due_s, lag_s))

    async def settle(self) -> None:
        """Send nothing new; wait until all is acknowledged and heard, or long enough; then read the whole history."""
        for client in self.clients:
            client.calm()
        await self.wait_until(self.is_all_acknowledged, within_s=self.settle_s)
        with trio.move_on_after(self.settle_s):
            last_seqs = await trio.to_thread.run_sync(self.cluster.read_last_seqs)
            while not self.is_all_heard(last_seqs):
                await trio.sleep(LOOK_S)
                last_seqs = await trio.to_thread.run_sync(self.cluster.read_last_seqs)
        self.report.faults += [
            f"{client.name} is connected with a sign-in that was ended"
            for client in self.clients
            if (stay := client.live) is not None and stay.token in client.web.revoked
        ]
        await self._read_history()

    async def _read_history(self) -> None:
        """Everything that HTTP tells to the rooms' owner, through all nodes in turn."""
        for number, room_id in enumerate(self.rooms):
            daemon = self.cluster.nodes[number % len(self.cluster.nodes)].daemon
            after, has_more = 0, True
            while has_more:
                path = f"/api/rooms/{room_id}/messages?limit=100&afterSeq={after}"
                answer = await daemon.http("GET", path, token=self.owner.token)
                assert answer.status == 200, answer.body
                page = answer.json()
                self.history += kept_of_history(page["messages"])
                has_more = page["hasMore"]
                after = page["afterSeq"] if has_more else after

    def judge(self, found: Found) -> None:
        """Fill the report."""
        report, clients = self.report, self.clients
        report.seconds = self.seconds()
        report.stored, report.changes = len(found.messages), len(found.events)
        report.judgement = judge_diaries(found, [client.diary for client in clients], is_settled=True)
        report.faults += check_database(found, report.judgement.promises.values())
        report.faults += report.judgement.faults
        self._judge_nodes()
        self._judge_http(found)
        for client in clients:
            report.sent += client.sent
            report.resent += client.resent
            report.acts += client.acts
            report.faults += client.faults
            report.close_codes.update(stay.connection.close_code for stay in client.stays)
        report.faults += [
            f"{count} connections were closed with {code}"
            for code, count in report.close_codes.items()
            if code not in GOOD_ENDS
        ]
        if unanswered := sum(len(client.pending) for client in clients):
            report.faults.append(f"{unanswered} messages were never acknowledged although all nodes live")
        if report.acknowledged < len(clients):
            report.faults.append(f"only {report.acknowledged} messages were acknowledged: this proves nothing")

    def _judge_nodes(self) -> None:
        for node in self.cluster.nodes:
            for line in [*node.log, *node.daemon.log]:
                if line["level"] != "info":
                    self.report.warnings[line["event"]] += 1
                if line["event"] == "disconnected":
                    self.report.node_codes[line["code"]] += 1
                if line["level"] in {"error", "critical"}:
                    self.report.faults.append(f"{node.name} logged {line}")
            self.report.faults += node.faults

    def _judge_http(self, found: Found) -> None:
        report, kept = self.report, set(found.messages)
        # What they said before is not stored any more.
        changed = {message._replace(content="") for message in kept if message.message_id in found.changed}
        webs = [client.web for client in self.clients]
        promises = [promise for web in webs for promise in web.promises]
        by_websocket = report.judgement.promises
        report.posted = len(promises)
        report.acknowledged = len(by_websocket.keys() | {promise.key for promise in promises})
        report.faults += check_promises(found.messages, promises, changed=found.changed)
        for web in webs:
            report.http_answers += web.answers
            report.told_by_http += len(web.told)
            report.faults += web.faults
            report.faults += [
                f"{told} was read by HTTP, which is not what is stored"
                for told in web.told - kept
                if told.message_id not in found.changed or told._replace(content="") not in changed
            ]
        if sorted(self.history) != sorted(of_rooms := [message for message in kept if message.room_id in self.rooms]):
            report.faults.append(
                f"the history over HTTP has {len(self.history)} messages and is not that of the database, which has"
                f" {len(of_rooms)}"
            )


async def torture(
    folder: Path,
    *,
    nodes: int,
    seconds: float,
    clients: int,
    rooms: int,
    kinds: Sequence[str],
    seed: int,
    each: int = 1,
    rate: float = 100,
    has_nginx: bool = True,
    back_within_s: float = inf,
    settle_s: float = SETTLE_S,
    program: Program = CHATD,
) -> Report:
    """Torture so many nodes under a load of `rate` acts a second, until the time is over and every kind of fault has
    been inflicted `each` times. Logs are left in the folder; diaries and the database (embedded as it is, else an
    export), too, if there are faults.
    """
    async with open_cluster(folder, nodes, has_nginx=has_nginx, program=program) as cluster:
        run = Torture(cluster, Report(seed, clients, seconds), settle_s)
        probe = await run.settle_people(rooms, rate)
        nemesis = Nemesis(cluster, probe, seed, run.seconds, run.watch_drain)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.watch_lag)
            for client in run.clients:
                nursery.start_soon(client.run)
            await run.suffer(nemesis, kinds, seconds, each)
            await run.settle()
            nursery.cancel_scope.cancel()
        # What clients wrote down lasts to the end: to look through it for garbage again and again finds nothing.
        gc.freeze()
        for node in cluster.nodes:
            (folder / f"{node.name}.log").write_bytes(node.raw_log + node.daemon.raw_log)
        is_sound = False
        try:
            run.judge(await trio.to_thread.run_sync(cluster.read_found))
            run.report.faults += run.report.late(back_within_s)
            is_sound = not run.report.faults
        finally:
            gc.unfreeze()
            if not is_sound:
                write_diaries(folder / "diaries", [client.diary for client in run.clients])
        if not is_sound:
            await cluster.keep_data(folder)
    return run.report
