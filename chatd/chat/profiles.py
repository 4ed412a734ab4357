"""Profiles of others: names for everybody who is signed in, the rest for those who share a room.

Names, avatars and since when somebody is here are a directory: whoever has an id may look it up, many at once. What
users say of themselves (status, status message) and when they were last seen is for those who meet them in a room or a
direct conversation, unless one of the two has blocked the other. An email is never shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chatd.errors import Refusal
from chatd.records import User, format_time, format_time_or_none

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.chat.context import Chat
    from chatd.store.accounts import ProfileRow

#: Profiles that are asked for at once.
MAX_PROFILES: Final = 100


async def read_profiles(chat: Chat, asked_by: str, user_ids: Sequence[str]) -> list[User]:
    """The profiles of these users in this order, each once; unknown ids are left out. Raises `Refusal`."""
    wanted = list(dict.fromkeys(user_ids))
    if not wanted:
        raise Refusal("bad_message", "Give the ids of users, with commas between, as the parameter `ids`.")
    if len(wanted) > MAX_PROFILES:
        raise Refusal("bad_message", f"Give at most {MAX_PROFILES} ids at once; ask again for the others.")
    found = {row.id: row for row in await chat.accounts.profiles(wanted, asked_by=asked_by)}
    near = [row.id for row in found.values() if row.is_near]
    online = await chat.bus.online(near) if near else {}
    return [_as_record(found[user_id], is_online=user_id in online) for user_id in wanted if user_id in found]


async def read_profile(chat: Chat, asked_by: str, user_id: str) -> User:
    """One profile. Raises `Refusal` (`not_found`)."""
    profiles = await read_profiles(chat, asked_by, [user_id])
    if not profiles:
        raise Refusal("not_found", "There is no user with this id.")
    return profiles[0]


def _as_record(row: ProfileRow, *, is_online: bool) -> User:
    return User(
        id=row.id,
        username=row.username,
        created_at=format_time(row.created_at),
        display_name=row.display_name,
        avatar_file_id=row.avatar_file_id,
        status=None if not row.is_near else row.status if is_online else "offline",
        status_message=row.status_message if row.is_near else None,
        last_seen=None if is_online or not row.is_near else format_time_or_none(row.last_seen_at),
    )
