"""The README's first conversation, done as it is written, with curl and wscat, to what it says is printed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import termios
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from tests.daemon import Daemon, start_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHECKOUT: Final = Path(__file__).parent.parent
WSCAT: Final = CHECKOUT / ".cache/node_modules/.bin/wscat"
SECTIONS: Final = (CHECKOUT / "README.md").read_text(encoding="utf-8").split("\n## ")

#: What comes when it comes, as the README says once and does not print.
SIGNAL: Final = re.compile(r'< \{"type":"(user_online|messages_delivered|messages_read)"')


def blocks_of(title: str) -> list[tuple[str, str, str]]:
    """(language, who, text) of each fenced block of a section, in order."""
    [section] = [section for section in SECTIONS if section.startswith(title + "\n")]
    return re.findall(r"^```(\w+) ?(\w*)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


BLOCKS: Final = blocks_of("A first conversation")


def pattern(printed: str) -> re.Pattern[str]:
    """What the README shows, in which `…` stands for anything."""
    return re.compile(re.escape(printed).replace("…", ".*"))


@dataclass
class Wscat:
    """A wscat at a terminal, as a person has it; `lines` is what it shows."""

    terminal: int
    lines: trio.MemoryReceiveChannel[str]

    def type(self, line: str) -> None:
        os.write(self.terminal, line.encode() + b"\r")

    async def expect(self, printed: str) -> None:
        """Wait for the next line of this kind (`<` is heard, others are wscat's own)."""
        with trio.fail_after(30):
            shown = await self.lines.receive()
            while not shown.startswith(printed[:2]) or (SIGNAL.match(shown) and not SIGNAL.match(printed)):
                shown = await self.lines.receive()
        assert pattern(printed).fullmatch(shown), f"{shown} is not {printed}"


@asynccontextmanager
async def open_wscat(command: str) -> AsyncIterator[Wscat]:
    """Run what the README's `$` line says, with the wscat that tests/setup_system.sh installs."""
    words = command.replace("npx wscat", str(WSCAT)).split()
    terminal, its_end = os.openpty()
    termios.tcsetwinsize(its_end, (50, 1000))
    sender, receiver = trio.open_memory_channel[str](1000)
    process = await trio.lowlevel.open_process(words, stdin=its_end, stdout=its_end)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_read_lines, terminal, sender)
            wscat = Wscat(terminal, receiver)
            # what is typed before is lost
            await wscat.expect("Connected (press CTRL+C to quit)")
            yield wscat
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        os.close(terminal)
        os.close(its_end)


async def _read_lines(terminal: int, lines: trio.MemorySendChannel[str]) -> None:
    rest = ""
    while True:
        await trio.lowlevel.wait_readable(terminal)
        shown = rest + os.read(terminal, 65_536).decode()
        *complete, rest = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown))
        for line in complete:
            await lines.send(line)


async def run_shell(script: str, *, within_s: float = 30) -> str:
    """What a shell block prints."""
    with trio.fail_after(within_s):
        done = await trio.run_process(["bash", "-euo", "pipefail", "-c", script], capture_stdout=True)
    return done.stdout.decode()


def with_ports(text: str, daemon: Daemon) -> str:
    """The block with the ports of the test's daemon in the place of the default ones."""
    return text.replace("127.0.0.1:3000", f"127.0.0.1:{daemon.http_port}").replace(
        "127.0.0.1:3001", f"127.0.0.1:{daemon.websocket_port}"
    )


def typed_by(who: str, printed: str) -> list[str]:
    """The lines that the first shell block prints for somebody to type."""
    return printed.split(f"{who} types:\n")[1].split("\n\n", maxsplit=1)[0].splitlines()


def test_conversation_has_its_blocks() -> None:
    assert [(language, who) for language, who, _ in BLOCKS] == [
        ("sh", ""), ("wscat", "bob"), ("wscat", "ada"), ("wscat", "bob"), ("sh", ""), ("json", ""),
    ]  # fmt: skip


def test_tools_of_the_conversation_are_there() -> None:
    assert shutil.which("curl"), "curl is missing: install Debian's package curl"
    assert WSCAT.exists(), "wscat is missing: install Node.js with npm and run tests/setup_system.sh"


async def test_first_conversation_works_as_written(tmp_path: Path) -> None:
    prepare, bob_joins, ada_speaks, bob_hears, look_again, found = [text for _, _, text in BLOCKS]
    async with start_process(tmp_path, limits=True) as daemon:
        printed = await run_shell(with_ports(prepare, daemon) + '\necho; echo "kept:"; declare -p ada lobby')
        kept = printed.split("kept:\n")[1]
        assert printed.count('"username":"ada"') == printed.count('"username":"bob"') == 1
        async with (
            converse(bob_joins, typed_by("bob", printed), daemon) as bob,
            converse(ada_speaks, typed_by("ada", printed), daemon),
        ):
            for line in bob_hears.splitlines():
                await bob.expect(line)
            daemon.process.send_signal(signal.SIGINT)
            await bob.expect('< {"type":"server_shutdown","reason":"…","reconnectAfterMs":…}')
            with trio.fail_after(30):
                assert await daemon.process.wait() == 0
    async with start_process(tmp_path, limits=True) as daemon:
        again = await run_shell(f"chat={daemon.http_url}\n{kept}\n{look_again}")
        assert pattern(found.strip()).fullmatch(again.strip()), again


@asynccontextmanager
async def converse(block: str, typed: list[str], daemon: Daemon) -> AsyncIterator[Wscat]:
    """Go through a wscat block: run its `$` line, type what the shell printed for its `>` lines, hear its `<` lines."""
    command, *lines = with_ports(block, daemon).splitlines()
    to_type = iter(typed)
    async with open_wscat(command.removeprefix("$ ")) as wscat:
        for line in lines:
            if line.startswith("> "):
                text = next(to_type)
                assert pattern(line[2:]).fullmatch(text), f"{text} is not {line[2:]}"
                wscat.type(text)
            else:
                await wscat.expect(line)
        assert list(to_type) == []
        yield wscat
