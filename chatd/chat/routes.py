"""Every path of the HTTP side: who may ask, and the function that answers it. Source: spec/http.md.

`answer` finds the route, reads the token, takes the call from its caller's budget, sees that the session stands and
runs what stands in the table. The functions are in `web`; the rules behind them are those of the WebSocket side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from chatd import schema, telemetry
from chatd.chat import audit
from chatd.chat.accounts import identify
from chatd.chat.context import Chat, take
from chatd.chat.contracts import operations
from chatd.chat.features import Feature, check_feature
from chatd.chat.operation import health, metrics, readiness
from chatd.chat.web import (
    accounts,
    chats,
    direct,
    files,
    members,
    messages,
    notifications,
    receipts,
    rooms,
    search,
    users,
)
from chatd.chat.web.call import Call, Rule
from chatd.errors import Refusal
from chatd.limits.addresses import limited_as
from chatd.wire.http import Request, Response, json_response, problem

if TYPE_CHECKING:
    from chatd.identity.tokens import Claims


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path, in which parts that begin with a colon are variable.

    `is_open`: no token is asked for; `takes_links`: nor of whoever has a signed link; `feature`: the switch that it
    stands under.
    """

    method: str
    path: str
    rule: Rule
    is_open: bool = False
    takes_links: bool = False
    feature: Feature | None = None

    def is_open_to(self, request: Request) -> bool:
        """Whether a request is answered without a token; the signature of a link is for the rule to check."""
        return self.is_open or (self.takes_links and "signature" in request.query)

    def match(self, parts: list[str]) -> tuple[str, ...] | None:
        """The variable parts of a path that fits, else `None`."""
        pattern = self.path.split("/")
        if len(pattern) != len(parts):
            return None
        variable = []
        for expected, part in zip(pattern, parts, strict=True):
            if expected.startswith(":") and part:
                variable.append(part)
            elif expected != part:
                return None
        return tuple(variable)


async def get_openapi(_chat: Chat, _call: Call) -> Response:
    """GET /api/openapi.json"""
    return json_response(200, _openapi_text().encode())


async def get_asyncapi(_chat: Chat, _call: Call) -> Response:
    """GET /api/asyncapi.json"""
    return json_response(200, _asyncapi_text().encode())


@cache
def _openapi_text() -> str:
    return schema.text_of(schema.openapi(operations(ROUTES)))


@cache
def _asyncapi_text() -> str:
    return schema.text_of(schema.asyncapi())


ROUTES: Final[tuple[Route, ...]] = (
    Route("POST", "/api/auth/register", accounts.register, is_open=True, feature="registration"),
    Route("POST", "/api/auth/login", accounts.login, is_open=True),
    Route("POST", "/api/auth/refresh", accounts.refresh, is_open=True),
    Route("POST", "/api/auth/logout", accounts.logout),
    Route("GET", "/api/users/me", accounts.get_own_profile),
    Route("PATCH", "/api/users/me", accounts.change_own_profile),
    Route("GET", "/api/users", users.list_profiles, feature="profiles"),
    Route("GET", "/api/users/:id", users.get_profile, feature="profiles"),
    Route("GET", "/api/rooms", rooms.list_rooms),
    Route("POST", "/api/rooms", rooms.create_room, feature="room_creation"),
    Route("GET", "/api/rooms/:id", rooms.get_room),
    Route("PATCH", "/api/rooms/:id", rooms.change_room, feature="moderation"),
    Route("DELETE", "/api/rooms/:id", rooms.delete_room, feature="moderation"),
    Route("GET", "/api/rooms/:id/members", rooms.list_members),
    Route("POST", "/api/rooms/:id/members", members.add_member, feature="invitations"),
    # Before the members who have an id.
    Route("GET", "/api/rooms/:id/members/me", notifications.get_preference, feature="notifications"),
    Route("PATCH", "/api/rooms/:id/members/me", notifications.change_preference, feature="notifications"),
    Route("PATCH", "/api/rooms/:id/members/:userId", members.change_member, feature="moderation"),
    Route("DELETE", "/api/rooms/:id/members/:userId", members.remove_member, feature="moderation"),
    Route("GET", "/api/rooms/:id/bans", members.list_bans, feature="moderation"),
    Route("DELETE", "/api/rooms/:id/bans/:userId", members.unban, feature="moderation"),
    Route("GET", "/api/rooms/:id/messages", messages.list_messages),
    Route("POST", "/api/rooms/:id/messages", messages.send_message),
    Route("GET", "/api/rooms/:id/pins", messages.list_pins, feature="pins"),
    Route("GET", "/api/messages/:id/thread", messages.list_replies, feature="threads"),
    Route("GET", "/api/notifications", notifications.list_notifications, feature="notifications"),
    Route("POST", "/api/notifications/read", notifications.mark_read, feature="notifications"),
    Route("GET", "/api/messages/:id/receipts", receipts.list_receipts, feature="receipts"),
    Route("GET", "/api/chats", chats.list_chats),
    # Before the conversations, of which none is called so.
    Route("GET", "/api/direct-messages/unread", direct.count_unread, feature="direct_messages"),
    Route("GET", "/api/direct-messages/:userId", direct.list_conversation, feature="direct_messages"),
    Route("POST", "/api/direct-messages/:userId/read", direct.mark_conversation, feature="receipts"),
    Route("GET", "/api/blocks", direct.list_blocked, feature="blocks"),
    Route("PUT", "/api/users/:id/block", direct.block_user, feature="blocks"),
    Route("DELETE", "/api/users/:id/block", direct.unblock_user, feature="blocks"),
    Route("GET", "/api/search", search.search_messages, feature="search"),
    Route("GET", "/api/openapi.json", get_openapi, is_open=True),
    Route("GET", "/api/asyncapi.json", get_asyncapi, is_open=True),
    Route("POST", "/api/upload", files.upload, feature="uploads"),
    Route("GET", "/api/upload", files.list_uploads),
    Route("DELETE", "/api/upload/:id", files.remove_upload),
    Route("GET", "/api/files/:name", files.get_file, takes_links=True),
    Route("POST", "/api/files/:name/link", files.make_link),
    Route("GET", "/healthz", health, is_open=True),
    Route("GET", "/readyz", readiness, is_open=True),
    Route("GET", "/metrics", metrics, is_open=True),
)


async def answer(chat: Chat, request: Request) -> Response:
    """Answer one request. Raises `Refusal`, which the listener makes a problem of.

    A call of the API is taken from its caller's budget before the database is asked anything: from the user's where
    the token is good, else from the address's.
    """
    agent, connection_id = request.header("user-agent") or "", telemetry.bound("connection")
    audit.enter(request.address, agent, connection_id=connection_id)
    try:
        return await _answer(chat, request, agent, connection_id)
    except Refusal as refusal:
        chat.audit.note_refusal(refusal, asked=f"{request.method[:20]} {request.path[:100]}")
        raise


async def _answer(chat: Chat, request: Request, agent: str, connection_id: str) -> Response:
    found, allowed = _find(request)
    claims, refusal = None, None
    if found is not None and not found[0].is_open_to(request):
        try:
            claims = _claims(chat, request)
        except Refusal as bad:
            refusal = bad
    if request.path.startswith("/api/"):
        budget = "api:" + (claims.user_id if claims else limited_as(request.address))
        detail = f"You may make {chat.rates.api.burst} calls a minute; wait a little."
        await take(chat, budget, chat.rates.api, detail)
    if refusal is not None:
        raise refusal
    if found is None:
        return _nothing_here(chat, request, allowed)
    route, variable = found
    check_feature(chat, route.feature)
    caller = await identify(chat, claims) if claims else None
    if caller is not None:
        audit.enter(request.address, agent, connection_id=connection_id, user_id=caller.user_id)
    began = chat.seconds()
    response = await route.rule(chat, Call(request, variable, caller))
    chat.slow.note(f"{route.method} {route.path}", chat.seconds() - began)
    return response


def _find(request: Request) -> tuple[tuple[Route, tuple[str, ...]] | None, set[str]]:
    """The route with the variable parts of its path, or else the methods that the path takes."""
    method = "GET" if request.method == "HEAD" else request.method
    parts = request.path.split("/")
    allowed: set[str] = set()
    for route in ROUTES:
        variable = route.match(parts)
        if variable is None:
            continue
        if route.method == method:
            return (route, variable), set()
        allowed |= {"GET", "HEAD"} if route.method == "GET" else {route.method}
    return None, allowed


def _nothing_here(chat: Chat, request: Request, allowed: set[str]) -> Response:
    if not allowed:
        raise Refusal("not_found", "There is nothing at this path.")
    chat.metrics.errors["bad_message"].inc()
    detail = f"This path does not take {request.method[:20]}; it takes {', '.join(sorted(allowed))}."
    return problem("bad_message", detail, status=405, headers=(("allow", ", ".join(sorted(allowed))),))


def _claims(chat: Chat, request: Request) -> Claims:
    """What the token says, its signature and life checked. Raises `Refusal`: `unauthenticated`, `token_expired`."""
    scheme, _, token = (request.header("authorization") or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refusal(
            "unauthenticated", "Send the header `Authorization: Bearer TOKEN`; POST /api/auth/login gives one."
        )
    return chat.tokens.read(token.strip(), chat.clock())
