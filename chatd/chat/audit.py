"""Who did what: noted by the rules where it happens, written to the log at once and to the database by `chatd.audit`.

An event has ids and codes, never what was said and nothing that opens a door. Where it came from is known to the door:
it says so once (`enter`), and every rule that runs behind it is noted with that. Nobody waits for it: what is more than
may wait is dropped and counted, messages first.
"""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from chatd import telemetry
from chatd.clock import wall_clock_ms
from chatd.ids import new_id
from chatd.records import encode_json
from chatd.store.audit import AuditEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chatd.chat.session import Session
    from chatd.clock import Clock
    from chatd.errors import ErrorCode, Refusal

log = telemetry.get_logger(__name__)

Action: TypeAlias = Literal[
    "registered", "signed_in", "sign_in_failed", "refresh_token_reused", "signed_out", "password_changed",
    "authenticated", "authentication_refused", "connection_penalised",
    "limited", "forbidden", "upload_refused", "file_uploaded", "file_linked", "file_removed",
    "room_created", "room_changed", "room_deleted", "message_removed", "message_sent",
    "member_added", "member_invited", "member_changed", "member_removed", "member_unbanned",
    "user_added", "user_disabled", "password_set", "token_issued",
]  # fmt: skip
#: What a refusal is to an administrator; the others are between the daemon and the client.
_REFUSED: Final[dict[ErrorCode, Action]] = {
    "rate_limited": "limited",
    "limit_reached": "limited",
    "forbidden": "forbidden",
    "muted": "forbidden",
    "not_a_member": "forbidden",
    "file_rejected": "upload_refused",
}
_WARNINGS: Final = frozenset({"refresh_token_reused"})
#: Events that wait for the database at most; messages take at most half of the places.
MAX_WAITING: Final = 10_000
MAX_AGENT: Final = 200


class Place(NamedTuple):
    """Where whatever happens now comes from."""

    address: str = ""
    user_agent: str = ""
    connection_id: str = ""
    user_id: str = ""


#: Before a door has said where: an administrator's shell.
_SHELL: Final = Place(user_agent="the command line")
_place: ContextVar[Place] = ContextVar("place", default=_SHELL)


def enter(address: str, user_agent: str, *, connection_id: str, user_id: str = "") -> None:
    """What this task, and those that it starts, do from now on comes from there."""
    _place.set(Place(address, user_agent[:MAX_AGENT], connection_id, user_id))


class Audit:
    """What is still to be written. `on_work` is called when something begins to wait."""

    def __init__(self, clock: Clock = wall_clock_ms, *, on_work: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._on_work = on_work
        self._waiting: deque[AuditEvent] = deque()
        self.keeps_messages = True
        #: Events that were not kept because too many waited.
        self.dropped = 0

    def note(self, action: Action, *, user: str | None = None, room: str | None = None, **detail: object) -> None:
        """Note what the user (of this task, unless another is named) did; `detail` are ids and codes."""
        place = _place.get()
        user_id = place.user_id if user is None else user
        given = {name: value for name, value in detail.items() if value is not None}
        fields = {"user": user_id, "room": room, "address": place.address, **given}
        write = log.warning if action in _WARNINGS else log.info
        write(action, **{name: value for name, value in fields.items() if value})
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._add(
            AuditEvent(
                new_id(), self._clock(), action, user_id, place.connection_id, room or "", place.address,
                place.user_agent, encode_json(given).decode(),
            )
        )  # fmt: skip

    def note_refusal(self, refusal: Refusal, *, user: str | None = None, asked: str = "") -> None:
        """Note a refusal that says something of who asked; `asked` is the type or the path."""
        action = _REFUSED.get(refusal.code)
        if action is not None:
            self.note(action, user=user, code=refusal.code, asked=asked or None)

    def note_message(self, session: Session | None, room_id: str, message_id: str) -> None:
        """Note a message that was stored; without a session it is the place's. Each one comes by here."""
        if len(self._waiting) >= MAX_WAITING // 2:
            self.dropped += self.keeps_messages
            return
        if not self.keeps_messages:
            return
        if session is None:
            address, agent, connection_id, user_id = _place.get()
        else:
            address, agent = session.address, session.agent
            connection_id, user_id = session.connection_id, session.user_id
        log.debug("message_sent", user=user_id, room=room_id, message=message_id)
        self._add(
            AuditEvent(
                new_id(), self._clock(), "message_sent", user_id, connection_id, room_id, address, agent,
                f'{{"message":"{message_id}"}}',
            )
        )  # fmt: skip

    def _add(self, event: AuditEvent) -> None:
        self._waiting.append(event)
        if len(self._waiting) == 1:
            self._on_work()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self, most: int) -> list[AuditEvent]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def put_back(self, events: Sequence[AuditEvent]) -> None:
        self._waiting.extendleft(reversed(events))
