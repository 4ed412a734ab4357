"""When notifications are made: behind the commits, what gathered in a moment together, and the rest at the end.

`server` opens it around the time in which it serves. The rules are in `chat.notifications`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.chat.notifications import notify
from chatd.errors import Refusal
from chatd.store.database import Conflict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from chatd.chat.context import Chat
    from chatd.signals import Bell

log = telemetry.get_logger(__name__)

#: Seconds in which events gather, and events of which notifications are made together.
GATHER_S: Final = 0.1
AT_ONCE: Final = 100
#: Seconds between two tries while the database is out.
RETRY_S: Final = 1.0
#: Seconds for what is left at the end.
LAST_S: Final = 2.0


async def make_notifications(chat: Chat, bell: Bell, making: trio.Lock) -> None:
    """Make notifications of what is noted, for ever; asleep while nothing is.

    Cancelling loses what it makes at that moment, for which it holds `making`.
    """
    is_waiting = False
    while True:
        await bell.wait_rung()
        while chat.notifier.waiting:
            if chat.notifier.waiting < AT_ONCE:
                await trio.sleep(GATHER_S)
            async with making:
                is_waiting = not await _make_some(chat, is_waiting=is_waiting)
            if is_waiting:
                await trio.sleep(RETRY_S)


async def _make_some(chat: Chat, *, is_waiting: bool) -> bool:
    """Make notifications of the oldest events; False if that has to be tried again, which is logged once."""
    if dropped := chat.notifier.take_dropped():
        log.warning("notifications_dropped", events=dropped, detail="More happens than can be told of.")
    work = chat.notifier.take(AT_ONCE)
    try:
        await notify(chat, work)
    except Refusal as refusal:
        chat.notifier.put_back(work)
        if not is_waiting:
            log.warning("notifications_wait", events=len(work), detail=refusal.detail)
        return False
    except (Conflict, ValueError):
        # A defect of one batch; the next ones are not to wait for it.
        log.exception("notifications_failed", events=len(work))
    return True


@asynccontextmanager
async def open_notifier(chat: Chat, bell: Bell) -> AsyncIterator[None]:
    """Notify for as long as the block lasts, and of what is left at its end."""
    making = trio.Lock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(make_notifications, chat, bell, making)
        yield
        with trio.move_on_after(LAST_S):
            await making.acquire()
        nursery.cancel_scope.cancel()
    with trio.move_on_after(LAST_S):
        while chat.notifier.waiting and await _make_some(chat, is_waiting=False):
            pass
