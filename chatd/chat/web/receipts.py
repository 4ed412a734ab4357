"""/api/messages/:id/receipts: who has got and read a message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat import receipts
from chatd.chat.forms import read_page
from chatd.records import encode_json, format_time
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


async def list_receipts(chat: Chat, call: Call) -> Response:
    """GET /api/messages/:id/receipts"""
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    message_id = call.parts[0]
    sent, found, has_more = await receipts.list_receipts(
        chat, call.signed_in.user_id, message_id, after=page.after_id, limit=page.limit, offset=page.offset
    )
    answer: dict[str, object] = {
        "messageId": message_id,
        "roomId": sent.room_id,
        "seq": sent.seq,
        "sentAt": format_time(sent.created_at),
        "receipts": found,
        "hasMore": has_more,
    }
    if has_more:
        answer["after"] = found[-1].user_id
    return json_response(200, encode_json(answer))
