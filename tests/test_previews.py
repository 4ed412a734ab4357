"""Previews of linked pages: what is read of them, what bounds it, and that no private address is ever asked."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd import previews
from chatd.chat.page_head import MAX_DESCRIPTION, MAX_TITLE, PageHead, read_head
from chatd.web_pages import Page, PageBounds, Unreadable, is_of_the_world, read_page
from tests.daemon import ON_BOTH_BACK_ENDS, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

#: Where the pages of these tests are, as if it were the world.
WORLD = "127.0.0.2"
BOUNDS = PageBounds(timeout_s=5, max_bytes=4096, redirects=2)
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n\r\n"
PAGE = HTML + "<html><head><title>Tëa &amp; co</title></head>".encode()


def redirect(target: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()


@dataclass
class Site:
    """A server of pages: what it answers by path, and the heads of the requests that came."""

    port: int
    answers: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def url(self, path: str = "/", host: str = WORLD) -> str:
        return f"http://{host}:{self.port}{path}"

    async def answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            head = (await stream.receive_some(65_536)).decode()
            self.requests.append(head)
            answer = self.answers.get(head.split(" ")[1], b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            try:
                await stream.send_all(answer)
                if answer.startswith(HTML[:5]) and b"hang" in answer:
                    await trio.sleep_forever()
                await stream.send_eof()
                while await stream.receive_some(1000):
                    pass
            except trio.BrokenResourceError:
                # Who has enough goes away.
                return


@asynccontextmanager
async def open_site(*hosts: str) -> AsyncIterator[Site]:
    """A site on all of these addresses, on one port."""
    async with trio.open_nursery() as nursery:
        listeners = await _listen(hosts or (WORLD,))
        site = Site(listeners[0].socket.getsockname()[1])
        nursery.start_soon(partial(trio.serve_listeners, site.answer, listeners))
        yield site
        nursery.cancel_scope.cancel()


async def _listen(hosts: Sequence[str]) -> list[trio.SocketListener]:
    """Listeners on one port of all these addresses; one that is free on the first may be taken on another."""
    while True:
        listeners = await trio.open_tcp_listeners(0, host=hosts[0])
        try:
            for host in hosts[1:]:
                listeners += await trio.open_tcp_listeners(listeners[0].socket.getsockname()[1], host=host)
        except OSError:
            for listener in listeners:
                await listener.aclose()
        else:
            return listeners


def is_world(address: str) -> bool:
    """The real check, and the address of the tests beside it."""
    return address == WORLD or is_of_the_world(address)


async def read(url: str, bounds: PageBounds = BOUNDS) -> Page:
    return await read_page(url, bounds, may_reach=is_world)


# Addresses


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "2a00:1450:4001:80b::200e"])
def test_addresses_of_the_world_may_be_asked(address: str) -> None:
    assert is_of_the_world(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104 - asked for, not bound
        "127.0.0.1", "127.9.9.9", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.88.99.1",
        "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1",
        "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1", "2001::1", "2001:db8::1",
        "2002:7f00:1::", "2001:10::1", "nonsense", "",
    ],
)  # fmt: skip
def test_all_other_addresses_may_not(address: str) -> None:
    assert not is_of_the_world(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "LOCALHOST.", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "0",  # noqa: S104 - asked for, not bound
        "[::1]",
        "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021",
    ],
)  # fmt: skip
async def test_no_spelling_of_this_machine_is_connected_to(host: str) -> None:
    async with open_site("127.0.0.1", "::1") as site:
        site.answers["/"] = PAGE
        with pytest.raises(Unreadable):
            await read_page(site.url(host=host), BOUNDS)
        assert site.requests == []


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "192.168.0.1", "100.64.0.1", "[fe80::1]", "[fd00::1]"])
async def test_private_networks_are_refused_before_anything_is_sent(host: str) -> None:
    with pytest.raises(Unreadable, match="not of the world"):
        await read_page(f"http://{host}/", BOUNDS)


class Names(trio.abc.HostnameResolver):
    """Names that mean what a test says, answer after answer."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[object] = []

    async def getaddrinfo(  # noqa: PLR0917 - trio's signature
        self,
        host: bytes | None,
        port: object,
        family: int = 0,
        type: int = 0,  # noqa: A002 - trio's name
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        await trio.lowlevel.checkpoint()
        self.asked.append(host)
        found = self.answers.pop(0)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in found
        ]

    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.mark.parametrize(
    "addresses",
    [
        ["0.0.0.0"],  # noqa: S104 - an answer, not bound
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["169.254.169.254"],
        [WORLD, "127.0.0.1"],
        [],
    ],
)
async def test_names_that_lead_inside_are_refused_also_beside_an_address_outside(addresses: list[str]) -> None:
    async with open_site(WORLD, "127.0.0.1", "::1") as site:
        site.answers["/"] = PAGE
        trio.socket.set_custom_hostname_resolver(Names(addresses))
        with pytest.raises(Unreadable, match="not of the world"):
            await read(site.url(host="inside.example.org"))
        assert site.requests == []


async def test_a_name_is_asked_once_and_the_address_that_was_looked_at_is_connected_to() -> None:
    async with open_site(WORLD, "127.0.0.1") as site:
        site.answers["/x?y=1"] = PAGE
        names = Names([WORLD], ["127.0.0.1"])
        trio.socket.set_custom_hostname_resolver(names)
        await read(site.url("/x?y=1#z", host="rebinding.example.org"))
        assert len(names.asked) == 1
        [request] = site.requests
        assert request.startswith("GET /x?y=1 HTTP/1.1\r\n")
        assert f"\r\nHost: rebinding.example.org:{site.port}\r\n" in request


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/secret", "//127.0.0.1:{port}/secret", "http://localhost:{port}/secret",
        "http://[::1]:{port}/secret", "http://169.254.169.254/secret", "file:///etc/passwd", "gopher://127.0.0.1:{port}/",
        "http://user@127.0.0.1:{port}/secret", "https://127.0.0.1:{port}/secret", "http://[::ffff:127.0.0.1]:{port}/",
        "http://0.0.0.0:{port}/secret", "http://", "", "http://[", "//[x]/secret",
    ],
)  # fmt: skip
async def test_redirects_do_not_lead_inside(target: str) -> None:
    async with open_site(WORLD, "127.0.0.1", "::1") as site:
        site.answers |= {"/": redirect(target.format(port=site.port)), "/secret": PAGE}
        with pytest.raises(Unreadable):
            await read(site.url())
        assert not [request for request in site.requests if "secret" in request]


# Pages


async def test_a_page_is_read_behind_redirects_that_stay_outside() -> None:
    async with open_site() as site:
        site.answers |= {"/": redirect("/a"), "/a": redirect(site.url("/b?c=ü")), "/b?c=%C3%BC": PAGE}
        page = await read(site.url())
        assert (page.url, page.charset) == (site.url("/b?c=ü"), "utf-8")
        assert read_head(page.body, page.charset) == PageHead("Tëa & co", "", "")
        site.answers["/b?c=%C3%BC"] = redirect("/")
        with pytest.raises(Unreadable, match="redirects too often"):
            await read(site.url())
        assert len(site.requests) == 6


async def test_of_a_long_page_only_the_beginning_is_read() -> None:
    async with open_site() as site:
        site.answers["/"] = PAGE + b"x" * 10_000_000
        assert len((await read(site.url())).body) == 4096


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\nx", "no HTML page"),
        (b"HTTP/1.1 200 OK\r\n\r\nx", "no HTML page"),
        (HTML.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + b"x", "no HTML page"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "says 404"),
        (b"nonsense\r\n\r\n", "does not answer as it should"),
        (b"", "does not answer as it should"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1_000_000, "does not answer as it should"),
        (HTML.replace(b"\r\n\r\n", b"\r\nContent-Length: 100\r\n\r\n") + b"short", "does not answer as it should"),
    ],
)
async def test_what_is_no_page_is_not_shown(answer: bytes, why: str) -> None:
    async with open_site() as site:
        site.answers["/"] = answer
        with pytest.raises(Unreadable, match=why):
            await read(site.url())


async def test_a_server_that_hangs_is_given_up() -> None:
    async with open_site() as site:
        site.answers["/"] = HTML + b"hang"
        with pytest.raises(Unreadable, match="too long"):
            await read(site.url(), PageBounds(timeout_s=0.2))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.2/", "http://", "http:///x", "http://127.0.0.2:99999/", "http://user:pw@127.0.0.2/", "http://[",
        "http://127.0.0.2:0/", "javascript:x", "http://" + "ä" * 70 + ".org/", "http://x" + "y" * 3000, "http://a b/",
        "http://\ud800.org/", "http://127.0.0.2\r\nX: y/",
    ],
)  # fmt: skip
async def test_urls_that_are_none_of_the_web_are_refused(url: str) -> None:
    with pytest.raises(Unreadable):
        await read(url)


async def test_nothing_gets_into_the_request_but_the_url() -> None:
    async with open_site() as site:
        site.answers["/"] = PAGE
        with pytest.raises(Unreadable):
            await read(site.url("/a b\u00a0%0d%0aX: y?q='\"<>"))
        [request] = site.requests
        assert request.split("\r\n")[0] == "GET /a%20b%C2%A0%0d%0aX:%20y?q='\"<> HTTP/1.1"
        assert "\r\nX:" not in request


# Heads


@pytest.mark.parametrize(
    ("html", "head"),
    [
        ("<title>a</title><title>b</title>", PageHead("a", "", "")),
        ("<title> two\n words&#0;&nbsp;\u202ex </title>", PageHead("two words\ufffd x", "", "")),
        ("<title>&lt;script&gt;</title>", PageHead("<script>", "", "")),
        ("<meta property=og:title content=A><title>b</title><meta name=Description content=d>", PageHead("A", "d", "")),
        ("<meta property='og:site_name' content='S'><meta property=og:description content=D>", PageHead("", "D", "S")),
        ("<head></head><title>late</title>", PageHead("", "", "")),
        ("<body><title>late</title>", PageHead("", "", "")),
        ("<title>unclosed", PageHead("unclosed", "", "")),
        ("", PageHead("", "", "")),
    ],
)
def test_a_head_says_what_the_page_is(html: str, head: PageHead) -> None:
    assert read_head(html.encode(), "utf-8") == head


@pytest.mark.parametrize("part", ["<![x[", "<![ [", "<![foo[bar]]>", "<![%["])
def test_of_a_page_that_is_no_html_further_on_the_beginning_counts(part: str) -> None:
    assert read_head(f"<title>tea</title>{part}".encode(), "") == PageHead("tea", "", "")


def test_what_a_page_says_is_short() -> None:
    head = read_head(b"<title>" + b"x" * 5000 + b"</title><meta name=description content='" + b"y" * 5000 + b"'>", "")
    assert (len(head.title), len(head.description)) == (MAX_TITLE, MAX_DESCRIPTION)


@pytest.mark.parametrize("charset", ["iso-8859-1", "ISO-8859-1", "windows-1252", "latin1"])
def test_a_page_is_read_in_its_character_set(charset: str) -> None:
    body = "<title>Tëa</title>".encode("latin-1")
    assert read_head(body, charset).title == "Tëa"
    assert read_head(f"<meta charset='{charset}'>".encode() + body, "").title == "Tëa"


@pytest.mark.parametrize("charset", ["", "nonsense", "zlib", "unicode_escape", "idna", "hex", "x" * 1000, "undefined"])
def test_a_character_set_that_pages_have_not_is_taken_for_utf_8(charset: str) -> None:
    assert read_head("<title>Tëa\\ud800</title>".encode(), charset).title == "Tëa\\ud800"


@pytest.mark.parametrize("part", ["<", "<a ", "<!--", "</", "&", "<title>", "<?", "<script>", "<a x='", "<![CDATA["])
def test_pages_made_to_be_slow_are_read_once(part: str) -> None:
    read_head((part * 131_072)[:131_072].encode(), "utf-8")


# In messages


@ON_BOTH_BACK_ENDS
async def test_a_message_shows_the_pages_that_it_links_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "is_of_the_world", is_world)
    async with open_site() as site, open_daemon(tmp_path, MESSAGES_LINK_PREVIEWS="true") as daemon:
        site.answers |= {"/a": PAGE, "/b": HTML + b"<title>B</title><meta name=description content='about b'>"}
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            links = [site.url(path) for path in ("/a", "/gone", "/b")]
            ack = await client.ask(type="send_message", roomId=room, content=" ".join(links))
            live = (await client.heard("new_message"))["message"]
            assert live["metadata"] == {"links": links}
            edited = await client.heard("message_edited")
            expected = [
                {"url": links[0], "title": "Tëa & co"},
                {"url": links[2], "title": "B", "description": "about b"},
            ]
            assert edited["message"] == {**live, "metadata": {"links": links, "previews": expected}}
            assert (edited["seq"], "editedAt" in edited["message"]) == (ack["seq"] + 1, False)
            history = (await daemon.http("GET", f"/api/rooms/{room}/messages", token=ada.token)).json()
            assert history["messages"] == [edited["message"]]
            # Another text, other pages; and nobody makes up what a page says.
            await client.ask(type="edit_message", messageId=ack["messageId"], content=links[2])
            assert (await client.heard("message_edited"))["message"]["metadata"] == {"links": [links[2]]}
            again = await client.heard("message_edited")
            assert again["message"]["metadata"]["previews"] == expected[1:]
            made_up = {"previews": [{"url": links[0], "title": "Free money"}]}
            await client.ask(type="send_message", roomId=room, content="no link", metadata=made_up)
            assert (await client.heard("new_message"))["message"].get("metadata") in (None, {})
        assert len(site.requests) == 4


async def test_no_page_keeps_others_from_being_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "is_of_the_world", is_world)
    async with open_site() as site, open_daemon(tmp_path, MESSAGES_LINK_PREVIEWS="true") as daemon:
        site.answers |= {"/a": redirect("http://["), "/b": HTML + b"<title>B</title><![x[", "/c": PAGE}
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            links = [site.url(path) for path in ("/a", "/b", "/c")]
            await client.ask(type="send_message", roomId=room, content=" ".join(links))
            shown = (await client.heard("message_edited"))["message"]["metadata"]["previews"]
    assert shown == [{"url": links[1], "title": "B"}, {"url": links[2], "title": "Tëa & co"}]


async def test_a_defect_in_reading_a_page_is_one_message_s_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "is_of_the_world", is_world)

    async def read_or_break(url: str, bounds: PageBounds, **others: Any) -> Page:
        if url.endswith("/broken"):
            raise ZeroDivisionError
        return await read_page(url, bounds, **others)

    monkeypatch.setattr(previews, "read_page", read_or_break)
    async with open_site() as site, open_daemon(tmp_path, MESSAGES_LINK_PREVIEWS="true") as daemon:
        site.answers["/"] = PAGE
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            for path in ("/broken", "/broken", "/broken"):
                await client.ask(type="send_message", roomId=room, content=site.url(path))
            last = await client.ask(type="send_message", roomId=room, content=site.url("/"))
            assert (await client.heard("message_edited"))["message"]["id"] == last["messageId"]


async def test_without_the_option_no_page_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "is_of_the_world", is_world)
    async with open_site() as site, open_daemon(tmp_path) as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            await client.ask(type="send_message", roomId=room, content=site.url())
            await client.ask(type="send_message", roomId=room, content="another")
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert site.requests == []


async def test_a_link_to_this_machine_is_never_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, refused = trio.open_memory_channel[str](10)

    async def read_and_tell(url: str, bounds: PageBounds, **others: Any) -> Page:
        try:
            return await read_page(url, bounds, **others)
        except Unreadable as why:
            sent.send_nowait(str(why))
            raise

    monkeypatch.setattr(previews, "read_page", read_and_tell)
    async with open_site("127.0.0.1") as site, open_daemon(tmp_path, MESSAGES_LINK_PREVIEWS="true") as daemon:
        site.answers["/"] = PAGE
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            await client.ask(type="send_message", roomId=room, content=site.url(host="127.0.0.1"))
            await client.ask(type="send_message", roomId=room, content=site.url(host="localhost"))
            with trio.fail_after(30):
                assert {await refused.receive(), await refused.receive()} == {"its host is not of the world"}
        assert site.requests == []
