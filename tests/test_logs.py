"""What the daemon writes about itself: whose line it is, and never what people said or sign in with."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from tests.daemon import environment, start_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import Process

PASSWORD, WRONG, CONTENT, METADATA = "correct horse", "wrong donkey", "under the oak", "beside the well"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Process]:
    async with start_process(tmp_path, TELEMETRY_LOG_LEVEL="debug", TELEMETRY_SLOW_MS="1") as daemon:
        yield daemon


async def stop(daemon: Process) -> None:
    """Stop the daemon and have its whole log."""
    daemon.process.send_signal(signal.SIGTERM)
    with trio.fail_after(30):
        await daemon.process.wait()
    await daemon.wait_for_log("drained")


async def test_no_content_token_or_password_is_in_the_log(daemon: Process) -> None:
    ada = await daemon.register("ada", PASSWORD)
    room_id = await daemon.create_room(ada, CONTENT, topic=CONTENT)
    login = {"email": "ada@example.org", "password": WRONG}
    assert (await daemon.http("POST", "/api/auth/login", login)).status == 401
    newer = (await daemon.http("POST", "/api/auth/refresh", {"refreshToken": ada.refresh_token})).json()
    await daemon.http("POST", f"/api/rooms/{room_id}/messages", {"content": CONTENT}, token=ada.token)
    await daemon.http("POST", f"/api/rooms/{room_id}/messages", {CONTENT: CONTENT}, token=ada.token)
    await daemon.http("POST", f"/api/rooms/{room_id}/messages", f'{{"content":"{CONTENT}'.encode(), token=ada.token)
    await daemon.http("GET", f"/api/users/me?token={ada.token}")
    async with daemon.connect(ada) as client, daemon.connect(headers={"Authorization": f"Bearer {ada.token}"}) as other:
        await other.wait_for("authenticated")
        await client.ask(type="send_message", roomId=room_id, content=CONTENT, metadata={"where": METADATA})
        await client.ask(type="send_message", roomId=room_id, content=CONTENT + "\x00", clientMessageId=CONTENT)
        await client.ask(type="send_message", roomId=room_id, content=CONTENT, secret=CONTENT)
        await client.send_text(f'{{"type":"send_message","content":"{CONTENT}')
        await client.ask(type=CONTENT)
        # a token used twice is a warning, and a forged one is refused
        await daemon.http("POST", "/api/auth/refresh", {"refreshToken": ada.refresh_token})
        await client.wait_closed()
    async with daemon.connect() as forger:
        await forger.send(type="authenticate", token=ada.token + WRONG)
        await forger.wait_closed()
    await stop(daemon)
    log = daemon.raw_log.decode()
    assert "refresh_token_reused" in log
    assert "authentication_refused" in log
    secrets = (PASSWORD, WRONG, CONTENT, METADATA, ada.token, newer["token"], ada.refresh_token, newer["refreshToken"])
    for secret in (*secrets, ada.token.rsplit(".", 1)[1], (daemon.data_dir / "secret").read_text().strip()):
        assert secret not in log


async def test_every_line_is_an_object_that_says_when_and_what(daemon: Process) -> None:
    ada = await daemon.register("ada")
    async with daemon.connect(ada):
        pass
    await stop(daemon)
    lines = [json.loads(line) for line in daemon.raw_log.splitlines()]
    assert lines == daemon.log
    for line in lines:
        assert line.keys() >= {"time", "level", "event", "logger"}
        assert line["time"].endswith("Z")


async def test_every_line_of_a_connection_has_its_id(daemon: Process) -> None:
    ada = await daemon.register("ada")
    async with daemon.connect(ada) as client:
        connection_id = client.inbox[0]["connectionId"]
    async with daemon.connect() as stranger:
        await stranger.send(type="authenticate", token="made up")
        await stranger.wait_closed()
    await stop(daemon)
    # What is slow is said in whosever task it was.
    told = [line for line in daemon.log if line["event"] != "slow_operation"]
    own = [line for line in told if line.get("connection") == connection_id]
    assert [line["event"] for line in own] == ["connected", "authenticated", "disconnected"]
    assert own[1]["user"] == own[2]["user"] == ada.id
    of_processes = {"few_open_files", "listening", "migrated", "stopping", "drained"}
    for line in told:
        assert ("connection" in line) is (line["event"] not in of_processes), line
    [strange] = {
        line["connection"]
        for line in daemon.log
        if line["event"] == "connected" and line["connection"] != connection_id
    }
    events = [line["event"] for line in told if line.get("connection") == strange]
    assert events == ["connected", "authentication_refused", "disconnected"]


async def test_person_at_a_terminal_reads_plain_lines_and_how_to_try_it(tmp_path: Path) -> None:
    terminal, its_end = os.openpty()
    variables = os.environ | environment(tmp_path)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "chatd", "serve"], env=variables, stdout=its_end, stderr=its_end
    )
    os.close(its_end)
    printed = b""
    try:
        with trio.fail_after(30):
            while b"Ctrl-C" not in printed:
                await trio.lowlevel.wait_readable(terminal)
                printed += os.read(terminal, 65_536)
        assert b'{"time"' not in printed
        assert b"listening" in printed
        assert b"curl -s http://127.0.0.1:" in printed
        assert b"wscat -c ws://127.0.0.1:" in printed
        assert str(tmp_path).encode() in printed
    finally:
        process.kill()
        await process.wait()
        os.close(terminal)
