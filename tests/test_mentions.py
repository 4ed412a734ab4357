"""Who is named in a text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.chat.mentions import mentioned


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("@ada", ["ada"]),
        ("hello @Ada, and @BOB!", ["ada", "bob"]),
        ("(@ada) @ada @ADA", ["ada"]),
        ("@ada\u200b and \u202e@bob", ["ada", "bob"]),
        ("@Straße @ÉMILE", ["strasse", "émile"]),
        ("@ada_l @ada", ["ada_l", "ada"]),
        ("line one\n@ada", ["ada"]),
        ("ada@example.org", []),
        ("@@ada", []),
        ("@ab", []),
        ("@" + "a" * 51, []),
        ("@" + "a" * 50, ["a" * 50]),
        ("@here @all @Everyone", []),
        ("@ ada", []),
        ("", []),
    ],
)
def test_names_are_words_behind_an_at_sign(content: str, names: list[str]) -> None:
    assert mentioned(content, at_most=20) == names


def test_no_more_are_mentioned_than_may_be() -> None:
    flood = " ".join(f"@user{number}" for number in range(1000))
    assert mentioned(flood, at_most=20) == [f"user{number}" for number in range(20)]
    assert mentioned(flood, at_most=0) == []


@given(st.text())
def test_any_text_is_looked_through(content: str) -> None:
    for name in mentioned(content, at_most=20):
        assert name in content.casefold()
