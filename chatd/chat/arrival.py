"""`authenticate`: whose connection it is, and which rooms it hears from then on.

The token is checked without the database; whether session and account still stand, and the user's rooms, come from
one read that all who arrive at the same time share. The rooms are listened to in the very step that tells the client
its positions, so that its first live event is the next one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from chatd import telemetry
from chatd.chat.accounts import check_standing
from chatd.chat.catchup import lengthen_tails, resume_room
from chatd.chat.direct import tell_unread
from chatd.chat.session import NO_ROOMS
from chatd.errors import CloseCode, Refusal
from chatd.protocol import Authenticate, Authenticated, AuthError, Resume
from chatd.records import Limits, RoomEntry, format_time
from chatd.store.messages import NO_SEQ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.chat.context import Arrival, Chat
    from chatd.chat.session import Session
    from chatd.identity.tokens import Claims
    from chatd.store.rooms import OwnRoom

log = telemetry.get_logger(__name__)

#: How often memberships are read again because they changed while they were being read.
TRIES: Final = 10
#: Rooms of one resume whose events are read together.
ROOMS_AT_ONCE: Final = 100


async def authenticate(chat: Chat, session: Session, message: Authenticate) -> None:
    """Make the session its user's, or end the connection with `auth_error`; on a live one, extend it."""
    try:
        claims = chat.tokens.read(message.token, chat.clock())
        if session.user_id:
            await extend(chat, session, claims, message)
        else:
            await begin(chat, session, claims, message)
        if message.resume is not None:
            await resume(chat, session, message.resume)
    except Refusal as refusal:
        if refusal.is_temporary:
            raise
        refuse(chat, session, refusal, request_id=message.id)


def refuse(chat: Chat, session: Session, refusal: Refusal, *, request_id: str | None = None) -> None:
    """Answer `auth_error` and close."""
    close_codes = {"forbidden": CloseCode.ACCOUNT_DISABLED, "limit_reached": CloseCode.CONNECTION_LIMIT}
    code = close_codes.get(refusal.code, CloseCode.AUTH_FAILED)
    chat.metrics.errors[refusal.code].inc()
    chat.audit.note("authentication_refused", user=session.user_id, code=refusal.code)
    session.send(AuthError(id=request_id, message=refusal.detail, code=refusal.code))
    session.line.end(code, refusal.code)


async def extend(chat: Chat, session: Session, claims: Claims, message: Authenticate) -> None:
    """A fresh token of the same user: the connection lives on with its expiry."""
    if claims.user_id != session.user_id:
        raise Refusal("unauthenticated", "This token is another user's; open a new connection for them.")
    await settle_in(chat, session, claims, message)


async def begin(chat: Chat, session: Session, claims: Claims, message: Authenticate) -> None:
    """The first token of a connection: from here on it is its user's."""
    limit = chat.options.limits.connections_per_user
    if limit and (await chat.bus.devices([claims.user_id])).get(claims.user_id, 0) >= limit:
        raise Refusal("limit_reached", f"You have {limit} connections already; close one of them first.")
    session.user_id = claims.user_id
    # From here on notices about the user reach this session, so that no change goes unseen.
    chat.sessions.add(session)
    telemetry.bind_context(user=session.user_id)
    arrival = await settle_in(chat, session, claims, message)
    if message.resume is None:
        # Who came in is not turned away for want of it.
        with suppress(Refusal):
            await tell_unread(chat, session, arrival.rooms)
    chat.audit.note("authenticated", user=session.user_id, rooms=len(session.rooms))


async def settle_in(chat: Chat, session: Session, claims: Claims, message: Authenticate) -> Arrival:
    """Check that the session stands, listen to its rooms, and tell the client where it is."""
    former = session.session_ids
    # Notices about either of them count until it is known that the new one stands.
    session.session_ids = former | {claims.session_id}
    session.is_settling = True
    try:
        arrival = await read_arrival(chat, session, claims)
    except BaseException:
        session.session_ids = former
        raise
    finally:
        session.is_settling = False
    session.session_ids = frozenset({claims.session_id})
    session.expires_at_ms = claims.expires_at_ms
    entries = listen_to_rooms(chat, session, arrival.rooms, message)
    session.line.authenticated()
    session.send(authenticated(chat, session, entries, message.id))
    session.has_arrived = True
    chat.sessions.appear(session)
    chat.deliveries.note_arrival(session, [own.room_id for own in arrival.rooms if own.unread > 0])
    return arrival


async def read_arrival(chat: Chat, session: Session, claims: Claims) -> Arrival:
    """Standing and rooms of the session, with the rooms active here, all of it true at the return."""
    for _ in range(TRIES):
        changes = session.changes
        arrival = await chat.arrivals.get((claims.session_id, session.user_id))
        if arrival is None:
            raise Refusal("unauthenticated", "This session does not exist any more; sign in again.")
        check_standing(arrival.standing, session.user_id)
        assert arrival.standing is not None
        session.username = arrival.standing.username
        await chat.hub.reach({room.room_id: room.last_seq for room in arrival.rooms})
        if changes == session.changes and not any(_is_outdated(chat, room) for room in arrival.rooms):
            return arrival
    raise Refusal("overloaded", "Your rooms change too fast to be read; try again.", retry_after_ms=1000)


def _is_outdated(chat: Chat, own: OwnRoom) -> bool:
    """Whether the membership was read before this node began to hear the room: it may have ended in between."""
    room = chat.hub.room(own.room_id)
    return room is not None and room.opened_at > own.last_seq


def refresh(chat: Chat, session: Session, arrival: Arrival) -> None:
    """Bring a live session to what the store says, because notices may have been missed; no step of others between."""
    try:
        check_standing(arrival.standing, session.user_id)
    except Refusal as refusal:
        is_disabled = refusal.code == "forbidden"
        code = CloseCode.ACCOUNT_DISABLED if is_disabled else CloseCode.SESSION_REVOKED
        session.line.end(code, "account disabled" if is_disabled else "session revoked: sign in again")
        return
    assert arrival.standing is not None
    session.username = arrival.standing.username
    own_rooms = {own.room_id: own for own in arrival.rooms}
    for room_id in [room_id for room_id in session.rooms if room_id not in own_rooms]:
        chat.sessions.stop(session, room_id)
    for own in own_rooms.values():
        if own.room_id in session.rooms:
            session.enter(own.room_id, own.role, own.last_seq)
        else:
            # A new member has read everything up to the joining, which is what the device missed first.
            after = max(own.read_seq - 1, own.last_seq - chat.options.resume.max_events, 0)
            chat.sessions.let_follow(session, own.room_id, after)


def listen_to_rooms(chat: Chat, session: Session, rooms: Sequence[OwnRoom], message: Authenticate) -> list[RoomEntry]:
    """Hear every room from its position on, but those that are to be replayed; no step of others comes between."""
    replayed = message.resume.rooms if message.resume is not None else {}
    entries = []
    for own in rooms:
        room = chat.hub.room(own.room_id)
        if room is None:
            continue
        session.enter(own.room_id, own.role, own.last_seq)
        catching_up = session.catching_up.get(own.room_id)
        if own.room_id not in replayed and catching_up is None:
            chat.hub.listen(session, own.room_id, after=room.position)
        entries.append(
            RoomEntry(
                room_id=own.room_id,
                name=own.name,
                kind=own.kind,
                # What a device that follows a joining is still to be sent comes behind it.
                last_seq=room.position if catching_up is None else catching_up.position,
                last_read_seq=own.read_seq,
                unread=own.unread,
            )
        )
    return entries


def authenticated(chat: Chat, session: Session, entries: list[RoomEntry], request_id: str | None) -> Authenticated:
    limits, websocket = chat.options.limits, chat.options.websocket
    return Authenticated(
        id=request_id,
        user_id=session.user_id,
        username=session.username,
        connection_id=session.connection_id,
        epoch=chat.epoch,
        expires_at=format_time(session.expires_at_ms),
        heartbeat_seconds=websocket.heartbeat_s,
        limits=Limits(
            messages_per_minute=limits.messages_per_minute,
            requests_per_minute=limits.requests_per_minute,
            content_characters=limits.content_characters,
            message_bytes=websocket.message_bytes,
            metadata_bytes=limits.metadata_bytes,
        ),
        rooms=entries,
    )


async def resume(chat: Chat, session: Session, wanted: Resume) -> None:
    """Replay every room that the client named; a stale epoch is answered with `resync`, never guessed.

    Many rooms are read together. What its user joins meanwhile on another device, and is to be replayed here, is heard
    when its turn comes. When the store is out the connection is ended, for it would hear nothing of the rooms that are
    left and not know; it can resume again.
    """
    # Still in the step in which its client was told `authenticated`.
    session.resuming = waiting = set(wanted.rooms)
    try:
        named = list(wanted.rooms.items())
        for start in range(0, len(named), ROOMS_AT_ONCE):
            some = dict(named[start : start + ROOMS_AT_ONCE])
            if wanted.epoch == chat.epoch:
                own = {room_id: after for room_id, after in some.items() if room_id in session.rooms}
                await lengthen_tails(chat, own)
            for room_id, after in some.items():
                # A position of another epoch is as good as one that this room has never reached.
                await resume_room(chat, session, room_id, after if wanted.epoch == chat.epoch else NO_SEQ)
                waiting.discard(room_id)
    except Refusal:
        session.line.end(CloseCode.TRY_LATER, "your rooms cannot be read now: reconnect and resume")
        raise
    finally:
        session.resuming = NO_ROOMS
