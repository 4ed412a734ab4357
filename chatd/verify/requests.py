"""What a client asked on one connection and was not answered yet; who asks twice under one id is answered twice."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Asked:
    """A request: the last one under its id, the how manieth message of the connection it is, and how often it waits."""

    message: Mapping[str, Any]
    number: int
    waiting: int = 1


class Requests:
    """Requests that wait for an answer. Those that cannot be told by `id` or `clientMessageId` are passed over."""

    def __init__(self) -> None:
        self._asked: dict[str, Asked] = {}
        #: Those of `authenticate`, of which each is answered in its turn.
        self._hellos: deque[Mapping[str, Any]] = deque()
        self._sends = 0

    def note(self, message: Mapping[str, Any]) -> None:
        """A message that was sent."""
        kind = message.get("type")
        if kind == "authenticate" and _may_resume(message.get("resume")):
            self._hellos.append(message)
        name = _name_of(message)
        if name is None:
            return
        self._sends += kind in ("send_message", "send_dm")
        if (known := self._asked.get(name)) is not None:
            known.message, known.number, known.waiting = message, self._sends, known.waiting + 1
        else:
            self._asked[name] = Asked(message, self._sends)

    def answer(self, reply: Mapping[str, Any]) -> Asked | None:
        """The request that this is the reply to, which it is no longer one of those that wait for."""
        name = _name_of(reply)
        asked = self._asked.get(name) if name is not None else None
        if asked is None:
            return None
        asked.waiting -= 1
        if asked.waiting == 0:
            del self._asked[name]  # type: ignore[arg-type] # there is none without a name
        return asked

    def answer_hello(self) -> Mapping[str, Any]:
        """The `authenticate` that was answered; one that came with the upgrade asked for nothing."""
        return self._hellos.popleft() if self._hellos else {}

    def refuse_hello(self, message: Mapping[str, Any]) -> None:
        if message in self._hellos:
            self._hellos.remove(message)


def _may_resume(resume: object) -> bool:
    """Whether a server can have understood it: a request that makes no sense is answered with nothing but an error."""
    if not isinstance(resume, dict):
        return resume is None
    rooms = resume.get("rooms")
    return isinstance(rooms, dict) and all(type(seq) is int for seq in rooms.values())


def _name_of(message: Mapping[str, Any]) -> str | None:
    if (request_id := message.get("id")) is not None:
        return f"id {request_id}"
    key = message.get("clientMessageId")
    return None if key is None else f"key {key}"
