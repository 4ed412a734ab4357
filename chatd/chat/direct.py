"""Direct messages: rooms of two users, which the first message makes, and what is unread in them.

A direct room is a room like any other, with its order, its history and its resumes, but that nobody joins, leaves or
moderates it. Nobody writes to themselves, and nobody to somebody who blocks them or whom they block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chatd.bus.port import Notice
from chatd.chat.content import check_metadata
from chatd.chat.context import take
from chatd.chat.messages import TRIES, Acknowledgement, Draft, Sender, hash_draft, prepare
from chatd.chat.rooms import found, tell_first_members
from chatd.errors import Refusal
from chatd.ids import new_id
from chatd.protocol import UnreadDms
from chatd.records import Raw, encode_json
from chatd.store.blocks import settling
from chatd.store.database import Conflict
from chatd.store.entries import mismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.chat.context import Chat
    from chatd.chat.session import Session
    from chatd.protocol import SendDm
    from chatd.records import Message
    from chatd.store.direct import Pair
    from chatd.store.rooms import OwnRoom

#: Unread messages that a device is sent when it arrives, and how far back each conversation is looked through for them.
MAX_UNREAD: Final = 100
LOOK_BACK: Final = 300


async def send_dm(chat: Chat, session: Session, message: SendDm) -> None:
    """Give a message to the journal, having made the room of the two if there is none; `message_ack` follows.

    What is refused makes no room.
    """
    user_id, other_id = session.user_id, message.recipient_id
    pair = await find_pair(chat, user_id, other_id, key=message.client_message_id or "")
    check_may_write(pair)
    draft = Draft(
        room_id=pair.room_id or new_id(),
        content=message.content,
        message_type=message.message_type,
        file_id=message.file_id,
        reply_to=message.reply_to,
        metadata=message.metadata,
        client_message_id=message.client_message_id,
    )
    sender = Sender(user_id, session.username, "member")
    post = await prepare(chat, sender, draft, Acknowledgement(chat, session, message))
    if pair.room_id is None:
        if pair.is_stored:
            raise mismatch()
        count = chat.options.limits.conversations_per_hour
        detail = f"You may write to {count} new people an hour; try again later."
        await take(chat, "conversations:" + user_id, chat.rates.conversations, detail)
        pair = await _make_room(chat, draft.room_id, user_id, other_id)
        assert pair.room_id is not None
        if pair.room_id != post.room_id:
            # The other one has written at the same moment.
            post.room_id = pair.room_id
            metadata = check_metadata(draft.metadata, chat.options.limits)
            if post.request_hash is not None:
                post.request_hash = hash_draft(draft, post.room_id, metadata)
    elif not pair.last_seq:
        # Whoever made it may have been killed before the two were told, who would not hear what is said now.
        await chat.hub.activate([pair.room_id])
        tell_first_members(chat, pair.room_id, {user_id: "member", other_id: "member"})
    if post.room_id not in session.rooms:
        # The notice of it is still on its way here; what the other one wrote first is to be heard as well.
        await chat.hub.activate([post.room_id])
        chat.sessions.heed(Notice("member_joined", user_id, post.room_id, seq=0, role="member"))
    await chat.journal.wait_for_space()
    chat.journal.append(post)
    session.pending += 1


async def find_pair(chat: Chat, user_id: str, other_id: str, *, key: str = "") -> Pair:
    """How a user stands to another one. Raises `Refusal` where there is nobody to write to."""
    if other_id == user_id:
        raise Refusal("bad_message", "You cannot write to yourself; give the id of another user.")
    pair = await chat.direct.pair(user_id, other_id, key=key)
    if pair is None:
        raise Refusal("not_found", "There is no such user.")
    return pair


def check_may_write(pair: Pair) -> None:
    """Raise `Refusal` where one blocks the other or is gone; what was stored before is answered as it was then."""
    if pair.is_stored and pair.room_id is not None:
        return
    if pair.has_blocked:
        raise Refusal("forbidden", "You block this user; unblock them before you write to them.")
    if pair.is_blocked or pair.disabled_at is not None:
        raise Refusal("forbidden", "This user does not take messages from you.")


async def _make_room(chat: Chat, room_id: str, user_id: str, other_id: str) -> Pair:
    """Make the room of two users, whose devices on every node hear it from then on; or find the one there is by now."""
    adding = chat.direct.add(room_id, user_id, other_id, now_ms=chat.clock())
    try:
        await found(chat, room_id, adding, {user_id: "member", other_id: "member"})
    except Conflict:
        room_id = ""
    pair = await find_pair(chat, user_id, other_id)
    if pair.room_id is None:
        raise Refusal("not_found", "There is no such user.")
    if room_id and (pair.has_blocked or pair.is_blocked):
        # The block came at the same moment and may not have found the room.
        await chat.journal.write(settling(room_id, user_id, other_id))
    check_may_write(pair)
    return pair


async def tell_unread(chat: Chat, session: Session, rooms: Sequence[OwnRoom]) -> None:
    """Send a device that arrives `unread_dms`, if there are any: the newest over all conversations, oldest first.

    What does not fit half of an outbox is left out, the oldest first; where messages keep changing meanwhile nothing is
    sent, and their conversations show them. Raises `Unavailable`.
    """
    unread = [own for own in rooms if own.kind == "direct" and own.unread > 0]
    if not unread or not chat.options.features.direct_messages:
        return
    stretches = [(own.room_id, max(own.read_seq, own.last_seq - LOOK_BACK)) for own in unread]
    for _ in range(TRIES):
        active = [room for own in unread if (room := chat.hub.room(own.room_id)) is not None]
        changed = [room.changed_seq for room in active]
        found = await chat.direct.newest_of_others(session.user_id, stretches, limit=MAX_UNREAD)
        kept = _that_fit(found, chat.options.websocket.outbox_bytes // 2)
        await session.line.wait_for_space()
        if changed == [room.changed_seq for room in active]:
            break
        # What was told of them meanwhile is not to be taken back.
    else:
        return
    if kept:
        session.send(UnreadDms(messages=kept[::-1], total=sum(own.unread for own in unread)))


def _that_fit(messages: Sequence[Message], max_bytes: int) -> list[Raw]:
    """The last messages, encoded, newest first: as many as fit, at least one."""
    kept: list[Raw] = []
    size = 0
    for message in reversed(messages):
        encoded = encode_json(message)
        size += len(encoded)
        if kept and size > max_bytes:
            break
        kept.append(Raw(encoded))
    return kept
