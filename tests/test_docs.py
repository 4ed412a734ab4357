"""What the pages for users say is so: each path and message that is served, what examples print, where links lead."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, get_args

import pytest
import trio

from chatd.chat.dispatch import RULES
from chatd.chat.routes import ROUTES
from chatd.errors import STATUS, CloseCode
from chatd.protocol import CLIENT_TYPES, ClientMessage
from tests.daemon import start_process

CHECKOUT: Final = Path(__file__).parent.parent
NAMES: Final = ("README.md", "docs/http.md", "docs/protocol.md", "docs/nodes.md", "docs/verify.md", "docs/files.md")
PAGES: Final = {name: (CHECKOUT / name).read_text(encoding="utf-8") for name in NAMES}
HTTP, PROTOCOL = PAGES["docs/http.md"], PAGES["docs/protocol.md"]
#: The seven of spec/protocol.md by their numbers; what the page promises beside them has none.
PROMISES: Final = {
    "1": "Acknowledged is stored", "2": "Sent twice is stored once", "3": "One order", "4": "No silent hole",
    "5": "Resume without a cliff", "6": "Slow readers hurt only themselves", "7": "Ephemeral is ephemeral",
}  # fmt: skip


def table_of_paths() -> set[tuple[str, str]]:
    """Each method and path that the HTTP page's table lists."""
    found = set()
    for methods, paths in re.findall(r"^\| ((?:[A-Z]+(?:, )?)+) (`/[^|]*) \|", HTTP, re.MULTILINE):
        found |= {(method, path) for method in methods.split(", ") for path in re.findall(r"`([^`]+)`", paths)}
    return found


def test_http_page_lists_every_path_and_no_other() -> None:
    assert table_of_paths() == {(route.method, route.path) for route in ROUTES}


def test_protocol_page_describes_every_message_that_has_a_rule_and_names_the_others() -> None:
    described = set(re.findall(r"^\| `(\w+)` \|", PROTOCOL.split("## What a client hears")[0], re.MULTILINE))
    served = {name for name, kind in zip(CLIENT_TYPES, sorted_kinds(), strict=True) if kind in RULES}
    assert described == served
    assert all(f"`{name}`" in PROTOCOL for name in CLIENT_TYPES)


def sorted_kinds() -> list[type]:
    """The client's messages in the order of their names on the wire."""
    return sorted(get_args(ClientMessage), key=lambda kind: str(kind.__struct_config__.tag))


def test_pages_know_every_code() -> None:
    assert all(f"`{code}`" in PROTOCOL for code in STATUS)
    never_sent = {CloseCode.NO_STATUS, CloseCode.ABNORMAL, CloseCode.PROTOCOL_ERROR}
    codes = {code for code in vars(CloseCode).values() if isinstance(code, int)} - never_sent
    assert all(re.search(rf"\b{code}\b", PROTOCOL) for code in codes)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", PAGES[name])
    assert targets
    missing = [
        target
        for target in targets
        if not target.startswith("https://") and not (CHECKOUT / name).parent.joinpath(target).exists()
    ]
    assert missing == []


def modules_by_promise() -> dict[str, tuple[str, list[str]]]:
    """The number (or none), and the tests that are said to hold it, of each promise by its name."""
    table = PROTOCOL.split("## What it promises")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d?) ?\| \*\*(.+?)\.\*\* .* \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) == table.count("**") // 2
    return {name: (number, re.findall(r"\]\(\.\./tests/(\w+\.py)\)", links)) for number, name, links in rows}


def test_each_promise_links_the_tests_that_hold_it() -> None:
    promises = modules_by_promise()
    assert {number: name for name, (number, _) in promises.items() if number} == PROMISES
    for name, (_, modules) in promises.items():
        assert modules, f"nothing is said to hold: {name}"
        assert len(set(modules)) == len(modules)
        for module in modules:
            text = (CHECKOUT / "tests" / module).read_text(encoding="utf-8")
            assert re.search(r"^(async )?def test_|^Test\w+ = ", text, re.MULTILINE), f"{module} tests nothing"


def test_no_model_is_left_out_of_the_promises() -> None:
    linked = {module for _, modules in modules_by_promise().values() for module in modules}
    assert {path.name for path in (CHECKOUT / "tests").glob("test_*_model.py")} <= linked


async def test_examples_of_the_http_page_print_what_it_shows(tmp_path: Path) -> None:
    examples = re.findall(r"^```sh\n(.*?)^```\n```json\n(.*?)^```$", HTTP, re.DOTALL | re.MULTILINE)
    assert len(examples) == HTTP.count("```sh")
    async with start_process(tmp_path / "data", limits=True) as daemon:
        script = "\necho; echo =====\n".join(commands for commands, _ in examples)
        script = script.replace("127.0.0.1:3000", f"127.0.0.1:{daemon.http_port}")
        with trio.fail_after(60):
            shell = ["bash", "-euo", "pipefail", "-c", script]
            done = await trio.run_process(shell, capture_stdout=True, cwd=tmp_path)
    printed = done.stdout.decode().split("=====\n")
    for (_, shown), answer in zip(examples, printed, strict=True):
        expected = re.escape(shown.strip()).replace("…", ".*")
        assert re.fullmatch(expected, answer.strip()), answer
