"""What clients hear: each reply, event and signal a struct. A field that is `None` is left out on the wire.

Fields that are new to whoever decodes a message are passed over, so that a client may be older than its server.
`protocol` gathers these and hands them on; nobody else imports this module. Source: spec/protocol.md.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from chatd.client_messages import wire_name
from chatd.errors import ErrorCode
from chatd.records import Limits, Message, ReadCursor, RoomEntry, UserNotification


class _Server(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename="camel",
    tag_field="type",
    tag=wire_name,
):
    pass


class _Reply(_Server, frozen=True, kw_only=True):
    id: str | None = None


class Authenticated(_Reply, frozen=True):
    user_id: str
    username: str
    connection_id: str
    epoch: str
    expires_at: str
    heartbeat_seconds: float
    limits: Limits
    rooms: list[RoomEntry]


class AuthError(_Reply, frozen=True):
    message: str
    code: ErrorCode


class Pong(_Reply, frozen=True):
    time: str


class Ok(_Reply, frozen=True):
    pass


class Error(_Reply, frozen=True):
    message: str
    code: ErrorCode
    temporary: bool
    retry_after_ms: int | None = None


class MessageAck(_Reply, frozen=True):
    message_id: str
    room_id: str
    seq: int
    created_at: str
    duplicate: bool
    client_message_id: str | None = None


class RoomHistory(_Reply, frozen=True):
    room_id: str
    messages: list[msgspec.Raw]
    seq: int
    has_more: bool
    typing: list[str]
    read_cursors: list[ReadCursor]


class CaughtUp(_Reply, frozen=True):
    room_id: str
    seq: int


class Resync(_Reply, frozen=True):
    room_id: str
    oldest_seq: int
    seq: int
    reason: Literal["epoch_changed", "too_old", "not_a_member"]


class NewMessage(_Server, frozen=True):
    message: Message


class NewDm(_Server, frozen=True):
    message: Message


class _RoomChange(_Server, frozen=True):
    room_id: str
    seq: int


class MessageEdited(_RoomChange, frozen=True):
    message: Message


class MessageDeleted(_RoomChange, frozen=True):
    message_id: str
    deleted_by: str
    deleted_at: str


class _Reacted(_RoomChange, frozen=True):
    message_id: str
    user_id: str
    emoji: str
    count: int


class ReactionAdded(_Reacted, frozen=True):
    pass


class ReactionRemoved(_Reacted, frozen=True):
    pass


class _Pinned(_RoomChange, frozen=True):
    message_id: str
    user_id: str


class MessagePinned(_Pinned, frozen=True):
    pass


class MessageUnpinned(_Pinned, frozen=True):
    pass


class UserJoined(_RoomChange, frozen=True):
    user_id: str
    username: str
    online: bool


class UserLeft(_RoomChange, frozen=True):
    user_id: str
    username: str
    online: bool
    reason: Literal["left", "kicked", "banned"]


class RoomUpdated(_RoomChange, frozen=True):
    name: str | None = None
    topic: str | None = None
    settings: dict[str, Any] | None = None
    #: The room is deleted: this is the last that its members hear of it.
    deleted_at: str | None = None


class MemberUpdated(_RoomChange, frozen=True):
    user_id: str
    role: str | None = None
    #: `null` where somebody may send again before the time was over.
    muted_until: str | msgspec.UnsetType | None = msgspec.UNSET


class MessagesRead(_Server, frozen=True):
    room_id: str
    user_id: str
    seq: int
    read_at: str


class MessagesDelivered(_Server, frozen=True):
    room_id: str
    user_id: str
    seq: int
    delivered_at: str


class _Typing(_Server, frozen=True):
    room_id: str
    user_id: str
    username: str


class UserTyping(_Typing, frozen=True):
    pass


class UserStoppedTyping(_Typing, frozen=True):
    pass


class _Presence(_Server, frozen=True, kw_only=True):
    user_id: str
    username: str
    status: str
    status_message: str | None = None
    last_seen: str | None = None


class UserOnline(_Presence, frozen=True):
    pass


class UserOffline(_Presence, frozen=True):
    pass


class UserStatus(_Presence, frozen=True):
    pass


class UnreadDms(_Server, frozen=True):
    messages: list[msgspec.Raw]
    total: int


class Notification(_Server, frozen=True):
    notification: UserNotification


class ServerShutdown(_Server, frozen=True):
    reason: str
    reconnect_after_ms: int
