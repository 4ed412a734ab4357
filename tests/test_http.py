"""HTTP messages byte by byte, without a socket: what is understood, what is refused, what is answered."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chatd.errors import Refusal
from chatd.wire.http import (
    MAX_HEAD_BYTES,
    Body,
    ClientGone,
    Headers,
    HttpConnection,
    HttpError,
    Request,
    Response,
    json_response,
    problem,
)

MAX_BODY = 100


class Wire:
    """A connection with the client's end of its socket."""

    def __init__(self, *arriving: bytes) -> None:
        self.http = HttpConnection()
        self._arriving = list(arriving)

    def request(self) -> Request:
        while (request := self.http.next_request(self.part, address="192.0.2.1", max_bytes=MAX_BODY)) is None:
            self.http.receive(self._arriving.pop(0))
        return request

    async def part(self) -> bytes:
        while (part := self.http.next_part()) is None:
            self.http.receive(self._arriving.pop(0))
        return part

    def answer(self, response: Response, *, may_keep_alive: bool = True) -> bytes:
        assert isinstance(response.body, bytes)
        head = self.http.start_response(response, may_keep_alive=may_keep_alive)
        return head + self.http.encode_part(response.body) + self.http.end_response()


def get(target: str, *, headers: str = "Host: x\r\n") -> bytes:
    return f"GET {target} HTTP/1.1\r\n{headers}\r\n".encode("latin-1")


def post(body: bytes, *, headers: str = "") -> bytes:
    return f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def refusal_of(*arriving: bytes) -> HttpError:
    with pytest.raises(HttpError) as caught:
        Wire(*arriving).request()
    return caught.value


def problem_of(response: Response) -> dict[str, Any]:
    assert isinstance(response.body, bytes)
    assert ("content-type", "application/problem+json") in response.headers
    decoded: dict[str, Any] = json.loads(response.body)
    return decoded


# Requests


def test_request_has_its_parts_decoded() -> None:
    request = Wire(get("/api/rooms?limit=5&q=a%20b+c&empty=", headers="Host: x\r\nX-Two: 1\r\nx-two: 2\r\n")).request()
    assert (request.method, request.path, request.address) == ("GET", "/api/rooms", "192.0.2.1")
    assert request.query == {"limit": "5", "q": "a b c", "empty": ""}
    assert request.headers == (("host", "x"), ("x-two", "1"), ("x-two", "2"))
    assert request.header("X-TWO") == "1, 2"
    assert request.header("absent") is None


def test_request_that_arrives_byte_by_byte_is_the_same() -> None:
    raw = get("/slow")
    assert Wire(*(raw[i : i + 1] for i in range(len(raw)))).request().path == "/slow"


def test_request_is_frozen_and_its_repr_holds_no_token() -> None:
    request = Wire(get("/?token=secret", headers="Host: x\r\nAuthorization: Bearer secret\r\n")).request()
    assert "secret" not in repr(request)
    with pytest.raises(FrozenInstanceError):
        request.path = "/other"  # type: ignore[misc]  # what is tested


def test_header_bytes_beyond_ascii_are_data() -> None:
    assert Wire(get("/", headers="Host: x\r\nUser-Agent: \xe9\r\n")).request().header("user-agent") == "\xe9"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("//api//rooms", "//api//rooms"),
        ("/api/../../etc/passwd", "/api/../../etc/passwd"),
        ("/%2e%2e/x", "/../x"),
        ("/caf%C3%A9%20%25", "/café %"),
        ("/100%zz", "/100%zz"),
        ("//evil.example/x", "//evil.example/x"),
        ("http://chat.example/api/rooms", "/api/rooms"),
        ("HTTPS://chat.example:3000", "/"),
        ("http://chat.example?x=1", "/"),
    ],
)
def test_path_is_decoded_and_otherwise_as_sent(target: str, path: str) -> None:
    assert Wire(get(target)).request().path == path


def test_query_of_an_absolute_form_target_is_read() -> None:
    assert Wire(get("http://chat.example?x=1")).request().query == {"x": "1"}


def test_options_may_ask_about_the_server_as_a_whole() -> None:
    assert Wire(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n").request().path == "*"


@pytest.mark.parametrize(
    "target",
    [
        "/a%2Fb",
        "/a%2fb",
        "/a%00b",
        "/%ff",
        "/?q=%ff",
        "/?a=1&a=2",
        "/?" + "&".join(f"p{i}=1" for i in range(51)),
        "*",
        "rooms",
        "ftp://chat.example/",
        "http:///rooms",
    ],
)
def test_target_that_is_not_a_clear_path_is_refused(target: str) -> None:
    assert refusal_of(get(target)).status == 400


def test_connect_is_refused() -> None:
    for target in (b"chat.example:443", b"/"):
        assert refusal_of(b"CONNECT " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n").status == 400


@pytest.mark.parametrize(
    "raw",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: nul\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA\x00: nul\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: bare\rreturn\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
    ],
)
def test_malformed_head_is_refused(raw: bytes) -> None:
    error = refusal_of(raw)
    assert (error.status, error.code) == (400, "bad_message")


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3, 4\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: 3 3\r\n",
        "Content-Length:\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length : 3\r\n",
    ],
)
def test_ambiguous_length_is_refused(headers: str) -> None:
    assert refusal_of(f"POST / HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()).status == 400


def test_chunked_body_of_http_1_0_is_refused() -> None:
    assert refusal_of(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").status == 400


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "xchunked", "identity", "chunked, chunked"])
def test_other_transfer_codings_are_not_implemented(coding: str) -> None:
    error = refusal_of(get("/", headers=f"Host: x\r\nTransfer-Encoding: {coding}\r\n"))
    assert (error.status, error.code) == (501, "feature_disabled")


def test_other_http_versions_are_refused() -> None:
    assert refusal_of(b"PRI * HTTP/2.0\r\n\r\n").status == 505


@pytest.mark.parametrize(
    "arriving",
    [
        (get("/", headers="Host: x\r\nA: " + "a" * MAX_HEAD_BYTES + "\r\n"),),
        (get("/" + "a" * MAX_HEAD_BYTES),),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: ", b"a" * MAX_HEAD_BYTES, b"a" * MAX_HEAD_BYTES),
        (get("/", headers="Host: x\r\n" + "A: b\r\n" * 4_000),),
    ],
    ids=["header", "target", "without an end", "many headers"],
)
def test_too_large_head_is_refused(arriving: tuple[bytes, ...]) -> None:
    assert refusal_of(*arriving).status == 431


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_client_that_leaves_before_its_request_is_complete_is_gone(sent: bytes) -> None:
    with pytest.raises(ClientGone):
        Wire(*([sent] if sent else []), b"").request()


# Bodies


async def test_body_comes_whole() -> None:
    request = Wire(post(b"hello")[:-2], b"l", b"o").request()
    assert request.body.length == 5
    assert await request.body.read() == b"hello"
    assert await request.body.read() == b""


async def test_request_without_a_length_has_an_empty_body() -> None:
    request = Wire(get("/")).request()
    assert request.body.length == 0
    assert await request.body.read() == b""


async def test_body_comes_in_parts() -> None:
    request = Wire(post(b"hello")[:-2], b"l", b"o").request()
    assert [await request.body.read_part() for _ in range(5)] == [b"hel", b"l", b"o", b"", b""]


async def test_chunked_body_comes_whole_without_its_framing_and_trailers() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = Wire(head + b"3;ext=1\r\nhel\r", b"\n2\r\nlo\r\n0\r\nTrailer: x\r\n", b"\r\n").request()
    assert request.body.length is None
    assert await request.body.read() == b"hello"


async def test_same_length_given_twice_is_one_length() -> None:
    request = Wire(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi").request()
    assert await request.body.read() == b"hi"


async def test_announced_length_past_the_bound_is_refused_before_the_client_may_continue() -> None:
    wire = Wire(post(b"", headers="Expect: 100-continue\r\n").replace(b"Length: 0", b"Length: 101"))
    request = wire.request()
    with pytest.raises(HttpError) as caught:
        await request.body.read()
    assert (caught.value.status, caught.value.code) == (413, "content_too_long")
    assert wire.answer(problem("content_too_long", status=413)).startswith(b"HTTP/1.1 413 ")


async def test_chunked_body_is_refused_while_it_arrives() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire = Wire(head, b"50\r\n" + b"a" * 80 + b"\r\n", b"50\r\n" + b"a" * 80 + b"\r\n", b"never asked for")
    body = wire.request().body
    assert len(await body.read_part()) == 80
    with pytest.raises(HttpError, match="413"):
        await body.read_part()


async def test_body_of_exactly_the_bound_is_taken() -> None:
    assert len(await Wire(post(b"a" * MAX_BODY)).request().body.read()) == MAX_BODY


async def test_reader_may_set_a_bound_of_its_own() -> None:
    assert len(await Wire(post(b"a" * 500)).request().body.read(max_bytes=500)) == 500
    with pytest.raises(HttpError, match="413"):
        await Wire(post(b"a" * 10)).request().body.read_part(max_bytes=9)


@pytest.mark.parametrize("chunk", [b"x\r\n", b"-1\r\n", b"0x5\r\nhello\r\n", b"3\r\nhello\r\n", b"f" * 21 + b"\r\n"])
async def test_broken_chunk_is_refused(chunk: bytes) -> None:
    body = Wire(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk).request().body
    with pytest.raises(HttpError, match="400"):
        await body.read()


async def test_client_that_leaves_amid_its_body_is_gone() -> None:
    body = Wire(post(b"hello")[:-1], b"").request().body
    with pytest.raises(ClientGone):
        await body.read()


def test_client_is_told_once_to_continue() -> None:
    wire = Wire(post(b"", headers="Expect: 100-continue\r\n").replace(b"Length: 0", b"Length: 5"))
    wire.request()
    assert wire.http.take_continue() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.http.take_continue() == b""


async def test_body_can_be_made_without_a_connection() -> None:
    body = Body.from_bytes(b"hello")
    assert (body.length, await body.read_part(), await body.read_part()) == (5, b"hello", b"")
    assert await Request(method="GET", path="/").body.read() == b""


FRAGMENTS = st.sampled_from(
    [
        *(b"GET ", b"POST ", b"HEAD ", b"CONNECT ", b"/", b"*", b"?a=1", b"&a=%ff", b"%2f", b"%", b"http://x", b" "),
        *(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n", b"HTTP/2.0\r\n", b"Host: x\r\n", b"\r\n", b"\n", b"\r", b"\x00", b"\xff"),
        *(b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n", b"Expect: 100-continue\r\n"),
        *(b"Content-Length: 3\r\n", b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\n"),
        *(b"Upgrade: x\r\n", b"Connection: close\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"abc", b" folded\r\n"),
    ]
)


async def converse(*arriving: bytes) -> list[str]:
    """What comes of these bytes: each request with its body, and how it ends."""
    wire = Wire(*arriving, b"")
    story = []
    try:
        while True:
            request = wire.request()
            story.append(f"{request} {await request.body.read()!r}")
            wire.answer(Response(200))
            if not wire.http.start_next_request():
                return [*story, "closed"]
    except HttpError as exc:
        wire.answer(problem(exc.code, exc.detail, status=exc.status), may_keep_alive=False)
        assert not wire.http.start_next_request()
        return [*story, str(exc.status)]
    except ClientGone:
        return [*story, "gone"]


@given(st.lists(FRAGMENTS, max_size=12), st.data())
def test_any_bytes_in_any_pieces_are_requests_or_a_refusal(fragments: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(fragments)
    cut = data.draw(st.integers(0, len(raw)))
    pieces = [piece for piece in (raw[:cut], raw[cut:]) if piece]
    whole = trio.run(converse, *([raw] if raw else []))
    assert trio.run(converse, *pieces) == whole


# Answers


def test_answer_says_how_long_it_is() -> None:
    wire = Wire(get("/"))
    wire.request()
    assert wire.answer(json_response(201, b"{}", headers=(("etag", '"1"'),))) == (
        b'HTTP/1.1 201 Created\r\ncontent-type: application/json\r\netag: "1"\r\ncontent-length: 2\r\n\r\n{}'
    )


def test_answer_to_head_has_the_length_but_no_body() -> None:
    wire = Wire(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert wire.request().method == "HEAD"
    assert wire.answer(Response(200, body=b"hello")) == b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
    assert wire.http.start_next_request()


def test_refusal_after_a_head_request_has_a_body_again() -> None:
    wire = Wire(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
    wire.request()
    wire.answer(Response(200))
    wire.http.start_next_request()
    with pytest.raises(HttpError):
        wire.request()
    assert wire.answer(problem("bad_message", status=400), may_keep_alive=False).endswith(b"}")


@pytest.mark.parametrize("status", [204, 304])
def test_answer_without_a_body_has_no_length(status: int) -> None:
    wire = Wire(get("/"))
    wire.request()
    sent = wire.answer(Response(status, body=b"dropped"))
    assert sent.endswith(b"\r\n\r\n")
    assert b"content-length" not in sent
    assert wire.http.start_next_request()


def test_answer_of_unknown_length_is_chunked() -> None:
    class Endless:
        length = None

        async def read_part(self) -> bytes:
            return b"x"

        async def aclose(self) -> None: ...

    wire = Wire(get("/"))
    wire.request()
    sent = wire.http.start_response(Response(200, body=Endless()), may_keep_alive=True)
    sent += wire.http.encode_part(b"hello") + wire.http.end_response()
    assert sent == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "header",
    [
        ("x", "a\r\nset-cookie: b"),
        ("x", "é"),
        ("x", " a"),
        ("x", "a\x00"),
        ("x y", "a"),
        ("X-Upper", "a"),
        ("", "a"),
        ("content-length", "1"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
    ],
)
def test_header_that_could_not_be_sent_is_refused_where_it_is_made(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        Response(200, (header,))


@pytest.mark.parametrize("status", [0, 100, 299, 600])
def test_status_that_is_no_answer_is_refused_where_it_is_made(status: int) -> None:
    with pytest.raises(ValueError, match="tatus"):
        Response(status)


# From one request to the next


def test_pipelined_requests_come_one_after_the_other() -> None:
    wire = Wire(get("/1") + get("/2"))
    assert wire.request().path == "/1"
    wire.answer(Response(200))
    assert wire.http.start_next_request()
    assert wire.http.has_input
    assert wire.request().path == "/2"
    wire.answer(Response(200))
    assert wire.http.start_next_request()
    assert not wire.http.has_input


def test_unread_body_that_has_arrived_does_not_end_the_connection() -> None:
    wire = Wire(post(b"hello") + get("/next"))
    wire.request()
    assert b"close" not in wire.answer(Response(401))
    assert wire.http.start_next_request()
    assert wire.request().path == "/next"


@pytest.mark.parametrize("headers", ["", "Expect: 100-continue\r\n"])
def test_unread_body_that_has_not_arrived_ends_the_connection(headers: str) -> None:
    wire = Wire(post(b"hello", headers=headers)[:-5])
    wire.request()
    assert b"\r\nconnection: close\r\n" in wire.answer(Response(401)).lower()
    assert not wire.http.start_next_request()


async def test_broken_unread_body_ends_the_connection() -> None:
    wire = Wire(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nbroken\r\n")
    wire.request()
    assert b"close" in wire.answer(Response(401))
    assert not wire.http.start_next_request()


def test_refused_head_is_answered_and_what_follows_it_is_never_read_as_a_request() -> None:
    raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get(
        "/admin"
    )
    wire = Wire(raw)
    with pytest.raises(HttpError):
        wire.request()
    assert b"close" in wire.answer(problem("bad_message", status=400), may_keep_alive=False)
    assert not wire.http.start_next_request()


@pytest.mark.parametrize(
    "raw", [b"GET / HTTP/1.0\r\n\r\n", get("/", headers="Host: x\r\nConnection: close\r\n")], ids=["1.0", "close"]
)
def test_client_that_wants_one_answer_gets_one(raw: bytes) -> None:
    wire = Wire(raw)
    wire.request()
    assert b"Connection: close" in wire.answer(Response(200, body=b"hi"))
    assert not wire.http.start_next_request()


def test_upgrade_is_not_followed() -> None:
    wire = Wire(get("/", headers="Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"))
    wire.request()
    assert wire.answer(Response(404)).startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert wire.http.start_next_request()


# Problems


def test_problem_has_the_members_of_rfc_9457_and_the_code() -> None:
    response = problem(Refusal("not_a_member", "Join the room first."))
    assert response.status == 403
    assert problem_of(response) == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "detail": "Join the room first.",
        "code": "not_a_member",
    }


def test_problem_of_a_form_names_its_fields() -> None:
    refusal = Refusal("bad_message", "Mend the fields.", fields={"email": "This is no email address: «é»."})
    assert problem_of(problem(refusal))["fields"] == {"email": "This is no email address: «é»."}


@pytest.mark.parametrize(
    ("retry_after_ms", "header"), [(1, "1"), (1_000, "1"), (1_001, "2"), (59_999, "60"), (0, "0"), (None, "1")]
)
def test_problem_says_when_to_retry_in_whole_seconds_rounded_up(retry_after_ms: int | None, header: str) -> None:
    response = problem(Refusal("rate_limited", "Slower.", retry_after_ms=retry_after_ms))
    assert response.status == 429
    assert ("retry-after", header) in response.headers
    assert problem_of(response).get("retryAfterMs") == retry_after_ms


def test_unavailable_problem_says_when_to_retry() -> None:
    assert "retry-after" in dict(problem("unavailable", "The database is out.").headers)


@pytest.mark.parametrize(
    ("refusal", "header"),
    [
        (Refusal("unauthenticated", "Sign in."), 'Bearer realm="chatd"'),
        (Refusal("token_expired", "Refresh."), 'Bearer realm="chatd", error="invalid_token"'),
    ],
)
def test_unauthenticated_problem_says_how_to_authenticate(refusal: Refusal, header: str) -> None:
    assert dict(problem(refusal).headers)["www-authenticate"] == header


def test_problem_may_have_a_status_and_headers_of_http_alone() -> None:
    headers: Headers = (("allow", "GET, HEAD"),)
    response = problem("not_found", "Use GET.", status=405, headers=headers)
    assert (response.status, problem_of(response)["title"]) == (405, "Method Not Allowed")
    assert ("allow", "GET, HEAD") in response.headers
