"""The bus on Redis where it differs from one within a process: several nodes, and servers and links that fail."""

from __future__ import annotations

import gc
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis
import trio
import trio.testing

from chatd.asyncio_loop import open_asyncio_loop
from chatd.bus import redis as subject
from chatd.bus.link import LinkLost
from chatd.bus.payload import Word, encode_word
from chatd.bus.port import Event, Notice
from chatd.bus.trial import try_redis
from chatd.errors import Unavailable
from chatd.limits.rates import Rate, spend
from tests.buses import RecordingEars, Ticker, open_node
from tests.checkpoints import cancel_at_each_checkpoint
from tests.proxy import open_proxy
from tests.servers import open_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from chatd.bus.redis import RedisBus
    from tests.proxy import Proxy
    from tests.servers import Redis

ROOMS = [f"room{number}" for number in range(1200)]
REVOKED = Notice("session_revoked", "ada", session_id="s")
TIMEOUT_S = 0.5
SHARING = ("writing devices", "counting devices", "signs of life", "finding who is gone")


@pytest.fixture
def server() -> Iterator[Redis]:
    """A Redis of the test's own, which it may stop and kill."""
    with open_redis() as opened:
        yield opened


def event(seq: int, room_id: str = "a") -> Event:
    return Event(room_id, seq, "new_message", b'{"seq":%d}' % seq, "ada")


@asynccontextmanager
async def open_heard(url: str, **options: Any) -> AsyncIterator[tuple[RedisBus, RecordingEars]]:
    """A node and what it hears."""
    async with open_node(url, **{"timeout_s": TIMEOUT_S, **options}) as bus:
        ears = RecordingEars()
        bus.attach(ears)
        yield bus, ears


@asynccontextmanager
async def open_link_to(server: Redis) -> AsyncIterator[tuple[Proxy, str]]:
    """A TCP link to a Redis that the test may spoil, and its URL."""
    async with open_proxy(partial(trio.open_unix_socket, server.path)) as proxy:
        yield proxy, f"redis://127.0.0.1:{proxy.port}"


async def wait_until(is_so: Callable[[], Any]) -> None:
    with trio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - the server's state, and the bus's, wake nobody here
            await trio.sleep(0.01)


def ask(server: Redis, *command: str | bytes) -> Any:
    with closing(redis.Redis.from_url(server.url)) as client:
        return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's oversight


def channels(server: Redis) -> set[str]:
    return {channel.decode() for channel in ask(server, "PUBSUB", "CHANNELS")}


def channels_of(*room_ids: str) -> set[str]:
    return {"test:notices", *(f"test:room:{room_id}" for room_id in room_ids)}


async def hear_a_message(bus: RedisBus, ears: RecordingEars, seq: int) -> None:
    """What is published now in room `a` arrives."""
    bus.publish([event(seq)])
    await ears.wait_until(lambda: event(seq) in ears.events)


# Several nodes


async def test_what_one_node_publishes_all_that_subscribed_hear_in_order_and_together(server: Redis) -> None:
    async with (
        open_asyncio_loop(),
        open_heard(server.url) as (first, first_ears),
        open_heard(server.url) as (second, second_ears),
        open_heard(server.url) as (_, third_ears),
    ):
        await first.subscribe(["a"])
        await second.subscribe(["a"])
        first.publish([event(1), event(2), event(3)])
        await first_ears.wait_until(lambda: len(first_ears.events) == 3)
        await second_ears.wait_until(lambda: second_ears.events)
        assert first_ears.events == second_ears.events == [event(1), event(2), event(3)]
        first.signal("a", b"{}", about="ada")
        first.announce(REVOKED)
        await first_ears.wait_until(lambda: first_ears.notices)
        await third_ears.wait_until(lambda: third_ears.notices)
        assert first_ears.notices == third_ears.notices == [REVOKED]
        assert first_ears.signals == [("a", b"{}", "ada")]
        assert not third_ears.events
        assert not third_ears.signals


async def test_what_is_published_together_is_heard_together(server: Redis) -> None:
    """Rooms of one commit, and commits that wait for each other."""
    async with open_asyncio_loop(), open_heard(server.url) as (bus, ears):
        await bus.subscribe(ROOMS)
        bus.publish([event(1, room_id) for room_id in ROOMS[:50]])
        await ears.wait_until(lambda: len(ears.events) == 50)
        for seq in range(2, 12):
            bus.publish([event(seq, "room0"), event(seq, "room1")])
        await ears.wait_until(lambda: len(ears.events) == 70)
        # Perhaps in two parts, as the kernel likes, but never one by one.
        assert len(ears.together) <= 4


async def test_events_and_signals_of_a_room_keep_their_order_while_they_wait_together(server: Redis) -> None:
    async with open_asyncio_loop(), open_heard(server.url) as (bus, ears):
        order: list[object] = []
        ears.signals = order  # type: ignore[assignment]  # both in one list
        ears.events = order  # type: ignore[assignment]
        await bus.subscribe(["a"])
        for seq in range(1, 300, 2):
            bus.publish([event(seq)])
            bus.publish([event(seq + 1)])
            bus.signal("a", b"%d" % seq, about="ada")
        await wait_until(lambda: len(order) == 450)
        sent = [(event(seq), event(seq + 1), ("a", b"%d" % seq, "ada")) for seq in range(1, 300, 2)]
        assert order == [part for parts in sent for part in parts]


async def test_nodes_share_budgets_and_counts_of_devices(server: Redis) -> None:
    async with open_asyncio_loop(), open_heard(server.url) as (first, _), open_heard(server.url) as (second, _):
        waits = [await bus.take("ada", Rate(5, 60)) for bus in (first, second) * 5]
        assert waits.count(0) == 5
        for bus in (first, first, second):
            bus.arrived("ada")
        first.arrived("bob")
        users = ["ada", "bob", "cy"]
        # What another node wrote comes a moment later.
        for bus in (first, second):
            await wait_until_counted(bus, {"ada": 3, "bob": 1}, users)
        first.departed("bob")
        await wait_until_counted(second, {"ada": 3}, users)
        many = [f"user{number}" for number in range(1500)]
        for user_id in many:
            first.arrived(user_id)
        await wait_until_counted(second, dict.fromkeys(many, 1), many)


async def wait_until_counted(bus: RedisBus, counts: dict[str, int], users: list[str]) -> None:
    with trio.fail_after(30):
        while dict(await bus.devices(users)) != counts:  # noqa: ASYNC110 - another node's doing
            await trio.sleep(0.01)


async def test_devices_of_a_node_are_gone_when_it_closes_or_is_silent_for_long(server: Redis) -> None:
    async with open_asyncio_loop(), open_heard(server.url) as (bus, _):
        async with open_heard(server.url) as (closing_bus, _):
            closing_bus.arrived("ada")
            await wait_until_counted(bus, {"ada": 1}, ["ada"])
        assert await bus.devices(["ada"]) == {}
        async with open_heard(server.url, expiry_s=0.6) as (silent, _):
            silent.arrived("ada")
            await wait_until_counted(bus, {"ada": 1}, ["ada"])
            # Silent as if it had been killed: it cannot tell that it lives any more.
            silent._beat_all = trio.sleep_forever  # type: ignore[method-assign]
            silent._has_outgoing.set = lambda: None  # type: ignore[method-assign]
            await wait_until_counted(bus, {}, ["ada"])


async def test_counts_that_redis_forgot_are_written_again(server: Redis) -> None:
    async with (
        open_asyncio_loop(),
        open_heard(server.url, expiry_s=0.3) as (bus, _),
        open_heard(server.url) as (other, _),
    ):
        bus.arrived("ada")
        await wait_until_counted(other, {"ada": 1}, ["ada"])
        ask(server, "FLUSHALL")
        await wait_until_counted(other, {"ada": 1}, ["ada"])


async def test_budgets_in_redis_are_those_of_one_process(server: Redis) -> None:
    """Step by step beside `spend`, with Redis's own time."""
    async with open_asyncio_loop(), open_heard(server.url) as (bus, _):
        rate, full_at = Rate(7, 60), 0.0
        for count in (1, 3, 2, 2, 1, 1, 7):
            seconds, micros = ask(server, "TIME")
            wait_ms = await bus.take("ada", rate, count=count)
            full_at, expected_ms = spend(full_at, seconds + micros / 1e6, rate, count=count)
            assert (wait_ms == 0) == (expected_ms == 0)
            # Between the two it takes some time.
            assert abs(wait_ms - expected_ms) < 5000
        # A key lives no longer than its budget is not full.
        assert 0 < ask(server, "PTTL", "test:rate:ada") <= 60_002
        # A clock that went back makes nobody wait longer than an empty budget would.
        ask(server, "SET", "test:rate:ada", "99999999999")
        assert 0 < await bus.take("ada", rate) <= 60_000 / 7 + 2


async def test_a_redis_that_forgot_the_scripts_is_told_them_again(server: Redis) -> None:
    async with open_asyncio_loop(), open_heard(server.url) as (bus, _):
        ask(server, "SCRIPT", "FLUSH")
        waits: list[int] = []

        async def take() -> None:
            waits.append(await bus.take("ada", Rate(5, 60)))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(take)
        assert waits.count(0) == 5
        assert not bus.is_out


async def test_what_redis_refuses_of_a_budget_is_granted_by_the_nodes_own(server: Redis) -> None:
    async with open_asyncio_loop(), open_heard(server.url) as (bus, _):
        ask(server, "HSET", "test:rate:ada", "no", "string")
        assert [await bus.take("ada", Rate(2, 60)) == 0 for _ in range(3)] == [True, True, False]


# Servers that fail


async def test_a_redis_that_is_killed_and_started_again_is_found_with_every_subscription(server: Redis) -> None:
    async with (
        open_asyncio_loop(),
        open_heard(server.url) as (bus, ears),
        open_heard(server.url) as (other, other_ears),
    ):
        await bus.subscribe([*ROOMS, "a"])
        bus.arrived("ada")
        await hear_a_message(bus, ears, 1)
        server.kill()
        await wait_until(lambda: bus.is_out and other.is_out)
        # Nothing fails and nothing waits long.
        with trio.fail_after(1):
            bus.publish([event(2)])
            bus.signal("a", b"{}", about="ada")
            bus.announce(REVOKED)
            await bus.subscribe(["late"])
            await bus.unsubscribe([ROOMS[0]])
            assert [await bus.take("ada", Rate(2, 60)) == 0 for _ in range(3)] == [True, True, False]
            assert await bus.devices(["ada"]) == {"ada": 1}
        # It acts here at once, and there when the bus is back.
        assert ears.notices == [REVOKED]
        await ears.wait_until(lambda: ears.losses)
        assert ears.returns == 0
        server.start()
        await ears.wait_until(lambda: ears.returns)
        # Who comes back too late for the notice has to look again for it.
        await other_ears.wait_until(lambda: other_ears.returns)
        await hear_a_message(bus, ears, 3)
        assert channels(server) == channels_of("a", "late", *ROOMS[1:])
        assert event(2) not in ears.events
        assert ears.notices == [REVOKED]
        assert other_ears.notices in ([], [REVOKED])
        await wait_until_counted(other, {"ada": 1}, ["ada"])
        assert ears.returns == 1


async def test_a_redis_that_is_stopped_is_noticed_and_one_that_goes_on_is_found(server: Redis) -> None:
    async with open_asyncio_loop(), open_heard(server.url) as (bus, ears):
        await bus.subscribe(["a"])
        server.pause()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                # The first ones are sent, the others wait behind them.
                for _ in range(3):
                    nursery.start_soon(bus.devices, ["ada"])
                    nursery.start_soon(bus.take, "bob", Rate(1, 60))
                    await trio.testing.wait_all_tasks_blocked()
            assert await bus.take("ada", Rate(1, 60)) == 0
            await bus.subscribe(["late"])
            # More than any kernel takes, so that something is left to throw away.
            for seq in range(2, 100):
                bus.publish([Event("a", seq, "new_message", b"x" * 10_000)])
            await wait_until(lambda: bus.is_out)
            await ears.wait_until(lambda: ears.losses)
        server.resume()
        await ears.wait_until(lambda: ears.returns)
        await hear_a_message(bus, ears, 200)
        assert channels(server) == channels_of("a", "late")


async def test_closing_while_redis_is_stopped_takes_no_longer_than_allowed_and_leaves_nothing_open(
    server: Redis,
) -> None:
    with trio.fail_after(30):
        async with open_asyncio_loop(), open_heard(server.url) as (bus, _):
            await bus.subscribe(["a"])
            server.pause()
            # More than the kernel takes: a socket that was closed politely would wait for Redis to read it.
            for seq in range(100):
                bus.publish([Event("a", seq, "new_message", b"x" * 10_000)])
    # What is still open warns now.
    gc.collect()
    server.resume()


async def test_closing_while_redis_is_gone_takes_no_time(server: Redis) -> None:
    with trio.fail_after(30):
        async with open_asyncio_loop(), open_heard(server.url) as (bus, _):
            await bus.subscribe(["a"])
            server.kill()
    server.start()


async def test_what_waits_is_sent_before_a_node_closes(server: Redis) -> None:
    async with open_asyncio_loop(), open_heard(server.url) as (bus, ears):
        await bus.subscribe(["a"])
        async with open_heard(server.url) as (closing_bus, _):
            closing_bus.arrived("ada")
            closing_bus.publish([event(1)])
            closing_bus.announce(REVOKED)
        await ears.wait_until(lambda: ears.notices)
        assert ears.events == [event(1)]
    assert ask(server, "KEYS", "*") == []
    assert channels(server) == set()
    await wait_until(lambda: len(ask(server, "CLIENT", "LIST").splitlines()) == 1)


# Links that fail


async def test_a_link_that_is_cut_again_and_again_comes_back_each_time(server: Redis) -> None:
    async with open_asyncio_loop(), open_link_to(server) as (proxy, url), open_heard(url) as (bus, ears):
        await bus.subscribe([*ROOMS, "a"])
        for seq in range(1, 4):
            proxy.cut()
            await wait_until(lambda: ears.returns == seq)  # noqa: B023 - it is waited for here
            await hear_a_message(bus, ears, seq)
        await wait_until(lambda: channels(server) == channels_of("a", *ROOMS))


async def test_a_link_that_falls_silent_is_made_anew(server: Redis) -> None:
    async with open_asyncio_loop(), open_link_to(server) as (proxy, url), open_heard(url) as (bus, ears):
        await bus.subscribe(["a"])
        proxy.silence()
        with trio.fail_after(30):
            assert await bus.take("ada", Rate(1, 60)) == 0
            assert await bus.devices(["ada"]) == {}
        await wait_until(lambda: bus.is_out)
        proxy.flow()
        await ears.wait_until(lambda: ears.returns)
        await hear_a_message(bus, ears, 1)


async def test_a_slow_link_is_a_link(server: Redis) -> None:
    async with open_asyncio_loop(), open_link_to(server) as (proxy, url), open_heard(url, timeout_s=2) as (bus, ears):
        proxy.delay_s = 0.1
        await bus.subscribe(["a"])
        bus.publish([event(1), event(2)])
        assert await bus.take("ada", Rate(1, 60)) == 0
        assert await bus.take("ada", Rate(1, 60)) > 0
        await ears.wait_until(lambda: len(ears.events) == 2)
        assert not bus.is_out
        assert ears.returns == ears.losses == 0


async def test_a_subscription_that_is_not_confirmed_in_time_is_mended_later(server: Redis) -> None:
    """Pings come back all the time, so the silence alone is no reason for doubt."""
    async with open_asyncio_loop(), open_heard(server.url) as (bus, ears):
        await wait_until(lambda: not bus._has_changes.is_set())
        # Nobody tells Redis.
        bus._subscriptions._on_change = lambda: None
        with trio.fail_after(30):
            await bus.subscribe(["a"])
        await ears.wait_until(lambda: ears.returns)
        await hear_a_message(bus, ears, 1)


async def test_a_notice_that_got_lost_is_found(server: Redis) -> None:
    async with (
        open_asyncio_loop(),
        open_link_to(server) as (proxy, url),
        open_heard(url, expiry_s=0.9) as (_, ears),
        open_heard(server.url, expiry_s=0.9) as (bus, own_ears),
        trio.open_nursery() as nursery,
    ):

        async def lose_one() -> None:
            count = len(proxy.dropped)
            bus.announce(REVOKED)
            await wait_until(lambda: len(proxy.dropped) > count)

        await wait_until(lambda: len(ears.notices) == 0 and not bus.is_out)
        bus.announce(REVOKED)
        await ears.wait_until(lambda: ears.notices)
        # Which of a beat and the notice is swallowed is chance; a beat is not missed.
        while ears.returns == 0:
            nursery.start_soon(proxy.drop_one, b":notices")
            await trio.testing.wait_all_tasks_blocked()
            await lose_one()
            with trio.move_on_after(2):
                await ears.wait_until(lambda: ears.returns)
        assert own_ears.returns == 0


async def test_a_node_that_is_gone_without_a_word_is_noticed_and_one_that_closes_says_so(server: Redis) -> None:
    async with open_asyncio_loop(), open_heard(server.url, expiry_s=3) as (bus, ears):
        async with open_heard(server.url, expiry_s=3):
            await wait_until(lambda: bus._notices._silence)
        await wait_until(lambda: not bus._notices._silence)
        assert ears.returns == 0
        ask(server, "PUBLISH", "test:notices", encode_word(Word("killed", 7)))
        await ears.wait_until(lambda: ears.returns)
        assert ears.returns == 1


# What is bounded, and what is none of ours


async def test_past_the_bound_events_are_dropped_and_said_to_be(server: Redis) -> None:
    async with (
        open_asyncio_loop(),
        open_heard(server.url, max_waiting_bytes=100_000) as (bus, ears),
        open_heard(server.url) as (_, other_ears),
    ):
        await bus.subscribe(["a"])
        # All of it before anything can be sent.
        for seq in range(1, 301):
            bus.publish([Event("a", seq, "new_message", b"x" * 1000)])
        await ears.wait_until(lambda: ears.losses)
        await other_ears.wait_until(lambda: other_ears.losses)
        seqs = [item.seq for item in ears.events]
        assert 50 < len(seqs) < 100
        assert seqs == list(range(1, len(seqs) + 1))
        await hear_a_message(bus, ears, 1000)
        assert not bus.is_out


@pytest.mark.parametrize(
    "payload", [b"", b"nonsense", b"x y z {}", b"1 a b", b"~", b"1 a \xff {}", b"\x00\xff", b"1 a b {}\n"]
)
async def test_what_others_publish_on_our_channels_is_passed_over(server: Redis, payload: bytes) -> None:
    async with open_asyncio_loop(), open_heard(server.url) as (bus, ears):
        await bus.subscribe(["a"])
        ask(server, "PUBLISH", "test:room:a", payload)
        await hear_a_message(bus, ears, 1)
        assert ears.events == [event(1)]
        assert not bus.is_out


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\xff", b"{}", b"[]", b"[1,2,3,4]", b'["n",1,false,{"kind":"profile_changed"}]',
        b'["n",1,false,{"kind":"profile_changed","user_id":7}]', b'["n",1,false,{"kind":"new","user_id":"ada"}]',
    ],
)  # fmt: skip
async def test_notices_of_others_are_passed_over(server: Redis, payload: bytes) -> None:
    async with open_asyncio_loop(), open_heard(server.url) as (bus, ears):
        ask(server, "PUBLISH", "test:notices", payload)
        bus.announce(REVOKED)
        await ears.wait_until(lambda: ears.notices)
        assert ears.notices == [REVOKED]
        assert not bus.is_out


async def test_a_defect_of_who_hears_does_not_end_the_hearing(
    server: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_asyncio_loop(), open_heard(server.url) as (bus, ears):
        await bus.subscribe(["a"])
        hear_events = ears.hear_events
        ears.hear_events = lambda _: 1 // 0  # type: ignore[assignment]  # the defect
        bus.publish([event(1)])
        bus.announce(REVOKED)
        await ears.wait_until(lambda: ears.notices)
        ears.hear_events = hear_events  # type: ignore[method-assign]
        await hear_a_message(bus, ears, 2)
        assert "ZeroDivisionError" in capsys.readouterr().err


# Beginning


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("unix:///nowhere/redis.sock", "cannot be reached: No such file or directory"),
        ("redis://127.0.0.1:1", "cannot be reached: "),
        ("redis://127.0.0.1:x", "no URL"),
        ("redis://127.0.0.1:1?nonsense=1", "no URL"),
    ],
)
async def test_a_redis_that_is_not_there_is_said_in_a_sentence(url: str, sentence: str) -> None:
    async with open_asyncio_loop():
        with pytest.raises(Unavailable, match=sentence):
            await open_node(url, timeout_s=1).__aenter__()
        with pytest.raises(Unavailable, match=sentence):
            await try_redis(url, prefix="test", timeout_s=1)


async def test_bus_whose_link_is_lost_as_soon_as_it_is_there_opens_and_comes_back(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    come_back = subject.RedisBus._come_back

    def come_back_and_go(self: RedisBus) -> None:
        is_first = not self._tried.is_set()
        come_back(self)
        if is_first:
            # Whoever waits for the first try has not come to its turn yet.
            self._go_out("the test has cut it")
            raise LinkLost("The test has cut the link.")

    monkeypatch.setattr(subject.RedisBus, "_come_back", come_back_and_go)
    async with open_asyncio_loop(), open_heard(server.url) as (bus, ears):
        await bus.subscribe(["a"])
        await ears.wait_until(lambda: ears.returns)
        await hear_a_message(bus, ears, 1)


async def test_a_server_that_is_no_redis_is_said_in_a_sentence() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await trio.sleep(1)

    async with open_asyncio_loop(), trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        url = f"redis://127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(Unavailable, match="is not a Redis"):
            await open_node(url).__aenter__()
        nursery.cancel_scope.cancel()


async def test_a_wrong_password_is_said_without_telling_it() -> None:
    with open_redis(options=["--user", "chatd", "on", ">right", "~*", "&*", "+@all"]) as server:
        async with open_asyncio_loop():
            for secret in ("chatd:wrong@", ":wrong@"):
                url = server.url.replace("unix://", f"unix://{secret}")
                with pytest.raises(Unavailable, match="refuses the user or the password") as caught:
                    await open_node(url).__aenter__()
                assert "wrong" not in caught.value.detail
            async with open_heard(server.url.replace("unix://", "unix://chatd:right@")) as (bus, ears):
                await bus.subscribe(["a"])
                await hear_a_message(bus, ears, 1)


@pytest.mark.parametrize(
    ("rights", "missing"),
    [
        ("~* &* +@all -publish", {"publishing notices", "publishing events"}),
        ("~* &* +@all -subscribe", {"hearing notices", "hearing events"}),
        ("~* &test:notices +@all", {"publishing events", "hearing events"}),
        ("~* &test:room:* +@all", {"publishing notices", "hearing notices"}),
        ("~* &* +@all -eval", {"limits", *SHARING}),
        ("~test:rate:* &* +@all", {*SHARING, "taking devices away", "taking the node away"}),
    ],
)
async def test_missing_rights_are_named_and_a_bus_without_them_does_not_open(rights: str, missing: set[str]) -> None:
    with open_redis(options=f"--user chatd on nopass {rights}".split()) as server:
        url = server.url.replace("unix://", "unix://chatd:any@")
        async with open_asyncio_loop():
            state = await try_redis(url, prefix="test", timeout_s=5)
            assert {right.partition(":")[0] for right in state.missing_rights} == missing
            with pytest.raises(Unavailable, match="Redis refuses"):
                await open_node(url).__aenter__()


async def test_looking_tells_version_and_latency_and_leaves_nothing(server: Redis) -> None:
    async with open_asyncio_loop():
        state = await try_redis(server.url, prefix="test", timeout_s=5)
    assert state.version == ask(server, "INFO", "server")["redis_version"]
    assert state.latency_ms > 0
    assert state.missing_rights == ()
    await wait_until(lambda: ask(server, "KEYS", "*") == [])


# Cancelling


@pytest.mark.parametrize("operation", ["subscribe", "unsubscribe", "take", "devices"])
async def test_cancelling_anywhere_leaves_subscriptions_whole(server: Redis, operation: str) -> None:
    async with open_asyncio_loop(), open_heard(server.url, timeout_s=5) as (bus, ears):
        await bus.subscribe(["a"])
        wanted = {"a"}
        bus.arrived("ada")

        async def operate(turn: int) -> None:
            match operation:
                case "subscribe":
                    wanted.add(f"b{turn}")
                    await bus.subscribe([f"b{turn}"])
                case "unsubscribe":
                    await bus.subscribe([f"b{turn}"])
                    await bus.unsubscribe([f"b{turn}"])
                    await trio.lowlevel.checkpoint()
                case "take":
                    await bus.take("ada", Rate(1000, 60))
                case _:
                    await bus.devices(["ada", "bob"])

        turns = 0
        async for _ in cancel_at_each_checkpoint(operate):
            turns += 1
            if operation == "unsubscribe":
                await bus.unsubscribe([f"b{turns - 1}"])
            await hear_a_message(bus, ears, turns)
            assert await bus.take("ada", Rate(1000, 60)) == 0
            assert await bus.devices(["ada"]) == {"ada": 1}
            await wait_until(lambda: channels(server) == channels_of(*wanted))
        assert turns > 1
        assert not bus.is_out
        assert ears.returns == 0


async def test_cancelling_anywhere_while_opening_or_closing_leaves_nothing_behind(server: Redis) -> None:
    async with open_asyncio_loop():

        async def open_and_close(_turn: int) -> None:
            async with open_heard(server.url) as (bus, _):
                bus.arrived("ada")
                await bus.subscribe(["a"])
                bus.publish([event(1)])

        turns = 0
        async for _ in cancel_at_each_checkpoint(open_and_close):
            turns += 1
            await wait_until(lambda: channels(server) == set())
            await wait_until(lambda: len(ask(server, "CLIENT", "LIST").splitlines()) == 1)
        assert turns > 2
        async with open_heard(server.url) as (bus, ears):
            await bus.subscribe(["a"])
            await hear_a_message(bus, ears, 1)


async def test_the_clock_of_this_node_is_asked_only_while_redis_is_out(server: Redis) -> None:
    ticker = Ticker()
    async with open_asyncio_loop(), open_heard(server.url, seconds=ticker) as (bus, _):
        assert await bus.take("ada", Rate(1, 60)) == 0
        server.kill()
        await wait_until(lambda: bus.is_out)
        assert await bus.take("ada", Rate(1, 60)) == 0
        assert await bus.take("ada", Rate(1, 60)) > 0
        ticker.now += 61
        assert await bus.take("ada", Rate(1, 60)) == 0


def test_tries_to_connect_are_spread() -> None:
    first_s, most_s = subject.RETRY_S
    assert 0 < first_s < most_s <= 1
