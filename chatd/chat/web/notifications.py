"""/api/notifications, and what one wants to hear of a room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat import notifications
from chatd.chat.forms import NotificationsRead, NotifyForm, read_form, read_page
from chatd.records import encode_json
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


async def list_notifications(chat: Chat, call: Call) -> Response:
    """GET /api/notifications"""
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    found, has_more, unread = await notifications.list_notifications(
        chat, call.signed_in.user_id, after=page.after_id, limit=page.limit
    )
    answer: dict[str, object] = {"notifications": found, "unread": unread, "hasMore": has_more}
    if has_more:
        answer["after"] = found[-1].id
    return json_response(200, encode_json(answer))


async def mark_read(chat: Chat, call: Call) -> Response:
    """POST /api/notifications/read"""
    form = read_form(await call.request.body.read() or b"{}", NotificationsRead)
    unread = await notifications.mark_read(chat, call.signed_in.user_id, form.ids)
    return json_response(200, encode_json({"unread": unread}))


async def get_preference(chat: Chat, call: Call) -> Response:
    """GET /api/rooms/:id/members/me"""
    notify = await notifications.read_preference(chat, call.signed_in.user_id, call.parts[0])
    return json_response(200, encode_json({"notify": notify}))


async def change_preference(chat: Chat, call: Call) -> Response:
    """PATCH /api/rooms/:id/members/me"""
    form = read_form(await call.request.body.read(), NotifyForm)
    await notifications.change_preference(chat, call.signed_in.user_id, call.parts[0], form.notify)
    return json_response(200, encode_json({"notify": form.notify}))
