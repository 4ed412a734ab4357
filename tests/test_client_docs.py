"""Every example of docs/client.md is run, as it stands there, against a daemon; what it names exists."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio

from chatd import client
from chatd.client import ClientError
from tests.daemon import start_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHECKOUT: Final = Path(__file__).parent.parent
PAGE: Final = (CHECKOUT / "docs/client.md").read_text(encoding="utf-8")
EXAMPLES: Final = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
#: What each of them prints.
PRINTED: Final = [
    "stored as 1\nada hello\n",
    "1 follow me\n",
    "said: helo\nmeant: hello\n👋 by 1\nnothing is left of it\n",
    "while it was away\n",
    "signed in as ada\n",
]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[str]:
    """The names that examples use, as a line of Python."""
    async with start_process(tmp_path) as daemon:
        ada = await daemon.register("ada")
        room_id = await daemon.create_room(ada)
        yield f"URL, TOKEN, ROOM = {daemon.ws_url!r}, {ada.token!r}, {room_id!r}\n"


@pytest.mark.parametrize("number", range(len(PRINTED)))
async def test_example_runs_and_prints_what_it_should(place: str, number: int) -> None:
    with trio.fail_after(60):
        done = await trio.run_process(
            [sys.executable, "-W", "error", "-c", place + EXAMPLES[number]],
            capture_stdout=True, capture_stderr=True, check=False, cwd=CHECKOUT, env=os.environ,
        )  # fmt: skip
    assert (done.stdout.decode(), done.stderr.decode()) == (PRINTED[number], "")


def test_page_names_every_error_and_every_way_to_listen() -> None:
    errors = {name for name, each in vars(client).items() if isinstance(each, type) and issubclass(each, ClientError)}
    told = re.findall(r"^\| `(\w+)`(?: \([^)]*\))? \| (?:`open_client`|calls|the same)", PAGE, re.MULTILINE)
    assert errors == {"ClientError", *told}
    assert len(EXAMPLES) == len(PRINTED)
    for name in ("room", "events", "notices", "checkpoint", "join", "send", "get_history"):
        assert f"client.{name}(" in PAGE
        assert hasattr(client.Client, name)


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert all(target.startswith("https://") or (CHECKOUT / "docs" / target).exists() for target in targets)
