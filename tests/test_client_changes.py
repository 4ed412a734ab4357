"""What the reference client does and hears beside messages: changes of them, who reads, who types, who is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from chatd.client import Checkpoint, Refused, open_client
from chatd.protocol import (
    MessageDeleted,
    MessageEdited,
    MessagePinned,
    MessagesRead,
    MessageUnpinned,
    NewDm,
    NewMessage,
    Notification,
    ReactionAdded,
    ReactionRemoved,
    UserStatus,
    UserStoppedTyping,
    UserTyping,
)
from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from chatd.client import Client, Notice, RoomEvent, Stream

pytestmark = ON_BOTH_BACK_ENDS

#: What comes of `change_everything`, in its order.
CHANGES = [
    NewMessage, MessageEdited, ReactionAdded, MessagePinned, MessageUnpinned, ReactionRemoved, MessageDeleted
]  # fmt: skip


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as opened:
        yield opened


async def take(events: Stream[RoomEvent], count: int) -> list[RoomEvent]:
    with trio.fail_after(30):
        return [await anext(events) for _ in range(count)]


async def wait_for(notices: Stream[Notice], kind: type) -> Notice:
    with trio.fail_after(30):
        while not isinstance(notice := await anext(notices), kind):
            pass
        return notice


async def change_everything(client: Client, room_id: str) -> None:
    message_id = (await client.send(room_id, "helo")).message_id
    await client.edit(message_id, "hello")
    for _ in range(2):
        # Twice is harmless, and told once.
        await client.react(message_id, "👍")
        await client.pin(message_id)
    await client.unpin(message_id)
    await client.unreact(message_id, "👍")
    for _ in range(2):
        await client.delete(message_id)


async def test_changes_of_messages_come_as_typed_events_in_order(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with open_client(daemon.ws_url, token=ada.token) as one, open_client(daemon.ws_url, token=bob.token) as other:
        with other.room(room_id) as events:
            await change_everything(one, room_id)
            heard = await take(events, len(CHANGES))
            assert [type(event) for event in heard] == CHANGES
            edited = heard[1]
            assert isinstance(edited, MessageEdited)
            assert edited.message.content == "hello"
            with pytest.raises(Refused, match="deleted"):
                await one.edit(edited.message.id, "too late")


async def test_client_that_was_away_resumes_with_every_change(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with open_client(daemon.ws_url, token=bob.token) as away:
        checkpoint = away.checkpoint()
    async with open_client(daemon.ws_url, token=ada.token) as client:
        await change_everything(client, room_id)
    assert checkpoint.rooms == {room_id: 0}
    # Also from between two of them.
    for start in range(len(CHANGES)):
        resume = Checkpoint(checkpoint.epoch, {room_id: start})
        async with open_client(daemon.ws_url, token=bob.token, resume=resume) as back:
            with back.events() as events:
                assert [type(event) for event in await take(events, len(CHANGES) - start)] == CHANGES[start:]
            assert back.checkpoint().rooms == {room_id: len(CHANGES)}


async def test_what_is_not_kept_comes_as_typed_notices(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, members=[bob.id])
    async with open_client(daemon.ws_url, token=ada.token) as one, open_client(daemon.ws_url, token=bob.token) as other:
        with other.notices() as notices, other.events() as events:
            await one.start_typing(room_id)
            typing = await wait_for(notices, UserTyping)
            assert isinstance(typing, UserTyping)
            assert (typing.user_id, typing.room_id) == (ada.id, room_id)
            assert (await other.get_history(room_id)).typing == [ada.id]
            await one.stop_typing(room_id)
            await wait_for(notices, UserStoppedTyping)
            await one.update_status("away", "at tea")
            status = await wait_for(notices, UserStatus)
            assert isinstance(status, UserStatus)
            assert (status.status, status.status_message) == ("away", "at tea")
            await other.send(room_id, "hello @ada")
            await one.mark_as_read(room_id)
            read = await wait_for(notices, MessagesRead)
            assert isinstance(read, MessagesRead)
            assert (read.user_id, read.seq) == (ada.id, 1)
            cursors = (await other.get_history(room_id)).read_cursors
            assert (ada.id, 1) in [(cursor.user_id, cursor.seq) for cursor in cursors]
            await one.send_dm(bob.id, "psst")
            with trio.fail_after(30):
                while not isinstance(event := await anext(events), NewDm):
                    pass
            assert event.message.content == "psst"
            kinds = set[str]()
            while "direct" not in kinds:
                notice = await wait_for(notices, Notification)
                assert isinstance(notice, Notification)
                kinds.add(notice.notification.kind)
