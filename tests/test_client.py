"""The reference client against real daemons: what its user sees when all is well, and when it is not."""

from __future__ import annotations

import json
import random
import signal
import ssl
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio_websocket import WebSocketRequest, serve_websocket

from chatd.client import (
    Checkpoint,
    ClientClosed,
    Connected,
    Disconnected,
    Lost,
    ProtocolFault,
    Refused,
    UpgradeRefused,
    open_client,
    place_of,
)
from chatd.client.link import parse_url
from chatd.errors import Refusal
from chatd.identity.tokens import Tokens
from chatd.protocol import NewMessage, UserLeft
from tests.client_storm import living_tasks, open_cutter, open_sockets, wait_until
from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, SignedIn, open_daemon, start_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from chatd.client import Client, Notice, RoomEvent, Stream

#: Waits between connections that do not hold up a test.
SOON = (0.01, 0.05)


@pytest.fixture
async def daemon(back_ends: str, tmp_path: Path) -> AsyncIterator[Daemon]:
    """On either kind of back ends: a test that asks for it runs on both."""
    async with open_daemon(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def open_for(daemon: Daemon, user: SignedIn, **options: Any) -> AsyncIterator[Client]:
    with trio.fail_after(60):
        async with open_client(daemon.ws_url, token=user.token, **{"reconnect_s": SOON} | options) as client:
            yield client


async def take(events: Stream[RoomEvent], count: int) -> list[RoomEvent]:
    with trio.fail_after(30):
        return [await anext(events) for _ in range(count)]


def contents(events: list[RoomEvent]) -> list[str]:
    return [event.message.content for event in events if isinstance(event, NewMessage)]


# -- all is well ------------------------------------------------------------------------------------------------------


async def test_message_is_acknowledged_and_handed_to_everybody(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with open_for(daemon, ada) as one, open_for(daemon, bob) as other:
        assert (one.user_id, one.username, one.is_connected) == (ada.id, "ada", True)
        assert other.rooms[room_id].name == "room"
        with one.events() as mine, other.room(room_id) as theirs:
            ack = await one.send(room_id, "hello", metadata={"mood": "good"}, client_message_id="key")
            assert (ack.room_id, ack.client_message_id, ack.duplicate) == (room_id, "key", False)
            [own], [heard] = await take(mine, 1), await take(theirs, 1)
            assert own == heard
            assert isinstance(heard, NewMessage)
            assert (heard.message.id, heard.message.seq) == (ack.message_id, ack.seq)
            assert heard.message.metadata == {"mood": "good"}
        again = await one.send(room_id, "hello", metadata={"mood": "good"}, client_message_id="key")
        assert (again.seq, again.duplicate) == (ack.seq, True)
        history = await other.get_history(room_id, limit=1)
        assert [message.content for message in history.messages] == ["hello"]


async def test_room_that_is_joined_is_heard_from_its_history_on_and_left_with_its_last_event(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, kind="public")
    async with open_for(daemon, ada) as one, open_for(daemon, bob) as other:
        await one.send(room_id, "before")
        with other.room(room_id) as events:
            history = await other.join(room_id)
            assert [message.content for message in history.messages] == ["before"]
            await one.send(room_id, "after")
            [event] = await take(events, 1)
            assert place_of(event) == (room_id, history.seq + 1)
            assert other.checkpoint().rooms == {room_id: history.seq + 1}
            await other.leave(room_id)
            [left] = await take(events, 1)
            assert isinstance(left, UserLeft)
            assert other.checkpoint().rooms == {}


async def test_what_is_refused_for_good_is_raised_with_its_code(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    async with open_for(daemon, ada) as client:
        for call in (client.send("nowhere", "x"), client.get_history("nowhere"), client.leave("nowhere")):
            with pytest.raises(Refused, match="not_a_member"):
                await call
        with pytest.raises(Refused) as refused:
            await client.join("nowhere")
        assert refused.value.code == "not_found"
        with pytest.raises(Refused, match="yourself"):
            await client.send_dm(ada.id, "x")
        with pytest.raises(Refused, match="content_too_long"):
            await client.send("nowhere", "x" * 70_000)
        assert client.is_connected


async def test_exception_of_the_block_passes_as_it_is_and_leaves_nothing_behind(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    before = living_tasks(), open_sockets()
    with pytest.raises(KeyError, match="mine"):
        async with open_for(daemon, ada):
            raise KeyError("mine")
    with trio.fail_after(30):
        # what the registration left behind may be gone by now
        await wait_until(lambda: living_tasks() <= before[0] and open_sockets() <= before[1])


async def test_client_that_is_closed_ends_its_streams_and_answers_no_more(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    async with open_for(daemon, ada) as client:
        events = client.events()
    assert [event async for event in events] == []
    assert [event async for event in client.events()] == []
    with pytest.raises(ClientClosed):
        await client.send("anywhere", "x")


async def test_everything_is_written_down_but_the_token(daemon: Daemon, tmp_path: Path) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada)
    path = tmp_path / "record.ndjson"
    async with open_for(daemon, ada, record=path) as client:
        with client.events() as events:
            ack = await client.send(room_id, "hello")
            await take(events, 1)
    head, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert head["user_id"] == ada.id
    told = [(line["what"], line["message"].get("type")) for line in lines]
    assert told[:3] == [("opens", None), ("sent", "authenticate"), ("heard", "authenticated")]
    assert {("sent", "send_message"), ("heard", "message_ack"), ("heard", "new_message")} <= set(told)
    [handed] = [line["message"] for line in lines if line["what"] == "handed"]
    assert handed == {"stream": 0, "type": "new_message", "roomId": room_id, "seq": ack.seq}
    assert told[-1] == ("ends", None)
    assert ada.token not in path.read_text()


# -- the connection goes and comes ------------------------------------------------------------------------------------


async def test_checkpoint_lets_another_client_go_on_where_one_was(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with open_for(daemon, bob) as sender:
        async with open_for(daemon, ada) as client:
            with client.events() as events:
                for number in range(5):
                    await sender.send(room_id, f"{number}")
                assert contents(await take(events, 2)) == ["0", "1"]
                await wait_until(lambda: client.checkpoint().rooms[room_id] > 0)
                checkpoint = client.checkpoint()
        await sender.send(room_id, "5")
    assert isinstance(checkpoint, Checkpoint)
    async with open_for(daemon, ada, resume=checkpoint) as client:
        with client.events() as events:
            assert contents(await take(events, 4)) == ["2", "3", "4", "5"]


@ON_BOTH_BACK_ENDS
async def test_daemon_that_is_killed_and_started_again_loses_and_repeats_nothing(tmp_path: Path) -> None:
    is_known, is_dying = trio.Event(), trio.Event()
    users: list[SignedIn] = []
    rooms: list[str] = []

    async def run_daemons() -> None:
        async with start_process(tmp_path) as first:
            line.target = first.websocket_port
            users.append(await first.register("ada"))
            rooms.append(await first.create_room(users[0]))
            is_known.set()
            await is_dying.wait()
            first.process.kill()
        async with start_process(tmp_path) as second:
            line.target = second.websocket_port
            await trio.sleep_forever()

    async with open_cutter(0, random.Random(1)) as line, trio.open_nursery() as nursery:
        line.is_cutting = False
        nursery.start_soon(run_daemons)
        await is_known.wait()
        url = f"ws://127.0.0.1:{line.port}/"
        async with open_client(url, token=users[0].token, reconnect_s=SOON) as client:
            with client.events() as events:
                acks: list[int] = []
                nursery.start_soon(_send_numbers, client, rooms[0], acks)
                assert contents(await take(events, 50)) == [f"{number}" for number in range(50)]
                is_dying.set()
                heard = await take(events, 150)
                assert contents(heard) == [f"{number}" for number in range(50, 200)]
                assert [place_of(event)[1] for event in heard] == list(range(51, 201))
                with trio.fail_after(30):
                    await wait_until(lambda: len(acks) == 200)
                assert acks == list(range(1, 201))
        nursery.cancel_scope.cancel()


async def _send_numbers(client: Client, room_id: str, acks: list[int]) -> None:
    for number in range(200):
        ack = await client.send(room_id, f"{number}")
        acks.append(ack.seq)


@ON_BOTH_BACK_ENDS
async def test_daemon_that_falls_silent_is_given_up_and_found_again(tmp_path: Path) -> None:
    async with start_process(tmp_path, WEBSOCKET_HEARTBEAT_S="1", WEBSOCKET_DEAD_AFTER_S="2") as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        async with open_for(daemon, ada) as client:
            with client.notices() as notices, client.events() as events:
                daemon.process.send_signal(signal.SIGSTOP)
                with trio.fail_after(30):
                    assert isinstance(await anext(notices), Lost)
                daemon.process.send_signal(signal.SIGCONT)
                await client.send(room_id, "still here")
                assert contents(await take(events, 1)) == ["still here"]
                while await anext(notices) != Connected(is_first=False):
                    pass


@ON_BOTH_BACK_ENDS
async def test_server_that_stops_says_when_to_come_back(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        ada = await daemon.register("ada")
        async with open_for(daemon, ada) as client:
            with client.notices() as notices:
                daemon.stop.set()
                shutdown = await anext(notices)
                lost = await anext(notices)
                assert isinstance(lost, Lost)
                assert lost.retry_in_s == shutdown.reconnect_after_ms / 1000  # type: ignore[union-attr] # compared


@ON_BOTH_BACK_ENDS
async def test_client_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    async with start_process(tmp_path) as first:
        ada = await first.register("ada")
    told: list[object] = []
    async with open_cutter(1, random.Random(1)) as line, trio.open_nursery() as nursery:
        line.is_cutting = False
        url = f"ws://127.0.0.1:{line.port}/"

        async def connect() -> None:
            async with open_client(url, token=ada.token, reconnect_s=SOON, on_notice=told.append) as client:
                assert client.username == "ada"

        nursery.start_soon(connect)
        with trio.fail_after(30):
            await wait_until(lambda: len(told) > 2)
            async with start_process(tmp_path) as second:
                line.target = second.websocket_port
                await wait_until(lambda: told[-1] == Connected(is_first=True))


# -- over for good ----------------------------------------------------------------------------------------------------


async def test_session_that_is_signed_out_ends_streams_and_calls(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    async with open_for(daemon, ada) as client:
        with client.events() as events:
            await daemon.http("POST", "/api/auth/logout", token=ada.token)
            with pytest.raises(Disconnected) as ended:
                await anext(events)
            assert ended.value.code == 4506
            with pytest.raises(Disconnected):
                await client.send("anywhere", "x")
            with pytest.raises(Disconnected):
                await anext(client.events())


async def test_token_that_is_none_is_refused_at_once(daemon: Daemon) -> None:
    with pytest.raises(Disconnected, match="no valid token") as refused:
        async with open_client(daemon.ws_url, token="none"):
            pass
    assert refused.value.code == 4501


async def test_what_is_no_websocket_server_is_refused_with_its_status(daemon: Daemon) -> None:
    with pytest.raises(UpgradeRefused) as refused:
        async with open_client(f"ws://127.0.0.1:{daemon.http_port}/nothing", token="x"):
            pass
    assert 400 <= refused.value.status < 500


async def test_server_that_speaks_something_else_is_left() -> None:
    async def babble(request: WebSocketRequest) -> None:
        connection = await request.accept()
        await connection.send_message('{"type":"ok","id":7}')
        await connection.get_message()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, babble, "127.0.0.1", 0, ssl_context=None))
        with pytest.raises(ProtocolFault):
            async with open_client(f"ws://127.0.0.1:{server.port}/", token="x"):
                pass
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("url", ["", "http://host/", "ws://", "ws://host:port/", "host:3001"])
def test_url_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_url(url)


def test_url_says_where_to_connect() -> None:
    assert parse_url("ws://localhost:3001") == ("localhost", 3001, "/", False)
    assert parse_url("wss://chat.example/ws?a=1") == ("chat.example", 443, "/ws?a=1", True)
    assert parse_url("wss://chat.example").authority == "chat.example"
    assert parse_url("ws://[::1]:3001/").authority == "[::1]:3001"


# -- limits, tokens, pressure -----------------------------------------------------------------------------------------


@ON_BOTH_BACK_ENDS
async def test_messages_past_the_limit_are_sent_as_fast_as_it_allows_and_nothing_is_closed(
    tmp_path: Path,
) -> None:
    async with open_daemon(tmp_path, limits=True, LIMITS_MESSAGES_PER_MINUTE="240") as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        notices: list[object] = []
        async with open_for(daemon, ada, on_notice=notices.append) as client:
            with client.events() as events:
                async with trio.open_nursery() as nursery:
                    for number in range(248):
                        nursery.start_soon(client.send, room_id, f"{number}")
                assert sorted(contents(await take(events, 248)), key=int) == [f"{number}" for number in range(248)]
        assert notices == [Connected(is_first=True)]


async def test_token_is_renewed_on_the_live_connection(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatd.client.live.renew_in_s", lambda _left_s: 0.05)
    ada = await daemon.register("ada")
    asked = []

    async def refresh() -> str:
        asked.append(ada.token)
        if len(asked) == 1:
            raise OSError("the sign-in is out")
        return ada.token

    record: list[bytes] = []
    async with open_for(daemon, ada, refresh=refresh, record=record.append):
        with trio.fail_after(30):
            await wait_until(lambda: len(asked) > 4)
    kinds = [json.loads(line) for line in record[1:]]
    assert sum(line["what"] == "opens" for line in kinds) == 1
    assert sum(line["message"].get("type") == "authenticated" for line in kinds) >= 3


async def test_token_that_has_expired_is_exchanged_for_a_fresh_one(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await daemon.register("ada")

    async def refresh() -> str:
        return ada.token

    # the first time any token has expired, as far as the daemon is concerned
    right = Tokens.read
    refusals: list[str] = []

    def read(self: Tokens, token: str, now_ms: int) -> Any:
        if not refusals:
            refusals.append(token)
            raise Refusal("token_expired", "This token has expired.")
        return right(self, token, now_ms)

    monkeypatch.setattr(Tokens, "read", read)
    async with open_client(daemon.ws_url, token=ada.token, refresh=refresh, reconnect_s=SOON) as client:
        assert client.is_connected
    assert len(refusals) == 1


async def test_expired_token_without_a_way_to_renew_it_ends_the_client(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> Any:
        raise Refusal("token_expired", "This token has expired.")

    monkeypatch.setattr(Tokens, "read", read)
    with pytest.raises(Disconnected, match="has expired"):
        async with open_client(daemon.ws_url, token="old", reconnect_s=SOON):
            pass


async def test_user_who_takes_nothing_may_still_ask_and_then_has_everything_in_order(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with open_for(daemon, bob) as sender, open_for(daemon, ada) as client:
        with client.events(buffer=5) as events:
            for number in range(300):
                await sender.send(room_id, f"{number}")
            # its stream is full; the answer comes behind what there is no space for
            for number in range(300, 310):
                await client.send(room_id, f"{number}")
            assert contents(await take(events, 310)) == [f"{number}" for number in range(310)]


@ON_BOTH_BACK_ENDS
async def test_client_whose_user_takes_too_slowly_is_closed_by_the_server_and_resumes(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, WEBSOCKET_OUTBOX_BYTES="100000") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room_id = await daemon.create_room(ada, members=[bob.id])
        async with open_for(daemon, bob) as sender, open_for(daemon, ada) as client:
            with client.events(buffer=5) as events, client.notices() as notices:
                # more than the kernel keeps for both sides of a connection
                sent: dict[int, str] = {}

                async def send(number: int) -> None:
                    content = f"{number} " + "\N{EURO SIGN}" * 9000
                    sent[(await sender.send(room_id, content)).seq] = content

                for first in range(0, 600, 50):
                    async with trio.open_nursery() as nursery:
                        for number in range(first, first + 50):
                            nursery.start_soon(send, number)
                assert contents(await take(events, 600)) == [sent[seq] for seq in sorted(sent)]
                # Who is online is told before.
                while not isinstance(await anext(notices), Lost):
                    pass


# -- on the way to the server -----------------------------------------------------------------------------------------


@pytest.fixture
async def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of localhost that signs itself, and its key."""
    made, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    await trio.run_process(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", made],
        capture_stderr=True,
    )  # fmt: skip
    return made, key


async def test_secure_url_is_connected_to_with_its_name_checked(daemon: Daemon, certificate: tuple[Path, Path]) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(*certificate)

    async def carry(source: trio.abc.Stream, target: trio.abc.Stream, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65_536):
                await target.send_all(data)
        scope.cancel()

    async def serve(secure: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):
            plain = await trio.open_tcp_stream("127.0.0.1", daemon.websocket_port)
            async with plain, trio.open_nursery() as nursery:
                nursery.start_soon(carry, secure, plain, nursery.cancel_scope)
                nursery.start_soon(carry, plain, secure, nursery.cancel_scope)

    ada = await daemon.register("ada")
    told: list[Notice] = []
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        secured = trio.SSLListener(listener, server_context, https_compatible=True)
        nursery.start_soon(partial(trio.serve_listeners, serve, [secured]))
        url = f"wss://localhost:{listener.socket.getsockname()[1]}/"
        trusting = ssl.create_default_context(cafile=certificate[0])
        with trio.fail_after(30):
            async with open_client(url, token=ada.token, ssl_context=trusting) as client:
                assert client.username == "ada"
        with trio.move_on_after(1):
            async with open_client(url, token=ada.token, reconnect_s=SOON, on_notice=told.append):
                pytest.fail("it trusts whoever answers")
        nursery.cancel_scope.cancel()
    assert isinstance(told[0], Lost)
    assert "certificate verify failed" in told[0].reason


async def test_upgrade_that_is_refused_for_now_is_tried_again_after_what_the_server_says() -> None:
    heads = []

    async def refuse(stream: trio.SocketStream) -> None:
        heads.append(await stream.receive_some(65_536))
        body = b"There are too many connections.\n"
        await stream.send_all(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )

    told: list[Notice] = []
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(partial(trio.serve_listeners, refuse, [listener]))
        url = f"ws://127.0.0.1:{listener.socket.getsockname()[1]}/"
        with trio.move_on_after(1):
            async with open_client(url, token="x", on_notice=told.append):
                pytest.fail("nobody let it in")
        nursery.cancel_scope.cancel()
    assert len(heads) == 1
    assert isinstance(told[0], Lost)
    assert told[0].reason == "There are too many connections."
    assert 3.0 <= told[0].retry_in_s <= 4.0
