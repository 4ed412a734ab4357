"""/api/rooms/:id/members and /bans: bringing others in, their roles, muting, kicking and keeping out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat import invitations, moderation
from chatd.chat.forms import MemberChangeForm, MemberForm, RemovalForm, read_form, read_page
from chatd.chat.web.call import page_response
from chatd.records import encode_json
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


async def add_member(chat: Chat, call: Call) -> Response:
    """POST /api/rooms/:id/members"""
    form = read_form(await call.request.body.read(), MemberForm)
    bring_in = invitations.invite if form.invite else invitations.add_member
    brought = await bring_in(chat, call.signed_in, call.parts[0], form.user_id, role=form.role)
    return json_response(201, encode_json(brought))


async def change_member(chat: Chat, call: Call) -> Response:
    """PATCH /api/rooms/:id/members/:userId"""
    form = read_form(await call.request.body.read(), MemberChangeForm)
    room_id, user_id = call.parts
    changed = await moderation.change_member(
        chat,
        call.signed_in,
        room_id,
        user_id,
        role=form.role,
        muted_until_ms=form.muted_until_ms,
        is_muting=form.is_muting,
    )
    return json_response(200, encode_json(changed))


async def remove_member(chat: Chat, call: Call) -> Response:
    """DELETE /api/rooms/:id/members/:userId"""
    body = await call.request.body.read()
    form = read_form(body, RemovalForm) if body else RemovalForm()
    room_id, user_id = call.parts
    if form.ban or call.request.query.get("ban") == "true":
        await moderation.remove_member(
            chat, call.signed_in.user_id, room_id, user_id, reason="banned", note=form.reason
        )
    elif user_id == call.signed_in.user_id:
        await moderation.remove_oneself(chat, call.signed_in, room_id)
    else:
        await moderation.remove_member(chat, call.signed_in.user_id, room_id, user_id, reason="kicked")
    return json_response(200, b'{"success":true}')


async def list_bans(chat: Chat, call: Call) -> Response:
    """GET /api/rooms/:id/bans"""
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    found, has_more = await moderation.list_bans(
        chat, call.signed_in.user_id, call.parts[0], after=page.after_id, limit=page.limit, offset=page.offset
    )
    return page_response("bans", found, has_more=has_more, cursor=lambda one: one.user_id)


async def unban(chat: Chat, call: Call) -> Response:
    """DELETE /api/rooms/:id/bans/:userId"""
    room_id, user_id = call.parts
    await moderation.unban(chat, call.signed_in.user_id, room_id, user_id)
    return json_response(200, b'{"success":true}')
