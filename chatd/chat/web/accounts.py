"""/api/auth and /api/users: signing in and out, and profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat import accounts
from chatd.chat.accounts import AccountChange, Grant
from chatd.chat.forms import Login, ProfileChange, Refresh, Registration, read_form
from chatd.records import encode_json
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


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
        avatar_file_id=form.avatar_file_id,
        password=form.password,
        old_password=form.old_password,
    )
    account = await accounts.own_account(chat, call.signed_in)
    changed = await accounts.change_account(chat, account, call.signed_in, change)
    return json_response(200, encode_json(accounts.profile(changed, is_own=True)))
