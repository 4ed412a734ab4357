"""What keeps chatd from starting is named in one sentence, with exit 1 and nothing changed."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.servers import shared_postgres
from tests.shell import Shell, contents, run_process, sentence_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


@pytest.fixture
def landed(shell: Shell) -> Shell:
    """A shell whose folder has a database and a secret."""
    shell.told("user", "list")
    return shell


@pytest.mark.parametrize("command", [["serve"], ["check"], ["migrate", "up"], ["user", "list"], ["token", "ada"]])
def test_unknown_option_is_named(shell: Shell, command: list[str]) -> None:
    (shell.folder / "chatd.toml").write_text("[http]\nprot = 8080\n")
    assert "chatd.toml:2: [http] prot: unknown option; did you mean port?" in shell.refusal(*command)


def test_unknown_variable_is_named(shell: Shell) -> None:
    assert "CHATD_HTTP_PROT" in shell.refusal("serve", HTTP_PROT="8080")


def test_ill_typed_option_is_named(shell: Shell) -> None:
    (shell.folder / "other.toml").write_text('[resume]\nmax_events = "many"\n')
    sentence = shell.refusal("serve", "--config", "other.toml")
    assert "other.toml:2: [resume] max_events: expected int, got str" in sentence


def test_configuration_that_is_not_there_is_named(shell: Shell) -> None:
    assert "missing.toml" in shell.refusal("serve", "--config", "missing.toml")


def test_short_secret_is_named_and_not_shown(shell: Shell) -> None:
    sentence = shell.refusal("serve", AUTH_SECRET="hunter2")
    assert "CHATD_AUTH_SECRET" in sentence
    assert "at least 32 bytes" in sentence
    assert "hunter2" not in sentence


def test_short_secret_in_a_file_is_named_and_not_shown(shell: Shell) -> None:
    (shell.folder / "short").write_text("hunter2")
    sentence = shell.refusal("serve", AUTH_SECRET_FILE="short")
    assert "secret_file short" in sentence
    assert "hunter2" not in sentence


@pytest.mark.parametrize("table", ["websocket", "http"])
def test_taken_port_is_named(shell: Shell, table: str) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        option = {f"{table.upper()}_PORT": str(port)}
        for command in ("serve", "check"):
            assert f"[{table}] port: cannot listen on 127.0.0.1:{port}" in shell.refusal(command, **option)


def test_address_of_another_machine_is_named(shell: Shell) -> None:
    assert "[http]" in shell.refusal("serve", HTTP_HOST="192.0.2.1")
    assert "[http] host" in shell.refusal("serve", HTTP_HOST="host.invalid")


@pytest.mark.parametrize("command", [["serve"], ["check"], ["migrate", "up"], ["user", "list"]], ids=" ".join)
def test_database_from_the_future_is_named(landed: Shell, command: list[str]) -> None:
    with closing(sqlite3.connect(landed.folder / "data" / "chatd.db")) as database, database:
        database.execute("INSERT INTO schema_migrations VALUES (9999, 'flying_cars', 'x')")
    sentence = landed.refusal(*command)
    assert "from the future" in sentence
    assert "9999 (flying_cars)" in sentence


def test_database_from_the_future_gets_no_secret(landed: Shell) -> None:
    (landed.folder / "data" / "secret").unlink()
    with closing(sqlite3.connect(landed.folder / "data" / "chatd.db")) as database, database:
        database.execute("INSERT INTO schema_migrations VALUES (9999, 'flying_cars', 'x')")
    for command in ("serve", "user list"):
        assert "from the future" in landed.refusal(*command.split())


def test_changed_migration_is_named(landed: Shell) -> None:
    with closing(sqlite3.connect(landed.folder / "data" / "chatd.db")) as database, database:
        database.execute("UPDATE schema_migrations SET checksum = 'x' WHERE version = 1")
    assert "Migration 0001" in landed.refusal("serve")


@pytest.mark.parametrize("command", [["serve"], ["check"]], ids=" ".join)
def test_file_that_is_no_database_is_named(shell: Shell, command: list[str]) -> None:
    (shell.folder / "data").mkdir()
    (shell.folder / "data" / "chatd.db").write_text("Dear diary, " * 100)
    assert "chatd.db" in shell.refusal(*command)


READ_ONLY = ("unshare", "-m", "sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"')


@pytest.mark.parametrize("command", [["serve"], ["check"], ["user", "list"]], ids=" ".join)
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "used"])
def test_read_only_data_folder_is_named(shell: Shell, command: list[str], *, is_new: bool) -> None:
    assert os.geteuid() == 0, "run the tests as root, who alone can mount a folder read-only"
    if not is_new:
        shell.told("user", "list")
    (shell.folder / "data").mkdir(exist_ok=True)
    data = str(shell.folder / "data")
    before = contents(shell.folder)
    sentence = sentence_of(run_process(shell.folder, *command, wrapper=(*READ_ONLY, data)))
    assert f"data folder {data}" in sentence
    assert contents(shell.folder) == before


def test_data_folder_that_cannot_be_made_is_named(shell: Shell) -> None:
    (shell.folder / "data").write_text("a file")
    for command in ("serve", "check"):
        assert "data" in shell.refusal(command)


NOWHERE = {"DATABASE_URL": "postgresql://chatd@127.0.0.1:9/chatd", "AUTH_SECRET": "s" * 32}


@pytest.mark.parametrize("command", [["serve"], ["check"], ["migrate", "up"], ["user", "list"]], ids=" ".join)
def test_database_that_cannot_be_reached_is_named(shell: Shell, command: list[str]) -> None:
    sentence = shell.refusal(*command, **NOWHERE)
    assert "database" in sentence
    assert "127.0.0.1" in sentence


@pytest.mark.parametrize("command", [["serve"], ["check"], ["user", "list"]], ids=" ".join)
def test_bus_that_cannot_be_reached_is_named(shell: Shell, command: list[str]) -> None:
    postgres = shared_postgres()
    url = postgres.url(postgres.new_database())
    options = {"DATABASE_URL": url, "BUS_URL": "redis://127.0.0.1:9", "AUTH_SECRET": "s" * 32}
    sentence = shell.refusal(*command, **options)
    assert "Redis" in sentence
    assert "127.0.0.1" in sentence


@pytest.mark.parametrize("command", [["serve"], ["check"]], ids=" ".join)
def test_bus_of_several_nodes_without_their_database_is_named(shell: Shell, command: list[str]) -> None:
    sentence = shell.refusal(*command, BUS_URL="redis://127.0.0.1:9")
    assert "[bus] url" in sentence
    assert "[database] url" in sentence


@pytest.mark.parametrize("command", [["serve"], ["check"]], ids=" ".join)
def test_nodes_that_share_a_database_do_not_make_secrets_of_their_own(shell: Shell, command: list[str]) -> None:
    postgres = shared_postgres()
    url = postgres.url(postgres.new_database())
    assert "[auth] secret" in shell.refusal(*command, DATABASE_URL=url, DATABASE_MIGRATE="true")


@pytest.mark.parametrize("command", [["serve"], ["user", "list"]], ids=" ".join)
def test_postgresql_is_not_migrated_unasked(shell: Shell, command: list[str]) -> None:
    postgres = shared_postgres()
    name = postgres.new_database()
    sentence = shell.refusal(*command, DATABASE_URL=postgres.url(name), AUTH_SECRET="s" * 32)
    assert "chatd migrate up" in sentence
    assert postgres.sql("SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public'", name) == "0\n"


@pytest.mark.parametrize("table", ["websocket", "http"])
@pytest.mark.parametrize("command", [["serve"], ["check"]], ids=" ".join)
def test_port_that_is_shared_by_daemons_which_share_nothing_else_is_named(
    shell: Shell, command: list[str], table: str
) -> None:
    option = {f"{table.upper()}_REUSE_PORT": "true"}
    assert f"[{table}] reuse_port" in shell.refusal(*command, **option)
