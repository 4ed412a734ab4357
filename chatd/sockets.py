"""The sockets that a daemon listens on: bound here, or by systemd, which holds them open while the daemon restarts.

`server` opens them before all else, `administration` to see whether they are free.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from chatd.backends import StartFault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from chatd.config import Config

BACKLOG: Final = 4096


def bind(table: str, host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Listening, non-blocking sockets for a host. Raises `StartFault` that names the table of the option."""
    sockets = reserve(table, host, port, reuse_port=reuse_port)
    try:
        for sock in sockets:
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise _cannot_listen(table, host, port, error) from error
    return sockets


def reserve(table: str, host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """The same not listening yet: of those who connect to a port that is shared the kernel sends nobody to them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartFault(f"[{table}] host: {host} cannot be resolved ({error.strerror}).") from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind(address)
        except OSError as error:
            for opened in (sock, *sockets):
                opened.close()
            raise _cannot_listen(table, host, port, error) from error
        sock.setblocking(False)
        sockets.append(sock)
    return sockets


def _cannot_listen(table: str, host: str, port: int, error: OSError) -> StartFault:
    return StartFault(
        f"[{table}] port: cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}); "
        "stop what uses it or choose another port."
    )


@contextmanager
def listening(
    config: Config, handed: Mapping[str, Sequence[socket.socket]]
) -> Iterator[tuple[list[socket.socket], list[socket.socket]]]:
    """The sockets of the WebSocket and of the HTTP side, closed at the end: those `handed` over, else bound here.

    Raises `StartFault`.
    """
    opened: list[list[socket.socket]] = []
    try:
        for table, options in (("websocket", config.websocket), ("http", config.http)):
            given = list(handed.get(table, ()))
            opened.append(given or bind(table, options.host, options.port, reuse_port=options.reuse_port))
        yield opened[0], opened[1]
    finally:
        for sockets in (*handed.values(), *opened):
            for sock in sockets:
                sock.close()
