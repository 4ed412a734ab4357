"""SIGHUP on a daemon that serves: what can change live does, what cannot is named, a faulty file changes nothing."""

from __future__ import annotations

import os
import re
import signal
from contextlib import asynccontextmanager
from functools import partial
from io import StringIO
from typing import TYPE_CHECKING

import pytest
import trio

from chatd import telemetry
from chatd.config import ConfigError
from chatd.configfile import LIVE, differing_options, known_options, load_config, with_live_options
from chatd.errors import CloseCode
from chatd.server import serve
from tests.daemon import Daemon, Program, environment, start_program
from tests.logs import own_logging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Reloadable:
    """A daemon in this process whose chatd.toml the test writes; `reload` returns once the log says so."""

    def __init__(self, daemon: Daemon, path: Path, log: StringIO) -> None:
        self.daemon = daemon
        self._path = path
        self._log = log

    async def reload(self, text: str) -> str:
        """What the log said."""
        self._path.write_text(text, encoding="utf-8")
        self._log.truncate(0)
        os.kill(os.getpid(), signal.SIGHUP)
        with trio.fail_after(30):
            while not re.search('"reloaded"|"reload_refused"', self._log.getvalue()):  # noqa: ASYNC110 - a log wakes nobody
                await trio.sleep(0.005)
        return self._log.getvalue()


@asynccontextmanager
async def open_reloadable(folder: Path, text: str = "") -> AsyncIterator[Reloadable]:
    path, log = folder / "chatd.toml", StringIO()
    path.write_text(text, encoding="utf-8")
    # No limits in the environment, which would win over the file.
    variables = environment(folder / "data", limits=True)
    stop, is_listening, ports = trio.Event(), trio.Event(), [0, 0]

    def on_listening(websocket_port: int, http_port: int) -> None:
        ports[:] = websocket_port, http_port
        is_listening.set()

    config = load_config(path, variables)
    with own_logging():
        telemetry.configure_logging("info", "json", log)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(serve, config, on_listening, stop=stop, reread=lambda: load_config(path, variables))
            )
            with trio.fail_after(30):
                await is_listening.wait()
            try:
                yield Reloadable(Daemon(ports[0], ports[1], folder / "data", stop=stop), path, log)
            finally:
                stop.set()


async def test_changed_limits_hold_for_those_who_are_connected(tmp_path: Path) -> None:
    async with open_reloadable(tmp_path) as live:
        daemon = live.daemon
        ada = await daemon.register("ada")
        async with daemon.connect(ada) as client:
            lobby = await daemon.lobby(ada)
            await client.ask(type="join_room", roomId=lobby)
            assert (await client.ask(type="send_message", roomId=lobby, content="four"))["type"] == "message_ack"
            await live.reload("[limits]\ncontent_characters = 3\n")
            assert (await client.ask(type="send_message", roomId=lobby, content="four"))["code"] == "content_too_long"
            await live.reload("[limits]\nrequests_per_minute = 1\n")
            await client.ask(type="get_history", roomId=lobby)
            refused = await client.ask(type="get_history", roomId=lobby)
            assert (refused["code"], "1 requests" in refused["message"]) == ("rate_limited", True)


async def test_changed_penalty_holds_for_those_who_are_connected(tmp_path: Path) -> None:
    text = "[limits]\nrefusals_per_minute = 1000\n"
    async with open_reloadable(tmp_path, text) as live, live.daemon.connect() as client:
        for limit in (0, 3):
            for _ in range(20):
                await client.send_text("no JSON")
                assert (await client.receive())["code"] == "bad_message"
            await live.reload(f"[limits]\nrefusals_per_minute = {limit}\n")
        await client.send_text("no JSON")
        assert (await client.wait_closed())[0] == CloseCode.BAD_MESSAGES


async def test_changed_limits_hold_at_the_door_and_in_the_journal(tmp_path: Path) -> None:
    async with open_reloadable(tmp_path) as live:
        daemon = live.daemon
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room = await daemon.create_room(ada)
        await live.reload("[limits]\nmembers_per_room = 1\nconnections = 1\n")
        async with daemon.connect(bob) as client:
            assert (await client.ask(type="join_room", roomId=room))["code"] == "limit_reached"
            with pytest.raises(BaseExceptionGroup):
                async with daemon.connect(ada):
                    pass
        await live.reload("")
        async with daemon.connect(bob) as client:
            assert (await client.ask(type="join_room", roomId=room))["type"] == "room_history"


async def test_changed_origins_hold_for_the_next_request_at_both_doors(tmp_path: Path) -> None:
    page = "https://pages.example"
    async with open_reloadable(tmp_path) as live:
        daemon = live.daemon
        ada = await daemon.register("ada")
        answer = await daemon.http("GET", "/healthz", headers={"Origin": page})
        assert "access-control-allow-origin" not in answer.headers
        with pytest.raises(BaseExceptionGroup):
            async with daemon.connect(ada, headers={"Origin": page}):
                pass
        await live.reload(f'[websocket]\norigins = ["{page}"]\n[http]\ncors_origins = ["{page}"]\n')
        answer = await daemon.http("GET", "/healthz", headers={"Origin": page})
        assert answer.headers["access-control-allow-origin"] == page
        preflight = {"Origin": page, "Access-Control-Request-Method": "POST"}
        assert (await daemon.http("OPTIONS", "/api/rooms", headers=preflight)).status == 204
        async with daemon.connect(ada, headers={"Origin": page}) as client:
            assert (await client.ask(type="ping"))["type"] == "pong"


async def test_faulty_file_changes_nothing(tmp_path: Path) -> None:
    off = "[server.features]\nroom_creation = false\n"
    async with open_reloadable(tmp_path, off) as live:
        ada = await live.daemon.register("ada")
        for faulty in ("[server.features]\nroom_creatoin = true\n", "[limits]\napi_per_minute = -1\n", "not toml"):
            await live.reload(faulty)
            refused = await live.daemon.http("POST", "/api/rooms", {"name": "x"}, token=ada.token)
            assert refused.json()["code"] == "feature_disabled"
        await live.reload("")
        assert (await live.daemon.http("POST", "/api/rooms", {"name": "x"}, token=ada.token)).status == 201


async def test_search_that_was_off_finds_what_was_said_before_once_it_is_on(tmp_path: Path) -> None:
    async with open_reloadable(tmp_path, "[server.features]\nsearch = false\n") as live:
        daemon = live.daemon
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        path = f"/api/rooms/{room}/messages"
        assert (await daemon.http("POST", path, {"content": "giraffe"}, token=ada.token)).status == 201
        refused = await daemon.http("GET", "/api/search?q=giraffe", token=ada.token)
        assert refused.json()["code"] == "feature_disabled"
        assert "restart_to_change" not in await live.reload("")
        with trio.fail_after(30):
            while not (await daemon.http("GET", "/api/search?q=giraffe", token=ada.token)).json()["results"]:  # noqa: ASYNC110 - the index tells nobody
                await trio.sleep(0.1)


async def test_how_long_somebody_counts_as_typing_changes_live(tmp_path: Path) -> None:
    async with open_reloadable(tmp_path, "[typing]\nexpires_s = 3600\n") as live:
        daemon = live.daemon
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as hers, daemon.connect(bob) as his:
            said = await live.reload("[typing]\nexpires_s = 0.2\n")
            assert '"typing.expires_s"' in said
            await hers.send(type="typing_start", roomId=room)
            await his.wait_for("user_typing", within_s=10)
            await his.wait_for("user_stopped_typing", within_s=20)


async def test_log_says_what_changed_what_waits_and_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "chatd.toml"
    path.write_text("", encoding="utf-8")
    async with start_program(Program(config=path), tmp_path / "data", limits=True) as daemon:
        path.write_text(
            '[limits]\nconnections = 7\n[http]\nhead_timeout_s = 9\n[telemetry]\nlog_level = "debug"\n', "utf-8"
        )
        daemon.process.send_signal(signal.SIGHUP)
        assert (await daemon.wait_for_log("reloaded"))["changed"] == ["limits.connections", "telemetry.log_level"]
        assert (await daemon.wait_for_log("restart_to_change"))["options"] == ["http.head_timeout_s"]
        ada = await daemon.register("ada")
        async with daemon.connect(ada):
            await daemon.wait_for_log("connected")
        path.write_text("[limits]\nconections = 7\n", encoding="utf-8")
        daemon.process.send_signal(signal.SIGHUP)
        assert "did you mean connections" in (await daemon.wait_for_log("reload_refused"))["detail"]
        daemon.process.terminate()
        with trio.fail_after(30):
            assert await daemon.process.wait() == 0


def test_only_what_may_change_live_changes() -> None:
    every = {f"{option.table}.{option.name}" for option in known_options()}
    tables = {option.table for option in known_options()}
    assert all(name in every or name in tables for name in LIVE)
    variables = {
        "CHATD_LIMITS_CONNECTIONS": "7", "CHATD_SERVER_FEATURES_PINS": "false", "CHATD_DATABASE_POOL_MAX": "20",
        "CHATD_AUTH_SECRET": "s" * 32, "CHATD_WEBSOCKET_ORIGINS": "https://a.example",
    }  # fmt: skip
    running, read = load_config(None, {}), load_config(None, variables)
    config = with_live_options(running, read)
    changed = ["server.features.pins", "websocket.origins", "limits.connections"]
    assert sorted(differing_options(running, config)) == sorted(changed)
    assert sorted(differing_options(config, read)) == ["auth.secret", "database.pool_max"]
    assert with_live_options(read, running) != running
    with pytest.raises(ConfigError):
        load_config(None, {"CHATD_SERVER_FEATURES_PINZ": "false"})
