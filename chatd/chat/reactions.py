"""Reactions: emoji that members put to messages. Doing it twice is harmless and tells nobody."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from chatd.chat.changes import check_may_change, find_message, read_living
from chatd.chat.permissions import check_may
from chatd.errors import Refusal
from chatd.protocol import AddReaction, Ok, ReactionAdded, ReactionRemoved, RemoveReaction
from chatd.store import changes
from chatd.store.acts import Act

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.session import Session
    from chatd.config import LimitOptions
    from chatd.store.acts import Scene
    from chatd.store.changes import Subject

#: What joins emoji to one, and makes flags of them; it cannot be printed by itself.
_JOINING: Final = re.compile("[\u200d\U000e0020-\U000e007f]")


def check_emoji(chat: Chat, emoji: str) -> None:
    """Raise `Refusal` (`bad_message`) for what is no emoji and no short word."""
    rest = _JOINING.sub("", emoji)
    if not rest or not rest.isprintable() or any(character.isspace() or character in "<>" for character in rest):
        raise Refusal("bad_message", "The field `emoji` is an emoji or a short word: no spaces, no markup.")
    if chat.word_filter.apply(emoji) != emoji:
        raise Refusal("bad_message", "The field `emoji` has a word that is not welcome here.")


async def add_reaction(chat: Chat, session: Session, message: AddReaction) -> Ok:
    """Put an emoji to a message; the room hears `reaction_added`, unless it was there."""
    user_id, message_id, emoji = session.user_id, message.message_id, message.emoji
    check_emoji(chat, emoji)
    where = await find_message(chat, user_id, message_id, "react")

    async def decide(scene: Scene) -> None:
        await check_may_change(scene, user_id, "react")
        subject = await read_living(scene, message_id)
        if await changes.has_reacted(scene, subject, emoji, user_id=user_id):
            return
        _check_limits(subject, emoji, chat.options.limits)
        seq = scene.next_seq()
        count = await changes.add_reaction(scene, subject, emoji, user_id=user_id, seq=seq)
        event = ReactionAdded(
            room_id=scene.room_id, seq=seq, message_id=message_id, user_id=user_id, emoji=emoji, count=count
        )
        scene.add_event(event, message_id=message_id)

    await chat.journal.write(Act(where.room_id, decide))
    return Ok(id=message.id)


def _check_limits(subject: Subject, emoji: str, limits: LimitOptions) -> None:
    there = changes.reaction_of(subject, emoji)
    if there is None:
        limit, what = limits.reactions_per_message, "different reactions to one message; choose one that is there"
        count = len(subject.reactions)
    else:
        limit, what = limits.users_per_reaction, "users with one reaction to a message; choose another one"
        count = there.count
    if limit and count >= limit:
        raise Refusal("limit_reached", f"There are at most {limit} {what}.")


async def remove_reaction(chat: Chat, session: Session, message: RemoveReaction) -> Ok:
    """Take one's emoji back; the room hears `reaction_removed`, unless it was not there."""
    user_id, message_id, emoji = session.user_id, message.message_id, message.emoji
    where = await find_message(chat, user_id, message_id, "read")

    async def decide(scene: Scene) -> None:
        # Who may not react any more may still take back what they put there.
        check_may((await scene.standing(user_id)).role, "read")
        subject = await read_living(scene, message_id)
        if not await changes.has_reacted(scene, subject, emoji, user_id=user_id):
            return
        seq = scene.next_seq()
        count = await changes.remove_reaction(scene, subject, emoji, user_id=user_id)
        event = ReactionRemoved(
            room_id=scene.room_id, seq=seq, message_id=message_id, user_id=user_id, emoji=emoji, count=count
        )
        scene.add_event(event, message_id=message_id)

    await chat.journal.write(Act(where.room_id, decide))
    return Ok(id=message.id)
