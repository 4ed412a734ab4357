"""WebSocket frames as bytes: what is built, what is understood, and what ends a connection with which code."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from chatd.errors import CloseCode, Disconnect
from chatd.wire.frames import (
    MAX_HEAD_BYTES,
    BadUpgrade,
    Closed,
    FrameReader,
    Handshake,
    Ping,
    Upgrade,
    close_frame,
    ping_frame,
    plain_response,
    pong_frame,
    text_frame,
)
from tests.faults import FAULTS
from tests.rawclient import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close,
    frame,
    message,
    take_frames,
    upgrade_request,
)

MAX_BYTES = 1000


def read(data: bytes, *, max_bytes: int = MAX_BYTES, step: int | None = None) -> list[str | Ping | Closed]:
    """What a reader makes of these bytes, given at once or in steps."""
    reader = FrameReader(max_message_bytes=max_bytes)
    parts = [data] if step is None else [data[at : at + step] for at in range(0, len(data), step)]
    return [item for part in parts for item in reader.receive(part)]


def fault(data: bytes, **options: int) -> int:
    """The close code that these bytes lead to."""
    with pytest.raises(Disconnect) as caught:
        read(data, **options)
    return caught.value.code


# Frames that leave


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_text_frame_of_any_size_is_read_back_by_a_client(size: int) -> None:
    (found,) = take_frames(text_frame(b"x" * size))
    assert found.opcode == TEXT
    assert found.payload == b"x" * size


def test_ping_and_pong_frames_carry_their_payload() -> None:
    found = take_frames(ping_frame() + ping_frame(b"a") + pong_frame(b"b" * 125))
    assert [(each.opcode, each.payload) for each in found] == [(PING, b""), (PING, b"a"), (PONG, b"b" * 125)]


def test_close_frame_holds_code_and_reason_cut_at_a_character() -> None:
    (short,) = take_frames(close_frame(4008, "read faster"))
    assert (short.close_code, short.payload[2:]) == (4008, b"read faster")
    (long,) = take_frames(close_frame(4008, "é" * 100))
    assert long.payload[2:] == ("é" * 61).encode()


# Messages that arrive


@given(st.text(max_size=200), st.integers(min_value=1, max_value=50))
def test_text_arrives_whole_however_the_bytes_are_cut(text: str, step: int) -> None:
    assert read(frame(TEXT, text.encode()), step=step) == [text]


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8), st.integers(min_value=1, max_value=30))
def test_fragments_become_one_message_even_when_cut_within_a_character(cuts: list[bytes], step: int) -> None:
    payload = "".join(chr(0x20AC + byte) for cut in cuts for byte in cut).encode()
    size = max(1, len(payload) // len(cuts))
    parts = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
    frames = [
        frame(TEXT if index == 0 else CONTINUATION, part, fin=index == len(parts) - 1)
        for index, part in enumerate(parts)
    ]
    assert read(b"".join(frames), step=step) == [payload.decode()]


def test_ping_between_fragments_is_seen_before_the_message_is_whole() -> None:
    data = frame(TEXT, b"he", fin=False) + frame(PING, b"now") + frame(CONTINUATION, b"llo")
    assert read(data) == [Ping(b"now"), "hello"]


def test_pong_is_nothing_but_a_sign_of_life() -> None:
    assert read(frame(PONG, b"x") + frame(TEXT, b"after")) == ["after"]


def test_message_of_the_greatest_size_passes_and_a_byte_more_does_not() -> None:
    assert read(frame(TEXT, b"x" * MAX_BYTES)) == ["x" * MAX_BYTES]
    assert fault(frame(TEXT, b"x" * (MAX_BYTES + 1))) == CloseCode.TOO_BIG


def test_size_is_counted_in_bytes_over_all_fragments_and_anew_for_each_message() -> None:
    half = "é".encode() * (MAX_BYTES // 4)
    two_halves = frame(TEXT, half, fin=False) + frame(CONTINUATION, half)
    assert len(read(two_halves * 3)) == 3
    assert (
        fault(frame(TEXT, half, fin=False) + frame(CONTINUATION, half, fin=False) + frame(CONTINUATION, b"x")) == 1009
    )


def test_oversized_frame_is_given_up_before_it_has_arrived_whole() -> None:
    begun = frame(TEXT, b"x" * (MAX_BYTES + 1), claimed=2**40)
    assert fault(begun) == CloseCode.TOO_BIG


def test_endless_empty_fragments_take_no_memory() -> None:
    reader = FrameReader(max_message_bytes=MAX_BYTES)
    empty = frame(CONTINUATION, b"", fin=False)
    assert list(reader.receive(frame(TEXT, b"a", fin=False))) == []
    tracemalloc.start()
    try:
        for _ in range(10_000):
            assert list(reader.receive(empty)) == []
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
    assert list(reader.receive(frame(CONTINUATION, b"b"))) == ["ab"]


#: A frame of any kind, most of them as they should be.
FRAMES = st.builds(
    frame,
    st.sampled_from([TEXT] * 6 + [PONG, PING, CONTINUATION, BINARY]),
    st.one_of(
        st.sampled_from([b"x" * size for size in (0, 1, 124, 125, 126, 127, 400)]),
        st.text(max_size=60).map(str.encode),
        st.binary(max_size=8),
    ),
    fin=st.sampled_from([True, True, True, False]),
    reserved=st.sampled_from([0] * 20 + [4]),
    mask=st.sampled_from([b"\x00\x00\x00\x00", b"\x80\x01\xfe\x7f", b"chat", b"chat", None]),
    length_bytes=st.sampled_from([None] * 10 + [2, 8]),
)


def parsed(data: bytes) -> tuple[list[str | bytes], int | None]:
    """What wsproto alone makes of these bytes: texts and the payloads of pings, and the code of a fault."""
    parser = FrameProtocol(client=False, extensions=[])
    parser.receive_bytes(data)
    found: list[str | bytes] = []
    parts: list[str] = []
    try:
        for each in parser.received_frames():
            if each.opcode is Opcode.BINARY:
                return found, CloseCode.BINARY
            if each.opcode is Opcode.PING:
                assert isinstance(each.payload, bytes)
                found.append(each.payload)
            elif each.opcode is Opcode.TEXT:
                assert isinstance(each.payload, str)
                parts.append(each.payload)
                if each.message_finished:
                    found.append("".join(parts))
                    parts = []
    except ParseFailed as failed:
        return found, int(failed.code)
    return found, None


@given(st.lists(FRAMES, max_size=8), st.one_of(st.none(), st.integers(min_value=1, max_value=200)))
def test_bytes_mean_what_they_mean_to_wsproto_however_they_are_cut(frames: list[bytes], step: int | None) -> None:
    reader = FrameReader(max_message_bytes=MAX_BYTES * 10)
    data = b"".join(frames)
    step = step or max(1, len(data))
    found: list[str | bytes] = []
    code = None
    try:
        for at in range(0, len(data), step):
            for item in reader.receive(data[at : at + step]):
                assert not isinstance(item, Closed)
                found.append(item.payload if isinstance(item, Ping) else item)
    except Disconnect as disconnect:
        code = disconnect.code
    assert (found, code) == parsed(data)


def test_what_is_longer_than_two_bytes_of_length_tell_is_read_and_what_follows_it() -> None:
    texts = ["x" * size for size in (65_535, 65_536, 70_000)]
    data = b"".join(frame(TEXT, text.encode()) + frame(TEXT, b"next") for text in texts)
    expected = [each for text in texts for each in (text, "next")]
    for step in (None, 16 * 1024, 1000):
        assert read(data, max_bytes=100_000, step=step) == expected


def test_reader_of_whole_messages_takes_no_memory_for_them() -> None:
    """Ten thousand connections wait for their next message; a parser for each would take 3 KB."""
    data = frame(TEXT, b"a" * 500) + frame(PING, b"b") + frame(PONG)
    tracemalloc.start()
    try:
        readers = [FrameReader(max_message_bytes=MAX_BYTES) for _ in range(100)]
        for reader in readers:
            assert list(reader.receive(data)) == ["a" * 500, Ping(b"b")]
        assert tracemalloc.get_traced_memory()[0] < 100 * 400
    finally:
        tracemalloc.stop()


def test_close_frame_is_the_last_thing_that_is_read() -> None:
    assert read(close(1000, b"bye") + frame(TEXT, b"late")) == [Closed(1000, "bye")]


def test_close_frame_without_a_code_reads_as_1005() -> None:
    assert read(frame(CLOSE)) == [Closed(1005, "")]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4000, 4999])
def test_close_codes_that_may_be_sent_are_read(code: int) -> None:
    assert read(close(code)) == [Closed(code, "")]


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("step", [None, 1])
def test_fault_of_the_peer_ends_with_its_code(name: str, step: int | None) -> None:
    data, code = FAULTS[name]
    with pytest.raises(Disconnect) as caught:
        read(data, step=step)
    assert caught.value.code == code
    assert caught.value.reason


@given(st.binary(max_size=300), st.integers(min_value=1, max_value=300))
def test_any_bytes_are_read_or_end_with_a_close_code(data: bytes, step: int) -> None:
    code = None
    try:
        read(data, step=step)
    except Disconnect as disconnect:
        code = disconnect.code
    assert code in {None, 1002, 1003, 1007, 1009}


# The opening handshake


def upgrade(data: bytes) -> Upgrade:
    found = Handshake().receive(data)
    assert found is not None
    return found


def refusal(data: bytes) -> bytes:
    with pytest.raises(BadUpgrade) as caught:
        Handshake().receive(data)
    return caught.value.answer


def test_upgrade_gives_target_host_origin_and_token() -> None:
    found = upgrade(upgrade_request("chat.example.org", {"Origin": "https://a.org", "Authorization": "bearer  t0k "}))
    assert (found.target, found.host, found.origin, found.bearer_token) == (
        "/chat",
        "chat.example.org",
        "https://a.org",
        "t0k",
    )


@pytest.mark.parametrize("value", [None, "Basic dXNlcg==", "Bearer", "Bearer  "])
def test_upgrade_without_a_bearer_token_has_none(value: str | None) -> None:
    assert upgrade(upgrade_request("x", {"Authorization": value})).bearer_token is None


def test_header_that_comes_in_several_lines_is_joined() -> None:
    request = upgrade_request("x", {"X-Forwarded-For": "6.6.6.6\r\nX-Forwarded-For: 203.0.113.9"})
    assert upgrade(request).headers["x-forwarded-for"] == "6.6.6.6, 203.0.113.9"


def test_head_that_comes_byte_by_byte_is_read_and_what_follows_is_kept() -> None:
    handshake = Handshake()
    request = upgrade_request("x")
    assert [handshake.receive(request[at : at + 1]) for at in range(len(request) - 1)] == [None] * (len(request) - 1)
    assert handshake.receive(request[-1:] + message(type="ping")) is not None
    assert handshake.trailing_data == message(type="ping")


def test_acceptance_proves_that_the_key_was_read() -> None:
    handshake = Handshake()
    handshake.receive(upgrade_request("x"))
    answer = handshake.accept().lower()
    assert answer.startswith(b"http/1.1 101 ")
    assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in answer  # RFC 6455 section 1.3


def test_offered_extensions_and_protocols_are_not_taken() -> None:
    handshake = Handshake()
    handshake.receive(
        upgrade_request("x", {"Sec-WebSocket-Extensions": "permessage-deflate", "Sec-WebSocket-Protocol": "chat"})
    )
    answer = handshake.accept().lower()
    assert b"sec-websocket-extensions" not in answer
    assert b"sec-websocket-protocol" not in answer


def test_rejection_is_a_whole_answer_in_plain_text() -> None:
    handshake = Handshake()
    handshake.receive(upgrade_request("x"))
    head, _, body = handshake.reject(403, "Not you.", headers=[("Retry-After", "7")]).lower().partition(b"\r\n\r\n")
    assert head.startswith(b"http/1.1 403 ")
    for line in (
        b"retry-after: 7",
        b"connection: close",
        b"content-type: text/plain; charset=utf-8",
        b"content-length: 9",
    ):
        assert line in head.split(b"\r\n")
    assert body == b"not you.\n"


#: Requests that are no upgrade, and the status that they are answered with.
BAD_REQUESTS: dict[str, tuple[bytes, int]] = {
    "plain GET": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "POST": (upgrade_request("x").replace(b"GET", b"POST"), 400),
    "HTTP/1.0": (upgrade_request("x").replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "no host": (upgrade_request("x", {"Host": None}), 400),
    "no key": (upgrade_request("x", {"Sec-WebSocket-Key": None}), 400),
    "no upgrade": (upgrade_request("x", {"Upgrade": None}), 400),
    "no connection": (upgrade_request("x", {"Connection": None}), 400),
    "other upgrade": (upgrade_request("x", {"Upgrade": "h2c"}), 400),
    "no version": (upgrade_request("x", {"Sec-WebSocket-Version": None}), 400),
    "old version": (upgrade_request("x", {"Sec-WebSocket-Version": "8"}), 426),
    "large head": (upgrade_request("x", {"X-Large": "x" * MAX_HEAD_BYTES}), 431),
    "endless head": (b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_HEAD_BYTES, 431),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_request_that_is_no_upgrade_is_told_why(name: str) -> None:
    data, status = BAD_REQUESTS[name]
    answer = refusal(data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Length: %d" % len(body) in head
    assert body
    assert (b"Sec-WebSocket-Version: 13" in head) == (status == 426)


@given(st.binary(max_size=400))
def test_random_bytes_for_a_head_are_refused(data: bytes) -> None:
    assert refusal(data + b"\r\n\r\n").startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 426 "))


def test_plain_response_tells_its_length_and_closes() -> None:
    head, _, body = plain_response(503, "Later.", extra=b"Retry-After: 3\r\n").partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    assert status == b"HTTP/1.1 503 Service Unavailable"
    assert {b"Content-Length: 7", b"Connection: close", b"Retry-After: 3"} <= set(headers)
    assert body == b"Later.\n"
