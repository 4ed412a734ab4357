"""Every message on the wire, once: what clients may send and what they hear.

`ClientMessage` and `ServerMessage` are msgspec tagged unions on the field `type`. Names are snake case here and camel
case on the wire; a server field that is `None` is left out. `decoding` turns a text frame into a client message; the
records that messages carry are in `records`. What has no rule yet is decoded too. Source: spec/protocol.md.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from chatd.errors import ErrorCode
from chatd.records import Limits, Message, ReadCursor, RoomEntry, encode_json

MAX_ID_BYTES: Final = 64

RequestId: TypeAlias = Annotated[str, Meta(max_length=MAX_ID_BYTES)]
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
ClientMessageId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Seq: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
PageSize: TypeAlias = Annotated[int, Meta(ge=1, le=100)]
Emoji: TypeAlias = Annotated[str, Meta(min_length=1, max_length=32)]
MessageType: TypeAlias = Literal["text", "code", "image", "file"]


def _wire_name(class_name: str) -> str:
    """`SendMessage` is `send_message` on the wire."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", class_name).lower()


class _Client(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename="camel",
    tag_field="type",
    tag=_wire_name,
):
    id: RequestId | None = None


class Resume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Where a client was: the epoch it knew and the last seq it has of each room."""

    epoch: str
    rooms: dict[str, Seq]


class Authenticate(_Client, frozen=True):
    token: str
    resume: Resume | None = None


class Ping(_Client, frozen=True):
    pass


class JoinRoom(_Client, frozen=True):
    room_id: Id
    after_seq: Seq | None = None
    limit: PageSize | None = None


class LeaveRoom(_Client, frozen=True):
    room_id: Id


class _Content(_Client, frozen=True, kw_only=True):
    content: str
    message_type: MessageType = "text"
    file_id: Id | None = None
    reply_to: Id | None = None
    metadata: dict[str, Any] | None = None
    client_message_id: ClientMessageId | None = None


class SendMessage(_Content, frozen=True):
    room_id: Id


class SendDm(_Content, frozen=True):
    recipient_id: Id


class EditMessage(_Client, frozen=True):
    message_id: Id
    content: str


class DeleteMessage(_Client, frozen=True):
    message_id: Id


class _OfMessage(_Client, frozen=True):
    message_id: Id


class AddReaction(_OfMessage, frozen=True):
    emoji: Emoji


class RemoveReaction(_OfMessage, frozen=True):
    emoji: Emoji


class PinMessage(_OfMessage, frozen=True):
    pass


class UnpinMessage(_OfMessage, frozen=True):
    pass


class MarkAsRead(_Client, frozen=True):
    room_id: Id
    message_id: Id | None = None
    seq: Seq | None = None


class _OfRoom(_Client, frozen=True):
    room_id: Id


class TypingStart(_OfRoom, frozen=True):
    pass


class TypingStop(_OfRoom, frozen=True):
    pass


class UpdateStatus(_Client, frozen=True):
    status: Literal["online", "away", "busy"]
    status_message: Annotated[str, Meta(max_length=140)] | None = None


class GetHistory(_Client, frozen=True):
    room_id: Id
    before_seq: Seq | None = None
    after_seq: Seq | None = None
    limit: PageSize | None = None


# fmt: off
ClientMessage: TypeAlias = (
    Authenticate | Ping | JoinRoom | LeaveRoom | SendMessage | SendDm | EditMessage | DeleteMessage | AddReaction
    | RemoveReaction | PinMessage | UnpinMessage | MarkAsRead | TypingStart | TypingStop | UpdateStatus | GetHistory
)
# fmt: on


class _Server(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename="camel",
    tag_field="type",
    tag=_wire_name,
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


class MemberUpdated(_RoomChange, frozen=True):
    user_id: str
    role: str | None = None
    muted_until: str | None = None


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
    notification: dict[str, Any]


class ServerShutdown(_Server, frozen=True):
    reason: str
    reconnect_after_ms: int


ServerReply: TypeAlias = Authenticated | AuthError | Pong | Ok | Error | MessageAck | RoomHistory | CaughtUp | Resync
# fmt: off
RoomChange: TypeAlias = (
    NewMessage | NewDm | MessageEdited | MessageDeleted | ReactionAdded | ReactionRemoved | MessagePinned
    | MessageUnpinned | UserJoined | UserLeft | RoomUpdated | MemberUpdated
)
# fmt: on
# fmt: off
Signal: TypeAlias = (
    MessagesRead | MessagesDelivered | UserTyping | UserStoppedTyping | UserOnline | UserOffline | UserStatus
    | UnreadDms | Notification | ServerShutdown
)
# fmt: on
ServerMessage: TypeAlias = ServerReply | RoomChange | Signal

#: The names of all client messages on the wire, sorted.
CLIENT_TYPES: Final = tuple(sorted(_wire_name(cls.__name__) for cls in get_args(ClientMessage)))
#: JSON bytes of a server message.
encode: Final = encode_json

_MESSAGE_STARTS: Final = (b'{"type":"new_message","message":', b'{"type":"new_dm","message":')


def message_in(body: bytes) -> msgspec.Raw:
    """The encoded message inside of an encoded `new_message` or `new_dm`."""
    for start in _MESSAGE_STARTS:
        if body.startswith(start):
            return msgspec.Raw(body[len(start) : -1])
    raise ValueError("no event with a message in it")
