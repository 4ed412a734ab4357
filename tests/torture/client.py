"""A torture client: sends at its own rate, resends under the same `clientMessageId` what was not acknowledged, leaves
and joins rooms, and writes down what it was promised and what it heard out of order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from tests.torture.connection import Connection, open_connection

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from tests.daemon import SignedIn

#: Unacknowledged messages past which a client waits.
MAX_PENDING: Final = 200
#: One in so many sends, a client leaves the room and joins it again instead.
WANDER_ONE_IN: Final = 60


class Sent(NamedTuple):
    """A message that was sent, and is sent again until it is acknowledged."""

    key: str
    room_id: str
    content: str


class Promise(NamedTuple):
    """An acknowledgement: what the server said it has stored."""

    sender_id: str
    key: str
    room_id: str
    content: str
    message_id: str
    seq: int


class Stay:
    """What one connection knows: the next seq of every room that it hears."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.next_seqs: dict[str, int] = {}
        self.is_authenticated = trio.Event()
        self.was_told_of_shutdown = False
        self.changed = trio.Event()

    @property
    def is_over(self) -> bool:
        return self.connection.close_code is not None

    def note_change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


@dataclass
class TortureClient:
    """One user with one connection at a time, for as long as `run` runs."""

    user: SignedIn
    rooms: Sequence[str]
    port: int
    rate: float
    dice: random.Random
    #: Called when something has changed that somebody may wait for.
    stir: Callable[[], None]
    pending: dict[str, Sent] = field(default_factory=dict)
    promises: dict[str, Promise] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    is_sending: bool = True
    sent: int = 0
    resent: int = 0
    heard: int = 0

    async def run(self) -> None:
        """Connect, and connect again whenever it is over."""
        while True:
            async with open_connection(self.port) as connection:
                if connection is not None:
                    stay = Stay(connection)
                    self.stays.append(stay)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._work, stay)
                        await self._listen(stay)
                        nursery.cancel_scope.cancel()
            self.stir()
            await trio.sleep(self.dice.uniform(0.01, 0.1))

    @property
    def live(self) -> Stay | None:
        """The connection that is up and authenticated, if there is one."""
        stay = self.stays[-1] if self.stays else None
        return stay if stay is not None and stay.is_authenticated.is_set() and not stay.is_over else None

    # -- what it does -----------------------------------------------------------------------------------------------

    async def _work(self, stay: Stay) -> None:
        await stay.connection.send(type="authenticate", token=self.user.token)
        await stay.is_authenticated.wait()
        for room_id in self.rooms:
            if room_id not in stay.next_seqs:
                await self._join(stay, room_id)
        for sent in list(self.pending.values()):
            self.resent += 1
            await self._send(stay, sent)
        while True:
            await trio.sleep(self.dice.expovariate(self.rate))
            if self.is_sending and len(self.pending) < MAX_PENDING:
                room_id = self.dice.choice(self.rooms)
                is_clear = all(sent.room_id != room_id for sent in self.pending.values())
                if is_clear and self.dice.random() < 1 / WANDER_ONE_IN:
                    await self._leave(stay, room_id)
                    await self._join(stay, room_id)
                    continue
                self.sent += 1
                key = f"{self.user.username}-{self.sent}"
                await self._send(stay, self.add_pending(key, room_id, f"{key} " + "x" * self.dice.randint(0, 200)))

    def add_pending(self, key: str, room_id: str, content: str) -> Sent:
        """Note a message as one that is to be acknowledged."""
        self.pending[key] = Sent(key, room_id, content)
        return self.pending[key]

    async def _send(self, stay: Stay, sent: Sent) -> None:
        await stay.connection.send(
            type="send_message", roomId=sent.room_id, content=sent.content, clientMessageId=sent.key, id=sent.key
        )

    async def _join(self, stay: Stay, room_id: str) -> None:
        await stay.connection.send(type="join_room", roomId=room_id, limit=1)
        while room_id not in stay.next_seqs:
            await stay.changed.wait()

    async def _leave(self, stay: Stay, room_id: str) -> None:
        await stay.connection.send(type="leave_room", roomId=room_id)
        while room_id in stay.next_seqs:
            await stay.changed.wait()

    # -- what it hears ----------------------------------------------------------------------------------------------

    async def _listen(self, stay: Stay) -> None:
        while messages := await stay.connection.receive():
            for message in messages:
                self.hear(stay, message)

    def hear(self, stay: Stay, message: dict[str, Any]) -> None:
        """Note what a message of this connection says, and what is wrong with it."""
        match message["type"]:
            case "new_message":
                self._hear_event(stay, message["message"]["roomId"], message["message"]["seq"])
            case "user_joined" | "user_left":
                self._hear_event(stay, message["roomId"], message["seq"])
                if message["type"] == "user_left" and message["userId"] == self.user.id:
                    stay.next_seqs.pop(message["roomId"], None)
                    stay.note_change()
            case "message_ack":
                self._note_promise(message)
            case "room_history":
                stay.next_seqs[message["roomId"]] = message["seq"] + 1
                stay.note_change()
            case "authenticated":
                stay.next_seqs = {room["roomId"]: room["lastSeq"] + 1 for room in message["rooms"]}
                stay.is_authenticated.set()
                self.stir()
            case "server_shutdown":
                stay.was_told_of_shutdown = True
            case "error" if message["temporary"] and message.get("id") in self.pending:
                stay.connection.close_code = 0  # come back, and send again what is pending
            case "ok":
                pass
            case _:
                self.faults.append(f"{self.user.username} heard {message}")

    def _hear_event(self, stay: Stay, room_id: str, seq: int) -> None:
        self.heard += 1
        expected = stay.next_seqs.get(room_id)
        if seq != expected:
            self.faults.append(f"{self.user.username} heard seq {seq} in room {room_id} where {expected} was next")
        stay.next_seqs[room_id] = seq + 1

    def _note_promise(self, ack: dict[str, Any]) -> None:
        key = ack["clientMessageId"]
        sent = self.pending.pop(key, None)
        known = self.promises.get(key)
        if sent is None and known is None:
            self.faults.append(f"{self.user.username} heard an ack of {key}, which it did not send")
            return
        content = sent.content if sent is not None else known.content if known is not None else ""
        promise = Promise(self.user.id, key, ack["roomId"], content, ack["messageId"], ack["seq"])
        if known is not None and known != promise:
            self.faults.append(f"{self.user.username} was promised {known}, then {promise}")
        if sent is not None and sent.room_id != promise.room_id:
            self.faults.append(
                f"{self.user.username} sent {key} to room {sent.room_id}, acknowledged in {promise.room_id}"
            )
        self.promises[key] = promise
        self.stir()
