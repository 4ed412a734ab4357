"""A real systemd boots with the units as they are shipped, and chatd lives in it: ready, reloaded, restarted, stopped.

The machine is this one's own file system under an overlay, as a container (systemd-nspawn) with its own network and
what deploy/install.sh installs. It boots once for all of these tests; what happens inside is tests/boot_probe.py. It
takes a minute, so it is `make boot`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import pytest

from chatd.errors import CloseCode
from tests.shell import CHECKOUT

#: The program is installed once for each lock.
CACHE: Final = CHECKOUT / ".cache"
#: Where it has booted, not booting is a failure.
HAS_BOOTED: Final = CACHE / "has_booted"
BOOT_S: Final = 240
PROBE: Final = f"""[Unit]
After=basic.target
DefaultDependencies=no
[Service]
Type=oneshot
TimeoutStartSec={BOOT_S}
LimitNOFILE=65536
WorkingDirectory={CHECKOUT}
ExecStart={sys.executable} -m tests.boot_probe /results.json
ExecStopPost=/bin/systemctl poweroff --force
"""


def cannot(why: str) -> None:
    """No boot here: a failure where there has been one."""
    assert not HAS_BOOTED.exists(), f"{why}, and it has booted here before (rm {HAS_BOOTED} if that is past)"
    pytest.skip(f"no systemd can be booted here: {why}")


def installed() -> Path:
    """What deploy/install.sh puts on a machine, with the program as it is now."""
    lock = (CHECKOUT / "deploy/requirements.lock").read_bytes() + (CHECKOUT / "deploy/install.sh").read_bytes()
    folder = CACHE / f"installed-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as draft:
            variables = os.environ | {"DESTDIR": f"{draft}/root"}
            subprocess.run(
                [CHECKOUT / "deploy/install.sh"], env=variables, check=True, capture_output=True, timeout=300
            )
            Path(draft, "root").rename(folder)
    [packages] = folder.glob("opt/chatd/lib/python3*/site-packages")
    for source, target in ((CHECKOUT / "chatd", packages / "chatd"), (CHECKOUT / "sql", packages / "chatd/_sql")):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for unit in ("chatd.service", "chatd@.service", "chatd.socket", "chatd-http.socket"):
        shutil.copy(CHECKOUT / "deploy" / unit, folder / "etc/systemd/system")
    shutil.copy(CHECKOUT / "deploy/chatd-command.sh", folder / "usr/local/bin/chatd")
    return folder


@pytest.fixture(scope="module")
def booted() -> dict[str, Any]:
    """What the probe found, step by step."""
    nspawn = shutil.which("systemd-nspawn")
    if os.geteuid() != 0 or nspawn is None:
        cannot("it takes root and the package systemd-container")
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chatd-boot-") as name:
        folder = Path(name)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2G", "tmpfs", folder], check=True)
        try:
            return boot(str(nspawn), folder)
        finally:
            subprocess.run(["umount", "--recursive", "--lazy", folder], check=True)


def boot(nspawn: str, folder: Path) -> dict[str, Any]:
    for part in ("upper/etc/systemd/system/probe.target.wants", "work", "root"):
        (folder / part).mkdir(parents=True)
    units = folder / "upper/etc/systemd/system"
    (units / "probe.service").write_text(PROBE)
    (units / "probe.target").write_text("[Unit]\nRequires=basic.target\nAfter=basic.target\n")
    (units / "probe.target.wants/probe.service").symlink_to("../probe.service")
    # Nobody puts another /tmp there nor clears it: this checkout may be in it.
    (folder / "upper/etc/tmpfiles.d").mkdir()
    (folder / "upper/etc/tmpfiles.d/tmp.conf").symlink_to("/dev/null")
    shutil.copytree(installed(), folder / "upper", symlinks=True, dirs_exist_ok=True)
    layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
    mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, folder / "root"], check=False)
    if mounted.returncode:
        cannot("the kernel lays no overlay over /")
    done = subprocess.run(
        [
            nspawn, "--quiet", f"--directory={folder}/root", "--register=no", "--keep-unit", "--private-network",
            "--link-journal=no", "--console=read-only", "--capability=all", "--boot", "systemd.unit=probe.target",
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=BOOT_S + 60, env={"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_TMPFS_TMP": "0"},
    )  # fmt: skip
    results = folder / "root/results.json"
    if not results.exists():
        print(done.stdout[-5000:])  # noqa: T201 - for who looks why
        cannot("systemd did not come as far as the probe")
    HAS_BOOTED.touch()
    found: dict[str, Any] = json.loads(results.read_text())
    # For who wants the figures, and the gap in delivery over time.
    shutil.copy(results, CACHE / "boot.json")
    return found


def fact(booted: dict[str, Any], step: str) -> dict[str, Any]:
    found: dict[str, Any] = booted[step]
    assert "failed" not in found or isinstance(found["failed"], list), f"{found['failed']}\n{booted['journal']}"
    return found


def test_service_is_active_once_it_delivers(booted: dict[str, Any]) -> None:
    found = fact(booted, "start")
    assert (found["ActiveState"], found["SubState"], found["readyz"]) == ("active", "running", "ready")


def test_user_is_made_for_the_service_and_may_do_nothing(booted: dict[str, Any]) -> None:
    found = fact(booted, "start")
    # systemd's range for DynamicUser=
    assert 61184 <= found["uid"] <= 65519
    assert int(found["capabilities"], 16) == 0
    assert found["is_private"]
    assert {"chatd.db", "lock"} <= set(found["data"])
    assert "secret" not in found["data"], "it is given as a credential"


def test_exposure_is_below_two(booted: dict[str, Any]) -> None:
    assert float(fact(booted, "start")["exposure"].split(": ")[1].split()[0]) < 2.0


def test_status_says_connections_and_rates(booted: dict[str, Any]) -> None:
    assert " connections, " in fact(booted, "status")["StatusText"]


def test_images_are_cleaned_under_all_that_is_forbidden(booted: dict[str, Any]) -> None:
    assert fact(booted, "upload")


def test_command_line_works_on_the_same_data_and_leaves_it_to_the_service(booted: dict[str, Any]) -> None:
    found = fact(booted, "command_line")
    assert "ada" in found["listed"]
    assert found["wal_is_own"]
    assert "the configuration is good" in found["checked"]


def test_who_is_disabled_from_the_shell_is_disconnected_by_the_service(booted: dict[str, Any]) -> None:
    found = fact(booted, "disable")
    assert "live connections are closed" in found["said"]
    assert found["code"] == CloseCode.ACCOUNT_DISABLED


def test_page_on_backup_restores_what_was_copied(booted: dict[str, Any]) -> None:
    found = fact(booted, "restore")
    assert found["ActiveState"] == "active"
    assert "ada" in found["listed"]
    assert "latecomer" not in found["listed"]


def test_page_on_deployment_goes_back_to_the_program_before(booted: dict[str, Any]) -> None:
    found = fact(booted, "rollback")
    assert found["ActiveState"] == "active"
    assert f"{found['versions'][-1]} " in found["status"]
    assert "waits" not in found["status"]
    assert "ada" in found["listed"]


def test_reload_is_one_to_systemd_and_keeps_the_process(booted: dict[str, Any]) -> None:
    found = fact(booted, "reload")
    assert (found["ActiveState"], found["same"]) == ("active", True)


def test_restart_under_load_refuses_nobody_and_loses_nothing(booted: dict[str, Any]) -> None:
    found = fact(booted, "restart_under_load")
    assert (found["clients"], found["refused"], found["failed"]) == (500, [], [])
    assert (found["missing"], found["unordered"]) == ({}, [])
    assert found["settled_s"] >= 0
    assert found["answered"] > 0


def test_process_that_was_killed_is_started_again_and_nobody_is_refused(booted: dict[str, Any]) -> None:
    found = fact(booted, "kill")
    assert int(found["NRestarts"]) == int(found["before"]["NRestarts"]) + 1
    assert found["health"]["status"]


def test_loop_that_is_blocked_is_restarted_by_the_watchdog_and_says_where(booted: dict[str, Any]) -> None:
    found = fact(booted, "watchdog")
    assert (found["survived"], found["is_said"], found["shows_where"]) == (True, True, True)
    assert found["ActiveState"] == "active"


def test_stop_is_clean_and_the_next_connection_starts_it(booted: dict[str, Any]) -> None:
    found = fact(booted, "stop")
    stopped = found["stopped"]
    assert (stopped["ActiveState"], stopped["Result"], stopped["ExecMainStatus"]) == ("inactive", "success", "0")
    assert found["health"]["status"]
    assert found["ActiveState"] == "active"


def test_instances_run_on_debians_postgresql_and_redis_without_a_password(booted: dict[str, Any]) -> None:
    found = fact(booted, "instances")
    assert found["ready"] == [True, True]
    assert found["others_go_on"] == [True] * 3
