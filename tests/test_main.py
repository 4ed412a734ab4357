"""The command line as a person meets it: every command, what it prints, its exit status, and signals."""

from __future__ import annotations

import io
import re
import resource
import shutil
import signal
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio

from chatd import __version__
from chatd.__main__ import COMMANDS
from chatd.store.migrations import read_migrations
from tests.daemon import start_process
from tests.shell import Shell, contents, run_process, sentence_of

if TYPE_CHECKING:
    from pathlib import Path

MIGRATIONS = read_migrations("sqlite")
NEWEST = MIGRATIONS[-1]
NAMES = [f"{migration.version:04d} {migration.name}" for migration in MIGRATIONS]


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


@pytest.fixture
def landed(shell: Shell) -> Shell:
    """A shell whose folder has a database and a secret."""
    shell.told("user", "list")
    return shell


# Help and wrong usage


@pytest.mark.parametrize("command", COMMANDS)
def test_command_explains_itself_with_an_example(shell: Shell, command: str) -> None:
    text = shell.told(command, "--help")
    assert f"example: chatd {command}" in text
    assert "--config FILE" in text


def test_help_lists_every_command(shell: Shell) -> None:
    text = shell.told("--help")
    for name, command in COMMANDS.items():
        assert re.search(rf"^ +{name} +{command.help[:20]}", text, re.MULTILINE)


def test_version_is_told(tmp_path: Path) -> None:
    assert run_process(tmp_path, "--version").out.strip() == f"chatd {__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frolic"],
        ["serve", "--frolic"],
        ["serve", "now"],
        ["migrate"],
        ["migrate", "sideways"],
        ["migrate", "up", "--to", "x"],
        ["user", "frolic"],
        ["user", "add"],
        ["user", "add", "ada"],
        ["user", "disable"],
        ["user", "password"],
        ["token"],
        ["room"],
        ["room", "frolic"],
        ["room", "create"],
        ["room", "delete"],
        ["room", "members"],
        ["kick", "lobby"],
        ["ban", "lobby"],
        ["unban", "lobby"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_and_exits_with_2(shell: Shell, arguments: list[str]) -> None:
    done = shell.run(*arguments)
    assert (done.status, done.out, done.err.startswith("usage: chatd")) == (2, "", True)
    assert contents(shell.folder) == {}


# Commands


def test_check_changes_nothing_and_says_what_it_found(shell: Shell) -> None:
    report = shell.told("check")
    assert contents(shell.folder) == {}
    assert "will be made at first start" in report
    shell.told("user", "list")
    before = contents(shell.folder)
    report = shell.told("check")
    assert contents(shell.folder) == before
    assert f"schema {NEWEST.version:04d}, opened" in report
    assert "secret: given" in report


@pytest.mark.parametrize("statement", [None, "CREATE TABLE mine (a TEXT)"], ids=["empty file", "no chatd's"])
def test_check_makes_no_tables(shell: Shell, statement: str | None) -> None:
    (shell.folder / "data").mkdir()
    with closing(sqlite3.connect(shell.folder / "data" / "chatd.db")) as database:
        database.execute(statement or "VACUUM")
    before = contents(shell.folder)
    assert f"schema 0000, {len(MIGRATIONS)} migrations wait" in shell.told("check")
    assert contents(shell.folder) == before


def test_check_reads_what_a_daemon_that_died_left_and_leaves_it(landed: Shell, tmp_path: Path) -> None:
    with closing(sqlite3.connect(landed.folder / "data" / "chatd.db")) as database:
        database.execute("INSERT INTO schema_migrations VALUES (9999, 'flying_cars', 'x')")
        database.commit()
        shutil.copytree(landed.folder / "data", tmp_path / "died", copy_function=shutil.copyfile)
    before = contents(tmp_path / "died")
    assert "chatd.db-wal" in before
    (tmp_path / "died" / "secret").chmod(0o600)
    assert "9999 (flying_cars)" in landed.refusal("check", SERVER_DATA_DIR=str(tmp_path / "died"))
    assert contents(tmp_path / "died") == before


def test_what_people_said_is_for_the_eyes_of_its_owner_only(shell: Shell) -> None:
    shell.told("user", "list")
    assert (shell.folder / "data").stat().st_mode & 0o077 == 0


def test_check_counts_the_migrations_that_wait(landed: Shell) -> None:
    landed.told("migrate", "down", "--yes")
    assert f"schema {NEWEST.version - 1:04d}, 1 migrations wait" in landed.told("check")


def test_schema_goes_up_and_down_and_tells_where_it_is(shell: Shell) -> None:
    assert shell.told("migrate", "status") == "\n".join(f"{name}: waits" for name in NAMES)
    assert shell.told("migrate", "up") == "\n".join(f"up {name}" for name in NAMES)
    assert shell.told("migrate", "up") == "nothing to do"
    assert shell.told("migrate", "status") == "\n".join(f"{name}: landed" for name in NAMES)
    assert "not down from there" in shell.refusal("migrate", "down", "--yes", "--to", "1000")
    assert "0000 is not up from there" in shell.refusal("migrate", "up", "--to", "0")
    for name in reversed(NAMES):
        assert shell.told("migrate", "down", "--yes") == f"down {name}"
    assert shell.told("migrate", "down", "--yes") == "nothing to do"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_tables_are_dropped_by_nobody_who_did_not_say_so(landed: Shell) -> None:
    assert "--yes" in landed.refusal("migrate", "down")
    for answer, status in (("\n", 1), ("no\n", 1), ("yes\n", 0)):
        done = landed.run("migrate", "down", stdin=Terminal(answer))
        assert (done.status, "Type yes" in done.out) == (status, True), done
    assert landed.told("migrate", "status").endswith(f"{NAMES[-1]}: waits")


def test_rooms_are_made_and_moderated_from_the_shell(shell: Shell) -> None:
    shell.told("user", "add", "ada", "--email", "ada@example.org", stdin="correct horse\n")
    shell.told("user", "add", "bob", "--email", "bob@example.org", stdin="correct horse\n")
    room_id = shell.told("room", "create", "club", "--private", "--owner", "ada").strip()
    assert f"{room_id} private 1 0 club" in shell.told("room", "list")
    assert " owner " in shell.told("room", "members", "club")
    assert "no member" in shell.run("kick", "club", "bob").err
    assert "bob is banned from club" in shell.told("ban", "club", "bob", "--reason", "spam")
    assert "bob may join club again" in shell.told("unban", "club", "bob")
    assert "ada is kicked from club" in shell.told("kick", "club", "ada")
    assert "club is deleted" in shell.told("room", "delete", room_id)
    assert "no room club" in shell.run("room", "members", "club").err


def test_users_are_made_listed_and_disabled(shell: Shell) -> None:
    user_id = shell.told("user", "add", "Ada", "--email", "ada@example.org", stdin="correct horse\n")
    shell.told("user", "add", "bob", "--email", "bob@example.org", stdin="correct horse\n")
    assert "disabled" in shell.told("user", "disable", "BOB")
    ada, bob = shell.told("user", "list").splitlines()
    assert re.fullmatch(rf"{user_id} Ada ada@example\.org \S+Z", ada)
    assert re.fullmatch(r"\S+ bob bob@example\.org \S+Z disabled", bob)


def test_user_who_cannot_be_made_is_refused_like_over_http(shell: Shell) -> None:
    shell.told("user", "add", "ada", "--email", "ada@example.org", stdin="correct horse\n")
    for name, email, password, named in (
        ("ADA", "other@example.org", "correct horse", "username"),
        ("bob", "ada@example.org", "correct horse", "email"),
        ("bob", "nonsense", "correct horse", "`email`"),
        ("bob", "bob@example.org", "short", "`password`"),
        ("bob", "bob@example.org", "", "`password`"),
    ):
        done = shell.run("user", "add", name, "--email", email, stdin=f"{password}\n")
        assert named in sentence_of(done)
    assert len(shell.told("user", "list").splitlines()) == 1


@pytest.mark.parametrize("command", [["token"], ["user", "disable"], ["user", "password"]], ids=" ".join)
def test_user_who_is_not_there_is_named(landed: Shell, command: list[str]) -> None:
    done = landed.run(*command, "nobody", stdin="correct horse\n")
    assert "There is no user nobody" in sentence_of(done)


# The daemon


async def test_token_of_the_shell_opens_a_running_daemon(tmp_path: Path) -> None:
    async with start_process(tmp_path / "data") as daemon:
        ada = await daemon.register("ada")
        token = run_process(tmp_path, "token", "ada").out.strip()
        answer = await daemon.http("GET", "/api/users/me", token=token)
        assert (answer.status, answer.json()["id"]) == (200, ada.id)


async def test_new_password_from_the_shell_ends_all_sessions(tmp_path: Path) -> None:
    async with start_process(tmp_path / "data") as daemon:
        ada = await daemon.register("ada")
        done = run_process(tmp_path, "user", "password", "ada", stdin="new horse 1\n")
        assert done.status == 0
        assert "live connections are closed" in done.out
        assert (await daemon.http("GET", "/api/users/me", token=ada.token)).status == 401
        for password, status in (("correct horse", 401), ("new horse 1", 200)):
            body = {"email": "ada@example.org", "password": password}
            assert (await daemon.http("POST", "/api/auth/login", body)).status == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_the_daemon_in_order(tmp_path: Path, number: signal.Signals) -> None:
    async with start_process(tmp_path / "data") as daemon:
        ada = await daemon.register("ada")
        async with daemon.connect(ada) as client:
            daemon.process.send_signal(number)
            assert (await client.wait_for("server_shutdown"))["reconnectAfterMs"] >= 0
            assert (await client.wait_closed())[0] == 1012
            with trio.fail_after(30):
                assert await daemon.process.wait() == 0
    assert [line["event"] for line in daemon.log][-1] == "drained"


async def test_daemon_can_be_stopped_as_soon_as_it_listens(tmp_path: Path) -> None:
    async with start_process(tmp_path / "data") as daemon:
        daemon.process.terminate()
        with trio.fail_after(30):
            assert await daemon.process.wait() == 0


async def test_second_signal_ends_the_daemon_at_once(tmp_path: Path) -> None:
    async with start_process(tmp_path / "data") as daemon:
        # a request that stays half sent keeps the drain waiting
        stream = await trio.open_tcp_stream("127.0.0.1", daemon.http_port)
        async with stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            ada = await daemon.register("ada")
            assert ada.id
            daemon.process.send_signal(signal.SIGTERM)
            await daemon.wait_for_log("stopping")
            daemon.process.send_signal(signal.SIGTERM)
            with trio.fail_after(30):
                assert await daemon.process.wait() == 1


async def test_sigusr1_dumps_what_the_daemon_does_and_it_goes_on(tmp_path: Path) -> None:
    async with start_process(tmp_path / "data") as daemon:
        daemon.process.send_signal(signal.SIGUSR1)
        assert (await daemon.wait_for_log("dump_ended"))["tasks"] > 10
        assert (await daemon.http("GET", "/healthz")).status == 200
        daemon.process.terminate()
        with trio.fail_after(30):
            assert await daemon.process.wait() == 0


async def test_two_daemons_do_not_share_a_folder(tmp_path: Path) -> None:
    async with start_process(tmp_path / "data") as daemon:
        sentence = sentence_of(run_process(tmp_path, "serve"))
        assert f"Another daemon runs on the data folder {tmp_path / 'data'}" in sentence
        assert (await daemon.http("GET", "/healthz")).status == 200
        assert run_process(tmp_path, "user", "list").status == 0
        daemon.process.kill()
        await daemon.process.wait()
    # a daemon that was killed left its lock file, which locks nothing
    assert (tmp_path / "data" / "lock").exists()
    async with start_process(tmp_path / "data") as daemon:
        daemon.process.terminate()
        await daemon.process.wait()
    assert not (tmp_path / "data" / "lock").exists()


async def test_daemon_takes_as_many_open_files_as_it_may_and_warns_of_too_few(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1000, soft), hard))
    try:
        async with start_process(tmp_path / "data", LIMITS_CONNECTIONS=str(hard)) as daemon:
            assert resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
            warning = await daemon.wait_for_log("few_open_files")
            assert (warning["allowed"], warning["needed"], warning["level"]) == (hard, hard + 100, "warning")
        async with start_process(tmp_path / "data", LIMITS_CONNECTIONS=str(hard - 100)) as daemon:
            assert "few_open_files" not in [line["event"] for line in daemon.log]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_two_daemons_do_not_share_a_port(tmp_path: Path) -> None:
    async with start_process(tmp_path / "one") as daemon:
        sentence = sentence_of(run_process(tmp_path, "serve", HTTP_PORT=str(daemon.http_port)))
        assert f"127.0.0.1:{daemon.http_port}" in sentence
