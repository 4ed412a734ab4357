"""The bench itself: its people can sign in, its servers come and go, the report says who was slow."""

import io
import json
import os
import sqlite3
import subprocess
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from rich.console import Console

from bench import __main__ as command_line
from bench import (
    comparison,
    curves,
    figures,
    goals,
    harness,
    machine,
    page,
    plot,
    postgres,
    processes,
    redis,
    report,
    seed,
    summary,
)
from bench.figures import Outcome
from bench.load import Load, Sample
from bench.rows import SCENARIOS, scenario_named, shortened
from bench.scenarios import (
    CENTRIFUGO,
    CHATD,
    FASTAPI,
    FLOOR,
    NODE,
    ONE_NODE,
    SOCKET_IO,
    TINODE,
    WEBSOCKETS,
)
from bench.server import Server
from bench.servers import SERVERS
from chatd.verify.findings import Findings
from chatd.verify.stays import Rules
from chatd.verify.verification import find_logs, verify

ROOT = Path(__file__).parent.parent


# ---- the people


def test_rooms_are_filled_one_after_the_other() -> None:
    population = seed.make_population(25, 10)
    assert sorted(population.members_of().values()) == [5, 10, 10]
    assert len({user.id for user in population.users}) == 25


def test_tokens_are_those_of_the_users() -> None:
    population = seed.make_population(3, 3)
    for user, token in zip(population.users, seed.tokens_of(population), strict=True):
        claims = jwt.decode(token, population.secret, algorithms=["HS256"], options={"require": ["exp", "iat"]})
        assert (claims["sub"], claims["sid"]) == (user.id, user.session_id)


def test_people_fit_the_schema_of_chatd(tmp_path: Path) -> None:
    population = seed.make_population(12, 5)
    database = sqlite3.connect(tmp_path / "chatd.db")
    for migration in sorted(ROOT.glob("sql/migrations/*.up.sql")):
        database.executescript(migration.read_text())
    seed.fill_chatd(population, tmp_path / "chatd.db")
    wrong = "SELECT count(*) FROM rooms WHERE member_count <> (SELECT count(*) FROM room_members WHERE room_id = id)"
    assert database.execute(wrong).fetchone() == (0,)
    assert database.execute("SELECT count(*), count(DISTINCT refresh_hash) FROM user_sessions").fetchone() == (12, 12)
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()


def test_people_fit_the_schema_of_chatd_on_postgresql() -> None:
    population = seed.make_population(12, 5)
    migrations = [path.read_text() for path in sorted(ROOT.glob("sql/migrations/*.up.sql"))]
    wrong = "SELECT count(*) FROM rooms WHERE member_count <> (SELECT count(*) FROM room_members WHERE room_id = id);"
    with (
        harness.open_folder() as folder,
        postgres.open_postgres(folder, cores=(0,), settings=postgres.COUNTING) as server,
        postgres.open_counter(server, cores=(0,)) as count,
    ):
        postgres.run_script(server, "".join(migrations))
        before = count()
        postgres.run_script(server, seed.chatd_script(population))
        # a COPY for each of the four tables, and ANALYZE; the asking itself is not counted
        assert (count() - before, count() - before) == (5, 5)
        command = server.client(postgres.DATABASE)
        said = subprocess.run(command, input=wrong, capture_output=True, text=True, timeout=20, check=True).stdout
        assert said == "0\n"
        with pytest.raises(processes.StartFailed, match="duplicate key"):
            postgres.run_script(server, seed.chatd_script(population))


def test_redis_is_private_and_gone_when_the_block_is_left(tmp_path: Path) -> None:
    with redis.open_redis(tmp_path, cores=(0,)) as server:
        path = Path(server.url.removeprefix("unix://"))
        assert redis.answers(path)
        assert machine.memory_bytes(server.pid) > 0
    assert not redis.answers(path)
    assert machine.memory_bytes(server.pid) == 0


# ---- processes


def test_process_is_pinned_and_gone_when_the_block_is_left(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with processes.open_process(["sleep", "60"], cores=(core,), log=tmp_path / "log") as process:
        pinned = Path(f"/proc/{process.pid}/cmdline")
        processes.wait_until(
            lambda: pinned.read_bytes().startswith(b"sleep"), process, name="sleep", log=tmp_path / "log"
        )
        assert os.sched_getaffinity(process.pid) == {core}
    assert process.returncode is not None


def test_process_that_does_not_come_up_is_named_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["sh", "-c", "echo out of luck; exit 3"]
    with (
        processes.open_process(command, cores=(0,), log=log) as process,
        pytest.raises(processes.StartFailed, match="luckless ended with 3: out of luck"),
    ):
        processes.wait_until(lambda: False, process, name="luckless", log=log)


def test_cpu_time_of_a_process_is_time_for_which_its_core_was_busy(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    before = machine.busy_s([core])
    spinning = ["sh", "-c", "while :; do :; done"]
    with processes.open_process(spinning, cores=(core,), log=tmp_path / "log") as process:

        def has_spun() -> bool:
            return machine.cpu_s([process.pid]) >= 0.2 and machine.busy_s([core]) - before >= 0.2

        processes.wait_until(has_spun, process, name="spinner", log=tmp_path / "log")
        assert machine.memory_bytes(process.pid) > 0


# ---- the harness, figures and reports


def test_servers_take_turns_within_a_row() -> None:
    rows = [scenario_named("rooms-of-1"), scenario_named("fanout-1000")]
    runs = harness.plan(rows, [CHATD, NODE, FLOOR], rounds=2)
    assert [(run.scenario.name, run.server, run.round) for run in runs] == [
        ("rooms-of-1", CHATD, 1),
        ("rooms-of-1", NODE, 1),
        ("rooms-of-1", CHATD, 2),
        ("rooms-of-1", NODE, 2),
        ("fanout-1000", CHATD, 1),
        ("fanout-1000", NODE, 1),
        ("fanout-1000", FLOOR, 1),
        ("fanout-1000", CHATD, 2),
        ("fanout-1000", NODE, 2),
        ("fanout-1000", FLOOR, 2),
    ]


def test_every_row_names_servers_and_a_mode_that_there_are() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    for scenario in SCENARIOS:
        assert set(scenario.servers) <= set(SERVERS)
        assert scenario.mode in figures.HEADLINES
    assert {goal.scenario for goal in goals.GOALS} <= {scenario.name for scenario in SCENARIOS}


@pytest.fixture(scope="module")
def floor_run(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A real run: the C program in the row that it stands in. It promises nothing that could be verified."""
    row = replace(shortened(scenario_named("fanout-1000")), connections=20, room_size=20, seconds=0.5, warmup_s=0.1)
    affinity = os.sched_getaffinity(0)
    logs = tmp_path_factory.mktemp("floor") / "logs"
    (outcome,) = harness.execute([harness.Run(row, FLOOR, 1)], Console(file=io.StringIO()), logs=logs)
    assert os.sched_getaffinity(0) == affinity
    assert not logs.exists()
    return outcome


def test_a_run_gives_figures_that_add_up(floor_run: Outcome) -> None:
    assert floor_run.failure is None
    assert 0 < floor_run.figures["cpu_per_delivery_us"] < 1000
    assert floor_run.load["report"]["delivered"] == floor_run.load["report"]["acknowledged"] * 20
    assert floor_run.load["timeline"]


def test_a_server_that_cannot_start_fails_its_own_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(shortened(scenario_named("fanout-1000")), connections=4, room_size=4, seconds=0.2, warmup_s=0.1)

    def refuse(*_: object) -> AbstractContextManager[Server]:
        raise processes.StartFailed("it has no legs")

    monkeypatch.setitem(SERVERS, NODE, replace(SERVERS[NODE], open=refuse))
    runs = [harness.Run(row, server, 1) for server in (NODE, FLOOR)]
    outcomes = list(harness.execute(runs, Console(file=io.StringIO())))
    assert [outcome.failure for outcome in outcomes] == ["it has no legs", None]


def run_peer(peer: str, *, pictures: Path | None = None) -> Outcome:
    """A short real run of a peer."""
    assert SERVERS[peer].lacks() is None
    row = replace(shortened(scenario_named("rooms-of-10")), connections=20, seconds=0.3, warmup_s=0.1)
    (outcome,) = harness.execute([harness.Run(row, peer, 1)], Console(file=io.StringIO()), pictures=pictures)
    return outcome


@pytest.mark.parametrize("peer", [SOCKET_IO, FASTAPI])
def test_peer_delivers_everything_once(peer: str) -> None:
    outcome = run_peer(peer)
    assert outcome.failure is None
    said = outcome.load["report"]
    assert said["delivered"] == said["acknowledged"] * 10 > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's py-spy may look into a process that it has not started")
def test_profile_is_a_flame_graph_of_a_run_that_adds_up(tmp_path: Path) -> None:
    assert run_peer(WEBSOCKETS, pictures=tmp_path).failure is None
    assert [path.name for path in tmp_path.iterdir()] == ["rooms-of-10-websockets-1.svg"]
    assert "<svg" in (tmp_path / "rooms-of-10-websockets-1.svg").read_text()


def test_peers_that_are_not_there_are_skipped_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    skipped = harness.what_is_lacking([CENTRIFUGO, TINODE, NODE])
    assert list(skipped) == [CENTRIFUGO, TINODE, NODE]
    assert "centrifugo is not on PATH" in skipped[CENTRIFUGO]
    assert "Node.js" in skipped[NODE]


def outcome_of(scenario: str, server: str, *, failure: str | None = None, **found: float) -> Outcome:
    """An outcome with made-up figures, the rest 0.5."""
    mode = scenario_named(scenario).mode
    names = [column.figure for column in report.COLUMNS[mode]] + [*report.SHARES, "load_cores_share"]
    slots = [[400.0, 98], [2000.0, 2]]
    return Outcome(
        scenario,
        mode,
        server,
        1,
        figures=dict.fromkeys(names, 0.5) | found,
        failure=failure,
        load={
            "report": {"delivery_times": {"slots": slots}, "recovered": [[101.0, 1], [103.0, 2]]},
            "started_again_at_s": 100.0,
        },
    )


def test_goal_is_met_by_ratio_and_bound() -> None:
    def met(*outcomes: Outcome) -> list[bool | None]:
        return [verdict.is_met for verdict in goals.verdicts(outcomes)]

    node = outcome_of("room-of-1000", NODE, messages_per_s=100.0)
    assert met(outcome_of("room-of-1000", CHATD, messages_per_s=2000.0), node) == [True]
    assert met(outcome_of("room-of-1000", CHATD, messages_per_s=1999.0), node) == [False]
    assert met(outcome_of("room-of-1000", CHATD, messages_per_s=2000.0)) == [], "there is nobody to be ahead of"
    nobody = Outcome("room-of-1000", "throughput", NODE, 1, failure="it did not start")
    assert met(outcome_of("room-of-1000", CHATD, messages_per_s=2000.0), nobody) == [None]
    assert met(outcome_of("steady-rooms-of-100", CHATD, p99_ms=20.1)) == [False]
    assert met(outcome_of("steady-rooms-of-100", CHATD, p99_ms=2.0)) == [True]
    assert met(outcome_of("steady-rooms-of-100", CHATD, p99_ms=2.0, failure="3 deliveries never came")) == [False]


def test_goal_may_be_held_against_another_row() -> None:
    few, many = (
        outcome_of(row, CHATD, p99_ms=1.0, cpu_per_delivery_us=us)
        for row, us in (("steady-100", 10.0), ("steady-rooms-of-10", 12.5))
    )
    [verdict] = [verdict for verdict in goals.verdicts([few, many]) if "100 connections" in verdict.text]
    assert (verdict.value, verdict.is_met) == (1.25, False)


def test_goal_of_nodes_is_about_them() -> None:
    embedded = outcome_of("rooms-of-10", CHATD, cpu_per_message_us=100.0, failure="3 deliveries never came")
    node = outcome_of(
        "rooms-of-10", ONE_NODE, cpu_per_message_us=199.0, messages_per_s=5000.0, statements_per_message=0.25
    )
    found = [verdict for verdict in goals.verdicts([embedded, node]) if "PostgreSQL" in verdict.text]
    assert [(verdict.value, verdict.is_met) for verdict in found] == [(1.99, True), (5000.0, True), (0.25, False)]


def test_statements_and_cpu_are_those_of_the_window_over_its_acknowledged_messages() -> None:
    times = dict.fromkeys([f"{point}_us" for point in ("p50", "p90", "p99", "p999", "max")], 1000.0) | {"count": 9}
    said = dict.fromkeys(["cpu_seconds", "connect_seconds", "behind_seconds", "send_lag_max_us"], 0.0)
    said |= {"window_seconds": 2.0, "window_acknowledged": 10_000, "window_delivered": 100_000}
    said |= {"messages_per_s": 5000.0, "deliveries_per_s": 50_000.0}
    begin = Sample(10.0, 5.0, 7.0, 1.0, 0.5, 20.0, 20.0, memory_bytes=1, statements=400)
    end = Sample(12.0, 6.5, 7.4, 1.2, 0.5, 22.0, 22.0, memory_bytes=1, statements=1400)
    run = Load({**said, "ack_times": times}, {"begin": begin, "end": end, "finish": end})
    found = figures.figures_of("throughput", run, load_cores=1)
    shares = (found["server_share"], found["database_share"], found["bus_share"])
    assert shares == pytest.approx((0.75, 0.2, 0.1))
    assert found["cpu_per_message_us"] == pytest.approx(150)
    assert found["statements_per_message"] == pytest.approx(0.1)
    assert found["p99_ms"] == 1.0
    run.report["ack_times"]["count"] = 0
    assert "p99_ms" not in figures.figures_of("throughput", run, load_cores=1), "nothing was timed"


def test_memory_grows_between_a_twelfth_of_a_long_window_and_its_end() -> None:
    def points(length_s: int) -> list[dict[str, Any]]:
        return [{"phase": "measure", "at_s": at_s, "memory_bytes": 100 + at_s} for at_s in range(length_s + 1)]

    assert figures.memory_figures(Load({}, timeline=points(1200))) == {"memory_growth": 1300 / 200}
    assert figures.memory_figures(Load({}, timeline=points(30))) == {}, "nothing is known after so short a time"


def test_people_who_come_and_go_all_come_back() -> None:
    row = replace(shortened(scenario_named("presence-churn")), connections=20, rate=20, warmup_s=0.1, seconds=0.5)
    (outcome,) = harness.execute([harness.Run(row, CHATD, 1)], Console(file=io.StringIO()))
    assert outcome.failure is None
    said = outcome.load["report"]
    assert said["live"] == 20
    assert said["left"] >= said["window_left"] > 0
    assert outcome.figures["cpu_per_return_us"] > 0


def test_history_is_a_row_with_a_curve(tmp_path: Path) -> None:
    row = replace(shortened(scenario_named("history")), most_messages=2000)
    (outcome,) = harness.execute([harness.Run(row, CHATD, 1)], Console(file=io.StringIO()))
    assert outcome.failure is None
    assert [size for size, _ in outcome.load["growth"]["a message sent"]] == [1000, 2000]
    assert page.write(tmp_path, [outcome], goals.verdicts([outcome]), {}, "").exists()
    assert (tmp_path / "growth.png").exists()


def test_figures_of_a_storm_count_from_the_second_start_and_over_the_rooms() -> None:
    begin = Sample(10.0, 5.0, 7.0, 1.0, 0.5, 20.0, 20.0, memory_bytes=1, statements=400)
    end = Sample(16.0, 8.0, 7.4, 1.2, 0.5, 22.0, 22.0, memory_bytes=1, statements=1000)
    said: dict[str, Any] = {"cpu_seconds": 0.1, "window_seconds": 6.0, "connect_seconds": 1.0, "connections": 100}
    said |= {"tries": 250, "rooms": 300, "recovered": [[101.0, 1], [103.0, 50], [104.5, 99], [105.0, 100]]}
    marks = {"begin": begin, "end": end, "finish": end}
    found = figures.figures_of("storm", Load(said, marks, started_again_at_s=100.0), load_cores=1)
    assert (found["first_s"], found["half_s"], found["recover_s"]) == (1.0, 3.0, 5.0)
    assert (found["recover_server_cpu_s"], found["tries_per_connection"]) == (3.0, 2.5)
    assert found["statements_per_room"] == 2.0
    # Where not all came back there is no figure of all.
    said["recovered"] = [[101.0, 1], [103.0, 50]]
    found = figures.figures_of("storm", Load(said, marks, started_again_at_s=100.0), load_cores=1)
    assert "half_s" in found
    assert "recover_s" not in found


STORM = replace(shortened(scenario_named("storm")), connections=20, seconds=0.3, warmup_s=0.3)


def test_daemon_is_killed_in_a_storm_and_nothing_is_lost_or_repeated() -> None:
    (outcome,) = harness.execute([harness.Run(STORM, CHATD, 1)], Console(file=io.StringIO()))
    assert outcome.failure is None
    said = outcome.load["report"]
    assert (said["missing"], said["surplus"], said["resyncs"], said["live"]) == (0, 0, 0, 20)
    assert said["cut"] > 0, "messages were under way when it was killed"
    assert outcome.figures["recover_s"] >= outcome.figures["first_s"] > 0


async def verified(kept: Path) -> Findings:
    """What `chatd verify --settled` finds in what was kept of a run."""
    findings, source = Findings(), str(kept / harness.EXPORT)
    await verify(find_logs([kept]), source, Rules(is_settled=True), data_path=kept, findings=findings)
    return findings


@pytest.mark.parametrize("server", [CHATD, ONE_NODE])
async def test_what_is_kept_of_a_storm_can_be_verified_and_a_loss_is_found(server: str, tmp_path: Path) -> None:
    list(harness.execute([harness.Run(STORM, server, 1)], Console(file=io.StringIO()), logs=tmp_path / "logs"))
    [kept] = (tmp_path / "logs").iterdir()
    assert kept == harness.log_folder(tmp_path / "logs", "storm", server, 1)
    findings = await verified(kept)
    assert findings.faults == []
    assert findings.acknowledged > 50
    # Each client came once at first and was back once; in between it tried in vain.
    assert (findings.clients, findings.resumes, findings.replayed > 0) == (20, 20, True)
    path = kept / harness.LOG
    lines = path.read_bytes().splitlines(keepends=True)
    assert b"token" not in b"".join(lines)
    heard = next(line for line in reversed(lines) if b'"type":"new_message"' in line)
    path.write_bytes(b"".join(line for line in lines if line != heard))
    assert [fault.promise for fault in (await verified(kept)).faults] == [4]


def test_disturbed_rounds_do_not_count_where_there_are_others() -> None:
    calm, disturbed = (
        outcome_of("steady-rooms-of-100", CHATD, p99_ms=2.0),
        outcome_of("steady-rooms-of-100", CHATD, p99_ms=90.0, server_core_strangers=0.4),
    )
    (verdict,) = goals.verdicts([calm, disturbed])
    assert (verdict.is_met, verdict.is_disturbed) == (True, False)
    (verdict,) = goals.verdicts([disturbed])
    assert (verdict.is_met, verdict.is_disturbed) == (False, True)


def test_ratio_says_how_many_times_better() -> None:
    node = outcome_of("fanout-1000", NODE, cpu_per_delivery_us=6.0)
    chatd = outcome_of("fanout-1000", CHATD, cpu_per_delivery_us=3.0)
    assert figures.against_node([node, chatd], chatd) == 2.0
    assert figures.against_node([chatd], chatd) is None


def test_report_names_the_generator_where_it_was_the_bottleneck(tmp_path: Path) -> None:
    outcomes = [outcome_of(scenario.name, server) for scenario in SCENARIOS for server in scenario.servers]
    outcomes[0] = outcome_of("rooms-of-1", CHATD, generator_share=0.95, messages_per_s=16000.0)
    outcomes[1] = outcome_of("rooms-of-1", NODE, failure="7 deliveries never came")
    outcomes[2] = Outcome("rooms-of-1", "throughput", "trio_plain", 1, failure="it did not start")
    page = io.StringIO()
    report.print_report(outcomes, goals.verdicts(outcomes), {NODE: "There is none."}, Console(file=page, width=150))
    text = page.getvalue()
    assert "16 000" in text
    assert "chatd: the generator was the bottleneck" in text
    assert "FAILED Node ws + pg: 7 deliveries never came" in text
    assert "FAILED trio-websocket + triopg: it did not start" in text
    assert "SKIPPED Node ws + pg: There is none." in text
    assert "At a glance" in text
    path = report.write_json(tmp_path, outcomes, goals.verdicts(outcomes), {}, "python -m bench")
    assert json.loads(path.read_text())["machine"]["cores"] >= 1


def test_summary_holds_chatd_against_the_best_that_lost_nothing() -> None:
    outcomes = [
        outcome_of("rooms-of-10", CHATD, deliveries_per_s=3000.0),
        outcome_of("rooms-of-10", NODE, deliveries_per_s=1500.0),
        outcome_of("rooms-of-10", WEBSOCKETS, deliveries_per_s=2000.0, failure="7 deliveries never came"),
        outcome_of("fanout-1000", CHATD, cpu_per_delivery_us=4.0, generator_share=0.9),
        outcome_of("fanout-1000", FLOOR, cpu_per_delivery_us=3.0),
    ]
    assert summary.line_of(outcomes, "rooms-of-10")[2:6] == ["3 000", "1 500", "Node ws + pg", "2.00"]
    assert summary.line_of(outcomes, "fanout-1000")[2:] == ["4.00", "", "", "", "[yellow]the generator's[/yellow]"]


def test_page_shows_the_tables_with_pictures_and_the_command(tmp_path: Path) -> None:
    rows = ("rooms-of-1", "rooms-of-10", "steady-rooms-of-10", "storm")
    outcomes = [outcome_of(row, server) for row in rows for server in (CHATD, NODE)]
    written = page.write(
        tmp_path, outcomes, goals.verdicts(outcomes), {NODE: "There is none."}, "python -m bench <all>"
    )
    text = written.read_text()
    assert "python -m bench &lt;all&gt;" in text
    assert "SKIPPED Node ws + pg: There is none." in text
    assert text.count("data:image/png;base64,") == sum(1 for _ in tmp_path.glob("*.png")) >= 2
    assert page.write(tmp_path, [], [], {}, "").exists(), "a run of which nothing came has a page too"


def test_row_of_which_nothing_was_timed_has_a_panel(tmp_path: Path) -> None:
    load: dict[str, Any] = {"report": {"delivery_times": {"slots": []}}}
    nothing = Outcome("steady-tenfold", "steady", CHATD, 1, figures={"behind_s": 1.0}, load=load)
    assert plot.draw_rows([nothing], tmp_path / "rows.png")


def test_rate_over_time_is_what_was_added_between_two_samples() -> None:
    timeline = [{"at_s": at_s, "delivered": delivered} for at_s, delivered in ((0, 0), (0.2, 90), (1, 100), (2, 300))]
    assert curves.over_time(timeline, "delivered") == ([1, 2], [100, 200])


# ---- two reports beside each other


def write_report(folder: Path, *outcomes: Outcome) -> Path:
    folder.mkdir()
    return report.write_json(folder, outcomes, [], {}, "python -m bench")


def test_ratio_of_two_reports_has_the_spread_of_their_rounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = ([1000.0, 1100.0, 1200.0], [1500.0, 1650.0, 1800.0])
    before, after = (
        write_report(tmp_path / name, *(outcome_of("rooms-of-1", CHATD, deliveries_per_s=rate) for rate in rates))
        for name, rates in zip("ab", rounds, strict=True)
    )
    ratio = next(iter(comparison.ratios(comparison.read_report(before), comparison.read_report(after.parent))))
    assert (ratio.value, ratio.lowest, ratio.highest) == (1.5, 1.25, 1.8)
    assert ratio.says == "better"
    assert command_line.main(["compare", str(before), str(after)]) == 0
    assert "1.25 … 1.80" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ([1.0, 1.2], [1.1, 1.3], "within the spread"),
        ([1.0, 1.2], [2.0, 2.2], "worse"),
        ([1.0, 1.2], [0.5, 0.6], "better"),
        ([1.0], [0.5, 0.6], "one round: unknown"),
    ],
)
def test_ratio_within_its_spread_says_nothing(before: list[float], after: list[float], said: str) -> None:
    old, new = ([outcome_of("fanout-1000", CHATD, cpu_per_delivery_us=us) for us in each] for each in (before, after))
    ratio = comparison.ratio_of(old, new, figures.HEADLINES["fanout"])
    assert ratio is not None
    assert ratio.says == said


def test_what_is_no_report_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text("[]")
    assert command_line.main(["compare", str(tmp_path / "a.json"), str(tmp_path)]) == 1
    assert "a.json is no report of the bench" in capsys.readouterr().err


def test_machines_that_differ_are_named() -> None:
    old, new = ({"cores": cores, "versions": {"trio": "0.35"}} for cores in (2, 4))
    assert list(comparison.differences(old, new)) == ["another cores: 2 and 4"]
    assert list(comparison.differences(old, {"cores": 2, "versions": {"trio": "0.36"}})) == [
        "another trio: 0.35 and 0.36"
    ]


# ---- the command line


def test_list_says_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(scenario.name in listed for scenario in SCENARIOS)


@pytest.mark.parametrize(
    "arguments", [["run", "no-such-row"], ["--servers", "apache"], ["--repeat", "0"], ["compare", "one.json"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command_line.main(arguments)
    assert "error" in capsys.readouterr().err


def test_logs_are_not_added_to_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command_line.main(["run", "storm", "--log", str(tmp_path)])
    assert "is there already; give a new folder" in capsys.readouterr().err


def test_options_choose_and_shorten_rows() -> None:
    options = command_line.parsed(["run", "--quick", "connect-10000", "--seconds", "2", "rooms-of-1"])
    assert [(row.name, row.connections, row.seconds) for row in command_line.chosen(options)] == [
        ("rooms-of-1", 100, 2.0),
        ("connect-10000", 100, 2.0),
    ]
