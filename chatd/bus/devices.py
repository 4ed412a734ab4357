"""The roll of who is there, over all nodes: counted here, written to Redis, asked of it.

Every node has a hash of its users' counts of connections, which outlives it for a while, and says in a set of all nodes
that it lives; `scripts` has the rest of the roll. What changed is written together, once an exchange; one call a beat
keeps all of it alive. What a write lost is written again.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from chatd.bus.outgoing import Call
from chatd.bus.scripts import BEAT, CLAIM_OFFLINE, SUM_COUNTS, WRITE_COUNTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from chatd.bus.link import Arguments, Reply

#: Users in one call; Lua takes less than 8000 arguments at once.
MAX_USERS: Final = 500
#: Redis keeps the counts of a silent node for so many of its lives, for others to find out who was there.
KEPT_LIVES: Final = 4
#: The roll is forgotten when no node has lived for so long.
ROLL_MS: Final = 86_400_000
#: After so long it is looked whether somebody online has a connection, should their leaving have been lost.
LOOK_AFTER_MS: Final = 300_000
#: In the place of a grace: a departure that changes nothing of who is online.
NO_GRACE: Final = -1


class Keys(NamedTuple):
    """What the roll's parts are called in Redis; `hashes` is how the names of the nodes' counts begin."""

    nodes: str
    online: str
    leaving: str
    mark: str
    hashes: str

    @classmethod
    def of(cls, prefix: str, suffix: str = "") -> Keys:
        """The names of a cluster; a suffix makes a roll that no cluster has, but for the counts."""
        return cls(
            nodes=f"{prefix}:nodes{suffix}",
            online=f"{prefix}:online{suffix}",
            leaving=f"{prefix}:leaving{suffix}",
            mark=f"{prefix}:mark{suffix}",
            hashes=f"{prefix}:node:",
        )


class Lives(NamedTuple):
    """Milliseconds: how long a node counts as living without a sign of life, and its counts and the roll are kept."""

    node: int
    counts: int
    roll: int = ROLL_MS


def write_call(
    keys: Keys,
    node: str,
    triples: Sequence[str | int],
    *,
    lives: Lives,
    mark: bytes = b"",
    on_reply: Callable[[Reply], None] | None = None,
) -> Call:
    names = [keys.hashes + node, keys.nodes, keys.online, keys.leaving, keys.mark]
    arguments = [node, keys.hashes, lives.counts, lives.roll, LOOK_AFTER_MS, mark, *triples]
    return Call(WRITE_COUNTS, names, arguments, on_reply=on_reply)


def beat_call(keys: Keys, node: str, *, lives: Lives, on_reply: Callable[[Reply], None] | None = None) -> Call:
    names = [keys.nodes, keys.hashes + node, keys.online, keys.leaving, keys.mark]
    return Call(BEAT, names, [node, *lives], on_reply=on_reply)


def sum_call(keys: Keys, node: str, user_ids: Sequence[str]) -> Call:
    return Call(SUM_COUNTS, [keys.nodes, keys.online, keys.leaving], [node, keys.hashes, *user_ids])


def claim_call(keys: Keys, *, grace_ms: int) -> Call:
    names = [keys.nodes, keys.online, keys.leaving]
    return Call(CLAIM_OFFLINE, names, [keys.hashes, LOOK_AFTER_MS, grace_ms, MAX_USERS])


class Devices:
    """The counts of this node, and the calls that share them.

    `on_change` is called when something is to be written, `on_online` with those whom nobody saw online before; `send`
    gives a call to the next exchange.
    """

    def __init__(
        self,
        prefix: str,
        *,
        node: str,
        expiry_s: float,
        on_change: Callable[[], None],
        on_online: Callable[[Sequence[str]], None],
        send: Callable[[Call], None],
    ) -> None:
        self._keys = Keys.of(prefix)
        self._node = node
        life_ms = int(expiry_s * 1000)
        self._lives = Lives(node=life_ms, counts=KEPT_LIVES * life_ms)
        self._on_change = on_change
        self._on_online = on_online
        self._send = send
        self._is_out = True
        # How often there was a link; and when nodes that were lost with an earlier one have had time to be back, too.
        self._links = 0
        self._claims_from_s = 0.0
        self._counts: Counter[str] = Counter()
        # Users who have appeared on one of these connections; those of them of whom Redis was told, and forgot it.
        self._appeared: set[str] = set()
        self._known: set[str] = set()
        self._forgotten: set[str] = set()
        self._mark: bytes = b""
        # Whose count is to be written, with the grace in milliseconds of those who departed.
        self._unwritten: dict[str, int] = {}
        self._written = 0
        self._sum: _Sum | None = None

    def arrived(self, user_id: str) -> None:
        self._counts[user_id] += 1
        self._change(user_id)

    def appeared(self, user_id: str) -> None:
        is_new = user_id not in self._appeared and self._unwritten.get(user_id, NO_GRACE) == NO_GRACE
        self._appeared.add(user_id)
        self._change(user_id)
        if is_new and self._is_out:
            # It is told here, where it is known; it will be told elsewhere if it is news there.
            self._on_online([user_id])

    def departed(self, user_id: str, grace_s: float) -> None:
        self._counts[user_id] -= 1
        self._change(user_id)
        if self._counts[user_id] <= 0:
            del self._counts[user_id]
            if user_id in self._appeared:
                self._appeared.discard(user_id)
                self._known.discard(user_id)
                self._forgotten.discard(user_id)
                self._unwritten[user_id] = int(grace_s * 1000)

    def _change(self, user_id: str) -> None:
        self._unwritten.setdefault(user_id, NO_GRACE)
        self._on_change()

    @property
    def has_waiting(self) -> bool:
        return bool(self._unwritten) or self._sum is not None

    def take(self) -> list[Call]:
        """The calls that write what changed, and the one that answers all who asked since."""
        changes = list(self._unwritten.items())
        self._unwritten.clear()
        self._written = len(self._counts)
        calls = [self._write(changes[start : start + MAX_USERS]) for start in range(0, len(changes), MAX_USERS)]
        if self._sum is not None:
            calls += self._sum.calls(self._keys, self._node)
            self._sum = None
        return calls

    def _write(self, changes: Sequence[tuple[str, int]]) -> Call:
        triples: list[str | int] = []
        told = []
        for user_id, grace_ms in changes:
            if user_id in self._appeared:
                becomes: str | int = "known" if user_id in self._known else "new"
                if user_id in self._forgotten:
                    becomes = "quiet"
                told.append(user_id)
            else:
                becomes = "-" if grace_ms == NO_GRACE else grace_ms
            triples += [user_id, self._counts.get(user_id, 0), becomes]

        def note(reply: Reply) -> None:
            if type(reply) is list:
                mark, news = reply
                self._note_mark(mark)
                self._known.update(user_id for user_id in told if user_id in self._appeared)
                self._forgotten.difference_update(told)
                if news:
                    self._on_online([str(user_id, "utf-8") for user_id in news])
            elif reply is None:
                # It went with the link; on the next one it is written behind whatever has changed since.
                for user_id, grace_ms in changes:
                    if self._unwritten.get(user_id, NO_GRACE) == NO_GRACE:
                        self._unwritten[user_id] = grace_ms

        return write_call(self._keys, self._node, triples, lives=self._lives, mark=self._mark, on_reply=note)

    def _note_mark(self, mark: bytes) -> None:
        """Another mark than before: Redis has forgotten everybody, so it is told again of all, and nobody else is."""
        if self._mark and mark != self._mark:
            self._forgotten |= self._known
            self._write_again()
        self._mark = mark

    def _write_again(self) -> None:
        for user_id in self._counts:
            self._unwritten.setdefault(user_id, NO_GRACE)
        self._on_change()

    def beat(self) -> Call:
        """Say that this node lives. Behind `take` in an exchange, for it looks whether Redis has all of it.

        Else everything is written again: so it is on each new connection, whose trial begins with taking all away.
        """
        expected = self._written

        def look(reply: Reply) -> None:
            if type(reply) is int and reply != expected:
                self._write_again()

        return beat_call(self._keys, self._node, lives=self._lives, on_reply=look)

    def farewell(self) -> list[Arguments]:
        """Take this node's counts away."""
        self._unwritten.clear()
        return [("DEL", self._keys.hashes + self._node), ("ZREM", self._keys.nodes, self._node)]

    def begin(self) -> None:
        """There is a link. Nobody is found to be gone until all nodes that lost theirs have had the time of a life."""
        self._is_out = False
        if self._links:
            self._claims_from_s = trio.current_time() + self._lives.node / 1000
        self._links += 1

    def lose(self) -> None:
        """The link is lost: whoever waits to ask hears of this node's counts alone."""
        self._is_out = True
        if self._sum is not None:
            self._sum.lose()
            self._sum = None

    async def total(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """The counts over all nodes, this one's as they are now; this one's alone if Redis does not answer.

        Those who ask at once share a call.
        """
        found = await self._ask(user_ids)
        totals = {user_id: self._counts.get(user_id, 0) + found.get(user_id, _NOBODY).devices for user_id in user_ids}
        return {user_id: total for user_id, total in totals.items() if total > 0}

    async def online(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """As `total`, with those who have no connection and are seen online, without those who are not seen yet."""
        found = await self._ask(user_ids)
        return {
            user_id: self._counts.get(user_id, 0) + elsewhere.devices
            for user_id in user_ids
            if (elsewhere := found.get(user_id, _NOBODY)).is_online or user_id in self._appeared or elsewhere.devices
        }

    async def _ask(self, user_ids: Sequence[str]) -> Mapping[str, _Elsewhere]:
        if self._is_out or not user_ids:
            return {}
        if self._sum is None:
            self._sum = _Sum()
        elsewhere = self._sum
        elsewhere.user_ids.update(dict.fromkeys(user_ids))
        self._on_change()
        return await elsewhere.wait()

    async def claim_offline(self) -> list[str]:
        """Take those off the roll who are seen offline by now."""
        gone: list[str] = []
        has_more: int = 1
        while has_more and not self._is_out and trio.current_time() >= self._claims_from_s:
            call = claim_call(self._keys, grace_ms=self._lives.node)
            self._send(call)
            reply = await call.wait()
            has_more, users = reply if type(reply) is list else (0, [])
            gone += [str(user_id, "utf-8") for user_id in users]
        return gone


class _Elsewhere(NamedTuple):
    """What the other nodes know of a user."""

    devices: int
    is_online: bool


_NOBODY: Final = _Elsewhere(0, is_online=False)


class _Sum:
    """Who is asked for in one exchange, and the answers of the other nodes."""

    def __init__(self) -> None:
        self.user_ids: dict[str, None] = {}
        self._calls: list[tuple[Sequence[str], Call]] = []
        self._settled = trio.Event()

    def calls(self, keys: Keys, node: str) -> list[Call]:
        users = list(self.user_ids)
        for start in range(0, len(users), MAX_USERS):
            part = users[start : start + MAX_USERS]
            self._calls.append((part, sum_call(keys, node, part)))
        self._settled.set()
        return [call for _, call in self._calls]

    def lose(self) -> None:
        """Nobody will be asked."""
        self._settled.set()

    async def wait(self) -> dict[str, _Elsewhere]:
        found: dict[str, _Elsewhere] = {}
        await self._settled.wait()
        for users, call in self._calls:
            reply = await call.wait()
            if type(reply) is list:
                counts, flags = reply[: len(users)], reply[len(users) :]
                for user_id, count, flag in zip(users, counts, flags, strict=True):
                    found[user_id] = _Elsewhere(count, is_online=bool(flag))
        return found
