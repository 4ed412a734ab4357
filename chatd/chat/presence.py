"""Who is online: what users say of their status, and what those who share a room with them are told.

The bus keeps the roll over all nodes and says which node is to tell what. What changed gathers in `Presence`, the
newest of each user, until `upkeep` lets it be told: one read then finds names, statuses and rooms of all of them, and
one broadcast carries it to every node, encoded once, where each who listens to one of the rooms hears it once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from chatd.bus.port import Broadcast
from chatd.errors import CloseCode, Refusal
from chatd.protocol import Ok, UpdateStatus, UserOffline, UserOnline, UserStatus, encode
from chatd.records import format_time_or_none

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from chatd.bus.hub import Hub
    from chatd.chat.context import Chat
    from chatd.chat.session import Session
    from chatd.store.presence import Sight


class News(NamedTuple):
    """What is to be told of a user: the newest turn, and whether name or status have changed."""

    turn: Literal["online", "offline"] | None = None
    is_changed: bool = False


#: Closes after which the client is expected back at once, although they are clean.
_INVITING = frozenset({CloseCode.RESTART, CloseCode.TRY_LATER, CloseCode.INTERNAL, CloseCode.ABNORMAL})


class Presence:
    """What is still to be told of whom. `on_news` is called when there is something."""

    def __init__(self, hub: Hub, *, on_news: Callable[[], None]) -> None:
        self._news: dict[str, News] = {}
        self._on_news = on_news
        hub.on_online = self.note_online

    def note_online(self, user_ids: Iterable[str]) -> None:
        """The bus has found them to be online; it falls to this node to tell."""
        self._note({user_id: News("online") for user_id in user_ids})

    def note_offline(self, user_ids: Iterable[str]) -> None:
        self._note({user_id: News("offline") for user_id in user_ids})

    def note_change(self, user_id: str) -> None:
        """A user's name or status has changed."""
        self._note({user_id: News(is_changed=True)})

    def _note(self, news: Mapping[str, News]) -> None:
        for user_id, (turn, is_changed) in news.items():
            before = self._news.get(user_id, News())
            self._news[user_id] = News(turn or before.turn, is_changed or before.is_changed)
        if news:
            self._on_news()

    @property
    def has_news(self) -> bool:
        return bool(self._news)

    def take(self, count: int) -> dict[str, News]:
        """News of so many users, the oldest first; they are the caller's to tell, or to put back."""
        taken = {user_id: self._news[user_id] for _, user_id in zip(range(count), self._news, strict=False)}
        for user_id in taken:
            del self._news[user_id]
        return taken

    def put_back(self, news: Mapping[str, News]) -> None:
        """It could not be told; what has become known since counts."""
        since, self._news = self._news, dict(news)
        self._note(since)


async def tell(chat: Chat, news: Mapping[str, News]) -> None:
    """Tell those who share a room, but no large one, with these users. Raises `Unavailable`, having told nobody."""
    if not chat.options.features.presence:
        return
    sights = await chat.statuses.seen(list(news), max_members=chat.options.presence.max_members)
    online = await chat.bus.online([user_id for user_id, (_, is_changed) in news.items() if is_changed])
    broadcasts = []
    for sight in sights:
        turn, is_changed = news[sight.user_id]
        if turn == "online":
            broadcasts.append(_broadcast(sight, UserOnline, sight.status, about=sight.user_id))
        elif turn == "offline":
            seen = sight._replace(last_seen_at=_last_seen_ms(chat, sight))
            broadcasts.append(_broadcast(seen, UserOffline, "offline", about=sight.user_id))
        if is_changed and turn != "offline":
            # Also for the user's other devices.
            status = sight.status if sight.user_id in online else "offline"
            broadcasts.append(_broadcast(sight, UserStatus, status))
    chat.bus.broadcast([broadcast for broadcast in broadcasts if broadcast.room_ids])


def _broadcast(
    sight: Sight, kind: type[UserOnline | UserOffline | UserStatus], status: str, *, about: str = ""
) -> Broadcast:
    message = kind(
        user_id=sight.user_id,
        username=sight.username,
        status=status,
        status_message=sight.status_message,
        last_seen=format_time_or_none(sight.last_seen_at) if status == "offline" else None,
    )
    return Broadcast(sight.room_ids, encode(message), about)


def _last_seen_ms(chat: Chat, sight: Sight) -> int:
    """When somebody was last seen who is seen offline now; a node that died could not store it, so this one does."""
    earliest = chat.clock() - int(chat.options.presence.offline_after_s * 1000)
    if sight.last_seen_at is not None and sight.last_seen_at >= earliest:
        return sight.last_seen_at
    return chat.sessions.departures.setdefault(sight.user_id, earliest)


def grace_s(chat: Chat, close_code: int) -> float:
    """Seconds for which a user whose last connection ended so is still seen online."""
    presence = chat.options.presence
    if close_code == CloseCode.HEARTBEAT:
        # It vanished that long ago.
        return max(0.0, presence.offline_after_s - chat.options.websocket.dead_after_s)
    is_expected_back = close_code in _INVITING or 4000 <= close_code < 4500
    return presence.offline_after_s if is_expected_back else presence.grace_s


async def update_status(chat: Chat, session: Session, message: UpdateStatus) -> Ok:
    """Store what the user says of themselves, and have it told; a message that is absent stays."""
    if message.status_message is not None and not message.status_message.isprintable():
        raise Refusal("bad_message", "`statusMessage` takes at most 140 printable characters.")
    await chat.statuses.set_status(session.user_id, message.status, message.status_message, now_ms=chat.clock())
    chat.presence.note_change(session.user_id)
    return Ok(id=message.id)
