"""/api/chats: what a user is in, the newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat import chats
from chatd.chat.forms import read_page
from chatd.records import encode_json
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


async def list_chats(chat: Chat, call: Call) -> Response:
    """GET /api/chats"""
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    found, after = await chats.list_chats(
        chat, call.signed_in.user_id, after=page.after_id, limit=page.limit, offset=page.offset
    )
    answer: dict[str, object] = {"chats": found, "hasMore": after is not None}
    if after is not None:
        answer["after"] = after
    return json_response(200, encode_json(answer))
