"""Who is typing: `typing_start`, `typing_stop`, and everything by which it ends without being said.

The node of a typist's device announces it to the room and ends it: when it has not been repeated for
`typing.expires_s`, at a message, at leaving, at the end of the connection. Starts within `typing.every_s` of the last
announced one are not announced; one that began anew is, when that time is over. Other nodes know who is typing from
what they hear, and end it by themselves should that node not. One timer, in `upkeep`, serves all of it.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Final

from chatd.chat.permissions import check_may, check_may_send
from chatd.ids import new_id
from chatd.protocol import Ok, TypingStart, TypingStop, UserStoppedTyping, UserTyping, encode
from chatd.store.entries import refusal_while_muted

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatd.bus.hub import Hub
    from chatd.bus.port import Bus, Seconds
    from chatd.chat.context import Chat
    from chatd.chat.session import Session
    from chatd.chat.sessions import Sessions
    from chatd.config import TypingOptions

#: What another node announced is ended here if it did not end it so long after it had to.
SLACK_S: Final = 1.0
#: Typists of one room that a history names.
MAX_NAMED: Final = 100


class Typist:
    """Somebody in one room: typing `until` then, or remembered so that the next start is not announced too soon."""

    __slots__ = ("due", "is_shown", "session", "started_at", "stop_body", "until")

    def __init__(self) -> None:
        #: The device of this node by which it is known; without one it was heard from another node.
        self.session: Session | None = None
        self.until = 0.0
        #: Others have been told, and not that it is over; when they were told last.
        self.is_shown = False
        self.started_at = float("-inf")
        #: What tells them that it is over.
        self.stop_body = b""
        #: When the timer looks at it next.
        self.due = float("inf")


class Typists:
    """Who is typing in the rooms of this node. `on_due` is called when the timer is to look at `next_due` again."""

    def __init__(
        self,
        hub: Hub,
        bus: Bus,
        sessions: Sessions,
        *,
        options: TypingOptions,
        seconds: Seconds,
        on_due: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._bus = bus
        self.options = options
        self._seconds = seconds
        self._on_due = on_due
        self._rooms: dict[str, dict[str, Typist]] = {}
        self._count = 0
        self._of_session: dict[Session, set[str]] = {}
        self._timetable: list[tuple[float, str, str]] = []
        # Signals of this node come back to it, and are known by its name.
        name = new_id()
        self._start_kind, self._stop_kind = f"typing:{name}", f"typed:{name}"
        hub.on_signal = self.hear
        sessions.on_removed = self.forget
        sessions.on_left = self.leave

    # -- on a device of this node -----------------------------------------------------------------------------------

    def begin(self, room_id: str, session: Session) -> None:
        """The session's user is typing from now on; not noted where too many are."""
        typist = self._typist(room_id, session.user_id)
        if typist is None:
            return
        if typist.session is not session:
            self._let_go(room_id, typist)
            typist.session = session
            self._of_session.setdefault(session, set()).add(room_id)
        now = self._seconds()
        typist.until = now + self.options.expires_s
        if now >= typist.started_at + self.options.every_s:
            self._announce(room_id, typist, session)
        self._schedule(room_id, session.user_id, typist)

    def is_news(self, room_id: str, user_id: str) -> bool:
        """Others would be told of a start now, or later of one that is not told yet."""
        typist = self._rooms.get(room_id, {}).get(user_id)
        return typist is None or not typist.is_shown or self._seconds() >= typist.started_at + self.options.every_s

    def stop(self, room_id: str, user_id: str) -> None:
        """Somebody has stopped typing, or said what they typed, through any node; harmless where nobody did."""
        typist = self._rooms.get(room_id, {}).get(user_id)
        if typist is not None:
            self._announce_stop(room_id, user_id, typist)
            self._end(room_id, user_id, typist)

    def leave(self, room_id: str, user_id: str) -> None:
        """A membership has ended; every node hears of it, so only that of the device tells the room."""
        typist = self._rooms.get(room_id, {}).get(user_id)
        if typist is not None:
            if typist.session is not None:
                self._announce_stop(room_id, user_id, typist)
            self._end(room_id, user_id, typist)

    def forget(self, session: Session) -> None:
        """A connection has ended."""
        for room_id in self._of_session.pop(session, ()):
            self.stop(room_id, session.user_id)

    def named(self, room_id: str) -> list[str]:
        """The ids of those who are typing in a room, the first of them."""
        typists = self._rooms.get(room_id, {})
        return list(islice((user_id for user_id, typist in typists.items() if typist.is_shown), MAX_NAMED))

    # -- from other nodes -------------------------------------------------------------------------------------------

    def hear(self, room_id: str, body: bytes, about: str, kind: str) -> None:
        """Note what another node has announced to a room."""
        if kind in (self._start_kind, self._stop_kind):
            return
        if kind.startswith("typing:"):
            if (typist := self._typist(room_id, about)) is not None:
                now = self._seconds()
                typist.is_shown, typist.started_at = True, now
                typist.stop_body = body.replace(b'"user_typing"', b'"user_stopped_typing"', 1)
                if typist.session is None:
                    typist.until = now + self.options.every_s + self.options.expires_s + SLACK_S
                self._schedule(room_id, about, typist)
        elif kind.startswith("typed:") and (typist := self._rooms.get(room_id, {}).get(about)) is not None:
            self._end(room_id, about, typist)

    # -- the timer --------------------------------------------------------------------------------------------------

    @property
    def next_due(self) -> float:
        """When `run_due` has something to do, in the event loop's seconds; infinite while nobody types."""
        return self._timetable[0][0] if self._timetable else float("inf")

    def run_due(self) -> None:
        """Do what is due by now."""
        now = self._seconds()
        while self._timetable and self._timetable[0][0] <= now:
            due, room_id, user_id = heappop(self._timetable)
            typist = self._rooms.get(room_id, {}).get(user_id)
            if typist is not None and typist.due == due:
                typist.due = float("inf")
                self._look(room_id, user_id, typist)

    def _look(self, room_id: str, user_id: str, typist: Typist) -> None:
        now = self._seconds()
        if typist.until > now:
            if typist.session is not None and not typist.is_shown and now >= typist.started_at + self.options.every_s:
                self._announce(room_id, typist, typist.session)
            self._schedule(room_id, user_id, typist)
            return
        if typist.session is not None:
            self._announce_stop(room_id, user_id, typist)
        elif typist.is_shown:
            # Its node should have said so; every other one finds out by itself.
            self._hub.hear_signal(room_id, typist.stop_body, user_id)
        self._end(room_id, user_id, typist)

    def _announce(self, room_id: str, typist: Typist, session: Session) -> None:
        user_id, username = session.user_id, session.username
        typist.is_shown, typist.started_at = True, self._seconds()
        typist.stop_body = encode(UserStoppedTyping(room_id=room_id, user_id=user_id, username=username))
        body = encode(UserTyping(room_id=room_id, user_id=user_id, username=username))
        self._bus.signal(room_id, body, about=user_id, kind=self._start_kind)

    def _announce_stop(self, room_id: str, user_id: str, typist: Typist) -> None:
        """To those who have been told of the start."""
        if typist.is_shown:
            self._bus.signal(room_id, typist.stop_body, about=user_id, kind=self._stop_kind)

    def _end(self, room_id: str, user_id: str, typist: Typist) -> None:
        """Nobody types there any more; it is remembered for as long as another start is not to be announced."""
        typist.until, typist.is_shown = 0.0, False
        self._let_go(room_id, typist)
        if typist.started_at + self.options.every_s > self._seconds():
            self._schedule(room_id, user_id, typist)
            return
        del self._rooms[room_id][user_id]
        if not self._rooms[room_id]:
            del self._rooms[room_id]
        self._count -= 1

    # -- what is known ----------------------------------------------------------------------------------------------

    def _typist(self, room_id: str, user_id: str) -> Typist | None:
        typist = self._rooms.get(room_id, {}).get(user_id)
        if typist is None and self._count < self.options.max_typists:
            typist = self._rooms.setdefault(room_id, {})[user_id] = Typist()
            self._count += 1
        return typist

    def _let_go(self, room_id: str, typist: Typist) -> None:
        """Of the device by which it was known."""
        if typist.session is not None and (rooms := self._of_session.get(typist.session)) is not None:
            rooms.discard(room_id)
            if not rooms:
                del self._of_session[typist.session]
        typist.session = None

    def _schedule(self, room_id: str, user_id: str, typist: Typist) -> None:
        """Have it looked at when something can be due, unless that is to be earlier already."""
        due = typist.until if typist.is_shown else typist.started_at + self.options.every_s
        if due < typist.due:
            typist.due = due
            heappush(self._timetable, (due, room_id, user_id))
            if self._timetable[0][0] == due:
                self._on_due()


async def typing_start(chat: Chat, session: Session, message: TypingStart) -> Ok:
    """Tell the others of a room that the user is typing; only who may send there can, and nobody who is muted."""
    room_id = message.room_id
    await check_may_send(chat, session.user_id, session.role_in(room_id), room_id)
    if chat.typists.is_news(room_id, session.user_id):
        standing = await chat.statuses.standing(room_id, session.user_id)
        if (refusal := refusal_while_muted(standing, chat.clock())) is not None:
            raise refusal
        # The membership may have ended meanwhile.
        check_may(session.role_in(room_id), "send")
    chat.typists.begin(room_id, session)
    return Ok(id=message.id)


async def typing_stop(chat: Chat, session: Session, message: TypingStop) -> Ok:
    check_may(session.role_in(message.room_id), "read")
    chat.typists.stop(message.room_id, session.user_id)
    return Ok(id=message.id)


def who_types(chat: Chat, room_id: str, *, asked_by: str) -> list[str]:
    """The ids of those who are typing in a room, but of who asks, who is never told of their own typing."""
    if not chat.options.features.typing:
        return []
    return [user_id for user_id in chat.typists.named(room_id) if user_id != asked_by]
