"""Every message on the wire, once: what clients may send, what they hear, and how both become bytes.

`ClientMessage` and `ServerMessage` are msgspec tagged unions on the field `type`. Names are snake case here and
camel case on the wire; a server field that is `None` is left out. `decode` turns a text frame into a client message
or raises a `Refusal` whose sentence names the field; `encode` gives the JSON bytes of a server message. The records
that messages carry (`Message`, `RoomEntry`, …) are in `records`. Called by `chat`; knows nothing of sockets.

Source: spec/protocol.md. What has no rule yet is still decoded here, and `chat.dispatch` answers `feature_disabled`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from chatd.errors import ErrorCode, Refusal
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


class Authenticate(_Client):
    token: str
    resume: Resume | None = None


class Ping(_Client):
    pass


class JoinRoom(_Client):
    room_id: Id
    after_seq: Seq | None = None
    limit: PageSize | None = None


class LeaveRoom(_Client):
    room_id: Id


class _Content(_Client, kw_only=True):
    content: str
    message_type: MessageType = "text"
    file_id: Id | None = None
    reply_to: Id | None = None
    metadata: dict[str, Any] | None = None
    client_message_id: ClientMessageId | None = None


class SendMessage(_Content):
    room_id: Id


class SendDm(_Content):
    recipient_id: Id


class EditMessage(_Client):
    message_id: Id
    content: str


class DeleteMessage(_Client):
    message_id: Id


class AddReaction(_Client):
    message_id: Id
    emoji: Emoji


class RemoveReaction(_Client):
    message_id: Id
    emoji: Emoji


class PinMessage(_Client):
    message_id: Id


class UnpinMessage(_Client):
    message_id: Id


class MarkAsRead(_Client):
    room_id: Id
    message_id: Id | None = None
    seq: Seq | None = None


class TypingStart(_Client):
    room_id: Id


class TypingStop(_Client):
    room_id: Id


class UpdateStatus(_Client):
    status: Literal["online", "away", "busy"]
    status_message: Annotated[str, Meta(max_length=140)] | None = None


class GetHistory(_Client):
    room_id: Id
    before_seq: Seq | None = None
    after_seq: Seq | None = None
    limit: PageSize | None = None


ClientMessage: TypeAlias = (
    Authenticate
    | Ping
    | JoinRoom
    | LeaveRoom
    | SendMessage
    | SendDm
    | EditMessage
    | DeleteMessage
    | AddReaction
    | RemoveReaction
    | PinMessage
    | UnpinMessage
    | MarkAsRead
    | TypingStart
    | TypingStop
    | UpdateStatus
    | GetHistory
)


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


class _Reply(_Server, kw_only=True):
    id: str | None = None


class Authenticated(_Reply):
    user_id: str
    username: str
    connection_id: str
    epoch: str
    expires_at: str
    heartbeat_seconds: float
    limits: Limits
    rooms: list[RoomEntry]


class AuthError(_Reply):
    message: str
    code: ErrorCode


class Pong(_Reply):
    time: str


class Ok(_Reply):
    pass


class Error(_Reply):
    message: str
    code: ErrorCode
    temporary: bool
    retry_after_ms: int | None = None


class MessageAck(_Reply):
    message_id: str
    room_id: str
    seq: int
    created_at: str
    duplicate: bool
    client_message_id: str | None = None


class RoomHistory(_Reply):
    room_id: str
    messages: list[msgspec.Raw]
    seq: int
    has_more: bool
    typing: list[str]
    read_cursors: list[ReadCursor]


class CaughtUp(_Reply):
    room_id: str
    seq: int


class Resync(_Reply):
    room_id: str
    oldest_seq: int
    seq: int
    reason: Literal["epoch_changed", "too_old", "not_a_member"]


class NewMessage(_Server):
    message: Message


class NewDm(_Server):
    message: Message


class _RoomChange(_Server):
    room_id: str
    seq: int


class MessageEdited(_RoomChange):
    message: Message


class MessageDeleted(_RoomChange):
    message_id: str
    deleted_by: str
    deleted_at: str


class ReactionAdded(_RoomChange):
    message_id: str
    user_id: str
    emoji: str
    count: int


class ReactionRemoved(_RoomChange):
    message_id: str
    user_id: str
    emoji: str
    count: int


class MessagePinned(_RoomChange):
    message_id: str
    user_id: str


class MessageUnpinned(_RoomChange):
    message_id: str
    user_id: str


class UserJoined(_RoomChange):
    user_id: str
    username: str
    online: bool


class UserLeft(_RoomChange):
    user_id: str
    username: str
    online: bool
    reason: Literal["left", "kicked", "banned"]


class RoomUpdated(_RoomChange):
    name: str | None = None
    topic: str | None = None
    settings: dict[str, Any] | None = None


class MemberUpdated(_RoomChange):
    user_id: str
    role: str | None = None
    muted_until: str | None = None


class MessagesRead(_Server):
    room_id: str
    user_id: str
    seq: int
    read_at: str


class MessagesDelivered(_Server):
    room_id: str
    user_id: str
    seq: int
    delivered_at: str


class UserTyping(_Server):
    room_id: str
    user_id: str
    username: str


class UserStoppedTyping(_Server):
    room_id: str
    user_id: str
    username: str


class _Presence(_Server, kw_only=True):
    user_id: str
    username: str
    status: str
    status_message: str | None = None
    last_seen: str | None = None


class UserOnline(_Presence):
    pass


class UserOffline(_Presence):
    pass


class UserStatus(_Presence):
    pass


class UnreadDms(_Server):
    messages: list[msgspec.Raw]
    total: int


class Notification(_Server):
    notification: dict[str, Any]


class ServerShutdown(_Server):
    reason: str
    reconnect_after_ms: int


ServerReply: TypeAlias = (
    Authenticated | AuthError | Pong | Ok | Error | MessageAck | RoomHistory | CaughtUp | Resync
)
RoomChange: TypeAlias = (
    NewMessage
    | NewDm
    | MessageEdited
    | MessageDeleted
    | ReactionAdded
    | ReactionRemoved
    | MessagePinned
    | MessageUnpinned
    | UserJoined
    | UserLeft
    | RoomUpdated
    | MemberUpdated
)
Signal: TypeAlias = (
    MessagesRead
    | MessagesDelivered
    | UserTyping
    | UserStoppedTyping
    | UserOnline
    | UserOffline
    | UserStatus
    | UnreadDms
    | Notification
    | ServerShutdown
)
ServerMessage: TypeAlias = ServerReply | RoomChange | Signal

CLIENT_TYPES: Final = tuple(sorted(_wire_name(cls.__name__) for cls in get_args(ClientMessage)))

_decoder: Final = msgspec.json.Decoder(ClientMessage)
_loose_decoder: Final = msgspec.json.Decoder(dict[str, Any])
encode: Final = encode_json


def decode(text: str) -> ClientMessage:
    """One text frame as a message.

    Raises `BadMessage`, a `Refusal` with code `bad_message` whose detail names the field and the fault.
    """
    try:
        message = _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise _explained(error, text) from None
    if message.id is not None and len(message.id.encode()) > MAX_ID_BYTES:
        raise BadMessage(f"The field `id` is longer than {MAX_ID_BYTES} bytes.", request_id=None)
    return message


class BadMessage(Refusal):
    """A frame that is no message of the protocol; `request_id` is its `id`, if that could be read."""

    def __init__(self, detail: str, *, request_id: str | None) -> None:
        super().__init__("bad_message", detail)
        self.request_id = request_id


_UNKNOWN_TYPE = re.compile(r"Invalid value '(?P<value>.*)' - at `\$\.type`", re.DOTALL)
_AT = re.compile(r"(?P<fault>.*) - at `\$\.?(?P<field>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)


def _explained(error: Exception, text: str) -> BadMessage:
    """msgspec's error as a sentence for somebody at a keyboard, with the `id` of the request where it has one."""
    request_id: str | None = None
    kind = "this message"
    if isinstance(error, msgspec.ValidationError):
        # The text is JSON, so reading it loosely cannot fail unless it is not an object.
        try:
            loose = _loose_decoder.decode(text)
        except msgspec.DecodeError:
            return BadMessage('A message is one JSON object, such as {"type":"ping"}.', request_id=None)
        if isinstance(loose.get("id"), str) and len(loose["id"].encode()) <= MAX_ID_BYTES:
            request_id = loose["id"]
        if loose.get("type") in CLIENT_TYPES:
            kind = f"`{loose['type']}`"
    return BadMessage(_sentence(error, kind), request_id=request_id)


def _sentence(error: Exception, kind: str) -> str:
    fault = str(error)
    if isinstance(error, RecursionError):
        return "This message is nested too deeply; keep `metadata` flat."
    if not isinstance(error, msgspec.ValidationError):
        return f'This is not JSON ({fault}). A message is one JSON object, such as {{"type":"ping"}}.'
    if found := _UNKNOWN_TYPE.fullmatch(fault):
        return f"There is no message type `{found['value'][:64]}`. The types are: {', '.join(CLIENT_TYPES)}."
    where = f" of {kind}"
    if found := _AT.fullmatch(fault):
        fault, field = found["fault"], found["field"]
        if not _MISSING.fullmatch(fault) and not _UNKNOWN_FIELD.fullmatch(fault):
            return f"The field `{field[:64]}`{where} is wrong: {fault[0].lower()}{fault[1:].replace('`', '')}."
        where = f" in `{field[:64]}`{where}"
    if found := _MISSING.fullmatch(fault):
        return f"The field `{found['field'][:64]}`{where} is missing."
    if found := _UNKNOWN_FIELD.fullmatch(fault):
        return f"There is no field `{found['field'][:64]}`{where}; leave it out."
    return f"{fault.replace('`', '')}."
