"""Every session of this node by user and by sign-in, and what notices from other nodes do to them.

A notice says that something happened to a user somewhere: a session was revoked, a room was joined or left. The
connections concerned are ended, or start or stop to hear a room, on every node alike. Notices and the rooms' events
come in any order, late or twice: what is known of a membership is what has the newest seq, and who stops to hear a
room does so behind the event of the leaving. What has no seq, and what may have been missed, is asked of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Literal

from chatd.bus.port import Notice
from chatd.chat.session import Session
from chatd.errors import CloseCode
from chatd.records import parse_json

if TYPE_CHECKING:
    from chatd.bus.hub import Hub
    from chatd.bus.port import Bus, Event
    from chatd.bus.room import ActiveRoom

#: Bytes of an own `user_joined`, at most.
MAX_JOINED_BYTES: Final = 4096

#: Called for a session of which the store is to be asked: whether it hears a room, or everything that it is told.
Follow = Callable[[Session, str], None]
LookAgain = Callable[[Session], None]
#: Called when a session is gone, and when a user has left a room, also where no session of theirs is here.
OnRemoved = Callable[[Session], None]
OnLeft = Callable[[str, str], None]

#: Events that every node has to hear of, whoever listens to the room there.
_NOTICES: Final[dict[str, Literal["member_joined", "member_left", "member_updated", "room_deleted"]]] = {
    "user_joined": "member_joined",
    "user_left": "member_left",
    "member_updated": "member_updated",
    "room_deleted": "room_deleted",
}


def notice_of(event: Event) -> Notice | None:
    """What every node has to be told of an event, if anything."""
    if (kind := _NOTICES.get(event.kind)) is None:
        return None
    role = parse_json(event.body).get("role") if kind == "member_updated" else None
    if kind == "member_updated" and role is None:
        # Who may not send for a while is known to the journal.
        return None
    return Notice(kind, event.subject or "", event.room_id, event.seq, role=role)


def _start(room: ActiveRoom, session: Session, seq: int) -> int | None:
    """Behind which seq who was made a member at this one hears the room: their own joining is theirs to hear.

    `None` where it has to be read. In a room that was made with them nobody has joined.
    """
    if room.position != seq:
        return None
    newest = room.tail[-1] if room.tail else None
    if newest is not None and newest.kind == "user_joined" and newest.subject == session.user_id:
        return seq - 1
    return None if seq else 0


class Sessions:
    """The authenticated connections of this node."""

    def __init__(self, hub: Hub, bus: Bus, *, follow: Follow, look_again: LookAgain) -> None:
        self._hub = hub
        self._bus = bus
        self._follow = follow
        self._look_again = look_again
        self._by_user: dict[str, set[Session]] = {}
        #: When users were last seen to leave (milliseconds since 1970), until the server has stored it.
        self.departures: dict[str, int] = {}
        self.on_removed: OnRemoved = lambda _: None
        self.on_left: OnLeft = lambda _room_id, _user_id: None
        hub.on_notice = self.heed
        hub.on_membership = self.heed_event
        hub.on_return = self.look_at_all_again
        hub.attach_devices(self.arrived_of_user)

    def add(self, session: Session) -> None:
        self._by_user.setdefault(session.user_id, set()).add(session)
        self._bus.arrived(session.user_id)

    def appear(self, session: Session) -> None:
        """The session has shown that it is its user's, who is seen online from now on."""
        self._bus.appeared(session.user_id)

    def remove(self, session: Session, now_ms: int, *, grace_s: float = 0.0) -> None:
        """Forget a session whose connection ended; harmless for one that was never added.

        Without another connection its user is seen offline `grace_s` later.
        """
        sessions = self._by_user.get(session.user_id)
        if sessions is None or session not in sessions:
            return
        sessions.remove(session)
        if not sessions:
            del self._by_user[session.user_id]
        self._hub.unlisten(session, (*session.rooms, *session.leaving))
        # Whoever is about to let it hear a room finds that there is nobody.
        session.rooms = {}
        session.changes += 1
        self._bus.departed(session.user_id, grace_s=grace_s)
        self.departures[session.user_id] = now_ms
        self.on_removed(session)

    def has(self, session: Session) -> bool:
        """Its connection is alive, and it has authenticated."""
        return session in self._by_user.get(session.user_id, ())

    def of_user(self, user_id: str) -> Iterable[Session]:
        return tuple(self._by_user.get(user_id, ()))

    def arrived_of_user(self, user_id: str) -> Iterable[Session]:
        """Those that have been told `authenticated`, so that others may follow."""
        return [session for session in self._by_user.get(user_id, ()) if session.has_arrived]

    def heed(self, notice: Notice) -> None:
        """Act on a notice, for the connections that live here."""
        if notice.kind == "profile_changed" and notice.username is not None:
            self._hub.forget_tails(notice.user_id)
        if notice.kind == "member_left" and notice.room_id is not None:
            self.on_left(notice.room_id, notice.user_id)
        if notice.kind == "room_deleted":
            self._deleted(notice.room_id or "", notice.seq)
        for session in self.of_user(notice.user_id):
            self._heed(session, notice)

    def _heed(self, session: Session, notice: Notice) -> None:
        room_id = notice.room_id or ""
        match notice.kind:
            case "member_joined":
                self._joined(session, room_id, notice.seq, notice.role)
            case "member_left":
                self._left(session, room_id, notice.seq)
            case "member_updated":
                self._updated(session, room_id, notice.seq, notice.role)
            case "session_revoked":
                if notice.session_id is None:
                    # One that began behind it is not meant, however late it comes.
                    self.look_again(session)
                elif notice.session_id in session.session_ids:
                    session.line.end(CloseCode.SESSION_REVOKED, "session revoked: sign in again")
            case "account_disabled":
                session.line.end(CloseCode.ACCOUNT_DISABLED, "account disabled")
            case "profile_changed":
                session.username = notice.username or session.username
                # A later name may have been told first.
                self.look_again(session)

    def heed_event(self, event: Event) -> None:
        """A room's event by which memberships began, changed or ended, behind its delivery."""
        if event.kind == "room_deleted":
            self._deleted(event.room_id, event.seq, is_delivered=True)
            return
        if event.kind == "member_updated":
            told = parse_json(event.body)
            for session in self.of_user(told["userId"]):
                self._updated(session, event.room_id, event.seq, told.get("role"))
            return
        if event.kind == "user_left" and event.subject is not None:
            self.on_left(event.room_id, event.subject)
        for session in self.of_user(event.subject or ""):
            if event.kind == "user_joined":
                self._joined(session, event.room_id, event.seq, None)
            else:
                self._left(session, event.room_id, event.seq, is_delivered=True)

    def look_again(self, session: Session) -> None:
        """Have the store asked for everything that a session is told by notices."""
        session.changes += 1
        if session.has_arrived:
            self._look_again(session)

    def look_at_all_again(self) -> None:
        """Notices may have been missed."""
        for sessions in self._by_user.values():
            for session in sessions:
                self.look_again(session)

    def let_follow(self, session: Session, room_id: str, after: int) -> None:
        """Have the store asked whether a session is to hear a room, from behind the seq `after`."""
        known = session.following.get(room_id)
        # Of several joinings the last one counts, in whatever order they are told.
        session.following[room_id] = after if known is None else max(after, known)
        if known is None:
            self._follow(session, room_id)

    def _joined(self, session: Session, room_id: str, seq: int, role: str | None) -> None:
        session.changes += 1
        # One that has not arrived reads its rooms again, one that joins by itself finds out by itself.
        if not session.has_arrived or room_id in session.joining:
            return
        known, room = session.rooms.get(room_id), self._hub.room(room_id)
        if known is not None:
            if seq > known.seq and role != known.role:
                # It is another stay, in a role that this one need not have had.
                self.look_again(session)
            if room is None or room.position >= seq:
                session.enter(room_id, known.role, seq)
            else:
                # A leaving may be among the events that are still to come, and this one is among them, too.
                self._hub.expect(room_id, seq)
            return
        start = None if role is None or room is None else _start(room, session, seq)
        if (
            role is not None
            and start is not None
            and (
                session.is_to_replay(room_id)
                or self._hub.listen(session, room_id, after=start, max_bytes=MAX_JOINED_BYTES)
            )
        ):
            # Nothing has to be read: whatever ended the membership since is still to be heard.
            session.enter(room_id, role, seq)
        else:
            self.let_follow(session, room_id, max(seq - 1, 0))

    def _updated(self, session: Session, room_id: str, seq: int, role: str | None) -> None:
        """The user has another role in a room as of a seq of it."""
        session.changes += 1
        known = session.rooms.get(room_id)
        if role is None or (known is not None and seq <= known.seq):
            return
        if known is not None:
            session.enter(room_id, role, seq)
        elif room_id in session.joining:
            # It is about to enter, perhaps in the role that it had before this.
            self.look_again(session)

    def _deleted(self, room_id: str, seq: int, *, is_delivered: bool = False) -> None:
        """Everybody's membership of a room ended with its last event."""
        concerned = [
            session
            for sessions in self._by_user.values()
            for session in sessions
            if session.is_concerned_with(room_id) or self._hub.is_heard_by(session, room_id)
        ]
        for session in concerned:
            self._left(session, room_id, seq, is_delivered=is_delivered)

    def _left(self, session: Session, room_id: str, seq: int, *, is_delivered: bool = False) -> None:
        session.changes += 1
        if room_id in session.joining:
            session.joining[room_id] = max(session.joining[room_id], seq)
        known, room = session.rooms.get(room_id), self._hub.room(room_id)
        is_crossed = is_delivered and self._hub.is_heard_by(session, room_id)
        if known is not None and seq <= known.seq and not is_crossed:
            # It was over before this stay began.
            return
        if room is not None and room.position < seq and session in room.listeners:
            # It may do nothing more in the room; what it hears up to its leaving is still its own.
            session.rooms.pop(room_id, None)
            session.leaving.add(room_id)
            self._hub.expect(room_id, seq)
        elif is_crossed:
            # Also where it is known that there is a later stay: that begins with an event that is still to come.
            self._hub.unlisten(session, [room_id])
            self._note_stop(session, room_id, seq)
        else:
            self.stop(session, room_id)

    def stop(self, session: Session, room_id: str) -> None:
        """End at once what a session hears of a room; harmless where it hears nothing."""
        room = self._hub.room(room_id)
        if room is not None and session in room.listeners:
            self._hub.pause(session, room_id)
            self._note_stop(session, room_id, room.position)
        elif (catching_up := session.catching_up.get(room_id)) is not None:
            self._note_stop(session, room_id, catching_up.position)
        else:
            self._note_stop(session, room_id, 0)

    def _note_stop(self, session: Session, room_id: str, heard: int) -> None:
        session.changes += 1
        session.rooms.pop(room_id, None)
        session.leaving.discard(room_id)
        if heard:
            session.heard[room_id] = max(heard, session.heard.get(room_id, 0))
