"""What boot.py has done inside of the machine that it boots: drives systemctl, clients and time, and writes facts.

Run there by probe.service as `python -m tests.boot_probe RESULTS`; each step is tried by itself, so that one that fails
hides none behind it. The facts are judged outside.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.request import Request, urlopen

import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from chatd.client import ClientError, open_client, place_of
from tests.pictures import jpeg
from tests.shell import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable

HTTP: Final = "http://127.0.0.1:3000"
WS: Final = "ws://127.0.0.1:3001/"
CONFIG: Final = Path("/etc/chatd/chatd.toml")
OPTIONS: Final = """
[auth]
bcrypt_cost = 4
[limits]
messages_per_minute = 0
requests_per_minute = 0
connections_per_address = 0
connections_per_user = 0
new_connections_per_second = 0
sign_ins_per_hour = 0
api_per_minute = 0
[http]
connections_per_address = 0
"""
#: A daemon that SIGUSR2 blocks: its loop does not turn again.
BLOCKABLE: Final = """[Service]
WatchdogSec=3
ExecStart=
ExecStart=/opt/chatd/bin/python -c "import signal, time; \\
signal.signal(signal.SIGUSR2, lambda *_: time.sleep(3600)); \\
from chatd.__main__ import main; main(['serve', '--config', '/etc/chatd/chatd.toml'])"
"""
USERS: Final = 50
DEVICES: Final = 10
MESSAGES_PER_S: Final = 200


def run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.returncode} {done.stdout}{done.stderr}")
    return done.stdout


def show(unit: str = "chatd.service") -> dict[str, str]:
    names = "ActiveState,SubState,MainPID,NRestarts,Result,StatusText,ExecMainStatus,User,WatchdogUSec"
    lines = run("systemctl", "show", unit, f"--property={names}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def wait_until(holds: Callable[[], bool], *, within_s: float = 30) -> float:
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > within_s:
            raise AssertionError(f"not within {within_s} s: {show()}")
        time.sleep(0.05)
    return time.monotonic() - began


def wait_active(*, after: str) -> float:
    """Wait for a main process that is not `after`."""
    return wait_until(lambda: show()["ActiveState"] == "active" and show()["MainPID"] not in ("0", after))


def call(method: str, path: str, body: bytes | None = None, *, token: str = "", kind: str = "application/json") -> Any:
    headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
    with urlopen(Request(HTTP + path, body, headers, method=method), timeout=30) as answer:  # noqa: S310 - HTTP above
        return json.loads(answer.read())


def register(name: str) -> str:
    body = {"email": f"{name}@example.org", "username": name, "password": "correct horse"}
    return str(call("POST", "/api/auth/register", json.dumps(body).encode())["token"])


def start() -> dict[str, Any]:
    CONFIG.write_text(OPTIONS)
    began = time.monotonic()
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", "chatd.socket", "chatd-http.socket", "chatd.service")
    took_s = time.monotonic() - began
    pid = show()["MainPID"]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return {
        **show(),
        "seconds": took_s,
        "readyz": call("GET", "/readyz")["status"],
        "uid": int(status["Uid"].split()[0]),
        "capabilities": status["CapEff"],
        "data": sorted(path.name for path in Path("/var/lib/chatd/").iterdir()),
        "is_private": Path("/var/lib/chatd").is_symlink(),
        "exposure": run("systemd-analyze", "security", "--no-pager", "--threshold=20", "chatd.service").splitlines()[
            -1
        ],
    }


def status() -> dict[str, Any]:
    wait_until(lambda: "deliveries a second" in show()["StatusText"])
    return show()


def upload() -> dict[str, Any]:
    token = register("painter")
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = part + jpeg(64, 48) + b"\r\n--x--\r\n"
    return dict(call("POST", "/api/upload", body, token=token, kind="multipart/form-data; boundary=x"))


def command_line() -> dict[str, Any]:
    added = run("/usr/local/bin/chatd", "user", "add", "ada", "--email", "ada@example.net", stdin="correct horse\n")
    backup = run("/usr/local/bin/chatd", "backup", "/var/lib/chatd/monday.db")
    checked = run("/usr/local/bin/chatd", "check")
    wal = Path("/var/lib/chatd/chatd.db-wal").stat().st_uid == Path("/var/lib/chatd/chatd.db").stat().st_uid
    return {
        "added": added,
        "listed": run("/usr/local/bin/chatd", "user", "list"),
        "backup": backup,
        "wal_is_own": wal,
        "checked": checked,
    }


def block_of(page: str, word: str) -> str:
    """The commands of a page that speak of it."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", (CHECKOUT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return next(str(block) for block in blocks if word in block)


def restore() -> dict[str, Any]:
    """As docs/backup.md says, to what `command_line` has copied."""
    register("latecomer")
    run("bash", "-euc", block_of("docs/backup.md", "chatd restore"))
    return {**show(), "listed": run("/usr/local/bin/chatd", "user", "list")}


def rollback() -> dict[str, Any]:
    """As docs/deployment.md says, to a program before this one that is the same: it migrates up again."""
    shutil.copytree("/opt/chatd", "/opt/chatd.old", symlinks=True)
    versions = re.findall(r"^(\d+) ", run("/usr/local/bin/chatd", "migrate", "status"), re.MULTILINE)
    run("bash", "-euc", block_of("docs/deployment.md", "migrate down").replace(" N ", f" {int(versions[-2])} "))
    status = run("/usr/local/bin/chatd", "migrate", "status")
    return {**show(), "versions": versions, "status": status, "listed": run("/usr/local/bin/chatd", "user", "list")}


async def _disable() -> dict[str, Any]:
    token = await trio.to_thread.run_sync(register, "zoe")
    async with open_websocket_url(WS) as connection:
        await connection.send_message(json.dumps({"type": "authenticate", "token": token}))
        await connection.get_message()
        said = await trio.to_thread.run_sync(lambda: run("/usr/local/bin/chatd", "user", "disable", "zoe"))
        with trio.fail_after(30):
            while True:
                try:
                    await connection.get_message()
                except ConnectionClosed as closed:
                    return {"said": said, "code": closed.reason and closed.reason.code}


def disable() -> dict[str, Any]:
    return trio.run(_disable)


def reload() -> dict[str, Any]:
    pid = show()["MainPID"]
    CONFIG.write_text(OPTIONS + "[server.features]\nreactions = false\n")
    run("systemctl", "reload", "chatd")
    wait_until(lambda: "reloaded" in run("journalctl", "--unit=chatd", "--output=cat", "--no-pager"))
    return {**show(), "same": show()["MainPID"] == pid}


def kill() -> dict[str, Any]:
    before = show()
    os.kill(int(before["MainPID"]), signal.SIGKILL)
    # Nobody listens but systemd: it waits in the kernel, and is answered by the next process.
    health = call("GET", "/healthz")
    took_s = wait_active(after=before["MainPID"])
    return {**show(), "before": before, "seconds": took_s, "health": health}


def watchdog() -> dict[str, Any]:
    folder = Path("/etc/systemd/system/chatd.service.d")
    folder.mkdir()
    (folder / "blockable.conf").write_text(BLOCKABLE)
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "chatd")
    before = show()
    time.sleep(4)
    survived = show()["MainPID"] == before["MainPID"]
    os.kill(int(before["MainPID"]), signal.SIGUSR2)
    took_s = wait_active(after=before["MainPID"])
    log = run("journalctl", "--unit=chatd", "--output=cat", "--no-pager")
    (folder / "blockable.conf").unlink()
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "chatd")
    return {
        **show(), "before": before, "survived": survived, "seconds": took_s, "is_said": "Watchdog timeout" in log,
        "shows_where": "Fatal Python error: Aborted" in log,
    }  # fmt: skip


def stop() -> dict[str, Any]:
    run("systemctl", "stop", "chatd")
    stopped = show()
    # The port is open still: who connects starts it.
    health = call("GET", "/healthz")
    wait_active(after="0")
    return {"stopped": stopped, "health": health, **show()}


class Knocker:
    """Connects to both ports again and again, and has the HTTP side answer."""

    def __init__(self) -> None:
        self.tried = self.answered = 0
        self.refused: list[str] = []
        self.slowest_s = 0.0

    async def knock(self, port: int) -> None:
        while True:
            self.tried += 1
            began = trio.current_time()
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError as error:
                self.refused.append(f"{port}: {error}")
            else:
                async with stream:
                    if port == 3000:
                        await self._ask(stream)
            self.slowest_s = max(self.slowest_s, trio.current_time() - began)
            await trio.sleep(0.02)

    async def _ask(self, stream: trio.SocketStream) -> None:
        try:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            if (await stream.receive_some()).startswith(b"HTTP/1.1 200"):
                self.answered += 1
        except trio.BrokenResourceError:
            self.refused.append("3000: reset")


class Load:
    """Many clients that talk, each in its room, and what each heard."""

    def __init__(self) -> None:
        self.heard: dict[int, list[int]] = defaultdict(list)
        self.delivered_at: list[float] = []
        self.acknowledged: dict[str, set[int]] = defaultdict(set)
        self.is_over = False
        self.failed: list[str] = []

    async def live(self, index: int, token: str, room: str, *, ready: trio.Event) -> None:
        async with open_client(WS, token=token) as client, trio.open_nursery() as nursery:
            with client.room(room) as events:
                await client.join(room)
                ready.set()
                nursery.start_soon(self._talk, client, room)
                async for event in events:
                    self.heard[index].append(place_of(event)[1])
                    self.delivered_at.append(trio.current_time())

    async def _talk(self, client: Any, room: str) -> None:
        await trio.sleep(USERS * DEVICES / MESSAGES_PER_S * (hash(id(client)) % 1000 / 1000))
        while not self.is_over:
            try:
                ack = await client.send(room, "x")
            except ClientError as error:
                self.failed.append(str(error))
            else:
                self.acknowledged[room].add(ack.seq)
            await trio.sleep(USERS * DEVICES / MESSAGES_PER_S)


async def _restart_under_load() -> dict[str, Any]:
    load, knocker = Load(), Knocker()
    tokens = [await trio.to_thread.run_sync(register, f"user{number}") for number in range(USERS)]
    rooms = [
        str(call("POST", "/api/rooms", json.dumps({"name": f"room{number}"}).encode(), token=token)["id"])
        for number, token in enumerate(tokens)
    ]
    async with trio.open_nursery() as nursery, AsyncExitStack():
        readies = []
        for index in range(USERS * DEVICES):
            ready = trio.Event()
            readies.append(ready)
            user = index % USERS
            nursery.start_soon(lambda i, u, r: load.live(i, tokens[u], rooms[u], ready=r), index, user, ready)
        for ready in readies:
            await ready.wait()
        for port in (3000, 3001):
            nursery.start_soon(knocker.knock, port)
        await trio.sleep(4)
        began = trio.current_time()
        await trio.to_thread.run_sync(lambda: run("systemctl", "restart", "chatd"))
        restarted_s = trio.current_time() - began
        await trio.sleep(6)
        load.is_over = True
        settled = await _settle(load, rooms)
        nursery.cancel_scope.cancel()
    times = sorted(load.delivered_at)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    missing = {
        index: sorted(load.acknowledged[rooms[index % USERS]] - set(heard)) for index, heard in load.heard.items()
    }
    return {
        "clients": len(load.heard),
        "acknowledged": sum(map(len, load.acknowledged.values())),
        "deliveries": len(times),
        "failed": load.failed[:5],
        "settled_s": settled,
        "restart_s": restarted_s,
        "gap_s": max(gaps),
        "missing": {index: seqs[:5] for index, seqs in missing.items() if seqs},
        "unordered": [index for index, heard in load.heard.items() if heard != sorted(set(heard))],
        "knocks": knocker.tried,
        "answered": knocker.answered,
        "refused": knocker.refused[:10],
        "slowest_knock_s": knocker.slowest_s,
        "timeline": [round(at - began, 3) for at in times if -2 < at - began < 8],
    }


async def _settle(load: Load, rooms: list[str]) -> float:
    """Wait until each has heard all that was acknowledged in its room; the seconds that it took, or -1."""
    began = trio.current_time()
    while trio.current_time() - began < 25:
        await trio.sleep(0.2)
        waiting = (
            max(load.acknowledged[rooms[index % USERS]], default=0) > (heard[-1] if heard else 0)
            for index, heard in load.heard.items()
        )
        if not any(waiting):
            return trio.current_time() - began
    return -1.0


def restart_under_load() -> dict[str, Any]:
    return trio.run(_restart_under_load)


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def instances() -> dict[str, Any]:
    """As docs/deployment.md says, on a PostgreSQL cluster and a Redis of Debian's."""
    run("systemctl", "disable", "--now", "chatd.service", "chatd.socket", "chatd-http.socket")
    version = max(Path("/usr/lib/postgresql").iterdir()).name
    run("pg_createcluster", version, "probe", "--port=5432", "--locale=C.UTF-8", "--encoding=UTF8")
    run("pg_ctlcluster", version, "probe", "start")
    run("systemctl", "start", "redis-server")
    run("runuser", "-u", "postgres", "--", "createuser", "chatd")
    run("runuser", "-u", "postgres", "--", "createdb", "--owner", "chatd", "chatd")
    back_ends = '[database]\nurl = "postgresql://chatd@/chatd?host=/run/postgresql"\nmigrate = true\n'
    CONFIG.write_text(f'{OPTIONS}{back_ends}[bus]\nurl = "redis://127.0.0.1:6379/0"\n')
    run("systemctl", "enable", "--now", "chatd@2.service", "chatd@3.service")
    found: dict[str, Any] = {"ready": [answers(3002), answers(3003)]}
    found["users"] = [show(f"chatd@{number}.service")["User"] for number in (2, 3)]
    counts = []
    sockets = [socket.create_connection(("127.0.0.1", 3001)) for _ in range(20)]
    for _ in range(3):
        run("systemctl", "restart", "chatd@2")
        counts.append(answers(3003))
    for sock in sockets:
        sock.close()
    found["others_go_on"] = counts
    return found


STEPS: Final = (
    start, status, upload, command_line, disable, restore, rollback, reload, restart_under_load, kill, watchdog, stop,
    instances,
)  # fmt: skip


def main() -> None:
    run("ip", "link", "set", "lo", "up")
    results: dict[str, Any] = {}
    for step in STEPS:
        try:
            results[step.__name__] = step()
        except Exception:  # noqa: BLE001 - whatever it is, the test outside tells
            results[step.__name__] = {"failed": traceback.format_exc()}
    results["journal"] = subprocess.run(
        ["journalctl", "--unit=chatd", "--no-pager", "--output=short-monotonic"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout[-20_000:]
    Path(sys.argv[1]).write_text(json.dumps(results))
    socket.socket().close()


if __name__ == "__main__":
    main()
