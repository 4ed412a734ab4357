"""Rooms: making them, finding them, joining and leaving, and who is in them.

Joining and leaving are durable events with a seq of their own, so they go through the journal. A private room and a
missing one look alike to a stranger. A room that has an owner keeps one: where the last one leaves, whoever stands
highest, and of those has been a member longest, owns it from then on.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from chatd.bus.port import Notice
from chatd.chat.catchup import catch_up, read_stay, resume_room
from chatd.chat.context import Chat, take, tell_all
from chatd.chat.messages import TRIES, newest_page, room_history, too_many_changes
from chatd.chat.permissions import check_may
from chatd.chat.receipts import read_cursors
from chatd.chat.session import Membership
from chatd.chat.typists import who_types
from chatd.errors import CloseCode, Refusal, bad_fields
from chatd.ids import new_id
from chatd.protocol import JoinRoom, LeaveRoom, MemberUpdated, Ok
from chatd.records import Member, Room, RoomSettings, format_time, format_time_or_none
from chatd.store import moderation
from chatd.store.acts import Act
from chatd.store.database import Conflict
from chatd.store.entries import MembershipChange, Stored, refusal_to_join, settled_by_writer
from chatd.store.rooms import MemberRow, NewRoom, RoomRow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from chatd.chat.session import Session
    from chatd.store.acts import Scene


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
    tries = TRIES
    while True:
        while (following := session.catching_up.get(room_id)) is not None:
            # It follows a joining made elsewhere: what is on its way from there comes before the history.
            await catch_up(chat, session, room_id, following.position)
        readers = await read_cursors(chat, room_id)
        room = await chat.hub.read_own(room_id)
        if room is None or room_id not in session.rooms:
            raise _no_such_room()
        seq = room.position
        page = await newest_page(chat, room, message.limit or chat.options.messages.history)
        await session.line.wait_for_space()
        if room_id not in session.rooms:
            raise _no_such_room()
        if room_id in session.catching_up:
            continue
        if room.changed_seq <= seq or not chat.hub.is_heard_by(session, room_id):
            break
        # It has heard of changes that the page would take back.
        tries -= 1
        if not tries:
            raise too_many_changes()
    chat.hub.send_backlog(room_id)
    typing = who_types(chat, room_id, asked_by=session.user_id)
    session.send(room_history(room, seq, page, message.id, typing=typing, readers=readers))
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
        if room.invited_as is not None:
            joined = await _join_invited(chat, session, room_id)
            if joined is not None:
                return joined
        else:
            stored = await chat.journal.write(change(session.user_id, session.username, room_id, role="member"))
            if not stored.duplicate:
                return Membership("member", stored.seq)
    room = await visible_room(chat, session.user_id, room_id)
    if room.role is None:
        raise _no_such_room()
    return Membership(room.role, room.last_seq)


async def _join_invited(chat: Chat, session: Session, room_id: str) -> Membership | None:
    """Use an invitation up: the role that it offers, or `None` for who is a member already."""
    user_id, role = session.user_id, "member"

    async def join(scene: Scene) -> None:
        nonlocal role
        standing = await scene.standing(user_id)
        if standing.role is not None:
            return
        offered = await moderation.invitation(scene, user_id)
        if offered is None and scene.head.kind != "public":
            raise _no_such_room()
        if (refusal := refusal_to_join(standing, scene.head, chat.options.limits.members_per_room)) is not None:
            raise refusal
        role = offered or "member"
        await moderation.drop_invitation(scene, user_id)
        await moderation.add_member(scene, user_id, session.username, role=role, online=True)

    stored = await chat.journal.write(Act(room_id, join))
    return None if stored.duplicate else Membership(role, stored.seq)


async def leave_room(chat: Chat, session: Session, message: LeaveRoom) -> Ok:
    """End the membership; the room hears `user_left`, and this is the last that its leaver hears of it."""
    room_id = message.room_id
    check_may(session.role_in(room_id), "read")
    stored = await end_membership(chat, session.user_id, session.username, room_id)
    # It has ended, also where what this node has not heard yet cannot be read now.
    with suppress(Refusal):
        await chat.hub.reach({room_id: stored.seq})
    chat.sessions.heed(Notice("member_left", session.user_id, room_id, seq=stored.seq))
    return Ok(id=message.id)


async def end_membership(chat: Chat, user_id: str, username: str, room_id: str) -> Stored:
    """Have a user leave a room, which gets another owner if it would have none."""
    room = await visible_room(chat, user_id, room_id)
    check_may(room.role, "read")
    check_shared(room)
    if room.role != "owner":
        try:
            return await chat.journal.write(change(user_id, username, room_id))
        except Refusal as refusal:
            # An owner by now.
            if refusal.code != "conflict":
                raise

    async def leave(scene: Scene) -> None:
        standing = await scene.standing(user_id)
        if standing.role is None:
            return
        if standing.role == "owner":
            await hand_over(scene, user_id)
        await moderation.remove_member(scene, user_id, username, reason="left", online=True)

    return await chat.journal.write(Act(room_id, leave))


async def hand_over(scene: Scene, user_id: str) -> None:
    """Make somebody else an owner, unless there is another one, or nobody else."""
    heir = await moderation.heir(scene, user_id)
    if heir is not None and heir.role != "owner":
        await moderation.set_role(scene, heir.user_id, "owner")
        told = MemberUpdated(room_id=scene.room_id, seq=scene.next_seq(), user_id=heir.user_id, role="owner")
        scene.add_event(told, subject=heir.user_id)


def change(user_id: str, username: str, room_id: str, *, role: str | None = None) -> MembershipChange:
    return MembershipChange(
        room_id=room_id, user_id=user_id, username=username, online=True, settle=settled_by_writer, role=role
    )


async def create_room(
    chat: Chat, user_id: str, *, name: str, kind: str, topic: str | None, member_ids: Sequence[str]
) -> Room:
    """Make a room with its owner and first members; their live connections hear it from then on."""
    check_texts(name, topic)
    limits = chat.options.limits
    if limits.rooms_per_user and await chat.rooms.count_of_user(user_id) >= limits.rooms_per_user:
        raise Refusal("limit_reached", f"You are in {limits.rooms_per_user} rooms; leave one of them first.")
    others = [member_id for member_id in dict.fromkeys(member_ids) if member_id != user_id]
    if limits.rooms_per_user and others:
        counts = await chat.rooms.counts_of_users(others)
        if any(count >= limits.rooms_per_user for count in counts.values()):
            raise Refusal("limit_reached", f"One of `members` is in {limits.rooms_per_user} rooms already.")
    if others and await chat.moderation.has_blockers(others, user_id):
        raise Refusal("forbidden", "One of `members` cannot be brought in by you; let them join by themselves.")
    if limits.members_per_room and len(others) + 1 > limits.members_per_room:
        raise Refusal("limit_reached", f"A room has at most {limits.members_per_room} members.")
    detail = f"You may make {limits.rooms_per_hour} rooms an hour; try again later."
    await take(chat, "rooms:" + user_id, chat.rates.rooms, detail)
    room = NewRoom(new_id(), kind, name, topic, user_id)
    adding = chat.rooms.add(room, owner_id=user_id, member_ids=others, now_ms=chat.clock())
    try:
        await found(chat, room.id, adding, {user_id: "owner", **dict.fromkeys(others, "member")})
    except Conflict:
        raise Refusal("not_found", "One of `members` is no user's id.") from None
    chat.audit.note("room_created", user=user_id, room=room.id, kind=kind)
    for member_id in others:
        chat.notifier.note_invitation(room.id, member_id, by=user_id)
    return await read_room(chat, user_id, room.id)


async def found(chat: Chat, room_id: str, adding: Awaitable[None], roles: Mapping[str, str]) -> None:
    """Have a room added, and let its first members hear it wherever they are. Raises as `adding` does.

    They are told also where whoever asked is gone by then, and where nobody can say whether it was stored: who is told
    in vain asks the store and finds nothing.
    """
    is_there = True
    try:
        await adding
        # Active before its members are told, so that their connections here are in it when this is answered.
        await chat.hub.activate([room_id])
    except Conflict:
        is_there = False
        raise
    finally:
        if is_there:
            tell_first_members(chat, room_id, roles)


def tell_first_members(chat: Chat, room_id: str, roles: Mapping[str, str]) -> None:
    """Let those who are in a room since it was made hear it, on every node; twice does no harm."""
    for user_id, role in roles.items():
        tell_all(chat, Notice("member_joined", user_id, room_id, seq=0, role=role))


def check_texts(name: str, topic: str | None) -> None:
    """Raise `Refusal` (`bad_message`) for a room's name and topic that cannot be shown."""
    faults = {}
    if name.isspace() or not name.isprintable():
        faults["name"] = "printable characters, and not spaces only"
    if topic is not None and not topic.isprintable():
        faults["topic"] = "printable characters"
    if faults:
        raise bad_fields(faults)


async def read_room(chat: Chat, user_id: str, room_id: str) -> Room:
    """A room that the user may see. Raises `Refusal` (`not_found`)."""
    return as_record(await visible_room(chat, user_id, room_id))


async def visible_room(chat: Chat, user_id: str, room_id: str) -> RoomRow:
    """A room that is public, the user's own, or one that they are invited to. Raises `Refusal` (`not_found`)."""
    room = await chat.rooms.by_id(room_id, asked_by=user_id)
    if room is None or (room.role is None and room.invited_as is None and room.kind != "public"):
        raise _no_such_room()
    return room


def check_shared(room: RoomRow) -> None:
    """Raise `Refusal` (`forbidden`) for a direct conversation, whose two members stay its two members."""
    if room.kind == "direct":
        raise Refusal("forbidden", "This is a direct conversation; for more people make a room with POST /api/rooms.")


async def list_rooms(chat: Chat, user_id: str, *, after: str, limit: int, offset: int) -> tuple[list[Room], bool]:
    """Public rooms, one's own and those that one is invited to, and whether there are more."""
    rows = await chat.rooms.visible(user_id, after=after, limit=limit + 1, offset=offset)
    return [as_record(row) for row in rows[:limit]], len(rows) > limit


async def list_members(
    chat: Chat, user_id: str, room_id: str, *, after: str, limit: int, offset: int
) -> tuple[list[Member], bool]:
    """A room's members with who is online and on how many devices, and whether there are more."""
    room = await visible_room(chat, user_id, room_id)
    check_may(room.role, "read")
    rows = await chat.rooms.members(room_id, after=after, limit=limit + 1, offset=offset)
    told_of = [row.user_id for row in rows[:limit]]
    if room.kind == "direct" and room.role == "readonly":
        # One of the two blocks the other: neither is told how the other is.
        told_of = [user_id]
        rows = [row if row.user_id == user_id else replace(row, status_message=None, last_seen_at=None) for row in rows]
    online = await chat.bus.online(told_of)
    now_ms = chat.clock()
    return [_member(row, online.get(row.user_id), now_ms=now_ms) for row in rows[:limit]], len(rows) > limit


async def read_member(chat: Chat, room_id: str, user_id: str) -> Member:
    """One member as the list shows them, for who may see it. Raises `Refusal` (`not_found`)."""
    row = await chat.rooms.member(room_id, user_id)
    if row is None:
        raise no_such_member()
    online = await chat.bus.online([user_id])
    return _member(row, online.get(user_id), now_ms=chat.clock())


def no_such_member() -> Refusal:
    return Refusal("not_found", "This user is no member of the room; GET its members to see who is.")


def _member(row: MemberRow, devices: int | None, *, now_ms: int) -> Member:
    """Somebody seen online with so many devices, none of them while the grace of the last one lasts; or offline."""
    online = devices is not None
    is_muted = row.muted_until is not None and row.muted_until > now_ms
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
        muted_until=format_time_or_none(row.muted_until) if is_muted else None,
    )


def as_record(row: RoomRow) -> Room:
    is_set = bool(row.max_members or row.slow_mode_s)
    return Room(
        id=row.id,
        name=row.name,
        kind=row.kind,
        topic=row.topic,
        created_by=row.created_by,
        created_at=format_time(row.created_at),
        member_count=row.member_count,
        last_seq=row.last_seq,
        role=row.role,
        invited_as=row.invited_as if row.role is None else None,
        settings=RoomSettings(max_members=row.max_members or 0, slow_mode_s=row.slow_mode_s) if is_set else None,
    )


def _no_such_room() -> Refusal:
    return Refusal("not_found", "There is no such room, or it is not for you; GET /api/rooms lists those that are.")
