"""/api/users: profiles of others, one or many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat.profiles import read_profile, read_profiles
from chatd.records import encode_json
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


async def get_profile(chat: Chat, call: Call) -> Response:
    """GET /api/users/:id"""
    return json_response(200, encode_json(await read_profile(chat, call.signed_in.user_id, call.parts[0])))


async def list_profiles(chat: Chat, call: Call) -> Response:
    """GET /api/users"""
    ids = [user_id for user_id in call.request.query.get("ids", "").split(",") if user_id]
    found = await read_profiles(chat, call.signed_in.user_id, ids)
    return json_response(200, encode_json({"users": found, "hasMore": False}))
