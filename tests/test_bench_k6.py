"""The k6 scripts: they run unchanged against a daemon that somebody started by hand, and tell what does not add up."""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from rich.console import Console
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from bench import harness, k6_load, report
from bench.figures import HEADLINES
from bench.load import Load
from bench.rows import SCENARIOS, scenario_named, shortened
from bench.scenarios import CHATD
from tests.daemon import SignedIn, start_process

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.daemon import Daemon

#: No time is asserted: the thresholds on times are so wide that nothing crosses them.
PATIENT = {"P99": 60_000, "UPLOAD_P99": 60_000, "CAUGHT_UP": 60_000}
#: Little of everything, within the limits that a daemon has by default.
LITTLE = {"CONNECT": 0.3, "SECONDS": 0.6, "RATE": 10, "VUS": 3, "MOST": 4, "MINUTE": 0.3, "STAY": 0.5, "PACE": 0.2}
LITTLE |= {"VISITS": 1, "SAYS": 3, "LIMIT": 2, "FILES": 1, "BYTES": 20_000}


def crossed(summary: Path) -> set[str]:
    """The metrics on which a threshold was crossed."""
    metrics = json.loads(summary.read_text())["metrics"]
    return {name.partition(":")[0] for name in k6_load.crossed(Load({"metrics": metrics}))}


async def run_script(
    script: str, folder: Path, *, url: str, tokens: str, http: str = "", room: str = ""
) -> tuple[int, Path, str]:
    """Runs it with k6 as a person does; what it exits with, its summary, and what it said."""
    summary = folder / f"{script}.json"
    given = {"URL": url, "HTTP": http, "TOKENS": tokens, "ROOM": room, **PATIENT, **LITTLE}
    command = [str(k6_load.PROGRAM), "run", "--no-usage-report", "--address", "", "--summary-export", str(summary)]
    command += [part for name, value in given.items() for part in ("-e", f"{name}={value}")]
    with trio.fail_after(180):
        done = await trio.run_process(
            [*command, str(k6_load.SCRIPTS / f"{script}.js")],
            check=False, capture_stdout=True, capture_stderr=True, cwd=folder, env=os.environ | {"PWD": str(folder)},
        )  # fmt: skip
    return done.returncode, summary, (done.stdout + done.stderr).decode()


async def make_room(daemon: Daemon, script: str) -> tuple[list[SignedIn], str]:
    """Four people in a room that all may join."""
    people = [await daemon.register(f"{script}{number}") for number in range(4)]
    return people, await daemon.create_room(people[0], members=[user.id for user in people[1:]])


async def test_scripts_run_unchanged_against_a_daemon_with_its_usual_limits(tmp_path: Path) -> None:
    scripts = sorted(
        path.stem
        for path in k6_load.SCRIPTS.glob("*.js")
        if "export default" in path.read_text() or path.stem == "http"
    )
    assert scripts == ["chat", "fanout", "http", "stages", "storm"]
    found: dict[str, tuple[int, Path, str]] = {}
    async with start_process(tmp_path, limits=True, LIMITS_SIGN_INS_PER_HOUR="0") as daemon:

        async def run(script: str, tokens: str) -> None:
            found[script] = await run_script(script, tmp_path, url=daemon.ws_url, http=daemon.http_url, tokens=tokens)

        async with trio.open_nursery() as nursery:
            for script in scripts:
                people, room_id = await make_room(daemon, script)
                if script in {"chat", "http"}:  # as `chatd token` prints them; they join the first room that there is
                    tokens = ",".join(user.token for user in people)
                else:
                    tokens = f"{script}.tokens"
                    (tmp_path / tokens).write_text("".join(f"{user.token} {room_id}\n" for user in people))
                nursery.start_soon(run, script, tokens)
    assert {script: said for script, (code, _, said) in found.items() if code} == {}


class Chat:
    """A small server of one room whose deliveries are as often as `copies(number)` says."""

    def __init__(self, copies: Callable[[int], int]) -> None:
        self.copies = copies
        self.members: set[WebSocketConnection] = set()
        self.seq = 0

    async def serve(self, request: WebSocketRequest) -> None:
        ws = await request.accept()
        with suppress(ConnectionClosed):
            while True:
                await self.answer(ws, json.loads(await ws.get_message()))
        self.members.discard(ws)

    async def answer(self, ws: WebSocketConnection, asked: dict[str, Any]) -> None:
        replies: dict[str, dict[str, Any]] = {
            "authenticate": {"type": "authenticated", "rooms": [{"roomId": "room", "lastSeq": self.seq}], "epoch": "e"},
            "get_history": {"type": "room_history", "seq": self.seq, "id": asked.get("id")},
            "send_message": {"type": "message_ack", "messageId": "m", "seq": self.seq + 1, "id": asked.get("id")},
        }
        self.members.add(ws)
        if asked["type"] == "send_message":
            self.seq += 1
            for number, member in enumerate(self.members):
                event = {"type": "new_message", "message": {**asked, "seq": self.seq}}
                for _ in range(self.copies(self.seq) if number == 0 else 1):
                    await member.send_message(json.dumps(event))
        await ws.send_message(json.dumps(replies[asked["type"]]))


@pytest.mark.parametrize(
    ("copies", "faults"),
    [
        (lambda seq: 0 if seq == 2 else 1, {"undelivered", "checks"}),
        (lambda seq: 2 if seq == 2 else 1, {"repeats", "checks"}),
    ],
    ids=["lost", "repeated"],
)
async def test_script_counts_every_delivery(copies: Callable[[int], int], faults: set[str], tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve_websocket, Chat(copies).serve, "127.0.0.1", 0, None))
        url = f"ws://127.0.0.1:{server.port}"
        code, summary, _ = await run_script("fanout", tmp_path, url=url, tokens="eyJ1,eyJ2,eyJ3", room="room")
        nursery.cancel_scope.cancel()
    assert code == k6_load.CROSSED
    assert crossed(summary) == faults


def test_row_of_the_bench_runs_its_script() -> None:
    row = shortened(scenario_named("k6-chat"))
    (outcome,) = harness.execute([harness.Run(row, CHATD, 1)], Console(file=io.StringIO()))
    assert outcome.failure is None
    assert outcome.figures["deliveries_per_s"] > 0
    assert outcome.figures[HEADLINES["k6"].figure] > 0
    assert outcome.figures["generator_share"] > 0
    assert "deliveries/s" in report.line_text(outcome)


def test_every_row_of_k6_names_a_script_and_gives_it_what_it_takes() -> None:
    for scenario in SCENARIOS:
        if scenario.mode == "k6":
            text = (k6_load.SCRIPTS / f"{scenario.script}.js").read_text()
            assert [name for name, _ in scenario.given if f"number('{name}'" not in text] == []


def test_a_page_is_the_delivery_where_nothing_else_is() -> None:
    times = {"p(50)": 2.0, "p(90)": 3.0, "p(99)": 4.0, "max": 5.0}
    load = Load({"metrics": {"page_ms": times, "ack_ms": {**times, "max": 0.0}}, "window_seconds": 1.0})
    found = k6_load.figures_of(load)
    assert (found["p99_ms"], found["page_p99_ms"]) == (4.0, 4.0)
    assert "ack_p99_ms" not in found, "what k6 did not measure it gives as zeros"


def test_what_does_not_add_up_fails_and_what_is_late_does_not() -> None:
    metrics = {
        "undelivered": {"count": 3, "thresholds": {"count==0": True}},
        "delivery_ms": {"p(99)": 900, "thresholds": {"p(99)<500": True}},
        "repeats": {"count": 0, "thresholds": {"count==0": False}},
    }
    load = Load({"metrics": metrics, "exit": k6_load.CROSSED, "first_words": "refused"})
    assert k6_load.failure_of(load) == "undelivered: count==0 (count 3) (k6 said: refused)"
    assert len(k6_load.crossed(load)) == 2
    del metrics["undelivered"]
    assert k6_load.failure_of(load) is None
    assert k6_load.failure_of(Load({**load.report, "exit": 107})) == "k6 ended with 107 (k6 said: refused)"
