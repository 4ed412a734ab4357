"""Ports that systemd holds: handed over by name, open while the daemon restarts, and refused where they are none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing, contextmanager, suppress
from subprocess import DEVNULL
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.daemon import NO_FILE, environment
from tests.nginx import free_port
from tests.shell import CHECKOUT, sentence_of
from tests.shell import Done as Done

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVE = (sys.executable, "-m", "chatd", "serve", "--config", str(NO_FILE))


@contextmanager
def open_listener() -> Iterator[socket.socket]:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(4096)
        yield sock


def handed_over(sockets: list[socket.socket], names: str) -> tuple[str, ...]:
    """A command that becomes chatd with these sockets as systemd hands them over; the process id is its own."""
    moves = "".join(f"os.dup2({sock.fileno()}, {index});" for index, sock in enumerate(sockets, start=100))
    places = "".join(f"os.dup2({index}, {index - 97});" for index in range(100, 100 + len(sockets)))
    program = (
        f"import os, sys; {moves} {places}"
        f"os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='{len(sockets)}', LISTEN_FDNAMES='{names}');"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return sys.executable, "-c", program, *SERVE


def variables(data_dir: Path) -> dict[str, str]:
    return os.environ | environment(data_dir, limits=False) | {"PYTHONPATH": str(CHECKOUT)}


async def ask(port: int) -> bytes:
    with trio.fail_after(60):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b"".join([part async for part in stream])


@contextmanager
def started(
    command: tuple[str, ...], data_dir: Path, *sockets: socket.socket, **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command, env=variables(data_dir) | more, stderr=DEVNULL, pass_fds=[sock.fileno() for sock in sockets]
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


async def test_port_stays_open_from_one_process_to_the_next(tmp_path: Path) -> None:
    with open_listener() as websocket, open_listener() as http:
        command = handed_over([http, websocket], "http:websocket")
        port = http.getsockname()[1]
        for _ in range(2):
            # It waits in the kernel until somebody is there.
            async with trio.open_nursery() as nursery:
                answers: list[bytes] = []

                async def knock(answers: list[bytes] = answers) -> None:
                    answers.append(await ask(port))

                nursery.start_soon(knock)
                await wait_all_tasks_blocked()
                with started(command, tmp_path, websocket, http) as process:
                    while not answers:  # noqa: ASYNC110 - the answer is another task's
                        await trio.sleep(0.01)
                    assert b"200 OK" in answers[0]
                    refused = await trio.open_tcp_stream("127.0.0.1", websocket.getsockname()[1])
                    async with refused:
                        await refused.send_all(b"nonsense\r\n\r\n")
                        with trio.fail_after(30):
                            assert (await refused.receive_some()).startswith(b"HTTP/1.1 400")
                    process.terminate()
                    assert await trio.to_thread.run_sync(process.wait) == 0


async def test_port_that_is_not_handed_over_is_bound(tmp_path: Path) -> None:
    port = free_port()
    with open_listener() as websocket:
        command = handed_over([websocket], "websocket")
        with started(command, tmp_path, websocket, CHATD_HTTP_PORT=str(port)):
            assert b"200 OK" in await ask_when_open(port)


def test_systemds_own_tool_hands_over(tmp_path: Path) -> None:
    port, other = free_port(), free_port()
    command = ["systemd-socket-activate", "--fdname=http:websocket", f"--listen=127.0.0.1:{port}"]
    command += [f"--listen=127.0.0.1:{other}", "--setenv=PYTHONPATH"]
    command += [f"--setenv={name}" for name in environment(tmp_path, limits=False)]
    with subprocess.Popen([*command, *SERVE], env=variables(tmp_path), stderr=DEVNULL) as process:
        try:
            answer = trio.run(ask_when_open, port)
            assert b"200 OK" in answer
        finally:
            process.kill()


async def ask_when_open(port: int) -> bytes:
    with trio.fail_after(60):
        while True:
            with suppress(OSError):
                return await ask(port)
            await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("listening", "chatd.socket", "a socket named 'chatd.socket': say FileDescriptorName=websocket or =http"),
        ("listening", "", "a socket named ''"),
        ("bound", "http", "What systemd hands over as http does not listen on a TCP port: use ListenStream="),
        ("datagram", "websocket", "What systemd hands over as websocket does not listen on a TCP port"),
        ("file", "http", "What systemd hands over as http is no socket"),
    ],
)
def test_what_is_no_port_of_chatd_is_named(tmp_path: Path, kind: str, name: str, sentence: str) -> None:
    with closing(socket.socket(type=socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM)) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == "listening":
            sock.listen()
        with open(os.devnull, "rb") as file:  # noqa: PTH123 - a descriptor that is no socket
            given: socket.socket = file if kind == "file" else sock  # type: ignore[assignment]  # only its fileno
            command = handed_over([given], name)
            done = subprocess.run(
                command, env=variables(tmp_path), pass_fds=[given.fileno()], capture_output=True, text=True, timeout=20,
                check=False,
            )  # fmt: skip
    assert sentence in sentence_of(Done(done.returncode, done.stdout, done.stderr))
    assert list(tmp_path.iterdir()) == []
