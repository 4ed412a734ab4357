"""The bench's generator, against a small honest (or dishonest) chat server: it finds what is missing."""

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, WebSocketServer, serve_websocket

from bench.server import GENERATOR, compiled

SENDS = {
    "throughput": ["--senders", "4", "--depth", "2"],
    "steady": ["--rate", "200"],
    "slow": ["--rate", "200", "--slow", "3"],
    "echo": ["--senders", "12"],
    "churn": ["--rate", "40", "--away", "0.2"],
    "fanout": [],
    "connect": [],
}


@pytest.fixture(scope="module")
def generator() -> Path:
    return compiled(GENERATOR, "generator")


class Chat:
    """Acknowledges every message and delivers it to the whole room, as often as `copies(number)` says."""

    def __init__(self, copies: Callable[[int], int]) -> None:
        self.copies = copies
        self.rooms: dict[str, list[WebSocketConnection]] = {}
        self.deliveries = self.pings = 0

    async def serve(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        try:
            room_id = json.loads(await ws.get_message())["token"]  # a token here is the name of a room
            self.rooms.setdefault(room_id, []).append(ws)
            await ws.send_message('{"type":"authenticated"}')
            while True:
                await self.answer(ws, json.loads(await ws.get_message()))
        except ConnectionClosed:
            pass

    async def answer(self, ws: WebSocketConnection, message: dict[str, str]) -> None:
        if message["type"] == "ping":
            self.pings += 1
            await ws.send_message('{"type":"pong"}')
            return
        await ws.send_message(json.dumps({"type": "message_ack", "clientMessageId": message["clientMessageId"]}))
        for member in self.rooms[message["roomId"]]:
            self.deliveries += 1
            for _ in range(self.copies(self.deliveries)):
                await member.send_message(json.dumps({"type": "new_message", "message": message}))


@asynccontextmanager
async def open_chat(copies: Callable[[int], int] = lambda _number: 1) -> AsyncIterator[tuple[Chat, int]]:
    chat = Chat(copies)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, chat.serve, "127.0.0.1", 0, None))
        yield chat, server.port
        nursery.cancel_scope.cancel()


async def generate(
    generator: Path, mode: str, *, port: int | str, folder: Path, clients: int = 12, drain_s: float = 10
) -> dict[str, Any]:
    """The generator's report of half a second with rooms of 4. It waits for what is missing, at most `drain_s`."""
    lines = "".join(f"room{number // 4} room{number // 4} user{number}\n" for number in range(clients))
    (folder / "clients").write_text(lines)
    flags = ["--warmup", "0.1", "--seconds", "0.5", "--drain", str(drain_s), "--idle", "0.1", *SENDS[mode]]
    command = [
        str(generator),
        "steady" if mode == "slow" else mode,
        "--port",
        str(port),
        "--clients",
        str(folder / "clients"),
        *flags,
    ]
    with trio.fail_after(60):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    marks = [line for line in done.stderr.decode().splitlines() if line.startswith("mark")]
    assert marks[:2] == ["mark begin", "mark end"]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("mode", ["throughput", "steady"])
async def test_every_delivery_is_counted(mode: str, generator: Path, tmp_path: Path) -> None:
    async with open_chat() as (chat, port):
        found = await generate(generator, mode, port=port, folder=tmp_path)
    assert found["live"] == 12
    assert found["sent"] == found["acknowledged"] > 0
    assert found["delivered"] == chat.deliveries == found["acknowledged"] * 4
    assert (found["missing"], found["surplus"], found["refused"], found["lost"]) == (0, 0, 0, 0)


async def test_echo_counts_every_answer(generator: Path, tmp_path: Path) -> None:
    async with open_chat() as (chat, port):
        found = await generate(generator, "echo", port=port, folder=tmp_path)
    assert found["sent"] == found["acknowledged"] == chat.pings > 0
    assert found["ack_times"]["count"] == found["window_acknowledged"]
    assert (found["missing"], found["surplus"], found["unacknowledged"]) == (0, 0, 0)


async def test_who_comes_and_goes_is_back_at_the_end(generator: Path, tmp_path: Path) -> None:
    async with open_chat() as (chat, port):
        found = await generate(generator, "churn", port=port, folder=tmp_path)
    assert (found["live"], found["failed"], found["lost"]) == (12, 0, 0)
    assert found["left"] >= found["window_left"] > 0
    assert found["handshake_times"]["count"] > 0
    assert sum(map(len, chat.rooms.values())) == 12 + found["left"]


async def test_nothing_is_expected_of_those_who_do_not_read(generator: Path, tmp_path: Path) -> None:
    async with open_chat() as (chat, port):
        found = await generate(generator, "slow", port=port, folder=tmp_path)
    assert (found["slow"], found["slow_closed"], found["missing"], found["surplus"]) == (3, 0, 0, 0)
    assert 0 < found["delivered"] < chat.deliveries


async def test_fanout_waits_for_everyone_before_it_sends_again(generator: Path, tmp_path: Path) -> None:
    async with open_chat() as (_chat, port):
        found = await generate(generator, "fanout", port=port, folder=tmp_path, clients=4)
    assert found["delivered"] == found["sent"] * 4
    assert found["round_times"]["count"] == found["window_sent"] > 0


async def test_lost_deliveries_are_missing(generator: Path, tmp_path: Path) -> None:
    async with open_chat(lambda number: 0 if number % 10 == 0 else 1) as (chat, port):
        found = await generate(generator, "steady", port=port, folder=tmp_path, drain_s=2)
    assert found["missing"] == chat.deliveries // 10 > 0


async def test_a_lost_delivery_is_not_made_up_for_by_a_repeated_one(generator: Path, tmp_path: Path) -> None:
    async with open_chat(lambda number: {1: 0, 2: 2}.get(number, 1)) as (_chat, port):
        found = await generate(generator, "steady", port=port, folder=tmp_path)
    assert (found["missing"], found["surplus"]) == (1, 1)


async def test_latency_counts_from_when_the_message_was_due(generator: Path, tmp_path: Path) -> None:
    async with open_chat() as (_chat, port):
        found = await generate(generator, "steady", port=port, folder=tmp_path)
    # 200 a second for half a second, each to four: none is left out, whenever it left and arrived
    assert found["ack_times"]["count"] == 100
    assert found["delivery_times"]["count"] == 400
    assert 0 < found["delivery_times"]["p50_us"] <= found["delivery_times"]["max_us"]
    assert sum(count for _, count in found["delivery_times"]["slots"]) == 400


async def test_connect_measures_until_all_are_authenticated(generator: Path, tmp_path: Path) -> None:
    async with open_chat() as (_chat, port):
        found = await generate(generator, "connect", port=port, folder=tmp_path)
    assert found["handshake_times"]["count"] == found["live"] == 12
    assert found["window_seconds"] >= found["connect_seconds"] > 0


async def test_clients_of_a_room_take_turns_in_the_ports(generator: Path, tmp_path: Path) -> None:
    async with open_chat() as (even, first), open_chat() as (odd, second):
        # two small servers that know nothing of each other, so half of each room hears nothing of the other half
        found = await generate(generator, "steady", port=f"{first},{second}", folder=tmp_path, drain_s=0.5)
    assert [len(members) for members in (*even.rooms.values(), *odd.rooms.values())] == [2] * 6
    assert found["delivered"] == found["missing"] == found["acknowledged"] * 2


class ResumingChat:
    """A chat of one room that keeps its messages through a kill, and replays them to who resumes, as `replay` says."""

    def __init__(self, replay: Callable[[list[int]], list[int]]) -> None:
        self.replay = replay
        self.last_seq = 0
        self.members: set[WebSocketConnection] = set()
        self.resumes = 0
        # One event after the other, and none between a replay and what is live behind it.
        self.turn = trio.Lock()

    async def serve(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        try:
            resume = json.loads(await ws.get_message()).get("resume")
            async with self.turn:
                await self.welcome(ws, resume)
                self.members.add(ws)
            while True:
                await ws.get_message()
                async with self.turn:
                    await self.tell_all(ws)
        except ConnectionClosed:
            pass
        finally:
            self.members.discard(ws)

    async def welcome(self, ws: WebSocketConnection, resume: dict[str, Any] | None) -> None:
        rooms = [{"roomId": "room", "lastSeq": self.last_seq}]
        await ws.send_message(compact(type="authenticated", epoch="e1", rooms=rooms))
        if resume is not None:
            assert resume["epoch"] == "e1"
            self.resumes += 1
            for seq in self.replay(list(range(resume["rooms"]["room"] + 1, self.last_seq + 1))):
                await ws.send_message(compact(type="new_message", message={"seq": seq}))
            await ws.send_message(compact(type="caught_up", roomId="room", seq=self.last_seq))

    async def tell_all(self, sender: WebSocketConnection) -> None:
        self.last_seq += 1
        await sender.send_message(compact(type="message_ack", seq=self.last_seq))
        for member in list(self.members):
            with suppress(ConnectionClosed):
                await member.send_message(compact(type="new_message", message={"seq": self.last_seq}))


def compact(**fields: Any) -> str:
    return json.dumps(fields, separators=(",", ":"))


async def storm(generator: Path, folder: Path, replay: Callable[[list[int]], list[int]]) -> dict[str, Any]:
    """The generator's report of a storm over six clients of a small server, which is killed when it says so."""
    (folder / "clients").write_text("".join(f"token{number} room user{number}\n" for number in range(6)))
    flags = {"--warmup": 0.3, "--deaf": 0.3, "--seconds": 0.2, "--drain": 0.5, "--rate": 100, "--recover": 10}
    chat = ResumingChat(replay)
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def serve_until_killed(*, task_status: trio.TaskStatus[WebSocketServer]) -> None:
            with first:
                await serve_websocket(chat.serve, "127.0.0.1", 0, None, task_status=task_status)

        port = (await nursery.start(serve_until_killed)).port
        command = [str(generator), "storm", "--port", str(port), "--clients", str(folder / "clients")]
        command += [str(part) for flag in flags.items() for part in flag]
        async with open_process(command) as process:
            assert process.stderr is not None
            said = b""
            async for part in process.stderr:
                said += part
                if b"mark kill" in said and not first.cancel_called:
                    first.cancel()
                    nursery.start_soon(partial(serve_websocket, chat.serve, "127.0.0.1", port, None))
            assert process.stdout is not None
            report = b"".join([part async for part in process.stdout])
            assert report, said.decode()
            found: dict[str, Any] = json.loads(report)
        assert chat.resumes >= 6
        nursery.cancel_scope.cancel()
    return found


@asynccontextmanager
async def open_process(command: list[str]) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        with trio.fail_after(60):
            yield process
            await process.wait()
    finally:
        process.kill()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            await pipe.aclose()


@pytest.mark.parametrize(
    ("replay", "fault"),
    [
        (lambda missed: missed, None),
        (lambda missed: missed[1:], "missing"),
        (lambda missed: missed[:-1], "missing"),
        (lambda missed: missed[:1] + missed, "surplus"),
    ],
    ids=["all", "without the first", "without the last", "the first twice"],
)
async def test_storm_counts_what_a_resume_leaves_out_or_repeats(
    replay: Callable[[list[int]], list[int]], fault: str | None, generator: Path, tmp_path: Path
) -> None:
    found = await storm(generator, tmp_path, replay)
    assert (found["live"], found["failed"], found["lost"], found["unacknowledged"]) == (6, 0, 0, 0)
    assert found["cut"] > 0
    assert {name for name in ("missing", "surplus") if found[name]} == ({fault} if fault else set())
    assert found["recovered"][-1][1] == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["steady", "--port", "1", "--clients", "/nonexistent"], "/nonexistent: No such file"),
        (["steady", "--port", "1", "--clients", "CLIENTS", "--host", "10.0.0.1"], "not a loopback address"),
        (["steady", "--port", "1", "--clients", "CLIENTS"], "no connection was authenticated: Connection refused"),
        (["steady", "--port", "1", "--clients", "CLIENTS", "--rate", "many"], "not a number"),
        (["steady", "--port", "1", "--clients", "CLIENTS", "--speed", "1"], "unknown flag"),
        (["steady", "--port", "1,", "--clients", "CLIENTS"], "--port 1,: not a port"),
        (["steady", "--port", "70000", "--clients", "CLIENTS"], "--port 70000: not a port"),
        (["gently", "--port", "1", "--clients", "CLIENTS"], "the modes are"),
    ],
)
def test_generator_says_what_is_wrong(arguments: list[str], said: str, generator: Path, tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("token room user\n")
    given = [str(tmp_path / "clients") if argument == "CLIENTS" else argument for argument in arguments]
    done = subprocess.run([generator, *given], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert said in done.stderr
