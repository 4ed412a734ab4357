"""What an administrator does from the shell, beside a daemon's data and without one."""

from __future__ import annotations

import re
import socket
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from chatd import administration
from chatd.administration import (
    add_user,
    check,
    create_room,
    delete_room,
    disable_user,
    issue_token,
    list_members,
    list_rooms,
    list_users,
    migrate_schema,
    remove_member,
    set_password,
    unban,
)
from chatd.assembly import open_chat
from chatd.backends import StartFault
from chatd.configfile import load_config
from chatd.errors import CloseCode, Refusal
from chatd.ids import new_id
from chatd.store.migrations import Migration, SchemaFault, read_migrations
from tests.daemon import NO_FILE, environment, open_daemon, start_process
from tests.servers import open_redis, shared_postgres, shared_redis
from tests.shell import contents

if TYPE_CHECKING:
    from pathlib import Path

    from chatd.config import Config

NEWEST = read_migrations("sqlite")[-1].version


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(None, environment(tmp_path / "data"))


async def add(config: Config, *names: str) -> list[str]:
    return [await add_user(config, name, f"{name}@example.org", "correct horse") for name in names]


async def test_users_come_in_order_of_their_names_however_many_pages(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(administration, "PAGE", 2)
    assert await list_users(config) == ""
    await add(config, "dora", "Bob", "ada", "carl", "Eve")
    names = [line.split()[1] for line in (await list_users(config)).splitlines()]
    assert names == ["ada", "Bob", "carl", "dora", "Eve"]


async def test_user_is_found_whatever_the_case_of_the_name(config: Config) -> None:
    [user_id] = await add(config, "Ada")
    assert await disable_user(config, "ADA")
    assert (await list_users(config)).startswith(user_id)
    assert (await list_users(config)).endswith(" disabled")


async def test_token_is_of_a_session_that_stands(config: Config) -> None:
    [user_id] = await add(config, "ada")
    token = await issue_token(config, "ada")
    async with open_chat(config) as chat:
        claims = chat.tokens.read(token, chat.clock())
        assert claims.user_id == user_id
        assert (await chat.accounts.standings([claims.session_id]))[claims.session_id].revoked_at is None


async def test_disabled_user_gets_no_token(config: Config) -> None:
    await add(config, "ada")
    await disable_user(config, "ada")
    with pytest.RaisesGroup(pytest.RaisesExc(Refusal, match="disabled"), flatten_subgroups=True):
        await issue_token(config, "ada")


async def test_disabling_and_a_new_password_end_every_session(config: Config) -> None:
    await add(config, "ada")
    for end in (partial(set_password, config, "ada", "new horse 1"), partial(disable_user, config, "ada")):
        token = await issue_token(config, "ada")
        await end()
        async with open_chat(config) as chat:
            session_id = chat.tokens.read(token, chat.clock()).session_id
            assert (await chat.accounts.standings([session_id]))[session_id].revoked_at is not None


async def test_short_password_changes_nothing(config: Config) -> None:
    await add(config, "ada")
    with pytest.RaisesGroup(pytest.RaisesExc(Refusal, match="at least 8 characters"), flatten_subgroups=True):
        await set_password(config, "ada", "short")


# Rooms


async def test_rooms_are_made_listed_and_deleted(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "PAGE", 2)
    [ada] = await add(config, "ada")
    club = await create_room(config, "the club", kind="private", owner="Ada")
    hall = await create_room(config, "hall", kind="public", owner=None)
    lines = (await list_rooms(config)).splitlines()
    assert lines[0].endswith(" public 0 0 lobby")
    assert lines[1:] == [f"{club} private 1 0 the club", f"{hall} public 0 0 hall"]
    [member] = (await list_members(config, "the club")).splitlines()
    assert re.fullmatch(rf"{ada} owner \S+Z ada", member)
    for name in ("the club", hall, "lobby"):
        assert "is deleted" in await delete_room(config, name)
    assert await list_rooms(config) == ""


async def test_room_is_named_by_a_name_that_only_it_has_or_by_its_id(config: Config) -> None:
    rooms = [await create_room(config, "twins", kind="public", owner=None) for _ in range(2)]
    for name, said in (("twins", "Several rooms"), ("nowhere", "no room nowhere")):
        with pytest.RaisesGroup(pytest.RaisesExc(Refusal, match=said), flatten_subgroups=True):
            await delete_room(config, name)
    assert "is deleted; a running daemon refuses what is sent there" in await delete_room(config, rooms[0])
    assert "is deleted" in await delete_room(config, "twins")


@pytest.mark.parametrize("name", ["", "x" * 101, "two\nlines", "  "])
async def test_room_needs_a_name_that_can_be_shown(config: Config, name: str) -> None:
    with pytest.raises(Refusal, match="name"):
        await create_room(config, name, kind="public", owner=None)


async def test_member_who_is_muted_is_shown_so(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, "tea", members=[bob.id])
        path = f"/api/rooms/{room_id}/members/{bob.id}"
        await daemon.http("PATCH", path, {"mutedUntil": "2999-01-01T00:00:00Z"}, token=ada.token)
    lines = (await list_members(load_config(None, environment(tmp_path)), "tea")).splitlines()
    assert [line.partition(" muted until ")[2] for line in lines] == ["", "2999-01-01T00:00:00.000Z"]


async def test_what_is_done_beside_a_daemon_is_enforced_and_heard_at_once(tmp_path: Path) -> None:
    config = load_config(None, environment(tmp_path))
    async with open_daemon(tmp_path) as daemon:
        ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
        room_id = await daemon.create_room(ada, "tea", members=[bob.id, eve.id])
        async with daemon.connect(ada) as owner, daemon.connect(bob) as client, daemon.connect(eve) as other:
            assert "live connections hear nothing more" in await remove_member(config, "tea", "Bob", reason="banned")
            refused = await client.ask(type="send_message", roomId=room_id, content="x")
            assert refused["code"] == "not_a_member"
            assert "live connections hear nothing more" in await remove_member(config, "tea", "eve", reason="kicked")
            assert "live connections hear nothing more" in await delete_room(config, "tea")
            # It may know already that the room is none of its own any more.
            refused = await owner.ask(type="send_message", roomId=room_id, content="x")
            assert refused["code"] in ("not_found", "not_a_member")
            assert (await client.heard("user_left"))["reason"] == "banned"
            assert [(await other.heard("user_left"))["userId"] for _ in range(2)] == [bob.id, eve.id]
            last = await owner.heard("room_updated")
            assert (last["seq"], "deletedAt" in last) == (3, True)


async def test_who_is_disabled_or_has_another_password_beside_a_daemon_is_disconnected_at_once(tmp_path: Path) -> None:
    config = load_config(NO_FILE, environment(tmp_path))
    async with open_daemon(tmp_path) as daemon:
        ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
        async with daemon.connect(ada) as hers, daemon.connect(bob) as his, daemon.connect(eve) as other:
            assert "live connections are closed" in await disable_user(config, "ada")
            assert (await hers.wait_closed(within_s=30))[0] == CloseCode.ACCOUNT_DISABLED
            assert "live connections are closed" in await set_password(config, "bob", "correct zebra")
            assert (await his.wait_closed(within_s=30))[0] == CloseCode.SESSION_REVOKED
            assert (await other.ask(type="ping"))["type"] == "pong"
    # Where none runs, there is nobody to close anything.
    told = await disable_user(config, "eve")
    assert "tokens already given are refused at once, and connections that are open end within 15 minutes" in told


async def test_who_is_kicked_from_the_shell_is_said_to_be_online_by_the_daemon_that_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the shell reaches the world by is neither needed nor told a token.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    async with open_daemon(tmp_path) as daemon:
        config = load_config(NO_FILE, environment(tmp_path, limits=False, HTTP_PORT=str(daemon.http_port)))
        ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
        await daemon.create_room(ada, "tea", members=[bob.id, eve.id])
        async with daemon.connect(ada) as owner, daemon.connect(bob):
            for name in ("bob", "eve"):
                await remove_member(config, "tea", name, reason="kicked")
            told = [await owner.wait_for("user_left", within_s=30) for _ in range(2)]
            assert [(left["userId"], left["online"]) for left in told] == [(bob.id, True), (eve.id, False)]
        assert daemon.rows("SELECT COUNT(*) AS n FROM user_sessions WHERE revoked_at IS NULL") == [(3,)]
    # Of one that does not run it is asked nothing.
    await remove_member(config, "tea", "ada", reason="kicked")


async def test_owner_of_a_room_that_the_shell_makes_hears_it_on_a_connection_that_is_open(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        bob = await daemon.register("bob")
        async with daemon.connect(bob) as client:
            config = load_config(NO_FILE, environment(tmp_path))
            room_id = await create_room(config, "club", kind="private", owner="bob")
            path = f"/api/rooms/{room_id}/messages"
            assert (await daemon.http("POST", path, b'{"content":"x"}', token=bob.token)).status == 201
            assert (await client.wait_for("new_message", within_s=30))["message"]["roomId"] == room_id


async def test_ban_is_lifted_from_the_shell(tmp_path: Path) -> None:
    config = load_config(None, environment(tmp_path))
    async with open_daemon(tmp_path) as daemon:
        bob, room_id = await daemon.register("bob"), await create_room(config, "tea", kind="public", owner=None)
        await remove_member(config, "tea", "bob", reason="banned")
        async with daemon.connect(bob) as client:
            assert (await client.ask(type="join_room", roomId=room_id))["code"] == "forbidden"
            assert "may join tea again" in await unban(config, "tea", "bob")
            assert (await client.ask(type="join_room", roomId=room_id))["type"] == "room_history"
        with pytest.RaisesGroup(pytest.RaisesExc(Refusal, match="not banned"), flatten_subgroups=True):
            await unban(config, "tea", "bob")


async def test_owner_who_is_kicked_from_the_shell_leaves_the_room_another_one(tmp_path: Path) -> None:
    config = load_config(None, environment(tmp_path))
    async with open_daemon(tmp_path) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        await daemon.create_room(ada, "tea", members=[bob.id])
    await remove_member(config, "tea", "ada", reason="kicked")
    [line] = (await list_members(config, "tea")).splitlines()
    assert line.startswith(f"{bob.id} owner")


# The schema


async def test_schema_goes_to_a_version_that_there_is(config: Config) -> None:
    status = await migrate_schema(config, "status", to=None)
    assert status.splitlines()[0] == "0001 initial: waits"
    with pytest.RaisesGroup(pytest.RaisesExc(SchemaFault, match="no migration 9999"), flatten_subgroups=True):
        await migrate_schema(config, "up", to=9999)
    assert await migrate_schema(config, "up", to=1) == "up 0001 initial"
    with pytest.RaisesGroup(pytest.RaisesExc(StartFault, match="not up from there"), flatten_subgroups=True):
        await migrate_schema(config, "up", to=0)
    assert await migrate_schema(config, "down", to=None) == "down 0001 initial"
    assert await migrate_schema(config, "down", to=0) == "nothing to do"


async def test_schema_goes_down_one_step_unless_told_how_far(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [Migration(n, f"step{n}", f"CREATE TABLE t{n} (a TEXT);", f"DROP TABLE t{n};") for n in (1, 2, 3)]
    monkeypatch.setattr(administration, "read_migrations", lambda _: steps)
    assert await migrate_schema(config, "up", to=None) == "up 0001 step1\nup 0002 step2\nup 0003 step3"
    assert await migrate_schema(config, "down", to=None) == "down 0003 step3"
    assert await migrate_schema(config, "down", to=0) == "down 0002 step2\ndown 0001 step1"


async def test_check_tells_what_there_is_and_makes_nothing(config: Config) -> None:
    fresh = await check(config)
    assert "database: " in fresh
    assert fresh.count("will be made at first start") == 2
    assert not config.server.data_path.exists()
    await add(config, "ada")
    assert f"schema {NEWEST:04d}, opened in" in await check(config)


async def test_check_beside_an_open_database_changes_nothing(config: Config) -> None:
    async with open_chat(config):
        before = contents(config.server.data_path)
        assert f"schema {NEWEST:04d}, opened in" in await check(config)
        after = contents(config.server.data_path)
        # The daemon itself goes on proving that it can write, which shows in the log and its index.
        assert after.keys() == before.keys()
        assert after["chatd.db"] == before["chatd.db"]


async def test_check_beside_a_daemon_says_that_it_has_the_ports_and_that_a_stranger_must_not(tmp_path: Path) -> None:
    async with start_process(tmp_path) as daemon:
        ports = {"WEBSOCKET_PORT": str(daemon.websocket_port), "HTTP_PORT": str(daemon.http_port)}
        told = await check(load_config(NO_FILE, environment(tmp_path, limits=False, **ports)))
        assert told.count(f"is in use by the chatd that runs, process {daemon.process.pid}") == 2
        # Also from the folder of another node.
        told = await check(load_config(NO_FILE, environment(tmp_path / "other", limits=False, **ports)))
        assert told.count(f"is in use by the chatd that runs, process {daemon.process.pid}") == 2
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports["HTTP_PORT"] = str(taken.getsockname()[1])
        with pytest.raises(StartFault, match=r"http.*port: cannot listen"):
            await check(load_config(NO_FILE, environment(tmp_path, limits=False, **ports)))


# On PostgreSQL and Redis


@pytest.fixture
def distributed(tmp_path: Path) -> dict[str, str]:
    """Options of a node on a new database, which nobody has migrated."""
    postgres = shared_postgres()
    url = postgres.url(postgres.new_database())
    return {"DATABASE_URL": url, "BUS_URL": shared_redis().url, "BUS_PREFIX": tmp_path.name, "AUTH_SECRET": "s" * 32}


def node(tmp_path: Path, options: dict[str, str]) -> Config:
    return load_config(None, environment(tmp_path / "data", limits=False, **options))


async def test_check_tells_versions_and_latencies_of_both_servers(tmp_path: Path, distributed: dict[str, str]) -> None:
    config = node(tmp_path, distributed)
    told = await check(config)
    [database, bus] = [line for line in told.splitlines() if line.startswith(("database: ", "bus: "))]
    answered = r"answered in [\d.]+ ms"
    assert re.fullmatch(rf"database: PostgreSQL \d+\.\d+.*, schema 0000, \d+ migrations wait, {answered}", database)
    assert re.fullmatch(rf"bus: Redis \d+\.\d+\.\d+, {answered}", bus)
    await migrate_schema(config, "up", to=None)
    assert f"schema {NEWEST:04d}, answered in" in await check(config)


async def test_check_names_the_rights_that_a_user_of_the_database_lacks(
    tmp_path: Path, distributed: dict[str, str]
) -> None:
    await migrate_schema(node(tmp_path, distributed), "up", to=None)
    postgres, name, role = shared_postgres(), urlsplit(distributed["DATABASE_URL"]).path[1:], f"r{new_id()}"
    rights = f'GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO "{role}"'
    postgres.sql(f'CREATE ROLE "{role}" LOGIN; {rights}', name)
    url = postgres.url(name).replace("postgres@", f"{role}@")
    with pytest.RaisesGroup(pytest.RaisesExc(StartFault), flatten_subgroups=True) as caught:
        await check(node(tmp_path, {**distributed, "DATABASE_URL": url}))
    [fault] = flattened(caught.value)
    assert "create tables in the schema" in str(fault)
    assert "delete in the table messages" in str(fault)
    assert "insert" not in str(fault)


async def test_check_names_the_rights_that_a_user_of_redis_lacks(tmp_path: Path, distributed: dict[str, str]) -> None:
    with open_redis(options=["--user", "limited", "on", "nopass", "~*", "&*", "+@all", "-publish"]) as redis:
        url = f"unix://limited:x@{redis.path}"
        with pytest.raises(StartFault, match="publishing notices"):
            await check(node(tmp_path, {**distributed, "BUS_URL": url}))


async def test_disabling_and_a_new_password_close_live_connections_where_a_bus_is_shared(
    tmp_path: Path, distributed: dict[str, str]
) -> None:
    options = {**distributed, "DATABASE_MIGRATE": "true"}
    async with open_daemon(tmp_path / "daemon", limits=False, **options) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        async with daemon.connect(ada) as one, daemon.connect(bob) as other:
            assert "are closed" in await set_password(node(tmp_path, options), "ada", "new horse 1")
            assert (await one.wait_closed())[0] == 4506
            assert "are closed" in await disable_user(node(tmp_path, options), "bob")
            assert (await other.wait_closed())[0] == 4504


async def test_kick_ban_and_deletion_are_heard_at_once_where_a_bus_is_shared(
    tmp_path: Path, distributed: dict[str, str]
) -> None:
    options = {**distributed, "DATABASE_MIGRATE": "true"}
    config = node(tmp_path, options)
    async with open_daemon(tmp_path / "daemon", limits=False, **options) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, "tea", members=[bob.id])
        async with daemon.connect(bob) as client:
            assert "hear nothing more" in await remove_member(config, "tea", "bob", reason="banned", note="spam")
            left = await client.wait_for("user_left")
            assert (left["reason"], left["online"]) == ("banned", True)
            bans = (await daemon.http("GET", f"/api/rooms/{room_id}/bans", token=ada.token)).json()["bans"]
            assert ("bannedBy" in bans[0], bans[0]["reason"]) == (False, "spam")
            await unban(config, room_id, "bob")
            await client.ask(type="join_room", roomId=room_id)
            await delete_room(config, "tea")
            assert "deletedAt" in await client.wait_for("room_updated")
            new_id_of_club = await create_room(config, "club", kind="private", owner="bob")
            await client.ask(type="join_room", roomId=new_id_of_club)
            assert (await client.ask(type="send_message", roomId=new_id_of_club, content="x"))["type"] == "message_ack"


def flattened(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions of a group and of the groups within it."""
    return [
        inner
        for error in group.exceptions
        for inner in (flattened(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]
