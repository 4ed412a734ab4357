"""Text frames as messages, and faulty ones as sentences for somebody at a keyboard."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.decoding import BadMessage, decode
from chatd.protocol import CLIENT_TYPES, JoinRoom, Ping, SendMessage

DEEP = "[" * 20_000 + "]" * 20_000


def fault(text: str) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        decode(text)
    assert caught.value.code == "bad_message"
    return caught.value


def test_message_is_decoded_with_its_fields_and_id() -> None:
    assert decode('{"type":"ping"}') == Ping()
    assert decode('{"roomId":"r","type":"join_room","id":"7","afterSeq":3}') == JoinRoom(
        room_id="r", after_seq=3, id="7"
    )


def test_absent_and_null_fields_are_alike() -> None:
    text = '{"type":"send_message","roomId":"r","content":"x","replyTo":null,"metadata":null,"clientMessageId":null}'
    assert decode(text) == SendMessage(room_id="r", content="x")


#: A faulty text, and what the sentence about it must name.
FAULTS: dict[str, tuple[str, list[str]]] = {
    "nothing": ("", ["not JSON"]),
    "words": ("hello", ["not JSON", '{"type":"ping"}']),
    "half": ('{"type":"ping"', ["not JSON"]),
    "two": ('{"type":"ping"}{"type":"ping"}', ["not JSON"]),
    "list": ("[]", ["one JSON object"]),
    "number": ("7", ["one JSON object"]),
    "null": ("null", ["one JSON object"]),
    "no type": ("{}", ["`type`", "missing"]),
    "type is null": ('{"type":null}', ["`type`", "wrong"]),
    "type is a number": ('{"type":7}', ["`type`", "wrong"]),
    "type is a list": ('{"type":["ping"]}', ["`type`", "wrong"]),
    "unknown type": ('{"type":"shout"}', ["`shout`", *CLIENT_TYPES]),
    "unknown type with quotes in it": ('{"type":"it\'s `odd`"}', ["it's `odd`", "ping"]),
    "missing field": ('{"type":"join_room"}', ["`roomId`", "`join_room`", "missing"]),
    "extra field": ('{"type":"ping","colour":"red"}', ["`colour`", "`ping`", "leave it out"]),
    "snake case": ('{"type":"join_room","room_id":"r"}', ["`room_id`", "leave it out", "fields are: roomId, "]),
    "wrong type": ('{"type":"join_room","roomId":7}', ["`roomId`", "`join_room`", "expected str, got int"]),
    "empty id": ('{"type":"join_room","roomId":""}', ["`roomId`", "length >= 1"]),
    "too large": ('{"type":"get_history","roomId":"r","limit":101}', ["`limit`", "<= 100"]),
    "too small": ('{"type":"get_history","roomId":"r","afterSeq":-1}', ["`afterSeq`", ">= 0"]),
    "fraction": ('{"type":"get_history","roomId":"r","afterSeq":1.5}', ["`afterSeq`", "int"]),
    "huge number": ('{"type":"get_history","roomId":"r","afterSeq":1e400}', ["`afterSeq`"]),
    "not one of": ('{"type":"update_status","status":"asleep"}', ["`status`", "asleep", "one of away, busy, online"]),
    "not one of, or absent": (
        '{"type":"send_message","roomId":"r","content":"x","messageType":"video"}',
        ["`messageType`", "video", "one of code, file, image, text"],
    ),
    "inner field missing": ('{"type":"authenticate","token":"t","resume":{"epoch":"e"}}', ["`rooms`", "`resume`"]),
    "inner field extra": (
        '{"type":"authenticate","token":"t","resume":{"epoch":"e","rooms":{},"x":1}}',
        ["`x`", "`resume`", "leave it out"],
    ),
    "inner value wrong": (
        '{"type":"authenticate","token":"t","resume":{"epoch":"e","rooms":{"r":"1"}}}',
        ["`resume.rooms"],
    ),
    "half a surrogate pair": ('{"type":"send_message","roomId":"r","content":"\\ud800"}', ["`content`", "surrogate"]),
    "half a surrogate pair in a field of many": (
        json.dumps({f"x{number}": "\ud83d" for number in range(1000)} | {"x" * 65: "\udc00", "y\ud800": "\ud800"}),
        ["`x4`", "surrogate"],
    ),
    "half a surrogate pair in a name": (json.dumps({"x\ud800": 1}), ["not JSON"]),
    "half a surrogate pair in no JSON": ('{"x":"\\ud800"', ["not JSON"]),
    "half a surrogate pair in no object": ('["\\ud800"]', ["JSON object"]),
    "nested too deeply": (
        '{"type":"send_message","roomId":"r","content":"x","metadata":{"a":' + DEEP + "}}",
        ["nested"],
    ),
    "nested too deeply behind another fault": ('{"type":"ping","x":1,"y":' + DEEP + "}", ["`x`"]),
    "not JSON behind another fault": ('{"type":"ping","x":1,', []),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_told_in_a_sentence_that_names_it(name: str) -> None:
    text, named = FAULTS[name]
    detail = fault(text).detail
    assert [part for part in named if part not in detail] == []
    assert detail[0].isupper()
    assert detail.endswith(".")
    assert "$" not in detail
    assert len(detail) < 600


def test_faulty_message_keeps_its_id_where_it_can_be_read() -> None:
    assert fault('{"type":"ping","id":"7","x":1}').request_id == "7"
    assert fault('{"type":"shout","id":"7"}').request_id == "7"
    assert fault('{"type":"ping","id":7}').request_id is None
    assert fault('{"type":"ping","id":"7"').request_id is None
    assert fault('{"type":"send_message","id":"7","roomId":"r","content":"\\ud800"}').request_id == "7"
    assert fault('{"type":"ping","id":"\\ud800"}').request_id is None
    # More is wrong than is named.
    assert fault(json.dumps(dict.fromkeys("abcde", "\ud83d") | {"id": "\ud83d"})).request_id is None
    assert fault('{"type":"ping","id":"é' + "x" * 63 + '"}').request_id is None


def test_id_is_counted_in_bytes() -> None:
    assert decode(json.dumps({"type": "ping", "id": "é" * 32}, ensure_ascii=False)).id == "é" * 32
    assert "64 bytes" in fault(json.dumps({"type": "ping", "id": "é" * 33}, ensure_ascii=False)).detail
    assert "`id`" in fault(json.dumps({"type": "ping", "id": "x" * 65})).detail


def test_long_names_of_a_stranger_do_not_come_back_whole() -> None:
    assert len(fault(json.dumps({"type": "x" * 60_000})).detail) < 600
    assert len(fault(json.dumps({"type": "ping", "x" * 60_000: 1})).detail) < 600


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["type", "id", "roomId", "content", "token", "resume", "metadata", "limit", "x"])


@given(st.text() | st.dictionaries(names, st.sampled_from(CLIENT_TYPES) | values, max_size=6).map(json.dumps))
def test_any_text_is_a_message_or_a_bad_message(text: str) -> None:
    try:
        decode(text)
    except BadMessage as refusal:
        detail = refusal.detail
    else:
        detail = "It is one."
    assert detail.endswith(".")
