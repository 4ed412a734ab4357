"""Every session of this node by user and by sign-in, and what notices from other nodes do to them.

A notice says that something happened to a user somewhere: a session was revoked, a room was joined or left. The
connections concerned are ended, or start or stop to hear a room, on every node alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from chatd.chat.session import Session
from chatd.errors import CloseCode

if TYPE_CHECKING:
    from chatd.bus.hub import Hub
    from chatd.bus.port import Bus, Event, Notice

#: Called for a session that is to start hearing a room, with the seq behind which it has missed nothing.
Follow = Callable[[Session, str, int], None]


class Sessions:
    """The authenticated connections of this node."""

    def __init__(self, hub: Hub, bus: Bus, follow: Follow) -> None:
        self._hub = hub
        self._bus = bus
        self._follow = follow
        self._by_user: dict[str, set[Session]] = {}
        #: When users were last seen to leave (milliseconds since 1970), until the server has stored it.
        self.departures: dict[str, int] = {}
        hub.on_notice = self.heed
        hub.on_left = self.left

    def add(self, session: Session) -> None:
        self._by_user.setdefault(session.user_id, set()).add(session)
        self._bus.arrived(session.user_id)

    def remove(self, session: Session, now_ms: int) -> None:
        """Forget a session whose connection ended; harmless for one that was never added."""
        sessions = self._by_user.get(session.user_id)
        if sessions is None or session not in sessions:
            return
        sessions.remove(session)
        if not sessions:
            del self._by_user[session.user_id]
        self._hub.unlisten(session, session.rooms)
        # Whoever is about to let it hear a room finds that there is nobody.
        session.rooms = {}
        session.changes += 1
        self._bus.departed(session.user_id)
        self.departures[session.user_id] = now_ms

    def has(self, session: Session) -> bool:
        """Its connection is alive, and it has authenticated."""
        return session in self._by_user.get(session.user_id, ())

    def of_user(self, user_id: str) -> Iterable[Session]:
        return tuple(self._by_user.get(user_id, ()))

    def heed(self, notice: Notice) -> None:
        """Act on a notice, for the connections that live here."""
        if notice.kind == "profile_changed" and notice.username is not None:
            self._hub.forget_tails(notice.user_id)
        for session in self.of_user(notice.user_id):
            match notice.kind:
                case "member_joined":
                    session.changes += 1
                    assert notice.room_id is not None
                    is_known = notice.room_id in session.rooms or notice.room_id in session.joining
                    if session.has_arrived and not is_known:
                        self._admit(session, notice.room_id, notice)
                case "member_left":
                    assert notice.room_id is not None
                    self._stop(session, notice.room_id)
                case "session_revoked":
                    is_meant = notice.session_id is None or notice.session_id in session.session_ids
                    if is_meant and notice.spared_session_id not in session.session_ids:
                        session.line.end(CloseCode.SESSION_REVOKED, "session revoked: sign in again")
                case "account_disabled":
                    session.line.end(CloseCode.ACCOUNT_DISABLED, "account disabled")
                case "profile_changed":
                    session.username = notice.username or session.username

    def _admit(self, session: Session, room_id: str, notice: Notice) -> None:
        """Let a session hear a room at once where nothing has to be read for it, else as soon as it has been."""
        after = max(notice.seq - 1, 0)
        if notice.role is not None and self._hub.listen(session, room_id, after=after):
            session.rooms[room_id] = notice.role
        else:
            self._follow(session, room_id, notice.seq)

    def left(self, event: Event) -> None:
        """A membership ended with this event: its user's connections hear nothing behind it."""
        for session in self.of_user(event.subject or ""):
            self._stop(session, event.room_id)

    def _stop(self, session: Session, room_id: str) -> None:
        session.changes += 1
        session.rooms.pop(room_id, None)
        session.joining.discard(room_id)
        self._hub.unlisten(session, [room_id])
