"""An S3-compatible server for tests: moto's, as a process of its own on loopback, with one bucket.

It is a server for tests and no storage of anybody: what it says of durability means nothing. It does not look at
signatures; tests/test_blobs.py compares those with boto's and with the example of AWS.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.nginx import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 30


@contextmanager
def open_s3() -> Iterator[str]:
    """The URL of its bucket; the server is killed at the end."""
    port = free_port()
    # A key for the server itself, which it asks for in its environment.
    variables = os.environ | {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "MOTO_IAM_LOAD_MANAGED": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}/bucket"
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10).close()
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < deadline, "moto's server did not start"
                assert process.poll() is None, "moto's server ended"
                time.sleep(0.05)
            else:
                break
        yield url
    finally:
        process.kill()
        process.wait()
