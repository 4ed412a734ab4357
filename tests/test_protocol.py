"""Every message of spec/protocol.md, held as a table beside the types: these messages with these fields, no other."""

from __future__ import annotations

import json
from typing import Any, get_args

import msgspec
import pytest

from chatd import errors, protocol, records
from chatd.protocol import ClientMessage, ServerMessage, Unknown, decode_server, encode, message_in, with_id
from chatd.records import Attachment, Message, Reaction, decode_message

#: Fields a client sends (? = optional); each message may also have an `id`.
CLIENT = {
    "authenticate": "token resume?",
    "ping": "",
    "join_room": "roomId afterSeq? limit?",
    "leave_room": "roomId",
    "send_message": "roomId content messageType? fileId? replyTo? metadata? clientMessageId?",
    "edit_message": "messageId content",
    "delete_message": "messageId",
    "add_reaction": "messageId emoji",
    "remove_reaction": "messageId emoji",
    "pin_message": "messageId",
    "unpin_message": "messageId",
    "mark_as_read": "roomId messageId? seq?",
    "typing_start": "roomId",
    "typing_stop": "roomId",
    "send_dm": "recipientId content messageType? fileId? replyTo? metadata? clientMessageId?",
    "update_status": "status statusMessage?",
    "get_history": "roomId beforeSeq? afterSeq? limit?",
}

#: Fields that the server sends. The one reply to a request also carries its `id`.
SERVER = {
    "authenticated": "id? userId username connectionId epoch expiresAt heartbeatSeconds limits rooms",
    "auth_error": "id? message code",
    "pong": "id? time",
    "ok": "id?",
    "error": "id? message code retryAfterMs? temporary",
    "message_ack": "id? messageId roomId seq createdAt clientMessageId? duplicate",
    "new_message": "message",
    "new_dm": "message",
    "message_edited": "roomId seq message",
    "message_deleted": "roomId seq messageId deletedBy deletedAt",
    "reaction_added": "roomId seq messageId userId emoji count",
    "reaction_removed": "roomId seq messageId userId emoji count",
    "message_pinned": "roomId seq messageId userId",
    "message_unpinned": "roomId seq messageId userId",
    "user_joined": "roomId seq userId username online",
    "user_left": "roomId seq userId username online reason",
    "room_updated": "roomId seq name? topic? settings? deletedAt?",
    "member_updated": "roomId seq userId role? mutedUntil?",
    "room_history": "id? roomId messages seq hasMore typing readCursors",
    "caught_up": "id? roomId seq",
    "resync": "id? roomId oldestSeq seq reason",
    "messages_read": "roomId userId seq readAt",
    "messages_delivered": "roomId userId seq deliveredAt",
    "user_typing": "roomId userId username",
    "user_stopped_typing": "roomId userId username",
    "user_online": "userId username status statusMessage? lastSeen?",
    "user_offline": "userId username status statusMessage? lastSeen?",
    "user_status": "userId username status statusMessage? lastSeen?",
    "unread_dms": "messages total",
    "notification": "notification",
    "server_shutdown": "reason reconnectAfterMs",
}

#: What messages carry.
RECORDS = {
    records.Message: (
        "id roomId seq senderId senderName messageType content createdAt clientMessageId? replyTo? metadata? "
        "attachment? editedAt? deletedAt? pinned? reactions?"
    ),
    records.Attachment: "fileId url thumbnailUrl? mimeType size width? height? name",
    records.Reaction: "emoji count userIds",
    records.RoomEntry: "roomId name kind lastSeq lastReadSeq unread",
    protocol.Resume: "epoch rooms",
}

CODES = (
    "bad_message unauthenticated token_expired not_found not_a_member forbidden muted rate_limited content_too_long "
    "idempotency_mismatch conflict limit_reached file_rejected feature_disabled overloaded unavailable internal"
)
CLOSE_CODES = {
    "NORMAL": 1000, "BINARY": 1003, "NOT_UTF8": 1007, "TOO_BIG": 1009, "INTERNAL": 1011, "RESTART": 1012,
    "TRY_LATER": 1013, "TOKEN_EXPIRED": 4001, "SLOW_READER": 4008, "HEARTBEAT": 4009, "RATE_LIMITED": 4029,
    "AUTH_FAILED": 4501, "AUTH_TIMEOUT": 4502, "BAD_MESSAGES": 4503, "ACCOUNT_DISABLED": 4504,
    "CONNECTION_LIMIT": 4505, "SESSION_REVOKED": 4506,
}  # fmt: skip


def fields(struct: type[msgspec.Struct]) -> set[str]:
    """The names of a type's fields on the wire, those that may be absent with a question mark."""
    return {field.encode_name + ("" if field.required else "?") for field in msgspec.structs.fields(struct)}


def by_type(union: Any) -> dict[str, type[msgspec.Struct]]:
    return {struct.__struct_config__.tag: struct for struct in get_args(union)}


def example(struct: type[msgspec.Struct], *, full: bool) -> Any:
    """An object of a type, made up: with all of its fields, or with those only that must be there."""
    values = {
        field.encode_name: example_value(field.type, full=full)
        for field in msgspec.structs.fields(struct)
        if field.required or full
    }
    tag = struct.__struct_config__.tag
    return values if tag is None else {"type": tag, **values}


def example_value(kind: Any, *, full: bool) -> Any:
    return example_of(msgspec.inspect.type_info(kind), full=full)


def example_of(info: msgspec.inspect.Type, *, full: bool) -> Any:
    match info:
        case msgspec.inspect.Metadata(type=inner):
            return example_of(inner, full=full)
        case msgspec.inspect.UnionType(types=types):
            return example_of(next(each for each in types if not isinstance(each, msgspec.inspect.NoneType)), full=full)
        case msgspec.inspect.StructType(cls=cls):
            return example(cls, full=full)
        case msgspec.inspect.LiteralType(values=values):
            return values[0]
        case msgspec.inspect.ListType(item_type=item):
            return [example_of(item, full=full)]
        case msgspec.inspect.DictType():
            return {"key": 1}
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return 7
        case msgspec.inspect.FloatType():
            return 7.5
        case msgspec.inspect.RawType() | msgspec.inspect.AnyType():
            return {"raw": 1}
        case msgspec.inspect.StrType():
            return "text"
    raise AssertionError(f"no example for {info}")


def test_client_messages_are_those_of_the_contract_with_its_fields() -> None:
    expected = {tag: {"id?", *told.split()} for tag, told in CLIENT.items()}
    assert {tag: fields(struct) for tag, struct in by_type(ClientMessage).items()} == expected
    assert set(protocol.CLIENT_TYPES) == set(CLIENT)


def test_server_messages_are_those_of_the_contract_with_its_fields() -> None:
    expected = {tag: set(told.split()) for tag, told in SERVER.items()}
    assert {tag: fields(struct) for tag, struct in by_type(ServerMessage).items()} == expected


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_records_have_the_fields_of_the_contract(record: type[msgspec.Struct]) -> None:
    assert fields(record) == set(RECORDS[record].split())


@pytest.mark.parametrize("full", [True, False], ids=["full", "bare"])
@pytest.mark.parametrize("tag", CLIENT)
def test_client_message_is_decoded_from_its_wire_form(tag: str, *, full: bool) -> None:
    wire = example(by_type(ClientMessage)[tag], full=full)
    message = msgspec.json.decode(json.dumps(wire), type=ClientMessage)
    # what is as it would be without it is left out by a client
    assert json.loads(encode(message)) == {k: v for k, v in wire.items() if (k, v) != ("messageType", "text")}
    assert getattr(message, "message_type", "text") == wire.get("messageType", "text")


@pytest.mark.parametrize("tag", CLIENT)
def test_client_message_with_one_field_more_is_refused(tag: str) -> None:
    wire = example(by_type(ClientMessage)[tag], full=True) | {"senderId": "somebody else"}
    with pytest.raises(msgspec.ValidationError, match="unknown field `senderId`"):
        msgspec.json.decode(json.dumps(wire), type=ClientMessage)


@pytest.mark.parametrize("tag", CLIENT)
def test_client_message_without_one_of_its_fields_is_refused(tag: str) -> None:
    wire = example(by_type(ClientMessage)[tag], full=False)
    for name in set(wire) - {"type"}:
        with pytest.raises(msgspec.ValidationError, match=f"missing required field `{name}`"):
            msgspec.json.decode(json.dumps({key: wire[key] for key in wire if key != name}), type=ClientMessage)


@pytest.mark.parametrize("full", [True, False], ids=["full", "bare"])
@pytest.mark.parametrize("tag", SERVER)
def test_server_message_is_encoded_with_what_it_has_and_leaves_out_what_it_has_not(tag: str, *, full: bool) -> None:
    struct = by_type(ServerMessage)[tag]
    wire = example(struct, full=full)
    encoded = encode(msgspec.json.decode(json.dumps(wire), type=struct))
    assert json.loads(encoded) == wire
    assert encoded.startswith(b'{"type":"%s"' % tag.encode())
    assert b"null" not in encoded


@pytest.mark.parametrize("full", [True, False], ids=["full", "bare"])
@pytest.mark.parametrize("tag", SERVER)
def test_client_decodes_what_a_server_encoded(tag: str, *, full: bool) -> None:
    struct = by_type(ServerMessage)[tag]
    wire = example(struct, full=full)
    message = decode_server(json.dumps(wire | {"newField": 1}))
    assert type(message) is struct
    assert json.loads(encode(message)) == wire


def test_request_gets_its_id() -> None:
    assert with_id(protocol.LeaveRoom(room_id="r"), "7") == protocol.LeaveRoom(room_id="r", id="7")


def test_message_of_a_newer_server_is_kept_as_it_came() -> None:
    newer = {"type": "poll_closed", "roomId": "r", "seq": 4}
    assert decode_server(json.dumps(newer)) == Unknown("poll_closed", newer)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "{}", '{"type":1}', '{"type":"caught_up","roomId":"r"}'])
def test_what_is_no_message_of_a_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_server(text)


def test_metadata_is_json_where_it_is_sent_and_a_dict_where_it_arrives() -> None:
    bare = example(Message, full=False)
    sent = msgspec.structs.replace(msgspec.convert(bare, Message), metadata=msgspec.Raw(b'{"a":1}'))
    assert decode_message(encode(sent)).metadata == {"a": 1}
    assert decode_message(json.dumps(bare)).metadata is None


def test_error_codes_are_the_words_of_the_contract_with_a_status_each() -> None:
    assert set(get_args(errors.ErrorCode)) == set(CODES.split())
    assert set(errors.STATUS) == set(CODES.split())
    assert set(errors.TEMPORARY) <= set(CODES.split())


def test_close_codes_are_the_numbers_of_the_contract() -> None:
    assert {name: getattr(errors.CloseCode, name) for name in CLOSE_CODES} == CLOSE_CODES


def test_message_inside_an_event_is_found_without_decoding_it() -> None:
    message = Message(
        id="m", room_id="r", seq=1, sender_id="u", sender_name="ada", message_type="image", content='"}{',
        created_at="2026-01-31T12:00:00.123Z", metadata=msgspec.Raw(b'{"a":1}'),
        attachment=Attachment(file_id="f", url="/f", mime_type="image/png", size=1, name="f.png"),
        reactions=[Reaction(emoji="+", count=1, user_ids=["u"])],
    )  # fmt: skip
    for event in (protocol.NewMessage(message=message), protocol.NewDm(message=message)):
        assert json.loads(bytes(message_in(encode(event)))) == json.loads(encode(message))
    with pytest.raises(ValueError, match="no event"):
        message_in(encode(protocol.Ok()))
