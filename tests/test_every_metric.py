"""Everything happens once to a daemon that people use, and after it every metric has moved: none counts nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from chatd import audit as audit_writer
from chatd import notifier
from chatd.bus import broadcasts
from chatd.bus.local import LocalBus
from chatd.chat import audit, notifications
from chatd.metrics import Metrics
from chatd.store import search_index
from chatd.store.accounts import Accounts
from chatd.store.journal import Journal
from tests.daemon import open_daemon
from tests.pictures import form, jpeg, upload, uploaded
from tests.rawclient import open_raw

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    from chatd.store.acts import Act
    from chatd.store.entries import Entry
    from tests.daemon import Client, Daemon, SignedIn

#: The version is there from the start.
CONSTANT: Final = {"chatd_info"}
#: What has to move for each of these labels, too. The rest of the codes has tests of its own where it is used.
LABELLED: Final = (
    "chat_messages_total", "chatd_active_rooms", "chatd_connection_states", "chatd_queue", "chatd_dropped_total",
    "chatd_part_ready", "chatd_database_seconds_count", "chatd_uploads_total",
)  # fmt: skip
REFUSALS: Final = ("bad_message", "not_found", "not_a_member", "content_too_long", "file_rejected", "internal")
#: More than the kernel takes for who does not read.
LARGE: Final = "x" * 10_000


def series_of(text: str) -> dict[str, float]:
    """Each series with its value."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


@dataclass
class Watch:
    """The series that were ever seen to be another than that of a daemon to which nothing has happened."""

    daemon: Daemon
    untouched: dict[str, float] = field(default_factory=lambda: series_of(Metrics().render()[0].decode()))
    moved: set[str] = field(default_factory=set)

    async def look(self) -> dict[str, float]:
        numbers = series_of((await self.daemon.http("GET", "/metrics")).body.decode())
        self.moved |= {name for name, value in numbers.items() if value != self.untouched.get(name)}
        return numbers

    async def until(self, *names: str) -> None:
        """Look until each of these has been seen to move."""
        with trio.move_on_after(30):
            while not self.moved.issuperset(names):
                await self.look()
                await trio.sleep(0.02)
        assert set(names) - self.moved == set()


def queue(name: str) -> str:
    return f'chatd_queue{{queue="{name}"}}'


def dropped(name: str) -> str:
    return f'chatd_dropped_total{{queue="{name}"}}'


def state(name: str) -> str:
    return f'chatd_connection_states{{state="{name}"}}'


async def talk(daemon: Daemon, ada: SignedIn, client: Client, room: str) -> None:
    """A message of each type, and everything that is refused."""
    picture, file = await uploaded(daemon, ada, jpeg(), "photo.jpg"), await uploaded(daemon, ada)
    for fields in (
        {"messageType": "text"},
        {"messageType": "code"},
        {"messageType": "image", "fileId": picture["id"]},
        {"messageType": "file", "fileId": file["id"]},
    ):
        reply = await client.ask(type="send_message", roomId=room, content="look", **fields)
        assert reply["type"] == "message_ack", reply
    await client.send_text("{")
    await client.ask(type="send_message", roomId="nowhere", content="x")
    await client.ask(type="send_message", roomId=room, content="x" * 10_001)
    await upload(daemon, ada, b"MZ\x90" * 100, "a.exe")
    await daemon.http("GET", "/api/rooms/nowhere", token=ada.token)


async def break_an_upload_off(watch: Watch, user: SignedIn) -> None:
    body, headers = form(b"x" * 1000)
    lines = {"Host": "x", "Authorization": f"Bearer {user.token}", **headers}
    head = "POST /api/upload HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    async with await trio.open_tcp_stream("127.0.0.1", watch.daemon.http_port) as stream:
        await stream.send_all(head.encode() + b"\r\n" + body[:-500])
        await watch.until("chatd_uploads_under_way")
    await watch.until('chatd_uploads_total{end="broken_off"}')


async def keep_the_journal_waiting(watch: Watch, client: Client, room: str, patch: pytest.MonkeyPatch) -> None:
    gate, commit = trio.Event(), Journal._commit

    async def wait_and_commit(journal: Journal, entries: Sequence[Entry | Act], **options: int) -> None:
        await gate.wait()
        await commit(journal, entries, **options)

    with patch.context() as patched:
        patched.setattr(Journal, "_commit", wait_and_commit)
        for number in range(2):
            await client.send(type="send_message", roomId=room, content="x", id=f"waits{number}")
        await watch.until("chatd_journal_waiting", queue("acknowledgements"))
    gate.set()
    await client.wait_for("message_ack", within_s=30)


async def lose_an_event_of_the_bus(client: Client, room: str, patch: pytest.MonkeyPatch) -> None:
    with patch.context() as patched:
        patched.setattr(LocalBus, "publish", lambda *_: None)
        await client.ask(type="send_message", roomId=room, content="lost")
    await client.ask(type="send_message", roomId=room, content="found")


async def fail_unexpectedly(daemon: Daemon, ada: SignedIn, patch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError

    with patch.context() as patched:
        patched.setattr(Accounts, "profiles", fail)
        assert (await daemon.http("GET", f"/api/users?ids={ada.id}", token=ada.token)).status == 500


async def read_slowly(watch: Watch, room: str, reader: SignedIn, client: Client) -> None:
    """One that does not read, until ephemeral events are kept from it; then it goes."""
    headers = {"Authorization": f"Bearer {reader.token}"}
    async with open_raw(watch.daemon.websocket_port, headers, receive_buffer=4096):
        with trio.fail_after(30):
            while (await watch.look())["chatd_largest_outbox_bytes"] < 600_000:
                for _ in range(20):
                    await client.ask(type="send_message", roomId=room, content=LARGE)
        await client.send(type="typing_start", roomId=room)
        await client.ask(type="ping")
    await watch.until("chatd_shed_total")


async def be_closing(watch: Watch, user: SignedIn) -> None:
    """One whose session ends and who says nothing to it, beside one that says nothing at all."""
    headers = {"Authorization": f"Bearer {user.token}"}
    async with open_raw(watch.daemon.websocket_port, headers) as raw:
        await raw.receive()
        stream = await trio.open_tcp_stream("127.0.0.1", watch.daemon.websocket_port)
        async with stream:
            await watch.until(state("upgrading"))
        await watch.daemon.http("POST", "/api/auth/logout", token=user.token)
        await watch.until(state("closing"))


async def be_too_much(watch: Watch, ada: SignedIn, client: Client, room: str, patch: pytest.MonkeyPatch) -> None:
    """More than is kept, everywhere where something is dropped then."""
    mention = {"type": "send_message", "roomId": room, "content": "@bob"}
    for place in (broadcasts, notifications, audit):
        with patch.context() as patched:
            patched.setattr(place, "MAX_WAITING", 0)
            async with watch.daemon.connect(await watch.daemon.register(f"new{place.__name__[-5:]}")):
                await client.ask(**mention)
                await watch.daemon.http("POST", "/api/rooms", {"name": "more"}, token=ada.token)
                if place is broadcasts:
                    await client.ask(type="update_status", status="away")
                    await watch.until(dropped("broadcasts"))
    await watch.daemon.http("POST", "/api/rooms", {"name": "more"}, token=ada.token)
    await watch.until(dropped("notifications"), "chatd_audit_dropped_total")


async def test_every_metric_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"TELEMETRY_SLOW_MS": "1", "WEBSOCKET_OUTBOX_BYTES": "1000000", "WEBSOCKET_CLOSE_TIMEOUT_S": "60"}
    async with open_daemon(tmp_path, limits=False, **options) as daemon:
        watch = Watch(daemon)
        ada, bob, eve = [await daemon.register(name) for name in ("ada", "bob", "eve")]
        room = await daemon.create_room(ada, members=[bob.id, eve.id])
        await daemon.create_room(ada, "closed", kind="private")
        async with daemon.connect(ada) as client, daemon.connect():
            await talk(daemon, ada, client, room)
            assert (await client.ask(type="send_dm", recipientId=bob.id, content="hello"))["type"] == "message_ack"
            await watch.until(state("unauthenticated"), "chatd_loop_lag_seconds_count", "chatd_canary_seconds_count")
            await break_an_upload_off(watch, ada)
            await keep_the_journal_waiting(watch, client, room, monkeypatch)
            await lose_an_event_of_the_bus(client, room, monkeypatch)
            await fail_unexpectedly(daemon, ada, monkeypatch)
            monkeypatch.setattr(search_index, "BATCH", 1)
            await read_slowly(watch, room, eve, client)
            await watch.until("chatd_search_lag_seconds", "chatd_repairs_total")
            await be_closing(watch, bob)
            await daemon.http("GET", "/", headers={"Upgrade": "nothing"})
            await refused_upgrade(daemon)
            await be_too_much(watch, ada, client, room, monkeypatch)
            # From here on they wait for ever.
            for writer in (notifier, audit_writer):
                monkeypatch.setattr(writer, "GATHER_S", 3600)
            with trio.fail_after(30):
                while not watch.moved.issuperset((queue("notifications"), queue("audit"))):
                    await client.ask(type="send_message", roomId=room, content="@eve")
                    await watch.look()
    everything = Metrics().render()[0].decode()
    families = set(re.findall(r"^# TYPE (\w+) ", everything, re.MULTILINE))
    moved = {re.sub(r"\{.*|_(count|sum|bucket)\b.*", "", name) for name in watch.moved}
    assert {name for name in families - moved - CONSTANT if not name.startswith("chatd_process_")} == set()
    labelled = {name for name in watch.untouched if name.partition("{")[0] in LABELLED}
    assert labelled - watch.moved == set()
    assert {f'chat_errors_total{{code="{code}"}}' for code in REFUSALS} - watch.moved == set()


async def refused_upgrade(daemon: Daemon) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", daemon.websocket_port) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 4" in await stream.receive_some()
