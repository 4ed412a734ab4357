"""`chatd chat`: as a process in a pipe and at a terminal, and what its screen shows of everything that may happen."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from contextlib import asynccontextmanager
from subprocess import PIPE, STDOUT
from typing import TYPE_CHECKING, Any

import pytest
import trio

from chatd import protocol
from chatd.client import Connected, Lost
from chatd.records import Message
from chatd.terminal import ChatFault, Lines, Screen
from tests.daemon import Daemon, SignedIn, environment, start_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from chatd.client import Notice, RoomEvent

AT = "2026-01-31T12:00:00.123Z"
SHOWN_TIME = r"\d\d:\d\d:\d\d "


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with start_process(tmp_path / "data") as opened:
        yield opened


class Chatting:
    """A `chatd chat` with its pipes; `heard` is what it printed, errors as well."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.heard = ""

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for part in self.process.stdout:
            self.heard += part.decode()

    async def type(self, text: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(text.encode())

    async def expect(self, pattern: str) -> None:
        with trio.fail_after(30):
            while True:
                if re.search(pattern, self.heard, re.MULTILINE):
                    return
                await trio.sleep(0.01)

    async def end(self) -> int:
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with trio.fail_after(30):
            return await self.process.wait()


@asynccontextmanager
async def open_chat(daemon: Daemon, user: SignedIn, *arguments: str) -> AsyncIterator[Chatting]:
    """A chat in a room, `--url` and `--api` given."""
    command = [sys.executable, "-m", "chatd", "chat", "--url", daemon.ws_url, "--api", daemon.http_url, *arguments]
    variables = os.environ | environment(daemon.data_dir) | {"CHATD_TOKEN": user.token}
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, env=variables)
        chatting = Chatting(process)
        nursery.start_soon(chatting.read)
        try:
            yield chatting
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
    # what was printed last has been read


async def test_two_people_talk_in_a_room_that_they_know_by_name(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with open_chat(daemon, ada, "lobby") as one:
        await one.type("hello\n")
        await one.expect(f"^{SHOWN_TIME}ada: hello$")
        async with open_chat(daemon, bob, await daemon.lobby(bob)) as other:
            await other.expect(f"^{SHOWN_TIME}ada: hello$")
            await one.expect(r"^\* bob joined$")
            await other.type("hi ada")
            assert await other.end() == 0
        assert re.search(f"^{SHOWN_TIME}bob: hi ada$", other.heard, re.MULTILINE)
        await one.expect(f"^{SHOWN_TIME}bob: hi ada$")
        assert await one.end() == 0


async def test_lines_with_a_slash_are_for_the_program_and_two_make_one_of_a_message(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    room_id = await daemon.create_room(ada, "tea")
    async with open_chat(daemon, ada, "tea") as chatting:
        await chatting.type("/help\n/me waves\n//etc/hosts\n")
        await chatting.expect("^-- /quit  leave this program")
        await chatting.expect("^-- not sent: there is no /me; /help says")
        await chatting.expect(f"^{SHOWN_TIME}ada: /etc/hosts$")
        await chatting.type("hello\n  /quit is a word\n/quit\nnever\n")
        with trio.fail_after(60):
            assert await chatting.process.wait() == 0
    history = await daemon.http("GET", f"/api/rooms/{room_id}/messages", token=ada.token)
    assert [message["content"] for message in history.json()["messages"]] == [
        "/etc/hosts", "hello", "  /quit is a word",
    ]  # fmt: skip


async def test_interrupt_ends_it_cleanly(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    async with open_chat(daemon, ada, "lobby") as chatting:
        await chatting.type("hello\n")
        await chatting.expect("ada: hello$")
        chatting.process.send_signal(signal.SIGINT)
        with trio.fail_after(30):
            assert await chatting.process.wait() == 0
    assert "Traceback" not in chatting.heard


async def test_connection_that_goes_is_told_of(tmp_path: Path) -> None:
    async with start_process(tmp_path) as daemon:
        ada = await daemon.register("ada")
        async with open_chat(daemon, ada, "lobby") as chatting:
            await chatting.type("hello\n")
            await chatting.expect("ada: hello$")
            daemon.process.kill()
            await chatting.expect(r"^-- no connection \(.+\); trying again in \d+\.\d s$")


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["nowhere"], 1, "chatd: There is no room named 'nowhere' for you"),
        (["lobby", "--token", "none"], 1, "This is no valid token"),
        (["lobby", "--url", "http://host"], 1, "is no URL of a chat server"),
        (["lobby", "--api", "http://127.0.0.1:1"], 1, "Rooms cannot be looked up by name at http://127.0.0.1:1"),
        (["lobby", "--api", "ftp://host"], 2, "--api is a URL such as"),
        (["lobby", "--token", ""], 0, ""),
        (["0190a0a0-0000-7000-8000-000000000000"], 1, "There is no such room"),
    ],
    ids=["room", "token", "url", "api", "scheme", "environment", "id"],
)
async def test_what_stands_in_the_way_is_one_sentence(
    daemon: Daemon, arguments: list[str], status: int, told: str
) -> None:
    ada = await daemon.register("ada")
    async with open_chat(daemon, ada, *arguments) as chatting:
        assert await chatting.end() == status
    assert told in chatting.heard
    assert "Traceback" not in chatting.heard


async def test_reader_that_goes_away_ends_it_without_a_word(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    command = f"(echo a; echo b; echo c) | {sys.executable} -m chatd chat lobby --url {daemon.ws_url}"
    command += f" --api {daemon.http_url} | head -1"
    variables = os.environ | environment(daemon.data_dir) | {"CHATD_TOKEN": ada.token}
    with trio.fail_after(60):
        done = await trio.run_process(["bash", "-c", command], capture_stdout=True, capture_stderr=True, env=variables)
    assert re.fullmatch(f"{SHOWN_TIME}ada: a\n", done.stdout.decode())
    assert done.stderr == b""


# -- input ------------------------------------------------------------------------------------------------------------


async def test_lines_of_a_pipe_come_as_they_are_written_and_the_last_needs_no_end() -> None:
    reading, writing = os.pipe()
    try:
        lines = Lines(reading)
        os.write(writing, "ä\r\nb\nunfin".encode())
        assert [await anext(lines), await anext(lines)] == ["ä", "b"]
        os.write(writing, b"ished")
        os.close(writing)
        assert [line async for line in lines] == ["unfinished"]
    finally:
        os.close(reading)


async def test_lines_of_a_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("a\n\nb\n")
    with path.open("rb") as file:
        assert [line async for line in Lines(file.fileno())] == ["a", "", "b", ""]


# -- output -----------------------------------------------------------------------------------------------------------


def screen() -> tuple[Screen, io.StringIO, io.StringIO]:
    out, aside = io.StringIO(), io.StringIO()
    made = Screen(out, aside)
    made.room_id = "r"
    return made, out, aside


def message(content: str, *, deleted_at: str | None = None) -> Message:
    return Message(
        id="m", room_id="r", seq=1, sender_id="u", sender_name="ada", message_type="text", content=content,
        created_at=AT, deleted_at=deleted_at,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (protocol.NewMessage(message=message("hi")), SHOWN_TIME + "ada: hi"),
        (protocol.NewMessage(message=message("one\ntwo")), SHOWN_TIME + "ada: one\n         two"),
        (protocol.NewMessage(message=message("\x1b[2Jgone")), SHOWN_TIME + "ada: \N{REPLACEMENT CHARACTER}\\[2Jgone"),
        (protocol.NewMessage(message=message("", deleted_at=AT)), SHOWN_TIME + r"ada: \(deleted\)"),
        (protocol.NewDm(message=message("psst")), SHOWN_TIME + "ada: psst"),
        (protocol.MessageEdited(room_id="r", seq=2, message=message("ho")), SHOWN_TIME + r"ada \(edited\): ho"),
        (
            protocol.MessageDeleted(room_id="r", seq=2, message_id="m", deleted_by="u", deleted_at=AT),
            r"\* somebody deleted a message",
        ),
        (
            protocol.ReactionAdded(room_id="r", seq=2, message_id="m", user_id="u", emoji="👍", count=1),
            r"\* somebody put 👍 to a message",
        ),
        (
            protocol.MemberUpdated(room_id="r", seq=2, user_id="u", role="moderator"),
            r"\* somebody is now moderator",
        ),
        (
            protocol.MemberUpdated(room_id="r", seq=2, user_id="u", muted_until=AT),
            rf"\* somebody may not write until {AT}",
        ),
        (protocol.MemberUpdated(room_id="r", seq=2, user_id="u", muted_until=None), r"\* somebody may write again"),
        (protocol.UserJoined(room_id="r", seq=1, user_id="u", username="ada", online=True), r"\* ada joined"),
        (
            protocol.UserLeft(room_id="r", seq=1, user_id="u", username="ada", online=True, reason="kicked"),
            r"\* ada left \(kicked\)",
        ),
        (protocol.RoomUpdated(room_id="r", seq=1, name="hall"), r"\* the room is now hall"),
    ],
)
def test_event_is_shown_as_a_line(event: RoomEvent, line: str) -> None:
    shown, out, _ = screen()
    shown.show_event(event, "me")
    assert re.fullmatch(f"{line}\n", out.getvalue())


def test_events_about_messages_say_which_and_whose_doing_it_was() -> None:
    shown, out, _ = screen()
    about: dict[str, Any] = {"room_id": "r", "message_id": "m"}
    events: list[RoomEvent] = [
        protocol.NewMessage(message=message("a message that is longer than what is quoted of it")),
        protocol.UserJoined(room_id="r", seq=2, user_id="b", username="bob", online=True),
        protocol.ReactionAdded(seq=3, user_id="b", emoji="👍", count=1, **about),
        protocol.ReactionRemoved(seq=4, user_id="b", emoji="👍", count=0, **about),
        protocol.MessageEdited(room_id="r", seq=5, message=message("short")),
        protocol.MessagePinned(seq=6, user_id="u", **about),
        protocol.MessageUnpinned(seq=7, user_id="u", **about),
        protocol.MessageDeleted(seq=8, deleted_by="u", deleted_at=AT, **about),
        protocol.ReactionAdded(seq=9, user_id="b", emoji="👍", count=1, **about),
    ]
    for event in events:
        shown.show_event(event, "me")
    assert [line for line in out.getvalue().splitlines() if line.startswith("*")] == [
        "* bob joined",
        "* bob put 👍 to “a message that is longer than what is qu…” of ada",
        "* bob took 👍 from “a message that is longer than what is qu…” of ada",
        "* ada pinned “short” of ada",
        "* ada unpinned “short” of ada",
        "* ada deleted “short” of ada",
        "* bob put 👍 to a deleted message",
    ]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatd.terminal.REMEMBERED", 2)
    shown, out, _ = screen()
    for name in ("ada", "bob", "cyd"):
        shown.show_event(protocol.UserJoined(room_id="r", seq=1, user_id=name, username=name, online=True), "me")
    for name in ("ada", "cyd"):
        pinned = protocol.MessagePinned(room_id="r", seq=2, message_id="m", user_id=name)
        shown.show_event(pinned, "me")
    assert out.getvalue().splitlines()[-2:] == ["* somebody pinned a message", "* cyd pinned a message"]


def test_deleted_room_is_the_end() -> None:
    shown, _, _ = screen()
    with pytest.raises(ChatFault, match="was deleted"):
        shown.show_event(protocol.RoomUpdated(room_id="r", seq=2, deleted_at=AT), "me")


def test_own_leaving_is_the_end() -> None:
    shown, _, _ = screen()
    left = protocol.UserLeft(room_id="r", seq=1, user_id="me", username="me", online=True, reason="banned")
    with pytest.raises(ChatFault, match="not in this room any more"):
        shown.show_event(left, "me")


def test_typing_is_shown_beside_messages_and_the_connection_aside() -> None:
    shown, out, aside = screen()
    notices: list[Notice] = [
        Connected(is_first=True),
        protocol.UserTyping(room_id="r", user_id="u", username="ada"),
        protocol.UserTyping(room_id="elsewhere", user_id="u", username="bob"),
        protocol.UserStoppedTyping(room_id="r", user_id="u", username="ada"),
        protocol.ServerShutdown(reason="The server restarts.", reconnect_after_ms=1500),
        Lost("server restarts", 1.5),
        Connected(is_first=False),
    ]
    for notice in notices:
        shown.show_notice(notice)
    assert out.getvalue() == "* ada is typing …\n* ada stopped typing\n"
    assert aside.getvalue() == (
        "-- The server restarts.\n-- no connection (server restarts); trying again in 1.5 s\n-- connected\n"
    )
