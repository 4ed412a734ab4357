"""What waits to be sent to Redis: it goes out together, while what comes after it gathers.

What somebody waits for goes first. What is published keeps its order, and several commits of a room that wait together
are one message. The queue is bounded by bytes: past the bound the newest is dropped, which `on_loss` is told of; the
hub repairs from the store. All of it is sync and knows no connection: `redis` exchanges what `take` gives.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import trio

from chatd.bus.link import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from chatd.bus.link import Arguments, Reply
    from chatd.bus.scripts import Script

#: Published bytes that wait at most; more are dropped.
MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
#: One exchange takes about so many published bytes, and at most so many commands that somebody waits for and as many
#: others, so that neither holds up the other; it has `timeout_s` for them.
MAX_EXCHANGE_BYTES: Final = 256 * 1024
MAX_EXCHANGE_COMMANDS: Final = 500
#: Payloads grow up to this by what is published later.
MAX_PAYLOAD_BYTES: Final = 64 * 1024


class Command(Protocol):
    """One command and who is told what became of it."""

    def arguments(self) -> Arguments:
        """Called when it is sent, so what it says may have grown meanwhile."""

    def settle(self, reply: Reply) -> bool:
        """Take the reply, `None` if it was lost with the link; whether to send it again."""


class Publication:
    """Lines for one channel. `on_loss` is called with the reply if nobody may have heard them, else `on_sent`."""

    __slots__ = ("_on_loss", "_on_sent", "channel", "lines", "size")

    def __init__(
        self,
        channel: bytes,
        line: bytes,
        *,
        on_loss: Callable[[Reply], None] | None = None,
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        self.channel = channel
        self.lines = [line]
        self.size = len(line)
        self._on_loss = on_loss
        self._on_sent = on_sent

    def arguments(self) -> Arguments:
        return ("PUBLISH", self.channel, b"\n".join(self.lines))

    def settle(self, reply: Reply) -> bool:
        if type(reply) is int:
            if self._on_sent is not None:
                self._on_sent()
        elif self._on_loss is not None:
            self._on_loss(reply)
        return False


class Call:
    """A script's call: `wait` for the reply, or give `on_reply`."""

    __slots__ = ("_arguments", "_done", "_in_full", "_keys", "_on_reply", "_script", "reply")

    def __init__(
        self,
        script: Script,
        keys: Sequence[str | bytes],
        arguments: Iterable[str | bytes | int | float],
        *,
        on_reply: Callable[[Reply], None] | None = None,
    ) -> None:
        self._script = script
        self._keys = keys
        self._arguments = arguments
        self._in_full = False
        self._on_reply = on_reply
        self._done = trio.Event()
        self.reply: Reply = None

    def arguments(self) -> Arguments:
        name, script = ("EVAL", self._script.text) if self._in_full else ("EVALSHA", self._script.hash)
        return (name, script, len(self._keys), *self._keys, *self._arguments)

    def in_full(self) -> Arguments:
        """With the script's text, so that Redis knows it from then on."""
        self._in_full = True
        return self.arguments()

    def settle(self, reply: Reply) -> bool:
        if type(reply) is Refused and reply.is_unknown_script and not self._in_full:
            self._in_full = True
            return True
        self.reply = reply
        self._done.set()
        if self._on_reply is not None:
            self._on_reply(reply)
        return False

    async def wait(self) -> Reply:
        """Wait for the reply; `None` if it was lost, a `Refused` if Redis does not do it. Cancelling undoes nothing."""
        await self._done.wait()
        return self.reply


class Outgoing:
    """`on_waiting` is called when something waits, `on_loss` with why something published is lost."""

    def __init__(
        self, *, on_waiting: Callable[[], None], on_loss: Callable[[Reply], None], max_waiting_bytes: int
    ) -> None:
        self._on_waiting = on_waiting
        self._on_loss = on_loss
        self._max_waiting_bytes = max_waiting_bytes
        self._urgent: deque[Command] = deque()
        self._published: deque[Publication] = deque()
        # The last payload of each channel that may still grow without overtaking anything that was published later.
        self._growing: dict[bytes, Publication] = {}
        self._waiting_bytes = 0
        self._under_way: list[Command] = []

    @property
    def is_empty(self) -> bool:
        return not (self._urgent or self._published or self._under_way)

    @property
    def has_waiting(self) -> bool:
        return bool(self._urgent or self._published)

    def add(self, command: Command) -> None:
        """Send it next."""
        self._urgent.append(command)
        self._on_waiting()

    def publish(self, channel: bytes, line: bytes) -> None:
        """Send one event's line; lines of a channel stay in their order."""
        growing = self._growing.get(channel)
        if growing is not None and growing.size < MAX_PAYLOAD_BYTES and self._has_room(len(line)):
            growing.lines.append(line)
            growing.size += len(line)
            self._waiting_bytes += len(line)
        else:
            publication = Publication(channel, line, on_loss=self._on_loss)
            if self._add_published(publication):
                self._growing[channel] = publication

    def publish_signal(self, channel: bytes, payload: bytes) -> None:
        """Send a payload as it is, in its place between the lines of its channel; nobody is told if it is lost."""
        self._growing.pop(channel, None)
        self._add_published(Publication(channel, payload))

    def publish_word(self, word: Publication) -> None:
        """Send a payload as it is, past the bound if need be, between all that was published before and after it."""
        self._growing.clear()
        self._add_published(word, is_bounded=False)

    def _add_published(self, publication: Publication, *, is_bounded: bool = True) -> bool:
        if is_bounded and not self._has_room(publication.size):
            publication.settle(None)
            return False
        self._published.append(publication)
        self._waiting_bytes += publication.size
        self._on_waiting()
        return True

    def _has_room(self, size: int) -> bool:
        return self._waiting_bytes + size <= self._max_waiting_bytes

    def take(self) -> list[Arguments]:
        """The commands of the next exchange; `settle` or `lose` them before the next one is taken."""
        batch: list[Command] = []
        while self._urgent and len(batch) < MAX_EXCHANGE_COMMANDS:
            batch.append(self._urgent.popleft())
        size = 0
        most = len(batch) + MAX_EXCHANGE_COMMANDS
        while self._published and size < MAX_EXCHANGE_BYTES and len(batch) < most:
            publication = self._published.popleft()
            size += publication.size
            batch.append(publication)
        self._waiting_bytes -= size
        self._growing.clear()
        self._under_way = batch
        return [command.arguments() for command in batch]

    def settle(self, replies: Sequence[Reply]) -> None:
        batch, self._under_way = self._under_way, []
        again = [command for command, reply in zip(batch, replies, strict=True) if command.settle(reply)]
        self._urgent.extendleft(reversed(again))

    def lose(self) -> None:
        """The link is lost: settle all that is under way and all that waits."""
        lost = [*self._under_way, *self._urgent, *self._published]
        self._under_way = []
        self._urgent.clear()
        self._published.clear()
        self._growing.clear()
        self._waiting_bytes = 0
        for command in lost:
            command.settle(None)
