"""Bodies and paging parameters of HTTP: what is no form is refused by a sentence that names the field."""

from __future__ import annotations

import pytest

from chatd.chat.forms import (
    MAX_OFFSET,
    MAX_PAGE,
    Login,
    MemberChangeForm,
    MessageForm,
    ProfileChange,
    Refresh,
    Registration,
    RoomForm,
    read_form,
    read_page,
)
from chatd.errors import Refusal


def form_refusal(body: bytes, form: type) -> str:
    with pytest.raises(Refusal) as caught:
        read_form(body, form)
    assert caught.value.code == "bad_message"
    return caught.value.detail


def page_refusal(**query: str) -> str:
    with pytest.raises(Refusal) as caught:
        read_page(query, default_limit=50)
    assert caught.value.code == "bad_message"
    return caught.value.detail


def test_form_reads_camel_case() -> None:
    assert read_form(b'{"refreshToken":"x"}', Refresh).refresh_token == "x"
    form = read_form(b'{"displayName":"Ada","oldPassword":"x"}', ProfileChange)
    assert (form.display_name, form.old_password, form.username) == ("Ada", "x", None)


def test_registration_leaves_absent_fields_to_the_rule_that_names_all_faults_at_once() -> None:
    form = read_form(b"{}", Registration)
    assert (form.email, form.username, form.password) == ("", "", "")


def test_room_is_public_and_empty_unless_said() -> None:
    form = read_form(b'{"name":"tea"}', RoomForm)
    assert (form.kind, form.topic, form.members) == ("public", None, [])


def test_message_is_a_text_unless_said() -> None:
    form = read_form(b'{"content":"hi"}', MessageForm)
    assert (form.message_type, form.metadata, form.client_message_id) == ("text", None, None)


@pytest.mark.parametrize(
    ("body", "form", "named"),
    [
        (b'{"email":"a@example.org"}', Login, "`password`"),
        (b'{"email":7,"password":"x"}', Login, "`email`"),
        (b'{"email":"a@example.org","password":"x","admin":true}', Login, "`admin`"),
        (b'{"name":""}', RoomForm, "`name`"),
        (b'{"name":"x","kind":"direct"}', RoomForm, "`kind`"),
        (b'{"name":"x","kind":"secret"}', RoomForm, "one of private, public"),
        (b'{"role":"king"}', MemberChangeForm, "one of member, moderator, owner, readonly"),
        (b'{"name":"x","members":["a",7]}', RoomForm, "`members"),
        (b'{"content":"x","messageType":"poem"}', MessageForm, "`messageType`"),
        (b'{"content":"x","metadata":[]}', MessageForm, "`metadata`"),
        (b'{"content":"x","clientMessageId":""}', MessageForm, "`clientMessageId`"),
    ],
)
def test_refusal_names_the_field(body: bytes, form: type, named: str) -> None:
    assert named in form_refusal(body, form)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"name=x"])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    assert "not JSON" in form_refusal(body, Login)


def test_half_of_a_surrogate_pair_is_found_in_its_field() -> None:
    assert "`email`: has half of" in form_refusal(b'{"email":"\\ud800","password":"x"}', Login)


@pytest.mark.parametrize("body", [b"[]", b"7", b'"x"', b"null", b"[" * 100_000])
def test_json_that_is_no_object_is_refused(body: bytes) -> None:
    assert form_refusal(body, Login).endswith(".")


def test_page_has_its_defaults() -> None:
    page = read_page({}, default_limit=50)
    assert page == (50, 0, None, None, None, "")


def test_page_is_read_from_its_parameters() -> None:
    page = read_page({"limit": "7", "beforeSeq": "9"}, default_limit=50)
    assert (page.limit, page.offset, page.before_seq, page.after_seq) == (7, 0, 9, None)
    assert read_page({"offset": "3"}, default_limit=50).offset == 3
    assert read_page({"afterSeq": "0"}, default_limit=50).after_seq == 0
    assert read_page({"lastMessageId": "x"}, default_limit=50).last_message_id == "x"
    assert read_page({"after": "x"}, default_limit=50).after_id == "x"


@pytest.mark.parametrize(
    "limit", ["0", str(MAX_PAGE + 1), "-1", "", "ten", "1.5", "٣", "1e3", "9" * 1000, "0" * 20 + "9" * 9]
)
def test_limit_is_a_number_from_1_to_100(limit: str) -> None:
    assert page_refusal(limit=limit) == "The parameter `limit` is a number from 1 to 100."


@pytest.mark.parametrize("name", ["offset", "beforeSeq", "afterSeq"])
def test_other_numbers_of_a_page_are_named_too(name: str) -> None:
    assert f"`{name}`" in page_refusal(**{name: "-1"})


@pytest.mark.parametrize("offset", [str(MAX_OFFSET + 1), "0" * 20 + "1", "0" * 5000 + "9" * 5000])
def test_offset_leads_only_so_far(offset: str) -> None:
    assert read_page({"offset": str(MAX_OFFSET)}, default_limit=50).offset == MAX_OFFSET == 10_000
    sentence = "The parameter `offset` is a number from 0 to 10000; further on use the cursors of the answer."
    assert page_refusal(offset=offset) == sentence


@pytest.mark.parametrize("cursor", ["beforeSeq", "afterSeq", "lastMessageId", "after"])
def test_offset_stands_beside_no_cursor(cursor: str) -> None:
    assert f"`{cursor}`, `offset`" in page_refusal(**{cursor: "1", "offset": "0"})


def test_a_page_has_one_cursor() -> None:
    assert "`beforeSeq`, `afterSeq`" in page_refusal(beforeSeq="1", afterSeq="1")
    assert "`lastMessageId`" in page_refusal(beforeSeq="1", lastMessageId="x")
