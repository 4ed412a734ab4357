"""What an administrator does from the shell: checking, migrating, accounts, rooms. The command line's own rules.

Each function opens what it needs of the configuration, does one thing and returns what to print. Accounts go through
the same rules as a registration over HTTP, rooms through those of their moderators.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd import __version__
from chatd.asking import is_member_online
from chatd.assembly import check_start, open_chat
from chatd.backends import StartFault, check_back_ends, describe_bus, describe_database, describe_files, open_database
from chatd.bus.port import Notice
from chatd.chat import accounts, moderation, room_changes, rooms
from chatd.chat.accounts import Origin
from chatd.chat.forms import MAX_ROOM_NAME
from chatd.errors import Refusal, bad_fields
from chatd.identity.credentials import find_signing_secrets
from chatd.ids import new_id
from chatd.process import find_daemon, have_daemon_look
from chatd.records import format_time
from chatd.sockets import reserve
from chatd.store.accounts import NewPassword
from chatd.store.migrations import migrate, read_migrations, read_state
from chatd.store.rooms import NewRoom

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from chatd.chat.context import Chat
    from chatd.config import Config, HttpOptions, WebSocketOptions
    from chatd.store.accounts import Account
    from chatd.store.moderation import FoundRoom

PAGE = 500


async def check(config: Config) -> str:
    """Say what is configured and whether it works. Raises `StartFault`, `ConfigError` or `SchemaFault` if not."""
    lines = [f"chatd {__version__}: the configuration is good."]
    check_start(config)
    data_path = config.server.data_path
    secrets = find_signing_secrets(config.auth, data_path)
    lines.append(f"secret: {'given' if secrets else 'will be made at first start'}")
    lines.append(f"database: {await describe_database(data_path, config.database)}")
    lines.append(f"bus: {await describe_bus(config.bus)}")
    lines.append(f"files: {await describe_files(config.uploads)}")
    doors: tuple[tuple[str, WebSocketOptions | HttpOptions], ...] = (
        ("websocket", config.websocket),
        ("http", config.http),
    )
    for table, options in doors:
        lines.append(f"{table}: {options.host}:{options.port} {_state_of_port(table, options, data_path)}")
    return "\n".join(lines)


def _state_of_port(table: str, options: WebSocketOptions | HttpOptions, data_path: Path) -> str:
    """Raises `StartFault` where anybody has it but a chatd that runs, beside which one may check."""
    try:
        for sock in reserve(table, options.host, options.port, reuse_port=options.reuse_port):
            sock.close()
    except StartFault:
        process = find_daemon(data_path, options.port)
        if process is None:
            raise
        return f"is in use by the chatd that runs, process {process}"
    return "is free"


async def migrate_schema(config: Config, way: str, *, to: int | None) -> str:
    """Bring the schema up (to the newest) or down (one step), or say where it is; a line each step."""
    check_back_ends(config.server.data_path, config.database, config.bus)
    async with open_database(config.server.data_path, config.database) as (database, queries):
        migrations = read_migrations(database.dialect)
        if way == "status":
            state = await read_state(database, queries, migrations)
            landed = [f"{migration.version:04d} {migration.name}: landed" for migration in state.landed]
            waiting = [f"{migration.version:04d} {migration.name}: waits" for migration in state.waiting]
            return "\n".join((*landed, *waiting))
        state = await read_state(database, queries, migrations)
        target = to
        if way == "down" and to is None:
            target = state.landed[-2].version if len(state.landed) > 1 else 0
        if target is not None and (target < state.version) != (way == "down") and target != state.version:
            raise StartFault(f"The schema is at {state.version:04d}; {target:04d} is not {way} from there.")
        steps = await migrate(database, queries, migrations, to=target)
        return "\n".join(steps) or "nothing to do"


async def _account(chat: Chat, username: str) -> Account:
    account = await chat.accounts.by_username(username.casefold())
    if account is None:
        raise Refusal("not_found", f"There is no user {username}; `chatd user list` shows all.")
    return account


async def add_user(config: Config, username: str, email: str, password: str) -> str:
    async with open_chat(config) as chat:
        account = await accounts.add_account(chat, email=email, username=username, password=password)
        chat.audit.note("user_added", user="", member=account.id)
        return account.id


async def list_users(config: Config) -> str:
    """One line a user: id, name, email, when registered, whether disabled."""
    lines, after = [], ""
    async with open_chat(config) as chat:
        while page := await chat.accounts.page(after=after, limit=PAGE):
            for account in page:
                state = " disabled" if account.disabled_at is not None else ""
                since = format_time(account.created_at)
                lines.append(f"{account.id} {account.username} {account.email} {since}{state}")
            after = page[-1].username.casefold()
    return "\n".join(lines)


async def disable_user(config: Config, username: str) -> str:
    async with open_chat(config) as chat:
        account = await _account(chat, username)
        await chat.accounts.disable(account.id, chat.clock())
        chat.bus.announce(Notice("account_disabled", account.id))
        chat.audit.note("user_disabled", user="", member=account.id)
        return f"{account.username} is disabled; " + _tell_connections(config)


async def set_password(config: Config, username: str, password: str) -> str:
    async with open_chat(config) as chat:
        account = await _account(chat, username)
        if fault := accounts.password_fault(password, config.auth.min_password_length):
            raise bad_fields({"password": fault})
        hashed = await chat.passwords.hash(password)
        await chat.accounts.change(account.id, None, NewPassword(hashed), now_ms=chat.clock())
        chat.bus.announce(Notice("session_revoked", account.id))
        chat.audit.note("password_set", user="", member=account.id)
        return (
            f"The password of {account.username} is changed and all of their sessions are ended; "
            + _tell_connections(config)
        )


def _is_acted_on(config: Config) -> bool:
    """Have daemons that run act on it: nodes have heard of it by the bus that they share, one of this folder looks."""
    return bool(config.bus.url) or have_daemon_look(config.server.data_path)


def _tell_connections(config: Config) -> str:
    """Have daemons act on what was done to an account, and say what comes of it."""
    if _is_acted_on(config):
        return "live connections are closed."
    return (
        "tokens already given are refused at once, and connections that are open end within "
        f"{config.auth.access_minutes} minutes."
    )


async def issue_token(config: Config, username: str) -> str:
    """An access token of a new session of the user."""
    async with open_chat(config) as chat:
        account = await _account(chat, username)
        if account.disabled_at is not None:
            raise Refusal("forbidden", f"{account.username} is disabled and cannot sign in.")
        chat.audit.note("token_issued", user="", member=account.id)
        grant = await accounts.sign_in(chat, Origin("", "chatd token"), account)
        return grant.token


async def list_rooms(config: Config) -> str:
    """One line a room: id, kind, members, newest seq, name."""
    lines, after = [], ""
    async with open_chat(config) as chat:
        while page := await chat.moderation.all_rooms(after=after, limit=PAGE):
            lines += [f"{room.id} {room.kind} {room.member_count} {room.last_seq} {room.name}" for room in page]
            after = page[-1].id
    return "\n".join(lines)


async def create_room(config: Config, name: str, *, kind: Literal["public", "private"], owner: str | None) -> str:
    """The id of a new room; without an owner nobody moderates it but from the shell."""
    if not 1 <= len(name) <= MAX_ROOM_NAME:
        raise bad_fields({"name": f"1 to {MAX_ROOM_NAME} characters"})
    rooms.check_texts(name, None)
    async with open_chat(config) as chat:
        owner_id = None if owner is None else (await _account(chat, owner)).id
        room = NewRoom(new_id(), kind, name, None, owner_id)
        await chat.rooms.add(room, owner_id=owner_id, member_ids=(), now_ms=chat.clock())
        if owner_id is not None:
            chat.bus.announce(Notice("member_joined", owner_id, room.id, seq=0, role="owner"))
            # Nodes have heard of it by the bus.
            have_daemon_look(config.server.data_path)
        chat.audit.note("room_created", user="", room=room.id, kind=kind)
        return room.id


async def delete_room(config: Config, name: str) -> str:
    async with open_chat(config) as chat:
        room = await _room(chat, name)
        await room_changes.delete_room(chat, None, room.id)
        return f"{room.name} is deleted; " + _tell_listeners(config, "what is sent there")


async def list_members(config: Config, name: str) -> str:
    """One line a member: user's id, role, since when, name, until when muted."""
    lines, after = [], ""
    async with open_chat(config) as chat:
        room = await _room(chat, name)
        while page := await chat.rooms.members(room.id, after=after, limit=PAGE, offset=0):
            for row in page:
                is_muted = row.muted_until is not None and row.muted_until > chat.clock()
                muted = f" muted until {format_time(row.muted_until or 0)}" if is_muted else ""
                lines.append(f"{row.user_id} {row.role} {format_time(row.joined_at)} {row.username}{muted}")
            after = page[-1].user_id
    return "\n".join(lines)


async def remove_member(
    config: Config, name: str, username: str, *, reason: Literal["kicked", "banned"], note: str | None = None
) -> str:
    """Kick somebody out of a room, or keep them out of it."""
    async with open_chat(config) as chat:
        room, account = await _room(chat, name), await _account(chat, username)
        online = await is_member_online(chat, config.http, config.server.data_path, account, room.id)
        await moderation.remove_member(chat, None, room.id, account.id, reason=reason, note=note, online=online)
        return f"{account.username} is {reason} from {room.name}; " + _tell_listeners(config, "what they send there")


async def unban(config: Config, name: str, username: str) -> str:
    async with open_chat(config) as chat:
        room, account = await _room(chat, name), await _account(chat, username)
        await moderation.unban(chat, None, room.id, account.id)
        return f"{account.username} may join {room.name} again."


async def _room(chat: Chat, name: str) -> FoundRoom:
    found = await chat.moderation.find_rooms(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise Refusal("conflict", f"Several rooms are named {name}; give the id, which `chatd room list` shows.")
    raise Refusal("not_found", f"There is no room {name}; `chatd room list` shows all.")


def _tell_listeners(config: Config, refused: str) -> str:
    """The same of a room. A daemon that cannot be told finds the room's last event when it next looks."""
    if _is_acted_on(config):
        return "live connections hear nothing more of it."
    return f"a running daemon refuses {refused}, and within 5 seconds live connections hear nothing more of it."
