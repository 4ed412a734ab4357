"""Forms with a file, out of their bytes: the same however these are cut, and nothing that is no such form."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.wire.multipart import BadForm, FileBegins, FileForm, clean_name

BOUNDARY = "----x-boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def form(content: bytes, *, name: str = "photo.jpg", field: str = "file", before: bytes = b"") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{field}"; filename="{name}"'
    head = f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: image/jpeg\r\n\r\n"
    return before + head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def read(body: bytes, cuts: list[int] | None = None, content_type: str = TYPE) -> tuple[str, bytes]:
    """The name and the bytes of the file of a body that arrives in these pieces. Raises `BadForm`."""
    reader = FileForm(content_type)
    names, parts = [], []
    for start, end in pairwise([0, *(cuts or []), len(body)]):
        for event in reader.feed(body[start:end]):
            if isinstance(event, FileBegins):
                names.append(event.name)
            else:
                parts.append(event)
    reader.end()
    [name] = names
    return name, b"".join(parts)


#: Text that is nearly made of boundaries.
tricky = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"-", BOUNDARY.encode(), BOUNDARY[:-1].encode(), b"\0", b"abc"]),
    max_size=30,
).map(b"".join)


@given(content=tricky | st.binary(max_size=300), data=st.data())
def test_a_file_is_the_same_however_its_bytes_are_cut(content: bytes, data: st.DataObject) -> None:
    if f"\r\n--{BOUNDARY}".encode() in b"\r\n" + content:
        return
    body = form(content)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    assert read(body, cuts) == ("photo.jpg", content)


def test_a_file_that_arrives_byte_by_byte_and_cut_at_every_place_is_whole() -> None:
    content = b"a\r\n--" + BOUNDARY[:-1].encode() + b"\r\n\r\n--\r\r\n-"
    body = form(content)
    assert read(body, list(range(1, len(body)))) == ("photo.jpg", content)
    for cut in range(len(body)):
        assert read(body, [cut]) == ("photo.jpg", content)


@given(body=tricky | st.binary(max_size=200), data=st.data())
def test_whatever_arrives_is_a_form_or_a_bad_one_alike_however_it_is_cut(body: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    mutated = form(b"abc")[: data.draw(st.integers(0, 120))] + body
    whole = cut = None
    with contextlib.suppress(BadForm, ValueError):
        whole = read(mutated)
    with contextlib.suppress(BadForm, ValueError):
        cut = read(mutated, cuts)
    assert whole == cut


def test_a_form_that_breaks_off_anywhere_is_refused() -> None:
    body = form(b"content")
    for end in range(len(body) - 2):
        with pytest.raises((BadForm, ValueError)):
            read(body[:end])


def test_other_fields_are_read_over() -> None:
    other = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="caption"\r\n\r\nhello\r\n'.encode()
    assert read(form(b"content", before=other)) == ("photo.jpg", b"content")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (form(b"a", field="other"), "no field `file`"),
        (form(b"a").removesuffix(b"--\r\n") + b"\r\n" + form(b"b").split(b"\r\n", 1)[1], "two fields"),
        (b"", "no complete"),
        (b"{}", "no complete"),
        (b"x" * 70_000, "too much beside"),
        (form(b"a").replace(b"\r\n", b"\n"), "no complete"),
    ],
)
def test_what_is_no_form_with_one_file_is_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(BadForm, match=sentence):
        read(body)


def test_much_beside_a_file_is_refused_and_a_large_file_is_not() -> None:
    long = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="caption"\r\n\r\n'.encode() + b"x" * 70_000 + b"\r\n"
    with pytest.raises(BadForm, match="too much beside"):
        read(form(b"content", before=long))
    assert len(read(form(b"y" * 300_000), list(range(0, 300_000, 1000)))[1]) == 300_000


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=x",
     f"multipart/form-data; boundary={'x' * 71}", "multipart/form-data; boundary=é"],
)  # fmt: skip
def test_a_content_type_that_is_none_of_a_form_is_refused(content_type: str) -> None:
    with pytest.raises(BadForm, match="multipart/form-data"):
        FileForm(content_type)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo.jpg", "photo.jpg"),
        ("a\x00b\r\n.jpg", "ab.jpg"),
        ("фото 写真 🐈.png", "фото 写真 🐈.png"),
        ("invoice\u202egpj.exe", "invoicegpj.exe"),
        ("..", "file"),
        ("", "file"),
        ("   ", "file"),
        ("x" * 300 + ".jpeg", "x" * 189 + ".jpeg"),
        ("x" * 300, "x" * 200),
        ("a\ud800b", "ab"),
    ],
)
def test_the_name_of_a_file_is_its_last_part_without_what_no_name_has(given: str, kept: str) -> None:
    assert clean_name(given) == kept


def test_a_name_in_any_alphabet_arrives() -> None:
    assert read(form(b"x", name="фото.jpg"))[0] == "фото.jpg"
