"""Logging is the process's: a test that configures it gives it back as it was."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chatd import telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def own_logging() -> Iterator[None]:
    """What is configured in the block ends with it."""
    output, root = telemetry._output, logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    try:
        yield
    finally:
        telemetry._output = output
        root.setLevel(level)
        root.handlers[:] = handlers
