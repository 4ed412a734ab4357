"""Notifications: what of everything that happens concerns a single user, and telling them on every device.

What this node has stored is noted in `Notifier`, which costs a message that names nobody two searches of its bytes.
Behind the commit `notify` makes notifications of what was noted, many at once, stores them and tells their users. Only
the node that stored an event does, so there is one of each. What is noted and not yet stored is lost by a crash: the
message itself is unread, and found. An edit concerns those whom it mentions and the message did not mention before.

A mention, a reply, a reaction and an invitation are one notification each; direct messages are one a conversation until
it is read. Members choose for each room to hear of all that, of mentions and replies only, or of nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from chatd.bus.port import Broadcast
from chatd.chat.mentions import mentioned
from chatd.chat.permissions import check_may, not_a_member
from chatd.chat.rooms import visible_room
from chatd.protocol import Notification, encode, message_in
from chatd.records import UserNotification, decode_message, format_time, parse_json
from chatd.store.notifications import Concern, NotificationRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from chatd.bus.port import Event
    from chatd.chat.context import Chat
    from chatd.store.notifications import Notify

#: Events that wait; past it the newest are dropped.
MAX_WAITING: Final = 10_000
_DIRECT: Final = b'{"type":"new_dm"'


class Notifier:
    """What this node has stored and may concern somebody. `on_work` is called when there is something."""

    def __init__(self, on_work: Callable[[], None]) -> None:
        self._waiting: deque[Event | Concern] = deque()
        self._on_work = on_work
        self.dropped = 0
        self._told_dropped = 0

    def note(self, event: Event) -> None:
        """Have a committed event looked at, if it may concern anybody. A false alarm costs its decoding."""
        if event.kind == "new_message":
            body = event.body
            if b"@" in body or b'"replyTo":' in body or body.startswith(_DIRECT):
                self._queue(event)
        elif event.kind == "reaction_added":
            self._queue(event)

    def note_invitation(self, room_id: str, user_id: str, *, by: str) -> None:
        """A user was invited to a room, or made a member of it."""
        self._queue(Concern("invitation", room_id, None, by, target=user_id))

    def note_edit(self, room_id: str, message_id: str, names: Iterable[str], *, by: str, seq: int) -> None:
        """A message mentions these names since the edit at `seq`."""
        for name in names:
            self._queue(Concern("mention", room_id, message_id, by, target=name, edit_seq=seq))

    def _queue(self, work: Event | Concern) -> None:
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(work)
        else:
            self.dropped += 1
        self._on_work()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take_dropped(self) -> int:
        """How many were dropped since this was asked last."""
        new, self._told_dropped = self.dropped - self._told_dropped, self.dropped
        return new

    def take(self, count: int) -> list[Event | Concern]:
        """The oldest so many; they are the caller's to make notifications of, or to put back."""
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    def put_back(self, work: Sequence[Event | Concern]) -> None:
        """The database is out; it comes first again."""
        self._waiting.extendleft(reversed(work))


async def notify(chat: Chat, work: Iterable[Event | Concern]) -> None:
    """Make notifications and tell their users. Raises `Unavailable`, having made none."""
    if not chat.options.features.notifications:
        return
    at_most = chat.options.notifications.max_mentions
    concerns = [concern for item in work for concern in _concerns(item, max_mentions=at_most)]
    if not concerns:
        return
    rows = await chat.notifications.add(concerns, now_ms=chat.clock())
    chat.bus.broadcast(
        [Broadcast((), encode(Notification(notification=as_record(row))), to=(row.user_id,)) for row in rows]
    )


def _concerns(work: Event | Concern, *, max_mentions: int) -> Iterator[Concern]:
    """What may concern somebody of it, the weightiest first: a message tells each only once."""
    if isinstance(work, Concern):
        yield work
    elif work.kind == "reaction_added":
        body = parse_json(work.body)
        message_id = body["messageId"]
        yield Concern("reaction", work.room_id, message_id, body["userId"], target=message_id, emoji=body["emoji"])
    else:
        message = decode_message(message_in(work.body))
        if work.body.startswith(_DIRECT):
            yield Concern("direct", message.room_id, message.id, message.sender_id)
            return
        if message.message_type != "code":
            for name in mentioned(message.content, at_most=max_mentions):
                yield Concern("mention", message.room_id, message.id, message.sender_id, target=name)
        if message.reply_to is not None:
            yield Concern("reply", message.room_id, message.id, message.sender_id, target=message.reply_to)


def as_record(row: NotificationRow) -> UserNotification:
    return UserNotification(
        id=row.id,
        kind=row.kind,
        room_id=row.room_id,
        actor_id=row.actor_id,
        actor_name=row.actor_name,
        created_at=format_time(row.created_at),
        read=not row.is_unread,
        room_name=row.room_name or None,
        message_id=row.message_id,
        seq=row.seq,
        emoji=row.emoji,
        excerpt=row.excerpt,
    )


async def list_notifications(
    chat: Chat, user_id: str, *, after: str, limit: int
) -> tuple[list[UserNotification], bool, int]:
    """The user's notifications behind the id `after`, newest first, whether there are more, and how many are unread."""
    rows, unread = await chat.notifications.page(user_id, before=after, limit=limit + 1)
    return [as_record(row) for row in rows[:limit]], len(rows) > limit, unread


async def mark_read(chat: Chat, user_id: str, ids: Sequence[str] | None) -> int:
    """Mark these of the user's notifications read, or (`None`) all of them; how many are unread then."""
    return await chat.notifications.mark_read(user_id, ids, now_ms=chat.clock())


async def read_preference(chat: Chat, user_id: str, room_id: str) -> Notify:
    """What a member wants to hear of a room. Raises `Refusal`, as all do that are members' own."""
    check_may((await visible_room(chat, user_id, room_id)).role, "read")
    preference = await chat.notifications.preference(room_id, user_id)
    if preference is None:
        raise not_a_member()
    return preference


async def change_preference(chat: Chat, user_id: str, room_id: str, notify: Notify) -> None:
    """Choose what to hear of a room from now on. Raises `Refusal` as `read_preference` does."""
    check_may((await visible_room(chat, user_id, room_id)).role, "read")
    if not await chat.notifications.prefer(room_id, user_id, notify):
        raise not_a_member()
