"""/api/search: what was written in one's rooms, by its words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat.forms import read_page
from chatd.chat.search import Wanted, search
from chatd.records import encode_json
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


async def search_messages(chat: Chat, call: Call) -> Response:
    """GET /api/search"""
    query = call.request.query
    page = read_page(query, default_limit=chat.options.messages.history)
    wanted = Wanted(query.get("q", ""), query.get("roomId", ""), query.get("from", ""))
    found, has_more = await search(chat, call.signed_in.user_id, wanted, limit=page.limit, offset=page.offset)
    return json_response(200, encode_json({"results": found, "hasMore": has_more}))
