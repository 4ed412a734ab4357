"""From somewhere in a room's past to live, without a gap and without a repeat.

What was missed is sent in pages from the tail or the store until little enough is left to be sent and to begin to
listen in one step; nothing is buffered meanwhile. Pages wait for space in the outbox, so that a client on a slow line
does not count as a slow reader. Used by joins, resumes, and devices that follow a join made elsewhere.

Many come back at once to about the same place. What lies right before a room's tail is read once and lengthens the
tail, for all who come later; what lies deeper is read in pages that begin at the same places for all, once for those
who ask at the same time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from chatd.bus.room import BLOCK_BYTES, frame_of
from chatd.chat.session import CatchUp
from chatd.errors import CloseCode, Refusal, Unavailable
from chatd.protocol import CaughtUp, Resync
from chatd.store.messages import NO_SEQ, Stretch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from chatd.bus.port import Event
    from chatd.bus.room import ActiveRoom
    from chatd.chat.context import Chat
    from chatd.chat.session import Session

#: Events that one read of the store brings; pages begin at its multiples.
PAGE_EVENTS: Final = 200
#: A tail is lengthened to a multiple of this, so that one read does for those who missed one more or one less.
TAIL_STEP: Final = 20


async def catch_up(chat: Chat, session: Session, room_id: str, after: int, *, is_replay: bool = False) -> bool:
    """Send all events behind `after` and go live; False if the session is no member (any more).

    `after` is not beyond where the membership is known or this node has come.
    On return with True nothing has run between the last event and going live, so what is put next is in order. A later
    call for the same room takes over from an earlier one, which then returns False. A replay, which is asked for, goes
    on where its user has left and joined again before it noticed. When the store is out the connection is ended, for it
    would hear nothing of the room and not know; it can resume.
    """
    mine = session.catching_up[room_id] = CatchUp(after, is_replay=is_replay)
    try:
        is_live = await _page_through(chat, session, room_id, mine)
        if is_live and (room := chat.hub.room(room_id)) is not None and room.position > after:
            chat.deliveries.note_arrival(session, [room_id])
        return is_live
    except Refusal:
        session.line.end(CloseCode.TRY_LATER, "the history cannot be read now: reconnect and resume")
        raise
    finally:
        if session.catching_up.get(room_id) is mine:
            del session.catching_up[room_id]


async def _page_through(chat: Chat, session: Session, room_id: str, mine: CatchUp) -> bool:
    chat.hub.pause(session, room_id)
    at_once = min(chat.options.websocket.outbox_bytes // 4, BLOCK_BYTES)

    def may_go_on() -> bool:
        return room_id in session.rooms and session.catching_up.get(room_id) is mine

    while True:
        await session.line.wait_for_space()
        room = await read_stay(chat, session, room_id)
        if room is None or not may_go_on():
            return False
        if chat.hub.listen(session, room_id, after=mine.position, max_bytes=at_once):
            return True
        began, forgotten = mine.position, room.forgotten
        missed = room.events_after(began)
        if missed is None:
            missed = await _read_missed(chat, room, began)
        for block, last_seq in _blocks(missed, max_bytes=at_once):
            await session.line.wait_for_space()
            if not may_go_on():
                return False
            if room.forgotten != forgotten and mine.position > began:
                # Something of what is left was deleted meanwhile, and is not to be told any more: it is read again.
                break
            session.put(block)
            mine.position = last_seq


def stretch_behind(room: ActiveRoom, after: int) -> Stretch:
    """What to read of a room whose tail does not reach back to `after`: the same for all who ask from about there.

    It ends where the tail begins at the latest: what is committed and has not been heard of yet comes live.
    """
    tail_after = room.tail_after
    if tail_after - after <= PAGE_EVENTS:
        return Stretch(room.room_id, after - after % TAIL_STEP, tail_after)
    start = after - after % PAGE_EVENTS
    return Stretch(room.room_id, start, start + PAGE_EVENTS)


async def _read_missed(chat: Chat, room: ActiveRoom, after: int) -> list[Event]:
    """Some events from behind `after` on, in order, which the tail does not reach back to. Raises `Unavailable`."""
    stretch, forgotten = stretch_behind(room, after), room.forgotten
    events = await chat.missed.get(stretch) or []
    if len(events) != stretch.until - stretch.after:
        raise Unavailable("The history of this room has a hole; reconnect and try again.")
    if room.forgotten == forgotten:
        room.lengthen_tail(events)
    return events[after - stretch.after :]


async def lengthen_tails(chat: Chat, places: Mapping[str, int]) -> None:
    """Let the tails of these rooms reach back to a place in each, where that is near enough; few reads for all.

    Rooms that are not active are passed over. Raises `Unavailable`.
    """
    wanted: dict[Stretch, tuple[ActiveRoom, int]] = {}
    for room_id, after in places.items():
        room = chat.hub.room(room_id)
        if room is not None and room.tail.maxlen and room.position - room.tail.maxlen <= after < room.tail_after:
            wanted[stretch_behind(room, after)] = room, room.forgotten
    found = await chat.missed.get_many(list(wanted))
    for stretch, (room, forgotten) in wanted.items():
        if room.forgotten == forgotten:
            room.lengthen_tail(found.get(stretch, []))


def _blocks(events: Sequence[Event], *, max_bytes: int) -> Iterator[tuple[bytes, int]]:
    """The frames of events that follow each other, joined into blocks, each with the seq of its last one.

    A block of several is at most `max_bytes` long, so that it fits where half of an outbox is free.
    """
    gathered: list[bytes] = []
    size = 0
    for event in events:
        frame = frame_of(event)
        if gathered and size + len(frame) > max_bytes:
            yield b"".join(gathered), event.seq - 1
            gathered, size = [], 0
        gathered.append(frame)
        size += len(frame)
    yield b"".join(gathered), events[-1].seq


async def read_stay(chat: Chat, session: Session, room_id: str) -> ActiveRoom | None:
    """The active room of a session that is a member, else `None`.

    The room is where the membership is known to be at least, and that is behind where this node began to hear the
    room; so no leaving goes unheard.
    """
    while (known := session.rooms.get(room_id)) is not None:
        await chat.hub.reach({room_id: known.seq})
        room = chat.hub.room(room_id)
        if room is None or room_id not in session.rooms:
            return None
        if room.opened_at <= known.seq:
            return room
        changes = session.changes
        row = await chat.rooms.by_id(room_id, asked_by=session.user_id)
        if session.changes != changes:
            continue
        if row is None or row.role is None:
            chat.sessions.stop(session, room_id)
            return None
        session.enter(room_id, row.role, row.last_seq)
    return None


async def follow(chat: Chat, session: Session, room_id: str) -> None:
    """Let a device hear a room that its user joined on another one, from behind where `session.following` says.

    Raises `Unavailable`; where the store could not be asked, it may be called again.
    """
    while chat.sessions.has(session) and room_id in session.following and room_id not in session.rooms:
        changes = session.changes
        # Before the membership is read, so that whatever ends it afterwards is heard.
        await chat.hub.activate([room_id])
        row = await chat.rooms.by_id(room_id, asked_by=session.user_id)
        if session.changes != changes:
            continue
        after = session.following.pop(room_id, None)
        if after is not None and row is not None and row.role is not None and row.joined_seq is not None:
            session.enter(room_id, row.role, row.last_seq)
            if not session.is_to_replay(room_id) and not chat.hub.is_heard_by(session, room_id):
                # What it was sent in its last stay comes before what it is sent now.
                chat.hub.send_backlog(room_id)
                after = max(after, session.heard.get(room_id, 0), row.joined_seq - 1)
                await catch_up(chat, session, room_id, after)
        return
    session.following.pop(room_id, None)


async def resume_room(chat: Chat, session: Session, room_id: str, after: int, request_id: str | None = None) -> None:
    """Replay a room from `after` and say `caught_up`, or say `resync` where that cannot be and go live from now."""
    room = await read_stay(chat, session, room_id)
    if room is not None and room.position < after < NO_SEQ:
        # Another node may have told the client what has not come here yet.
        await chat.hub.try_to_reach(room_id, after)
        room = await read_stay(chat, session, room_id)
    if room is None:
        session.send(Resync(id=request_id, room_id=room_id, oldest_seq=0, seq=0, reason="not_a_member"))
        return
    oldest = max(0, room.position - chat.options.resume.max_events)
    if after > room.position or after < oldest:
        resync(chat, session, room_id, "too_old" if after < oldest else "epoch_changed", request_id)
    elif await catch_up(chat, session, room_id, after, is_replay=True) and (room := chat.hub.room(room_id)) is not None:
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
    # What a large room still has to serve belongs before the position that is told, and what else is on its way from
    # the past is not to come behind it.
    session.catching_up.pop(room_id, None)
    chat.hub.pause(session, room_id)
    chat.hub.listen(session, room_id, after=room.position)
    oldest = max(0, room.position - chat.options.resume.max_events)
    session.send(Resync(id=request_id, room_id=room_id, oldest_seq=oldest + 1, seq=room.position, reason=reason))
