"""The README's photograph, done as written: curl uploads it, wscat sends it, Chromium shows it and its thumbnail."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio

from tests.daemon import Daemon, start_process
from tests.pictures import decode, picture, tagged
from tests.test_images import GPS
from tests.test_readme import BLOCKS, Wscat, blocks_of, open_wscat, pattern, run_shell, typed_by, with_ports

if TYPE_CHECKING:
    from pathlib import Path

PHOTOGRAPH: Final = blocks_of("A photograph")
#: What makes the browser of a person one of a test: no window but a picture of it, and what it made of the file.
HEADLESS: Final = """#!/bin/sh
exec {program} --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \\
    --disable-component-update --disable-sync --hide-scrollbars --window-size=800,600 \\
    --user-data-dir={folder}/profile --dump-dom --screenshot={folder}/$$.png "$@" 2>/dev/null
"""
#: For two starts of a browser on a busy machine.
BROWSE_S: Final = 180


def test_photograph_has_its_blocks() -> None:
    assert [(language, who) for language, who, _ in PHOTOGRAPH] == [
        ("sh", ""), ("json", ""), ("wscat", "ada"), ("sh", ""),
    ]  # fmt: skip


async def test_photograph_is_sent_and_seen_as_written(tmp_path: Path) -> None:
    upload, uploaded, ada_sends, bob_opens = [text for _, _, text in PHOTOGRAPH]
    folder = tmp_path / "shell"
    put_browser(folder)
    # It lies on its side: upright, its red quarter is the one on the right.
    (folder / "photo.jpg").write_bytes(tagged(picture(3000, 4000), orientation=6, **GPS).jpegsave_buffer())
    async with start_process(tmp_path / "data", limits=True) as daemon:
        kept = await have_conversed(daemon)
        printed = await run_shell(f"cd {folder}\n{kept}\n{upload}")
        assert pattern(uploaded.strip()).fullmatch(printed.split("\n\n")[0].strip()), printed
        command = with_ports(ada_sends, daemon).splitlines()[0].removeprefix("$ ")
        async with open_wscat(command) as wscat:
            await send(ada_sends, typed_by("ada", printed), wscat)
        pages = await run_shell(f"PATH={folder}/bin:$PATH\n{kept}\n{bob_opens}", within_s=BROWSE_S)
    assert re.findall(r"<title>.*\((\d+).(\d+)\)</title>", pages) == [("2000", "1500"), ("300", "225")]
    shares = sorted(red_and_green(decode(path.read_bytes())) for path in folder.glob("*.png"))
    # Of a window of 800 x 600 the thumbnail takes 300 x 225, and the other is made to fit.
    for (red, green), covered in zip(shares, (300 * 225 / (800 * 600), 1.0), strict=True):
        assert red == pytest.approx(covered / 4, rel=0.05)
        assert green == pytest.approx(covered * 3 / 4, rel=0.05)


def put_browser(folder: Path) -> None:
    program = shutil.which("chromium")
    assert program, "chromium is missing: run tests/setup_system.sh as root, or install Debian's package chromium"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/chromium").write_text(HEADLESS.format(program=program, folder=folder))
    (folder / "bin/chromium").chmod(0o755)


async def have_conversed(daemon: Daemon) -> str:
    """Do what stands before: two people in the lobby. The variables that the second terminal has from it."""
    printed = await run_shell(with_ports(BLOCKS[0][2], daemon) + '\necho; echo "kept:"; declare -p ada bob lobby')
    kept = printed.split("kept:\n")[1]
    ada, bob, lobby = re.findall('="([^"]+)"', kept)
    for token in (ada, bob):
        async with daemon.connect() as client:
            await client.send(type="authenticate", token=token)
            await client.wait_for("authenticated")
            await client.send(type="join_room", roomId=lobby)
            await client.wait_for("room_history")
    return f"chat={daemon.http_url}\n{kept}"


async def send(block: str, typed: list[str], wscat: Wscat) -> None:
    """Type what the shell printed for the `>` lines, and hear the `<` lines, whatever else is told between them."""
    to_type = iter(typed)
    for line in block.splitlines()[1:]:
        if line.startswith("> "):
            text = next(to_type)
            assert pattern(line[2:]).fullmatch(text), f"{text} is not {line[2:]}"
            wscat.type(text)
            continue
        with trio.fail_after(30):
            while not pattern(line).fullmatch(await wscat.lines.receive()):
                pass
    assert list(to_type) == []


def red_and_green(window: Any) -> tuple[float, float]:
    """The shares of a window that are of these colours."""
    red, green = window[0] > 150, window[1] > 150
    return (red & ~green).avg() / 255, (green & ~red).avg() / 255
