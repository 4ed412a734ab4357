"""HTTP/1.1 messages: what a request and an answer are, and the bytes they are made of. The one door to h11.

Leaves sockets, time and tasks to `chatd.listener`, which feeds an `HttpConnection` with what arrives and sends what
it returns; leaves paths and their meaning to `chatd.chat.routes`, which sees only `Request`, `Body` and `Response`.

A request's body is not part of its head: the handler asks for it, whole (`Body.read`) or as it comes
(`Body.read_part`), after it has decided from the head that it wants it. Only then is a client that waits for
`100 Continue` told to go on. An answer's body is likewise bytes, or a `Stream` that is read as fast as it is sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

import h11

from chatd.errors import STATUS, ErrorCode, Refusal

#: Names in lower case, in the order of the wire. The same name may come more than once.
Headers = tuple[tuple[str, str], ...]

#: Gives the next bytes of a body as they arrive, `b""` at its end.
ReadPart = Callable[[], Awaitable[bytes]]

Query = Mapping[str, str]

#: Bound of a request line with its headers, as h11 counts it; nginx and Apache allow half of this for one line.
MAX_HEAD_BYTES: Final = 16 * 1024

#: Bound of the parameters after the `?`; the longest list of chatd's own is five.
MAX_QUERY_FIELDS: Final = 50

#: Said by a 429 or 503 that does not know better: `Retry-After` is promised on both.
DEFAULT_RETRY_AFTER_MS: Final = 1_000

_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9a-z]+")
_ABSOLUTE_FORM: Final = re.compile(r"https?://[^/?]+", re.IGNORECASE)

#: What decides where a message ends belongs to the connection alone.
_FRAMING: Final = frozenset({"connection", "content-length", "transfer-encoding"})

#: Answers that have no body, whatever they say (RFC 9110 section 6.4.1).
_BODILESS: Final = frozenset({204, 304})

#: What h11 says about a client's bytes quotes them; these sentences do not.
_SENTENCES: Final[dict[int, tuple[ErrorCode, str]]] = {
    400: ("bad_message", "This is not a valid HTTP/1.1 request: check its request line, Host, headers and length."),
    431: ("bad_message", f"The request line and headers are too large: send at most {MAX_HEAD_BYTES} bytes of them."),
    501: ("feature_disabled", "The only Transfer-Encoding understood is chunked: send the body as it is."),
}


class HttpError(Exception):
    """The request ends with this status, because of how it was sent and not of what it asks."""

    def __init__(self, status: int, code: ErrorCode, detail: str) -> None:
        super().__init__(status, code, detail)
        self.status = status
        self.code: ErrorCode = code
        self.detail = detail


class ClientGone(Exception):
    """The client left before the request or its answer was complete. Nobody is there to be told."""


class Body:
    """The body of one request, read at most once and only if the handler wants it.

    `length` is its size in bytes as announced, None where only its end will tell (chunked). `total_s` is for the
    handler to set before it reads, where the body may take longer as a whole than the listener lets others.
    """

    def __init__(self, read_part: ReadPart, *, length: int | None, max_bytes: int) -> None:
        self.length = length
        self.total_s: float | None = None
        self._source = read_part
        self._max_bytes = max_bytes
        self._received = 0
        self._is_complete = False

    @classmethod
    def from_bytes(cls, data: bytes) -> Body:
        """A body that is already here, for a caller without a socket."""
        rest = [data]

        async def read_part() -> bytes:
            return rest.pop() if rest else b""

        return cls(read_part, length=len(data), max_bytes=len(data))

    async def read_part(self, *, max_bytes: int | None = None) -> bytes:
        """The next bytes as they arrive, `b""` at the end and ever after.

        `max_bytes` bounds the whole body (default: the listener's bound for JSON). Raises `HttpError` 413 as soon as
        the announced or the received size passes it (in the first case before the client is told to continue), 408
        when the client stalls, 400 when the framing is broken; `ClientGone` when the client left. Cancelling loses
        nothing: what has arrived stays with the connection.
        """
        if self._is_complete:
            return b""
        bound = self._max_bytes if max_bytes is None else max_bytes
        self._check(self.length or 0, bound)
        part = await self._source()
        self._received += len(part)
        self._is_complete = not part
        self._check(self._received, bound)
        return part

    async def read(self, *, max_bytes: int | None = None) -> bytes:
        """The whole body, at most `max_bytes` of it. Raises like `read_part`; cancelling loses what it has read."""
        parts = []
        while part := await self.read_part(max_bytes=max_bytes):
            parts.append(part)
        return b"".join(parts)

    def _check(self, size: int, bound: int) -> None:
        if size > bound:
            raise HttpError(413, "content_too_long", f"The body is too large: send at most {bound} bytes.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asks for. `repr` leaves out what may hold tokens.

    `path` is percent-decoded UTF-8 and otherwise as sent: `//` and `..` mean nothing here. It has no encoded `/` or
    NUL (both refused), so that splitting it at `/` gives the segments. `address` is the client's, already looked up
    behind trusted proxies.
    """

    method: str
    path: str
    query: Query = field(default_factory=dict, repr=False)
    headers: Headers = field(default=(), repr=False)
    body: Body = field(default_factory=lambda: Body.from_bytes(b""), repr=False)
    address: str = ""

    def header(self, name: str) -> str | None:
        """The value of this header in any case, several joined with a comma (RFC 9110 section 5.3)."""
        wanted = name.lower()
        values = [value for key, value in self.headers if key == wanted]
        return ", ".join(values) if values else None


class Stream(Protocol):
    """An answer's body that is read as fast as the client takes it.

    `length` in bytes, or None to be sent chunked. `read_part` returns `b""` at the end. `aclose` is called exactly
    once whatever happened, also when nothing was read, and must close even when it is cancelled.
    """

    @property
    def length(self) -> int | None: ...
    async def read_part(self) -> bytes: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    Raises ValueError where it is made, not where it is sent, for what could not be sent: an unknown status, a header
    that is not a lower-case name with printable ASCII, or one that says where the message ends.
    """

    status: int
    headers: Headers = ()
    body: bytes | Stream = b""

    def __post_init__(self) -> None:
        if HTTPStatus(self.status) < HTTPStatus.OK:
            raise ValueError(f"not the status of an answer: {self.status}")
        for name, value in self.headers:
            if not _TOKEN.fullmatch(name) or name in _FRAMING:
                raise ValueError(f"not a header that an answer may set: {name!r}")
            if not (value.isascii() and value.isprintable() and value == value.strip()):
                raise ValueError(f"not a value that a header can carry: {name}")


def json_response(status: int, body: bytes, *, headers: Headers = ()) -> Response:
    """An answer of JSON that is already encoded."""
    return Response(status, (("content-type", "application/json"), *headers), body)


def problem(
    cause: Refusal | ErrorCode, detail: str = "", *, status: int | None = None, headers: Headers = ()
) -> Response:
    """A refusal as application/problem+json (RFC 9457), with the headers that its status promises.

    `cause` is a Refusal, or its code with a `detail`. `status` overrides the code's own, for what only HTTP knows
    (405, 408, 413, …). The type is about:blank: what happened is in `code`, a word of spec/protocol.md.
    """
    refusal = cause if isinstance(cause, Refusal) else Refusal(cause, detail)
    status = STATUS[refusal.code] if status is None else status
    body: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": refusal.detail,
        "code": refusal.code,
    }
    if refusal.retry_after_ms is not None:
        body["retryAfterMs"] = refusal.retry_after_ms
    if refusal.fields:
        body["fields"] = refusal.fields
    promised: Headers = ()
    if status in (429, 503):
        wait_ms = DEFAULT_RETRY_AFTER_MS if refusal.retry_after_ms is None else refusal.retry_after_ms
        promised = (("retry-after", str(-(-wait_ms // 1_000))),)
    elif status == 401:
        # RFC 6750 section 3.1: no error code for a request that showed no token at all.
        expired = ', error="invalid_token"' if refusal.code == "token_expired" else ""
        promised = (("www-authenticate", f'Bearer realm="chatd"{expired}'),)
    content_type = ("content-type", "application/problem+json")
    return Response(status, (content_type, *promised, *headers), json.dumps(body).encode())


class HttpConnection:
    """The state of one client's connection, without its socket: bytes in, requests out; answers in, bytes out.

    For each request: `receive` until `next_request` gives it; `receive` until `next_part` gives `b""`, if its body is
    wanted; `start_response`, `encode_part` for each part, `end_response`; then `start_next_request`. A request that
    cannot be read may be answered too; the connection is then not reusable.
    """

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._is_ended = False
        self._method = b""
        #: Whether the answer that was started has a body on the wire; false for HEAD.
        self.sends_body = True

    @property
    def has_input(self) -> bool:
        """Whether something of the next request is already here (a pipelined one)."""
        return bool(self._h11.trailing_data[0])

    def receive(self, data: bytes) -> None:
        """Take what arrived; `b""` is the client's end of sending."""
        self._is_ended = self._is_ended or not data
        self._h11.receive_data(data)

    def next_request(self, read_part: ReadPart, *, address: str, max_bytes: int) -> Request | None:
        """The next request when its head is complete, else None. Its body will come from `read_part`.

        Raises `HttpError` for a head that breaks the rules, after which this connection must be closed, and
        `ClientGone` when the client left instead.
        """
        event = self._next_event()
        if event is h11.NEED_DATA:
            return None
        if not isinstance(event, h11.Request):
            raise ClientGone
        self._method = event.method
        _check_head(event)
        headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
        lengths = [int(value) for name, value in headers if name == "content-length"]
        is_chunked = any(name == "transfer-encoding" for name, _ in headers)
        method = event.method.decode("ascii")
        path, query = _split_target(event.target.decode("ascii"), method)
        body = Body(read_part, length=None if is_chunked else sum(lengths), max_bytes=max_bytes)
        return Request(method=method, path=path, query=query, headers=headers, body=body, address=address)

    def next_part(self) -> bytes | None:
        """The next bytes of the body, `b""` at its end, None when more must be received first.

        Raises `HttpError` 400 for broken framing, `ClientGone` when the client left before the end.
        """
        event = self._next_event()
        if event is h11.NEED_DATA:
            return None
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    def take_continue(self) -> bytes:
        """`100 Continue` if the client waits for it and has not been told, else nothing."""
        if not self._h11.they_are_waiting_for_100_continue:
            return b""
        return self._h11.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))

    def start_response(self, response: Response, *, may_keep_alive: bool) -> bytes:
        """The head of an answer.

        What has arrived of an unread body is dropped; if that is not all of it, or if not `may_keep_alive`, the
        answer says that it is the last one.
        """
        with suppress(h11.RemoteProtocolError):
            # A next request that stands behind an unread body can be found only by reading that body.
            while self._h11.their_state is h11.SEND_BODY and self._h11.next_event() is not h11.NEED_DATA:
                pass
        is_unread = self._h11.their_state in (h11.IDLE, h11.SEND_BODY, h11.ERROR)
        self.sends_body = self._method != b"HEAD" and response.status not in _BODILESS
        headers = [(name.encode("ascii"), value.encode("ascii")) for name, value in response.headers]
        length = len(response.body) if isinstance(response.body, bytes) else response.body.length
        if length is not None and response.status not in _BODILESS:
            headers.append((b"content-length", b"%d" % length))
        if is_unread or not may_keep_alive:
            headers.append((b"connection", b"close"))
        reason = HTTPStatus(response.status).phrase.encode("ascii")
        return self._h11.send(h11.Response(status_code=response.status, headers=headers, reason=reason))

    def encode_part(self, part: bytes) -> bytes:
        """A part of the answer's body as it goes on the wire: nothing, where the answer has none."""
        return self._h11.send(h11.Data(data=part)) if self.sends_body else b""

    def pass_part(self, size: int) -> None:
        """Count a part of the answer's body that somebody else puts on the wire; its length was announced."""
        self._h11.send_with_data_passthrough(h11.Data(data=_Elsewhere(size)))  # type: ignore[arg-type]  # h11's docs: all that it needs is a length

    def end_response(self) -> bytes:
        """The end of the answer. Raises h11.LocalProtocolError if its body was shorter than announced."""
        return self._h11.send(h11.EndOfMessage())

    def start_next_request(self) -> bool:
        """Make ready for the next request; False if this connection must be closed instead."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        self._method = b""
        return True

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as exc:
            if self._is_ended:
                raise ClientGone from exc
            raise _http_error(exc.error_status_hint) from exc


class _Elsewhere:
    """Stands for bytes that are not here."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def _http_error(status: int) -> HttpError:
    code, detail = _SENTENCES[status]
    return HttpError(status, code, detail)


def _check_head(head: h11.Request) -> None:
    """What h11 lets pass and chatd does not. Raises `HttpError`."""
    if not head.http_version.startswith(b"1."):
        raise HttpError(505, "bad_message", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    # h11 bounds what is incomplete; a head that arrived in one piece has to be measured.
    if len(head.target) + sum(len(name) + len(value) + 4 for name, value in head.headers) > MAX_HEAD_BYTES:
        raise _http_error(431)
    names = {name for name, _ in head.headers}
    # RFC 9112 section 6.1: the shapes of request smuggling; a proxy before us may have seen another end.
    if b"transfer-encoding" in names and (b"content-length" in names or head.http_version == b"1.0"):
        raise _http_error(400)


def _split_target(target: str, method: str) -> tuple[str, Query]:
    """Path and query of a request target (RFC 9112 section 3.2). Raises `HttpError` 400."""
    if target == "*" and method == "OPTIONS":
        return "*", {}
    if absolute := _ABSOLUTE_FORM.match(target):
        target = target[absolute.end() :]
        target = target if target.startswith("/") else f"/{target}"
    raw_path, _, raw_query = target.partition("?")
    # CONNECT asks for a proxy; after a 2xx to it h11 would end the HTTP conversation.
    if not raw_path.startswith("/") or method == "CONNECT":
        raise HttpError(400, "bad_message", "The request target must be a path that starts with a slash.")
    if re.search("%2f|%00", raw_path, re.IGNORECASE):
        raise HttpError(400, "bad_message", "The path must not contain an encoded slash or NUL.")
    try:
        path = unquote_to_bytes(raw_path).decode()
        pairs = parse_qsl(raw_query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError as exc:
        sentence = f"Path and query must be percent-encoded UTF-8, with at most {MAX_QUERY_FIELDS} parameters."
        raise HttpError(400, "bad_message", sentence) from exc
    if any("\x00" in text for pair in pairs for text in pair):
        raise HttpError(400, "bad_message", "The query must not contain an encoded NUL.")
    query = dict(pairs)
    if len(query) != len(pairs):
        raise HttpError(400, "bad_message", "A parameter is given twice: send each one once.")
    return path, query
