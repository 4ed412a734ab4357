"""Every path of the HTTP side: who may ask, and the rule that answers it. Source: spec/http.md.

`answer` finds the route, reads the token, takes the call from its caller's budget, sees that the session stands and
runs the rule. The rules are the
same functions as behind the WebSocket side; here they are only fed from a request and put into JSON.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from chatd.chat import accounts, rooms
from chatd.chat.accounts import AccountChange, Caller, Grant, Origin
from chatd.chat.context import Chat, take
from chatd.chat.forms import Login, MessageForm, ProfileChange, Refresh, Registration, RoomForm, read_form, read_page
from chatd.chat.messages import Draft, Page, Sender, page_after, page_before, post_message
from chatd.chat.operation import health, metrics, readiness
from chatd.chat.permissions import check_may
from chatd.errors import Refusal
from chatd.limits.addresses import limited_as
from chatd.records import encode_json
from chatd.store.messages import NO_SEQ
from chatd.wire.http import Request, Response, json_response, problem

if TYPE_CHECKING:
    from chatd.identity.tokens import Claims


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way to its rule: `parts` are the variable parts of the path, in order."""

    request: Request
    parts: tuple[str, ...]
    caller: Caller | None

    @property
    def signed_in(self) -> Caller:
        assert self.caller is not None, "the route asks for a token"
        return self.caller

    @property
    def origin(self) -> Origin:
        return Origin(self.request.address, self.request.header("user-agent") or "")


Rule: TypeAlias = Callable[[Chat, Call], Awaitable[Response]]


async def register(chat: Chat, call: Call) -> Response:
    """POST /api/auth/register"""
    form = read_form(await call.request.body.read(), Registration)
    grant = await accounts.register(chat, call.origin, email=form.email, username=form.username, password=form.password)
    return _granted(201, grant)


async def login(chat: Chat, call: Call) -> Response:
    """POST /api/auth/login"""
    form = read_form(await call.request.body.read(), Login)
    return _granted(200, await accounts.login(chat, call.origin, email=form.email, password=form.password))


async def refresh(chat: Chat, call: Call) -> Response:
    """POST /api/auth/refresh"""
    form = read_form(await call.request.body.read(), Refresh)
    return _granted(200, await accounts.refresh(chat, call.origin, form.refresh_token))


def _granted(status: int, grant: Grant) -> Response:
    answer = {
        "user": accounts.profile(grant.account, is_own=True),
        "token": grant.token,
        "refreshToken": grant.refresh_token,
        "expiresIn": grant.expires_in_s,
    }
    return json_response(status, encode_json(answer), headers=(("cache-control", "no-store"),))


async def logout(chat: Chat, call: Call) -> Response:
    """POST /api/auth/logout"""
    await accounts.logout(chat, call.signed_in, everywhere=call.request.query.get("all") == "true")
    return json_response(200, b'{"success":true}')


async def get_own_profile(chat: Chat, call: Call) -> Response:
    """GET /api/users/me"""
    account = await accounts.own_account(chat, call.signed_in)
    return json_response(200, encode_json(accounts.profile(account, is_own=True)))


async def change_own_profile(chat: Chat, call: Call) -> Response:
    """PATCH /api/users/me"""
    form = read_form(await call.request.body.read(), ProfileChange)
    change = AccountChange(
        username=form.username,
        display_name=form.display_name,
        status_message=form.status_message,
        password=form.password,
        old_password=form.old_password,
    )
    account = await accounts.own_account(chat, call.signed_in)
    changed = await accounts.change_account(chat, account, call.signed_in, change)
    return json_response(200, encode_json(accounts.profile(changed, is_own=True)))


async def list_rooms(chat: Chat, call: Call) -> Response:
    """GET /api/rooms"""
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    found, has_more = await rooms.list_rooms(
        chat, call.signed_in.user_id, after=page.after_id, limit=page.limit, offset=page.offset
    )
    answer = {"rooms": found, "hasMore": has_more}
    if has_more:
        answer["after"] = found[-1].id
    return json_response(200, encode_json(answer))


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


async def list_members(chat: Chat, call: Call) -> Response:
    """GET /api/rooms/:id/members"""
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    found, has_more = await rooms.list_members(
        chat, call.signed_in.user_id, call.parts[0], after=page.after_id, limit=page.limit, offset=page.offset
    )
    answer = {"members": found, "hasMore": has_more}
    if has_more:
        answer["after"] = found[-1].user_id
    return json_response(200, encode_json(answer))


async def list_messages(chat: Chat, call: Call) -> Response:
    """GET /api/rooms/:id/messages"""
    room = await rooms.visible_room(chat, call.signed_in.user_id, call.parts[0])
    check_may(room.role, "read")
    page = read_page(call.request.query, default_limit=chat.options.messages.history)
    if page.after_seq is not None:
        found = await page_after(chat, room.id, page.after_seq, page.limit)
    else:
        before = NO_SEQ if page.before_seq is None else page.before_seq
        if page.last_message_id is not None:
            seq = await chat.messages.seq_of(room.id, page.last_message_id)
            if seq is None:
                raise Refusal("not_found", "There is no message `lastMessageId` in this room.")
            before = seq
        found = await page_before(chat, room.id, before, page.limit, offset=page.offset)
    return json_response(200, encode_json(_messages(room.id, room.last_seq, found)))


def _messages(room_id: str, seq: int, page: Page) -> dict[str, object]:
    """A page with the cursors of the next one: `beforeSeq` towards the past, `afterSeq` towards now."""
    answer: dict[str, object] = {"roomId": room_id, "messages": page.messages, "seq": seq, "hasMore": page.has_more}
    if page.messages:
        answer["beforeSeq"], answer["afterSeq"] = page.first_seq, page.last_seq
    return answer


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


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path, in which parts that begin with a colon are variable. `open`: no token is asked for."""

    method: str
    path: str
    rule: Rule
    is_open: bool = False

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


ROUTES: Final = (
    Route("POST", "/api/auth/register", register, is_open=True),
    Route("POST", "/api/auth/login", login, is_open=True),
    Route("POST", "/api/auth/refresh", refresh, is_open=True),
    Route("POST", "/api/auth/logout", logout),
    Route("GET", "/api/users/me", get_own_profile),
    Route("PATCH", "/api/users/me", change_own_profile),
    Route("GET", "/api/rooms", list_rooms),
    Route("POST", "/api/rooms", create_room),
    Route("GET", "/api/rooms/:id", get_room),
    Route("GET", "/api/rooms/:id/members", list_members),
    Route("GET", "/api/rooms/:id/messages", list_messages),
    Route("POST", "/api/rooms/:id/messages", send_message),
    Route("GET", "/healthz", health, is_open=True),
    Route("GET", "/readyz", readiness, is_open=True),
    Route("GET", "/metrics", metrics, is_open=True),
)


async def answer(chat: Chat, request: Request) -> Response:
    """Answer one request. Raises `Refusal`, which the listener makes a problem of.

    A call of the API is taken from its caller's budget before the database is asked anything: from the user's where
    the token is good, else from the address's.
    """
    found, allowed = _find(request)
    claims, refusal = None, None
    if found is not None and not found[0].is_open:
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
    caller = await accounts.identify(chat, claims) if claims else None
    return await route.rule(chat, Call(request, variable, caller))


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
