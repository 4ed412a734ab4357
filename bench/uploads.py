"""How late messages are, and how much memory a daemon takes, while files are uploaded: one run, without and with.

    python -m bench.uploads                                  # 200 uploads of 10 MiB at once, 1 000 clients: 4 minutes
    python -m bench.uploads --megabytes 2 --seconds 25 --rounds 3 --kind text

First the clients chat alone, then beside so many uploads at every moment, with the same daemon: who has finished one
begins the next until the window is over. The window has to be longer than all of them take (`bytes_per_second`), for it
is when many end at once that messages may be late. The sender has the generator's core and gives way to it. With
messages more than twice as late (the slowest hundredth) or 100 MiB more it has failed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio
from rich.console import Console
from rich.table import Table

from bench import harness, load, machine, processes, seed
from bench.scenarios import CHATD, Scenario
from bench.servers import Place, Server, is_ready, migrate_chatd, start_daemon

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: What has failed: messages so many times as late, so much more memory.
MOST: Final = 2.0
MOST_BYTES: Final = 100 * 2**20
BOUNDARY: Final = "boundary-of-the-bench"
PIECE: Final = 256 * 1024
#: For those uploads that are on their way when the window is over.
PATIENCE_S: Final = 300.0
OPTIONS: Final = {
    "CHATD_LIMITS_UPLOADS_PER_HOUR": "0",
    "CHATD_LIMITS_API_PER_MINUTE": "0",
    "CHATD_HTTP_MAX_CONNECTIONS": "0",
    "CHATD_HTTP_CONNECTIONS_PER_ADDRESS": "0",
    "CHATD_UPLOADS_QUOTA_BYTES": "0",
}
#: Of a file, beside what is the same in all.
ENDS_BYTES: Final = 64
#: What a file begins and ends with; between them is what is the same in all, so that the sender has nothing to compute.
ENDS: Final = {"zip": (b"PK\x03\x04", b"PK\x05\x06" + bytes(18)), "text": (b"", b"")}


class Measured(NamedTuple):
    """One window: milliseconds of a message to those who read it and to its acknowledgement, the most memory."""

    p50_ms: float
    p99_ms: float
    max_ms: float
    ack_p99_ms: float
    memory_bytes: int
    server_share: float
    failure: str | None


# ---- the daemon and its clients


@contextmanager
def open_daemon(population: seed.Population, place: Place) -> Iterator[tuple[Server, int]]:
    """The daemon on its embedded database, and its port for files."""
    port, http_port = processes.free_port(), processes.free_port()
    data = place.folder / "data"
    options = {"CHATD_SERVER_DATA_DIR": str(data), **OPTIONS}
    options |= {"CHATD_WEBSOCKET_PORT": str(port), "CHATD_HTTP_PORT": str(http_port)}
    data.mkdir()
    migrate_chatd(population, place, options)
    seed.fill_chatd(population, data / "chatd.db")
    with start_daemon(population, place, options) as (process, log):
        processes.wait_until(lambda: is_ready(http_port), process, name=CHATD, log=log)
        yield Server((port,), (process.pid,), log), http_port


def chat(scenario: Scenario, server: Server, place: Place) -> Measured:
    """Have all clients connect and chat for the scenario's window."""
    clients = place.folder / "clients"
    done = load.run_load(scenario, server, clients=clients, cores=place.cores, on_progress=lambda *_: None)
    begin, end = done.marks["begin"], done.marks["end"]
    times, acks = done.report["delivery_times"], done.report["ack_times"]
    missing = sum(done.report[name] for name in ("failed", "lost", "refused", "unacknowledged", "missing", "surplus"))
    return Measured(
        times["p50_us"] / 1e3,
        times["p99_us"] / 1e3,
        times["max_us"] / 1e3,
        acks["p99_us"] / 1e3,
        max(point["memory_bytes"] for point in done.timeline),
        (end.server_cpu_s - begin.server_cpu_s) / (end.at_s - begin.at_s),
        f"{missing} messages or connections do not add up" if missing else None,
    )


# ---- who sends files, a process of its own


class Sent(NamedTuple):
    """What became of the uploads."""

    done: int
    refused: int
    first_refusal: str
    seconds: float
    slowest_s: float


@contextmanager
def open_sender(options: argparse.Namespace, http_port: int, place: Place) -> Iterator[list[Sent]]:
    """Have files sent while the block lasts; behind it the list has what became of them."""
    content = place.folder / "content"
    text = b"Nothing new under the sun.\n" * (options.megabytes * 2**20 // 27)
    content.write_bytes((text if options.kind == "text" else os.urandom(len(text)))[:-ENDS_BYTES])
    told = {
        "port": http_port, "kind": options.kind, "content": str(content), "at_once": options.at_once,
        "clients": str(place.folder / "clients"),
    }  # fmt: skip
    command = [sys.executable, "-m", "bench.uploads", "--send", json.dumps(told)]
    sent: list[Sent] = []
    with subprocess.Popen(
        processes.pinned(command, cores=place.cores.generator), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, cwd=Path(__file__).parent.parent,
    ) as process:  # fmt: skip
        try:
            yield sent
            said, _ = process.communicate("", timeout=PATIENCE_S)
            sent.append(Sent(**json.loads(said)))
        finally:
            processes.stop(process)


async def send(told: dict[str, Any]) -> Sent:
    """Send one file after the other, so many at once, until the input ends."""
    lines = await trio.Path(told["clients"]).read_text()
    tokens = [line.split()[0] for line in lines.splitlines()]
    took: list[float] = []
    refusals: list[str] = []
    is_over = False

    async def send_on(token: str) -> None:
        while not is_over:
            began = time.monotonic()
            answer = await send_file(told, token)
            if answer.startswith(b"HTTP/1.1 201"):
                took.append(time.monotonic() - began)
            else:
                refusals.append(answer.decode("utf-8", "replace"))
                await trio.sleep(0.2)

    os.nice(19)
    began = time.monotonic()
    async with trio.open_nursery() as nursery:
        for number in range(told["at_once"]):
            nursery.start_soon(send_on, tokens[number % len(tokens)])
        await trio.to_thread.run_sync(sys.stdin.read)
        is_over = True
    first = refusals[0][:300] if refusals else ""
    return Sent(len(took), len(refusals), first, time.monotonic() - began, max(took, default=0.0))


async def send_file(told: dict[str, Any], token: str) -> bytes:
    """Send one file that is like no other; the answer."""
    begin, end = ENDS[told["kind"]]
    begin += secrets.token_hex(16).encode() + b"\n"
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.{told["kind"]}"\r\n\r\n'.encode()
    tail = f"\r\n--{BOUNDARY}--\r\n".encode()
    with Path(told["content"]).open("rb") as content:  # noqa: ASYNC230 - its pages are in memory
        size = os.fstat(content.fileno()).st_size
        length = len(head) + len(begin) + size + len(end) + len(tail)
        request = (
            f"POST /api/upload HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n\r\n"
        )
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", told["port"])
            async with stream:
                await stream.send_all(request.encode() + head + begin)
                offset = 0
                while offset < size:
                    await trio.lowlevel.wait_writable(stream.socket)
                    offset += os.sendfile(stream.socket.fileno(), content.fileno(), offset, PIECE)
                await stream.send_all(end + tail)
                return b"".join([part async for part in stream])
        except (OSError, trio.BrokenResourceError) as error:
            return repr(error).encode()


# ---- the whole


class Round(NamedTuple):
    """Both windows, and what became of the uploads."""

    without: Measured
    beside: Measured
    sent: Sent

    @property
    def ratio(self) -> float:
        return self.beside.p99_ms / self.without.p99_ms

    @property
    def growth_bytes(self) -> int:
        return self.beside.memory_bytes - self.without.memory_bytes

    @property
    def has_failed(self) -> bool:
        return bool(self.without.failure or self.beside.failure or self.sent.refused or not self.sent.done)


def measure(options: argparse.Namespace, console: Console) -> Iterator[Round]:
    """One round after the other, with one daemon."""
    cores = machine.cores()
    scenario = Scenario(
        "uploads", "", "steady", connections=options.clients, room_size=min(10, options.clients), rate=options.rate,
        warmup_s=min(3.0, options.seconds), seconds=options.seconds,
    )  # fmt: skip
    population = seed.make_population(scenario.connections, scenario.room_size)
    with harness.leave_alone(cores.server), harness.open_folder() as folder, harness.receive_on(cores.generator):
        place = Place(folder, cores)
        seed.write_clients(population, folder / "clients")
        with open_daemon(population, place) as (server, http_port):
            for number in range(1, options.rounds + 1):
                harness.wait_for_calm(cores, options.patience)
                with console.status(f"round {number}: chatting"):
                    without = chat(scenario, server, place)
                harness.wait_for_calm(cores, options.patience)
                with (
                    console.status(f"round {number}: chatting and uploading"),
                    open_sender(options, http_port, place) as sent,
                ):
                    beside = chat(scenario, server, place)
                yield Round(without, beside, sent[0])


def print_round(measured: Round, options: argparse.Namespace, console: Console) -> None:
    table = Table(title=f"{options.clients} clients, {options.rate} messages/s, rooms of 10")
    for heading in ("", "p50 ms", "p99 ms", "max ms", "ack p99 ms", "MiB", "core"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in (("alone", measured.without), ("beside uploads", measured.beside)):
        times = [f"{value:.1f}" for value in (row.p50_ms, row.p99_ms, row.max_ms, row.ack_p99_ms)]
        table.add_row(name, *times, f"{row.memory_bytes / 2**20:.0f}", f"{row.server_share:.0%}")
        if row.failure:
            console.print(f"[red]{name}: {row.failure}[/red]")
    sent = measured.sent
    console.print(table)
    console.print(
        f"p99 x {measured.ratio:.2f}, memory + {measured.growth_bytes / 2**20:.0f} MiB; {sent.done} uploads in "
        f"{sent.seconds:.0f} s, {sent.done * options.megabytes / sent.seconds:.0f} MiB/s, "
        f"the slowest {sent.slowest_s:.1f} s"
    )
    if sent.refused:
        console.print(f"[red]{sent.refused} uploads were refused: {sent.first_refusal}[/red]")


def main(arguments: Sequence[str]) -> int:
    """0: as it should be; 1: messages are too late, memory is too large, or something was lost or refused."""
    parser = argparse.ArgumentParser(prog="python -m bench.uploads", description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=1000, metavar="N", help="default: 1 000")
    parser.add_argument("--rate", type=int, default=500, metavar="N", help="messages a second of all (default: 500)")
    parser.add_argument("--at-once", type=int, default=200, metavar="N", help="uploads (default: 200)")
    parser.add_argument("--megabytes", type=int, default=10, metavar="N", help="of a file (default: 10)")
    parser.add_argument("--kind", choices=sorted(ENDS), default="zip", help="of file (default: zip)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="without and with (default: 1)")
    parser.add_argument("--seconds", type=float, default=75, metavar="S", help="of each window (default: 75)")
    parser.add_argument("--patience", type=float, default=10, metavar="S", help="to wait for a calm machine")
    parser.add_argument("--send", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.send:
        print(json.dumps(trio.run(send, json.loads(options.send))._asdict()))
        return 0
    harness.check_machine()
    console = Console(highlight=False)
    rounds = []
    for measured in measure(options, console):
        rounds.append(measured)
        print_round(measured, options, console)
    ratio, growth = median(each.ratio for each in rounds), max(each.growth_bytes for each in rounds)
    console.print(
        f"Of {len(rounds)} rounds: p99 x {ratio:.2f} (median, at most {MOST:g}), memory + {growth / 2**20:.0f} MiB "
        f"(most, less than {MOST_BYTES // 2**20})"
    )
    return int(ratio > MOST or growth >= MOST_BYTES or any(each.has_failed for each in rounds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
