"""What is wished for, told and confirmed, beside a Redis of a few lines; and what travels between nodes as bytes."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatd.bus.notices import Notices
from chatd.bus.payload import (
    Malformed,
    Word,
    decode_broadcasts,
    decode_events,
    decode_signal,
    decode_word,
    encode_broadcasts,
    encode_event,
    encode_signal,
    encode_word,
)
from chatd.bus.port import Broadcast, Event, Notice
from chatd.bus.subscriptions import Subscriptions

ROOMS = st.lists(st.sampled_from("abcd"), max_size=3)


class Redis:
    """One connection after the other: what it was told, and what it has taken and confirmed of that."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self.subscriptions = subscriptions
        self.begin()

    def begin(self) -> None:
        self.channels: set[bytes] = set()
        self.told: deque[tuple[object, bytes]] = deque()
        self.subscriptions.begin()

    def tell(self, most: int) -> None:
        for name, *channels in self.subscriptions.take_changes(most):
            self.told += [(name, channel) for channel in channels if isinstance(channel, bytes)]

    def confirm(self) -> None:
        if self.told:
            name, channel = self.told.popleft()
            (self.channels.add if name == "SUBSCRIBE" else self.channels.discard)(channel)
            self.subscriptions.confirm()


@given(st.lists(st.tuples(st.sampled_from(["want", "unwant", "tell", "confirm", "lose"]), ROOMS), max_size=60))
def test_wishes_reach_redis_in_any_order_and_waiting_ends_when_they_have(steps: list[tuple[str, list[str]]]) -> None:
    subscriptions = Subscriptions("room:", always=b"notices", on_change=lambda: None)
    server, wanted, is_back = Redis(subscriptions), set[str](), False
    for kind, rooms in steps:
        match kind:
            case "want":
                subscriptions.want(rooms)
                wanted |= set(rooms)
            case "unwant":
                subscriptions.unwant(rooms)
                wanted -= set(rooms)
            case "tell":
                server.tell(1 + len(rooms))
            case "confirm":
                server.confirm()
            case _:
                waits = subscriptions.want(wanted)
                subscriptions.end()
                assert all(confirmed.is_set() for confirmed in waits)
                server.begin()
        assert {room for room in "abcd" if subscriptions.room_of(subscriptions.channel_of(room))} == wanted
        is_back = (is_back and kind != "lose") or subscriptions.is_settled
        if is_back:
            # Whoever has not to wait is subscribed indeed, or was so all the time.
            ready = [room for room in wanted if all(wait.is_set() for wait in subscriptions.want([room]))]
            assert {subscriptions.channel_of(room) for room in ready} <= server.channels
    waits = subscriptions.want(wanted)
    while subscriptions.has_changes or server.told:
        server.tell(2)
        server.confirm()
    assert subscriptions.is_settled
    assert all(confirmed.is_set() for confirmed in waits)
    assert not subscriptions.want(wanted)
    assert server.channels == {b"notices", *(subscriptions.channel_of(room) for room in wanted)}


def test_waiting_ends_with_the_confirmation_and_not_before() -> None:
    subscriptions = Subscriptions("room:", always=b"notices", on_change=lambda: None)
    [confirmed] = subscriptions.want(["a", "b"])
    assert subscriptions.take_changes(10) == [("SUBSCRIBE", b"room:a", b"room:b")]
    assert subscriptions.want(["a"]) == {confirmed}
    subscriptions.confirm()
    assert not confirmed.is_set()
    subscriptions.confirm()
    assert confirmed.is_set()
    assert subscriptions.want(["a", "b"]) == set()


def test_what_is_wished_away_and_back_before_it_was_told_is_not_told() -> None:
    subscriptions = Subscriptions("room:", always=b"notices", on_change=lambda: None)
    subscriptions.want(["a"])
    subscriptions.take_changes(10)
    subscriptions.confirm()
    subscriptions.unwant(["a"])
    [confirmed] = subscriptions.want(["a"])
    assert subscriptions.take_changes(10) == []
    assert confirmed.is_set()


TEXTS = st.text(st.characters(blacklist_characters=" \n", blacklist_categories=["Cs"]), max_size=20)
BODIES = st.binary(max_size=50).map(lambda body: b"{" + body.replace(b"\n", b"") + b"}")


@given(st.lists(st.tuples(st.integers(1, 2**53), TEXTS, BODIES, TEXTS), min_size=1, max_size=5))
def test_events_travel_as_they_are(parts: list[tuple[int, str, bytes, str]]) -> None:
    events = [Event("a", seq, kind, body, subject or None) for seq, kind, body, subject in parts]
    assert decode_events("a", b"\n".join(map(encode_event, events))) == events


@given(BODIES, TEXTS, TEXTS)
def test_signals_travel_as_they_are(body: bytes, about: str, kind: str) -> None:
    assert decode_signal(encode_signal(body, about, kind)) == (body, about, kind)


IDS = st.lists(st.text("abc-1", min_size=1, max_size=5), max_size=3).map(tuple)


@given(st.lists(st.builds(Broadcast, IDS, BODIES, TEXTS, IDS), min_size=1, max_size=5))
def test_broadcasts_travel_as_they_are(broadcasts: list[Broadcast]) -> None:
    heard = [decode_broadcasts(payload) for payload in encode_broadcasts(broadcasts)]
    assert [broadcast for some in heard for broadcast in some] == broadcasts


def test_broadcasts_that_are_many_travel_in_parts() -> None:
    broadcasts = [Broadcast(["a"], b"{%b}" % (b"x" * 10_000)) for _ in range(20)]
    payloads = list(encode_broadcasts(broadcasts))
    assert 3 <= len(payloads) <= 5
    assert max(map(len, payloads)) < 70_000


@given(st.binary(max_size=100))
def test_nonsense_is_malformed_and_nothing_worse(payload: bytes) -> None:
    for decode in (lambda data: decode_events("a", data), decode_signal, decode_broadcasts, decode_word):
        try:
            decode(payload)
        except Malformed:
            continue


@pytest.mark.parametrize(
    "word",
    [
        Word("n", 7),
        Word("n", 7, has_lost=True),
        Word("n", 1, notice=Notice("member_joined", "ada", room_id="a", seq=7, role="owner")),
        Word("n ö", 1, notice=Notice("session_revoked", "ada", session_id="s")),
    ],
)
def test_words_travel_as_they_are(word: Word) -> None:
    assert decode_word(encode_word(word)) == word


# Numbers of notices

NOTICE = Notice("account_disabled", "ada")


def test_a_missing_number_is_found_at_the_next_notice_or_word() -> None:
    ours = Notices("us")
    assert ours.hear(Word("them", 4, notice=NOTICE)) == ([NOTICE], False)
    assert ours.hear(Word("them", 5, notice=NOTICE)) == ([NOTICE], False)
    assert ours.hear(Word("them", 5)) == ([], False)
    assert ours.hear(Word("them", 7, notice=NOTICE)) == ([NOTICE], True)
    assert ours.hear(Word("them", 8)) == ([], True)
    assert ours.hear(Word("them", 9, notice=NOTICE)) == ([NOTICE], False)
    assert ours.hear(Word("others", 1, notice=NOTICE)) == ([NOTICE], False)


def test_what_comes_twice_is_acted_on_once() -> None:
    ours = Notices("us")
    assert ours.hear(Word("them", 4, notice=NOTICE)) == ([NOTICE], False)
    assert ours.hear(Word("them", 4, notice=NOTICE)) == ([], False)
    assert ours.hear(Word("them", 3)) == ([], False)


def test_node_that_falls_silent_is_named_once_and_one_that_said_its_last_word_never() -> None:
    ours = Notices("us")
    for node in ("killed", "stopped", "alive", "us"):
        ours.hear(Word(node, 4))
    ours.hear(Notices("stopped").word(is_last=True))
    silent = []
    for _ in range(20):
        ours.hear(Word("alive", 4))
        silent += ours.beat()
    assert silent == ["killed"]
    # It may have been asleep.
    assert ours.hear(Word("killed", 5, notice=NOTICE)) == ([NOTICE], False)
    ours.forget_others()
    assert [ours.beat() for _ in range(20)] == [[]] * 20


def test_last_word_of_a_node_that_has_lost_something_is_none() -> None:
    assert Notices("us").word(has_lost=True, is_last=True) == Word("us", 0, has_lost=True)


def test_own_notices_are_acted_on_once_and_kept_until_they_are_sent() -> None:
    ours = Notices("us")
    first, second = ours.keep(NOTICE), ours.keep(NOTICE)
    assert ours.word_before_unsent(has_lost=False) == Word("us", 0)
    assert ours.unheard() == [NOTICE, NOTICE]
    assert ours.hear(ours.word_of(first)) == ([], False)
    ours.forget_sent(first)
    assert ours.unsent() == [second]
    assert ours.word_before_unsent(has_lost=False) == Word("us", 1)
    ours.forget_sent(second)
    assert ours.word() == ours.word_before_unsent(has_lost=False) == Word("us", 2)
