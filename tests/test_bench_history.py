"""The bench of history: small rooms, no figure held to anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench import history
from tests.servers import shared_postgres

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_every_kind_of_page_is_read_of_both_rooms(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--sizes", "1000,3000", "--rounds", "3", "--only", kind, "--json", str(tmp_path / "rows.json")]
    url = shared_postgres().url(shared_postgres().new_database())
    assert history.main([*few, "--postgres", url]) in {0, 1}
    printed = capsys.readouterr().out
    assert f"{kind}: milliseconds" in printed
    assert all(name in printed for name in history.READS)
    kept = json.loads((tmp_path / "rows.json").read_text())
    assert kept["sizes"] == [1000, 3000]
    assert [row["name"] for row in kept["rows"][kind]] == list(history.READS)


def test_a_page_that_takes_twice_as_long_is_told_by_the_ratio() -> None:
    assert history.Row("a page", [1.0, 9.0, 2.5], [1.0, 9.0, 2.5]).ratio == 2.5
