"""Previews of the pages that messages link to, made beside everything else: off by default, because it asks the world.

`server` opens it where `messages.link_previews` says so. What is published here is noted without waiting; a few tasks
read pages one by one, and more than so many waiting messages are left without. Nothing in here can fail a message.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.chat.page_head import read_head
from chatd.chat.previews import Linked, linked_by, show_previews
from chatd.web_pages import PageBounds, Unreadable, is_of_the_world, read_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from chatd.bus.port import Event
    from chatd.chat.context import Chat
    from chatd.config import PreviewOptions

log = telemetry.get_logger(__name__)

#: Threads that take pages apart: a hostile page keeps one of them busy, not the loop.
_THREADS: Final = 1


class Previews:
    """Messages whose pages are to be read, if that is switched on."""

    def __init__(self, options: PreviewOptions, *, is_on: bool) -> None:
        self._is_on = is_on
        self._bounds = PageBounds(options.timeout_s, options.max_bytes, options.redirects)
        self._workers = options.workers if is_on else 0
        self._waiting, self._to_read = trio.open_memory_channel[Linked](options.max_waiting)

    def note(self, event: Event) -> None:
        """Have the pages of a message read, unless too many wait."""
        if not self._is_on:
            return
        linked = linked_by(event)
        if linked is not None:
            try:
                self._waiting.send_nowait(linked)
            except trio.WouldBlock:
                log.info("preview_left_out", room=linked.room_id, message=linked.message_id)

    async def _read(self, chat: Chat, limiter: trio.CapacityLimiter) -> None:
        async for linked in self._to_read:
            try:
                found = [await self._preview(link, limiter) for link in linked.links]
                if previews := [preview for preview in found if preview]:
                    await show_previews(chat, linked, previews)
            except Exception:
                # One message's defect, which nobody has asked for.
                log.exception("preview_failed", room=linked.room_id, message=linked.message_id)

    async def _preview(self, link: str, limiter: trio.CapacityLimiter) -> dict[str, str]:
        """What is shown of a page; nothing of one that cannot be read or has no title."""
        try:
            page = await read_page(link, self._bounds, may_reach=is_of_the_world)
        except Unreadable:
            return {}
        head = await trio.to_thread.run_sync(read_head, page.body, page.charset, limiter=limiter)
        if not head.title:
            return {}
        shown = {"title": head.title, "description": head.description, "site": head.site}
        return {"url": link} | {name: text for name, text in shown.items() if text}


@asynccontextmanager
async def open_previews(chat: Chat, previews: Previews) -> AsyncIterator[None]:
    """Read pages for as long as the block lasts; what waits at its end is left without."""
    limiter = trio.CapacityLimiter(_THREADS)
    async with trio.open_nursery() as nursery:
        for _ in range(previews._workers):
            nursery.start_soon(previews._read, chat, limiter)
        yield
        nursery.cancel_scope.cancel()
