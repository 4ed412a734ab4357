"""What may stand in a message: lengths in characters, no control characters, metadata within its bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.chat.content import check_client_message_id, check_content, check_metadata, hash_request
from chatd.config import LimitOptions
from chatd.errors import ErrorCode, Refusal

LIMITS = LimitOptions()
NO_LIMITS = LimitOptions(content_characters=0, metadata_bytes=0, client_message_id_bytes=0)


def content_refusal(content: str, limits: LimitOptions = LIMITS) -> tuple[ErrorCode, str]:
    with pytest.raises(Refusal) as caught:
        check_content(content, limits)
    return caught.value.code, caught.value.detail


def metadata_refusal(metadata: dict[str, Any]) -> tuple[ErrorCode, str]:
    with pytest.raises(Refusal) as caught:
        check_metadata(metadata, LIMITS)
    return caught.value.code, caught.value.detail


@pytest.mark.parametrize(
    "content",
    [
        "hello",
        " leading and trailing ",
        "two\nlines\r\n\tindented",
        "👩‍👩‍👧‍👦",
        "مرحبا",
        "a\u200db",
        "\ufeffx",
        "<b>x</b>",
        "'; --",
    ],
)
def test_what_people_write_is_stored_as_they_wrote_it(content: str) -> None:
    assert check_content(content, LIMITS) == content


def test_length_is_counted_in_characters_and_not_in_bytes() -> None:
    assert check_content("👍" * 10_000, LIMITS)
    code, detail = content_refusal("👍" * 10_001)
    assert code == "content_too_long"
    assert "10001 characters" in detail
    assert "at most 10000" in detail


def test_zero_means_no_limit() -> None:
    assert check_content("x" * 100_000, NO_LIMITS)
    assert check_metadata({"x": "y" * 100_000}, NO_LIMITS)
    check_client_message_id("x" * 1000, NO_LIMITS)


@pytest.mark.parametrize("content", ["", " ", "\n\t \r\n", "\u3000\u00a0"])
def test_message_without_anything_to_read_is_refused(content: str) -> None:
    code, detail = content_refusal(content)
    assert (code, "empty" in detail) == ("bad_message", True)


@given(st.characters(categories=["Cc"], exclude_characters="\t\n\r"))
def test_control_characters_are_refused_but_tab_and_new_line(character: str) -> None:
    code, detail = content_refusal(f"a{character}b")
    assert (code, "control characters" in detail) == ("bad_message", True)


def test_refusal_of_content_never_repeats_the_content() -> None:
    assert "hush" not in content_refusal("hush\x00")[1]
    assert "hush" not in content_refusal("hush" * 10_000)[1]


def test_metadata_is_kept_as_compact_json() -> None:
    assert check_metadata({"a": [1, {"b": None}], "ü": "👍"}, LIMITS) == '{"a":[1,{"b":null}],"ü":"👍"}'.encode()


def test_metadata_may_be_absent_or_empty() -> None:
    assert check_metadata(None, LIMITS) is None
    assert check_metadata({}, LIMITS) == b"{}"


def test_metadata_is_bounded_in_bytes_of_its_json() -> None:
    overhead = len('{"x":""}')
    assert check_metadata({"x": "y" * (4096 - overhead)}, LIMITS)
    code, detail = metadata_refusal({"x": "y" * (4097 - overhead)})
    assert (code, "4097 bytes" in detail) == ("bad_message", True)


@pytest.mark.parametrize(
    "metadata", [{"x": "\x00"}, {"\x00": 1}, {"x": [{"y": "a\x00"}]}], ids=["value", "key", "deep"]
)
def test_metadata_with_a_nul_character_is_refused(metadata: dict[str, Any]) -> None:
    assert metadata_refusal(metadata)[0] == "bad_message"


def test_metadata_may_speak_of_nul_characters() -> None:
    assert check_metadata({"x": "write \\u0000 like this"}, LIMITS)


def test_client_message_id_is_bounded_in_bytes() -> None:
    check_client_message_id(None, LIMITS)
    check_client_message_id("ä" * 32, LIMITS)
    with pytest.raises(Refusal, match="longer than 64 bytes"):
        check_client_message_id("ä" * 33, LIMITS)


def test_client_message_id_can_be_printed() -> None:
    with pytest.raises(Refusal, match="cannot be printed"):
        check_client_message_id("a\nb", LIMITS)


PARTS = st.lists(st.none() | st.text(), min_size=1, max_size=5)


@given(PARTS, PARTS)
def test_hash_tells_requests_apart(one: list[str | None], other: list[str | None]) -> None:
    assert (hash_request(*one) == hash_request(*other)) == (one == other)


def test_hash_knows_where_a_part_ends() -> None:
    assert hash_request("ab", "c") != hash_request("a", "bc")
    assert hash_request("a", None) != hash_request("a", "")
    assert hash_request("1:", "a") != hash_request("1:a", "")


def nested(levels: int) -> dict[str, Any]:
    value: Any = 1
    for level in range(levels - 1):
        value = {"n": value} if level % 2 else [value]
    return {"n": value}


def test_metadata_is_nested_up_to_its_bound() -> None:
    assert check_metadata(nested(16), LimitOptions()) is not None
    with pytest.raises(Refusal, match="16 levels"):
        check_metadata(nested(17), LimitOptions())
