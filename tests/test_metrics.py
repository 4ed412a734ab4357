"""The numbers of /metrics under their names, each server's apart, with labels that no client can multiply."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from chatd import __version__
from chatd.errors import STATUS, CloseCode
from chatd.metrics import Metrics
from tests.daemon import open_daemon

if TYPE_CHECKING:
    from tests.daemon import Daemon


def rendered(metrics: Metrics) -> dict[str, float]:
    """Each series with its value."""
    text = metrics.render()[0].decode()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    }


@pytest.mark.parametrize(
    "series",
    [
        'chat_messages_total{type="text"}',
        "chat_active_connections",
        "message_processing_duration_seconds_count",
        'chat_errors_total{code="rate_limited"}',
        "chatd_connections_total",
        'chatd_closes_total{code="4008"}',
        'chatd_closes_total{code="other"}',
        'chatd_refused_upgrades_total{reason="origin"}',
        "chatd_deliveries_total",
        "chatd_shed_total",
        "chatd_commits_total",
        "chatd_commit_entries_count",
        "chatd_commit_seconds_count",
        "chatd_journal_waiting",
        'chatd_active_rooms{kind="public"}',
        "chatd_http_seconds_count",
    ],
)
def test_series_is_there_from_the_start(series: str) -> None:
    assert rendered(Metrics())[series] == 0


def test_every_error_code_and_every_close_code_has_its_series() -> None:
    series = rendered(Metrics())
    assert {name for name in series if name.startswith("chat_errors_total")} == {
        f'chat_errors_total{{code="{code}"}}' for code in STATUS
    }
    for code in (CloseCode.NORMAL, CloseCode.SESSION_REVOKED):
        assert f'chatd_closes_total{{code="{code}"}}' in series


def test_process_has_its_numbers_under_chatd() -> None:
    series = rendered(Metrics())
    assert series["chatd_process_resident_memory_bytes"] > 0
    assert series["chatd_process_open_fds"] > 0


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.connections.inc()
    assert rendered(one)["chatd_connections_total"] == 1
    assert rendered(other)["chatd_connections_total"] == 0


def test_what_is_counted_shows() -> None:
    metrics = Metrics()
    metrics.messages["code"].inc()
    metrics.errors["muted"].inc(2)
    metrics.active_rooms["direct"].set(3)
    metrics.refused_upgrades["node_full"].inc()
    metrics.deliveries.inc(1000)
    metrics.journal_waiting.set(7)
    metrics.commit_entries.observe(50)
    metrics.processing_seconds.observe(0.0004)
    series = rendered(metrics)
    assert series['chat_messages_total{type="code"}'] == 1
    assert series['chat_errors_total{code="muted"}'] == 2
    assert series['chatd_active_rooms{kind="direct"}'] == 3
    assert series['chatd_refused_upgrades_total{reason="node_full"}'] == 1
    assert series["chatd_deliveries_total"] == 1000
    assert series["chatd_journal_waiting"] == 7
    assert series['chatd_commit_entries_bucket{le="20.0"}'] == 0
    assert series['chatd_commit_entries_bucket{le="50.0"}'] == 1
    assert series['message_processing_duration_seconds_bucket{le="0.0005"}'] == 1


def test_close_codes_and_methods_that_clients_make_up_add_no_series() -> None:
    metrics = Metrics()
    metrics.count_close(CloseCode.SLOW_READER)
    before = set(rendered(metrics))
    for code in range(3000, 3100):
        metrics.count_close(code)
    assert set(rendered(metrics)) == before
    assert rendered(metrics)['chatd_closes_total{code="other"}'] == 100
    assert rendered(metrics)['chatd_closes_total{code="4008"}'] == 1

    for method in ("GET", "BREW", "WHEN"):
        metrics.count_request(method, 200, 0.01)
    series = rendered(metrics)
    assert series['chatd_http_requests_total{method="GET",status="200"}'] == 1
    assert series['chatd_http_requests_total{method="other",status="200"}'] == 2
    assert series["chatd_http_seconds_count"] == 3
    assert series["chatd_http_seconds_sum"] == pytest.approx(0.03)


def test_text_is_what_prometheus_reads() -> None:
    body, content_type = Metrics().render()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    for line in body.decode().splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? \S+', line)
    assert b"_created" not in body


# What is shown and what is watched

CHECKOUT = Path(__file__).parent.parent
#: Of the metrics of the process, and what Prometheus itself adds.
FROM_ELSEWHERE = {"up"}


def names_in(expression: str) -> set[str]:
    """The metrics that an expression of Prometheus asks for."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', "", expression)
    return set(re.findall(r"\b(?:chatd?_\w+|message_\w+|up)\b", bare)) - FROM_ELSEWHERE


def known_names() -> set[str]:
    return {series.partition("{")[0] for series in rendered(Metrics())} | {"chatd_http_requests_total"}


def test_dashboard_shows_what_there_is() -> None:
    dashboard = json.loads((CHECKOUT / "deploy/grafana.json").read_text(encoding="utf-8"))
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(shown) > 20
    assert [name for expression in shown for name in names_in(expression) - known_names()] == []


def test_alerts_ask_for_what_there_is_and_each_has_its_place_in_the_documentation() -> None:
    text = (CHECKOUT / "deploy/alerts.yml").read_text(encoding="utf-8")
    asked = re.findall(r"^ +expr: (.+)$", text, re.MULTILINE)
    assert [name for expression in asked for name in names_in(expression) - known_names()] == []
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(asked) == len(alerts) > 10
    page = (CHECKOUT / "docs/monitoring.md").read_text(encoding="utf-8")
    assert [alert for alert in alerts if f"### {alert}\n" not in page] == []
    assert re.findall(r"^### (Chatd\w+)$", page, re.MULTILINE) == alerts


def test_every_metric_is_explained() -> None:
    page = (CHECKOUT / "docs/monitoring.md").read_text(encoding="utf-8")
    families = set(re.findall(r"^# TYPE (\w+) ", Metrics().render()[0].decode(), re.MULTILINE))
    assert [name for name in sorted(families) if not name.startswith("chatd_process_") and f"`{name}" not in page] == []


@pytest.mark.parametrize("arguments", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_promtool_takes_the_rules_and_they_fire_in_a_scripted_outage(arguments: tuple[str, ...]) -> None:
    program = shutil.which("promtool")
    assert program, "promtool is missing: run tests/setup_system.sh as root, or install `prometheus`."
    done = subprocess.run([program, *arguments], cwd=CHECKOUT / "deploy", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# A daemon's numbers


async def scrape(daemon: Daemon) -> dict[str, float]:
    text = (await daemon.http("GET", "/metrics")).body.decode()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    }


async def test_connections_count_by_state_and_outboxes_queues_and_tails_by_size(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False) as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client, daemon.connect():
            await client.ask(type="send_message", roomId=room, content="x" * 5000)
            numbers = await scrape(daemon)
    assert numbers['chatd_connection_states{state="authenticated"}'] == 1
    assert numbers['chatd_connection_states{state="unauthenticated"}'] == 1
    assert numbers["chatd_tail_bytes"] > 5000
    assert numbers["chatd_rooms_in_memory"] >= 1
    assert numbers["chatd_delivery_seconds_count"] >= 1
    assert numbers["chatd_canary_seconds_count"] >= 1
    assert numbers["chatd_bus_seconds_count"] >= 1
    assert numbers['chatd_database_seconds_count{way="read"}'] >= 1
    assert numbers['chatd_database_seconds_count{way="write"}'] >= 1
    assert numbers["message_processing_duration_seconds_count"] == 1
    assert numbers['chatd_part_ready{part="canary"}'] == 1
    assert numbers["chatd_ready"] == 1
    assert f'chatd_info{{version="{__version__}"}}' in numbers


async def test_number_of_series_depends_on_no_users_and_no_rooms(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=False) as daemon:
        ada = await daemon.register("ada")
        await daemon.create_room(ada)
        async with daemon.connect(ada):
            # The first look is a request that the second one finds counted.
            await scrape(daemon)
            before = set(await scrape(daemon))
        for number in range(5):
            user = await daemon.register(f"user{number}")
            room = await daemon.create_room(user, f"room {number}")
            async with daemon.connect(user) as client:
                await client.ask(type="send_message", roomId=room, content="x")
        assert set(await scrape(daemon)) == before


def test_total_counts_on_from_where_somebody_else_is() -> None:
    metrics = Metrics()
    metrics.repairs.begin_at(5)
    metrics.repairs.bring_to(7)
    metrics.repairs.bring_to(7)
    assert rendered(metrics)["chatd_repairs_total"] == 2


def test_figures_are_those_that_are_not_zero() -> None:
    metrics = Metrics()
    metrics.messages["text"].inc(3)
    figures = metrics.figures()
    assert figures["chat_messages_total_text"] == 3
    assert not [name for name, value in figures.items() if not value or name.endswith("_bucket")]
