"""Reading pages of foreign servers without ever reaching one that is not the world's: the own network stays closed.

A name is resolved here, every address of it is looked at, and the connection goes to an address that was looked at: a
server cannot change its mind in between, and a redirect is one more page, looked at alike. Everything is bounded: the
seconds of all together, bytes of the body, redirects. `previews` asks. The second door to h11, as a client.

Source: RFC 9110, RFC 9112; https://www.iana.org/assignments/iana-ipv4-special-registry,
https://www.iana.org/assignments/iana-ipv6-special-registry
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias
from urllib.parse import SplitResult, urljoin, urlsplit

import h11
import trio

from chatd import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HTML: Final = ("text/html", "application/xhtml+xml")
_RECEIVE_BYTES: Final = 16_384
MAX_URL: Final = 2048
#: Addresses of one host that are tried.
MAX_TRIES: Final = 3

#: Whether an address may be connected to.
MayReach: TypeAlias = Callable[[str], bool]

#: Where IPv6 has its own unicast addresses, and what of that leads elsewhere: Teredo and the like, documentation, 6to4.
_IPV6_WORLD: Final = ipaddress.IPv6Network("2000::/3")
_IPV6_CLOSED: Final = tuple(map(ipaddress.IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
#: Beside what is not global anyway: relays of 6to4, AS112.
_IPV4_CLOSED: Final = tuple(map(ipaddress.IPv4Network, ("192.88.99.0/24", "192.0.0.0/24", "100.64.0.0/10")))


class Unreadable(Exception):
    """A page cannot be shown: it is not there, not a page, or not to be reached. `str()` says why, without the URL."""


@dataclass(frozen=True, slots=True)
class PageBounds:
    """What one page may cost: seconds with all redirects, bytes of its body (what is behind them is not read)."""

    timeout_s: float = 5.0
    max_bytes: int = 262_144
    redirects: int = 3


class Page(NamedTuple):
    """The beginning of an HTML page, and where it was at last; `charset` is what its server said."""

    url: str
    body: bytes
    charset: str


class _Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def is_of_the_world(address: str) -> bool:
    """Whether an address is somebody's on the internet: not this machine's, this network's or a group's."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        # With it go ::1, fe80::/10, fc00::/7, ::ffff:0:0/96 and 64:ff9b::/96, which stand for IPv4 addresses.
        return found in _IPV6_WORLD and found.is_global and not any(found in closed for closed in _IPV6_CLOSED)
    is_plain = found.is_global and not (found.is_multicast or found.is_reserved or found.is_loopback)
    return is_plain and not any(found in closed for closed in _IPV4_CLOSED)


async def read_page(
    url: str, bounds: PageBounds, *, may_reach: MayReach = is_of_the_world, tls: ssl.SSLContext | None = None
) -> Page:
    """The beginning of a page, behind redirects. Raises `Unreadable`. `tls` are the authorities that are believed."""
    with trio.move_on_after(bounds.timeout_s):
        for _ in range(bounds.redirects + 1):
            parts = _split(url)
            answer = await _get(parts, bounds.max_bytes, may_reach, tls or ssl.create_default_context())
            if answer.status not in _REDIRECTS:
                return _page(url, answer)
            target = answer.headers.get(b"location", b"").decode("utf-8", "replace")
            try:
                url = urljoin(url, target)
            except ValueError as error:
                raise Unreadable("it redirects to no URL") from error
        raise Unreadable("it redirects too often")
    raise Unreadable("it takes too long")


def _split(url: str) -> SplitResult:
    if len(url) > MAX_URL:
        raise Unreadable("its URL is too long")
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise Unreadable("its URL is not understood") from error
    if not is_whole or parts.username is not None or parts.password is not None:
        raise Unreadable("its URL is none of the web")
    return parts


async def _get(parts: SplitResult, max_bytes: int, may_reach: MayReach, tls: ssl.SSLContext) -> _Answer:
    host, port = _host(parts), parts.port or PORTS[parts.scheme]
    addresses = await _resolve(host, port, may_reach)
    try:
        with await _connect(addresses, port) as sock:
            stream: trio.abc.Stream = trio.SocketStream(sock)
            if parts.scheme == "https":
                stream = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
            return await _exchange(stream, _request(parts, host), max_bytes)
    except (OSError, ssl.SSLError, trio.BrokenResourceError, h11.RemoteProtocolError, h11.LocalProtocolError) as error:
        raise Unreadable("its server does not answer as it should") from error


def _host(parts: SplitResult) -> str:
    """The host as it is asked for: a name in letters of ASCII, or an address."""
    assert parts.hostname is not None
    try:
        return parts.hostname.encode("ascii").decode() if parts.hostname.isascii() else (
            parts.hostname.encode("idna").decode("ascii")
        )  # fmt: skip
    except UnicodeError as error:
        raise Unreadable("its host is no name") from error


async def _resolve(host: str, port: int, may_reach: MayReach) -> list[tuple[str, int]]:
    """The addresses of a host with their families, all of which may be reached."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unreadable("its host has no address") from error
    addresses = [(str(address[0]), int(family)) for family, _, _, _, address in found]
    if not addresses or not all(may_reach(address) for address, _ in addresses):
        raise Unreadable("its host is not of the world")
    return addresses


async def _connect(addresses: Sequence[tuple[str, int]], port: int) -> trio.socket.SocketType:
    """A socket that is connected to the first of these that answers. Raises OSError."""
    for address, family in addresses[:MAX_TRIES]:
        sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
        try:
            await sock.connect((address, port))
        except OSError:
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise OSError("none of the addresses answers")


def _request(parts: SplitResult, host: str) -> h11.Request:
    named = f"[{host}]" if ":" in host else host
    default = parts.port is None or parts.port == PORTS[parts.scheme]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers: Iterable[tuple[str, str]] = (
        ("Host", named if default else f"{named}:{parts.port}"),
        ("User-Agent", f"chatd/{__version__} (link preview)"),
        ("Accept", ", ".join(_HTML)),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
    )
    return h11.Request(method="GET", target=_in_ascii(target), headers=list(headers))


def _in_ascii(target: str) -> str:
    """A path and query with everything percent-encoded that a request line does not take."""
    return "".join(
        sign if "!" <= sign <= "~" else "".join(f"%{byte:02X}" for byte in sign.encode("utf-8", "replace"))
        for sign in target
    )


async def _exchange(stream: trio.abc.Stream, request: h11.Request, max_bytes: int) -> _Answer:
    connection = h11.Connection(h11.CLIENT)
    await stream.send_all((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
    status, headers, body = 0, {}, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(_RECEIVE_BYTES)))
        elif isinstance(event, h11.Response):
            status, headers = event.status_code, dict(event.headers)
            if status in _REDIRECTS:
                return _Answer(status, headers, b"")
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
            if len(body) >= max_bytes:
                return _Answer(status, headers, body[:max_bytes])
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return _Answer(status, headers, body)


def _page(url: str, answer: _Answer) -> Page:
    if answer.status != 200:
        raise Unreadable(f"its server says {answer.status}")
    kind, _, rest = answer.headers.get(b"content-type", b"").decode("latin-1").partition(";")
    if kind.strip().lower() not in _HTML or b"content-encoding" in answer.headers:
        raise Unreadable("it is no HTML page")
    _, _, charset = rest.lower().partition("charset=")
    return Page(url, answer.body, charset.split(";")[0].strip(" \"'"))
