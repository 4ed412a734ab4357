"""Links in what is written: which are found, where they end, which are refused, and whose list counts."""

from __future__ import annotations

from typing import Any

import pytest

from chatd.chat.links import MAX_LINKS, check_links, find_links, with_links
from chatd.errors import Refusal


@pytest.mark.parametrize(
    ("text", "links"),
    [
        ("see https://example.org/a?b=c#d.", ["https://example.org/a?b=c#d"]),
        ("(https://en.wikipedia.org/wiki/A_(b))", ["https://en.wikipedia.org/wiki/A_(b)"]),
        ("<https://example.org/>, HTTP://EXAMPLE.ORG", ["https://example.org/", "HTTP://EXAMPLE.ORG"]),
        ("www.example.org is one", ["http://www.example.org"]),
        ("mailto:ada@example.org", ["mailto:ada@example.org"]),
        ("http://localhost:3000/x", ["http://localhost:3000/x"]),
        ("https://пример.рф/путь", ["https://пример.рф/путь"]),
        ("https://a.org https://a.org", ["https://a.org"]),
        ("a: b, https:// and http:// alone", []),
        ("setup.py, README.md, e.g. example.org", []),
        ("xhttp://example.org", []),
        ("", []),
    ],
)
def test_links_are_found_where_text_says_that_it_is_one(text: str, links: list[str]) -> None:
    assert find_links(text) == links


def test_at_most_so_many_links_are_listed() -> None:
    links = [f"https://example.org/{n}" for n in range(MAX_LINKS + 5)]
    assert find_links(" ".join(links)) == links[:MAX_LINKS]


@pytest.mark.parametrize(
    "text", ["http://" * 1400, "www.a." * 1600, "http://" + "a." * 4900, "mailto:" * 1400, "http://a@" * 1100]
)
def test_texts_made_to_be_slow_have_few_links(text: str) -> None:
    assert len(find_links(text)) <= MAX_LINKS


@pytest.mark.parametrize(
    "text",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\nscript:alert(1)",
        "java\tscript\r:alert(1)",
        "look: [here](javascript:alert(1))",
        "vbscript:msgbox(1)",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:,x",
        "DATA:text/html,<b>",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "blob:https://example.org/x",
        "filesystem:http://example.org/x",
        "view-source:https://example.org",
    ],
)
def test_links_that_would_run_something_are_refused(text: str) -> None:
    with pytest.raises(Refusal, match="may harm") as caught:
        check_links(text)
    assert caught.value.code == "bad_message"


@pytest.mark.parametrize(
    "text",
    [
        "javascript: the good parts",
        "data: see below",
        "file: report.txt",
        "profile:/x and metadata:text/html,x",
        "https://example.org/?next=javascript:x",
        "time is 12:30",
        "{data:1}",
        "https://example.org/data:text/html,x",
    ],
)
def test_prose_about_such_links_is_none(text: str) -> None:
    check_links(text)


@pytest.mark.parametrize(
    ("metadata", "content", "message_type", "expected"),
    [
        (None, "hello", "text", None),
        ({"a": 1}, "hello", "text", {"a": 1}),
        ({"a": 1, "links": ["mine"]}, "hello", "text", {"a": 1}),
        ({"links": ["mine"]}, "hello", "code", {}),
        (None, "https://a.org", "text", {"links": ["https://a.org"]}),
        ({"a": 1, "links": "mine"}, "https://a.org", "image", {"a": 1, "links": ["https://a.org"]}),
        (None, "https://a.org", "code", None),
    ],
)
def test_the_list_of_links_is_the_servers(
    metadata: dict[str, Any] | None, content: str, message_type: str, expected: dict[str, Any] | None
) -> None:
    assert with_links(metadata, content, message_type) == expected
