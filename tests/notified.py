"""The other end of NOTIFY_SOCKET for tests: what a daemon tells systemd."""

from __future__ import annotations

import socket
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Told:
    """What was told, a dict a datagram."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = trio.socket.from_stdlib_socket(sock)

    async def next(self, *, but: str = "") -> dict[str, str]:
        """The next one, passing over those that say only `but`."""
        with trio.fail_after(20):
            while True:
                text = (await self._socket.recv(4096)).decode()
                told = dict(line.split("=", 1) for line in text.splitlines())
                if set(told) != {but}:
                    return told

    async def wait_for(self, name: str) -> dict[str, str]:
        while name not in (told := await self.next()):
            pass
        return told

    def waiting(self) -> list[str]:
        """All that was told by now."""
        found = []
        while True:
            try:
                found.append(self._socket._sock.recv(4096).decode())  # type: ignore[attr-defined]  # without waiting
            except BlockingIOError:
                return found


@contextmanager
def open_told(folder: Path) -> Iterator[tuple[str, Told]]:
    """Its address and itself."""
    address = str(folder / "notify")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sock:
        sock.bind(address)
        sock.setblocking(False)
        yield address, Told(sock)
