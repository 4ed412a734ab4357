"""The wheel holds all that chatd needs of its own, and runs where there is no checkout."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import pytest

from tests.daemon import environment

CHECKOUT: Final = Path(__file__).parent.parent
WHERE: Final = """
import json
import chatd
from chatd.store.sqlfiles import sql_root
print(json.dumps([chatd.__file__, str(sql_root())]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip wheel .` makes of the checkout, as it is in the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, CHECKOUT], check=True, timeout=60)
    [path] = folder.iterdir()
    return path


def test_wheel_holds_chatd_and_its_sql_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert "# chatd" in metadata
    here = {f"chatd/{path.relative_to(CHECKOUT / 'chatd')}" for path in (CHECKOUT / "chatd").rglob("*.py")}
    here |= {f"chatd/_sql/{path.relative_to(CHECKOUT / 'sql')}" for path in (CHECKOUT / "sql").rglob("*.sql")} | {
        "chatd/py.typed"
    }
    assert {name for name in names if ".dist-info/" not in name} == here


def test_chatd_requires_what_it_imports_and_nothing_else() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {re.split(r"[^\w-]", requirement)[0].replace("_", "-") for requirement in project["dependencies"]}
    # triopg 0.6 imports it without requiring it
    required.remove("async-generator")
    imported = set()
    for path in (CHECKOUT / "chatd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    homes = packages_distributions()
    foreign = imported - sys.stdlib_module_names - {"chatd"}
    assert {homes[name][0].lower().replace("_", "-") for name in foreign} == required


def test_installed_wheel_runs_the_daemon_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "environment"
    venv.create(home, symlinks=True, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    install = [sys.executable, "-m", "pip", "--quiet", "--python", str(home / "bin" / "python"), "install", "--no-deps"]
    subprocess.run([*install, "--no-compile", wheel], check=True, timeout=60)
    # Its dependencies are those that the tests run with; the link to the checkout that is among them is not followed
    dependencies = Path(sysconfig.get_path("purelib"))
    (site / "dependencies.pth").write_text(f"import sys; sys.path.append({str(dependencies)!r})\n", encoding="utf-8")
    empty = tmp_path / "elsewhere"
    empty.mkdir()

    where = subprocess.check_output([home / "bin" / "python", "-c", WHERE], cwd=empty, text=True, timeout=20)
    package, sql = json.loads(where)
    assert Path(package).parent == site / "chatd"
    assert Path(sql) == site / "chatd" / "_sql"

    variables = {"PATH": "/usr/bin:/bin", **environment(tmp_path / "data")}
    daemon = subprocess.Popen([home / "bin" / "chatd", "serve"], cwd=empty, env=variables, stderr=subprocess.PIPE)
    assert daemon.stderr is not None
    with daemon:
        try:
            events = []
            while "listening" not in events:
                events.append(json.loads(daemon.stderr.readline())["event"])
            assert set(events) == {"migrated", "listening"}
        finally:
            daemon.terminate()
            _, rest = daemon.communicate(timeout=10)
    assert daemon.returncode == 0, rest
