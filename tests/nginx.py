"""nginx for tests: deploy/nginx.conf as it is, but for ports and the nodes' addresses, in front of daemons of the test.

It runs as a user without rights in a folder of its own, on loopback, and ends with the test.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import ssl
import subprocess
import tempfile
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any, Final

import trio

from tests.daemon import Daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

CONFIGURATION: Final = Path(__file__).parent.parent / "deploy/nginx.conf"
#: Whom it runs as; who is not root is somebody without rights already.
NOBODY: Final = "nobody" if os.geteuid() == 0 else None
NOGROUP: Final = "nogroup" if os.geteuid() == 0 else None
START_S: Final = 10


@dataclass
class Nginx(Daemon):
    """An nginx; both ports of a `Daemon` are its one. Its folder is `data_dir`."""

    process: trio.Process
    tls_port: int = 0

    def served(self) -> list[dict[str, Any]]:
        """What has been asked for and has ended, a dict a line of the log; `node` is the address of who answered."""
        return [json.loads(line) for line in (self.data_dir / "access.log").read_text(encoding="utf-8").splitlines()]

    def trust(self) -> ssl.SSLContext:
        """For clients of its TLS port."""
        return ssl.create_default_context(cafile=str(self.data_dir / "certificate.pem"))


def nginx_program() -> str:
    program = shutil.which("nginx", path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))
    assert program, "nginx is missing: run tests/setup_system.sh as root, or install `nginx-light`."
    return program


def free_port() -> int:
    """A port that nobody listens on, and that nobody is given who asks for any."""
    while True:
        port = random.randrange(20_000, 32_000)
        with closing(socket()) as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


@asynccontextmanager
async def open_nginx(
    nodes: Sequence[Daemon], *, is_tls: bool = False, stderr: int | None = None
) -> AsyncIterator[Nginx]:
    """nginx in front of three daemons; `is_tls` with the lines for TLS and a certificate of its own for localhost.

    It complains of nodes that are killed to `stderr` (a descriptor), or where the tests do.
    """
    port, tls_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="chatd-nginx-") as name:
        folder = Path(name)
        _fill(folder, nodes, port, tls_port, is_tls=is_tls)
        command = [nginx_program(), "-p", name, "-c", str(folder / "nginx.conf")]
        with (folder / "access.log").open("ab") as output:
            process = await trio.lowlevel.open_process(
                command,
                stdout=output,
                stderr=stderr,
                user=NOBODY,
                group=NOGROUP,
                extra_groups=None if NOBODY is None else [],
            )
        try:
            await _wait_listening(process, port)
            yield Nginx(port, port, folder, process, tls_port)
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()


def _fill(folder: Path, nodes: Sequence[Daemon], port: int, tls_port: int, *, is_tls: bool) -> None:
    """Everything that it reads, and a log that it may write to although it is standard output."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    if is_tls:
        _make_certificate(folder)
        found = re.search(r"sed --in-place '(.+)' nginx\.conf", text)
        assert found
        text = subprocess.run(["sed", found[1]], input=text, capture_output=True, text=True, check=True).stdout
    changes = {"listen 8080 ": f"listen 127.0.0.1:{port} ", "listen 8443 ": f"listen 127.0.0.1:{tls_port} "}
    for number, node in enumerate(nodes, start=1):
        changes |= {f"node{number}:3001": f"127.0.0.1:{node.websocket_port}"}
        changes |= {f"node{number}:3000": f"127.0.0.1:{node.http_port}"}
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    (folder / "access.log").touch()
    if NOBODY is not None:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, NOBODY, NOGROUP)


def _make_certificate(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(folder / "certificate.key"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)


async def _wait_listening(process: trio.Process, port: int) -> None:
    with trio.fail_after(START_S):
        while True:
            assert process.poll() is None, "nginx ended at its start; what it says stands above"
            with suppress(OSError):
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                return
            await trio.sleep(0.01)
