"""The proxy of the tests, in front of a Redis: a link that is slow, falls silent, is cut, or loses one message."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.proxy import Proxy, Replies, open_proxy, published_on
from tests.servers import shared_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: One of each kind of reply, and some with others in them.
REPLIES = [
    b"+OK\r\n", b"-ERR no\r\n", b":1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n", b"$2\r\nhi\r\n", b"$0\r\n\r\n", b"$-1\r\n",
    b"$4\r\n\r\n\r\n\r\n", b"*0\r\n", b"*-1\r\n", b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n",
    b"%1\r\n+a\r\n:1\r\n", b">2\r\n*1\r\n:1\r\n$1\r\nx\r\n", b"=7\r\ntxt:abc\r\n", b"~1\r\n+a\r\n",
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_replies_are_cut_where_they_end_however_they_come(size: int) -> None:
    stream, replies = b"".join(REPLIES), Replies()
    found: list[bytes] = []
    for start in range(0, len(stream), size):
        found += replies.take(stream[start : start + size])
    assert found == REPLIES


def test_only_a_published_message_has_a_channel() -> None:
    assert published_on(b"*3\r\n$7\r\nmessage\r\n$3\r\none\r\n$2\r\nhi\r\n") == b"one"
    assert published_on(b">3\r\n$7\r\nmessage\r\n$3\r\none\r\n$2\r\nhi\r\n") == b"one"
    assert published_on(b"*3\r\n$9\r\nsubscribe\r\n$3\r\none\r\n:1\r\n") is None
    assert published_on(b"+message\r\n") is None


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with open_proxy(partial(trio.open_unix_socket, str(shared_redis().path))) as proxy:
        yield proxy


async def ask(stream: trio.SocketStream, request: bytes) -> bytes:
    await stream.send_all(request)
    with trio.fail_after(30):
        return bytes(await stream.receive_some())


async def connect(proxy: Proxy) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", proxy.port)


async def test_what_is_said_passes_in_both_directions(proxy: Proxy) -> None:
    async with await connect(proxy) as stream:
        assert await ask(stream, b"PING\r\n") == b"+PONG\r\n"


async def test_one_message_is_swallowed_and_all_others_pass(proxy: Proxy) -> None:
    async with await connect(proxy) as hearing, await connect(proxy) as saying:
        await ask(hearing, b"SUBSCRIBE proxy:room:1 proxy:notices\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.drop_one, b"proxy:room:")
            await trio.testing.wait_all_tasks_blocked()
            await ask(saying, b"PUBLISH proxy:notices x\r\nPUBLISH proxy:room:1 lost\r\nPUBLISH proxy:room:1 heard\r\n")
        assert proxy.dropped == ["proxy:room:1"]
        heard = b""
        with trio.fail_after(30):
            while b"heard" not in heard:
                heard += await hearing.receive_some()
        assert heard.count(b"message") == 2
        assert b"lost" not in heard


async def test_a_slow_link_delays_both_directions(proxy: Proxy) -> None:
    async with await connect(proxy) as stream:
        proxy.delay_s = 0.05
        began = trio.current_time()
        await ask(stream, b"PING\r\n")
        assert trio.current_time() - began >= 2 * proxy.delay_s


async def test_a_silent_link_keeps_what_is_said_until_it_flows_again(proxy: Proxy) -> None:
    async with await connect(proxy) as stream:
        proxy.silence()
        await stream.send_all(b"PING\r\n")
        with trio.move_on_after(0.1) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
        proxy.flow()
        assert await stream.receive_some() == b"+PONG\r\n"


async def test_a_cut_link_is_reset_also_while_it_is_silent_and_a_new_one_is_taken(proxy: Proxy) -> None:
    async with await connect(proxy) as stream:
        await ask(stream, b"PING\r\n")
        proxy.silence()
        await stream.send_all(b"PING\r\n")
        proxy.cut()
        with pytest.raises(trio.BrokenResourceError) as raised:
            await stream.receive_some()
        assert isinstance(raised.value.__cause__, ConnectionResetError)
    proxy.flow()
    async with await connect(proxy) as stream:
        assert await ask(stream, b"PING\r\n") == b"+PONG\r\n"


async def test_a_server_that_is_gone_ends_the_connection() -> None:
    async with (
        open_proxy(partial(trio.open_unix_socket, "/nowhere/redis.sock")) as proxy,
        await connect(proxy) as stream,
    ):
        with trio.fail_after(30):
            assert await stream.receive_some() == b""
