"""What the daemon tells by itself of people: who came online and who is gone, who has stopped
typing, and to whom messages were delivered.

`server` opens it around the time in which it serves. The rules are in `chat.presence` and `chat.typists`; in here is
when they run: with a moment between, so that what happens together is told together, and not at all while nothing does.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.chat import delivered
from chatd.chat.presence import tell
from chatd.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from chatd.chat.context import Chat

log = telemetry.get_logger(__name__)

#: Seconds in which news gather, and users of whom is told together.
GATHER_S: Final = 0.05
TELL_AT_ONCE: Final = 200
#: Seconds between two tries while the database is out.
RETRY_S: Final = 1.0
#: Seconds between two looks at who is offline by now.
CLAIM_S: Final = 1.0
#: Seconds between two parts of what was delivered: small ones, for messages wait while one is stored and told.
PART_S: Final = 0.05


class Bell:
    """What a task sleeps on until something is to be done."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def wait_rung(self) -> None:
        """Wait until it has been rung since the last return from here."""
        await self._rung.wait()
        self._rung = trio.Event()


async def tell_news(chat: Chat, bell: Bell) -> None:
    """Tell what is new of users, many by one read, with a pause before the next ones."""
    is_waiting = False
    while True:
        await bell.wait_rung()
        while chat.presence.has_news:
            await trio.sleep(GATHER_S)
            news = chat.presence.take(TELL_AT_ONCE)
            try:
                await tell(chat, news)
                is_waiting = False
            except Refusal as refusal:
                chat.presence.put_back(news)
                if not is_waiting:
                    log.warning("presence_waits", users=len(news), detail=refusal.detail)
                is_waiting = True
                await trio.sleep(RETRY_S)


async def claim_offline(chat: Chat) -> None:
    """Look who is seen offline by now, and of whom it falls to this node to tell."""
    while True:
        await trio.sleep(CLAIM_S)
        chat.presence.note_offline(await chat.bus.claim_offline())


async def time_typing(chat: Chat, bell: Bell) -> None:
    """End what is not repeated; asleep while nobody types."""
    while True:
        with trio.move_on_at(chat.typists.next_due):
            await bell.wait_rung()
        chat.typists.run_due()


async def tell_delivered(chat: Chat) -> None:
    """Now and then look what was delivered, and store and tell it in parts, so that nobody waits for it."""
    is_waiting = False
    pause_s, look_at = 0.0, 0.0
    while True:
        await trio.sleep(pause_s)
        options = chat.options.receipts
        pause_s = options.delivered_every_s
        # Also while there is always something to store because somebody always writes.
        if chat.seconds() >= look_at:
            chat.deliveries.look()
            look_at = chat.seconds() + options.delivered_every_s
        if not chat.deliveries.has_some:
            continue
        try:
            await delivered.tell(chat, max(1, round(options.delivered_per_second * PART_S)))
            is_waiting, pause_s = False, PART_S
        except Refusal as refusal:
            if not is_waiting:
                log.warning("receipts_wait", detail=refusal.detail)
            is_waiting, pause_s = True, RETRY_S


@asynccontextmanager
async def open_signals(chat: Chat, news: Bell, typing: Bell) -> AsyncIterator[None]:
    """Tell for as long as the block lasts."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_news, chat, news)
        nursery.start_soon(claim_offline, chat)
        nursery.start_soon(time_typing, chat, typing)
        nursery.start_soon(tell_delivered, chat)
        yield
        nursery.cancel_scope.cancel()
