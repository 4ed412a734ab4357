"""`chatd audit`: the trail as lines for a person, by filter, and, with --follow, as it grows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, get_args

import trio

from chatd.backends import StartFault, database_path, open_database, open_database_for_looking
from chatd.chat.audit import Action
from chatd.ids import is_id
from chatd.records import format_time
from chatd.store.accounts import Accounts
from chatd.store.audit import AuditTrail, Filter
from chatd.store.moderation import Moderation

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatd.config import Config
    from chatd.store.audit import AuditEvent

#: Seconds between two looks for what is new.
FOLLOW_S: Final = 1.0
AT_ONCE: Final = 1000


async def show_trail(
    config: Config,
    *,
    user: str,
    action: str,
    room: str,
    since: str,
    most: int,
    is_followed: bool,
    write: Callable[[str], None],
) -> None:
    """Write the newest events that fit, in the order in which they happened. Raises `StartFault`."""
    if action and action not in get_args(Action):
        raise StartFault(f"--action {action}: there is no such action; there are {', '.join(get_args(Action))}.")
    data_path = config.server.data_path
    if not config.database.url and not database_path(data_path).exists():
        raise StartFault(f"There is no database in {data_path}; give --config, or start the daemon first.")
    opened = open_database(data_path, config.database) if config.database.url else open_database_for_looking(data_path)
    async with opened as (database, queries):
        trail = AuditTrail(database, queries)
        user_id = await _user_id(Accounts(database, queries), user) if user else ""
        room_id = await _room_id(Moderation(database, queries), room) if room else ""
        wanted = Filter(action=action, user_id=user_id, room_id=room_id, since_ms=_read_since(since))
        events = await trail.page(wanted, limit=most)
        last = ""
        while True:
            for event in events:
                write(line_of(event))
                last = event.id
            if not is_followed:
                return
            await trio.sleep(FOLLOW_S)
            events = await trail.page(wanted, after=last, limit=AT_ONCE)


async def _user_id(accounts: Accounts, given: str) -> str:
    """Of a user by name or id. Raises `StartFault`."""
    account = await accounts.by_username(given.casefold()) or await accounts.by_id(given)
    if account is None:
        raise StartFault(f"--user {given}: there is no such user; `chatd user list` shows all.")
    return account.id


async def _room_id(moderation: Moderation, given: str) -> str:
    """Of a room by name or id; the id also of a conversation, and of a room that is gone. Raises `StartFault`."""
    found = await moderation.find_rooms(given)
    if len(found) > 1:
        raise StartFault(f"--room {given}: several rooms have this name; give the id, which `chatd room list` shows.")
    if not found and not is_id(given):
        raise StartFault(f"--room {given}: there is no such room; `chatd room list` shows all.")
    return found[0].id if found else given


def line_of(event: AuditEvent) -> str:
    """Time, action, user, room, address, connection, detail, agent; what does not apply is `-`."""
    parts = (event.user_id, event.room_id, event.address, event.connection_id, event.detail)
    agent = event.user_agent if event.user_agent.isprintable() else repr(event.user_agent)
    return " ".join((format_time(event.at), event.action, *(part or "-" for part in parts), agent or "-"))


def _read_since(text: str) -> int:
    """A time, or how long ago like 90m, 12h or 7d, in milliseconds. Raises `StartFault`."""
    if not text:
        return 0
    units = {"m": "minutes", "h": "hours", "d": "days"}
    try:
        if text[-1] in units:
            since = datetime.now(UTC) - timedelta(**{units[text[-1]]: float(text[:-1])})
        else:
            since = datetime.fromisoformat(text)
            since = since if since.tzinfo else since.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        detail = f"--since {text}: give a time like 2026-11-20T12:00 or how long ago, like 90m or 7d."
        raise StartFault(detail) from None
    return int(since.timestamp() * 1000)
