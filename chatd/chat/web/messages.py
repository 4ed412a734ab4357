"""/api/rooms/:id/messages and what belongs to it: history, pins, threads, and sending without a WebSocket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat import rooms
from chatd.chat.forms import MessageForm, read_form, read_page
from chatd.chat.messages import Draft, Page, Sender, page_after, page_before, post_message
from chatd.chat.permissions import check_may
from chatd.chat.pins import list_pins as read_pins
from chatd.chat.threads import read_thread
from chatd.errors import Refusal
from chatd.records import encode_json
from chatd.store.messages import NO_SEQ
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


async def list_messages(chat: Chat, call: Call) -> Response:
    """GET /api/rooms/:id/messages"""
    room = await rooms.visible_room(chat, call.signed_in.user_id, call.parts[0])
    check_may(room.role, "read")
    return json_response(200, encode_json(await history_page(chat, call, room.id, room.last_seq)))


async def history_page(chat: Chat, call: Call, room_id: str, last_seq: int) -> dict[str, object]:
    """The page of a room's history that a call asks for. Raises `Refusal`."""
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    if page.after_seq is not None:
        found = await page_after(chat, room_id, page.after_seq, page.limit)
    else:
        before = NO_SEQ if page.before_seq is None else page.before_seq
        if page.last_message_id is not None:
            seq = await chat.messages.seq_of(room_id, page.last_message_id)
            if seq is None:
                raise Refusal("not_found", "There is no message `lastMessageId` in this room.")
            before = seq
        found = await page_before(chat, room_id, before, page.limit, offset=page.offset)
    return _messages(room_id, last_seq, found)


def _messages(room_id: str, seq: int, page: Page) -> dict[str, object]:
    """A page with the cursors of the next one: `beforeSeq` towards the past, `afterSeq` towards now."""
    answer: dict[str, object] = {"roomId": room_id, "messages": page.messages, "seq": seq, "hasMore": page.has_more}
    return answer | _cursors(page)


def _cursors(page: Page) -> dict[str, object]:
    return {"beforeSeq": page.first_seq, "afterSeq": page.last_seq} if page.messages else {}


async def send_message(chat: Chat, call: Call) -> Response:
    """POST /api/rooms/:id/messages"""
    form = read_form(await call.request.body.read(), MessageForm)
    caller = call.signed_in
    room = await rooms.visible_room(chat, caller.user_id, call.parts[0])
    draft = Draft(
        room_id=room.id,
        content=form.content,
        message_type=form.message_type,
        file_id=form.file_id,
        reply_to=form.reply_to,
        metadata=form.metadata,
        client_message_id=form.client_message_id,
    )
    message, was_stored_before = await post_message(chat, Sender(caller.user_id, caller.username, room.role), draft)
    return json_response(200 if was_stored_before else 201, encode_json(message))


async def list_pins(chat: Chat, call: Call) -> Response:
    """GET /api/rooms/:id/pins"""
    query = read_page(call.request.query, default_limit=chat.options.messages.history)
    room_id = call.parts[0]
    page = await read_pins(chat, call.signed_in.user_id, room_id, limit=query.limit, offset=query.offset)
    answer: dict[str, object] = {"roomId": room_id, "messages": page.messages, "hasMore": page.has_more}
    if page.has_more:
        answer["offset"] = query.offset + len(page.messages)
    return json_response(200, encode_json(answer))


async def list_replies(chat: Chat, call: Call) -> Response:
    """GET /api/messages/:id/thread"""
    query = read_page(call.request.query, default_limit=chat.options.messages.history)
    message_id = call.parts[0]
    room_id, page = await read_thread(chat, call.signed_in.user_id, message_id, query)
    answer = {"roomId": room_id, "messageId": message_id, "messages": page.messages, "hasMore": page.has_more}
    return json_response(200, encode_json(answer | _cursors(page)))
