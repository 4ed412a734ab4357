"""Secrets that are planted before a run through every door show in no log, number, error, trail or dump afterwards."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
from typing import TYPE_CHECKING

import trio

from tests.daemon import start_process

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon import Answer, Process


def secret(name: str) -> str:
    return f"{name}-{base64.b32encode(os.urandom(10)).decode()}"


async def ask_everything(daemon: Process, planted: dict[str, str]) -> list[Answer]:
    """A run with secrets wherever a client can put one; what was answered where nothing secret belongs."""
    answers = []

    async def http(method: str, path: str, body: object = None, *, token: str | None = None) -> Answer:
        answer = await daemon.http(method, path, body, token=token)
        answers.append(answer)
        return answer

    account = {"email": "ada@example.org", "username": "ada", "password": planted["password"]}
    granted = (await daemon.http("POST", "/api/auth/register", account)).json()
    token, refresh = granted["token"], granted["refreshToken"]
    planted |= {"access token": token, "refresh token": refresh}
    await http("POST", "/api/auth/register", {**account, "password": planted["second password"]})
    await http("POST", "/api/auth/register", {**account, "email": planted["no email"], "username": "!"})
    await http("POST", "/api/auth/login", {"email": "ada@example.org", "password": planted["wrong password"]})
    await http("POST", "/api/auth/login", {"email": f"{planted['unknown email']}@example.org", "password": "x"})
    await http("POST", "/api/auth/login", {"email": 1, "password": planted["misplaced password"]})
    await http("POST", "/api/auth/login", f'{{"password": "{planted["broken json"]}'.encode())
    await http("POST", "/api/auth/refresh", {"refreshToken": planted["made-up refresh token"]})
    await http("GET", "/api/rooms", token=planted["made-up token"])
    await http("GET", f"/api/files/x?signature={planted['signature']}&expires=9999999999")
    await http("GET", "/metrics", token=planted["made-up metrics token"])
    changes = {"password": planted["new password"], "oldPassword": planted["old password"]}
    await http("PATCH", "/api/users/me", changes, token=token)
    room = (await daemon.http("POST", "/api/rooms", {"name": "club"}, token=token)).json()["id"]
    path = f"/api/rooms/{room}/messages"
    content = {"content": planted["content"], "metadata": {"x": planted["metadata"]}}
    assert (await daemon.http("POST", path, content, token=token)).status == 201
    await http("POST", path, {"content": planted["refused content"], "replyTo": "nothing"}, token=token)
    await daemon.http("GET", f"/api/search?q={planted['search']}", token=token)
    upload = (
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="{planted["file name"]}.exe"\r\n\r\n'
        f"MZ\x00{planted['file content']}\r\n--b--\r\n"
    ).encode()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answers.append(await daemon.http("POST", "/api/upload", upload, token=token, headers=headers))
    async with daemon.connect() as client:
        await client.send(type="authenticate", token=token)
        await client.wait_for("authenticated")
        await client.ask(type="send_message", roomId=room, content=planted["live content"])
        reply = await client.ask(type="send_message", roomId="nowhere", content=planted["lost content"])
        assert planted["lost content"] not in json.dumps(reply)
        await client.send_text(f'{{"type":"send_message","content":"{planted["broken frame"]}')
        await client.send(type=planted["made-up type"])
        await client.send(type="authenticate", token=planted["made-up live token"])
        await client.wait_closed()
    spent = await daemon.http("POST", "/api/auth/refresh", {"refreshToken": refresh})
    planted |= {"next token": spent.json()["token"], "next refresh token": spent.json()["refreshToken"]}
    await http("POST", "/api/auth/refresh", {"refreshToken": refresh})
    await http("GET", "/readyz")
    await http("GET", "/metrics")
    return answers


async def test_none_of_the_planted_secrets_shows_anywhere(tmp_path: Path) -> None:
    names = (
        "password", "second password", "wrong password", "misplaced password", "new password", "old password",
        "no email", "unknown email", "broken json", "made-up refresh token", "made-up token", "made-up live token",
        "made-up metrics token", "signature", "content", "metadata", "refused content", "live content",
        "lost content", "broken frame", "file name", "file content", "search", "signing secret", "metrics token",
        "made-up type",
    )  # fmt: skip
    planted = {name: secret(name.replace(" ", "-").replace("-", "")) for name in names}
    planted["signing secret"] += "x" * 32
    options = {
        "AUTH_SECRET": planted["signing secret"], "HTTP_METRICS_TOKEN": planted["metrics token"],
        "TELEMETRY_LOG_LEVEL": "debug",
    }  # fmt: skip
    async with start_process(tmp_path, limits=False, **options) as daemon:
        answers = await ask_everything(daemon, planted)
        daemon.process.send_signal(signal.SIGUSR1)
        await daemon.wait_for_log("dump_ended")
        daemon.process.terminate()
        with trio.fail_after(30):
            await daemon.process.wait()
    told = {
        "the log": daemon.raw_log.decode(),
        "the trail": json.dumps(daemon.rows("SELECT * FROM audit_events")),
        **{f"answer {index}": answer.body.decode() for index, answer in enumerate(answers)},
    }
    assert "sign_in_failed" in told["the trail"]
    shown = [(name, where) for where, text in told.items() for name, text_of in planted.items() if text_of in text]
    # What a client itself wrote into the name of a type may come back to it in the error, and to nobody else.
    assert shown == []


async def test_crash_shows_where_it_was_and_no_secret_and_leaves_no_dump(tmp_path: Path) -> None:
    planted = {name: secret(name) for name in ("password", "content", "signing")}
    planted["signing"] += "x" * 32
    async with start_process(tmp_path, limits=False, AUTH_SECRET=planted["signing"]) as daemon:
        ada = await daemon.register("ada", planted["password"])
        planted |= {"token": ada.token, "refresh token": ada.refresh_token}
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            await client.ask(type="send_message", roomId=room, content=planted["content"])
            limits = await trio.Path(f"/proc/{daemon.process.pid}/limits").read_text(encoding="utf-8")
            assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
            # As systemd's watchdog does.
            daemon.process.send_signal(signal.SIGABRT)
            with trio.fail_after(30):
                assert await daemon.process.wait() == -signal.SIGABRT
            with trio.fail_after(30):
                while b"Current thread" not in daemon.raw_log:  # noqa: ASYNC110 - a log wakes nobody
                    await trio.sleep(0.01)
    told = daemon.raw_log.decode()
    assert "Fatal Python error: Aborted" in told
    assert [name for name, text in planted.items() if text in told] == []
