"""The numbers of /metrics under their names, each server's apart, with labels that no client can multiply."""

from __future__ import annotations

import re

import pytest

from chatd.errors import STATUS, CloseCode
from chatd.metrics import Metrics


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
