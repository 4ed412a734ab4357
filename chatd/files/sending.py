"""Sending parts of a file to a socket without reading them: the kernel does it, as fast as the reader takes them.

A slow reader costs neither memory nor a thread. Called by `chatd.listener` where the socket is plain.
"""

from __future__ import annotations

import os
from typing import Final

import trio

#: So much goes in one call: the loop turns to others in between.
SLICE_BYTES: Final = 256 * 1024


class CutOff(Exception):
    """The file is shorter than it was."""


async def send_file(sock: trio.socket.SocketType, descriptor: int, *, offset: int, size: int, timeout_s: float) -> None:
    """Send these bytes of a file. Raises OSError, `CutOff`, and trio.TooSlowError without progress for so long."""
    while size:
        await trio.lowlevel.checkpoint()
        try:
            sent = os.sendfile(sock.fileno(), descriptor, offset, min(size, SLICE_BYTES))
        except BlockingIOError:
            with trio.fail_after(timeout_s):
                await trio.lowlevel.wait_writable(sock)
            continue
        if not sent:
            raise CutOff
        offset += sent
        size -= sent
