"""Named queries: how a file is read, and what every query of chatd keeps to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chatd.store import queries as queries_module
from chatd.store.queries import Queries, Query, parse
from chatd.store.sqlfiles import sql_root

if TYPE_CHECKING:
    from chatd.store.database import Transaction
    from tests.stores import Store

FILE = """-- What this file is about.

-- name: first
-- A comment that says why; with a semicolon.
SELECT a FROM b
WHERE c = :c AND d > :d AND c <> :c;

-- name: second
DELETE FROM b WHERE e = :long_name AND f = '10::text';
"""


def test_a_file_is_read_into_its_queries_without_the_comments() -> None:
    first, second = parse("things", FILE)
    assert (first.name, first.text) == ("things.first", "SELECT a FROM b\nWHERE c = :c AND d > :d AND c <> :c")
    assert second.name == "things.second"
    assert second.text.startswith("DELETE FROM b")


def test_the_parameters_of_a_query_are_named_once_in_order() -> None:
    first, second = parse("things", FILE)
    assert first.parameters == ("c", "d")
    assert second.parameters == ("long_name",)


def test_a_name_that_appears_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="things: a name appears twice"):
        parse("things", FILE + FILE)


def test_a_file_without_names_holds_no_query() -> None:
    assert parse("things", "SELECT 1;") == []


def test_a_dialects_own_text_wins_over_the_shared_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "queries"
    folder.mkdir()
    (folder / "things.sql").write_text("-- name: a\nSELECT 1;\n-- name: b\nSELECT 2;\n")
    (folder / "things.sqlite.sql").write_text("-- name: b\nSELECT 'sqlite';\n-- name: c\nSELECT 3;\n")
    (folder / "things.postgres.sql").write_text("-- name: b\nSELECT 'postgres';\n")
    (folder / "notes.txt").write_text("-- name: x\n")
    monkeypatch.setattr(queries_module, "sql_root", lambda: tmp_path)
    assert [query.text for query in map(Queries("sqlite").__getitem__, Queries("sqlite"))] == [
        "SELECT 1", "SELECT 'sqlite'", "SELECT 3",
    ]  # fmt: skip
    assert Queries("postgres")["things.b"].text == "SELECT 'postgres'"
    with pytest.raises(KeyError):
        Queries("postgres")["things.c"]


async def test_every_query_is_understood_by_its_database(store: Store) -> None:
    names = list(store.queries)
    assert len(names) > 40
    explain = "EXPLAIN "
    for name in names:
        query = store.queries[name]
        # PostgreSQL explains only what it plans
        explained = query if "CREATE" in query.text else Query(name, explain + query.text)

        async def work(tx: Transaction, explained: Query = explained) -> None:
            if ";" in explained.text:
                await tx.script(explained.text)
            else:
                await tx.rows(explained, dict.fromkeys(explained.parameters))

        await store.database.transaction(work)


def test_every_select_has_a_limit_or_says_why_not() -> None:
    for file in (sql_root() / "queries").iterdir():
        for text in re.split(r"^(?=-- name:)", file.read_text("utf-8"), flags=re.MULTILINE)[1:]:
            if re.search(r"^SELECT", text, re.MULTILINE):
                is_one_row = "COUNT(*)" in text
                assert is_one_row or "LIMIT" in text or "INSERT" in text, f"{file.name}: {text.splitlines()[0]}"


def test_every_query_is_used_under_its_whole_name() -> None:
    code = "".join(path.read_text("utf-8") for path in Path(queries_module.__file__).parents[1].rglob("*.py"))
    assert [name for name in Queries("sqlite") if f'"{name}"' not in code] == []
