"""Searching through its door: what is found, in which order, what is shown of it, who may ask, and hostile queries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import trio

from chatd.chat.search import excerpt_of
from chatd.store.words import phrases_of
from tests.daemon import ON_BOTH_BACK_ENDS, Answer, Daemon, SignedIn, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

on_both = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def ask(daemon: Daemon, user: SignedIn, **parameters: str | int) -> Answer:
    return await daemon.http("GET", "/api/search?" + urlencode(parameters), token=user.token)


async def find(daemon: Daemon, user: SignedIn, **parameters: str | int) -> list[dict[str, Any]]:
    answer = await ask(daemon, user, **parameters)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


async def write(daemon: Daemon, user: SignedIn, room: str, *contents: str, **fields: str) -> list[dict[str, Any]]:
    """Send messages, and wait until the last of them can be found."""
    stored = []
    for content in contents:
        form = {"content": content, **fields}
        answer = await daemon.http("POST", f"/api/rooms/{room}/messages", form, token=user.token)
        assert answer.status == 201, answer.body
        stored.append(answer.json())
    await daemon.http("POST", f"/api/rooms/{room}/messages", {"content": f"mark{stored[-1]['seq']}"}, token=user.token)
    with trio.fail_after(30):
        while not await find(daemon, user, q=f"mark{stored[-1]['seq']}", roomId=room):  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.02)
    return stored


def text_of(result: dict[str, Any]) -> str:
    return "".join(part["text"] for part in result["excerpt"])


# What is found


@on_both
async def test_results_come_best_first_with_what_matches_marked(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room = await daemon.create_room(ada)
    long = "a message about many things, of which the plan is one, and of which nobody will read all until the end " * 2
    stored = await write(daemon, ada, room, "The Plan!", long, "plan plan", "plän <b & c>", "nothing")
    found = await find(daemon, ada, q="plan")
    assert [result["messageId"] for result in found] == [stored[n]["id"] for n in (2, 0, 3, 1)]
    assert found[1] == {
        "messageId": stored[0]["id"], "roomId": room, "seq": stored[0]["seq"], "senderId": ada.id, "senderName": "ada",
        "messageType": "text", "createdAt": stored[0]["createdAt"],
        "excerpt": [{"text": "The "}, {"text": "Plan", "match": True}, {"text": "!"}],
    }  # fmt: skip
    assert found[2]["excerpt"] == [{"text": "plän", "match": True}, {"text": " <b & c>"}]
    assert await find(daemon, ada, q="plan nothing") == []


@on_both
async def test_a_search_is_narrowed_to_a_room_and_a_sender(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    here = await daemon.create_room(ada, members=[bob.id])
    there = await daemon.create_room(ada, members=[bob.id])
    for user in (ada, bob):
        for room in (here, there):
            await write(daemon, user, room, "hello")
    assert len(await find(daemon, ada, q="hello")) == 4
    assert {result["roomId"] for result in await find(daemon, ada, q="hello", roomId=here)} == {here}
    assert {result["senderId"] for result in await find(daemon, ada, q="hello", **{"from": bob.id})} == {bob.id}
    [one] = await find(daemon, bob, q="hello", roomId=there, **{"from": ada.id})
    assert (one["roomId"], one["senderId"]) == (there, ada.id)
    assert await find(daemon, ada, q="hello", **{"from": "nobody"}) == []


@on_both
async def test_pages_are_parts_of_one_order(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room = await daemon.create_room(ada)
    await write(daemon, ada, room, *(f"hello {'x ' * n}" for n in range(7)))
    everything = await find(daemon, ada, q="hello")
    assert len(everything) == 7
    for limit in (1, 3, 7):
        pages: list[dict[str, Any]] = []
        while True:
            answer = (await ask(daemon, ada, q="hello", limit=limit, offset=len(pages))).json()
            pages += answer["results"]
            assert answer["hasMore"] == (len(pages) < 7)
            if not answer["hasMore"]:
                break
        assert pages == everything
    assert (await ask(daemon, ada, q="hello", offset=7)).json() == {"results": [], "hasMore": False}


async def test_of_more_matches_than_are_put_in_order_the_newest_are_found(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SEARCH_MATCHES="5") as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        stored = await write(daemon, ada, room, *(f"hello {n}" for n in range(8)))
        answer = (await ask(daemon, ada, q="hello")).json()
        assert [result["seq"] for result in answer["results"]] == [message["seq"] for message in stored[:2:-1]]
        assert not answer["hasMore"]
        assert [result["seq"] for result in await find(daemon, ada, q="hello 1")] == [stored[1]["seq"]]


# Who may ask


@on_both
async def test_only_members_find_and_a_private_room_looks_like_a_missing_one(daemon: Daemon) -> None:
    ada, eve = await daemon.register("ada"), await daemon.register("eve")
    private, public = await daemon.create_room(ada, kind="private"), await daemon.create_room(ada)
    for room in (private, public):
        await write(daemon, ada, room, "secret")
    assert len(await find(daemon, ada, q="secret")) == 2
    assert await find(daemon, eve, q="secret") == []
    missing = await ask(daemon, eve, q="secret", roomId="00000000-0000-7000-8000-000000000000")
    hidden = await ask(daemon, eve, q="secret", roomId=private)
    assert (hidden.status, hidden.body) == (missing.status, missing.body)
    assert hidden.json()["code"] == "not_found"
    outside = await ask(daemon, eve, q="secret", roomId=public)
    assert (outside.status, outside.json()["code"]) == (403, "not_a_member")
    async with daemon.connect(eve) as client:
        await client.ask(type="join_room", roomId=public)
        assert len(await find(daemon, eve, q="secret")) == 1
        await client.ask(type="leave_room", roomId=public)
        assert await find(daemon, eve, q="secret") == []


async def test_without_a_token_nothing_is_found(daemon: Daemon) -> None:
    assert (await daemon.http("GET", "/api/search?q=hello")).status == 401


async def test_searching_can_be_switched_off(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SERVER_FEATURES_SEARCH="false") as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        await daemon.http("POST", f"/api/rooms/{room}/messages", {"content": "hello"}, token=ada.token)
        answer = await ask(daemon, ada, q="hello")
        assert (answer.status, answer.json()["code"]) == (501, "feature_disabled")
    # What was written meanwhile is found once it is on again.
    async with open_daemon(tmp_path) as daemon:
        with trio.fail_after(30):
            while not await find(daemon, ada, q="hello"):  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.02)


# Hostile queries


REFUSED = {
    "empty": "",
    "spaces": " \t ",
    "signs only": "!!! --- ??? …",
    "emoji only": "👍",
    "quotes only": '""""',
    "long": "x" * 201,
    "10 kB": "word " * 2000,
    "many words": " ".join(f"w{n}" for n in range(21)),
}


@on_both
@pytest.mark.parametrize("query", REFUSED.values(), ids=REFUSED)
async def test_a_query_that_asks_for_nothing_or_too_much_says_so(daemon: Daemon, query: str) -> None:
    ada = await daemon.register("ada")
    answer = await ask(daemon, ada, q=query)
    assert (answer.status, answer.json()["code"]) == (422, "bad_message")
    assert "`q`" in answer.json()["detail"]


@on_both
async def test_no_query_breaks_out_of_its_words(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room = await daemon.create_room(ada)
    await write(daemon, ada, room, "hello world")
    for query in (
        "hello*", "hello AND", "NOT hello", "hello OR", "NEAR(hello world, 2)", "words:hello", "sender:hello", "^hello",
        "{words} : hello", "hello -world", "(hello", "hello)", '"hello', 'hello" OR "x', "hello:*", "!hello",
        "hello & |", "hello <-> world", "'hello'", "hello'; DROP TABLE messages;--", "hello\\", "hello\u200b", "%", "_",
        "hello\nworld", "🫖 hello", "ﷺ", "\u202ehello", "a" * 200, "世" * 200, "' '", "''''", ":q :query :limit",
    ):  # fmt: skip
        answer = await ask(daemon, ada, q=query)
        assert answer.status in (200, 422), (query, answer.body)
        for result in answer.json().get("results", ()):
            assert text_of(result) == "hello world", query
    assert [text_of(result) for result in await find(daemon, ada, q="hello*")] == ["hello world"]
    for parameters in (
        {"q": "hello\x00"}, {"q": "hello", "roomId": f"{room}\x00"}, {"q": "hello", "from": "\x00"},
        {"q\x00": "hello"},
    ):  # fmt: skip
        refused = await ask(daemon, ada, **parameters)
        assert (refused.status, refused.json()["code"]) == (400, "bad_message")
    twice = await daemon.http("GET", "/api/search?q=a&q=b", token=ada.token)
    assert twice.status == 400
    nothing = await daemon.http("GET", "/api/search", token=ada.token)
    assert (nothing.status, nothing.json()["code"]) == (422, "bad_message")
    many = await ask(daemon, ada, q="hello", limit=101)
    assert (many.status, many.json()["code"]) == (422, "bad_message")
    assert len(await find(daemon, ada, q="hello")) == 1


@on_both
async def test_messages_of_any_form_are_found_and_shown_in_part(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room = await daemon.create_room(ada)
    deep = "filler " * 100 + "needle" + " filler" * 100
    await write(daemon, ada, room, deep, "😀" * 9000 + " needles", "x" * 9000)
    await write(daemon, ada, room, "if (needle < 3) { <script> }", messageType="code")
    found = await find(daemon, ada, q="needle")
    assert len(found) == 2
    assert all(len(text_of(result)) <= 202 for result in found)
    assert [part["text"] for result in found for part in result["excerpt"] if part.get("match")] == ["needle"] * 2
    assert text_of(found[0]) == "if (needle < 3) { <script> }"
    assert len(await find(daemon, ada, q="x" * 64)) == 1
    assert len(json.dumps(await find(daemon, ada, q="needles"))) < 4000


# Excerpts


def parts(content: str, query: str) -> list[str]:
    """An excerpt with its matches in brackets."""
    return [f"[{part.text}]" if part.match else part.text for part in excerpt_of(content, phrases_of(query))]


def test_an_excerpt_shows_the_text_around_the_first_match() -> None:
    assert parts("hello", "hello") == ["[hello]"]
    assert parts("say Héllo, HELLO!", "hello") == ["say ", "[Héllo]", ", ", "[HELLO]", "!"]
    assert parts("one two three", '"two three" one') == ["[one]", " ", "[two three]"]
    assert parts("你好世界", "世界") == ["你好", "[世界]"]
    assert parts("aa aa aa", '"aa aa"') == ["[aa aa]", " aa"]
    start, *middle, end = parts("before " * 50 + "needle" + " after" * 50, "needle")
    assert (start, end, middle[1]) == ("…", "…", "[needle]")
    assert middle[0].startswith("before ")
    assert sum(map(len, middle)) == 202


def test_an_excerpt_of_a_text_that_only_its_end_matches_is_its_beginning() -> None:
    assert parts("nothing", "hello") == ["nothing"]
    assert parts("x" * 300, "hello") == ["x" * 200, "…"]
