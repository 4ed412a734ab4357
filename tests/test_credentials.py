"""Where the signing secret comes from, and what is refused. File rights are those of a real folder."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chatd.config import AuthOptions, ConfigError, Secret
from chatd.identity.credentials import SigningSecrets, find_signing_secrets, signing_secrets

LONG, OTHER = Secret("s" * 32), Secret("o" * 32)
NONE_GIVEN = AuthOptions()


def refusal(auth: AuthOptions, data_path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        signing_secrets(auth, data_path)
    return str(caught.value)


def test_first_start_makes_a_secret_that_stays(tmp_path: Path) -> None:
    data_path = tmp_path / "a" / "b"
    made = signing_secrets(NONE_GIVEN, data_path)
    assert len(made.current.reveal()) >= 64
    assert signing_secrets(NONE_GIVEN, data_path) == made
    assert find_signing_secrets(NONE_GIVEN, data_path) == made


def test_made_secret_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    signing_secrets(NONE_GIVEN, tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data" / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_making_a_secret_leaves_no_other_file(tmp_path: Path) -> None:
    signing_secrets(NONE_GIVEN, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_two_installations_have_different_secrets(tmp_path: Path) -> None:
    assert signing_secrets(NONE_GIVEN, tmp_path / "a") != signing_secrets(NONE_GIVEN, tmp_path / "b")


def test_many_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: signing_secrets(NONE_GIVEN, tmp_path), range(64)))
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_looking_for_a_secret_changes_nothing(tmp_path: Path) -> None:
    assert find_signing_secrets(NONE_GIVEN, tmp_path / "data") is None
    assert list(tmp_path.iterdir()) == []


def test_given_secret_wins_and_nothing_is_made(tmp_path: Path) -> None:
    assert signing_secrets(AuthOptions(secret=LONG), tmp_path / "data") == SigningSecrets(LONG)
    assert list(tmp_path.iterdir()) == []


def test_previous_secret_comes_along_whatever_the_source_of_the_current(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(LONG.reveal())
    for auth in (
        AuthOptions(secret=LONG, previous_secret=OTHER),
        AuthOptions(secret_file=str(tmp_path / "key"), previous_secret=OTHER),
    ):
        assert signing_secrets(auth, tmp_path) == SigningSecrets(LONG, OTHER)
    assert signing_secrets(AuthOptions(previous_secret=OTHER), tmp_path).previous == OTHER


def test_secret_file_is_read_without_its_last_line_end(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{LONG.reveal()}\n")
    assert signing_secrets(AuthOptions(secret_file=str(path)), tmp_path).current == LONG


def test_short_secret_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("hunter2\n")
    assert refusal(AuthOptions(secret_file=str(path)), tmp_path) == (
        f"[auth] secret_file {path}: must be at least 32 bytes long, got 7: make one with `openssl rand -base64 48`"
    )


def test_short_secret_in_the_data_folder_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    assert refusal(NONE_GIVEN, tmp_path).startswith(f"{path}: must be at least 32 bytes long, got 0")
    assert path.read_text() == ""


def test_secret_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    auth = AuthOptions(secret_file=str(path))
    assert refusal(auth, tmp_path) == f"[auth] secret_file {path}: cannot be read: No such file or directory"
    path.write_bytes(b"\xff" * 40)
    assert refusal(auth, tmp_path) == f"[auth] secret_file {path}: is not UTF-8 text"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_secret_in_the_data_folder_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text(LONG.reveal())
    path.chmod(mode)
    assert refusal(NONE_GIVEN, tmp_path) == f"{path}: is open to other users: run `chmod 600 {path}`"


def test_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(NONE_GIVEN, tmp_path / "file" / "data") == (
        f"{tmp_path}/file/data: cannot be written to: Not a directory"
    )


def test_unreadable_data_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_path: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)
    assert refusal(NONE_GIVEN, tmp_path) == f"{tmp_path}/secret: cannot be read: Permission denied"


def test_full_disk_is_refused_and_leaves_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert refusal(NONE_GIVEN, tmp_path) == f"{tmp_path}: the secret cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == []
