"""The canary's side of the rules: a message of the daemon's own that takes the way of everybody's.

`chatd.canary` connects to the daemon's own port and sends it; in here it is authenticated, committed by the journal and
published. It belongs to nobody: its account is a token that this process alone knows, its room is known to this node's
hub and to no store, so there is nothing that a user could find, count or sign in to.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, Literal, TypeAlias

from chatd.bus.port import Event
from chatd.chat import arrival, messages
from chatd.errors import Refusal, Unavailable
from chatd.ids import new_id
from chatd.protocol import Authenticate, Ok, SendMessage
from chatd.records import encode_json
from chatd.store.acts import Act
from chatd.store.entries import Head, Outcome
from chatd.store.facts import Facts
from chatd.wire.outbox import Outbox

if TYPE_CHECKING:
    from chatd.bus.hub import Hub
    from chatd.chat.context import Chat
    from chatd.chat.session import Session
    from chatd.store.acts import Scene

#: How far the last message has come.
Stage: TypeAlias = Literal["sent", "read", "committed", "heard"]


class Canary:
    """Whose connection it is, and how far its message has come. Made once for each node."""

    user_id = ""

    def __init__(self, hub: Hub) -> None:
        self.token = secrets.token_urlsafe(32)
        self.room_id = f"canary:{new_id()}"
        #: Where its connection comes from, before it is made: by this it is told from all others.
        self.address: tuple[str, int] | None = None
        self.session: Session | None = None
        self.stage: Stage = "sent"
        #: Why the journal did not take the last one.
        self.refusal: Refusal | None = None
        # Its room always has one who listens, whether it is connected or not.
        self.outbox = Outbox(
            self._pass_on, bound_bytes=1024 * 1024, on_waiting=_nothing, on_overflow=_nothing, on_broken=_nothing
        )
        self._room = hub.open_own_room(self.room_id, self)

    def admits(self, session: Session, token: str) -> bool:
        """Whether it is the canary that says who it is."""
        is_own = hmac.compare_digest(token.encode("utf-8", "surrogatepass"), self.token.encode())
        if is_own:
            self.session = session
        return is_own

    def append(self, chat: Chat, beat: str) -> None:
        """Have the journal make it durable and publish it. Raises `Refusal`."""
        self.stage, self.refusal = "read", None
        # The same seq again if the last one was lost: there is no store to repair this room from.
        event = Event(self.room_id, self._room.next_seq, "canary", encode_json({"type": "canary", "beat": beat}))

        async def decide(scene: Scene) -> None:
            if not await Facts.prove_in(scene, "canary", beat):
                raise Unavailable("The database does not give back what was written.")
            scene.events.append(event)

        chat.journal.append(Act(self.room_id, decide, self._settle, Head("private", 0, 0, 0, None)))

    def _settle(self, outcome: Outcome) -> None:
        if isinstance(outcome, Refusal):
            self.refusal = outcome
        else:
            self.stage = "committed"

    def _pass_on(self, frames: bytes) -> int:
        self.stage = "heard"
        if self.session is not None:
            self.session.put(frames)
        return len(frames)


def _nothing() -> None:
    """A receiver that takes everything never has anything waiting."""


async def authenticate(chat: Chat, session: Session, message: Authenticate) -> Ok | None:
    """As `arrival.authenticate`; the canary alone has no account to be looked up."""
    if not chat.canary.admits(session, message.token):
        await arrival.authenticate(chat, session, message)
        return None
    session.line.authenticated()
    session.has_arrived = True
    return Ok(id=message.id)


async def send_message(chat: Chat, session: Session, message: SendMessage) -> None:
    """As `messages.send_message`; the canary alone has no room that it would be a member of."""
    if session is chat.canary.session:
        chat.canary.append(chat, message.content)
    else:
        await messages.send_message(chat, session, message)
