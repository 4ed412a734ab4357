"""TLS at the doors themselves: the whole way through real sockets, slow readers, renewal, and what is refused."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio_websocket import open_websocket_url

from chatd.administration import create_room, remove_member
from chatd.config import ConfigError
from chatd.configfile import load_config
from chatd.tls import Certificate, TlsSocket, TlsStream
from tests.certificates import Made, make_certificate
from tests.daemon import NO_FILE, Daemon, SignedIn, environment, open_daemon, start_process
from tests.shell import Shell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio_websocket import WebSocketConnection


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make_certificate(tmp_path)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


async def ask_over_tls(daemon: Daemon, made: Made, request: bytes) -> bytes:
    """All that a connection of its own brings back, to its end as TLS has it."""
    with trio.fail_after(30):
        stream = await trio.open_ssl_over_tcp_stream("localhost", daemon.http_port, ssl_context=made.trust())
        async with stream:
            await stream.send_all(request)
            return b"".join([part async for part in stream])


async def register(daemon: Daemon, made: Made, username: str) -> SignedIn:
    body = json.dumps({"email": f"{username}@example.org", "username": username, "password": "correct horse"}).encode()
    head = f"POST /api/auth/register HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    answer = await ask_over_tls(daemon, made, head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    granted = json.loads(answer.partition(b"\r\n\r\n")[2])
    return SignedIn(granted["user"]["id"], username, granted["token"], granted["refreshToken"])


@asynccontextmanager
async def connect(daemon: Daemon, made: Made, user: SignedIn) -> AsyncIterator[WebSocketConnection]:
    url = f"wss://localhost:{daemon.websocket_port}/"
    async with open_websocket_url(url, ssl_context=made.trust(), message_queue_size=10_000) as client:
        await client.send_message(json.dumps({"type": "authenticate", "token": user.token}))
        await wait_for(client, "authenticated")
        yield client


async def wait_for(client: WebSocketConnection, kind: str) -> dict[str, Any]:
    with trio.fail_after(30):
        while True:
            message: dict[str, Any] = json.loads(await client.get_message())
            if message["type"] == kind:
                return message


async def ask(client: WebSocketConnection, reply: str, **message: Any) -> dict[str, Any]:
    await client.send_message(json.dumps(message))
    return await wait_for(client, reply)


def peer_certificate(port: int, made: Made) -> bytes:
    """What the daemon shows on a port, in DER. Raises ssl.SSLError if `made` does not vouch for it."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as sock,
        made.trust().wrap_socket(sock, server_hostname="localhost") as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
        assert shown
        return shown


# The whole way


async def test_messages_go_the_whole_way_over_tls(tmp_path: Path, made: Made) -> None:
    async with open_daemon(tmp_path / "data", limits=False, **made.options("WEBSOCKET", "HTTP")) as daemon:
        ada, bob = await register(daemon, made, "ada"), await register(daemon, made, "bob")
        async with connect(daemon, made, ada) as one, connect(daemon, made, bob) as other:
            listed = await ask_over_tls(
                daemon, made, f"GET /api/rooms HTTP/1.0\r\nAuthorization: Bearer {ada.token}\r\n\r\n".encode()
            )
            lobby = json.loads(listed.partition(b"\r\n\r\n")[2])["rooms"][0]["id"]
            for client in (one, other):
                await ask(client, "room_history", type="join_room", roomId=lobby)
            ack = await ask(one, "message_ack", type="send_message", roomId=lobby, content="x" * 10_000)
            heard = await wait_for(other, "new_message")
            assert (heard["message"]["id"], len(heard["message"]["content"])) == (ack["messageId"], 10_000)


async def test_one_door_may_speak_tls_and_the_other_not(tmp_path: Path, made: Made) -> None:
    async with open_daemon(tmp_path / "data", limits=False, **made.options("WEBSOCKET")) as daemon:
        ada = await daemon.register("ada")
        async with connect(daemon, made, ada) as client:
            assert (await ask(client, "pong", type="ping"))["type"] == "pong"


async def test_client_that_reads_slowly_misses_nothing(tmp_path: Path, made: Made) -> None:
    async with open_daemon(
        tmp_path / "data", limits=False, **made.options("WEBSOCKET"), WEBSOCKET_OUTBOX_BYTES=str(64 * 2**20)
    ) as daemon:
        ada = await daemon.register("ada")
        lobby = await daemon.lobby(ada)
        stream = await trio.open_ssl_over_tcp_stream("localhost", daemon.websocket_port, ssl_context=made.trust())
        stream.transport_stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        async with connect(daemon, made, ada) as writer:
            slow = await connect_slowly(stream, ada.token)
            await ask(writer, "room_history", type="join_room", roomId=lobby)
            # Far more than the kernel takes for one that reads nothing meanwhile.
            for count in range(500):
                await ask(
                    writer, "message_ack", type="send_message", roomId=lobby, content=f"{count} ".ljust(10_000, "x")
                )
        heard = b""
        with trio.fail_after(60):
            while b'"499 x' not in heard[-30_000:]:
                heard += await stream.receive_some()
        positions = [heard.index(f'"{count} x'.encode()) for count in range(500)]
        assert positions == sorted(positions)
        assert slow
        await trio.aclose_forcefully(stream)


async def connect_slowly(stream: trio.SSLStream[trio.SocketStream], token: str) -> bytes:
    """Upgrade and authenticate by hand; from then on nothing reads."""
    from tests.rawclient import message  # noqa: PLC0415 - where it is used

    await stream.send_all(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    heard = b""
    await stream.send_all(message(type="authenticate", token=token))
    with trio.fail_after(30):
        while b'"authenticated"' not in heard:
            heard += await stream.receive_some()
    return heard


async def test_end_of_an_answer_is_said_by_tls_itself(tmp_path: Path, made: Made) -> None:
    async with open_daemon(tmp_path / "data", limits=False, **made.options("HTTP")) as daemon:
        # trio raises where the end is none of TLS's own, for it may be somebody else's.
        stream = await trio.open_ssl_over_tcp_stream(
            "localhost", daemon.http_port, ssl_context=made.trust(), https_compatible=False
        )
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with trio.fail_after(30):
            assert b"200 OK" in b"".join([part async for part in stream])
        await trio.aclose_forcefully(stream)


async def test_drain_reaches_clients_over_tls(tmp_path: Path, made: Made) -> None:
    async with open_daemon(tmp_path / "data", limits=False, **made.options("WEBSOCKET")) as daemon:
        ada = await daemon.register("ada")
        async with connect(daemon, made, ada) as client:
            daemon.stop.set()
            assert (await wait_for(client, "server_shutdown"))["reason"]


# Who speaks something else


async def rest_of(stream: trio.SocketStream) -> bytes:
    """All that comes, to the end of the stream or its reset, which says the same here."""
    received = b""
    async with stream:
        with suppress(trio.BrokenResourceError):
            async for part in stream:
                received += part
    return received


async def test_who_speaks_plainly_at_a_tls_door_is_closed_and_others_go_on(tmp_path: Path, made: Made) -> None:
    async with open_daemon(tmp_path / "data", limits=False, **made.options("WEBSOCKET", "HTTP")) as daemon:
        for port in (daemon.websocket_port, daemon.http_port):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            with trio.fail_after(30):
                assert b"HTTP/1.1" not in await rest_of(stream)
        assert b"200 OK" in await ask_over_tls(daemon, made, b"GET /healthz HTTP/1.0\r\n\r\n")


async def test_old_tls_is_refused(tmp_path: Path, made: Made) -> None:
    old = made.trust()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with open_daemon(tmp_path / "data", limits=False, **made.options("WEBSOCKET")) as daemon:
        stream = await trio.open_ssl_over_tcp_stream("localhost", daemon.websocket_port, ssl_context=old)
        with pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)


async def test_handshake_that_never_comes_is_not_waited_for(tmp_path: Path, made: Made) -> None:
    timeouts = {"WEBSOCKET_HANDSHAKE_TIMEOUT_S": "0.2", "HTTP_HEAD_TIMEOUT_S": "0.2"}
    async with open_daemon(tmp_path / "data", limits=False, **made.options("WEBSOCKET", "HTTP"), **timeouts) as daemon:
        for port in (daemon.websocket_port, daemon.http_port):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            with trio.fail_after(30):
                assert await stream.receive_some() == b""
            await stream.aclose()


async def test_who_is_one_too_many_is_closed_without_a_handshake(tmp_path: Path, made: Made) -> None:
    async with open_daemon(
        tmp_path / "data", limits=False, **made.options("WEBSOCKET"), LIMITS_CONNECTIONS_PER_ADDRESS="1"
    ) as daemon:
        ada = await daemon.register("ada")
        async with connect(daemon, made, ada):
            stream = await trio.open_tcp_stream("127.0.0.1", daemon.websocket_port)
            with trio.fail_after(30):
                assert await rest_of(stream) == b""


# Certificates


async def test_renewed_certificate_is_shown_from_a_reload_on(tmp_path: Path, made: Made) -> None:
    old = made.cert.read_bytes()
    async with start_process(tmp_path / "data", limits=False, **made.options("WEBSOCKET", "HTTP")) as daemon:
        shown = await trio.to_thread.run_sync(peer_certificate, daemon.websocket_port, made)
        assert ssl.DER_cert_to_PEM_cert(shown).split() == old.decode().split()
        new = make_certificate(tmp_path, "new")
        new.cert.replace(made.cert)
        new.key.replace(made.key)
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.wait_for_log("reloaded")
        for port in (daemon.websocket_port, daemon.http_port):
            shown = await trio.to_thread.run_sync(peer_certificate, port, made)
            assert ssl.DER_cert_to_PEM_cert(shown).split() == made.cert.read_text().split() != old.decode().split()


async def test_bad_certificate_at_a_reload_changes_nothing_and_is_named(tmp_path: Path, made: Made) -> None:
    before = Made(tmp_path / "kept.pem", made.key)
    before.cert.write_bytes(made.cert.read_bytes())
    async with start_process(tmp_path / "data", limits=False, **made.options("WEBSOCKET")) as daemon:
        made.cert.write_text("no certificate")
        daemon.process.send_signal(signal.SIGHUP)
        refused = await daemon.wait_for_log("reload_refused")
        assert "Nothing has changed: [websocket] tls_cert" in refused["detail"]
        assert await trio.to_thread.run_sync(peer_certificate, daemon.websocket_port, before)


@pytest.mark.parametrize("table", ["websocket", "http"])
def test_bad_certificate_is_one_sentence(shell: Shell, made: Made, table: str) -> None:
    other = make_certificate(shell.folder, "other")
    locked = make_certificate(shell.folder, "locked", passphrase="open sesame")
    (shell.folder / "text").write_text("Dear diary")
    for cert, key, sentence in (
        (made.cert, other.key, "is not that of the certificate"),
        (shell.folder / "missing", made.key, "missing cannot be read: No such file or directory"),
        (shell.folder / "text", made.key, "are not a certificate (with its chain) and its key in PEM form"),
        (made.cert, shell.folder / "text", "are not a certificate (with its chain) and its key in PEM form"),
        (made.cert, shell.folder, "cannot be read: Is a directory"),
        (locked.cert, locked.key, "has a passphrase"),
    ):
        given = Made(cert, key).options(table.upper())
        assert sentence in (told := shell.refusal("check", **given))
        assert f"chatd: [{table}] tls_" in told
    assert "[websocket] tls_cert" in shell.refusal("serve", **Made(made.cert, other.key).options("WEBSOCKET"))


@pytest.mark.parametrize("table", ["WEBSOCKET", "HTTP"])
def test_certificate_and_key_are_given_together(tmp_path: Path, table: str) -> None:
    for option, missing in (("TLS_CERT", "tls_key"), ("TLS_KEY", "tls_cert")):
        with pytest.raises(ConfigError, match=rf"\[{table.lower()}\] {missing}: is missing"):
            load_config(NO_FILE, environment(tmp_path, **{f"{table}_{option}": "x"}, limits=False))


# The socket by itself


async def secure_pair(made: Made) -> tuple[TlsSocket, ssl.SSLSocket]:
    """A server's socket and a blocking client's, after their handshake."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    server = Certificate("http", cert=str(made.cert), key=str(made.key)).wrap(ours)
    theirs.settimeout(5)
    stream = TlsStream(server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.wait_send_all_might_not_block)
        client = await trio.to_thread.run_sync(lambda: made.trust().wrap_socket(theirs, server_hostname="localhost"))
    return server, client


async def test_socket_says_what_has_left_and_goes_on_with_the_same_bytes(made: Made) -> None:
    server, client = await secure_pair(made)
    data = os.urandom(4 * 2**20)
    with client, server:
        sent = server.send(data)
        assert 0 < sent < len(data)
        with pytest.raises(BlockingIOError):
            server.send(data[sent:])
        received = b""
        while len(received) < len(data):
            received += client.recv(2**20)
            # A little more than the record that waits, as an outbox does that gathers.
            if sent < len(data):
                try:
                    sent += server.send(data[sent : sent + 100_000])
                except BlockingIOError:
                    continue
        assert received == data


async def test_socket_with_nothing_to_read_says_so(made: Made) -> None:
    server, client = await secure_pair(made)
    with client, server:
        with pytest.raises(BlockingIOError):
            server.recv(100)
        client.sendall(b"hello")
        await trio.lowlevel.wait_readable(server)
        assert server.recv(100) == b"hello"


async def test_failing_handshake_leaves_no_socket_open(tmp_path: Path, made: Made) -> None:
    async with open_daemon(tmp_path / "data", limits=False, **made.options("WEBSOCKET")) as daemon:
        for _ in range(3):
            stream = await trio.open_tcp_stream("127.0.0.1", daemon.websocket_port)
            await stream.send_all(b"nonsense" * 10)
            with trio.fail_after(30):
                assert b"HTTP" not in await rest_of(stream)
    # A socket that is left open is a warning, and warnings are errors.
    gc.collect()


async def test_shell_asks_the_daemon_for_who_is_online_whoever_has_signed_its_certificate(tmp_path: Path) -> None:
    authority = make_certificate(tmp_path, "authority")
    signed = make_certificate(tmp_path, "signed", signer=authority)
    options = signed.options("HTTP")
    async with open_daemon(tmp_path / "data", limits=False, **options) as daemon:
        places = options | {"HTTP_PORT": str(daemon.http_port)}
        config = load_config(NO_FILE, environment(tmp_path / "data", limits=False, **places))
        room_id = await create_room(config, "tea", kind="public", owner=None)
        ada, bob = [await register(daemon, authority, name) for name in ("ada", "bob")]
        async with daemon.connect(ada) as one, daemon.connect(bob) as other:
            for client in (one, other):
                assert (await client.ask(type="join_room", roomId=room_id))["type"] == "room_history"
            await remove_member(config, "tea", "bob", reason="kicked")
            assert (await one.wait_for("user_left", within_s=30))["online"] is True
