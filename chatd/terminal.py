"""`chatd chat ROOM`: a terminal on the reference client, for trying things and as an example of how to use it.

Lines of standard input are sent, what happens in the room is printed; both work in a pipe as well. Called by
`__main__`, which gives it what the command line said.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self, TextIO

import trio

from chatd.client import Client, ClientError, Connected, History, Lost, Refused, open_client, place_of
from chatd.client.link import parse_url
from chatd.protocol import (
    MemberUpdated,
    MessageDeleted,
    MessageEdited,
    MessagePinned,
    MessageUnpinned,
    NewDm,
    NewMessage,
    ReactionAdded,
    ReactionRemoved,
    Resync,
    RoomUpdated,
    ServerShutdown,
    UserJoined,
    UserLeft,
    UserStoppedTyping,
    UserTyping,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from chatd.client import Notice, RoomEvent, Stream
    from chatd.records import Message

READ_BYTES: Final = 64 * 1024
#: Seconds for one page of rooms over HTTP, and how many there are in one.
HTTP_TIMEOUT_S: Final = 10
ROOMS_A_PAGE: Final = 100
#: Rooms that are looked through for a name.
MAX_ROOMS: Final = 10_000
HELP: Final = (
    "/help  this",
    "/quit  leave this program, not the room; so does the end of the input",
    "//…    send a line that begins with /",
)
#: Messages and names that are remembered, to say what an event is about, and how many characters of one are quoted.
REMEMBERED: Final = 1000
QUOTED: Final = 40


class ChatFault(Exception):
    """Chatting cannot go on; `str()` is a sentence for the person who asked for it."""


async def chat(url: str, token: str, room: str, *, api_url: str) -> None:
    """Show a room and send what is typed, until the input ends, Ctrl-C, or SIGTERM. Raises `ChatFault`.

    `room` is a room's id or name; names of rooms that one is not in are looked up at `api_url`, the HTTP side.
    """
    try:
        parse_url(url)
    except ValueError as error:
        raise ChatFault(str(error)) from None
    try:
        await _chat(url, token, room, api_url)
    except BaseExceptionGroup as group:
        only = _only(group)
        if isinstance(only, BrokenPipeError):
            # Nobody reads any more (`chatd chat ROOM | head`); what is still buffered has nowhere to go either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        if not isinstance(only, ClientError | ChatFault):
            raise
        raise ChatFault(str(only)) from None


def _only(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group


async def _chat(url: str, token: str, room: str, api_url: str) -> None:
    """All of it in one nursery, so that whatever ends, ends everything."""
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            nursery.start_soon(_end_on_signal, signals, nursery.cancel_scope)
            screen = Screen(sys.stdout, sys.stderr)
            async with open_client(url, token=token, on_notice=screen.show_notice) as client:
                screen.room_id = await _find_room(client, room, token, api_url)
                with client.room(screen.room_id) as events:
                    screen.show_history(await client.join(screen.room_id))
                    nursery.start_soon(screen.show_events, events, client)
                    await _send_lines(client, screen)
                nursery.cancel_scope.cancel()


async def _end_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


# -- input ------------------------------------------------------------------------------------------------------------


async def _send_lines(client: Client, screen: Screen) -> None:
    """Send each line and see it come; one that is refused is told of, and the next one is tried.

    A line that begins with `/` is for this program, and one with `//` a message that begins with one of them.
    """
    last_seq = 0
    async for line in Lines(sys.stdin.fileno()):
        if not line.strip():
            continue
        if line.startswith("/") and not line.startswith("//"):
            if _obey(line, screen):
                continue
            break
        try:
            ack = await client.send(screen.room_id, line.removeprefix("/"))
            last_seq = ack.seq
        except Refused as refused:
            screen.say(f"-- not sent: {refused.detail}")
    await screen.wait_shown(last_seq)


def _obey(line: str, screen: Screen) -> bool:
    """Do what is asked of this program; whether it goes on."""
    word = line.split(maxsplit=1)[0]
    if word == "/help":
        for about in HELP:
            screen.say(f"-- {about}")
    elif word != "/quit":
        screen.say(f"-- not sent: there is no {word}; /help says what there is, // sends a line with one /")
    return word != "/quit"


class Lines:
    """The lines of a descriptor: a terminal, a pipe or a file. It stays blocking, for others may share it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: list[str] = []
        self._rest = b""
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while not self._lines and not self._is_over:
            try:
                await trio.lowlevel.wait_readable(self._descriptor)
            except OSError:
                # A file and /dev/null are always readable, and epoll refuses to wait for them (epoll_ctl(2), EPERM).
                await trio.lowlevel.checkpoint()
            data = os.read(self._descriptor, READ_BYTES)
            *lines, self._rest = (self._rest + data).split(b"\n")
            if not data:
                self._is_over = True
                lines, self._rest = [self._rest], b""
            self._lines += [line.decode(errors="replace").rstrip("\r") for line in lines]
        if not self._lines:
            raise StopAsyncIteration
        return self._lines.pop(0)


# -- output -----------------------------------------------------------------------------------------------------------


class Screen:
    """What a person sees of a room; what is about the connection goes elsewhere, so that a pipe has the room only."""

    def __init__(self, out: TextIO, aside: TextIO) -> None:
        self.room_id = ""
        self._out = out
        self._aside = aside
        self._was_lost = False
        # Up to here everything was shown.
        self._seq = 0
        self._shown = trio.Event()
        # The newest messages as they are quoted, and users by their ids.
        self._quotes: dict[str, str] = {}
        self._names: dict[str, str] = {}

    async def wait_shown(self, seq: int) -> None:
        """Wait until everything up to a seq was shown."""
        while self._seq < seq:
            await self._shown.wait()

    def _note_shown(self, seq: int) -> None:
        self._seq = max(self._seq, seq)
        self._shown.set()
        self._shown = trio.Event()

    def say(self, line: str) -> None:
        """Print a line of the room."""
        self._print(line, self._out)

    @staticmethod
    def _print(line: str, where: TextIO) -> None:
        """Print a line without what would steer the terminal."""
        where.write("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line) + "\n")
        where.flush()

    def show_history(self, history: History) -> None:
        """The messages of a page that were not shown yet."""
        if history.has_more and not self._seq:
            self.say("-- there are earlier messages")
        for message in history.messages:
            if message.seq > self._seq:
                self._show(message, " (edited)" if message.edited_at and not message.deleted_at else "")
        self._note_shown(history.seq)

    def _show(self, message: Message, mark: str = "") -> None:
        at = datetime.fromisoformat(message.created_at).astimezone()
        text = "(deleted)" if message.deleted_at else message.content
        _remember(self._names, message.sender_id, message.sender_name)
        _remember(self._quotes, message.id, _quote(message))
        for index, line in enumerate(text.splitlines() or [""]):
            start = f"{at:%H:%M:%S} {message.sender_name}{mark}: " if index == 0 else "         "
            self.say(start + line)

    async def show_events(self, events: Stream[RoomEvent], client: Client) -> None:
        """What happens in the room; a replay that is not to be had is made up for by the history."""
        async for event in events:
            if isinstance(event, Resync):
                if event.reason == "not_a_member":
                    raise ChatFault("You are not in this room any more.")
                self.say("-- too much was missed to show all of it; this is the newest:")
                self._seq = 0 if event.reason == "epoch_changed" else self._seq
                self.show_history(await client.get_history(self.room_id))
            elif place_of(event)[1] > self._seq:
                self.show_event(event, client.user_id)
                self._note_shown(place_of(event)[1])

    def show_event(self, event: RoomEvent, user_id: str) -> None:
        """One event. Raises `ChatFault` if it is the end of one's membership."""
        match event:
            case NewMessage() | NewDm():
                self._show(event.message)
            case MessageEdited():
                self._show(event.message, " (edited)")
            case UserJoined():
                _remember(self._names, event.user_id, event.username)
                self.say(f"* {event.username} joined")
            case UserLeft():
                self.say(f"* {event.username} left" + ("" if event.reason == "left" else f" ({event.reason})"))
                if event.user_id == user_id:
                    raise ChatFault("You are not in this room any more.")
            case MemberUpdated():
                self.say(f"* {self._name(event.user_id)} {_became(event)}")
            case RoomUpdated() if event.deleted_at is not None:
                self.say("* the room was deleted")
                raise ChatFault("This room was deleted.")
            case RoomUpdated():
                self.say(f"* the room is now {event.name or 'changed'}")
            case _:
                self._show_change(event)

    def _show_change(self, event: RoomEvent) -> None:
        """What became of a message."""
        match event:
            case MessageDeleted():
                self.say(f"* {self._name(event.deleted_by)} deleted {self._about(event.message_id)}")
                _remember(self._quotes, event.message_id, "a deleted message")
            case ReactionAdded():
                self.say(f"* {self._name(event.user_id)} put {event.emoji} to {self._about(event.message_id)}")
            case ReactionRemoved():
                self.say(f"* {self._name(event.user_id)} took {event.emoji} from {self._about(event.message_id)}")
            case MessagePinned():
                self.say(f"* {self._name(event.user_id)} pinned {self._about(event.message_id)}")
            case MessageUnpinned():
                self.say(f"* {self._name(event.user_id)} unpinned {self._about(event.message_id)}")

    def _name(self, user_id: str) -> str:
        return self._names.get(user_id, "somebody")

    def _about(self, message_id: str) -> str:
        return self._quotes.get(message_id, "a message")

    def show_notice(self, notice: Notice) -> None:
        """Who is typing, and the connection's coming and going."""
        match notice:
            case UserTyping(room_id=self.room_id):
                self.say(f"* {notice.username} is typing …")
            case UserStoppedTyping(room_id=self.room_id):
                self.say(f"* {notice.username} stopped typing")
            case Lost():
                self._was_lost = True
                line = f"-- no connection ({notice.reason.rstrip('.')}); trying again in {notice.retry_in_s:.1f} s"
                self._print(line, self._aside)
            case Connected() if self._was_lost:
                self._was_lost = False
                self._print("-- connected", self._aside)
            case ServerShutdown():
                self._print(f"-- {notice.reason}", self._aside)


def _remember(known: dict[str, str], key: str, text: str) -> None:
    """Note something as the newest, in the place of the oldest if there is too much."""
    known.pop(key, None)
    known[key] = text
    if len(known) > REMEMBERED:
        del known[next(iter(known))]


def _quote(message: Message) -> str:
    """The first words of a message, and whose it is."""
    if message.deleted_at:
        return "a deleted message"
    [start] = message.content.splitlines()[:1] or [""]
    text = start if len(start) <= QUOTED and start == message.content else start[:QUOTED] + "…"
    return f"“{text}” of {message.sender_name}"


def _became(event: MemberUpdated) -> str:
    if event.role is not None:
        return f"is now {event.role}"
    return f"may not write until {event.muted_until}" if event.muted_until else "may write again"


# -- rooms by name ----------------------------------------------------------------------------------------------------


async def _find_room(client: Client, room: str, token: str, api_url: str) -> str:
    """The id of a room by its id or name. Raises `ChatFault`."""
    own = [entry.room_id for entry in client.rooms.values() if entry.name == room]
    if room in client.rooms or _is_id(room):
        return room
    found = own or await trio.to_thread.run_sync(_look_up, room, token, api_url, abandon_on_cancel=True)
    if not found:
        raise ChatFault(f"There is no room named {room!r} for you; give its id, or make it with POST /api/rooms.")
    if len(found) > 1:
        raise ChatFault(f"Several rooms are named {room!r}; give the id of one: {', '.join(found[:5])}.")
    return found[0]


def _is_id(room: str) -> bool:
    return len(room) == 36 and room.count("-") == 4


def _look_up(name: str, token: str, api_url: str) -> list[str]:
    """The ids of the rooms of a name, from GET /api/rooms. Raises `ChatFault`."""
    found: list[str] = []
    after = ""
    for _ in range(MAX_ROOMS // ROOMS_A_PAGE):
        query = urllib.parse.urlencode({"limit": ROOMS_A_PAGE, **({"after": after} if after else {})})
        request = urllib.request.Request(f"{api_url}/api/rooms?{query}")  # noqa: S310 - checked by who calls
        request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as answer:  # noqa: S310 - the same
                page = json.load(answer)
        except (OSError, ValueError) as error:
            detail = f"Rooms cannot be looked up by name at {api_url} ({error}); give --api, or the id of the room."
            raise ChatFault(detail) from error
        found += [room["id"] for room in page["rooms"] if room["name"] == name]
        if not page["hasMore"]:
            break
        after = page["after"]
    return found
