"""The torture's faults are real: a disk without space, a sync that takes its time, a clock that jumps, links cut."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.proxy import Pieces, open_proxy
from tests.torture.clocks import JumpingClock
from tests.torture.disks import open_small_disk, slow_syncs

if TYPE_CHECKING:
    from pathlib import Path

TELL_TIMES = "import time\nwhile input(): print(time.time(), time.monotonic(), flush=True)"
SYNC = """
import os, time
file = open("{path}", "wb")
while input():
    began = time.monotonic()
    os.fsync(file.fileno())
    print(time.monotonic() - began, flush=True)
"""
DELAY_S = 0.5


def test_a_full_disk_takes_nothing_until_it_is_freed() -> None:
    if os.geteuid() != 0:
        with pytest.raises(AssertionError, match="only be mounted as root"), open_small_disk(4):
            pass
        return
    with open_small_disk(4) as disk:
        disk.fill()
        with pytest.raises(OSError, match="No space") as raised:
            (disk.folder / "file").write_bytes(b"x")
        assert raised.value.errno == errno.ENOSPC
        disk.free()
        (disk.folder / "file").write_bytes(b"x")
    assert not disk.folder.exists()


def talk(program: str, variables: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A Python that answers a line with a line."""
    return subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | (variables or {}), text=True, bufsize=1,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def ask(process: subprocess.Popen[str]) -> list[float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("?\n")
    return [float(part) for part in process.stdout.readline().split()]


def test_a_clock_jumps_forth_and_back_and_the_time_that_passes_does_not(tmp_path: Path) -> None:
    clock = JumpingClock(tmp_path, "one")
    with talk(TELL_TIMES, clock.variables) as process:
        first, passed = ask(process)
        clock.jump(3600)
        second, passed_then = ask(process)
        clock.jump(-3600)
        third, passed_at_last = ask(process)
        process.communicate("\n")
    assert 3600 <= second - first < 3700
    assert -7200 <= third - second < -7100
    assert passed <= passed_then <= passed_at_last < passed + 100


async def test_a_slow_disk_holds_up_the_syncs_of_a_process_that_runs(tmp_path: Path) -> None:
    with talk(SYNC.format(path=tmp_path / "file")) as process:
        await trio.to_thread.run_sync(ask, process)
        async with slow_syncs([process.pid], DELAY_S):
            # Until strace has got hold of the process.
            with trio.fail_after(10):
                while (await trio.to_thread.run_sync(ask, process))[0] < DELAY_S:
                    pass
        # strace has let go of it.
        await trio.to_thread.run_sync(ask, process)
        process.communicate("\n")


async def test_some_links_are_cut_and_the_others_are_not() -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        [server] = await nursery.start(partial(trio.serve_tcp, echo, 0, host="127.0.0.1"))
        connect = partial(trio.testing.open_stream_to_socket_listener, server)
        async with open_proxy(connect, cutter=Pieces) as proxy:
            streams = [await trio.open_tcp_stream("127.0.0.1", proxy.port) for _ in range(2)]
            for stream in streams:
                await stream.send_all(b"*9\r\nno reply of a Redis")
                assert await stream.receive_some() == b"*9\r\nno reply of a Redis"
            [link] = [
                link for link in proxy.links if link.client.socket.getpeername() == streams[0].socket.getsockname()
            ]
            proxy.cut([link])
            with pytest.raises(trio.BrokenResourceError):
                await streams[0].receive_some()
            await streams[1].send_all(b"still here")
            assert await streams[1].receive_some() == b"still here"
            for stream in streams:
                await stream.aclose()
        nursery.cancel_scope.cancel()
