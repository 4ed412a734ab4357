"""How many connections each user has: counted here, written to Redis, added up over all nodes.

Every node has a hash of its users' counts that Redis forgets soon after the node falls silent, and says in a set of all
nodes that it lives. What changed is written together, once an exchange; one call a beat keeps all of it alive.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from chatd.bus.outgoing import Call
from chatd.bus.scripts import BEAT, SUM_COUNTS, WRITE_COUNTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from chatd.bus.link import Arguments, Reply

#: Users in one call; Lua takes less than 8000 arguments at once.
MAX_USERS: Final = 500


class Devices:
    """The counts of this node, and the calls that share them. `on_change` is called when something is to be written."""

    def __init__(self, prefix: str, *, node: str, expiry_s: float, on_change: Callable[[], None]) -> None:
        self._nodes = f"{prefix}:nodes"
        self._hashes = f"{prefix}:node:"
        self._node = node
        self._expiry_ms = int(expiry_s * 1000)
        self._on_change = on_change
        self._counts: Counter[str] = Counter()
        self._unwritten: dict[str, None] = {}
        self._written = 0
        self._sum: _Sum | None = None

    def arrived(self, user_id: str) -> None:
        self._counts[user_id] += 1
        self._change(user_id)

    def departed(self, user_id: str) -> None:
        self._counts[user_id] -= 1
        if self._counts[user_id] <= 0:
            del self._counts[user_id]
        self._change(user_id)

    def _change(self, user_id: str) -> None:
        self._unwritten[user_id] = None
        self._on_change()

    def own(self, user_ids: Sequence[str]) -> dict[str, int]:
        """The counts of this node; users without a connection are left out."""
        return {user_id: self._counts[user_id] for user_id in user_ids if user_id in self._counts}

    @property
    def has_waiting(self) -> bool:
        return bool(self._unwritten) or self._sum is not None

    def take(self) -> list[Call]:
        """The calls that write what changed, and the one that answers all who asked since."""
        users = list(self._unwritten)
        self._unwritten.clear()
        self._written = len(self._counts)
        calls = [self._write(users[start : start + MAX_USERS]) for start in range(0, len(users), MAX_USERS)]
        if self._sum is not None:
            calls += self._sum.calls(self._nodes, self._node, self._hashes)
            self._sum = None
        return calls

    def _write(self, users: Sequence[str]) -> Call:
        pairs = [part for user_id in users for part in (user_id, self._counts.get(user_id, 0))]
        return Call(WRITE_COUNTS, [self._hashes + self._node], [self._expiry_ms, *pairs])

    def beat(self) -> Call:
        """Say that this node lives. Behind `take` in an exchange, for it looks whether Redis has all of it.

        Else everything is written again: so it is on each new connection, whose trial begins with taking all away.
        """
        expected = self._written

        def look(reply: Reply) -> None:
            if type(reply) is int and reply != expected:
                self._unwritten.update(dict.fromkeys(self._counts))
                self._on_change()

        return Call(BEAT, [self._nodes, self._hashes + self._node], [self._node, self._expiry_ms], on_reply=look)

    def farewell(self) -> list[Arguments]:
        """Take this node's counts away."""
        self._unwritten.clear()
        return [("DEL", self._hashes + self._node), ("ZREM", self._nodes, self._node)]

    def lose(self) -> None:
        """The link is lost: whoever waits to ask hears of this node's counts alone."""
        if self._sum is not None:
            self._sum.lose()
            self._sum = None

    async def total(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """The counts over all nodes, this one's as they are now; this one's alone if Redis does not answer.

        Those who ask at once share a call.
        """
        if self._sum is None:
            self._sum = _Sum()
        elsewhere = self._sum
        elsewhere.user_ids.update(dict.fromkeys(user_ids))
        self._on_change()
        counts = await elsewhere.wait()
        totals = {user_id: self._counts.get(user_id, 0) + counts.get(user_id, 0) for user_id in user_ids}
        return {user_id: total for user_id, total in totals.items() if total > 0}


class _Sum:
    """Who is asked for in one exchange, and the answers of the other nodes."""

    def __init__(self) -> None:
        self.user_ids: dict[str, None] = {}
        self._calls: list[tuple[Sequence[str], Call]] = []
        self._settled = trio.Event()

    def calls(self, nodes: str, node: str, hashes: str) -> list[Call]:
        users = list(self.user_ids)
        for start in range(0, len(users), MAX_USERS):
            part = users[start : start + MAX_USERS]
            self._calls.append((part, Call(SUM_COUNTS, [nodes], [node, hashes, *part])))
        self._settled.set()
        return [call for _, call in self._calls]

    def lose(self) -> None:
        """Nobody will be asked."""
        self._settled.set()

    async def wait(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        await self._settled.wait()
        for users, call in self._calls:
            reply = await call.wait()
            if type(reply) is list:
                counts.update(zip(users, reply, strict=True))
        return counts
