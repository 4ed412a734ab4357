"""What the README and docs/nodes.md say of several nodes, done as it is written."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import trio

from chatd.configfile import known_options
from tests.daemon import NO_LIMITS, QUICK, Daemon
from tests.nginx import CONFIGURATION, free_port
from tests.servers import shared_postgres, shared_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHECKOUT: Final = Path(__file__).parent.parent
PAGE: Final = (CHECKOUT / "docs/nodes.md").read_text(encoding="utf-8")
README: Final = (CHECKOUT / "README.md").read_text(encoding="utf-8")
[START_TWO] = re.findall(r"```sh\n(.*?)```", README.split("\n## Several nodes")[1].split("\n## ")[0], re.DOTALL)
[NEW_EPOCH] = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)


@asynccontextmanager
async def start_as_written(folder: Path, database: str) -> AsyncIterator[tuple[Daemon, Daemon]]:
    """The daemons that the README's commands start, on servers and ports of the test; drained at the end."""
    first, second = (Daemon(free_port(), free_port(), folder / name) for name in ("node1", "node2"))
    changes = {
        "postgresql://chatd:password@127.0.0.1/chatd": shared_postgres().url(database),
        "redis://127.0.0.1:6379/0": shared_redis().url,
        "PORT=3003": f"PORT={second.websocket_port}",
        "PORT=3002": f"PORT={second.http_port}",
    }
    script = START_TWO
    for old, new in changes.items():
        assert script.count(old) == 1
        script = script.replace(old, f"'{new}'" if "://" in new else new)
    # Those that the first one takes when nothing is said.
    defaults = {"CHATD_WEBSOCKET_PORT": str(first.websocket_port), "CHATD_HTTP_PORT": str(first.http_port)}
    path = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
    environment = {"PATH": path, "CHATD_BUS_PREFIX": database, **QUICK, **NO_LIMITS, **defaults}
    shell = await trio.lowlevel.open_process(
        ["bash", "-euo", "pipefail", "-c", f"{script}\nfor daemon in $(jobs -p); do wait $daemon; done"],
        env=environment, cwd=folder, start_new_session=True,
    )  # fmt: skip
    try:
        for node in (first, second):
            await wait_alive(node, shell)
        yield first, second
    finally:
        with trio.move_on_after(15, shield=True):
            await trio.run_process(["pkill", "--parent", str(shell.pid)], check=False)
            await shell.wait()
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0


async def wait_alive(node: Daemon, shell: trio.Process) -> None:
    with trio.fail_after(60):
        while True:
            assert shell.poll() is None
            with suppress(OSError):
                if (await node.http("GET", "/healthz")).status == 200:
                    return
            await trio.sleep(0.05)


async def test_two_nodes_of_the_readme_are_one_chat(tmp_path: Path) -> None:
    database = shared_postgres().new_database()
    async with start_as_written(tmp_path, database) as (first, second):
        ada, bob = await first.register("ada"), await second.register("bob")
        lobby = await second.lobby(ada)
        async with first.connect(ada) as of_ada, second.connect(bob) as of_bob:
            for client in (of_ada, of_bob):
                assert (await client.ask(type="join_room", roomId=lobby))["type"] == "room_history"
            await of_ada.ask(type="send_message", roomId=lobby, content="Hello, Bob!")
            assert (await of_bob.wait_for("new_message"))["message"]["content"] == "Hello, Bob!"
    epoch = "SELECT value FROM server_facts WHERE name = 'epoch'"
    before = shared_postgres().sql(epoch, database)
    shared_postgres().sql(NEW_EPOCH, database)
    after = shared_postgres().sql(epoch, database)
    assert re.fullmatch(r"[0-9a-f-]{36}\n", after)
    assert after != before


def test_options_of_the_page_are_options() -> None:
    names = {f"{option.table}.{option.name}" for option in known_options()}
    tables = {name.split(".")[0] for name in names}
    said = {name for name in re.findall(r"`([a-z]+\.[a-z_0-9]+)", PAGE) if name.split(".")[0] in tables}
    assert len(said) > 10
    assert said <= names


@pytest.mark.parametrize(
    ("said", "configured"),
    [
        (r"left alone for (\d+) s after two failures", r"max_fails=2 fail_timeout=(\d+)s"),
        (r"silent for (\d+) s in both directions", r"proxy_read_timeout (\d+)s;\n\s+proxy_send_timeout \1s;"),
        (r"a GET takes (\d+) s", r"location /api/ {[^}]*proxy_read_timeout (\d+)s;"),
        (r"Uploads may have (\d+) MiB", r"client_max_body_size (\d+)m;"),
        (r"leaves WebSockets alone for (an hour)", r"worker_shutdown_timeout (1h);"),
        (r"holds ([\d ]+) connections a worker", r"worker_connections (\d+);"),
    ],
)
def test_page_says_what_nginx_is_told(said: str, configured: str) -> None:
    on_page, in_file = re.search(said, PAGE), re.search(configured, CONFIGURATION.read_text(encoding="utf-8"))
    assert on_page
    assert in_file
    assert on_page[1].replace(" ", "").replace("anhour", "1h") == in_file[1]
