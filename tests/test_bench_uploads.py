"""The bench of uploads: few clients, small files, no figure held to anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import uploads

if TYPE_CHECKING:
    import pytest


def test_clients_chat_alone_and_beside_uploads(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--clients", "10", "--rate", "50", "--at-once", "3", "--megabytes", "1", "--seconds", "0.5", "--rounds", "1"]
    assert uploads.main([*few, "--patience", "0"]) in {0, 1}
    printed = capsys.readouterr().out
    assert "p99 x " in printed
    assert "refused" not in printed
    assert "do not add up" not in printed


def row(p99_ms: float, memory_bytes: int, *, failure: str | None = None) -> uploads.Measured:
    return uploads.Measured(1.0, p99_ms, p99_ms, p99_ms, memory_bytes, 0.5, failure)


def test_a_round_has_failed_where_something_is_lost_or_nothing_was_sent() -> None:
    sent = uploads.Sent(200, 0, "", 10.0, 5.0)
    measured = uploads.Round(row(2.0, 100), row(5.0, 350), sent)
    assert (measured.ratio, measured.growth_bytes, measured.has_failed) == (2.5, 250, False)
    assert measured._replace(beside=row(5.0, 350, failure="3 messages do not add up")).has_failed
    assert measured._replace(sent=sent._replace(refused=1)).has_failed
    assert measured._replace(sent=sent._replace(done=0)).has_failed
