"""What boot_docs.py has done inside of its machine at the end: many clients talk through nginx, with both nodes.

Run there as `python -m tests.boot_docs_probe`; the last line that it prints is what it found.
"""

from __future__ import annotations

import json
import ssl
import subprocess
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import trio
from trio_websocket import open_websocket

CERTIFICATE: Final = "/etc/ssl/chatd/fullchain.pem"
NAME: Final = "chat.example.org"
CLIENTS: Final = 20


def token() -> str:
    done = subprocess.run(["/usr/local/bin/chatd", "token", "ada"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def connections_of(port: int) -> float:
    """How many clients a node says that it has."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("chat_active_connections ")))


def post(bearer: str, path: str, body: dict[str, str], trusting: ssl.SSLContext) -> Any:
    """Through nginx."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {bearer}"}
    request = Request(f"https://{NAME}{path}", json.dumps(body).encode(), headers, method="POST")
    with urlopen(request, timeout=10, context=trusting) as answer:  # noqa: S310 - https above
        return json.loads(answer.read())


class Crowd:
    """Clients of one user, each of which is to come and to hear one message."""

    def __init__(self) -> None:
        self.come = self.heard = 0
        self.all_came, self.all_heard = trio.Event(), trio.Event()

    async def listen(self, bearer: str, trusting: ssl.SSLContext) -> None:
        async with open_websocket(NAME, 443, "/", use_ssl=trusting) as connection:
            await connection.send_message(json.dumps({"type": "authenticate", "token": bearer}))
            while True:
                kind = json.loads(await connection.get_message())["type"]
                self.come += kind == "authenticated"
                self.heard += kind == "new_message"
                if self.come == CLIENTS:
                    self.all_came.set()
                if self.heard == CLIENTS:
                    self.all_heard.set()


async def main() -> None:
    with Path("/etc/hosts").open("a", encoding="utf-8") as hosts:  # noqa: ASYNC230 - nothing else runs yet
        hosts.write(f"127.0.0.1 {NAME}\n")
    trusting, bearer, crowd = ssl.create_default_context(cafile=CERTIFICATE), token(), Crowd()
    room = post(bearer, "/api/rooms", {"name": "club"}, trusting)["id"]
    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(crowd.listen, bearer, trusting)
        with trio.fail_after(60):
            await crowd.all_came.wait()
            counts = [connections_of(port) for port in (3002, 3003)]
            post(bearer, f"/api/rooms/{room}/messages", {"content": "hello"}, trusting)
            await crowd.all_heard.wait()
        nursery.cancel_scope.cancel()
    print(json.dumps({"clients": CLIENTS, "heard": crowd.heard, "nodes": sum(count > 0 for count in counts)}))  # noqa: T201


if __name__ == "__main__":
    trio.run(main)
