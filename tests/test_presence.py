"""Who is online, as those hear it who share a room: over devices, nodes, graces, and nodes that die."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from redis import Redis

from chatd.chat import presence
from chatd.chat.presence import News, Presence
from chatd.clock import wall_clock_ms
from chatd.config import Secret
from chatd.errors import CloseCode
from chatd.identity.tokens import Tokens
from chatd.signals import CLAIM_S, GATHER_S
from chatd.store.rooms import NewRoom
from tests.daemon import ON_BOTH_BACK_ENDS, open_daemon, start_process
from tests.rawclient import CLOSE, frame, open_raw
from tests.rawclient import message as raw_message
from tests.servers import shared_postgres
from tests.stopped import is_silent, open_door
from tests.test_cluster import hear, new_back_ends
from tests.torture.nodes import SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from chatd.bus.hub import Hub
    from tests.daemon import Client, Daemon, Process, SignedIn
    from tests.stopped import StoppedDoor

#: Short, so that tests need not wait for long.
QUICK = {"PRESENCE_GRACE_S": "0.3", "PRESENCE_OFFLINE_AFTER_S": "3"}
#: So long that no test sees its end.
LONG = {"PRESENCE_GRACE_S": "600", "PRESENCE_OFFLINE_AFTER_S": "600"}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path, limits=False, **QUICK) as opened:
        yield opened


async def heard_of(client: Client, user: SignedIn, *, for_s: float = 0.5) -> list[str]:
    """The types of all presence of a user that a client hears for a while, with what came before."""
    with trio.move_on_after(for_s):
        while True:
            client.inbox.append(await client.receive(within_s=2 * for_s))
    kinds = ("user_online", "user_offline", "user_status")
    return [message["type"] for message in client.inbox if message["type"] in kinds and message["userId"] == user.id]


async def member(daemon: Daemon, asker: SignedIn, room_id: str, user: SignedIn) -> dict[str, Any]:
    answer = await daemon.http("GET", f"/api/rooms/{room_id}/members", token=asker.token)
    return next(found for found in answer.json()["members"] if found["userId"] == user.id)


@asynccontextmanager
async def open_processes(folder: Path, count: int, **options: str) -> AsyncIterator[list[Process]]:
    """Nodes that may be killed, on new back ends."""
    options = {**new_back_ends(), **options}
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(start_process(folder / f"node{number}", limits=False, **options))
            for number in range(count)
        ]


# One node


@ON_BOTH_BACK_ENDS
async def test_who_shares_a_room_hears_who_comes_and_goes(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, **QUICK) as daemon:
        ada, bob, cy = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as first, daemon.connect(cy) as stranger:
            async with daemon.connect(bob) as second:
                online = await hear(first, "user_online", userId=bob.id)
                assert online == {
                    "type": "user_online", "userId": bob.id, "username": "bob", "status": "online"
                }  # fmt: skip
                shown = await member(daemon, ada, room_id, bob)
                assert (shown["online"], shown["status"], shown["deviceCount"]) == (True, "online", 1)
                assert await heard_of(second, bob) == []
            offline = await hear(first, "user_offline", userId=bob.id)
            assert offline.pop("lastSeen") > "2020"
            assert offline == {"type": "user_offline", "userId": bob.id, "username": "bob", "status": "offline"}
            shown = await member(daemon, ada, room_id, bob)
            assert (shown["online"], shown["status"], shown["deviceCount"]) == (False, "offline", 0)
            for user in (ada, bob):
                assert await heard_of(stranger, user) == []


async def test_each_hears_it_once_however_many_rooms_they_share_and_not_on_the_user_s_own_devices(
    daemon: Daemon,
) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    for number in range(5):
        await daemon.create_room(ada, f"room {number}", members=[bob.id])
    async with daemon.connect(ada) as first:
        async with daemon.connect(bob) as second, daemon.connect(bob) as third:
            assert await heard_of(first, bob) == ["user_online"]
            assert await heard_of(second, bob) == await heard_of(third, bob) == []
        assert await heard_of(first, bob, for_s=2.5) == ["user_online", "user_offline"]


async def test_a_second_device_and_the_loss_of_one_of_two_are_no_news(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada) as listener, daemon.connect(bob):
        await hear(listener, "user_online", userId=bob.id)
        async with daemon.connect(bob):
            assert (await member(daemon, ada, room_id, bob))["deviceCount"] == 2
        assert await heard_of(listener, bob, for_s=2) == []
        assert (await member(daemon, ada, room_id, bob))["deviceCount"] == 1


async def test_a_reconnect_within_the_grace_is_no_news_and_the_list_says_online_meanwhile(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, **{**QUICK, "PRESENCE_GRACE_S": "600"}) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as listener:
            async with daemon.connect(bob):
                await hear(listener, "user_online", userId=bob.id)
            for _ in range(3):
                shown = await member(daemon, ada, room_id, bob)
                assert (shown["online"], shown["status"], shown["deviceCount"]) == (True, "online", 0)
                async with daemon.connect(bob):
                    pass
            assert await heard_of(listener, bob, for_s=1.5) == []


async def test_a_connection_that_breaks_has_the_longer_grace(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, **{**QUICK, "PRESENCE_OFFLINE_AFTER_S": "600"}) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as listener:
            async with daemon.connect(bob) as broken:
                await hear(listener, "user_online", userId=bob.id)
                await broken.connection._stream.aclose()
            assert await heard_of(listener, bob, for_s=2) == []


async def test_who_does_not_get_in_is_never_seen(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    await daemon.http("POST", "/api/auth/logout", token=bob.token)
    async with daemon.connect(ada) as listener:
        async with daemon.connect() as client:
            await client.send(type="authenticate", token=bob.token)
            assert (await client.receive())["type"] == "auth_error"
        assert await heard_of(listener, bob, for_s=2) == []
    assert not (await member(daemon, ada, room_id, bob))["online"]


async def test_presence_is_not_told_in_large_rooms(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, **QUICK, PRESENCE_MAX_MEMBERS="2") as daemon:
        users = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
        await daemon.create_room(users[0], members=[user.id for user in users[1:]])
        await daemon.create_room(users[0], members=[users[1].id])
        async with daemon.connect(users[0]) as near, daemon.connect(users[2]) as far, daemon.connect(users[1]):
            await hear(near, "user_online", userId=users[1].id)
            assert await heard_of(far, users[1]) == []


async def test_who_has_left_the_room_hears_no_more(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(bob, members=[ada.id])
    async with daemon.connect(ada) as listener:
        assert (await listener.ask(type="leave_room", roomId=room_id))["type"] == "ok"
        async with daemon.connect(bob):
            assert await heard_of(listener, bob) == []


async def test_users_who_have_blocked_each_other_hear_nothing_through_their_conversation(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    daemon.rows(f"UPDATE rooms SET kind = 'direct' WHERE id = '{room_id}'")
    async with daemon.connect(ada) as listener:
        async with daemon.connect(bob):
            await hear(listener, "user_online", userId=bob.id)
        await hear(listener, "user_offline", userId=bob.id)
        for blocker, blocked in ((ada, bob), (bob, ada)):
            daemon.rows("DELETE FROM user_blocks")
            daemon.rows(f"INSERT INTO user_blocks VALUES ('{blocker.id}', '{blocked.id}', 1)")
            async with daemon.connect(bob):
                assert await heard_of(listener, bob, for_s=0.3) == []
            assert await heard_of(listener, bob, for_s=2) == []


# What users say of themselves


@ON_BOTH_BACK_ENDS
async def test_a_status_is_stored_told_and_shown(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, **QUICK) as daemon:
        ada, bob, cy = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as listener, daemon.connect(cy) as stranger:
            async with daemon.connect(bob) as client, daemon.connect(bob) as other_device:
                assert (await hear(listener, "user_online", userId=bob.id))["status"] == "online"
                reply = await client.ask(type="update_status", status="busy", statusMessage="in a meeting", id="1")
                assert reply == {"type": "ok", "id": "1"}
                for hearer in (listener, other_device):
                    told = await hear(hearer, "user_status", userId=bob.id)
                    assert (told["status"], told["statusMessage"], told["username"]) == ("busy", "in a meeting", "bob")
                # What is absent stays, what is empty goes.
                await client.ask(type="update_status", status="away")
                assert (await hear(listener, "user_status"))["statusMessage"] == "in a meeting"
                await client.ask(type="update_status", status="away", statusMessage="")
                assert "statusMessage" not in await hear(listener, "user_status")
                shown = await member(daemon, ada, room_id, bob)
                assert (shown["status"], shown["online"]) == ("away", True)
                assert "statusMessage" not in shown
            await hear(listener, "user_offline", userId=bob.id)
            async with daemon.connect(bob):
                assert (await hear(listener, "user_online", userId=bob.id))["status"] == "away"
            assert await heard_of(stranger, bob) == []


async def test_statuses_that_change_at_once_are_told_together(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada) as listener, daemon.connect(bob) as client:
        await hear(listener, "user_online", userId=bob.id)
        for number in range(100):
            await client.send(type="update_status", status="busy", statusMessage=str(number))
        told = [await hear(listener, "user_status")]
        while told[-1]["statusMessage"] != "99":
            told.append(await hear(listener, "user_status"))
        assert len(told) < 50


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"status": "invisible"}, "status"),
        ({"status": "offline"}, "status"),
        ({}, "status"),
        ({"status": "away", "statusMessage": "x" * 141}, "statusMessage"),
        ({"status": "away", "statusMessage": "a\nb"}, "statusMessage"),
    ],
)
async def test_a_status_that_is_none_is_refused(daemon: Daemon, fields: dict[str, str], sentence: str) -> None:
    ada = await daemon.register("ada")
    async with daemon.connect(ada) as client:
        refused = await client.ask(type="update_status", **fields)
        assert (refused["type"], refused["code"]) == ("error", "bad_message")
        assert sentence in refused["message"]


async def test_a_changed_profile_shows_at_once_also_of_one_who_is_not_there(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada) as listener:
        change = {"username": "robert", "statusMessage": "renamed"}
        assert (await daemon.http("PATCH", "/api/users/me", change, token=bob.token)).status == 200
        told = await hear(listener, "user_status", userId=bob.id)
        assert (told["username"], told["statusMessage"], told["status"]) == ("robert", "renamed", "offline")
        async with daemon.connect(bob):
            await hear(listener, "user_online", username="robert")
            await daemon.http("PATCH", "/api/users/me", {"displayName": "Rob"}, token=bob.token)
            assert (await hear(listener, "user_status", username="robert"))["status"] == "online"


async def test_switched_off_nobody_is_told_and_a_status_is_refused(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, **QUICK, SERVER_FEATURES_PRESENCE="false") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as listener:
            async with daemon.connect(bob) as client:
                refused = await client.ask(type="update_status", status="away")
                assert refused["code"] == "feature_disabled"
                assert (await member(daemon, ada, room_id, bob))["deviceCount"] == 1
            assert await heard_of(listener, bob, for_s=2) == []


# Several nodes


async def test_two_devices_on_two_nodes_of_three_one_killed_then_the_other(tmp_path: Path) -> None:
    """Still online, then offline once, within `offline_after_s` and five seconds."""
    async with open_processes(tmp_path, 3, PRESENCE_OFFLINE_AFTER_S="3", PRESENCE_GRACE_S="1") as (one, two, three):
        ada, bob, cy = [await three.register(name) for name in ("ada", "bob", "cyd")]
        room_id = await three.create_room(ada, members=[bob.id, cy.id])
        async with (
            three.connect(ada) as listener, three.connect(cy) as other_listener, one.connect(bob), two.connect(bob)
        ):  # fmt: skip
            await hear(listener, "user_online", userId=bob.id)
            one.process.kill()
            # Longer than it takes to find out that the node is dead.
            assert await heard_of(listener, bob, for_s=6) == []
            shown = await member(three, ada, room_id, bob)
            assert (shown["online"], shown["deviceCount"]) == (True, 1)
            two.process.kill()
            with trio.fail_after(3 + 5):
                offline = await hear(listener, "user_offline", userId=bob.id)
            assert offline["lastSeen"] > "2020"
            assert await heard_of(listener, bob, for_s=3) == []
            assert await heard_of(other_listener, bob) == ["user_online", "user_offline"]
            assert not (await member(three, ada, room_id, bob))["online"]


async def test_of_several_nodes_that_survive_one_tells_of_a_dead_node_s_users(tmp_path: Path) -> None:
    async with open_processes(tmp_path, 3, PRESENCE_OFFLINE_AFTER_S="3", PRESENCE_GRACE_S="1") as (one, two, three):
        users = [await two.register(f"user{number}") for number in range(12)]
        ada, bob, *others = users
        await two.create_room(ada, members=[user.id for user in users[1:]])
        async with two.connect(ada) as first, three.connect(bob) as second, AsyncExitStack() as stack:
            for user in others:
                await stack.enter_async_context(one.connect(user))
            for listener in (first, second):
                for user in others:
                    await hear(listener, "user_online", userId=user.id)
            one.process.kill()
            with trio.fail_after(3 + 5):
                for listener in (first, second):
                    gone = {(await hear(listener, "user_offline"))["userId"] for _ in others}
                    assert gone == {user.id for user in others}
            for listener in (first, second):
                for user in others:
                    assert await heard_of(listener, user, for_s=0.2) == []


async def test_a_device_that_moves_to_another_node_within_the_grace_is_no_news(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        shared = {**new_back_ends(), **LONG}
        one, two = [
            await stack.enter_async_context(open_daemon(tmp_path / name, limits=False, **shared))
            for name in ("one", "two")
        ]
        ada, bob = await one.register("ada"), await one.register("bob")
        await one.create_room(ada, members=[bob.id])
        listener = await stack.enter_async_context(one.connect(ada))
        for node in (one, two) * 3:
            async with node.connect(bob):
                pass
        assert await heard_of(listener, bob, for_s=1.5) == ["user_online"]


async def test_two_thousand_who_come_back_within_the_grace_are_no_news(tmp_path: Path) -> None:
    """On three nodes; and each of them comes back to another one than before."""
    shared = {**new_back_ends(), **LONG}
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(open_daemon(tmp_path / name, limits=False, **shared))
            for name in ("one", "two", "three")
        ]
        ada = await nodes[0].register("ada")
        tokens = await make_crowd(nodes[0], ada, shared["DATABASE_URL"])
        listener = await stack.enter_async_context(nodes[1].connect(ada))
        heard: list[dict[str, Any]] = []
        redis = stack.enter_context(closing(Redis.from_url(shared["BUS_URL"])))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, listener, heard)
            for first_node in range(2):
                async with AsyncExitStack() as crowd:
                    for number, token in enumerate(tokens):
                        node = nodes[(number + first_node) % 3]
                        client = await crowd.enter_async_context(open_raw(node.websocket_port))
                        await client.send(raw_message(type="authenticate", token=token))
                        assert (await client.receive_json())["type"] == "authenticated"
                await until(lambda: redis.zcard(f"{shared['BUS_PREFIX']}:leaving") == len(tokens))
            await until(lambda: len(heard) == len(tokens))
            nursery.cancel_scope.cancel()
        assert {message["type"] for message in heard} == {"user_online"}
        assert len({message["userId"] for message in heard}) == len(heard) == len(tokens)


async def listen(client: Client, heard: list[dict[str, Any]]) -> None:
    while True:
        with suppress(trio.TooSlowError):
            message = await client.receive()
            if message["type"].startswith("user_"):
                heard.append(message)


async def until(is_so: Callable[[], Any]) -> None:
    with trio.fail_after(180):
        while not is_so():  # noqa: ASYNC110 - what is looked at wakes nobody here
            await trio.sleep(0.05)


async def make_crowd(daemon: Daemon, ada: SignedIn, database_url: str) -> list[str]:
    """Tokens of 2 000 users in rooms of 400 with ada, written straight into the database."""
    database = database_url.partition("?")[0].rpartition("/")[2]
    room_ids = [await daemon.create_room(ada, f"room {number}") for number in range(5)]
    script = """
        INSERT INTO users (id, email, username, username_key, password_hash, created_at, updated_at)
        SELECT 'user' || n, 'user' || n, 'user' || n, 'user' || n, '', 1, 1 FROM generate_series(1, 2000) AS n;
        INSERT INTO user_sessions (id, user_id, refresh_hash, address, user_agent, created_at, refreshed_at, expires_at)
        SELECT 's' || n, 'user' || n, 'hash' || n, '', '', 1, 1, 9000000000000 FROM generate_series(1, 2000) AS n;
        UPDATE rooms SET member_count = 401 WHERE name LIKE 'room %';
    """
    for number, room_id in enumerate(room_ids):
        script += f"""
            INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq)
            SELECT '{room_id}', 'user' || n, 'member', 1, 0 FROM generate_series(1, 2000) AS n WHERE n % 5 = {number};
        """
    await trio.to_thread.run_sync(shared_postgres().sql, script, database)
    tokens = Tokens(Secret(SECRET), Secret(), access_s=3600)
    return [tokens.issue(f"user{number}", f"s{number}", wall_clock_ms()) for number in range(1, 2001)]


# The clock


async def test_the_grace_lasts_as_long_as_it_says_and_begins_anew_with_each_return(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    quiet = {"WEBSOCKET_HEARTBEAT_S": "600", "WEBSOCKET_DEAD_AFTER_S": "700"}
    async with open_door(tmp_path, mock_clock, **quiet) as door:
        ada_id, _, ada_token = await door.sign_up("ada")
        bob_id, _, bob_token = await door.sign_up("bob")
        await door.chat.rooms.add(
            NewRoom("room", "private", "room", None, None), owner_id=ada_id, member_ids=[bob_id], now_ms=0
        )
        async with door.connect(ada_token) as (listener, _):
            for _ in range(2):
                async with door.connect(bob_token) as (client, _):
                    await door.jump(1)
                    await client.send(frame(CLOSE, b"\x03\xe8"))
                await wait_gone(door)
                await door.jump(9)
                await door.jump(0)
                assert bob_id in await door.chat.bus.online([bob_id])
            await door.jump(1)
            await door.jump(CLAIM_S)
            assert bob_id not in await door.chat.bus.online([bob_id])
            await door.jump(GATHER_S)
            heard = [await listener.receive_json(), await listener.receive_json()]
            assert [message["type"] for message in heard] == ["user_online", "user_offline"]
            assert is_silent(listener)


async def wait_gone(door: StoppedDoor) -> None:
    """Wait until the connection of a client that left is gone."""
    while len(door.door.connections) > 1:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("code", "grace_s"),
    [
        (1000, 10), (1001, 10), (CloseCode.NO_STATUS, 10), (CloseCode.SESSION_REVOKED, 10),
        (CloseCode.ABNORMAL, 30), (CloseCode.RESTART, 30), (CloseCode.TRY_LATER, 30), (CloseCode.TOKEN_EXPIRED, 30),
        (CloseCode.SLOW_READER, 30), (CloseCode.HEARTBEAT, 0),
    ],
)  # fmt: skip
async def test_the_grace_is_that_of_how_the_connection_ended(
    tmp_path: Path, mock_clock: MockClock, code: int, grace_s: float
) -> None:
    async with open_door(tmp_path, mock_clock) as door:
        assert presence.grace_s(door.chat, code) == grace_s


# What is still to be told


def news() -> tuple[Presence, list[str]]:
    rings: list[str] = []
    hub = cast("Hub", SimpleNamespace())
    return Presence(hub, on_news=lambda: rings.append("rung")), rings


def test_of_each_user_the_newest_is_told_and_a_change_goes_with_it() -> None:
    subject, rings = news()
    subject.note_online(["ada", "bob"])
    subject.note_change("ada")
    subject.note_offline(["bob"])
    subject.note_change("cyd")
    assert subject.take(2) == {"ada": News("online", is_changed=True), "bob": News("offline")}
    assert subject.has_news
    assert subject.take(2) == {"cyd": News(is_changed=True)}
    assert len(rings) == 4
    subject.note_offline([])
    assert not subject.has_news


def test_what_could_not_be_told_is_told_later_unless_it_is_old() -> None:
    subject, _ = news()
    subject.note_offline(["ada", "bob"])
    taken = subject.take(10)
    subject.note_online(["ada"])
    subject.put_back(taken)
    assert subject.take(10) == {"ada": News("online"), "bob": News("offline")}
