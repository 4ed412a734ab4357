"""Blocking: whom a user does not want to hear from.

While one of two blocks the other nobody writes in their direct room, which both may read: their role in it is
`readonly` then, so that whoever asks what they may do there, by whatever door, finds out. The blocked one's direct
messages and invitations are refused without saying why. In rooms with others both are heard: those are the room's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.bus.port import Notice
from chatd.chat.context import tell_all
from chatd.errors import Refusal
from chatd.records import BlockedUser, format_time
from chatd.store.blocks import Block, act_of
from chatd.store.database import Conflict

if TYPE_CHECKING:
    from chatd.chat.context import Chat


async def block_user(chat: Chat, user_id: str, other_id: str) -> None:
    """Hear nothing more from another user; repeating is harmless. Raises `Refusal`."""
    if other_id == user_id:
        raise Refusal("bad_message", "You cannot block yourself; give the id of another user.")
    if await chat.accounts.by_id(other_id) is None:
        raise _no_such_user()
    bound = chat.options.limits.blocks_per_user
    if bound and await chat.blocks.count(user_id, but=other_id) >= bound:
        raise Refusal("limit_reached", f"You block {bound} users; unblock one of them first.")
    await _store(chat, Block(user_id, other_id))


async def unblock_user(chat: Chat, user_id: str, other_id: str) -> None:
    """Hear from another user again; harmless where they were not blocked. Raises `Refusal`."""
    if await chat.accounts.by_id(other_id) is None:
        raise _no_such_user()
    await _store(chat, Block(user_id, other_id, is_over=True))


async def _store(chat: Chat, block: Block) -> None:
    room_id = await chat.blocks.room_of(block)
    if room_id is None:
        try:
            await chat.blocks.store(block, now_ms=chat.clock())
        except Conflict:
            raise _no_such_user() from None
        # One of them may have written meanwhile.
        room_id = await chat.blocks.room_of(block)
    if room_id is not None:
        await chat.journal.write(act_of(block, room_id))
        for user_id in (block.user_id, block.other_id):
            # What their devices may do in the room is read again, on every node.
            tell_all(chat, Notice("profile_changed", user_id))


async def list_blocked(
    chat: Chat, user_id: str, *, after: str, limit: int, offset: int
) -> tuple[list[BlockedUser], bool]:
    """Whom a user blocks, and whether there are more."""
    rows = await chat.blocks.page(user_id, after=after, limit=limit + 1, offset=offset)
    found = [
        BlockedUser(
            user_id=row.user_id,
            username=row.username,
            display_name=row.display_name,
            blocked_at=format_time(row.blocked_at),
        )
        for row in rows[:limit]
    ]
    return found, len(rows) > limit


def _no_such_user() -> Refusal:
    return Refusal("not_found", "There is no such user.")
