"""A storm for `chatd.client`: connections are cut at random bytes, and nothing may be lost, repeated or left behind.

`python -m tests.client_storm --seed 7 --cuts 1000` is the long form; tests/test_client_storm.py has the short one. The
daemon is a process of its own, or there are several on a PostgreSQL and a Redis behind nginx (`--nodes 3`), so that a
client comes back to any of them. Clients send to rooms, listen with buffers that are too small, leave and join, while a
TCP proxy cuts each of their connections after so many bytes as a die says: in the upgrade, in the resume, in the sends.
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys
import tempfile
from collections import Counter, defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING, Final

import trio

from chatd.client import Client, Stream, open_client, place_of
from chatd.configfile import load_config
from chatd.protocol import NewMessage, Resync, UserLeft
from tests.daemon import NO_FILE, Process, SignedIn, environment, start_process
from tests.nginx import open_nginx
from tests.servers import RUN
from tests.test_cluster import new_back_ends
from tests.torture.checker import Found, read_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from chatd.client import RoomEvent

#: Close with a reset: linger for 0 s (socket(7), SO_LINGER).
RESET: Final = struct.pack("ii", 1, 0)
CLIENTS: Final = 4
ROOMS: Final = 3
#: Seconds in which all that was sent has to be handed over, once nothing is cut any more.
SETTLE_WITHIN_S: Final = 20
#: Bytes after which a connection is cut, and how often: within the upgrade, the hello, the resume, and in full work.
SPANS: Final = ((1, 400, 2), (400, 1_500, 4), (1_500, 10_000, 4), (10_000, 100_000, 2))


@dataclass
class Cutter:
    """A TCP proxy that cuts each of its connections, as long as `is_cutting`. Set `target` to move what is behind."""

    dice: random.Random
    target: int
    port: int = 0
    is_cutting: bool = True
    connections: int = 0
    cuts: int = 0
    cut_at: Counter[str] = field(default_factory=Counter)

    async def serve(self, client: trio.SocketStream) -> None:
        """Carry one connection until it is cut or either side ends it."""
        self.connections += 1
        least, most, _ = self.dice.choices(SPANS, [weight for *_, weight in SPANS])[0]
        budget = [self.dice.randint(least, most)]
        async with client:
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self.target)
            except OSError:
                return
            async with server, trio.open_nursery() as nursery:
                scope = nursery.cancel_scope
                nursery.start_soon(self._carry, client, server, budget, scope)
                nursery.start_soon(self._carry, server, client, budget, scope)

    async def _carry(
        self, source: trio.SocketStream, target: trio.SocketStream, budget: list[int], scope: trio.CancelScope
    ) -> None:
        try:
            while data := bytes(await source.receive_some(65_536)):
                if self.is_cutting and len(data) >= budget[0]:
                    await self._cut(target, data[: budget[0]], budget)
                    break
                budget[0] -= len(data)
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def _cut(self, target: trio.SocketStream, last: bytes, budget: list[int]) -> None:
        """End both ways here, with a reset or politely; what was on its way arrives in part, or not."""
        self.cuts += 1
        if self.dice.random() < 0.5:
            await target.send_all(last)
        if self.dice.random() < 0.5:
            target.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        budget[0] = 0


@asynccontextmanager
async def open_cutter(target: int, dice: random.Random) -> AsyncIterator[Cutter]:
    """A cutter on a free port of the loopback."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        cutter = Cutter(dice, target, port=listener.socket.getsockname()[1])
        nursery.start_soon(partial(trio.serve_listeners, cutter.serve, [listener]))
        yield cutter
        nursery.cancel_scope.cancel()


@dataclass
class Witness:
    """One client's user: what it was promised and what it was handed."""

    user: SignedIn
    #: (room, seq) of the ack, by content.
    promises: dict[str, tuple[str, int]] = field(default_factory=dict)
    #: Room to what was handed over, in order; `None` where the order begins anew.
    handed: dict[str, list[tuple[int, str] | None]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)
    sent: int = 0

    def take(self, event: RoomEvent) -> None:
        """Note an event, and see that it is the next one."""
        room_id, seq = place_of(event)
        handed = self.handed[room_id]
        if isinstance(event, Resync):
            if event.reason != "not_a_member":
                self.faults.append(f"{self.user.username}: {event}")
            handed.append(None)
            return
        if handed and handed[-1] is not None and seq != handed[-1][0] + 1:
            self.faults.append(f"{self.user.username} was handed seq {seq} of {room_id} after {handed[-1][0]}")
        handed.append((seq, event.message.content if isinstance(event, NewMessage) else ""))
        if isinstance(event, UserLeft) and event.user_id == self.user.id:
            handed.append(None)


@dataclass
class Report:
    """What came of a storm."""

    seed: int
    cuts: int = 0
    connections: int = 0
    sent: int = 0
    handed: int = 0
    #: Nodes that clients came to.
    nodes: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"BROKEN: {fault}" for fault in self.faults[:50]] or ["Every promise was kept."]
        lines.append(
            f"seed {self.seed}: {self.connections} connections to {self.nodes} nodes, {self.cuts} of them cut, "
            f"{self.sent} messages sent, {self.handed} events handed over"
        )
        return "\n".join(lines)


def living_tasks() -> int:
    """How many tasks Trio has."""
    return trio.lowlevel.current_statistics().tasks_living


def open_sockets() -> int:
    """How many sockets this process has."""
    links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(str(path.readlink()).startswith("socket:") for path in links)


async def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again; the deadline is the caller's."""
    while True:
        if is_so():
            return
        await trio.sleep(0.01)


@dataclass
class Work:
    """What the clients do: send, listen, leave and join."""

    clients: list[Client]
    witnesses: list[Witness]
    rooms: list[str]
    lobby: str
    dice: random.Random
    is_done: trio.Event = field(default_factory=trio.Event)

    async def run(self, cutter: Cutter, cuts: int) -> None:
        """Work until there were cuts enough, then until all that was sent has been handed over."""
        pairs = list(zip(self.clients, self.witnesses, strict=True))
        async with trio.open_nursery() as listeners:
            for client, witness in pairs:
                stream = client.events(buffer=self.dice.choice([2, 20, 1000]))
                listeners.start_soon(self._listen, stream, witness)
            async with trio.open_nursery() as senders:
                for client, witness in pairs:
                    for room_id in self.rooms:
                        senders.start_soon(self._send, client, witness, room_id)
                    senders.start_soon(self._wander, client)
                await wait_until(lambda: cutter.cuts >= cuts)
                self.is_done.set()
            cutter.is_cutting = False
            for client in self.clients:
                # the last messages: whoever was handed them was handed all
                for room_id in self.rooms:
                    await client.send(room_id, f"last of {client.username}")
            with trio.move_on_after(SETTLE_WITHIN_S):
                await wait_until(lambda: all(self._has_all(witness) for witness in self.witnesses))
            for witness in self.witnesses:
                if not self._has_all(witness):
                    ends = {room_id: handed[-3:] for room_id, handed in witness.handed.items()}
                    witness.faults.append(f"{witness.user.username} was not handed everything, but {ends}")
            listeners.cancel_scope.cancel()

    def _has_all(self, witness: Witness) -> bool:
        """Whether the last message of everybody was handed over, and the end of the membership that was left."""
        lasts = {f"last of {each.user.username}" for each in self.witnesses}
        has_left = not witness.handed[self.lobby] or witness.handed[self.lobby][-1] is None
        return has_left and all(
            lasts <= {each[1] for each in witness.handed[room_id][-20:] if each} for room_id in self.rooms
        )

    async def _listen(self, stream: Stream[RoomEvent], witness: Witness) -> None:
        async for event in stream:
            witness.take(event)
            if self.dice.random() < 0.05:
                await trio.sleep(self.dice.uniform(0, 0.02))

    async def _send(self, client: Client, witness: Witness, room_id: str) -> None:
        while not self.is_done.is_set():
            witness.sent += 1
            content = f"{client.username}-{witness.sent}" + " x" * self.dice.choice([0, 10, 1000])
            ack = await client.send(room_id, content)
            witness.promises[content] = (ack.room_id, ack.seq)
            await trio.sleep(self.dice.uniform(0, 0.02))

    async def _wander(self, client: Client) -> None:
        while not self.is_done.is_set():
            await client.join(self.lobby)
            await trio.sleep(self.dice.uniform(0, 0.1))
            await client.leave(self.lobby)


@dataclass(frozen=True)
class Place:
    """The daemons of a storm, the port to reach any of them, and their database."""

    nodes: list[Process]
    port: int
    source: str


@asynccontextmanager
async def open_place(folder: Path, count: int | None) -> AsyncIterator[Place]:
    """So many nodes on a new PostgreSQL database and Redis, behind nginx; `None`: one, on what the test stands on."""
    options = {} if count is None else new_back_ends()
    database = load_config(NO_FILE, environment(folder, limits=False, **options)).database
    source = database.url.reveal() or str(folder / "chatd.db")
    async with AsyncExitStack() as stack:
        if count is None:
            daemon = await stack.enter_async_context(start_process(folder))
            yield Place([daemon], daemon.websocket_port, source)
            return
        nodes = [
            await stack.enter_async_context(start_process(folder / f"node{number}", limits=False, **options))
            for number in range(count)
        ]
        # It has three places to fill; what it says of connections that were cut is no news.
        front = await stack.enter_async_context(open_nginx(list(islice(cycle(nodes), 3)), stderr=DEVNULL))
        yield Place(nodes, front.websocket_port, source)


async def storm(folder: Path, *, seed: int, cuts: int, nodes: int | None = None) -> Report:
    """Cut connections of clients at work so many times, let them finish, and compare; `nodes` as for `open_place`."""
    dice = random.Random(seed)
    report = Report(seed)
    async with open_place(folder, nodes) as place, open_cutter(place.port, dice) as cutter:
        daemon = place.nodes[0]
        users = [await daemon.register(f"user{number}") for number in range(CLIENTS)]
        members = [user.id for user in users[1:]]
        rooms = [await daemon.create_room(users[0], f"room{number}", members=members) for number in range(ROOMS)]
        before = living_tasks(), open_sockets()
        witnesses = [Witness(user) for user in users]
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    open_client(f"ws://127.0.0.1:{cutter.port}/", token=user.token, reconnect_s=(0.0, 0.02))
                )
                for user in users
            ]
            await Work(clients, witnesses, rooms, await daemon.lobby(users[0]), dice).run(cutter, cuts)
        with trio.move_on_after(5):
            # the proxy's own ends of connections close a moment later
            await wait_until(lambda: (living_tasks(), open_sockets()) == before)
        if (after := (living_tasks(), open_sockets())) != before:
            report.faults.append(f"tasks and sockets were {before}, and are {after}: some are left behind")
        report.cuts, report.connections = cutter.cuts, cutter.connections
        for node in place.nodes:
            report.nodes += any(line.get("event") == "authenticated" for line in node.log)
            await _stop(node)
    _check(read_source(place.source), witnesses, report)
    return report


async def _stop(daemon: Process) -> None:
    daemon.process.terminate()
    with trio.fail_after(10):
        await daemon.process.wait()


def _check(stored: Found, witnesses: list[Witness], report: Report) -> None:
    places = {(kept.sender_id, kept.content): (kept.room_id, kept.seq) for kept in stored.messages}
    times = Counter((kept.sender_id, kept.content) for kept in stored.messages)
    contents = {(kept.room_id, kept.seq): kept.content for kept in stored.messages}
    for witness in witnesses:
        report.faults += witness.faults
        report.sent += witness.sent
        for content, place in witness.promises.items():
            key = witness.user.id, content
            if times[key] != 1 or places[key] != place:
                report.faults.append(f"{content[:40]} was acknowledged at {place} and stored {times[key]} times")
        if len(witness.promises) != witness.sent:
            report.faults.append(f"{witness.sent - len(witness.promises)} sends of {witness.user.username} never ended")
        for room_id, handed in witness.handed.items():
            for each in handed:
                if each is None:
                    continue
                report.handed += 1
                if each[1] != contents.get((room_id, each[0]), ""):
                    report.faults.append(f"seq {each[0]} of {room_id} was handed over as something else")
    newest = {room_id: last_seq for room_id, (last_seq, _, _) in stored.heads.items()}
    for witness in witnesses:
        for room_id, handed in witness.handed.items():
            if handed and handed[-1] is not None and handed[-1][0] != newest[room_id]:
                report.faults.append(f"{witness.user.username} was handed {handed[-1][0]} of {newest[room_id]} last")


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument(
        "--nodes", type=int, choices=(1, 2, 3), help="so many on PostgreSQL and Redis (default: one that is embedded)"
    )
    args = parser.parse_args()
    with RUN, tempfile.TemporaryDirectory() as folder:
        report = trio.run(partial(storm, Path(folder), seed=args.seed, cuts=args.cuts, nodes=args.nodes))
    sys.stdout.write(f"{report}\n")
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
