"""/api/direct-messages and /api/blocks: conversations of two, and whom a user does not want to hear from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat import blocks, receipts
from chatd.chat.direct import find_pair
from chatd.chat.forms import MarkForm, read_form, read_page
from chatd.chat.web.call import page_response
from chatd.chat.web.messages import history_page
from chatd.records import encode_json
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


async def list_conversation(chat: Chat, call: Call) -> Response:
    """GET /api/direct-messages/:userId"""
    pair = await find_pair(chat, call.signed_in.user_id, call.parts[0])
    if pair.room_id is None:
        read_page(call.request.query, default_limit=chat.options.messages.history)
        return json_response(200, b'{"messages":[],"seq":0,"hasMore":false}')
    return json_response(200, encode_json(await history_page(chat, call, pair.room_id, pair.last_seq or 0)))


async def mark_conversation(chat: Chat, call: Call) -> Response:
    """POST /api/direct-messages/:userId/read"""
    form = read_form(await call.request.body.read() or b"{}", MarkForm)
    user_id = call.signed_in.user_id
    pair = await find_pair(chat, user_id, call.parts[0])
    if pair.room_id is not None:
        await receipts.mark(chat, user_id, pair.room_id, message_id=form.message_id, seq=form.seq)
    return json_response(200, b'{"success":true}')


async def count_unread(chat: Chat, call: Call) -> Response:
    """GET /api/direct-messages/unread"""
    unread = await chat.direct.count_unread(call.signed_in.user_id)
    return json_response(200, encode_json(unread._asdict()))


async def block_user(chat: Chat, call: Call) -> Response:
    """PUT /api/users/:id/block"""
    await blocks.block_user(chat, call.signed_in.user_id, call.parts[0])
    return json_response(200, b'{"success":true}')


async def unblock_user(chat: Chat, call: Call) -> Response:
    """DELETE /api/users/:id/block"""
    await blocks.unblock_user(chat, call.signed_in.user_id, call.parts[0])
    return json_response(200, b'{"success":true}')


async def list_blocked(chat: Chat, call: Call) -> Response:
    """GET /api/blocks"""
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    found, has_more = await blocks.list_blocked(
        chat, call.signed_in.user_id, after=page.after_id, limit=page.limit, offset=page.offset
    )
    return page_response("users", found, has_more=has_more, cursor=lambda one: one.user_id)
