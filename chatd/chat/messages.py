"""Sending messages and reading history, for both doors.

A message is checked, counted against its sender's budget and given to the journal; the acknowledgement is sent by the
journal's batch once it is durable (promise 1). History comes from the encoded tail where it reaches, else from the
store, and a page is bounded in bytes as well, so that it fits an outbox.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from chatd.bus.room import MESSAGE_CHANGES
from chatd.chat.content import check_client_message_id, check_metadata, clean_content, hash_request
from chatd.chat.context import take
from chatd.chat.features import check_feature
from chatd.chat.files import attach
from chatd.chat.links import with_links
from chatd.chat.permissions import check_may, check_may_send
from chatd.chat.receipts import read_cursors
from chatd.chat.refusals import send_error
from chatd.chat.typists import who_types
from chatd.errors import Refusal
from chatd.protocol import GetHistory, MessageAck, MessageType, RoomHistory, SendDm, SendMessage, encode, message_in
from chatd.records import Message, Raw, ReadCursor, encode_json, format_time
from chatd.store.entries import Outcome, Post, Stored, no_such_room, settled_by_writer
from chatd.store.messages import NO_SEQ
from chatd.wire.frames import text_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.bus.room import ActiveRoom
    from chatd.chat.context import Chat
    from chatd.chat.session import Session
    from chatd.records import Attachment


#: How often a page is read anew because its messages changed meanwhile.
TRIES: Final = 5


class Sender(NamedTuple):
    """Who sends: always from the token, never from the message."""

    user_id: str
    username: str
    role: str | None


@dataclass(slots=True)
class Draft:
    """A message as its sender asked for it, through either door."""

    room_id: str
    content: str
    message_type: MessageType
    file_id: str | None
    reply_to: str | None
    metadata: dict[str, Any] | None
    client_message_id: str | None


class Acknowledgement:
    """Tells a connection what became of its message; the journal calls it after the commit."""

    __slots__ = ("_chat", "_client_message_id", "_message_type", "_received_s", "_request_id", "_session")

    def __init__(self, chat: Chat, session: Session, message: SendMessage | SendDm) -> None:
        self._chat = chat
        self._session = session
        self._request_id = message.id
        self._client_message_id = message.client_message_id
        self._message_type = message.message_type
        self._received_s = chat.seconds()

    def __call__(self, outcome: Outcome) -> None:
        chat, session = self._chat, self._session
        session.pending -= 1
        if isinstance(outcome, Refusal):
            send_error(chat, session, outcome, request_id=self._request_id)
        else:
            self._acknowledge(outcome)
        session.line.settled()

    def _acknowledge(self, outcome: Stored) -> None:
        chat, session = self._chat, self._session
        ack = MessageAck(
            id=self._request_id,
            message_id=outcome.message_id,
            room_id=outcome.room_id,
            seq=outcome.seq,
            created_at=format_time(outcome.created_at_ms),
            duplicate=outcome.duplicate,
            client_message_id=self._client_message_id,
        )
        session.outbox.hold(text_frame(encode(ack)))
        chat.holding.append(session.outbox)
        seconds = chat.seconds() - self._received_s
        chat.metrics.processing_seconds.observe(seconds)
        if seconds > chat.slow.slow_s:
            chat.slow.note("from a message to its commit", seconds, connection=session.connection_id)
        if not outcome.duplicate:
            chat.metrics.messages[self._message_type].inc()
            chat.audit.note_message(session, outcome.room_id, outcome.message_id)


async def send_message(chat: Chat, session: Session, message: SendMessage) -> None:
    """Give a message to the journal; `message_ack` follows after its commit, `new_message` to the room then."""
    post = await prepare(
        chat,
        Sender(session.user_id, session.username, session.role_in(message.room_id)),
        message,
        Acknowledgement(chat, session, message),
    )
    # The membership may have ended while the message was checked; the journal sees to that.
    await chat.journal.wait_for_space()
    chat.journal.append(post)
    session.pending += 1


async def prepare(chat: Chat, sender: Sender, draft: SendMessage | Draft, settle: Acknowledgement | None) -> Post:
    """Check a message and take it from its sender's budget. Raises `Refusal`; the budget pays only for good ones."""
    limits = chat.options.limits
    if not await _is_repeat(chat, sender, draft):
        await check_may_send(chat, sender.user_id, sender.role, draft.room_id)
    content = clean_content(chat, draft.content, draft.message_type)
    client_message_id = draft.client_message_id
    metadata = check_metadata(draft.metadata, limits)
    request_hash = None
    if client_message_id is not None:
        check_client_message_id(client_message_id, limits)
        request_hash = hash_draft(draft, draft.room_id, metadata)
    await _check_reply(chat, sender, draft)
    attachment = await _attach(chat, sender, draft)
    detail = f"You may send {limits.messages_per_minute} messages a minute; wait a little."
    await take(chat, "messages:" + sender.user_id, chat.rates.messages, detail)
    chat.typists.stop(draft.room_id, sender.user_id)
    listed = with_links(draft.metadata, content, draft.message_type)
    return Post(
        room_id=draft.room_id,
        sender_id=sender.user_id,
        sender_name=sender.username,
        message_type=draft.message_type,
        content=content,
        settle=settle or settled_by_writer,
        reply_to=draft.reply_to,
        metadata=metadata if listed is draft.metadata else encode_json(listed),
        client_message_id=client_message_id,
        request_hash=request_hash,
        attachment=attachment,
    )


def hash_draft(draft: SendMessage | SendDm | Draft, room_id: str, metadata: bytes | None) -> str:
    """What tells a message from others that its sender sends to this room."""
    # Without a file the same as before there were any: what was stored then is known as a repeat.
    file_id = () if draft.file_id is None else (draft.file_id,)
    return hash_request(room_id, draft.message_type, draft.content, draft.reply_to, metadata, *file_id)


async def _check_reply(chat: Chat, sender: Sender, draft: SendMessage | Draft) -> None:
    """Raise `Refusal` for a reply to nothing, but not for what is stored already and only sent again."""
    if draft.reply_to is None or await chat.messages.is_living(draft.room_id, draft.reply_to):
        return
    if not await _is_stored(chat, sender, draft):
        raise Refusal("not_found", "There is no message `replyTo` in this room, or it was deleted.")


async def _attach(chat: Chat, sender: Sender, draft: SendMessage | Draft) -> Attachment | None:
    """The file of a message, if it has one. Raises `Refusal`, but for what is stored already and only sent again."""
    if draft.file_id is None and draft.message_type not in ("image", "file"):
        return None
    try:
        check_feature(chat, "uploads")
        return await attach(chat, sender.user_id, message_type=draft.message_type, file_id=draft.file_id)
    except Refusal:
        if not await _is_stored(chat, sender, draft):
            raise
        return None


async def _is_repeat(chat: Chat, sender: Sender, draft: SendMessage | Draft) -> bool:
    """Whether somebody who may not send here (any more) sends again what is stored: they get its first ack."""
    return sender.role in (None, "readonly") and await _is_stored(chat, sender, draft)


async def _is_stored(chat: Chat, sender: Sender, draft: SendMessage | Draft) -> bool:
    """Whether a message of the sender is stored under the key of this one."""
    key = draft.client_message_id
    return key is not None and await chat.messages.is_stored(sender.user_id, key)


async def post_message(chat: Chat, sender: Sender, draft: Draft) -> tuple[Message, bool]:
    """Store a message and return it as everybody sees it, and whether it had been stored before (HTTP)."""
    post = await prepare(chat, sender, draft, None)
    stored = await chat.journal.write(post)
    if not stored.duplicate:
        chat.metrics.messages[draft.message_type].inc()
        chat.audit.note_message(None, stored.room_id, stored.message_id)
    [message] = await chat.messages.after(stored.room_id, stored.seq - 1, limit=1)
    return message, stored.duplicate


class Page(NamedTuple):
    """Messages in ascending order, encoded, and whether there are more behind them in the direction of reading."""

    messages: list[Raw]
    has_more: bool
    first_seq: int = 0
    last_seq: int = 0


async def get_history(chat: Chat, session: Session, message: GetHistory) -> RoomHistory:
    """A page of a room's history without joining it again."""
    check_may(session.role_in(message.room_id), "read")
    if message.before_seq is not None and message.after_seq is not None:
        raise Refusal("bad_message", "Give `beforeSeq` or `afterSeq`, not both.")
    room = await chat.hub.read_own(message.room_id)
    if room is None:
        raise no_such_room()
    readers = await read_cursors(chat, message.room_id)
    for _ in range(TRIES):
        await session.line.wait_for_space()
        position = room.position
        page = await _page_for(chat, room, message)
        # What stands on the page may be on its way to this node still: it is not to come live behind the page.
        await chat.hub.try_to_reach(message.room_id, page.last_seq)
        await session.line.wait_for_space()
        if room.changed_seq <= position:
            break
        # What was told of its messages meanwhile is not to be taken back by the page.
    else:
        raise too_many_changes()
    chat.hub.send_backlog(message.room_id)
    typing = who_types(chat, message.room_id, asked_by=session.user_id)
    return room_history(room, room.position, page, message.id, typing=typing, readers=readers)


def too_many_changes() -> Refusal:
    return Refusal(
        "overloaded", "The messages of this room change too fast to be read; try again.", retry_after_ms=1000
    )


async def _page_for(chat: Chat, room: ActiveRoom, message: GetHistory) -> Page:
    limit = message.limit or chat.options.messages.history
    if message.after_seq is not None:
        return await page_after(chat, message.room_id, message.after_seq, limit)
    if message.before_seq is not None:
        return await page_before(chat, message.room_id, message.before_seq, limit)
    return await newest_page(chat, room, limit)


async def newest_page(chat: Chat, room: ActiveRoom, limit: int) -> Page:
    """The newest messages of an active room up to its position at the call; from its tail if that holds enough."""
    from_tail = page_of_tail(room, limit, max_bytes=chat.options.websocket.outbox_bytes // 2)
    if from_tail is not None:
        return from_tail
    return await page_before(chat, room.room_id, room.position + 1, limit)


def page_of_tail(room: ActiveRoom, limit: int, *, max_bytes: int) -> Page | None:
    """The newest page out of the encoded tail, or `None` if the tail does not hold it as it is now."""
    found: list[Raw] = []
    size = 0
    for event in reversed(room.tail):
        if event.kind in MESSAGE_CHANGES:
            # It is about a message before it, of which the tail has what was sent.
            return None
        if event.kind != "new_message":
            continue
        if len(found) == limit:
            return Page(found[::-1], has_more=True)
        size += len(event.body)
        if size > max_bytes and found:
            return Page(found[::-1], has_more=True)
        found.append(message_in(event.body))
    reaches_start = room.position == len(room.tail)
    return Page(found[::-1], has_more=False) if reaches_start else None


async def page_before(chat: Chat, room_id: str, before_seq: int, limit: int, *, offset: int = 0) -> Page:
    """The newest messages below a seq; of those too many for a page the newest are kept."""
    found = await chat.messages.before(room_id, before_seq, limit=limit + 1, offset=offset)
    return last_that_fit(chat, found, limit)


async def page_after(chat: Chat, room_id: str, after_seq: int, limit: int) -> Page:
    """The oldest messages above a seq; of those too many for a page the oldest are kept."""
    found = await chat.messages.after(room_id, after_seq, limit=limit + 1, before=NO_SEQ)
    return first_that_fit(chat, found, limit)


def first_that_fit(chat: Chat, found: Sequence[Message], limit: int) -> Page:
    """The first messages of what was found, which is one more than asked for where there are more."""
    encoded = [encode_json(message) for message in found][:limit]
    kept = _fitting(encoded, chat.options.websocket.outbox_bytes // 2)
    return _page(kept, found[: len(kept)], has_more=len(kept) < len(found))


def last_that_fit(chat: Chat, found: Sequence[Message], limit: int) -> Page:
    """The last ones of it."""
    encoded = [encode_json(message) for message in reversed(found)][:limit]
    kept = _fitting(encoded, chat.options.websocket.outbox_bytes // 2)[::-1]
    return _page(kept, found[len(found) - len(kept) :], has_more=len(kept) < len(found))


def _page(encoded: Sequence[bytes], messages: Sequence[Message], *, has_more: bool) -> Page:
    if not encoded:
        return Page([], has_more)
    return Page([Raw(data) for data in encoded], has_more, messages[0].seq, messages[-1].seq)


def _fitting(encoded: Sequence[bytes], max_bytes: int) -> Sequence[bytes]:
    """As many as fit, at least one."""
    size = 0
    for index, data in enumerate(encoded):
        size += len(data)
        if size > max_bytes and index:
            return encoded[:index]
    return encoded


def room_history(
    room: ActiveRoom, seq: int, page: Page, request_id: str | None, *, typing: list[str], readers: list[ReadCursor]
) -> RoomHistory:
    return RoomHistory(
        id=request_id,
        room_id=room.room_id,
        messages=page.messages,
        seq=seq,
        has_more=page.has_more,
        typing=typing,
        read_cursors=readers,
    )
