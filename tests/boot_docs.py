"""docs/deployment.md as a stranger follows it: its commands, as they stand, on a fresh Debian with a real systemd.

debootstrap makes that Debian, once; what apt-get and pip are to fetch is fetched before, because the machine that boots
has a network of its own with nothing on it. Then each block of shell commands runs in the order of the page, and in the
end clients talk through nginx with two nodes on PostgreSQL and Redis (tests/boot_docs_probe.py). It takes some minutes,
so it is part of `make boot`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.markers import Marker

from tests.boot import CACHE, HAS_BOOTED, cannot
from tests.shell import CHECKOUT

PAGE: Final = CHECKOUT / "docs/deployment.md"
DEBIAN: Final = "bookworm"
PYTHON: Final = "3.11.2"
MIRROR: Final = "http://deb.debian.org/debian"
#: What is on any Debian, however small.
PACKAGES: Final = "systemd,systemd-sysv,dbus,iproute2,ca-certificates"
#: What builds pyvips, which comes as source, as its own pyproject.toml says.
BUILDERS: Final = ("setuptools", "wheel", "pkgconfig", "cffi")
BOOT_S: Final = 600
HOME: Final = "root/chatd"
RUNNER: Final = """#!/bin/bash
# Runs each block, and the next one whatever became of it, and writes down how it went.
export PIP_NO_INDEX=1 PIP_FIND_LINKS=/root/wheels DEBIAN_FRONTEND=noninteractive
cd /root/chatd
for block in /root/blocks/*.sh; do
    bash -eu -o pipefail "$block" </dev/null >"$block.out" 2>&1
    echo $? >"$block.status"
done
cd PYTHON_ROOT && PYTHON -m tests.boot_docs_probe >/root/probe.out 2>&1
echo $? >/root/probe.status
journalctl --no-pager --unit 'chatd@*' --unit nginx >/root/journal.out
"""
SERVICE: Final = """[Unit]
After=basic.target
DefaultDependencies=no
[Service]
Type=oneshot
TimeoutStartSec=BOOT_S
Environment=HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
ExecStartPre=/sbin/ip link set lo up
ExecStart=/bin/bash /root/run.sh
ExecStopPost=/bin/systemctl poweroff --force
"""


def blocks_of(page: str) -> list[str]:
    """The page's blocks of shell commands, in its order."""
    return re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def run(*command: str | Path, **options: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BOOT_S, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"


def fresh_debian() -> Path:
    """A Debian with nothing on it, made once."""
    folder = CACHE / f"debian-{DEBIAN}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as draft:
            made = Path(draft) / "made"
            run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", DEBIAN, made, MIRROR)
            made.rename(folder)
    return folder


def fetch_packages(root: Path, names: set[str]) -> None:
    """What the page's apt-get is going to install, into the place where apt-get looks first."""
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    for path in Path("/etc/apt/apt.conf.d").glob("*artifact*"):
        shutil.copy(path, root / "etc/apt/apt.conf.d")
    run("chroot", root, "apt-get", "--quiet", "update")
    run("chroot", root, "apt-get", "--quiet", "install", "--yes", "--download-only", *sorted(names))


def fetch_wheels(folder: Path) -> None:
    """What deploy/install.sh is going to install; kept, because it changes with the lock only."""
    kept = CACHE / "wheels"
    kept.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(kept)]
    options = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-binary", "pyvips"]
    lock = kept / "lock"
    lock.write_text(for_its_python((CHECKOUT / "deploy/requirements.lock").read_text(encoding="utf-8")))
    run(*pip, *options, "--requirement", lock)
    run(*pip, *BUILDERS)
    shutil.copytree(kept, folder)


def for_its_python(lock: str) -> str:
    """What is locked for that Debian's Python, which is not quite the one that fetches."""
    kept = []
    for entry in re.findall(r"^(?:[^\s#].*\n)(?: .*\n)*", lock, re.MULTILINE):
        head, _, hashes = entry.partition("\n")
        name, _, marker = head.removesuffix("\\").partition(" ; ")
        if not marker or Marker(marker).evaluate({"python_full_version": PYTHON}):
            kept.append(f"{name} \\\n{hashes}")
    return "".join(kept)


def copy_checkout(folder: Path) -> None:
    """The checkout as somebody gets it, with what is not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=CHECKOUT, capture_output=True,
        text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, folder / name)


@pytest.fixture(scope="module")
def followed() -> dict[str, Any]:
    """What became of each block, and what the clients found."""
    if os.geteuid() != 0 or not shutil.which("systemd-nspawn") or not shutil.which("debootstrap"):
        cannot("it takes root and the packages systemd-container and debootstrap")
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chatd-docs-") as name:
        folder = Path(name)
        run("mount", "-t", "tmpfs", "-o", "size=4G,mode=755", "tmpfs", folder)
        try:
            return follow(folder)
        finally:
            run("umount", "--recursive", "--lazy", folder)


def follow(folder: Path) -> dict[str, Any]:
    for part in ("upper", "work", "root"):
        (folder / part).mkdir()
    root, blocks = folder / "root", blocks_of(PAGE.read_text(encoding="utf-8"))
    layers = f"lowerdir={fresh_debian()},upperdir={folder}/upper,workdir={folder}/work"
    run("mount", "-t", "overlay", "overlay", "-o", layers, root)
    asked = {word for line in re.findall(r"apt-get install (.*)", "".join(blocks)) for word in line.split()}
    fetch_packages(root, {name for name in asked if not name.startswith("-")})
    fetch_wheels(root / "root/wheels")
    copy_checkout(root / HOME)
    (root / "root/blocks").mkdir()
    for number, block in enumerate(blocks):
        (root / f"root/blocks/{number:02d}.sh").write_text(block, encoding="utf-8")
    runner = RUNNER.replace("PYTHON_ROOT", shlex.quote(str(CHECKOUT))).replace("PYTHON", shlex.quote(sys.executable))
    (root / "root/run.sh").write_text(runner)
    units = root / "etc/systemd/system"
    (units / "follow.service").write_text(SERVICE.replace("BOOT_S", str(BOOT_S)))
    (units / "follow.target").write_text("[Unit]\nRequires=basic.target follow.service\nAfter=basic.target\n")
    python = Path(sys.base_prefix)
    done = subprocess.run(
        [
            "systemd-nspawn", "--quiet", f"--directory={root}", "--register=no", "--keep-unit", "--private-network",
            "--link-journal=no", "--console=read-only", "--capability=all", f"--bind-ro={CHECKOUT}",
            f"--bind-ro={python}", "--boot", "systemd.unit=follow.target",
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=BOOT_S + 60, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    if not (root / "root/blocks/00.sh.status").exists():
        print(done.stdout[-5000:])  # noqa: T201 - for who looks why
        cannot("systemd did not come as far as the first block")
    HAS_BOOTED.touch()
    results = root / "root"
    return {
        "blocks": [
            (path.read_text(), read(Path(f"{path}.status")).strip(), read(Path(f"{path}.out")))
            for path in sorted((results / "blocks").glob("*.sh"))
        ],
        "probe": (read(results / "probe.status").strip(), read(results / "probe.out")),
        "journal": read(results / "journal.out")[-10_000:],
    }


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def test_every_block_of_the_page_succeeds_as_it_stands(followed: dict[str, Any]) -> None:
    assert len(followed["blocks"]) >= 5
    failed = [
        f"{block}\n-> {status}: {out[-2000:]}" for block, status, out in followed["blocks"] if status != "0"
    ]  # fmt: skip
    assert not failed, "\n".join([*failed, followed["journal"]])


def test_page_says_that_it_is_ready_and_alive_where_it_looks(followed: dict[str, Any]) -> None:
    told = "\n".join(out for _, _, out in followed["blocks"])
    assert told.count('"status":"ready"') == 3, told
    assert told.count('"status":"alive"') == 1, told


def test_clients_talk_through_nginx_with_both_nodes(followed: dict[str, Any]) -> None:
    status, out = followed["probe"]
    assert status == "0", f"{out}\n{followed['journal']}"
    found = json.loads(out.splitlines()[-1])
    assert found["nodes"] == 2
    assert found["heard"] == found["clients"] == 20
