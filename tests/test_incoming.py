"""Files beside messages: all together arrive as fast as the option says and no faster, and are written down in turn."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from chatd.assembly import open_chat
from chatd.chat import accounts, files
from chatd.configfile import load_config
from chatd.files.incoming import Pace
from chatd.store.files import Files
from chatd.wire.http import Body
from tests.daemon import NO_FILE, environment
from tests.pictures import form

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import pytest


async def test_files_together_arrive_as_fast_as_is_allowed_and_in_turn(autojump_clock: trio.testing.MockClock) -> None:
    pace, ended = Pace(1000), []

    async def bring(name: str) -> None:
        for _ in range(3):
            await pace.wait_turn(100)
            ended.append((name, round(trio.current_time() - began, 3)))

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for name in ("one", "other"):
            nursery.start_soon(bring, name)
    assert [at for _, at in ended] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert {name for name, _ in ended[:2]} == {name for name, _ in ended[2:4]} == {"one", "other"}


async def test_who_was_not_there_has_saved_nothing_up(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(1000)
    await trio.sleep(10)
    began = trio.current_time()
    for _ in range(3):
        await pace.wait_turn(1000)
    assert trio.current_time() - began == 2.0


async def test_without_a_bound_nobody_waits(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(0)
    began = trio.current_time()
    for _ in range(3):
        await pace.wait_turn(10**9)
    assert trio.current_time() == began


async def test_of_uploads_that_end_at_once_one_writes_to_the_database_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For messages wait behind all that ask the database before them."""
    at_once, most = 0, 0

    def counted(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(call)
        async def count(*args: Any, **kwargs: Any) -> Any:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            try:
                return await call(*args, **kwargs)
            finally:
                at_once -= 1

        return count

    for name in ("claim", "add"):
        monkeypatch.setattr(Files, name, counted(getattr(Files, name)))
    async with open_chat(load_config(NO_FILE, environment(tmp_path, UPLOADS_AT_ONCE_PER_USER="50"))) as chat:
        anna = await accounts.add_account(chat, email="anna@example.org", username="anna", password="correct horse")
        async with trio.open_nursery() as nursery:
            for n in range(20):
                body, headers = form(b"%d" % n, "notes.txt")

                async def send(body: bytes = body, kind: str = headers["Content-Type"]) -> None:
                    await files.upload(chat, anna.id, content_type=kind, body=Body.from_bytes(body))

                nursery.start_soon(send)
        page = await files.own_files(chat, anna.id, before="~", limit=50, offset=0)
    assert (len(page.files), most) == (20, 1)
