"""The chat list: a user's rooms and direct conversations, those first in which something was written last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.errors import Refusal
from chatd.records import ChatEntry, Participant, format_time
from chatd.store.chats import TOP, ChatRow, Place

if TYPE_CHECKING:
    from chatd.chat.context import Chat


async def list_chats(
    chat: Chat, user_id: str, *, after: str, limit: int, offset: int
) -> tuple[list[ChatEntry], str | None]:
    """The chats behind a cursor, and the cursor of the next page, `None` where there is none. Raises `Refusal`."""
    rows = await chat.chats.page(user_id, behind=_place(after), limit=limit + 1, offset=offset)
    entries = [_entry(row, user_id) for row in rows[:limit]]
    return entries, _cursor(rows[limit - 1].place) if len(rows) > limit else None


def _entry(row: ChatRow, user_id: str) -> ChatEntry:
    others = [participant.user_id for participant in row.participants if participant.user_id != user_id]
    return ChatEntry(
        room_id=row.room_id,
        name=row.name,
        kind=row.kind,
        topic=row.topic,
        user_id=others[0] if row.kind == "direct" and others else None,
        last_seq=row.last_seq,
        last_read_seq=row.read_seq,
        unread=max(row.unread, 0),
        last_activity=format_time(row.activity),
        last_message=row.last_message,
        member_count=row.member_count,
        participants=[
            Participant(user_id=each.user_id, username=each.username, display_name=each.display_name)
            for each in row.participants
        ],
    )


def _cursor(place: Place) -> str:
    return f"{place.activity}.{place.room_id}"


def _place(cursor: str) -> Place:
    if not cursor:
        return TOP
    activity, dot, room_id = cursor.partition(".")
    if not dot or not (activity.isascii() and activity.isdigit() and len(activity) <= len(str(TOP.activity))):
        raise Refusal("bad_message", "The parameter `after` is none of this list; take it from the page before.")
    return Place(int(activity), room_id)
