"""Fixtures that several test modules ask for by name. They are made where their subject is."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

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

#: A filesystem in memory, and how much has to be free there.
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - what is made there has names of its own, as in any temporary folder
MEMORY_BYTES: Final = 6 << 30


def pytest_configure() -> None:
    """Have tests write into memory where there is enough: each database of PostgreSQL is a thousand files.

    On a disk, making and dropping those is a third of the whole run. `TMPDIR` names another place.
    """
    if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def pytest_sessionfinish() -> None:
    RUN.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in report():
        terminalreporter.write_line(line)
