"""What clients may send: each message a struct, its lengths and ranges checked while it is decoded.

Names are snake case here and camel case on the wire. `protocol` gathers these and hands them on; nobody else imports
this module. Source: spec/protocol.md.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

MAX_ID_BYTES: Final = 64

RequestId: TypeAlias = Annotated[str, Meta(max_length=MAX_ID_BYTES)]
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
ClientMessageId: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Seq: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
PageSize: TypeAlias = Annotated[int, Meta(ge=1, le=100)]
Emoji: TypeAlias = Annotated[str, Meta(min_length=1, max_length=32)]
MessageType: TypeAlias = Literal["text", "code", "image", "file"]


def wire_name(class_name: str) -> str:
    """`SendMessage` is `send_message` on the wire."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", class_name).lower()


class _Client(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    rename="camel",
    tag_field="type",
    tag=wire_name,
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
