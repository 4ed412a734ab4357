"""Where chatd finds its SQL: in the checkout, and in what a wheel holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chatd.store import sqlfiles

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture
def package_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let `sqlfiles` believe that the package chatd lies in that folder."""

    def place(folder: Path) -> None:
        folder.mkdir(parents=True)
        monkeypatch.setattr(sqlfiles, "files", lambda _name: folder)

    return place


def test_checkout_reads_the_folder_that_is_edited() -> None:
    root = sqlfiles.sql_root()
    assert Path(str(root)).resolve() == CHECKOUT / "sql"
    assert (root / "migrations" / "0001_initial.up.sql").is_file()


def test_wheel_reads_the_copy_inside_the_package(tmp_path: Path, package_at: Callable[[Path], None]) -> None:
    package_at(tmp_path / "chatd")
    (tmp_path / "sql").mkdir()
    (tmp_path / "chatd" / "_sql").mkdir()
    assert sqlfiles.sql_root() == tmp_path / "chatd" / "_sql"


def test_neither_is_said_in_one_sentence(tmp_path: Path, package_at: Callable[[Path], None]) -> None:
    package_at(tmp_path / "chatd")
    with pytest.raises(FileNotFoundError, match="SQL files are missing"):
        sqlfiles.sql_root()
