"""/api/rooms: rooms and who is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat import room_changes, rooms
from chatd.chat.forms import RoomChangeForm, RoomForm, read_form, read_page
from chatd.chat.room_changes import RoomChange
from chatd.chat.web.call import page_response
from chatd.records import encode_json
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


async def list_rooms(chat: Chat, call: Call) -> Response:
    """GET /api/rooms"""
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    found, has_more = await rooms.list_rooms(
        chat, call.signed_in.user_id, after=page.after_id, limit=page.limit, offset=page.offset
    )
    return page_response("rooms", found, has_more=has_more, cursor=lambda one: one.id)


async def create_room(chat: Chat, call: Call) -> Response:
    """POST /api/rooms"""
    form = read_form(await call.request.body.read(), RoomForm)
    room = await rooms.create_room(
        chat, call.signed_in.user_id, name=form.name, kind=form.kind, topic=form.topic, member_ids=form.members
    )
    return json_response(201, encode_json(room), headers=(("location", f"/api/rooms/{room.id}"),))


async def get_room(chat: Chat, call: Call) -> Response:
    """GET /api/rooms/:id"""
    return json_response(200, encode_json(await rooms.read_room(chat, call.signed_in.user_id, call.parts[0])))


async def change_room(chat: Chat, call: Call) -> Response:
    """PATCH /api/rooms/:id"""
    form = read_form(await call.request.body.read(), RoomChangeForm)
    change = RoomChange(
        name=form.name,
        topic=form.topic,
        max_members=form.settings.max_members,
        slow_mode_s=form.settings.slow_mode_s,
    )
    changed = await room_changes.change_room(chat, call.signed_in.user_id, call.parts[0], change)
    return json_response(200, encode_json(changed))


async def delete_room(chat: Chat, call: Call) -> Response:
    """DELETE /api/rooms/:id"""
    await room_changes.delete_room(chat, call.signed_in.user_id, call.parts[0])
    return json_response(200, b'{"success":true}')


async def list_members(chat: Chat, call: Call) -> Response:
    """GET /api/rooms/:id/members"""
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    found, has_more = await rooms.list_members(
        chat, call.signed_in.user_id, call.parts[0], after=page.after_id, limit=page.limit, offset=page.offset
    )
    return page_response("members", found, has_more=has_more, cursor=lambda one: one.user_id)
