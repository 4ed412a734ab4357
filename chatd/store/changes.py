"""What becomes of messages, as typed calls for the acts of `chat`: edits, deletions, reactions, pins.

All of it runs inside of the journal's transaction, with the message's room locked: what is read stays true until it is
written. Search follows by triggers of its own; nothing has to be told to it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from chatd.records import Reaction, decode_reactions, encode_json
from chatd.store.messages import as_shown

if TYPE_CHECKING:
    from chatd.records import Message
    from chatd.store.acts import Scene

#: So many of those who chose an emoji are shown by name.
SHOWN_USERS: Final = 20


class Subject(NamedTuple):
    """A message as its changes are decided by; `metadata` is JSON text, `reactions` is what is shown of them."""

    id: str
    sender_id: str
    message_type: str
    content: str
    metadata: str | None
    is_deleted: bool
    is_pinned: bool
    reactions: list[Reaction]


async def read_subject(scene: Scene, message_id: str) -> Subject | None:
    """A message of the scene's room."""
    row = await scene.row("changes.subject", id=message_id, room_id=scene.room_id)
    if row is None:
        return None
    message_id, sender_id, message_type, content, metadata, deleted_at, pinned_at, reactions = row
    return Subject(
        id=message_id,
        sender_id=sender_id,
        message_type=message_type,
        content=content,
        metadata=metadata,
        is_deleted=deleted_at is not None,
        is_pinned=pinned_at is not None,
        reactions=[] if reactions is None else decode_reactions(reactions),
    )


async def edit(scene: Scene, message_id: str, *, content: str, metadata: bytes | None) -> Message:
    """Give a message another content; it, as everybody sees it from now on."""
    kept = None if metadata is None else metadata.decode()
    await scene.run("changes.edit", id=message_id, content=content, metadata=kept, now=scene.now_ms)
    row = await scene.row("messages.in_room", id=message_id, room_id=scene.room_id)
    assert row is not None
    return as_shown(row)


async def show_metadata(scene: Scene, message_id: str, metadata: bytes) -> Message:
    """Give a message other metadata, which is not its sender's doing; it, as everybody sees it from now on."""
    await scene.run("changes.show_metadata", id=message_id, metadata=metadata.decode())
    row = await scene.row("messages.in_room", id=message_id, room_id=scene.room_id)
    assert row is not None
    return as_shown(row)


async def delete(scene: Scene, subject: Subject, *, deleted_by: str, file_until_ms: int) -> None:
    """Leave of a message only that it was there, whose it was and when; its file until somebody looks at that."""
    if subject.message_type in ("image", "file"):
        await scene.run("changes.release_file", id=subject.id, look_at=file_until_ms)
    await scene.run("changes.delete", id=subject.id, deleted_by=deleted_by, now=scene.now_ms)
    if subject.reactions:
        await scene.run("changes.forget_reactions", id=subject.id)


async def has_reacted(scene: Scene, subject: Subject, emoji: str, *, user_id: str) -> bool:
    row = await scene.row("changes.has_reacted", id=subject.id, emoji=emoji, user_id=user_id)
    return row is not None


async def add_reaction(scene: Scene, subject: Subject, emoji: str, *, user_id: str, seq: int) -> int:
    """Note that somebody has chosen an emoji, which they had not; how many have chosen it now."""
    await scene.run("changes.add_reaction", id=subject.id, emoji=emoji, user_id=user_id, seq=seq, now=scene.now_ms)
    before = reaction_of(subject, emoji) or Reaction(emoji=emoji, count=0, user_ids=[])
    count = before.count + 1
    await _show(scene, subject, Reaction(emoji=emoji, count=count, user_ids=[*before.user_ids, user_id][:SHOWN_USERS]))
    return count


async def remove_reaction(scene: Scene, subject: Subject, emoji: str, *, user_id: str) -> int:
    """Take back that somebody has chosen an emoji, which they had; how many have chosen it still."""
    await scene.run("changes.remove_reaction", id=subject.id, emoji=emoji, user_id=user_id)
    before = reaction_of(subject, emoji)
    assert before is not None
    count, users = before.count - 1, [other for other in before.user_ids if other != user_id]
    if len(users) < min(count, SHOWN_USERS):
        rows = await scene.rows("changes.first_reacted", id=subject.id, emoji=emoji, limit=SHOWN_USERS)
        users = [row[0] for row in rows]
    await _show(scene, subject, Reaction(emoji=emoji, count=count, user_ids=users))
    return count


def reaction_of(subject: Subject, emoji: str) -> Reaction | None:
    return next((reaction for reaction in subject.reactions if reaction.emoji == emoji), None)


async def _show(scene: Scene, subject: Subject, changed: Reaction) -> None:
    """Put a reaction in its place among those of its message, the one that came last behind all others."""
    shown = [changed if reaction.emoji == changed.emoji else reaction for reaction in subject.reactions]
    if reaction_of(subject, changed.emoji) is None:
        shown.append(changed)
    left = [reaction for reaction in shown if reaction.count]
    text = encode_json(left).decode() if left else None
    await scene.run("changes.show_reactions", id=subject.id, reactions=text)


async def count_pins(scene: Scene) -> int:
    row = await scene.row("changes.count_pins", room_id=scene.room_id)
    assert row is not None
    return int(row[0])


async def pin(scene: Scene, message_id: str, *, user_id: str) -> None:
    await scene.run("changes.pin", id=message_id, user_id=user_id, now=scene.now_ms)


async def unpin(scene: Scene, message_id: str) -> None:
    await scene.run("changes.unpin", id=message_id)
