"""Accounts: registering, signing in and out, refreshing a session, profiles. The one door to email_validator.

A session is a row and a chain of refresh tokens, each good for one use; its access tokens are checked without the
database. Ending a session ends its live connections on every node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from email_validator import EmailNotValidError, validate_email

from chatd.bus.port import Notice
from chatd.chat.context import Chat, take, tell_all
from chatd.chat.files import check_avatar, look_at_ms
from chatd.errors import Refusal, bad_fields
from chatd.identity.passwords import MAX_PASSWORD_BYTES
from chatd.identity.tokens import Claims, hash_refresh_token, new_refresh_token
from chatd.ids import new_id
from chatd.limits.addresses import limited_as
from chatd.records import User, format_time, format_time_or_none
from chatd.store.accounts import Account, NewPassword, NewSession, Profile, Standing
from chatd.store.database import Conflict

_USERNAME: Final = re.compile(r"\w{3,50}")
_USERNAME_RULE: Final = "3 to 50 letters, digits or underscores"
_TOO_MANY: Final = "Too many login attempts, please try again later."
MAX_USER_AGENT: Final = 200
DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sign-in came from."""

    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What a sign-in gives."""

    account: Account
    token: str
    refresh_token: str
    expires_in_s: int


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes an HTTP request: the user and session of its token."""

    user_id: str
    session_id: str
    username: str


async def register(chat: Chat, origin: Origin, *, email: str, username: str, password: str) -> Grant:
    """Make an account and sign in. Raises `Refusal`: `bad_message` with every failing field, `conflict`."""
    await take(chat, "sign-ins:" + limited_as(origin.address), chat.rates.sign_ins, _TOO_MANY)
    account = await add_account(chat, email=email, username=username, password=password)
    chat.audit.note("registered", user=account.id)
    return await sign_in(chat, origin, account)


async def add_account(chat: Chat, *, email: str, username: str, password: str) -> Account:
    """Check the fields and store a new account. Raises `Refusal` as `register` does."""
    faults = {}
    try:
        email = normal_email(email)
    except ValueError as error:
        faults["email"] = str(error)
    if not _USERNAME.fullmatch(username):
        faults["username"] = _USERNAME_RULE
    if fault := password_fault(password, chat.options.auth.min_password_length):
        faults["password"] = fault
    if faults:
        raise bad_fields(faults)
    username_key = username.casefold()
    taken = await chat.accounts.taken(email, username_key)
    if taken.email or taken.username:
        names = {"email": taken.email, "username": taken.username}
        raise conflict([name for name, is_taken in names.items() if is_taken])
    account = Account(
        id=new_id(),
        email=email,
        username=username,
        display_name=None,
        avatar_file_id=None,
        status_message=None,
        password_hash=await chat.passwords.hash(password),
        created_at=chat.clock(),
        last_seen_at=None,
        disabled_at=None,
    )
    try:
        await chat.accounts.add(account, username_key)
    except Conflict:
        raise conflict(["email", "username"]) from None
    return account


def conflict(names: list[str]) -> Refusal:
    return Refusal(
        "conflict",
        f"Another account has this {' or this '.join(names)}; choose another one.",
        fields=dict.fromkeys(names, "is in use"),
    )


def normal_email(email: str) -> str:
    """An address in the one form in which it is kept. Raises ValueError that says what is wrong with it."""
    try:
        return validate_email(email, check_deliverability=False).normalized.lower()
    except EmailNotValidError as error:
        raise ValueError(f"no valid address ({str(error).rstrip('.')})") from None


def password_fault(password: str, min_characters: int) -> str | None:
    """What is wrong with a password, or `None`."""
    if len(password) < min_characters:
        return f"at least {min_characters} characters"
    if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES:
        return f"at most {MAX_PASSWORD_BYTES} bytes"
    if "\x00" in password:
        return "no NUL characters"
    return None


async def login(chat: Chat, origin: Origin, *, email: str, password: str) -> Grant:
    """Sign in. An unknown email and a wrong password get the same answer in the same time."""
    await take(chat, "sign-ins:" + limited_as(origin.address), chat.rates.sign_ins, _TOO_MANY)
    try:
        account = await chat.accounts.by_email(normal_email(email))
    except ValueError:
        account = None
    fits = await chat.passwords.check(password, account.password_hash if account else None)
    if account is None or not fits:
        chat.audit.note("sign_in_failed", user=account.id if account else "")
        raise Refusal("unauthenticated", "Email or password is wrong.")
    if account.disabled_at is not None:
        chat.audit.note("sign_in_failed", user=account.id, code="disabled")
        raise _disabled()
    chat.audit.note("signed_in", user=account.id)
    return await sign_in(chat, origin, account)


async def sign_in(chat: Chat, origin: Origin, account: Account) -> Grant:
    """Begin a session for an account that has proven itself."""
    refresh_token = new_refresh_token()
    session = _session(chat, origin, new_id(), account.id, refresh_token)
    await chat.accounts.add_session(session, chat.clock())
    return _grant(chat, account, session.id, refresh_token)


async def refresh(chat: Chat, origin: Origin, refresh_token: str) -> Grant:
    """Exchange a refresh token; one that was used before ends its session and the session's connections."""
    now_ms = chat.clock()
    new_token = new_refresh_token()
    new = _session(chat, origin, "", "", new_token)
    session = await chat.accounts.rotate(hash_refresh_token(refresh_token), new, now_ms)
    if session is None or session.expires_at <= now_ms:
        raise Refusal("unauthenticated", "This refresh token is unknown or has expired; sign in again.")
    if session.revoked_at is not None:
        if session.revoked_at == now_ms:
            chat.audit.note("refresh_token_reused", user=session.user_id, session=session.id)
            tell_all(chat, Notice("session_revoked", session.user_id, session_id=session.id))
        raise Refusal("unauthenticated", "This session was ended; sign in again.")
    account = await chat.accounts.by_id(session.user_id)
    if account is None or account.disabled_at is not None:
        raise _disabled()
    return _grant(chat, account, session.id, new_token)


def _session(chat: Chat, origin: Origin, session_id: str, user_id: str, refresh_token: str) -> NewSession:
    return NewSession(
        id=session_id,
        user_id=user_id,
        refresh_hash=hash_refresh_token(refresh_token),
        address=origin.address,
        user_agent=origin.user_agent[:MAX_USER_AGENT],
        expires_at=chat.clock() + chat.options.auth.refresh_days * DAY_MS,
    )


def _grant(chat: Chat, account: Account, session_id: str, refresh_token: str) -> Grant:
    token = chat.tokens.issue(account.id, session_id, chat.clock())
    return Grant(account, token, refresh_token, chat.tokens.access_s)


async def logout(chat: Chat, caller: Caller, *, everywhere: bool) -> None:
    """End the caller's session, or every session of the user, with their live connections on every node."""
    session_id = None if everywhere else caller.session_id
    if session_id is None:
        await chat.accounts.revoke_sessions(caller.user_id, spared_session_id="", now_ms=chat.clock())
    else:
        await chat.accounts.revoke_session(session_id, chat.clock())
    chat.audit.note("signed_out", user=caller.user_id, session=session_id or "all")
    tell_all(chat, Notice("session_revoked", caller.user_id, session_id=session_id))


async def identify(chat: Chat, claims: Claims) -> Caller:
    """Who an access token stands for. Raises `Refusal` if its session or its account is not good any more."""
    standing = (await chat.accounts.standings([claims.session_id])).get(claims.session_id)
    check_standing(standing, claims.user_id)
    assert standing is not None
    return Caller(claims.user_id, claims.session_id, standing.username)


def check_standing(standing: Standing | None, user_id: str) -> None:
    """Raise `Refusal` unless the session is the user's and stands, and the account is not disabled."""
    if standing is None or standing.user_id != user_id:
        raise Refusal("unauthenticated", "This session does not exist any more; sign in again.")
    if standing.disabled_at is not None:
        raise _disabled()
    if standing.revoked_at is not None:
        raise Refusal("unauthenticated", "This session was ended; sign in again.")


def _disabled() -> Refusal:
    return Refusal("forbidden", "This account is disabled; ask the administrator.")


async def own_account(chat: Chat, caller: Caller) -> Account:
    account = await chat.accounts.by_id(caller.user_id)
    assert account is not None, "a session's user exists"
    return account


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountChange:
    """What a user changes of their account: `None` stays, an empty text removes."""

    username: str | None = None
    display_name: str | None = None
    status_message: str | None = None
    avatar_file_id: str | None = None
    password: str | None = None
    old_password: str | None = None


async def change_account(chat: Chat, account: Account, caller: Caller, change: AccountChange) -> Account:
    """Change all of it, or, raising `Refusal`, nothing. A new username shows in live rooms at once.

    A new password, for which the old one is asked, ends every other session of the user.
    """
    if faults := _faults(change, chat.options.auth.min_password_length):
        raise bad_fields(faults)
    password = None
    if change.password is not None:
        await take(chat, "passwords:" + account.id, chat.rates.sign_ins, _TOO_MANY)
        if not await chat.passwords.check(change.old_password or "", account.password_hash):
            raise Refusal("forbidden", "The old password is wrong.", fields={"oldPassword": "is wrong"})
        password = NewPassword(await chat.passwords.hash(change.password), caller.session_id)
    changed = _with_profile(account, change)
    new_name = changed.username if changed.username != account.username else None
    if new_name is not None:
        detail = f"You may change your name {chat.rates.renames.burst} times an hour; wait a little."
        await take(chat, "renames:" + account.id, chat.rates.renames, detail)
    if change.avatar_file_id:
        await check_avatar(chat, account.id, change.avatar_file_id)
    profile = None if changed is account else Profile.of(changed)
    try:
        await chat.accounts.change(account.id, profile, password, now_ms=chat.clock())
    except Conflict:
        raise conflict(["username"]) from None
    if account.avatar_file_id not in (None, changed.avatar_file_id):
        await chat.files.release(account.avatar_file_id, look_at_ms=look_at_ms(chat))
    if profile is not None:
        tell_all(chat, Notice("profile_changed", account.id, username=new_name))
        chat.presence.note_change(account.id)
    if password is not None:
        chat.audit.note("password_changed", user=account.id)
        tell_all(chat, Notice("session_revoked", account.id))
    return changed


def _faults(change: AccountChange, min_password_length: int) -> dict[str, str]:
    faults = {}
    if change.username is not None and not _USERNAME.fullmatch(change.username):
        faults["username"] = _USERNAME_RULE
    for name, text, bound in (("displayName", change.display_name, 100), ("statusMessage", change.status_message, 140)):
        if text is not None and (len(text) > bound or not text.isprintable()):
            faults[name] = f"at most {bound} printable characters"
    if change.password is not None and (fault := password_fault(change.password, min_password_length)):
        faults["password"] = fault
    return faults


def _with_profile(account: Account, change: AccountChange) -> Account:
    """The account with its new profile; the very same one if nothing of it is given."""
    username, display_name, status_message = change.username, change.display_name, change.status_message
    avatar_file_id = change.avatar_file_id
    if username is display_name is status_message is avatar_file_id is None:
        return account
    return replace(
        account,
        username=account.username if username is None else username,
        display_name=account.display_name if display_name is None else display_name or None,
        status_message=account.status_message if status_message is None else status_message or None,
        avatar_file_id=account.avatar_file_id if avatar_file_id is None else avatar_file_id or None,
    )


def profile(account: Account, *, is_own: bool) -> User:
    """An account as others see it, or, with its email, as its owner does."""
    return User(
        id=account.id,
        username=account.username,
        display_name=account.display_name,
        email=account.email if is_own else None,
        avatar_file_id=account.avatar_file_id,
        status_message=account.status_message,
        created_at=format_time(account.created_at),
        last_seen=format_time_or_none(account.last_seen_at),
    )
