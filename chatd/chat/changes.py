"""Editing and deleting messages, and what every change of a message begins with.

A change is an act of the journal: who may do it is decided inside of the transaction that stores it. What becomes of a
deleted message is a tombstone, which keeps its seq, its sender and its times and nothing of what was said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.chat.content import clean_content
from chatd.chat.files import look_at_ms
from chatd.chat.links import with_links
from chatd.chat.mentions import newly_mentioned
from chatd.chat.permissions import check_may
from chatd.errors import Refusal
from chatd.protocol import DeleteMessage, EditMessage, MessageDeleted, MessageEdited, Ok
from chatd.records import encode_json, format_time, parse_json
from chatd.store import changes
from chatd.store.acts import Act
from chatd.store.entries import refusal_while_muted

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.permissions import Action
    from chatd.chat.session import Session
    from chatd.store.acts import Scene
    from chatd.store.changes import Subject
    from chatd.store.messages import Whereabouts


async def find_message(chat: Chat, user_id: str, message_id: str, action: Action) -> Whereabouts:
    """Where a message is, if the user may do this in its room. One of a private room and a missing one look alike."""
    where = await chat.messages.whereabouts(message_id, asked_by=user_id)
    if where is None or (where.role is None and where.room_kind != "public"):
        raise no_such_message()
    check_may(where.role, action, kind=where.room_kind)
    return where


def no_such_message() -> Refusal:
    return Refusal("not_found", "There is no such message, or it is not for you; get_history shows those that are.")


async def check_may_change(scene: Scene, user_id: str, action: Action) -> str:
    """The role of a member who may do this now. Raises `Refusal`, also while they are muted."""
    standing = await scene.standing(user_id)
    check_may(standing.role, action, kind=scene.head.kind)
    assert standing.role is not None
    if (refusal := refusal_while_muted(standing, scene.now_ms)) is not None:
        raise refusal
    return standing.role


async def read_living(scene: Scene, message_id: str) -> Subject:
    """A message that is not deleted. Raises `Refusal` (`not_found`)."""
    subject = await changes.read_subject(scene, message_id)
    if subject is None:
        raise no_such_message()
    if subject.is_deleted:
        raise Refusal("not_found", "This message was deleted; nothing can be done with it any more.")
    return subject


async def edit_message(chat: Chat, session: Session, message: EditMessage) -> Ok:
    """Give one's own message another content; the room hears `message_edited`, unless it is the same."""
    user_id, message_id = session.user_id, message.message_id
    where = await find_message(chat, user_id, message_id, "send")
    content = clean_content(chat, message.content, where.message_type)
    at_most = chat.options.notifications.max_mentions if where.room_kind != "direct" else 0
    named: list[str] = []

    async def decide(scene: Scene) -> None:
        named.clear()
        await check_may_change(scene, user_id, "send")
        subject = await read_living(scene, message_id)
        if subject.sender_id != user_id:
            raise Refusal("forbidden", "This message is somebody else's; you may edit your own ones.")
        if content == subject.content:
            return
        metadata = with_links(_metadata_of(subject), content, subject.message_type)
        encoded = None if metadata is None else encode_json(metadata)
        seq = scene.next_seq()
        edited = await changes.edit(scene, message_id, content=content, metadata=encoded)
        event = MessageEdited(room_id=scene.room_id, seq=seq, message=edited)
        scene.add_event(event, subject=subject.sender_id, message_id=message_id)
        if subject.message_type != "code":
            named.extend(newly_mentioned(subject.content, content, at_most=at_most))

    stored = await chat.journal.write(Act(where.room_id, decide))
    chat.notifier.note_edit(where.room_id, message_id, named, by=user_id, seq=stored.seq)
    return Ok(id=message.id)


def _metadata_of(subject: Subject) -> dict[str, object] | None:
    found: dict[str, object] | None = None if subject.metadata is None else parse_json(subject.metadata)
    return found


async def delete_message(chat: Chat, session: Session, message: DeleteMessage) -> Ok:
    """Delete one's own message, or, as a moderator, another one; the room hears `message_deleted`, once."""
    user_id, message_id = session.user_id, message.message_id
    where = await find_message(chat, user_id, message_id, "read")
    removed_of: list[str] = []

    async def decide(scene: Scene) -> None:
        removed_of.clear()
        role = (await scene.standing(user_id)).role
        # Who may not write any more may still take back what they wrote.
        check_may(role, "read")
        subject = await changes.read_subject(scene, message_id)
        if subject is None:
            raise no_such_message()
        if subject.sender_id != user_id:
            check_may(role, "delete_any", kind=scene.head.kind)
        if subject.is_deleted:
            return
        if subject.sender_id != user_id:
            removed_of.append(subject.sender_id)
        seq = scene.next_seq()
        await changes.delete(scene, subject, deleted_by=user_id, file_until_ms=look_at_ms(chat))
        event = MessageDeleted(
            room_id=scene.room_id,
            seq=seq,
            message_id=message_id,
            deleted_by=user_id,
            deleted_at=format_time(scene.now_ms),
        )
        scene.add_event(event, message_id=message_id)

    await chat.journal.write(Act(where.room_id, decide))
    for sender_id in removed_of:
        chat.audit.note("message_removed", user=user_id, room=where.room_id, message=message_id, sender=sender_id)
    return Ok(id=message.id)
