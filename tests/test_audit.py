"""The audit trail: who did what, when and from where, in the log and in the database, and never what was said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd.chat.audit import MAX_WAITING, Audit, enter
from chatd.clock import wall_clock_ms
from chatd.configfile import load_config
from chatd.ids import new_id
from chatd.store.audit import AuditEvent, AuditTrail, Filter
from chatd.trail import show_trail
from tests.daemon import NO_FILE, ON_BOTH_BACK_ENDS, environment, open_daemon
from tests.shell import Shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import Daemon
    from tests.stores import Store

pytestmark = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path, limits=False) as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def trail(daemon: Daemon) -> list[dict[str, Any]]:
    rows = daemon.rows(
        "SELECT action, user_id, connection_id, room_id, address, user_agent, detail FROM audit_events ORDER BY id"
    )
    names = ("action", "user", "connection", "room", "address", "agent", "detail")
    return [dict(zip(names, row, strict=True)) | {"detail": json.loads(row[6])} for row in rows]


async def wait_for(daemon: Daemon, action: str, *, count: int = 1) -> list[dict[str, Any]]:
    """The events of a kind, once there are so many."""
    with trio.fail_after(30):
        while True:
            found = [event for event in trail(daemon) if event["action"] == action]
            if len(found) >= count:
                return found
            await trio.sleep(0.05)


async def test_trail_of_a_scripted_hour_reads_as_the_script(daemon: Daemon) -> None:
    agent = {"User-Agent": "script/1.0"}
    body = {"email": "ada@example.org", "username": "ada", "password": "correct horse"}
    granted = (await daemon.http("POST", "/api/auth/register", body, headers=agent)).json()
    ada, token = granted["user"]["id"], granted["token"]
    login = {"email": "ada@example.org", "password": "correct horse"}
    await daemon.http("POST", "/api/auth/login", {**login, "password": "wrong horse"}, headers=agent)
    again = (await daemon.http("POST", "/api/auth/login", login, headers=agent)).json()
    bob = await daemon.register("bob")
    room = (await daemon.http("POST", "/api/rooms", {"name": "club"}, token=token, headers=agent)).json()["id"]
    members = f"/api/rooms/{room}/members"
    assert (await daemon.http("POST", members, {"userId": bob.id}, token=token, headers=agent)).status < 300
    sent = await daemon.http("POST", f"/api/rooms/{room}/messages", {"content": "hello"}, token=token, headers=agent)
    assert (await daemon.http("PATCH", f"/api/rooms/{room}", {"name": "x"}, token=bob.token)).status == 403
    answer = await daemon.http("DELETE", f"{members}/{bob.id}", {"ban": True}, token=token, headers=agent)
    assert answer.status < 300, answer.body
    refreshing = {"refreshToken": again["refreshToken"]}
    await daemon.http("POST", "/api/auth/refresh", refreshing, headers=agent)
    await daemon.http("POST", "/api/auth/refresh", refreshing, headers=agent)
    await daemon.http("POST", "/api/auth/logout", token=token, headers=agent)
    await wait_for(daemon, "signed_out")
    told = [(event["action"], event["user"], event["room"]) for event in trail(daemon)]
    assert told == [
        ("registered", ada, ""),
        ("sign_in_failed", ada, ""),
        ("signed_in", ada, ""),
        ("registered", bob.id, ""),
        ("room_created", ada, room),
        ("member_added", ada, room),
        ("message_sent", ada, room),
        ("forbidden", bob.id, ""),
        ("member_removed", ada, room),
        ("refresh_token_reused", ada, ""),
        ("signed_out", ada, ""),
    ]
    for event in trail(daemon):
        assert event["address"] == "127.0.0.1"
        assert event["connection"]
        assert event["agent"] == ("" if event["user"] == bob.id else "script/1.0")
    by_action = {event["action"]: event["detail"] for event in trail(daemon)}
    assert by_action["message_sent"] == {"message": sent.json()["id"]}
    assert by_action["member_removed"] == {"member": bob.id, "reason": "banned"}
    assert by_action["forbidden"] == {"code": "forbidden", "asked": f"PATCH /api/rooms/{room}"}


async def test_connection_leaves_who_came_what_was_sent_and_what_was_refused(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    lobby = await daemon.lobby(ada)
    async with daemon.connect(ada, headers={"User-Agent": "wscat"}) as client:
        await client.ask(type="join_room", roomId=lobby)
        ack = await client.ask(type="send_message", roomId=lobby, content="hello")
        await client.ask(type="send_message", roomId="nowhere", content="hello")
    async with daemon.connect() as stranger:
        await stranger.send(type="authenticate", token="no token")
        await stranger.wait_closed()
    [came] = await wait_for(daemon, "authenticated")
    [sent] = await wait_for(daemon, "message_sent")
    [refused] = await wait_for(daemon, "forbidden")
    [strange] = await wait_for(daemon, "authentication_refused")
    for event in (came, sent, refused):
        assert (event["user"], event["connection"], event["agent"]) == (ada.id, came["connection"], "wscat")
    assert (sent["room"], sent["detail"]) == (lobby, {"message": ack["messageId"]})
    assert refused["detail"] == {"code": "not_a_member"}
    assert strange["user"] == ""
    assert strange["detail"] == {"code": "unauthenticated"}


async def test_refusals_by_limits_are_noted(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, LIMITS_SIGN_INS_PER_HOUR="1") as daemon:
        await daemon.register("ada")
        await daemon.http("POST", "/api/auth/login", {"email": "ada@example.org", "password": "x"})
        [event] = await wait_for(daemon, "limited")
        assert event["detail"] == {"code": "rate_limited", "asked": "POST /api/auth/login"}


async def test_upload_that_is_refused_is_noted(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    parts = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.exe"\r\n\r\n'
        + b"MZ\x90" * 100
        + b"\r\n--b--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    assert (await daemon.http("POST", "/api/upload", parts, token=ada.token, headers=kind)).status == 422
    [event] = await wait_for(daemon, "upload_refused")
    assert event["user"] == ada.id
    assert event["detail"]["code"] == "file_rejected"


async def test_moderator_who_removes_a_message_is_noted_and_who_takes_back_their_own_is_not(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room = await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(bob) as his, daemon.connect(ada) as hers:
        own, other = [
            (await his.ask(type="send_message", roomId=room, content=text))["messageId"] for text in ("own", "other")
        ]
        await his.ask(type="delete_message", messageId=own)
        await hers.ask(type="delete_message", messageId=other)
    [event] = await wait_for(daemon, "message_removed")
    assert (event["user"], event["room"], event["detail"]) == (ada.id, room, {"message": other, "sender": bob.id})


async def test_connection_that_is_closed_for_too_many_refusals_is_noted(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, LIMITS_REFUSALS_PER_MINUTE="3") as daemon:
        async with daemon.connect() as client:
            for _ in range(5):
                await client.send_text("no JSON")
            assert (await client.wait_closed())[0] == 4503
        [event] = await wait_for(daemon, "connection_penalised")
        assert event["detail"] == {"code": "bad_message"}


async def test_messages_may_be_left_out(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False, AUDIT_MESSAGES="false") as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        path = f"/api/rooms/{room}/messages"
        assert (await daemon.http("POST", path, {"content": "x"}, token=ada.token)).status == 201
        await daemon.http("POST", "/api/auth/logout", token=ada.token)
        await wait_for(daemon, "signed_out")
        assert "message_sent" not in {event["action"] for event in trail(daemon)}


def test_what_is_done_from_the_shell_is_noted(tmp_path: Path, shell: Shell) -> None:
    assert shell.run("user", "add", "ada", "--email", "ada@example.org", stdin="correct horse\n").status == 0
    for command in (("token", "ada"), ("room", "create", "club"), ("ban", "club", "ada"), ("user", "disable", "ada")):
        assert shell.run(*command).status == 0
    told = shell.run("audit").out.splitlines()
    assert [line.split()[1] for line in told] == [
        "user_added", "token_issued", "room_created", "member_removed", "user_disabled"
    ]  # fmt: skip
    assert all(line.endswith("the command line") for line in told)
    assert shell.run("audit", "--action", "token_issued", "--since", "1h").out.split()[1] == "token_issued"
    refused = shell.run("audit", "--since", "whenever")
    assert refused.status == 1
    assert "--since whenever: give a time" in refused.err


def test_command_takes_names_and_says_where_there_is_nobody_of_that_name(tmp_path: Path, shell: Shell) -> None:
    shell.told("user", "add", "ada", "--email", "ada@example.org", stdin="correct horse\n")
    ids = [
        shell.told("room", "create", "club"),
        shell.told("room", "create", "twins"),
        shell.told("room", "create", "twins"),
    ]
    for given in ("club", ids[0]):
        [line] = shell.told("audit", "--room", given).splitlines()
        assert line.split()[1:4] == ["room_created", "-", ids[0]]
    assert shell.told("room", "delete", "club")
    assert len(shell.told("audit", "--room", ids[0]).splitlines()) == 2
    for arguments, said in (
        (("--user", "nobody"), "--user nobody: there is no such user"),
        (("--room", "nowhere"), "--room nowhere: there is no such room"),
        (("--room", "twins"), "--room twins: several rooms have this name"),
        (("--action", "juggled"), "--action juggled: there is no such action; there are registered, "),
    ):
        refused = shell.run("audit", *arguments)
        assert (refused.status, refused.out, said in refused.err) == (1, "", True), refused


async def test_command_filters_and_follows(daemon: Daemon) -> None:
    config = load_config(NO_FILE, environment(daemon.data_dir))
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    await wait_for(daemon, "registered", count=2)
    lines: list[str] = []
    arrived = trio.Event()

    def write(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            arrived.set()

    async def show(
        *, user: str = "", action: str = "", since: str = "1h", most: int = 10, is_followed: bool = False
    ) -> None:
        lines.clear()
        await show_trail(
            config, user=user, action=action, room="", since=since, most=most, is_followed=is_followed,
            write=write,
        )  # fmt: skip

    await show()
    assert [line.split()[1:3] for line in lines] == [["registered", ada.id], ["registered", bob.id]]
    await show(user="ADA")
    assert [line.split()[2] for line in lines] == [ada.id]
    await show(most=1)
    assert [line.split()[2] for line in lines] == [bob.id]
    await show(action="signed_out")
    assert lines == []
    async with trio.open_nursery() as nursery:

        async def follow() -> None:
            await show(is_followed=True)

        nursery.start_soon(follow)
        await daemon.register("eve")
        with trio.fail_after(30):
            await arrived.wait()
        nursery.cancel_scope.cancel()


def events(count: int, *, at: int = 0) -> list[AuditEvent]:
    return [AuditEvent(new_id(), at, "signed_in", f"u{n % 2}", "", "r", "::1", "agent", "{}") for n in range(count)]


class TestTheQueue:
    """What is noted and not written yet."""

    def test_what_comes_while_too_much_waits_is_dropped_and_counted_messages_first(self) -> None:
        audit = Audit(lambda: 1)
        for _ in range(MAX_WAITING):
            audit.note_message(None, "room", "message")
        assert (audit.waiting, audit.dropped) == (MAX_WAITING // 2, MAX_WAITING // 2)
        audit.note("signed_in", user="ada")
        assert audit.waiting == MAX_WAITING // 2 + 1
        for _ in range(MAX_WAITING):
            audit.note("signed_in", user="ada")
        assert audit.waiting == MAX_WAITING
        assert audit.dropped == MAX_WAITING // 2 + MAX_WAITING // 2 + 1

    def test_what_could_not_be_written_keeps_its_place(self) -> None:
        audit = Audit(lambda: 1)
        for user in "abc":
            audit.note("signed_in", user=user)
        taken = audit.take(2)
        audit.put_back(taken)
        assert [event.user_id for event in audit.take(10)] == ["a", "b", "c"]

    async def test_place_holds_for_the_task_that_entered_it(self) -> None:
        audit = Audit(lambda: 1)

        async def act(address: str) -> None:
            enter(address, "agent " * 100, connection_id=f"c{address}", user_id=f"u{address}")
            await trio.lowlevel.checkpoint()
            audit.note("room_created", room="r")

        async with trio.open_nursery() as nursery:
            for address in ("::1", "::2"):
                nursery.start_soon(act, address)
        noted = audit.take(10)
        assert {(e.address, e.connection_id, e.user_id) for e in noted} == {
            ("::1", "c::1", "u::1"),
            ("::2", "c::2", "u::2"),
        }
        assert all(len(event.user_agent) == 200 for event in noted)


class TestTheStore:
    """What is kept of it, on both databases."""

    async def test_pages_are_the_newest_by_filter_in_the_order_of_time(self, store: Store) -> None:
        kept, some = AuditTrail(store.database, store.queries), events(5, at=1000)
        await kept.add(some)
        assert await kept.page(Filter()) == some
        assert await kept.page(Filter(), limit=2) == some[3:]
        assert await kept.page(Filter(), after=some[2].id) == some[3:]
        assert await kept.page(Filter(), before=some[2].id) == some[:2]
        assert await kept.page(Filter(user_id="u1")) == [some[1], some[3]]
        assert await kept.page(Filter(action="registered")) == []
        assert await kept.page(Filter(room_id="r", since_ms=1000)) == some
        assert await kept.page(Filter(since_ms=1001)) == []

    async def test_what_is_too_old_is_forgotten(self, store: Store) -> None:
        kept, some = AuditTrail(store.database, store.queries), events(3)
        await kept.add(some)
        await kept.forget(0)
        assert await kept.page(Filter()) == some
        await kept.forget(wall_clock_ms() + 60_000)
        assert await kept.page(Filter()) == []
