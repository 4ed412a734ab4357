"""Life of an HTTP connection: real sockets for what is said, the mock clock for how long anyone waits."""

from __future__ import annotations

import errno
import io
import json
import resource
import socket
import struct
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from chatd import listener, telemetry
from chatd.config import HttpOptions
from chatd.errors import Refusal
from chatd.listener import LINGER_S, SLICE_BYTES, Handler, HttpService, serve_http
from chatd.wire.http import ClientGone, Request, Response, json_response
from tests.logs import own_logging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE_S = 20


class Log(io.StringIO):
    """What the listener logged, and a way to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = trio.Event()

    def write(self, text: str) -> int:
        self.heard.set()
        return super().write(text)

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    @property
    def events(self) -> list[str]:
        return [entry["event"] for entry in self.entries]


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    log = Log()
    with own_logging():
        telemetry.configure_logging("info", "json", log)
        yield log


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        decoded: dict[str, Any] = json.loads(self.body)
        return decoded


def take_answer(raw: bytes, *, is_head: bool = False) -> tuple[Answer, bytes] | None:
    """The first answer, as long as it says that it is, and what follows it; None while it is not complete."""
    head, blank, rest = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
    length = 0 if is_head else int(headers.get("content-length", "0"))
    if not blank or len(rest) < length:
        return None
    return Answer(int(status.split()[1]), headers, rest[:length]), rest[length:]


def parse(raw: bytes, *, is_head: bool = False) -> list[Answer]:
    answers = []
    while raw:
        taken = take_answer(raw, is_head=is_head)
        assert taken is not None, f"the last answer is not complete: {raw!r}"
        answer, raw = taken
        answers.append(answer)
    return answers


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(part) async for part in stream])


async def read_answer(stream: trio.abc.ReceiveStream) -> Answer:
    """The one answer that comes, on a connection that stays."""
    raw = bytes(await stream.receive_some())
    while (taken := take_answer(raw)) is None:
        part = await stream.receive_some()
        assert part, f"closed after {raw!r}"
        raw += part
    answer, rest = taken
    assert rest == b""
    return answer


async def greet(request: Request) -> Response:
    return Response(200, body=f"{request.method} {request.path}".encode())


async def echo(request: Request) -> Response:
    return json_response(200, await request.body.read())


@dataclass(frozen=True)
class Server:
    port: int
    draining: trio.Event
    stopped: trio.Event

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, *raw: bytes, is_head: bool = False) -> list[Answer]:
        """The answers to these bytes, after which the client ends its side."""
        async with await self.connect() as client:
            for data in raw:
                await client.send_all(data)
            await client.send_eof()
            return parse(await read_all(client), is_head=is_head)


@asynccontextmanager
async def serving(handler: Handler, *, options: HttpOptions | None = None, hsts: bool = False) -> AsyncIterator[Server]:
    """A listener on a real socket. It drains at the end, which must succeed."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = Server(listeners[0].socket.getsockname()[1], trio.Event(), trio.Event())

    async def serve() -> None:
        await serve_http(listeners, handler, draining=server.draining, options=options, hsts=hsts)
        server.stopped.set()

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield server
            server.draining.set()


async def ask(
    *raw: bytes, handler: Handler = greet, options: HttpOptions | None = None, hsts: bool = False
) -> list[Answer]:
    async with serving(handler, options=options, hsts=hsts) as server:
        return await server.ask(*raw)


def with_headers(*headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} / HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")


# One request


async def test_request_is_answered() -> None:
    [answer] = await ask(b"GET /api/rooms HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (answer.status, answer.body) == (200, b"GET /api/rooms")


async def test_http_1_0_is_answered_and_closed() -> None:
    [answer] = await ask(b"GET / HTTP/1.0\r\n\r\n" + GET)
    assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_head_has_the_length_but_no_body() -> None:
    async with serving(greet) as server:
        [answer] = await server.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", is_head=True)
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "6", b"")


async def test_body_reaches_the_handler_in_whatever_pieces_it_comes() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    [answer] = await ask(head, b"he", b"llo", handler=echo)
    assert answer.body == b"hello"


async def test_client_is_told_to_continue_when_its_body_is_wanted() -> None:
    async with serving(echo) as server, await server.connect() as client:
        await client.send_all(with_headers("Expect: 100-continue", "Content-Length: 5", method="POST"))
        assert await client.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send_all(b"hello")
        assert (await read_answer(client)).body == b"hello"


async def test_client_is_not_told_to_continue_when_its_body_is_not_wanted() -> None:
    async with serving(greet) as server, await server.connect() as client:
        await client.send_all(with_headers("Expect: 100-continue", "Content-Length: 5", method="POST"))
        [answer] = parse(await read_all(client))
    assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_body_that_is_announced_too_large_is_refused_before_it_comes() -> None:
    raw = with_headers("Expect: 100-continue", "Content-Length: 1048577", method="POST")
    async with serving(echo) as server, await server.connect() as client:
        await client.send_all(raw)
        [answer] = parse(await read_all(client))
    assert (answer.status, answer.problem["code"]) == (413, "content_too_long")


async def test_chunked_body_is_refused_as_it_passes_the_bound() -> None:
    chunk = b"1000\r\n" + b"a" * 0x1000 + b"\r\n"
    async with serving(echo, options=HttpOptions(max_json_bytes=5_000)) as server, await server.connect() as client:
        await client.send_all(with_headers("Transfer-Encoding: chunked", method="POST") + chunk + chunk)
        [answer] = parse(await read_all(client))
    assert (answer.status, answer.headers["connection"]) == (413, "close")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (with_headers("A: \x00"), 400),
        (with_headers("Content-Length: 1", "Transfer-Encoding: chunked", method="POST"), 400),
        (with_headers("Content-Length: 1", "Content-Length: 2", method="POST"), 400),
        (with_headers("Transfer-Encoding: gzip", method="POST"), 501),
        (with_headers("A: " + "a" * 40_000), 431),
        (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505),
    ],
)
async def test_request_that_breaks_the_rules_gets_a_problem_and_is_the_last(raw: bytes, status: int) -> None:
    [answer] = await ask(raw + GET)
    assert (answer.status, answer.problem["status"], answer.headers["connection"]) == (status, status, "close")
    assert answer.headers["x-content-type-options"] == "nosniff"


# Several requests


async def test_connection_stays_for_the_next_request() -> None:
    async with serving(greet) as server, await server.connect() as client:
        for _ in range(3):
            await client.send_all(GET)
            answer = await read_answer(client)
            assert (answer.status, "connection" in answer.headers) == (200, False)


async def test_pipelined_requests_are_answered_in_order() -> None:
    raw = b"".join(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d" % i for i in range(9))
    answers = await ask(raw, handler=echo)
    assert [answer.body for answer in answers] == [b"%d" % i for i in range(9)]


async def test_pipelined_request_after_an_unread_body_is_answered() -> None:
    raw = b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
    assert [answer.body for answer in await ask(raw)] == [b"POST /1", b"GET /2"]


async def test_client_that_asks_to_close_is_closed() -> None:
    [answer] = await ask(with_headers("Connection: close") + GET)
    assert answer.headers["connection"] == "close"


# What the handler raises


async def test_refusal_is_answered_as_its_problem_and_the_connection_stays() -> None:
    async def refuse(request: Request) -> Response:
        raise Refusal("rate_limited", "Too many login attempts, please try again later.", retry_after_ms=1_500)

    first, second = await ask(GET, GET, handler=refuse)
    assert (first.status, first.headers["retry-after"], first.problem["retryAfterMs"]) == (429, "2", 1_500)
    assert second.status == 429


async def test_defect_of_a_handler_is_logged_once_and_tells_the_client_nothing(log: Log) -> None:
    async def fail(request: Request) -> Response:
        if request.path == "/fail":
            raise RuntimeError("password=secret")
        return await greet(request)

    async with serving(fail) as server, await server.connect() as bystander:
        bad, good = await server.ask(b"GET /fail?token=secret HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        await bystander.send_all(GET)
        assert (await read_answer(bystander)).status == 200
    assert (bad.status, bad.problem["code"], good.status) == (500, "internal", 200)
    assert b"secret" not in bad.body
    [entry] = log.entries
    assert (entry["event"], entry["method"], entry["path"]) == ("http_handler_failed", "GET", "/fail")
    assert "RuntimeError" in entry["exception"]
    assert len(entry["connection"]) == 36


async def test_defect_below_the_handler_costs_its_connection_alone(log: Log) -> None:
    async def answer_nothing(request: Request) -> Response:
        return await greet(request) if request.path == "/" else None  # type: ignore[return-value]  # the defect

    async with serving(answer_nothing) as server:
        assert await server.ask(b"GET /bad HTTP/1.1\r\nHost: x\r\n\r\n") == []
        assert (await server.ask(GET))[0].status == 200
    assert log.events == ["http_connection_failed"]
    assert "Traceback" in log.entries[0]["exception"]


# Answers that stream


class Parts:
    """An answer's body of `count` equal parts, of which the last may be a defect."""

    def __init__(self, *, count: int, part: bytes, length: int | None = None, fails: bool = False) -> None:
        self.length = length
        self.is_closed = False
        self._rest = count
        self._part = part
        self._fails = fails

    async def read_part(self) -> bytes:
        await trio.lowlevel.checkpoint()
        self._rest -= 1
        if self._rest == 0 and self._fails:
            raise RuntimeError("the disk is gone")
        return self._part if self._rest >= 0 else b""

    async def aclose(self) -> None:
        self.is_closed = True


def answer_with(parts: Parts) -> Handler:
    async def handler(request: Request) -> Response:
        return Response(200, (("content-type", "text/plain"),), parts)

    return handler


async def test_stream_of_known_length_is_sent_and_closed() -> None:
    parts = Parts(count=3, part=b"abc", length=9)
    [answer] = await ask(GET, handler=answer_with(parts))
    assert (answer.headers["content-length"], answer.body, parts.is_closed) == ("9", b"abcabcabc", True)


async def test_stream_of_unknown_length_is_sent_chunked() -> None:
    parts = Parts(count=2, part=b"abc")
    async with serving(answer_with(parts)) as server, await server.connect() as client:
        await client.send_all(with_headers("Connection: close"))
        raw = await read_all(client)
    assert raw.endswith(b"\r\n\r\n3\r\nabc\r\n3\r\nabc\r\n0\r\n\r\n")


async def test_stream_is_not_read_for_head_but_closed(log: Log) -> None:
    parts = Parts(count=1, part=b"abc", length=3, fails=True)
    async with serving(answer_with(parts)) as server:
        [answer] = await server.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", is_head=True)
    assert (answer.headers["content-length"], parts.is_closed, log.entries) == ("3", True, [])


@pytest.mark.parametrize("length", [None, 9])
async def test_stream_that_fails_is_cut_off_so_that_the_client_sees_it(length: int | None, log: Log) -> None:
    parts = Parts(count=3, part=b"abc", length=length, fails=True)
    async with serving(answer_with(parts)) as server, await server.connect() as client:
        await client.send_all(GET)
        raw = await read_all(client)
    assert raw.count(b"abc") == 2
    assert not raw.endswith(b"0\r\n\r\n")
    assert (parts.is_closed, log.events) == (True, ["http_connection_failed"])


# Clients that leave


def reset(client: trio.SocketStream) -> None:
    """Leave without a goodbye: closing sends RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


@pytest.mark.parametrize("leave", [lambda client: client.socket.close(), reset], ids=["closed", "reset"])
async def test_client_that_leaves_amid_its_body_harms_nobody(
    leave: Callable[[trio.SocketStream], None], log: Log
) -> None:
    outcome: list[BaseException] = []
    ended = trio.Event()

    async def handler(request: Request) -> Response:
        if request.method == "GET":
            return await greet(request)
        try:
            return await echo(request)
        except BaseException as exc:
            outcome.append(exc)
            raise
        finally:
            ended.set()

    async with serving(handler) as server:
        client = await server.connect()
        await client.send_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        leave(client)
        await ended.wait()
        assert (await server.ask(GET))[0].status == 200
    assert [type(exc) for exc in outcome] == [ClientGone]
    assert log.entries == []


async def test_client_that_leaves_amid_its_answer_harms_nobody(log: Log) -> None:
    parts = Parts(count=1_000, part=b"x" * 65_536)
    whole = b"x" * 50_000_000

    async def handler(request: Request) -> Response:
        if request.path == "/stream":
            return Response(200, body=parts)
        return Response(200, body=whole) if request.path == "/whole" else await greet(request)

    async with serving(handler) as server:
        for path in (b"/stream", b"/whole"):
            client = await server.connect()
            await client.send_all(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.receive_some(1_000)
            reset(client)
        assert (await server.ask(GET))[0].status == 200
    assert (parts.is_closed, log.entries) == (True, [])


async def test_client_that_resets_after_its_answer_harms_nobody(log: Log) -> None:
    async with serving(greet) as server:
        client = await server.connect()
        await client.send_all(with_headers("Connection: close"))
        await read_answer(client)
        reset(client)
        server.draining.set()
        await server.stopped.wait()
    assert log.entries == []


async def test_client_that_leaves_before_it_is_met_harms_nobody(log: Log) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    reset(await trio.open_tcp_stream(*address))
    draining = trio.Event()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve_http, listeners, greet, draining=draining))
            async with await trio.open_tcp_stream(*address) as client:
                await client.send_all(GET)
                assert (await read_answer(client)).status == 200
            draining.set()
    assert log.entries == []


async def test_client_that_ends_its_side_still_gets_its_answer() -> None:
    gate = trio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await greet(request)

    async with serving(handler) as server, await server.connect() as client:
        await client.send_all(GET)
        await client.send_eof()
        gate.set()
        assert len(parse(await read_all(client))) == 1


# Headers of every answer


async def test_answer_has_a_date_and_the_security_headers_but_no_server() -> None:
    [answer] = await ask(GET)
    assert answer.headers["date"].endswith(" GMT")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-frame-options"] == "DENY"
    assert not {"server", "strict-transport-security", "vary"} & answer.headers.keys()


async def test_hsts_is_said_where_it_is_switched_on() -> None:
    [answer] = await ask(GET, hsts=True)
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


async def test_header_that_an_answer_sets_itself_stays() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, (("content-security-policy", "sandbox"),))

    [answer] = await ask(GET, handler=handler)
    assert answer.headers["content-security-policy"] == "sandbox"


# CORS

LISTED = HttpOptions(cors_origins=("https://chat.example",))
ANY = HttpOptions(cors_origins=("*",))


async def test_listed_origin_may_read_the_answer() -> None:
    [answer] = await ask(with_headers("Origin: https://chat.example"), options=LISTED)
    assert answer.headers["access-control-allow-origin"] == "https://chat.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "Retry-After" in answer.headers["access-control-expose-headers"]
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "headers",
    [("Origin: https://evil.example",), ("Origin: https://chat.example.evil.example",), ("Origin: null",), ()],
)
async def test_other_origin_may_not_and_a_cache_keeps_them_apart(headers: tuple[str, ...]) -> None:
    [answer] = await ask(with_headers(*headers), options=LISTED)
    assert [name for name in answer.headers if name.startswith("access-control")] == []
    assert answer.headers["vary"] == "Origin"


async def test_any_origin_may_read_without_credentials() -> None:
    [answer] = await ask(with_headers("Origin: https://anyone.example"), options=ANY)
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


async def test_vary_of_an_answer_is_added_to() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, (("vary", "Accept"),))

    [answer] = await ask(GET, handler=handler, options=LISTED)
    assert answer.headers["vary"] == "Accept, Origin"


@pytest.mark.parametrize(
    ("origin", "options", "allowed"),
    [
        ("https://chat.example", LISTED, "https://chat.example"),
        ("https://evil.example", LISTED, None),
        ("https://anyone.example", ANY, "*"),
    ],
)
async def test_preflight_is_answered_without_the_handler(
    origin: str, options: HttpOptions, allowed: str | None
) -> None:
    raw = with_headers(f"Origin: {origin}", "Access-Control-Request-Method: PATCH", method="OPTIONS")
    [answer] = await ask(raw, options=options)
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers.get("access-control-allow-origin") == allowed
    assert "PATCH" in answer.headers["access-control-allow-methods"]
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    assert answer.headers["access-control-max-age"] == "7200"


@pytest.mark.parametrize(
    ("headers", "options"),
    [
        (("Origin: https://chat.example", "Access-Control-Request-Method: PATCH"), HttpOptions()),
        (("Origin: https://chat.example",), LISTED),
        (("Access-Control-Request-Method: PATCH",), LISTED),
    ],
)
async def test_options_that_is_no_preflight_is_the_handlers(headers: tuple[str, ...], options: HttpOptions) -> None:
    [answer] = await ask(with_headers(*headers, method="OPTIONS"), options=options)
    assert (answer.status, answer.body) == (200, b"OPTIONS /")


# Whose request it is

LOOPBACK, INNER, INNER6 = "127.0.0.0/8", "10.0.0.0/8", "fd00::/8"


@pytest.mark.parametrize(
    ("trusted", "headers", "address"),
    [
        ((), ["X-Forwarded-For: 203.0.113.9"], "127.0.0.1"),
        ((INNER,), ["X-Forwarded-For: 203.0.113.9"], "127.0.0.1"),
        ((LOOPBACK,), [], "127.0.0.1"),
        ((LOOPBACK,), ["X-Forwarded-For: 203.0.113.9"], "203.0.113.9"),
        ((LOOPBACK,), ["X-Forwarded-For: 198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        ((LOOPBACK, INNER), ["X-Forwarded-For: 198.51.100.1, 203.0.113.9, 10.0.0.1"], "203.0.113.9"),
        ((LOOPBACK,), ["X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 203.0.113.9"], "203.0.113.9"),
        ((LOOPBACK, INNER6), ["X-Forwarded-For: 2001:DB8::0:1, fd00::1"], "2001:db8::1"),
        ((LOOPBACK,), ["X-Forwarded-For: ::ffff:203.0.113.9"], "203.0.113.9"),
        ((LOOPBACK,), ["X-Forwarded-For: <script>, 203.0.113.9"], "203.0.113.9"),
        ((LOOPBACK,), ["X-Forwarded-For: 203.0.113.9, unknown"], "127.0.0.1"),
        ((LOOPBACK,), ["X-Forwarded-For: 198.51.100.1, 203.0.113.9:4711"], "203.0.113.9"),
        ((LOOPBACK,), ["X-Forwarded-For: fe80::1%<script>"], "fe80::1"),
        ((LOOPBACK,), ["X-Forwarded-For: unknown"], "127.0.0.1"),
        ((LOOPBACK, INNER), ["X-Forwarded-For: 10.0.0.2, 10.0.0.1"], "10.0.0.2"),
    ],
)
async def test_address_is_the_clients(trusted: tuple[str, ...], headers: list[str], address: str) -> None:
    async def tell(request: Request) -> Response:
        return Response(200, body=request.address.encode())

    [answer] = await ask(with_headers(*headers), handler=tell, options=HttpOptions(trusted_proxies=trusted))
    assert answer.body == address.encode()


# How many, and how it stops


async def test_connection_past_the_bound_is_told_to_come_back() -> None:
    async with serving(greet, options=HttpOptions(max_connections=1)) as server:
        async with await server.connect() as first:
            await first.send_all(GET)
            await read_answer(first)
            [refused] = await server.ask(GET)
            assert (refused.status, refused.headers["connection"]) == (503, "close")
            assert (refused.headers["retry-after"], refused.problem["code"]) == ("1", "overloaded")
            await first.send_all(GET)
            assert (await read_answer(first)).status == 200
            await first.send_eof()
            assert await read_all(first) == b""
        assert (await server.ask(GET))[0].status == 200


async def test_no_connections_at_most_means_no_limit() -> None:
    options = HttpOptions(max_connections=0, connections_per_address=0)
    async with serving(greet, options=options) as server, await server.connect() as first:
        await first.send_all(GET)
        assert (await read_answer(first)).status == 200
        assert (await server.ask(GET))[0].status == 200


async def test_address_has_so_many_connections_and_one_more_when_one_has_gone() -> None:
    async with serving(greet, options=HttpOptions(connections_per_address=1)) as server:
        async with await server.connect() as first:
            await first.send_all(GET)
            await read_answer(first)
            [refused] = await server.ask(GET)
            assert (refused.status, refused.headers["connection"]) == (429, "close")
            assert (refused.headers["retry-after"], refused.problem["code"]) == ("1", "rate_limited")
            assert "1 connections" in refused.problem["detail"]
            await first.send_eof()
            assert await read_all(first) == b""
        assert (await server.ask(GET))[0].status == 200


async def test_trusted_proxy_brings_as_many_connections_as_it_likes() -> None:
    options = HttpOptions(connections_per_address=1, trusted_proxies=("127.0.0.1",))
    async with serving(greet, options=options) as server, await server.connect() as first:
        await first.send_all(GET)
        await read_answer(first)
        assert (await server.ask(GET))[0].status == 200


async def test_drain_answers_what_has_begun_and_closes_the_rest() -> None:
    begun = trio.Event()
    gate = trio.Event()

    async def handler(request: Request) -> Response:
        if request.path == "/slow":
            begun.set()
            await gate.wait()
        return await greet(request)

    async with serving(handler) as server, await server.connect() as idle, await server.connect() as busy:
        await idle.send_all(GET)
        await read_answer(idle)
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        await begun.wait()
        server.draining.set()
        assert await read_all(idle) == b""
        with pytest.raises(OSError, match="connect"):
            await server.connect()
        assert not server.stopped.is_set()
        gate.set()
        [answer] = parse(await read_all(busy))
        assert (answer.body, answer.headers["connection"]) == (b"GET /slow", "close")
        await busy.aclose()
        await server.stopped.wait()


async def test_drain_waits_for_a_request_that_has_begun_to_arrive() -> None:
    async with serving(greet) as server, await server.connect() as client:
        await client.send_all(GET + b"GET /be")
        await read_answer(client)
        server.draining.set()
        await client.send_all(b"gun HTTP/1.1\r\nHost: x\r\n\r\n")
        [answer] = parse(await read_all(client))
        assert (answer.body, answer.headers["connection"]) == (b"GET /begun", "close")


async def test_cancelling_closes_every_connection_at_once() -> None:
    [socket_listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    begun = trio.Event()

    async def handler(request: Request) -> Response:
        begun.set()
        await trio.sleep_forever()
        raise AssertionError

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve_http, [socket_listener], handler, draining=trio.Event()))
            client = await trio.open_tcp_stream(*socket_listener.socket.getsockname())
            await client.send_all(GET)
            await begun.wait()
            nursery.cancel_scope.cancel()
        async with client:
            assert await read_all(client) == b""


# When accepting fails


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_listener_outlives_a_lack_of_descriptors(log: Log) -> None:
    async with serving(greet) as server:
        client = trio.socket.socket()
        with no_more_descriptors():
            await client.connect(("127.0.0.1", server.port))
            await log.heard.wait()
        async with trio.SocketStream(client) as stream:
            await stream.send_all(GET)
            assert (await read_answer(stream)).status == 200
    assert [(entry["event"], entry["error"]) for entry in log.entries] == [("http_accept_failed", "EMFILE")]


class FailingListener(trio.abc.Listener[trio.SocketStream]):
    """Fails as accept(2) does, for ever."""

    def __init__(self, code: int) -> None:
        self.attempts = 0
        self._code = code

    async def accept(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        self.attempts += 1
        raise OSError(self._code, "as often as you like")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED])
async def test_failing_accept_is_tried_again_and_logged_once_a_minute(
    code: int, log: Log, autojump_clock: MockClock
) -> None:
    failing = FailingListener(code)
    with trio.move_on_after(150):
        await serve_http([failing], greet, draining=trio.Event())
    assert [entry["error"] for entry in log.entries] == [errno.errorcode[code]] * 3
    assert failing.attempts == pytest.approx(1_500, abs=2)


# How long anyone waits. The clock jumps, the streams are in memory.


@dataclass(frozen=True)
class Peer:
    """The client's end of a connection in memory."""

    stream: trio.StapledStream[Any, Any]
    draining: trio.Event
    closed: trio.Event

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def drip(self, data: bytes, *, every_s: float) -> None:
        for i in range(len(data)):
            await self.stream.send_all(data[i : i + 1])
            await trio.sleep(every_s)


@asynccontextmanager
async def connected(
    handler: Handler = greet,
    *,
    pair: Callable[[], tuple[trio.StapledStream[Any, Any], trio.StapledStream[Any, Any]]] = memory_stream_pair,
) -> AsyncIterator[Peer]:
    ours, theirs = pair()
    peer = Peer(ours, trio.Event(), trio.Event())
    service = HttpService(handler, draining=peer.draining, options=HttpOptions())

    async def serve() -> None:
        async with theirs:
            await service.serve(theirs, peer="192.0.2.1")
        peer.closed.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield peer
        nursery.cancel_scope.cancel()


async def test_client_that_says_nothing_is_closed_without_a_word(autojump_clock: MockClock) -> None:
    async with connected() as peer:
        assert await read_all(peer.stream) == b""
        assert trio.current_time() == 10


@pytest.mark.parametrize("every_s", [0.5, 9])
async def test_head_that_drips_is_refused_after_its_time(every_s: float, autojump_clock: MockClock) -> None:
    async with connected() as peer, trio.open_nursery() as nursery:
        nursery.start_soon(partial(peer.drip, GET, every_s=every_s))
        answer = await read_answer(peer.stream)
        assert (answer.status, answer.headers["connection"], trio.current_time()) == (408, "close", 10)
        nursery.cancel_scope.cancel()


async def test_idle_connection_is_closed_after_its_time(autojump_clock: MockClock) -> None:
    async with connected() as peer:
        await peer.send(GET)
        await read_answer(peer.stream)
        assert await read_all(peer.stream) == b""
        assert trio.current_time() == 75


async def test_idle_connection_may_ask_again_just_before(autojump_clock: MockClock) -> None:
    async with connected() as peer:
        for _ in range(3):
            await peer.send(GET)
            assert (await read_answer(peer.stream)).status == 200
            await trio.sleep(74)


async def test_next_head_has_its_own_time(autojump_clock: MockClock) -> None:
    async with connected() as peer:
        await peer.send(GET)
        await read_answer(peer.stream)
        await trio.sleep(60)
        await peer.send(GET[:5])
        assert (await read_answer(peer.stream)).status == 408
        assert trio.current_time() == 70


async def test_body_without_progress_is_refused(autojump_clock: MockClock) -> None:
    async with connected(echo) as peer:
        await peer.send(with_headers("Content-Length: 3", method="POST") + b"a")
        answer = await read_answer(peer.stream)
        assert (answer.status, answer.headers["connection"], trio.current_time()) == (408, "close", 30)


async def test_body_that_makes_progress_has_its_whole_time(autojump_clock: MockClock) -> None:
    async with connected(echo) as peer:
        for _ in range(2):
            await peer.send(with_headers("Content-Length: 3", method="POST"))
            await peer.drip(b"abc", every_s=29)
            assert (await read_answer(peer.stream)).body == b"abc"


async def test_body_that_drips_is_refused_after_its_time(autojump_clock: MockClock) -> None:
    async with connected(echo) as peer, trio.open_nursery() as nursery:
        await peer.send(with_headers("Content-Length: 999", method="POST"))
        nursery.start_soon(partial(peer.drip, b"x" * 999, every_s=1))
        answer = await read_answer(peer.stream)
        assert (answer.status, answer.headers["connection"], trio.current_time()) == (408, "close", 60)
        assert "60 s" in answer.problem["detail"]
        nursery.cancel_scope.cancel()


async def test_chunk_framing_alone_is_no_progress(autojump_clock: MockClock) -> None:
    async with connected(echo) as peer, trio.open_nursery() as nursery:
        await peer.send(with_headers("Transfer-Encoding: chunked", method="POST"))
        nursery.start_soon(partial(peer.drip, b"1;" + b"x" * 100, every_s=1))
        assert (await read_answer(peer.stream)).status == 408
        assert trio.current_time() == 30
        nursery.cancel_scope.cancel()


async def test_handler_takes_the_time_it_takes(autojump_clock: MockClock) -> None:
    async def ponder(request: Request) -> Response:
        await trio.sleep(1_000)
        return await greet(request)

    async with connected(ponder) as peer:
        await peer.send(GET)
        assert (await read_answer(peer.stream)).status == 200


@pytest.mark.parametrize("is_stream", [False, True])
async def test_client_that_does_not_read_its_answer_is_closed(
    is_stream: bool,  # noqa: FBT001 - pytest passes it by name
    log: Log,
    autojump_clock: MockClock,
) -> None:
    parts = Parts(count=5, part=b"x" * SLICE_BYTES)
    handler = answer_with(parts) if is_stream else greet
    async with connected(handler, pair=lockstep_stream_pair) as peer:
        await peer.send(GET)
        await peer.closed.wait()
        assert trio.current_time() == 30
    assert (parts.is_closed, log.entries) == (is_stream, [])


async def test_client_that_reads_slowly_gets_its_whole_answer(autojump_clock: MockClock) -> None:
    body = b"x" * SLICE_BYTES * 5

    async def handler(request: Request) -> Response:
        return Response(200, body=body)

    async with connected(handler, pair=lockstep_stream_pair) as peer:
        await peer.send(with_headers("Connection: close"))
        raw = b""
        while not raw.endswith(body):
            await trio.sleep(29)
            assert not peer.closed.is_set()
            raw += await peer.stream.receive_some(SLICE_BYTES)


async def test_client_that_goes_on_sending_after_the_last_answer_is_closed(autojump_clock: MockClock) -> None:
    async with connected(echo) as peer:
        await peer.send(with_headers("Content-Length: 9999999", method="POST"))
        assert (await read_answer(peer.stream)).status == 413
        await peer.send(b"x" * 100_000)
        await peer.closed.wait()
        assert trio.current_time() == LINGER_S


async def test_connection_that_comes_while_draining_is_closed_at_once(autojump_clock: MockClock) -> None:
    async with connected() as peer:
        peer.draining.set()
        assert await read_all(peer.stream) == b""
        assert trio.current_time() == 0


async def test_refusals_are_bounded_too(autojump_clock: MockClock) -> None:
    service = HttpService(greet, draining=trio.Event(), options=HttpOptions(max_connections=1))

    async def serve(stream: trio.StapledStream[Any, Any]) -> None:
        async with stream:
            await service.serve(stream, peer="192.0.2.1")

    async with trio.open_nursery() as nursery:

        async def connect(count: int) -> list[trio.StapledStream[Any, Any]]:
            pairs = [memory_stream_pair() for _ in range(count)]
            for _, theirs in pairs:
                nursery.start_soon(serve, theirs)
                await trio.testing.wait_all_tasks_blocked()
            return [ours for ours, _ in pairs]

        await connect(1)
        for _ in range(2):
            refused = await connect(listener.MAX_REFUSALS + 1)
            statuses = [answer.status for client in refused for answer in parse(await read_all(client))]
            assert statuses == [503] * listener.MAX_REFUSALS
            await trio.sleep(LINGER_S)
        nursery.cancel_scope.cancel()


# A second opinion


async def curl(*arguments: str) -> str:
    done = await trio.run_process(["curl", "-sS", "-i", *arguments], capture_stdout=True)
    return str(done.stdout.decode()).replace("\r\n", "\n")


async def test_curl_understands_us(tmp_path: Path) -> None:
    body = tmp_path / "body"
    await trio.Path(body).write_bytes(b"x" * 500_000)
    async with serving(echo) as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert (await curl(url)).startswith("HTTP/1.1 200 OK\n")
        assert (await curl("-d", "hello", url)).endswith("\n\nhello")
        continued = await curl("-H", "Expect: 100-continue", "--data-binary", f"@{body}", url)
        assert continued.startswith("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\n")
        assert continued.endswith("\n\n" + "x" * 500_000)
        chunked = await curl("-H", "Transfer-Encoding: chunked", "--data-binary", f"@{body}", url)
        assert chunked.endswith("x" * 500_000)
        assert (await curl("--http1.0", "-d", "hello", url)).endswith("\n\nhello")
        assert "content-length: 0\n\n" in await curl("--head", url)
        twice = await curl("-w", "%{num_connects} ", "-d", "hello", url, url)
        assert twice.startswith("HTTP/1.1 200 OK\n")
        assert twice.endswith("hello0 ")


@pytest.mark.parametrize("expect", ["Expect:", "Expect: 100-continue"])
async def test_curl_reads_why_its_body_was_refused(expect: str, tmp_path: Path) -> None:
    body = tmp_path / "body"
    await trio.Path(body).write_bytes(b"x" * 5_000_000)
    async with serving(echo) as server:
        answer = await curl("-H", expect, "--data-binary", f"@{body}", f"http://127.0.0.1:{server.port}/")
    assert answer.startswith("HTTP/1.1 413 ")
    assert answer.endswith("}")
