"""The client as its user sees it: `open_client`, and what one can do with a `Client`.

The work is done by the tasks of `live`, which run in the nursery of `open_client` and end with its block.
"""

from __future__ import annotations

import copy
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, cast

import trio

from chatd.client.core import Checkpoint, Core, RoomEvent
from chatd.client.errors import ClientClosed, ClientError
from chatd.client.link import parse_url
from chatd.client.live import Live
from chatd.client.recording import open_recorder
from chatd.client.streams import Notice, Stream
from chatd.client.timing import Backoff, Bounds
from chatd.ids import new_id
from chatd.protocol import (
    AddReaction,
    Authenticated,
    ClientMessage,
    DeleteMessage,
    EditMessage,
    GetHistory,
    JoinRoom,
    LeaveRoom,
    MarkAsRead,
    MessageAck,
    MessageType,
    PinMessage,
    RemoveReaction,
    RoomHistory,
    SendDm,
    SendMessage,
    ServerReply,
    TypingStart,
    TypingStop,
    UnpinMessage,
    UpdateStatus,
)
from chatd.records import Message, ReadCursor, RoomEntry, decode_message

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping

    from chatd.client.live import Refresh
    from chatd.client.recording import Record

#: Events of a stream that nobody has taken yet; past them the client reads no more.
EVENTS: Final = 1000
#: Notices of a stream that nobody has taken yet; past them the oldest are dropped.
NOTICES: Final = 100
#: Seconds after which nobody need be told any more that somebody began or stopped to type.
TYPING_S: Final = 3.0
#: The shortest and the longest wait before a reconnect, in seconds.
RECONNECT_S: Final = (0.5, 20.0)


class History(NamedTuple):
    """A page of a room: messages in ascending order, and the room's position when it was read.

    Events up to `seq` are in it (or before it); those behind come from the streams. `typing` are users' ids,
    `read_cursors` say how far others have read; what becomes of both comes from `notices`.
    """

    room_id: str
    messages: list[Message]
    seq: int
    has_more: bool
    typing: list[str]
    read_cursors: list[ReadCursor]


class Client:
    """A user's connection that heals itself. Made by `open_client`.

    Every call waits as long as it takes, through any number of connections: deadlines are the caller's
    (`trio.fail_after`). What is refused for good raises `Refused`; when the server has ended the connection for good,
    all calls and streams raise `Disconnected`.
    """

    def __init__(self, live: Live) -> None:
        self._live = live

    # -- who and where ------------------------------------------------------------------------------------------------

    @property
    def user_id(self) -> str:
        """Whose token it is."""
        return self._told.user_id

    @property
    def username(self) -> str:
        return self._told.username

    @property
    def rooms(self) -> Mapping[str, RoomEntry]:
        """The user's rooms by id, as the server told them when the client connected last."""
        return self._live.core.entries

    @property
    def is_connected(self) -> bool:
        """A connection is up and authenticated. It may be gone a moment later, and calls may be made without."""
        return self._live.is_connected

    @property
    def _told(self) -> Authenticated:
        assert self._live.core.told is not None, "open_client waits for it"
        return self._live.core.told

    def checkpoint(self) -> Checkpoint:
        """Where the user is: what was taken from the streams, and all of rooms that no stream is open for.

        Sync and cheap, so take it after each event that has been dealt with, and keep it with what came of that.
        """
        return self._live.core.checkpoint(event for stream in self._live.events for event in stream.waiting)

    # -- listening ----------------------------------------------------------------------------------------------------

    def events(self, *, buffer: int = EVENTS) -> Stream[RoomEvent]:
        """Every durable event of every room from here on, each once, in the order of its room.

        Close it (`with client.events() as events`): one that is open and not taken from holds the client up, once
        `buffer` events wait in it. A `Resync` among them says that what was missed cannot be replayed: fetch the
        history of its room, then go on.
        """
        return self._open(None, buffer)

    def room(self, room_id: str, *, buffer: int = EVENTS) -> Stream[RoomEvent]:
        """As `events`, for one room. It does not join it."""
        return self._open(room_id, buffer)

    def _open(self, room_id: str | None, buffer: int) -> Stream[RoomEvent]:
        stream: Stream[RoomEvent] = Stream(buffer, room_id=room_id, on_taken=self._live.note_taken)
        self._attach(self._live.events, stream)
        return stream

    def notices(self, *, buffer: int = NOTICES) -> Stream[Notice]:
        """What is not kept: typing, presence, read marks, notifications, and `Connected` and `Lost`.

        It holds nobody up: when `buffer` of them wait, the oldest is dropped.
        """
        stream: Stream[Notice] = Stream(buffer, room_id=None, on_taken=self._live.note_taken)
        self._attach(self._live.notices, stream)
        return stream

    def _attach(self, streams: list[Stream[Any]], stream: Stream[Any]) -> None:
        if self._live.is_over:
            stream.end(self._live.failure)
        else:
            streams.append(stream)

    # -- asking -------------------------------------------------------------------------------------------------------

    async def send(
        self,
        room_id: str,
        content: str,
        *,
        message_type: MessageType = "text",
        reply_to: str | None = None,
        metadata: dict[str, Any] | None = None,
        client_message_id: str | None = None,
    ) -> MessageAck:
        """Send a message, and return where it stands once it is stored durably: `message_id`, `seq`, `created_at`.

        It is sent again under the same `client_message_id` until it is acknowledged, and stored once however often.
        Messages leave in the order of the calls; a task that waits for each has them stored in that order. Raises
        `Refused`. When cancelled, the message may have been stored or not, or may be yet if it is on its way: to find
        out, send it again under the `client_message_id` that it was given.
        """
        message = SendMessage(
            room_id=room_id,
            content=content,
            message_type=message_type,
            reply_to=reply_to,
            metadata=metadata,
            client_message_id=client_message_id or new_id(),
        )
        return cast("MessageAck", await self.ask(message))

    async def send_dm(
        self,
        recipient_id: str,
        content: str,
        *,
        message_type: MessageType = "text",
        reply_to: str | None = None,
        metadata: dict[str, Any] | None = None,
        client_message_id: str | None = None,
    ) -> MessageAck:
        """As `send`, to a user. The direct room is made on first use."""
        message = SendDm(
            recipient_id=recipient_id,
            content=content,
            message_type=message_type,
            reply_to=reply_to,
            metadata=metadata,
            client_message_id=client_message_id or new_id(),
        )
        return cast("MessageAck", await self.ask(message))

    async def edit(self, message_id: str, content: str) -> None:
        """Give one's own message another content. Raises `Refused`."""
        await self.ask(EditMessage(message_id=message_id, content=content))

    async def delete(self, message_id: str) -> None:
        """Delete one's own message, or as a moderator any; deleting twice is harmless. Raises `Refused`."""
        await self.ask(DeleteMessage(message_id=message_id))

    async def react(self, message_id: str, emoji: str) -> None:
        """Put an emoji to a message; twice is harmless. Raises `Refused`."""
        await self.ask(AddReaction(message_id=message_id, emoji=emoji))

    async def unreact(self, message_id: str, emoji: str) -> None:
        """Take one's emoji back; harmless where it was not. Raises `Refused`."""
        await self.ask(RemoveReaction(message_id=message_id, emoji=emoji))

    async def pin(self, message_id: str) -> None:
        """Keep a message in view, as a moderator. Raises `Refused`."""
        await self.ask(PinMessage(message_id=message_id))

    async def unpin(self, message_id: str) -> None:
        await self.ask(UnpinMessage(message_id=message_id))

    async def mark_as_read(self, room_id: str, *, message_id: str | None = None, seq: int | None = None) -> None:
        """Say how far one has read: to a message, a seq, or the newest; it never goes back. Raises `Refused`."""
        await self.ask(MarkAsRead(room_id=room_id, message_id=message_id, seq=seq))

    async def start_typing(self, room_id: str) -> None:
        """Tell the others that one is typing, for 5 s or until a message; not where it would come too late."""
        with trio.move_on_after(TYPING_S):
            await self.ask(TypingStart(room_id=room_id))

    async def stop_typing(self, room_id: str) -> None:
        with trio.move_on_after(TYPING_S):
            await self.ask(TypingStop(room_id=room_id))

    async def update_status(self, status: Literal["online", "away", "busy"], message: str | None = None) -> None:
        """Say how one is; a message that is not given stays, an empty one is taken away. Raises `Refused`."""
        await self.ask(UpdateStatus(status=status, status_message=message))

    async def join(self, room_id: str, *, limit: int | None = None) -> History:
        """Become a member of a room, if not one already, and return its newest messages.

        A stream that was opened before has every event behind `History.seq`. Raises `Refused`.
        """
        return _history(await self.ask(JoinRoom(room_id=room_id, limit=limit)))

    async def leave(self, room_id: str) -> None:
        """End the membership: the room's last event is one's own `UserLeft`. Raises `Refused`."""
        await self.ask(LeaveRoom(room_id=room_id))

    async def get_history(
        self, room_id: str, *, before_seq: int | None = None, after_seq: int | None = None, limit: int | None = None
    ) -> History:
        """A page of messages: the newest, or the newest before a seq, or the oldest after one. Raises `Refused`."""
        message = GetHistory(room_id=room_id, before_seq=before_seq, after_seq=after_seq, limit=limit)
        return _history(await self.ask(message))

    async def ask(self, message: ClientMessage) -> ServerReply:
        """Send any message of `chatd.protocol` until it has its reply; for what has no method of its own here.

        It may arrive more than once, so it has to be one that does no harm then; all of the protocol's are such. Not
        for `Authenticate`. Raises `Refused`; when cancelled nothing is known.
        """
        await trio.lowlevel.checkpoint()
        if self._live.is_over:
            raise copy.copy(self._live.failure) if self._live.failure is not None else ClientClosed
        answered, outcomes = trio.Event(), list[ServerReply | ClientError]()

        def settle(outcome: ServerReply | ClientError) -> None:
            outcomes.append(outcome)
            answered.set()

        request = self._live.core.ask(message, settle)
        self._live.stir()
        try:
            await answered.wait()
        finally:
            self._live.core.requests.drop(request)
        [outcome] = outcomes
        if isinstance(outcome, ClientError):
            raise copy.copy(outcome)
        return outcome


def _history(reply: ServerReply) -> History:
    assert isinstance(reply, RoomHistory)
    messages = [decode_message(raw) for raw in reply.messages]
    return History(reply.room_id, messages, reply.seq, reply.has_more, reply.typing, reply.read_cursors)


@asynccontextmanager
async def open_client(
    url: str,
    *,
    token: str,
    refresh: Refresh | None = None,
    resume: Checkpoint | None = None,
    record: Record | None = None,
    on_notice: Callable[[Notice], object] | None = None,
    reconnect_s: tuple[float, float] = RECONNECT_S,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Client]:
    """A client, authenticated; until then it tries again and again, so give it a deadline if it must not.

    `url` is ws://host:port/ or wss://host/. `refresh` returns a fresh access token: it is called before the old one
    ends, and tried again where it raises OSError or TooSlowError; without it the client is over when its token is.
    `resume` is a `checkpoint` of an earlier client of the same user: streams that are opened before the first `await`
    of the block have all that was missed since. `record` is a file to add to, or a function that takes a line: all
    that is sent, heard and handed on (docs/client.md). `on_notice` is called with each notice at once, also with those
    before the first connection; it must not wait. `reconnect_s` bounds the waits between connections.

    Raises a ClientError if the server refuses the client for good, ValueError for a URL that is none. Inside of the
    block an exception passes as it is. At the end of the block the connection is closed, at the latest within a
    second; whatever was not acknowledged is not sent any more.
    """
    address = parse_url(url)
    positions = dict(resume.rooms) if resume is not None else {}
    core = Core(epoch=resume.epoch if resume is not None else "", positions=positions)
    backoff = Backoff(Bounds(*reconnect_s), random.Random())  # noqa: S311 - spreads load, no secret
    error: BaseException | None = None
    with open_recorder(record) as recorder:
        live = Live(address, token, refresh, core, backoff, recorder, ssl_context=ssl_context, on_notice=on_notice)
        async with trio.open_nursery() as nursery:
            for task in (live.run, live.write, live.beat, live.renew):
                nursery.start_soon(task)
            try:
                await live.is_begun.wait()
                if live.failure is not None:
                    raise copy.copy(live.failure)
                live.is_attended.set()
                yield Client(live)
            except BaseException as raised:  # noqa: BLE001 - raised again below, outside of the nursery's group
                error = raised
            live.end(None)
            nursery.cancel_scope.cancel()
    if error is not None:
        raise error
