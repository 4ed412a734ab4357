"""From somewhere in a room's past to live, without a gap and without a repeat.

What was missed is sent in pages from the tail or the store until little enough is left to be sent and to begin to
listen in one step; nothing is buffered meanwhile. Pages wait for space in the outbox, so that a client on a slow line
does not count as a slow reader. Used by joins, resumes, and devices that follow a join made elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from chatd.bus.room import blocks, frame_of
from chatd.errors import CloseCode, Refusal, Unavailable
from chatd.protocol import CaughtUp, Resync

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.session import Session

#: Events that one read of the store brings.
PAGE_EVENTS: Final = 200


async def catch_up(chat: Chat, session: Session, room_id: str, after: int) -> bool:
    """Send all events behind `after` and go live; False if the session is no member (any more).

    On return with True nothing has run between the last event and going live, so what is put next is in order. A later
    call for the same room takes over from an earlier one, which then returns False. When the store is out the
    connection is ended, for it would hear nothing of the room and not know; it can resume.
    """
    mine = session.catching_up[room_id] = object()
    try:
        return await _page_through(chat, session, room_id, after, mine)
    except Refusal:
        session.line.end(CloseCode.TRY_LATER, "the history cannot be read now: reconnect and resume")
        raise
    finally:
        if session.catching_up.get(room_id) is mine:
            del session.catching_up[room_id]


async def _page_through(chat: Chat, session: Session, room_id: str, after: int, mine: object) -> bool:
    chat.hub.pause(session, room_id)
    position = after
    at_once = chat.options.websocket.outbox_bytes // 4

    def may_go_on() -> bool:
        return room_id in session.rooms and session.catching_up.get(room_id) is mine

    while True:
        await session.line.wait_for_space()
        if not may_go_on():
            return False
        if chat.hub.listen(session, room_id, after=position, max_bytes=at_once):
            return True
        room = chat.hub.room(room_id)
        if room is None:
            await chat.hub.activate([room_id])
            if chat.hub.room(room_id) is None:
                return False
            continue
        missed = room.events_after(position)
        if missed is None:
            stored = await chat.messages.events_after(room_id, position, PAGE_EVENTS)
            # What is committed and has not been heard of yet comes live: here it would be a repeat.
            missed = [event for event in stored if event.seq <= room.position]
            if not missed:
                raise Unavailable("The history of this room has a hole; reconnect and try again.")
        for block in blocks([frame_of(event) for event in missed]):
            await session.line.wait_for_space()
            if not may_go_on():
                return False
            session.put(block)
        position = missed[-1].seq


async def follow(chat: Chat, session: Session, room_id: str, after: int) -> None:
    """Let another device of a user who joined a room hear it too, unless its connection has ended."""
    while chat.sessions.has(session) and room_id not in session.rooms and room_id not in session.joining:
        changes = session.changes
        room = await chat.rooms.by_id(room_id, asked_by=session.user_id)
        if session.changes != changes:
            continue
        if room is None or room.role is None:
            return
        session.rooms[room_id] = room.role
        await catch_up(chat, session, room_id, after)
        return


async def resume_room(chat: Chat, session: Session, room_id: str, after: int, request_id: str | None = None) -> None:
    """Replay a room from `after` and say `caught_up`, or say `resync` where that cannot be and go live from now."""
    if room_id in session.rooms:
        await chat.hub.activate([room_id])
    room = chat.hub.room(room_id)
    if room_id not in session.rooms or room is None:
        session.send(Resync(id=request_id, room_id=room_id, oldest_seq=0, seq=0, reason="not_a_member"))
        return
    oldest = max(0, room.position - chat.options.resume.max_events)
    if after > room.position or after < oldest:
        resync(chat, session, room_id, "too_old" if after < oldest else "epoch_changed", request_id)
    elif await catch_up(chat, session, room_id, after) and (room := chat.hub.room(room_id)) is not None:
        session.send(CaughtUp(id=request_id, room_id=room_id, seq=room.position))
    else:
        session.send(Resync(id=request_id, room_id=room_id, oldest_seq=0, seq=0, reason="not_a_member"))


def resync(
    chat: Chat,
    session: Session,
    room_id: str,
    reason: Literal["epoch_changed", "too_old"],
    request_id: str | None = None,
) -> None:
    """Tell a client to fetch the history of a room, which it hears live from here."""
    room = chat.hub.room(room_id)
    assert room is not None
    chat.hub.listen(session, room_id, after=room.position)
    oldest = max(0, room.position - chat.options.resume.max_events)
    session.send(Resync(id=request_id, room_id=room_id, oldest_seq=oldest + 1, seq=room.position, reason=reason))
