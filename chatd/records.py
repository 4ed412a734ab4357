"""The records that messages and HTTP answers carry, and the one way in which they become JSON.

Shapes of spec/protocol.md: camel case on the wire, `None` left out, times RFC 3339 in UTC with milliseconds.
Nothing in here depends on who receives it, so that one encoding serves all.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

#: JSON that is encoded already.
Raw = msgspec.Raw
if TYPE_CHECKING:
    #: Encoded already where a message is made, and a dict where it was received.
    Metadata: TypeAlias = Raw | dict[str, Any] | None
else:
    # msgspec encodes `Raw | None` and does not decode it.
    Metadata = Any


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    pass


class Attachment(_Record, frozen=True):
    file_id: str
    url: str
    mime_type: str
    size: int
    name: str
    thumbnail_url: str | None = None
    width: int | None = None
    height: int | None = None


class UploadedFile(_Record, frozen=True):
    """A file as its owner sees it; `name` is the one that they gave it."""

    id: str
    url: str
    type: str
    size: int
    name: str
    created_at: str
    width: int | None = None
    height: int | None = None
    thumbnail_url: str | None = None


class Reaction(_Record, frozen=True):
    emoji: str
    count: int
    user_ids: list[str]


class Message(_Record, frozen=True):
    """A message as everybody sees it, live, in history and in a resume."""

    id: str
    room_id: str
    seq: int
    sender_id: str
    sender_name: str
    message_type: str
    content: str
    created_at: str
    client_message_id: str | None = None
    reply_to: str | None = None
    metadata: Metadata = None
    attachment: Attachment | None = None
    edited_at: str | None = None
    deleted_at: str | None = None
    pinned: bool | None = None
    reactions: list[Reaction] | None = None


class RoomEntry(_Record, frozen=True):
    """One of a user's rooms in `authenticated`: where the room is, and where its reader."""

    room_id: str
    name: str
    kind: str
    last_seq: int
    last_read_seq: int
    unread: int


class ReadCursor(_Record, frozen=True):
    user_id: str
    seq: int


class Limits(_Record, frozen=True):
    """What a client has to know to stay within its bounds; 0 means no limit."""

    messages_per_minute: int
    requests_per_minute: int
    content_characters: int
    message_bytes: int
    metadata_bytes: int


class User(_Record, frozen=True):
    """A profile. `email` is present only in answers to its owner."""

    id: str
    username: str
    created_at: str
    display_name: str | None = None
    email: str | None = None
    avatar_file_id: str | None = None
    status: str | None = None
    status_message: str | None = None
    last_seen: str | None = None


class UserNotification(_Record, frozen=True):
    """What concerns one user: a mention, a reply, a reaction, a direct message, an invitation."""

    id: str
    kind: str
    room_id: str
    actor_id: str
    actor_name: str
    created_at: str
    read: bool
    #: Direct conversations have none.
    room_name: str | None = None
    message_id: str | None = None
    seq: int | None = None
    emoji: str | None = None
    #: The beginning of the message, while it is not deleted.
    excerpt: str | None = None


class RoomSettings(_Record, frozen=True):
    """What moderators have set: 0 for no bound of the room's own and for no slow mode."""

    max_members: int = 0
    slow_mode_s: int = 0


class Room(_Record, frozen=True):
    id: str
    name: str
    kind: str
    created_at: str
    member_count: int
    last_seq: int
    topic: str | None = None
    created_by: str | None = None
    role: str | None = None
    #: The role that an invitation offers.
    invited_as: str | None = None
    #: Where something is set.
    settings: RoomSettings | None = None


class Member(_Record, frozen=True):
    user_id: str
    username: str
    role: str
    joined_at: str
    online: bool
    status: str
    device_count: int
    display_name: str | None = None
    status_message: str | None = None
    last_seen: str | None = None
    muted_until: str | None = None


class Invitation(_Record, frozen=True):
    """Somebody who may join a room, and as what."""

    room_id: str
    user_id: str
    role: str
    invited_by: str | None = None


class Ban(_Record, frozen=True):
    """Somebody who is kept out of a room."""

    user_id: str
    username: str
    banned_at: str
    banned_by: str | None = None
    reason: str | None = None


class Receipt(_Record, frozen=True):
    """How far a message has come to a member: `sent`, `delivered` or `read`, and by when."""

    user_id: str
    username: str
    status: str
    delivered_at: str | None = None
    read_at: str | None = None


class Participant(_Record, frozen=True):
    user_id: str
    username: str
    display_name: str | None = None


class ChatEntry(_Record, frozen=True):
    """A room or conversation in the chat list. `user_id` is the other one of a direct conversation."""

    room_id: str
    name: str
    kind: str
    last_seq: int
    last_read_seq: int
    unread: int
    last_activity: str
    member_count: int
    #: The first of them.
    participants: list[Participant]
    topic: str | None = None
    user_id: str | None = None
    last_message: Message | None = None


class BlockedUser(_Record, frozen=True):
    """Somebody whom a user does not want to hear from."""

    user_id: str
    username: str
    blocked_at: str
    display_name: str | None = None


class ExcerptPart(_Record, frozen=True):
    """A piece of a message's text as it was written; `match` where it is what was looked for."""

    text: str
    match: bool = False


class SearchResult(_Record, frozen=True):
    """A message that was found, with the part of it that matches."""

    message_id: str
    room_id: str
    seq: int
    sender_id: str
    sender_name: str
    message_type: str
    created_at: str
    excerpt: list[ExcerptPart]
    edited_at: str | None = None


_encoder: Final = msgspec.json.Encoder()
#: JSON bytes of a record or a message.
encode_json: Final = _encoder.encode


_message_decoder: Final = msgspec.json.Decoder(Message)
#: A message of a history, out of its JSON. Raises ValueError when it is none.
decode_message: Final = _message_decoder.decode


_attachment_decoder: Final = msgspec.json.Decoder(Attachment)
#: What a message shows of its file as it is kept, out of its JSON.
decode_attachment: Final = _attachment_decoder.decode


_reactions_decoder: Final = msgspec.json.Decoder(list[Reaction])
#: The reactions of a message as they are kept, out of their JSON.
decode_reactions: Final = _reactions_decoder.decode


def parse_json(data: bytes | str) -> Any:
    """JSON as plain Python values. Raises ValueError when it is none."""
    return msgspec.json.decode(data)


@lru_cache(maxsize=4096)
def _seconds(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def format_time(at_ms: int) -> str:
    """Milliseconds since 1970 as `2026-01-31T12:00:00.123Z`."""
    second, ms = divmod(at_ms, 1000)
    return f"{_seconds(second)}.{ms:03d}Z"


def format_time_or_none(at_ms: int | None) -> str | None:
    return None if at_ms is None else format_time(at_ms)
