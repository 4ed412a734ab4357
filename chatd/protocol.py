"""Every message on the wire, once: what clients may send and what they hear.

`ClientMessage` and `ServerMessage` are msgspec tagged unions on the field `type`, of the structs in `client_messages`
and `server_messages`. Servers `encode` and clients `decode_server`; `decoding` turns what a client sent into a message
for the server. The records that messages carry are in `records`. Source: spec/protocol.md.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias, get_args

import msgspec

from chatd.client_messages import (
    MAX_ID_BYTES,
    AddReaction,
    Authenticate,
    ClientMessageId,
    DeleteMessage,
    EditMessage,
    Emoji,
    GetHistory,
    Id,
    JoinRoom,
    LeaveRoom,
    MarkAsRead,
    MessageType,
    PageSize,
    Ping,
    PinMessage,
    RemoveReaction,
    RequestId,
    Resume,
    SendDm,
    SendMessage,
    Seq,
    TypingStart,
    TypingStop,
    UnpinMessage,
    UpdateStatus,
    wire_name,
)
from chatd.records import encode_json, parse_json
from chatd.server_messages import (
    Authenticated,
    AuthError,
    CaughtUp,
    Error,
    MemberUpdated,
    MessageAck,
    MessageDeleted,
    MessageEdited,
    MessagePinned,
    MessagesDelivered,
    MessagesRead,
    MessageUnpinned,
    NewDm,
    NewMessage,
    Notification,
    Ok,
    Pong,
    ReactionAdded,
    ReactionRemoved,
    Resync,
    RoomHistory,
    RoomUpdated,
    ServerShutdown,
    UnreadDms,
    UserJoined,
    UserLeft,
    UserOffline,
    UserOnline,
    UserStatus,
    UserStoppedTyping,
    UserTyping,
)

#: Handed on as well: `protocol` is where the rest of chatd finds every message.
__all__ = [
    "CLIENT_TYPES", "MAX_ID_BYTES", "AddReaction", "AuthError", "Authenticate", "Authenticated", "CaughtUp",
    "ClientMessage", "ClientMessageId", "DeleteMessage", "EditMessage", "Emoji", "Error", "GetHistory", "Id",
    "JoinRoom", "LeaveRoom", "MarkAsRead", "MemberUpdated", "MessageAck", "MessageDeleted", "MessageEdited",
    "MessagePinned", "MessageType", "MessageUnpinned", "MessagesDelivered", "MessagesRead", "NewDm", "NewMessage",
    "Notification", "Ok", "PageSize", "PinMessage", "Ping", "Pong", "ReactionAdded", "ReactionRemoved",
    "RemoveReaction", "RequestId", "Resume", "Resync", "RoomChange", "RoomHistory", "RoomUpdated", "SendDm",
    "SendMessage", "Seq", "ServerMessage", "ServerReply", "ServerShutdown", "Signal", "TypingStart", "TypingStop",
    "Unknown", "UnpinMessage", "UnreadDms", "UpdateStatus", "UserJoined", "UserLeft", "UserOffline", "UserOnline",
    "UserStatus", "UserStoppedTyping", "UserTyping", "decode_server", "encode", "message_in", "wire_name", "with_id",
]  # fmt: skip

# fmt: off
ClientMessage: TypeAlias = (
    Authenticate | Ping | JoinRoom | LeaveRoom | SendMessage | SendDm | EditMessage | DeleteMessage | AddReaction
    | RemoveReaction | PinMessage | UnpinMessage | MarkAsRead | TypingStart | TypingStop | UpdateStatus | GetHistory
)
# fmt: on

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
CLIENT_TYPES: Final = tuple(sorted(wire_name(cls.__name__) for cls in get_args(ClientMessage)))
#: JSON bytes of a server message.
encode: Final = encode_json


def with_id(message: ClientMessage, request_id: str) -> ClientMessage:
    """The same message, whose one reply will carry this `id`."""
    return msgspec.structs.replace(message, id=request_id)


_MESSAGE_STARTS: Final = (b'{"type":"new_message","message":', b'{"type":"new_dm","message":')


def message_in(body: bytes) -> msgspec.Raw:
    """The encoded message inside of an encoded `new_message` or `new_dm`."""
    for start in _MESSAGE_STARTS:
        if body.startswith(start):
            return msgspec.Raw(body[len(start) : -1])
    raise ValueError("no event with a message in it")


class Unknown(NamedTuple):
    """A message of a server that is newer than this code, as it came."""

    type: str
    fields: dict[str, Any]


_server_decoder: Final[msgspec.json.Decoder[ServerMessage]] = msgspec.json.Decoder(ServerMessage)
_SERVER_TYPES: Final = frozenset(wire_name(cls.__name__) for cls in get_args(ServerMessage))


def decode_server(text: str | bytes) -> ServerMessage | Unknown:
    """What a server sent, as a message; `Unknown` is one of a type that does not stand here.

    The messages of a `RoomHistory` and of `UnreadDms` stay JSON, for `decode_message`. Raises ValueError when the text
    is no message at all, or one of these that is not as it should be.
    """
    try:
        return _server_decoder.decode(text)
    except msgspec.ValidationError:
        found = parse_json(text)
        if not isinstance(found, dict) or not isinstance(found.get("type"), str) or found["type"] in _SERVER_TYPES:
            raise
        return Unknown(found["type"], found)
