"""Fixtures that several test modules ask for by name. They are made where their subject is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.buses import bus as bus
from tests.buses import ears as ears
from tests.buses import ticker as ticker
from tests.daemon import back_ends as back_ends
from tests.models import report
from tests.servers import RUN
from tests.stores import database as database
from tests.stores import store as store

if TYPE_CHECKING:
    import pytest


def pytest_sessionfinish() -> None:
    RUN.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in report():
        terminalreporter.write_line(line)
