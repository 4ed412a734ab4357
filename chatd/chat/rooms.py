"""Rooms: making them, finding them, joining and leaving, and who is in them.

Joining and leaving are durable events with a seq of their own, so they go through the journal. A private room and a
missing one look alike to a stranger.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from chatd.bus.port import Notice
from chatd.chat.catchup import catch_up, read_stay, resume_room
from chatd.chat.context import Chat, take, tell_all
from chatd.chat.messages import newest_page, room_history
from chatd.chat.permissions import check_may
from chatd.chat.session import Membership
from chatd.chat.typists import who_types
from chatd.errors import CloseCode, Refusal, bad_fields
from chatd.ids import new_id
from chatd.protocol import JoinRoom, LeaveRoom, Ok
from chatd.records import Member, Room, format_time, format_time_or_none
from chatd.store.database import Conflict
from chatd.store.entries import MembershipChange, Outcome
from chatd.store.rooms import MemberRow, NewRoom, RoomRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.chat.session import Session


async def join_room(chat: Chat, session: Session, message: JoinRoom) -> None:
    """Become a member, unless one already; then `room_history`, or what was missed since `afterSeq`; then live."""
    room_id = message.room_id
    if room_id not in session.rooms:
        await become_member(chat, session, room_id)
    try:
        await hear_room(chat, session, message)
    except Refusal as refusal:
        if room_id in session.rooms and not chat.hub.is_heard_by(session, room_id) and refusal.is_temporary:
            # A member who hears nothing of the room would not know; a new connection will hear it.
            session.line.end(CloseCode.TRY_LATER, "the room cannot be read now: reconnect")
        raise


async def hear_room(chat: Chat, session: Session, message: JoinRoom) -> None:
    """Send a member the room's history, or what was missed, and let the session hear it from there."""
    room_id = message.room_id
    room = await read_stay(chat, session, room_id)
    if room is None:
        raise _no_such_room()
    if message.after_seq is not None:
        await resume_room(chat, session, room_id, message.after_seq, message.id)
        return
    while True:
        while (following := session.catching_up.get(room_id)) is not None:
            # It follows a joining made elsewhere: what is on its way from there comes before the history.
            await catch_up(chat, session, room_id, following.position)
        room = await chat.hub.read_own(room_id)
        if room is None or room_id not in session.rooms:
            raise _no_such_room()
        seq = room.position
        page = await newest_page(chat, room, message.limit or chat.options.messages.history)
        await session.line.wait_for_space()
        if room_id not in session.rooms:
            raise _no_such_room()
        if room_id not in session.catching_up:
            break
    chat.hub.send_backlog(room_id)
    typing = who_types(chat, room_id, asked_by=session.user_id)
    session.send(room_history(room, seq, page, message.id, typing=typing))
    if not chat.hub.is_heard_by(session, room_id):
        await catch_up(chat, session, room_id, seq)


async def become_member(chat: Chat, session: Session, room_id: str) -> None:
    """Make the session's user a member and note it in the session."""
    session.joining[room_id] = 0
    changes = session.changes
    try:
        joined = await _join(chat, session, room_id)
        if session.joining[room_id] > joined.seq:
            # The membership was ended meanwhile.
            raise _no_such_room()
        session.enter(room_id, *joined)
    except Refusal:
        if session.changes != changes:
            # Another device may have joined; notices of that were left to this call.
            chat.sessions.look_again(session)
        raise
    finally:
        del session.joining[room_id]


async def _join(chat: Chat, session: Session, room_id: str) -> Membership:
    """The membership that the user has or gets, as of a position from which on this node hears of every change."""
    room = await visible_room(chat, session.user_id, room_id)
    await chat.hub.activate([room_id])
    if room.role is None:
        limits = chat.options.limits
        if limits.rooms_per_user and await chat.rooms.count_of_user(session.user_id) >= limits.rooms_per_user:
            raise Refusal("limit_reached", f"You are in {limits.rooms_per_user} rooms; leave one of them first.")
        detail = f"You may join {limits.joins_per_hour} rooms an hour; try again later."
        await take(chat, "joins:" + session.user_id, chat.rates.joins, detail)
        stored = await chat.journal.write(change(session.user_id, session.username, room_id, role="member"))
        if not stored.duplicate:
            return Membership("member", stored.seq)
    room = await visible_room(chat, session.user_id, room_id)
    if room.role is None:
        raise _no_such_room()
    return Membership(room.role, room.last_seq)


async def leave_room(chat: Chat, session: Session, message: LeaveRoom) -> Ok:
    """End the membership; the room hears `user_left`, and this is the last that its leaver hears of it."""
    room_id = message.room_id
    check_may(session.role_in(room_id), "read")
    stored = await chat.journal.write(change(session.user_id, session.username, room_id))
    # It has ended, also where what this node has not heard yet cannot be read now.
    with suppress(Refusal):
        await chat.hub.reach({room_id: stored.seq})
    chat.sessions.heed(Notice("member_left", session.user_id, room_id, seq=stored.seq))
    return Ok(id=message.id)


def change(user_id: str, username: str, room_id: str, *, role: str | None = None) -> MembershipChange:
    return MembershipChange(
        room_id=room_id, user_id=user_id, username=username, online=True, settle=_settled_by_writer, role=role
    )


def _settled_by_writer(outcome: Outcome) -> None:
    """`Journal.write` puts its own in the place of this one."""


async def create_room(
    chat: Chat, user_id: str, *, name: str, kind: str, topic: str | None, member_ids: Sequence[str]
) -> Room:
    """Make a room with its owner and first members; their live connections hear it from then on."""
    if not chat.options.features.room_creation:
        raise Refusal("feature_disabled", "Making rooms is switched off on this server.")
    faults = {}
    if name.isspace() or not name.isprintable():
        faults["name"] = "printable characters, and not spaces only"
    if topic is not None and not topic.isprintable():
        faults["topic"] = "printable characters"
    if faults:
        raise bad_fields(faults)
    limits = chat.options.limits
    if limits.rooms_per_user and await chat.rooms.count_of_user(user_id) >= limits.rooms_per_user:
        raise Refusal("limit_reached", f"You are in {limits.rooms_per_user} rooms; leave one of them first.")
    others = [member_id for member_id in dict.fromkeys(member_ids) if member_id != user_id]
    if limits.rooms_per_user and others:
        counts = await chat.rooms.counts_of_users(others)
        if any(count >= limits.rooms_per_user for count in counts.values()):
            raise Refusal("limit_reached", f"One of `members` is in {limits.rooms_per_user} rooms already.")
    if limits.members_per_room and len(others) + 1 > limits.members_per_room:
        raise Refusal("limit_reached", f"A room has at most {limits.members_per_room} members.")
    detail = f"You may make {limits.rooms_per_hour} rooms an hour; try again later."
    await take(chat, "rooms:" + user_id, chat.rates.rooms, detail)
    room = NewRoom(new_id(), kind, name, topic, user_id)
    try:
        await chat.rooms.add(room, owner_id=user_id, member_ids=others, now_ms=chat.clock())
    except Conflict:
        raise Refusal("not_found", "One of `members` is no user's id.") from None
    # Active before its members are told, so that their connections here are in it when this is answered.
    await chat.hub.activate([room.id])
    tell_all(chat, Notice("member_joined", user_id, room.id, seq=0, role="owner"))
    for member_id in others:
        tell_all(chat, Notice("member_joined", member_id, room.id, seq=0, role="member"))
    return await read_room(chat, user_id, room.id)


async def read_room(chat: Chat, user_id: str, room_id: str) -> Room:
    """A room that the user may see. Raises `Refusal` (`not_found`)."""
    return as_record(await visible_room(chat, user_id, room_id))


async def visible_room(chat: Chat, user_id: str, room_id: str) -> RoomRow:
    room = await chat.rooms.by_id(room_id, asked_by=user_id)
    if room is None or (room.role is None and room.kind != "public"):
        raise _no_such_room()
    return room


async def list_rooms(chat: Chat, user_id: str, *, after: str, limit: int, offset: int) -> tuple[list[Room], bool]:
    """Public rooms and one's own, and whether there are more."""
    rows = await chat.rooms.visible(user_id, after=after, limit=limit + 1, offset=offset)
    return [as_record(row) for row in rows[:limit]], len(rows) > limit


async def list_members(
    chat: Chat, user_id: str, room_id: str, *, after: str, limit: int, offset: int
) -> tuple[list[Member], bool]:
    """A room's members with who is online and on how many devices, and whether there are more."""
    room = await visible_room(chat, user_id, room_id)
    check_may(room.role, "read")
    rows = await chat.rooms.members(room_id, after=after, limit=limit + 1, offset=offset)
    online = await chat.bus.online([row.user_id for row in rows[:limit]])
    return [_member(row, online.get(row.user_id)) for row in rows[:limit]], len(rows) > limit


def _member(row: MemberRow, devices: int | None) -> Member:
    """Somebody seen online with so many devices, none of them while the grace of the last one lasts; or offline."""
    online = devices is not None
    return Member(
        user_id=row.user_id,
        username=row.username,
        display_name=row.display_name,
        role=row.role,
        joined_at=format_time(row.joined_at),
        online=online,
        status=row.status if online else "offline",
        status_message=row.status_message,
        device_count=devices or 0,
        last_seen=None if online else format_time_or_none(row.last_seen_at),
    )


def as_record(row: RoomRow) -> Room:
    return Room(
        id=row.id,
        name=row.name,
        kind=row.kind,
        topic=row.topic,
        created_by=row.created_by,
        created_at=format_time(row.created_at),
        member_count=row.member_count,
        max_members=row.max_members,
        last_seq=row.last_seq,
        role=row.role,
    )


def _no_such_room() -> Refusal:
    return Refusal("not_found", "There is no such room, or it is not for you; GET /api/rooms lists those that are.")
