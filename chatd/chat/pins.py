"""Pins: messages that moderators keep in view, and the list of them. Doing it twice is harmless and tells nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat import rooms
from chatd.chat.changes import check_may_change, find_message, read_living
from chatd.chat.messages import first_that_fit
from chatd.chat.permissions import check_may
from chatd.errors import Refusal
from chatd.protocol import MessagePinned, MessageUnpinned, Ok, PinMessage, UnpinMessage
from chatd.store import changes
from chatd.store.acts import Act

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.messages import Page
    from chatd.chat.session import Session
    from chatd.store.acts import Scene


async def pin_message(chat: Chat, session: Session, message: PinMessage) -> Ok:
    """Pin a message; the room hears `message_pinned`, unless it was pinned."""
    user_id, message_id = session.user_id, message.message_id
    where = await find_message(chat, user_id, message_id, "pin")

    async def decide(scene: Scene) -> None:
        await check_may_change(scene, user_id, "pin")
        subject = await read_living(scene, message_id)
        if subject.is_pinned:
            return
        limit = chat.options.limits.pins_per_room
        if limit and await changes.count_pins(scene) >= limit:
            raise Refusal("limit_reached", f"At most {limit} messages are pinned in a room; unpin one of them first.")
        seq = scene.next_seq()
        await changes.pin(scene, message_id, user_id=user_id)
        event = MessagePinned(room_id=scene.room_id, seq=seq, message_id=message_id, user_id=user_id)
        scene.add_event(event, message_id=message_id)

    await chat.journal.write(Act(where.room_id, decide))
    return Ok(id=message.id)


async def unpin_message(chat: Chat, session: Session, message: UnpinMessage) -> Ok:
    """Unpin a message; the room hears `message_unpinned`, unless it was not pinned."""
    user_id, message_id = session.user_id, message.message_id
    where = await find_message(chat, user_id, message_id, "pin")

    async def decide(scene: Scene) -> None:
        await check_may_change(scene, user_id, "pin")
        subject = await read_living(scene, message_id)
        if not subject.is_pinned:
            return
        seq = scene.next_seq()
        await changes.unpin(scene, message_id)
        event = MessageUnpinned(room_id=scene.room_id, seq=seq, message_id=message_id, user_id=user_id)
        scene.add_event(event, message_id=message_id)

    await chat.journal.write(Act(where.room_id, decide))
    return Ok(id=message.id)


async def list_pins(chat: Chat, user_id: str, room_id: str, *, limit: int, offset: int) -> Page:
    """What is pinned in a room, the newest pin first."""
    room = await rooms.visible_room(chat, user_id, room_id)
    check_may(room.role, "read")
    return first_that_fit(chat, await chat.messages.pinned(room.id, limit=limit + 1, offset=offset), limit)
