"""Several nodes as one: limits, sign-outs and memberships that hold on all of them."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import redis
import trio

from chatd.assembly import open_chat
from chatd.bus.payload import Word, encode_word
from chatd.configfile import load_config
from chatd.ids import new_id
from chatd.store.entries import MembershipChange
from tests.daemon import NO_FILE, environment, open_daemon
from tests.servers import shared_postgres, shared_redis
from tests.stores import ignore
from tests.torture.nodes import SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import Client, Daemon

#: The longest that something may take to be known on another node.
SOON_S = 5


def new_back_ends() -> dict[str, str]:
    """Options of nodes on one new database and one bus."""
    return {
        "DATABASE_URL": shared_postgres().url(shared_postgres().new_database()),
        "DATABASE_MIGRATE": "true",
        "BUS_URL": shared_redis().url,
        "BUS_PREFIX": new_id(),
        "AUTH_SECRET": SECRET,
    }


@asynccontextmanager
async def open_nodes(
    folder: Path, count: int = 2, *, limits: bool = False, **options: str
) -> AsyncIterator[list[Daemon]]:
    """Daemons in this process, on new back ends unless they are among the options."""
    options = options if "DATABASE_URL" in options else {**new_back_ends(), **options}
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(open_daemon(folder / f"node{number}", limits=limits, **options))
            for number in range(count)
        ]


async def hear(client: Client, kind: str, **fields: Any) -> dict[str, Any]:
    """The next message of a type that says this."""
    while True:
        message = await client.heard(kind)
        where = message.get("message", message)
        if all(where[name] == value for name, value in fields.items()):
            return message


async def is_silent(client: Client, *, for_s: float = 0.3) -> bool:
    with trio.move_on_after(for_s):
        client.inbox.append(await client.receive())
    return not client.inbox


async def test_member_hears_a_room_whose_node_was_killed_between_its_commit_and_its_notices(tmp_path: Path) -> None:
    database = shared_postgres().new_database()
    back_ends = {**new_back_ends(), "DATABASE_URL": shared_postgres().url(database)}
    async with open_nodes(tmp_path, 1, limits=False, **back_ends, PRESENCE_OFFLINE_AFTER_S="1") as [node]:
        ada, bob = await node.register("ada"), await node.register("bob")
        async with node.connect(bob) as client:
            # What another node has stored, and the last that was heard of it.
            room_id = new_id()
            shared_postgres().sql(
                "INSERT INTO rooms (id, kind, name, created_by, created_at, updated_at, member_count)"
                f" VALUES ('{room_id}', 'private', 'room', '{ada.id}', 1, 1, 2);"
                "INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq) VALUES"
                f" ('{room_id}', '{ada.id}', 'owner', 1, 0), ('{room_id}', '{bob.id}', 'member', 1, 0)",
                database,
            )
            with closing(redis.Redis.from_url(shared_redis().url)) as link:
                link.publish(f"{back_ends['BUS_PREFIX']}:notices", encode_word(Word("killed", 1)))
            path = f"/api/rooms/{room_id}/messages"
            assert (await node.http("POST", path, {"content": "hello"}, token=ada.token)).status == 201
            heard = await client.wait_for("new_message", within_s=30)
            assert (heard["message"]["roomId"], heard["message"]["seq"]) == (room_id, 1)


async def test_what_is_said_on_one_node_is_heard_on_the_others_in_one_order(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 3) as nodes:
        user = await nodes[0].register("ada")
        room_id = await nodes[0].create_room(user)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(node.connect(user)) for node in nodes]
            for number, client in enumerate(clients * 5):
                await client.send(type="send_message", roomId=room_id, content=f"message {number}")
            heard = [[(await client.heard("new_message"))["message"] for _ in range(15)] for client in clients]
    assert heard[0] == heard[1] == heard[2]
    assert [message["seq"] for message in heard[0]] == list(range(1, 16))


async def test_one_user_s_devices_on_two_nodes_share_one_message_limit(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, limits=True, LIMITS_MESSAGES_PER_MINUTE="6") as (one, other):
        user = await one.register("ada")
        room_id = await one.lobby(user)
        async with one.connect(user) as first, other.connect(user) as second:
            await first.ask(type="join_room", roomId=room_id)
            await hear(second, "user_joined", userId=user.id)
            replies = [
                await client.ask(type="send_message", roomId=room_id, content="hi") for client in (first, second) * 4
            ]
    assert [reply["type"] for reply in replies] == ["message_ack"] * 6 + ["error"] * 2
    assert replies[-1]["code"] == "rate_limited"
    # one message is refilled in 10 s
    assert 0 < replies[-1]["retryAfterMs"] <= 10_000


async def test_signing_out_everywhere_on_one_node_closes_the_connections_on_the_other(tmp_path: Path) -> None:
    async with open_nodes(tmp_path) as (one, other):
        user, stranger = await one.register("ada"), await one.register("bob")
        async with one.connect(user) as first, other.connect(user) as second, other.connect(stranger) as third:
            answer = await one.http("POST", "/api/auth/logout?all=true", token=user.token)
            assert answer.status == 200
            for client in (first, second):
                code, _ = await client.wait_closed(within_s=SOON_S)
                assert code == 4506
            assert (await third.ask(type="ping"))["type"] == "pong"
        async with other.connect() as again:
            await again.send(type="authenticate", token=user.token)
            assert (await again.receive())["type"] == "auth_error"


async def test_a_device_on_another_node_follows_a_join_and_hears_nothing_more_after_a_leave(tmp_path: Path) -> None:
    async with open_nodes(tmp_path) as (one, other):
        owner, user = await one.register("owner"), await one.register("ada")
        room_id = await one.create_room(owner, kind="public")
        async with one.connect(owner) as speaker, one.connect(user) as first, other.connect(user) as second:
            second.inbox.clear()
            assert (await first.ask(type="join_room", roomId=room_id))["type"] == "room_history"
            joined = await hear(second, "user_joined", roomId=room_id, userId=user.id)
            await speaker.send(type="send_message", roomId=room_id, content="welcome")
            await hear(second, "new_message", content="welcome", seq=joined["seq"] + 1)
            assert (await second.ask(type="leave_room", roomId=room_id))["type"] == "ok"
            left = await hear(second, "user_left", userId=user.id)
            await hear(first, "user_left", userId=user.id)
            first.inbox.clear()
            second.inbox.clear()
            await speaker.send(type="send_message", roomId=room_id, content="they are gone")
            await hear(speaker, "new_message", content="they are gone", seq=left["seq"] + 1)
            assert await is_silent(first)
            assert await is_silent(second)
            for client in (first, second):
                refused = await client.ask(type="send_message", roomId=room_id, content="am I in?")
                assert refused["code"] == "not_a_member"


async def test_who_is_removed_from_a_room_hears_nothing_more_of_it_on_any_node(tmp_path: Path) -> None:
    shared = new_back_ends()
    config = load_config(NO_FILE, environment(tmp_path / "third", limits=False, **shared))
    async with open_nodes(tmp_path, 2, limits=False, **shared) as (one, other), open_chat(config) as third:
        owner, user = await one.register("owner"), await one.register("ada")
        room_id = await one.create_room(owner, members=[user.id])
        # They are told of being brought in a little behind it: not while somebody listens here.
        with trio.fail_after(30):
            while not (await one.http("GET", "/api/notifications", token=user.token)).json()["unread"]:  # noqa: ASYNC110 - the answer changes by itself
                await trio.sleep(0.02)
            await trio.sleep(0.2)
        async with one.connect(owner) as speaker, one.connect(user) as first, other.connect(user) as second:
            # What a moderator will do; the third node has none of these connections.
            kicked = MembershipChange(room_id, user.id, "ada", online=True, settle=ignore, reason="kicked")
            await third.journal.write(kicked)
            for client in (first, second):
                assert (await hear(client, "user_left", userId=user.id))["reason"] == "kicked"
                client.inbox.clear()
            await speaker.ask(type="send_message", roomId=room_id, content="they are gone")
            await hear(speaker, "new_message", content="they are gone")
            for client in (first, second):
                assert await is_silent(client)
                for request in ({"type": "send_message", "content": "am I in?"}, {"type": "get_history"}):
                    assert (await client.ask(roomId=room_id, **request))["code"] == "not_a_member"


async def test_who_leaves_on_one_node_and_joins_at_once_on_the_other_hears_the_room_on_both(tmp_path: Path) -> None:
    async with open_nodes(tmp_path) as (one, other):
        owner, user = await one.register("owner"), await one.register("ada")
        room_id = await one.create_room(owner, kind="public")
        async with one.connect(owner) as speaker, one.connect(user) as first, other.connect(user) as second:
            await first.ask(type="join_room", roomId=room_id)
            await hear(second, "user_joined", userId=user.id)
            for number in range(10):
                assert (await first.ask(type="leave_room", roomId=room_id))["type"] == "ok"
                assert (await second.ask(type="join_room", roomId=room_id))["type"] == "room_history"
                await speaker.send(type="send_message", roomId=room_id, content=f"message {number}")
                for client in (first, second):
                    await hear(client, "new_message", content=f"message {number}")


async def test_who_leaves_and_joins_at_once_on_one_connection_is_a_member(tmp_path: Path) -> None:
    async with open_nodes(tmp_path) as (one, other):
        owner, user = await one.register("owner"), await one.register("ada")
        room_id = await one.create_room(owner, kind="public")
        async with other.connect(owner) as speaker, one.connect(user) as client:
            await client.ask(type="join_room", roomId=room_id)
            for number in range(10):
                assert (await client.ask(type="leave_room", roomId=room_id))["type"] == "ok"
                assert (await client.ask(type="join_room", roomId=room_id))["type"] == "room_history"
                await speaker.send(type="send_message", roomId=room_id, content=f"message {number}")
                await hear(client, "new_message", content=f"message {number}")


async def test_a_new_room_is_heard_by_its_members_on_every_node(tmp_path: Path) -> None:
    async with open_nodes(tmp_path) as (one, other):
        owner, user = await one.register("owner"), await one.register("ada")
        async with one.connect(owner) as speaker, other.connect(user) as client:
            room_id = await one.create_room(owner, kind="private", members=[user.id])
            await speaker.send(type="send_message", roomId=room_id, content="hello")
            await hear(client, "new_message", content="hello")


async def test_a_resume_on_another_node_has_no_gap_and_no_repeat(tmp_path: Path) -> None:
    async with open_nodes(tmp_path) as (one, other):
        user = await one.register("ada")
        room_id = await one.create_room(user)
        async with one.connect(user) as speaker:
            seq, epoch = 0, (await speaker.heard("authenticated"))["epoch"]
            for node in (one, other) * 3:
                for _ in range(3):
                    await speaker.ask(type="send_message", roomId=room_id, content="hi")
                async with node.connect() as client:
                    resume = {"epoch": epoch, "rooms": {room_id: seq}}
                    await client.send(type="authenticate", token=user.token, resume=resume)
                    replayed = [(await client.heard("new_message"))["message"]["seq"] for _ in range(3)]
                    caught_up = await client.heard("caught_up")
                assert replayed == [seq + 1, seq + 2, seq + 3]
                seq = caught_up["seq"]
                assert seq == replayed[-1]
