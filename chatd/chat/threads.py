"""Threads: a message's replies, page by page. A reply is a message like any other, with `replyTo`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from chatd.chat.changes import find_message
from chatd.chat.messages import first_that_fit, last_that_fit
from chatd.errors import Refusal

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.forms import PageQuery
    from chatd.chat.messages import Page


class Thread(NamedTuple):
    """A page of replies, and the room that they stand in."""

    room_id: str
    page: Page


async def read_thread(chat: Chat, user_id: str, message_id: str, query: PageQuery) -> Thread:
    """A page of the replies to a message, also to a deleted one: the oldest ones, unless a cursor says otherwise."""
    room_id = (await find_message(chat, user_id, message_id, "read")).room_id
    before = query.before_seq
    if query.last_message_id is not None:
        before = await chat.messages.seq_of(room_id, query.last_message_id)
        if before is None:
            raise Refusal("not_found", "There is no message `lastMessageId` in this room.")
    if before is not None:
        found = await chat.messages.replies_before(room_id, message_id, before, limit=query.limit + 1)
        return Thread(room_id, last_that_fit(chat, found, query.limit))
    found = await chat.messages.replies_after(
        room_id, message_id, query.after_seq or 0, limit=query.limit + 1, offset=query.offset
    )
    return Thread(room_id, first_that_fit(chat, found, query.limit))
