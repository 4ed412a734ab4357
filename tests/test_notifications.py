"""Notifications, through the real door, on both kinds of back end and on several nodes."""

from __future__ import annotations

from collections import Counter
from io import StringIO
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from chatd import telemetry
from chatd.bus.local import LocalBus
from chatd.bus.port import Event
from chatd.chat.notifications import MAX_WAITING, Notifier
from chatd.config import Features, NotificationOptions
from chatd.errors import Unavailable
from chatd.ids import new_id
from chatd.notifier import open_notifier
from chatd.signals import Bell
from chatd.store.database import Conflict
from chatd.store.notifications import Concern, NotificationRow, Notifications
from chatd.store.queries import Query
from tests.counting import CountedDatabase
from tests.daemon import ON_BOTH_BACK_ENDS, Client, Daemon, SignedIn, open_daemon
from tests.logs import own_logging
from tests.stores import post
from tests.test_cluster import open_nodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from chatd.chat.context import Chat
    from chatd.store.accounts import Account
    from chatd.store.database import Row, Transaction, Value
    from tests.stores import Store

both = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path, back_ends: str) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def people(daemon: Daemon, *names: str) -> list[SignedIn]:
    return [await daemon.register(name) for name in names]


async def room_of(daemon: Daemon, owner: SignedIn, *others: SignedIn, kind: str = "private") -> str:
    """A room with these members, who have read that they were brought in."""
    room = await daemon.create_room(owner, kind=kind, members=[other.id for other in others])
    for other in others:
        await wait_for(daemon, other, 1)
        assert (await daemon.http("POST", "/api/notifications/read", {}, token=other.token)).json() == {"unread": 0}
    return room


async def say(client: Client, room: str, content: str, **fields: Any) -> str:
    ack = await client.ask(type="send_message", roomId=room, content=content, **fields)
    assert ack["type"] == "message_ack", ack
    return str(ack["messageId"])


async def page(daemon: Daemon, user: SignedIn, query: str = "") -> dict[str, Any]:
    answer = await daemon.http("GET", f"/api/notifications{query}", token=user.token)
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


async def wait_for(daemon: Daemon, user: SignedIn, unread: int) -> list[dict[str, Any]]:
    """The user's notifications, once so many are unread."""
    with trio.fail_after(30):
        while (found := await page(daemon, user))["unread"] != unread:  # noqa: ASYNC110 - they are made behind the commits
            await trio.sleep(0.02)
    listed: list[dict[str, Any]] = found["notifications"]
    return listed


async def settle(daemon: Daemon, client: Client, user: SignedIn, room: str, unread: int) -> list[dict[str, Any]]:
    """The user's notifications behind everything that was sent before, a mention of theirs being the last."""
    await say(client, room, f"settled, @{user.username}")
    return (await wait_for(daemon, user, unread + 1))[1:]


@both
async def test_mention_is_stored_listed_and_told_to_every_device(daemon: Daemon) -> None:
    ada, bob = await people(daemon, "ada", "bob")
    room = await room_of(daemon, ada, bob)
    async with daemon.connect(ada) as client, daemon.connect(bob) as phone, daemon.connect(bob) as laptop:
        message = await say(client, room, "are you there, @BOB?")
        told = (await phone.wait_for("notification"))["notification"]
        assert (await laptop.wait_for("notification"))["notification"] == told
        assert told == {
            "id": told["id"], "kind": "mention", "roomId": room, "roomName": "room", "messageId": message, "seq": 1,
            "actorId": ada.id, "actorName": "ada", "excerpt": "are you there, @BOB?", "read": False,
            "createdAt": told["createdAt"],
        }  # fmt: skip
        assert (await wait_for(daemon, bob, 1))[0] == told
        assert (await page(daemon, ada))["notifications"] == []


@both
async def test_nobody_is_told_of_what_is_no_concern_of_theirs(daemon: Daemon) -> None:
    ada, bob, cy, eve = await people(daemon, "ada", "bob", "cyd", "eve")
    room = await room_of(daemon, ada, bob, cy)
    daemon.rows(f"INSERT INTO user_blocks (user_id, blocked_id, blocked_at) VALUES ('{cy.id}', '{ada.id}', 1)")
    async with daemon.connect(ada) as client:
        # themselves, somebody who is no member, somebody who has blocked them, nobody at all, and what is code
        await say(client, room, "@ada @eve @cyd @nobody @here @all mail bob@example.org")
        await say(client, room, "@bob", messageType="code")
        assert len(await settle(daemon, client, bob, room, 0)) == 1  # that he was brought in
        for user in (ada, eve):
            assert (await page(daemon, user))["notifications"] == []
        assert [one["kind"] for one in (await page(daemon, cy))["notifications"]] in ([], ["invitation"])
        assert (await page(daemon, cy))["unread"] == 0


@both
async def test_edit_tells_those_whom_it_mentions_newly_and_each_once(daemon: Daemon) -> None:
    ada, bob, cy, eve = await people(daemon, "ada", "bob", "cyd", "eve")
    room = await room_of(daemon, ada, bob, cy)
    async with daemon.connect(ada) as client, daemon.connect(cy) as reader:
        message = await say(client, room, "welcome @bob")
        await wait_for(daemon, bob, 1)
        # What one has read is to be read again.
        assert (await reader.ask(type="mark_as_read", roomId=room))["type"] == "ok"
        for content in ("welcome @bob, @cyd and @eve", "welcome @bob", "welcome @cyd and @bob"):
            assert (await client.ask(type="edit_message", messageId=message, content=content))["type"] == "ok"
            told = await wait_for(daemon, cy, 1)
            assert [one["kind"] for one in told] == ["mention", "invitation"]
        heard = (await reader.heard("notification"))["notification"]
        assert (heard["messageId"], heard["seq"], heard["actorId"], heard["read"]) == (message, 1, ada.id, False)
        assert len(await settle(daemon, client, bob, room, 1)) == 2
        assert len(await settle(daemon, client, cy, room, 1)) == 2
        assert (await page(daemon, eve))["notifications"] == []
        await reader.ask(type="mark_as_read", roomId=room)
        assert len(await wait_for(daemon, cy, 0)) == 3


@both
async def test_edit_of_code_and_of_a_direct_message_mentions_nobody(daemon: Daemon) -> None:
    ada, bob = await people(daemon, "ada", "bob")
    room = await room_of(daemon, ada, bob)
    async with daemon.connect(ada) as client:
        code = await say(client, room, "x", messageType="code")
        direct = (await client.ask(type="send_dm", recipientId=bob.id, content="x"))["messageId"]
        for message in (code, direct):
            assert (await client.ask(type="edit_message", messageId=message, content="@bob"))["type"] == "ok"
        told = await settle(daemon, client, bob, room, 1)
        assert sorted(one["kind"] for one in told) == ["direct", "invitation"]


@both
async def test_flood_of_names_mentions_no_more_than_may_be(tmp_path: Path, back_ends: str) -> None:
    async with open_daemon(tmp_path, NOTIFICATIONS_MAX_MENTIONS="2", limits=False) as daemon:
        ada, *others = await people(daemon, "ada", "bob", "cyd", "dan")
        room = await room_of(daemon, ada, *others)
        async with daemon.connect(ada) as client:
            await say(client, room, "@bob @cyd @dan")
            assert len(await settle(daemon, client, others[2], room, 0)) == 1
            assert [(await page(daemon, user))["unread"] for user in others] == [1, 1, 1]


@both
async def test_reply_concerns_the_author_and_a_mention_in_it_tells_once(daemon: Daemon) -> None:
    ada, bob = await people(daemon, "ada", "bob")
    room = await room_of(daemon, ada, bob)
    async with daemon.connect(ada) as at_ada, daemon.connect(bob) as at_bob:
        asked = await say(at_bob, room, "who comes?")
        reply = await say(at_ada, room, "me", replyTo=asked)
        assert (await at_bob.wait_for("notification"))["notification"]["kind"] == "reply"
        both_at_once = await say(at_ada, room, "@bob me too", replyTo=asked)
        found = await settle(daemon, at_ada, bob, room, 2)
        assert [(one["kind"], one.get("messageId")) for one in found] == [
            ("mention", both_at_once), ("reply", reply), ("invitation", None),
        ]  # fmt: skip


@both
async def test_reaction_concerns_the_author_once_and_goes_when_it_is_taken_back(daemon: Daemon) -> None:
    ada, bob = await people(daemon, "ada", "bob")
    room = await room_of(daemon, ada, bob)
    async with daemon.connect(ada) as at_ada, daemon.connect(bob) as at_bob:
        message = await say(at_bob, room, "tea?")
        for emoji in ("👍", "🎉"):
            assert (await at_ada.ask(type="add_reaction", messageId=message, emoji=emoji))["type"] == "ok"
        told = (await at_bob.wait_for("notification"))["notification"]
        assert (told["kind"], told["emoji"], told["messageId"], told["excerpt"]) == ("reaction", "👍", message, "tea?")
        assert len(await settle(daemon, at_ada, bob, room, 1)) == 2
        await at_ada.ask(type="remove_reaction", messageId=message, emoji="👍")
        assert [one["kind"] for one in await wait_for(daemon, bob, 1)] == ["mention", "invitation"]


@both
async def test_direct_messages_tell_their_recipient_once_until_they_are_read(daemon: Daemon) -> None:
    ada, bob = await people(daemon, "ada", "bob")
    async with daemon.connect(ada) as at_ada, daemon.connect(bob) as at_bob:
        first = await at_ada.ask(type="send_dm", recipientId=bob.id, content="psst, @bob")
        told = (await at_bob.wait_for("notification"))["notification"]
        assert (told["kind"], told["roomId"], told["excerpt"]) == ("direct", first["roomId"], "psst, @bob")
        assert "roomName" not in told
        second = await at_ada.ask(type="send_dm", recipientId=bob.id, content="are you there?")
        assert [one["messageId"] for one in await wait_for(daemon, bob, 1)] == [first["messageId"]]
        assert (await at_bob.ask(type="mark_as_read", roomId=first["roomId"], seq=second["seq"]))["type"] == "ok"
        assert [one["read"] for one in await wait_for(daemon, bob, 0)] == [True]
        third = await at_ada.ask(type="send_dm", recipientId=bob.id, content="still there?")
        assert (await wait_for(daemon, bob, 1))[0]["messageId"] == third["messageId"]
        assert (await page(daemon, ada))["notifications"] == []


@both
async def test_deleted_message_shows_no_content(daemon: Daemon) -> None:
    ada, bob = await people(daemon, "ada", "bob")
    room = await room_of(daemon, ada, bob)
    async with daemon.connect(ada) as client:
        message = await say(client, room, "@bob " + "secret " * 100)
        [told, _] = await wait_for(daemon, bob, 1)
        assert len(told["excerpt"]) == 140
        assert (await client.ask(type="delete_message", messageId=message))["type"] == "ok"
        [told, _] = await wait_for(daemon, bob, 1)
        assert (told["messageId"], "excerpt" in told) == (message, False)


@both
async def test_who_is_brought_in_is_told_and_who_has_left_sees_nothing_more_of_the_room(daemon: Daemon) -> None:
    ada, bob = await people(daemon, "ada", "bob")
    async with daemon.connect(bob) as client, daemon.connect(ada) as at_ada:
        room = await daemon.create_room(ada, name="plans", kind="private", members=[bob.id])
        told = (await client.wait_for("notification"))["notification"]
        assert (told["kind"], told["roomName"], told["actorName"]) == ("invitation", "plans", "ada")
        await say(at_ada, room, "hello @bob")
        await wait_for(daemon, bob, 2)
        await client.ask(type="leave_room", roomId=room)
        assert await page(daemon, bob) == {"notifications": [], "unread": 0, "hasMore": False}


@both
async def test_invitation_is_told_until_it_is_taken_back(daemon: Daemon) -> None:
    ada, bob = await people(daemon, "ada", "bob")
    room = await daemon.create_room(ada, name="plans", kind="private")
    body = {"userId": bob.id, "invite": True}
    for _ in range(2):
        assert (await daemon.http("POST", f"/api/rooms/{room}/members", body, token=ada.token)).status in (200, 201)
    [told] = await wait_for(daemon, bob, 1)
    assert (told["kind"], told["roomName"], told["actorName"]) == ("invitation", "plans", "ada")
    daemon.rows("DELETE FROM room_invitations")
    assert await wait_for(daemon, bob, 0) == []


@both
async def test_member_chooses_what_to_hear_of_a_room(daemon: Daemon) -> None:
    ada, bob, cy, eve = await people(daemon, "ada", "bob", "cyd", "eve")
    room = await room_of(daemon, ada, bob, cy)
    path = f"/api/rooms/{room}/members/me"
    assert (await daemon.http("GET", path, token=bob.token)).json() == {"notify": "all"}
    for notify in ("loud", None):
        assert (await daemon.http("PATCH", path, {"notify": notify}, token=bob.token)).status == 422
    for method, body in (("GET", None), ("PATCH", {"notify": "none"})):
        for place in (path, f"/api/rooms/{new_id()}/members/me"):
            assert (await daemon.http(method, place, body, token=eve.token)).json()["code"] == "not_found"
        public = f"/api/rooms/{await daemon.create_room(ada, kind='public')}/members/me"
        answer = await daemon.http(method, public, body, token=eve.token)
        assert (answer.status, answer.json()["code"]) == (403, "not_a_member")
    async with daemon.connect(ada) as at_ada, daemon.connect(bob) as at_bob:
        message = await say(at_bob, room, "tea?")
        assert (await daemon.http("PATCH", path, {"notify": "mentions"}, token=bob.token)).json() == {
            "notify": "mentions"
        }
        await at_ada.ask(type="add_reaction", messageId=message, emoji="👍")
        await say(at_ada, room, "yes", replyTo=message)
        kinds = [one["kind"] for one in await settle(daemon, at_ada, bob, room, 1)]
        assert kinds == ["reply", "invitation"]
        assert (await daemon.http("PATCH", path, {"notify": "none"}, token=bob.token)).status == 200
        await say(at_ada, room, "@bob", replyTo=message)
        # not by bob: who writes has read what was before
        await settle(daemon, at_ada, cy, room, 0)
        assert (await page(daemon, bob))["unread"] == 2


@both
async def test_reading_marks_some_or_all_and_only_ones_own(daemon: Daemon) -> None:
    ada, bob = await people(daemon, "ada", "bob")
    room = await room_of(daemon, ada, bob)
    async with daemon.connect(ada) as client:
        for number in range(4):
            await say(client, room, f"{number} @bob")
        found = await wait_for(daemon, bob, 4)
        path, newest = "/api/notifications/read", found[0]["id"]
        assert (await daemon.http("POST", path, {"ids": [newest]}, token=ada.token)).json() == {"unread": 0}
        assert (await daemon.http("POST", path, {"ids": [newest]}, token=bob.token)).json() == {"unread": 3}
        assert (await daemon.http("POST", path, {"ids": []}, token=bob.token)).json() == {"unread": 3}
        assert [one["read"] for one in (await page(daemon, bob))["notifications"]] == [True, *[False] * 3, True]
        assert (await daemon.http("POST", path, {"ids": "all"}, token=bob.token)).status == 422
        assert (await daemon.http("POST", path, {}, token=bob.token)).json() == {"unread": 0}
        assert (await page(daemon, bob))["unread"] == 0


@both
async def test_list_goes_from_the_newest_by_cursor(daemon: Daemon) -> None:
    ada, bob = await people(daemon, "ada", "bob")
    room = await room_of(daemon, ada, bob)
    async with daemon.connect(ada) as client:
        for number in range(4):
            await say(client, room, f"{number} @bob")
        everything = await wait_for(daemon, bob, 4)
        first = await page(daemon, bob, "?limit=3")
        assert (first["notifications"], first["hasMore"]) == (everything[:3], True)
        second = await page(daemon, bob, f"?limit=3&after={first['after']}")
        assert (second["notifications"], second["hasMore"]) == (everything[3:], False)
        assert [one["excerpt"] for one in everything[:4]] == ["3 @bob", "2 @bob", "1 @bob", "0 @bob"]
    assert (await daemon.http("GET", "/api/notifications?limit=0", token=bob.token)).status == 422
    assert (await daemon.http("GET", "/api/notifications")).status == 401


async def test_user_on_another_node_is_told_once(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 2) as nodes:
        ada, bob = [await nodes[0].register(name) for name in ("ada", "bob")]
        async with nodes[0].connect(ada) as at_ada, nodes[1].connect(bob) as at_bob:
            room = await nodes[0].create_room(ada, members=[bob.id])
            assert (await at_bob.wait_for("notification"))["notification"]["kind"] == "invitation"
            await say(at_ada, room, "hello @bob")
            assert (await at_bob.wait_for("notification"))["notification"]["excerpt"] == "hello @bob"
            assert len((await page(nodes[1], bob))["notifications"]) == 2


async def test_what_was_noted_before_a_stop_is_stored_still(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        ada, bob = await people(daemon, "ada", "bob")
        room = await room_of(daemon, ada, bob)
        async with daemon.connect(ada) as client:
            await say(client, room, "@bob")
    async with open_daemon(tmp_path) as daemon:
        assert len((await page(daemon, bob))["notifications"]) == 2


async def test_what_cannot_be_stored_now_is_stored_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, tries = Notifications.add, 0

    async def add_at_last(self: Notifications, concerns: Sequence[Concern], *, now_ms: int) -> list[NotificationRow]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable("The test has cut the line.")
        return await add(self, concerns, now_ms=now_ms)

    monkeypatch.setattr("chatd.notifier.RETRY_S", 0.01)
    monkeypatch.setattr(Notifications, "add", add_at_last)
    async with open_daemon(tmp_path) as daemon:
        ada, bob = await people(daemon, "ada", "bob")
        room = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as client:
            await say(client, room, "one @bob")
            await say(client, room, "two @bob")
        assert [one.get("excerpt") for one in await wait_for(daemon, bob, 3)] == ["two @bob", "one @bob", None]
        assert tries >= 3


async def test_batch_that_is_a_defect_does_not_stop_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> list[NotificationRow]:
        raise Conflict("a deliberate defect")

    with own_logging():
        telemetry.configure_logging("error", "json", log := StringIO())
        async with open_daemon(tmp_path) as daemon:
            ada, bob = await people(daemon, "ada", "bob")
            with monkeypatch.context() as patch:
                patch.setattr(Notifications, "add", fail)
                room = await daemon.create_room(ada, members=[bob.id])
                with trio.fail_after(30):
                    while "notifications_failed" not in log.getvalue():  # noqa: ASYNC110 - a log wakes nobody
                        await trio.sleep(0.01)
            async with daemon.connect(ada) as client:
                await say(client, room, "hello @bob")
            assert len(await wait_for(daemon, bob, 1)) == 1


@both
async def test_switched_off_none_are_made(tmp_path: Path, back_ends: str) -> None:
    async with open_daemon(tmp_path, SERVER_FEATURES_NOTIFICATIONS="false", limits=False) as daemon:
        ada, bob = await people(daemon, "ada", "bob")
        room = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as client:
            await say(client, room, "hello @bob")
    async with open_daemon(tmp_path, limits=False) as daemon:
        assert (await page(daemon, bob))["notifications"] == []


# The queue


def event(body: bytes, kind: str = "new_message") -> Event:
    return Event("room", 1, kind, body, "ada")


def test_only_what_may_concern_somebody_waits() -> None:
    rung: list[bool] = []
    notifier = Notifier(on_work=lambda: rung.append(True))
    for body in (b'{"type":"new_message","message":{"content":"hello"}}', b"{}"):
        notifier.note(event(body))
        notifier.note(event(b"@", "message_edited"))
    assert not notifier.waiting
    assert not rung
    some = [event(b"@"), event(b'"replyTo":""'), event(b'{"type":"new_dm"}'), event(b"{}", "reaction_added")]
    for one in some:
        notifier.note(one)
    assert len(rung) == 4
    taken = notifier.take(3)
    notifier.put_back(taken)
    assert notifier.take(9) == some


def test_queue_is_bounded() -> None:
    notifier = Notifier(on_work=lambda: None)
    for _ in range(MAX_WAITING + 5):
        notifier.note(event(b"@"))
    assert notifier.dropped == 5
    assert [notifier.take_dropped() for _ in range(2)] == [5, 0]
    assert len(notifier.take(2 * MAX_WAITING)) == MAX_WAITING


# The store


async def write_message(store: Store, room: str, sender: Account) -> str:
    async with store.open_journal() as written:
        return (await written.journal.write(post(sender, room))).message_id


async def test_direct_messages_are_one_notification_until_it_is_read(store: Store) -> None:
    notifications = Notifications(store.database, store.queries)
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room = await store.add_room(ada, bob, kind="direct")

    async def write() -> list[str]:
        message = await write_message(store, room, ada)
        added = await notifications.add([Concern("direct", room, message, ada.id)] * 2, now_ms=1)
        return [row.user_id for row in added]

    assert await write() == [bob.id]
    assert await write() == []
    read = Query("test.read", "UPDATE room_members SET read_seq = 2 WHERE room_id = :room_id")
    await store.database.transaction(lambda tx: tx.run(read, {"room_id": room}))
    assert (await notifications.page(bob.id, before="", limit=9))[1] == 0
    assert await write() == [bob.id]
    assert (await notifications.page(bob.id, before="", limit=9))[1] == 1


async def test_batch_is_two_statements_whatever_its_size(store: Store) -> None:
    asked = Counter[str]()
    notifications = Notifications(CountedDatabase(store.database, asked), store.queries)
    users = [await store.add_user(f"user{number}") for number in range(30)]
    room = await store.add_room(*users)
    message = await write_message(store, room, users[0])
    concerns = [Concern("mention", room, message, users[0].id, target=f"user{number}") for number in range(1, 30)]
    assert len(await notifications.add(concerns, now_ms=1)) == 29
    assert asked == {"notifications.reached": 1, "notifications.add": 1}


async def test_list_and_count_come_by_index(store: Store) -> None:
    how = {"sqlite": "EXPLAIN QUERY PLAN ", "postgres": "EXPLAIN "}[store.database.dialect]
    known: dict[str, Value] = {"user_id": "u", "before": "g", "limit": 50}
    for name in ("notifications.page", "notifications.unread", "notifications.forget"):
        plan = Query("test.plan", how + store.queries[name].text)
        params = {key: known[key] for key in plan.parameters}

        async def work(tx: Transaction, plan: Query = plan, params: dict[str, Value] = params) -> list[Row]:
            if store.database.dialect == "postgres":
                await tx.script("SET LOCAL enable_seqscan = off")
            return await tx.rows(plan, params)

        lines = [str(row[-1]) for row in await store.database.transaction(work)]
        assert any("notifications" in line for line in lines)
        assert not [line for line in lines if "Seq Scan on notifications" in line or "SCAN notifications" in line]


async def test_old_ones_are_forgotten(store: Store) -> None:
    notifications = Notifications(store.database, store.queries)
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room = await store.add_room(ada, bob)
    await notifications.add([Concern("invitation", room, None, ada.id, target=bob.id)], now_ms=1)
    now_ms = int(new_id()[:8] + new_id()[9:13], 16)
    await notifications.forget(now_ms - 60_000)
    assert len((await notifications.page(bob.id, before="", limit=9))[0]) == 1
    await notifications.forget(now_ms + 60_000)
    assert (await notifications.page(bob.id, before="", limit=9))[0] == []


async def test_what_is_being_made_at_the_end_is_made(store: Store) -> None:
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    room = await store.add_room(ada, bob)
    async with store.open_journal() as written:
        await written.journal.write(post(ada, room, "hello @bob"))
    bell = Bell()
    notifier = Notifier(on_work=bell.ring)
    chat = SimpleNamespace(
        notifier=notifier,
        notifications=Notifications(store.database, store.queries),
        options=SimpleNamespace(features=Features(), notifications=NotificationOptions()),
        bus=LocalBus(trio.current_time),
        clock=lambda: 5000,
    )
    store.database.shut()
    writes = store.database.writes
    async with trio.open_nursery() as nursery, open_notifier(cast("Chat", chat), bell):
        notifier.note(written.published[0])
        with trio.fail_after(30):
            while store.database.writes == writes:  # noqa: ASYNC110 - what comes to the gate sets no event
                await trio.sleep(0.01)

        async def open_soon() -> None:
            await trio.testing.wait_all_tasks_blocked()
            store.database.open()

        nursery.start_soon(open_soon)
    stored = await store.database.rows(Query("test.notified", "SELECT user_id FROM notifications"), {})
    assert stored == [(bob.id,)]
