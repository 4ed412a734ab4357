"""What may stand in a message: lengths in characters, no control characters, no HTML, no unwanted word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.chat.content import check_client_message_id, check_content, check_metadata, hash_request
from chatd.chat.markup import escape_html, has_html, strip_html
from chatd.chat.word_filter import WordFilter, read_word_filter
from chatd.config import ConfigError, LimitOptions, MessageOptions
from chatd.errors import ErrorCode, Refusal
from tests.daemon import ON_BOTH_BACK_ENDS, open_daemon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon import Daemon, SignedIn

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


UNSEEN = (
    "\u200b", "\u200d\ufeff\u2060", "\u202e\u202c", "\u00ad", "\u3164 \uffa0", "\u115f\u1160", "\u2800", "\ufe0f",
    "\u034f", "\u180e", "\U000e0041\U000e007f", "\U0001d173", " \u200b\n",
)  # fmt: skip


@pytest.mark.parametrize("content", ["", " ", "\n\t \r\n", "\u3000\u00a0", *UNSEEN])
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


# HTML


@pytest.mark.parametrize(
    "text",
    [
        "a < b && c > d", "x<y", "<3", "List<String>", "Map<K, V>", "a <b && c> d", "if a<b: x>y", "1 <2> 3",
        "<-- here",        "<ada@example.org>", "<https://example.org>", "a <b & c> d", "i<n; i++",
        "<script", "&lt;b&gt;", "a -> b <- c",
    ],
)  # fmt: skip
def test_text_that_has_no_tag_is_none(text: str) -> None:
    assert not has_html(text)


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("<b>bold</b> & a < b", "bold & a < b"),
        ("<script>alert(1)</script>", ""),
        ("<SCRIPT >alert(1)</SCRIPT >hi", "hi"),
        ("<style>*{}</style>x", "x"),
        ("<img src=x onerror=alert(1)>", ""),
        ("<img src=x onerror=alert(1)", ""),
        ("<img/src=x/onerror=alert(1)>", ""),
        ("<svg/onload=alert(1)>", ""),
        ("<unknown onclick=alert(1)>x</unknown>", "x"),
        ("<a < onclick=alert(1)>x", "x"),
        ("<a href='https://example.org'>x</a>", "x"),
        ("<br/>one<br>two", "onetwo"),
        ("<!-- note -->x", "x"),
        ("<b>x</b> &lt;script&gt; &amp; &nbsp;", "x &lt;script&gt; &amp; &nbsp;"),
        ("<<b>script>alert(1)<<b>/script>", ""),
        ("<iframe><script>alert(1)</script></iframe>", ""),
        ("<textarea><b>x</b></textarea>", "x"),
        ("<b>\u200b\u202e 😀 é</b>", "\u200b\u202e 😀 é"),
    ],
)
def test_tags_are_left_out_and_nothing_is_left_that_runs(text: str, stripped: str) -> None:
    assert has_html(text)
    assert strip_html(text) == stripped
    assert not has_html(stripped)


def test_tags_in_tags_without_end_are_given_up() -> None:
    assert strip_html("<" * 30 + "b>" * 30) is None


@given(st.text(alphabet="<>/ab&;= \n\"'!-scriptonx", max_size=60))
def test_what_is_left_of_any_text_has_no_tag_and_nothing_escaped_twice(text: str) -> None:
    left = strip_html(text)
    assert left is None or not has_html(left)
    assert left is None or left.count("&") <= text.count("&")


@pytest.mark.parametrize("text", ["<a " * 3300, "<a" + " x" * 4900, "<x " + " on" * 3300, "</b" * 3300, "<!--" * 2500])
def test_texts_made_to_be_slow_are_looked_through_once(text: str) -> None:
    has_html(text)
    strip_html(text)


def test_html_can_be_escaped_instead() -> None:
    assert escape_html("<b>a & 'b'</b>") == "&lt;b&gt;a &amp; 'b'&lt;/b&gt;"


# Words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("darn it", "**** it"),
        ("DARN! darned, undarn, darn_", "****! darned, undarn, ****_"),
        ("\uff24\uff41\uff52\uff4e it", "**** it"),
        ("das ist MIST", "das ist ****"),
        ("so a bad  word, bad-word bad", "so a *********, ******** bad"),
        ("ÜBEL übel", "**** ****"),
        ("STRASSE", "*******"),
        ("", ""),
        ("nothing here", "nothing here"),
    ],
)
def test_words_of_the_list_become_stars(text: str, expected: str) -> None:
    assert WordFilter(["darn", "Mist", "bad word", "übel", "straße"]).apply(text) == expected


def test_words_of_the_list_can_be_refused() -> None:
    words = WordFilter(["darn"], refuses=True)
    assert words.apply("darned") == "darned"
    with pytest.raises(Refusal, match="not allowed here") as caught:
        words.apply("oh Darn")
    assert (caught.value.code, "Darn" in caught.value.detail) == ("bad_message", False)


def test_words_are_read_from_options_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "words"
    file.write_text("# not these\n\ndarn # mild\n  two words \n", "utf-8")
    words = read_word_filter(MessageOptions(word_filter=("blast",), word_filter_file=str(file)))
    assert words.apply("darn blast two words not these") == "**** ***** ********* not these"
    refusing = read_word_filter(MessageOptions(word_filter=("blast",), word_filter_action="refuse"))
    with pytest.raises(Refusal):
        refusing.apply("blast")


def test_a_list_that_cannot_be_read_keeps_the_daemon_from_starting(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ConfigError, match=r"word_filter_file: .*missing cannot be read \(No such file"):
        read_word_filter(MessageOptions(word_filter_file=str(missing)))
    missing.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        read_word_filter(MessageOptions(word_filter_file=str(missing)))
    with pytest.raises(ConfigError, match="has no letter or digit"):
        read_word_filter(MessageOptions(word_filter=("***",)))


# Through the doors


async def say(daemon: Daemon, user: SignedIn, room: str, content: str, **fields: Any) -> dict[str, Any]:
    """The message as it was stored, or the problem."""
    form = {"content": content, **fields}
    answer = await daemon.http("POST", f"/api/rooms/{room}/messages", form, token=user.token)
    said: dict[str, Any] = answer.json()
    return said


@ON_BOTH_BACK_ENDS
async def test_a_message_is_cleaned_whichever_door_it_comes_through(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, MESSAGES_WORD_FILTER="darn") as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        dirty = "<b>darn</b> a < b, see https://example.org/x"
        async with daemon.connect(ada) as client:
            sent = {"type": "send_message", "roomId": room, "content": dirty, "clientMessageId": "one"}
            ack = await client.ask(**sent)
            message = (await client.heard("new_message"))["message"]
            assert message["content"] == "**** a < b, see https://example.org/x"
            assert message["metadata"] == {"links": ["https://example.org/x"]}
            # A repeat is one of what was asked for, not of what became of it.
            assert (await client.ask(**sent))["messageId"] == ack["messageId"]
            other = await client.ask(**{**sent, "content": message["content"]})
            assert other["code"] == "idempotency_mismatch"
            for content in (
                "<script>alert(1)</script>",
                "<b> </b>",
                "javascript:alert(1)",
                "java<b></b>script:alert(1)",
            ):
                refused = await client.ask(**{**sent, "content": content, "clientMessageId": "two"})
                assert refused["code"] == "bad_message", content
        posted = await say(daemon, ada, room, dirty, metadata={"links": ["mine"], "a": 1})
        assert posted["content"] == message["content"]
        assert posted["metadata"] == {"a": 1, "links": ["https://example.org/x"]}
        code = await say(daemon, ada, room, "<script>darn()</script> javascript:x", messageType="code")
        assert code["content"] == "<script>****()</script> javascript:x"


@ON_BOTH_BACK_ENDS
async def test_what_nobody_can_see_is_neither_sent_nor_edited_into_a_message(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        posted = await say(daemon, ada, room, "hello")
        async with daemon.connect(ada) as client:
            for content in (*UNSEEN, "<b>\u200b</b>"):
                sent = await client.ask(type="send_message", roomId=room, content=content)
                edited = await client.ask(type="edit_message", messageId=posted["id"], content=content)
                assert (sent["code"], edited["code"]) == ("bad_message", "bad_message"), ascii(content)
                assert (await say(daemon, ada, room, content))["code"] == "bad_message"


@ON_BOTH_BACK_ENDS
async def test_characters_of_all_kinds_come_back_as_they_were_sent(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        contents = [
            "zero\u200bwidth\u200d\ufeff", "\u202eright to left\u202c مرحبا", "\U0001d54f" * 10_000,
            "e\u0301 é ﬁ", "a\u2028b\u2029c",
            "'; DROP TABLE messages; --", "@everyone " * 900, "\\u0000 is no NUL", "\ufffe\uffff\U0010ffff",
        ]  # fmt: skip
        for content in contents:
            assert (await say(daemon, ada, room, content))["content"] == content
        history = await daemon.http("GET", f"/api/rooms/{room}/messages", token=ada.token)
        assert [message["content"] for message in history.json()["messages"]] == contents
        assert (await say(daemon, ada, room, "\U0001d54f" * 10_001))["code"] == "content_too_long"
        for body in (
            b'{"content":"a\\ud800"}',
            b'{"content":"\\udc00b"}',
            b'{"content":"\xed\xa0\x80"}',
            b'{"content":"\xff"}',
        ):
            answer = await daemon.http("POST", f"/api/rooms/{room}/messages", body, token=ada.token)
            assert (answer.status, answer.json()["code"]) == (422, "bad_message"), body
            assert ("half of a surrogate pair" in answer.json()["detail"]) == (b"\\u" in body)


@ON_BOTH_BACK_ENDS
async def test_a_nul_character_is_refused_alike_whatever_field_it_is_in(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        nul = "a\x00b"
        async with daemon.connect(ada) as client:
            sent = {"type": "send_message", "roomId": room, "content": "x"}
            for field in ("roomId", "content", "replyTo", "clientMessageId", "metadata"):
                refused = await client.ask(**{**sent, field: {"a": nul} if field == "metadata" else nul})
                assert refused["code"] == "bad_message", field
                assert f"`{field}`: has a NUL character" in refused["message"]
            for message in ({"type": "join_room", "roomId": nul}, {"type": "get_history", "roomId": nul}):
                assert (await client.ask(**message))["code"] == "bad_message"
        for method, path, form in (
            ("POST", "/api/rooms", {"name": nul}),
            ("POST", "/api/rooms", {"name": "x", "members": [nul]}),
            ("POST", "/api/auth/login", {"email": nul, "password": "x"}),
            ("PATCH", "/api/users/me", {"displayName": nul}),
        ):
            answer = await daemon.http(method, path, form, token=ada.token)
            assert (answer.status, answer.json()["code"]) == (422, "bad_message"), path
        for path in ("/api/rooms?after=a%00b", "/api/rooms/a%00b", f"/api/rooms/{room}/messages?lastMessageId=%00"):
            answer = await daemon.http("GET", path, token=ada.token)
            assert (answer.status, answer.json()["code"]) == (400, "bad_message"), path


@pytest.mark.parametrize(("mode", "expected"), [("keep", "<b>x</b>"), ("escape", "&lt;b&gt;x&lt;/b&gt;")])
async def test_html_is_kept_or_escaped_where_the_operator_says_so(tmp_path: Path, mode: str, expected: str) -> None:
    async with open_daemon(tmp_path, MESSAGES_HTML=mode) as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        assert (await say(daemon, ada, room, "<b>x</b>"))["content"] == expected
        assert (await say(daemon, ada, room, "a < b & c"))["content"] == "a < b & c"


async def test_a_missing_word_list_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.RaisesGroup(ConfigError, flatten_subgroups=True):
        async with open_daemon(tmp_path / "data", MESSAGES_WORD_FILTER_FILE=str(tmp_path / "none")):
            pass
    assert not (tmp_path / "data").exists()
