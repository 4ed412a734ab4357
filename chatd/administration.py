"""What an administrator does from the shell: checking, migrating, accounts. The command line's own rules.

Each function opens what it needs of the configuration, does one thing and returns what to print. Accounts go through
the same rules as a registration over HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd import __version__
from chatd.backends import StartFault, check_back_ends, describe_bus, describe_database, open_database
from chatd.bus.port import Notice
from chatd.chat import accounts
from chatd.chat.accounts import Origin
from chatd.errors import Refusal, bad_fields
from chatd.identity.credentials import find_signing_secrets
from chatd.records import format_time
from chatd.server import bind, check_start, open_chat
from chatd.store.accounts import NewPassword
from chatd.store.migrations import migrate, read_migrations, read_state

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.config import Config
    from chatd.store.accounts import Account

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
    for table, options in (("websocket", config.websocket), ("http", config.http)):
        for sock in bind(table, options.host, options.port):
            sock.close()
        lines.append(f"{table}: {options.host}:{options.port} is free")
    return "\n".join(lines)


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
        return f"{account.username} is disabled; " + _what_of_connections(config)


async def set_password(config: Config, username: str, password: str) -> str:
    async with open_chat(config) as chat:
        account = await _account(chat, username)
        if fault := accounts.password_fault(password, config.auth.min_password_length):
            raise bad_fields({"password": fault})
        hashed = await chat.passwords.hash(password)
        await chat.accounts.change(account.id, None, NewPassword(hashed), now_ms=chat.clock())
        chat.bus.announce(Notice("session_revoked", account.id))
        return (
            f"The password of {account.username} is changed and all of their sessions are ended; "
            + _what_of_connections(config)
        )


def _what_of_connections(config: Config) -> str:
    """What running daemons make of it: they hear it by way of a shared bus, and not of one within a process."""
    if config.bus.url:
        return "live connections are closed."
    return f"live connections and tokens already given end within {config.auth.access_minutes} minutes."


async def issue_token(config: Config, username: str) -> str:
    """An access token of a new session of the user."""
    async with open_chat(config) as chat:
        account = await _account(chat, username)
        if account.disabled_at is not None:
            raise Refusal("forbidden", f"{account.username} is disabled and cannot sign in.")
        grant = await accounts.sign_in(chat, Origin("", "chatd token"), account)
        return grant.token
