"""What deploy/ says fits together, and fits chatd: compose.yaml, Containerfile, the lock, the secrets.

nginx.conf is tried for real in test_nginx.py, the units in boot.py. There is no container engine here, so what can
be read is read, and what a container would run is run without one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
from ruamel.yaml import YAML

from chatd import __version__
from chatd.__main__ import make_parser
from chatd.configfile import known_options, load_config
from chatd.files.image_child import Task
from tests.daemon import start_process
from tests.nginx import CONFIGURATION, free_port, nginx_program
from tests.pictures import jpeg
from tests.servers import open_redis, postgres_programs, shared_postgres

if TYPE_CHECKING:
    from chatd.config import Config

CHECKOUT: Final = Path(__file__).parent.parent
DEPLOY: Final = CHECKOUT / "deploy"
COMPOSE: Final = DEPLOY / "compose.yaml"
CONTAINERFILE: Final = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
#: Tools that came with the tests' own requirements.
TOOLS: Final = Path(sys.executable).parent
DOCUMENT: Final[dict[str, Any]] = YAML(typ="safe").load(COMPOSE)
SERVICES: Final[dict[str, dict[str, Any]]] = DOCUMENT["services"]
NODES: Final = ("node1", "node2", "node3")
#: Services that run chatd.
CHATD: Final = (*NODES, "migrate")


@cache
def requirements(path: Path) -> dict[str, set[str]]:
    """The pins of a lock with what stands behind them: `trio==0.35.0` and its hashes."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", "")
    return {line.split()[0]: set(re.findall(r"--hash=\S+", line)) for line in text.splitlines() if line}


def lint(*command: str | Path) -> str:
    """What a tool complains about."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return (done.stdout + done.stderr).strip() if done.returncode else ""


# compose.yaml


def test_compose_file_is_one() -> None:
    assert lint(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE) == ""


def test_mistake_in_a_compose_file_is_found(tmp_path: Path) -> None:
    faulty = tmp_path / "compose.yaml"
    faulty.write_text(COMPOSE.read_text(encoding="utf-8").replace("healthcheck:", "health_check:"), encoding="utf-8")
    assert "health_check" in lint(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", faulty)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of deploy/ with its secrets made."""
    folder = tmp_path_factory.mktemp("deployed") / "deploy"
    shutil.copytree(DEPLOY, folder, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([folder / "make_secrets.sh"], check=True, capture_output=True)
    return folder


def configured(service: str, deployed: Path) -> Config:
    """The configuration with which a service starts, the secrets where this machine has them. Raises ConfigError."""
    environment = {
        name: str(value).replace("/run/secrets", str(deployed / "secrets"))
        for name, value in SERVICES[service]["environment"].items()
    }
    return load_config(deployed / "secrets/chatd.toml", environment)


@pytest.mark.parametrize("service", CHATD)
def test_chatd_knows_each_variable_and_takes_its_value(service: str, deployed: Path) -> None:
    assert set(SERVICES[service]["environment"]) <= {option.variable for option in known_options()}
    config = configured(service, deployed)
    assert config.server.node_name == service
    password = (deployed / "secrets/database_password").read_text(encoding="utf-8")
    assert config.database.url.reveal() == f"postgresql://chatd:{password}@postgres/chatd"
    assert Path(config.auth.secret_file).stat().st_size >= 32


@pytest.mark.parametrize("service", CHATD)
def test_command_is_one_of_chatd_and_reads_the_secret_options(service: str) -> None:
    args = make_parser().parse_args(SERVICES[service]["command"])
    assert args.config == Path("/run/secrets/chatd.toml")
    assert "chatd.toml" in SERVICES[service]["secrets"]


def test_nodes_are_alike_but_for_their_names() -> None:
    own = {"environment", "volumes", "networks"}
    one, *others = ({key: value for key, value in SERVICES[node].items() if key not in own} for node in NODES)
    assert all(other == one for other in others)
    volumes = [volume for node in NODES for volume in SERVICES[node]["volumes"]]
    assert len(set(volumes)) == len(NODES)


def test_every_path_that_is_mounted_exists(deployed: Path) -> None:
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {name for name in mounted if not name.startswith(".")} == set(DOCUMENT["volumes"])
    paths = [name for name in mounted if name.startswith(".")] + [each["file"] for each in DOCUMENT["secrets"].values()]
    assert [path for path in paths if not (deployed / path).exists()] == []
    assert {name for service in SERVICES.values() for name in service.get("secrets", [])} == set(DOCUMENT["secrets"])


def test_secrets_are_made_once_and_are_in_no_image_and_no_commit(deployed: Path) -> None:
    folder = deployed / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = subprocess.run([deployed / "make_secrets.sh"], check=True, capture_output=True)
    assert (again.stdout, {path.name: path.read_bytes() for path in folder.iterdir()}) == (b"", before)
    assert (DEPLOY / ".gitignore").read_text(encoding="utf-8").split() == ["/secrets/"]


def test_nginx_trusts_and_finds_whom_it_should(deployed: Path) -> None:
    addresses = {
        name: each["networks"]["front"]["ipv4_address"]
        for name, each in SERVICES.items()
        if "front" in each["networks"]
    }
    [config] = DOCUMENT["networks"]["front"]["ipam"]["config"]
    assert all(ip_address(address) in ip_network(config["subnet"]) for address in addresses.values())
    assert SERVICES["nginx"]["extra_hosts"] == [f"{node}:{addresses[node]}" for node in NODES]
    for node in NODES:
        http = configured(node, deployed).http
        assert http.trusted_proxies == (addresses["nginx"],)
        ports = {f"{node}:{http.port}", f"{node}:{configured(node, deployed).websocket.port}"}
        assert ports <= set(re.findall(r"server (\S+) max_fails", CONFIGURATION.read_text(encoding="utf-8")))


def test_only_nginx_is_reachable_and_the_back_ends_stand_alone() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    [published] = SERVICES["nginx"]["ports"]
    assert f"listen {published.split(':')[1]} default_server" in CONFIGURATION.read_text(encoding="utf-8")
    assert DOCUMENT["networks"]["back"] == {"internal": True}
    for name in ("postgres", "redis", "migrate"):
        assert SERVICES[name]["networks"] == ["back"]


def test_every_service_is_bounded_and_comes_back() -> None:
    for name, service in SERVICES.items():
        limits = service["deploy"]["resources"]["limits"]
        assert float(limits["cpus"]) > 0
        assert re.fullmatch(r"\d+[MG]", limits["memory"])
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped")
        assert "no-new-privileges:true" in service["security_opt"]
        assert re.fullmatch(r"[a-z]+:\d[\w.]*", service["image"])
        if name != "migrate":
            assert service["ulimits"]["nofile"]["soft"] == service["ulimits"]["nofile"]["hard"]


def test_nodes_have_files_connections_and_time_enough(deployed: Path) -> None:
    config = configured("node1", deployed)
    assert (
        SERVICES["node1"]["ulimits"]["nofile"]["hard"] > config.limits.connections + config.http.max_connections + 100
    )
    assert int(SERVICES["node1"]["stop_grace_period"].removesuffix("s")) > config.server.drain_s
    [connections] = [each for each in SERVICES["postgres"]["command"] if each.startswith("max_connections=")]
    # and some for the migration, the command line and whoever looks
    assert int(connections.partition("=")[2]) >= len(NODES) * config.database.pool_max + 10


def test_nodes_wait_for_what_they_need() -> None:
    needs = {"migrate": "service_completed_successfully", "postgres": "service_healthy", "redis": "service_healthy"}
    for node in NODES:
        assert {name: each["condition"] for name, each in SERVICES[node]["depends_on"].items()} == needs
    assert "healthcheck" in SERVICES["postgres"]
    assert "healthcheck" in SERVICES["redis"]


def test_back_ends_keep_what_they_should() -> None:
    settings = " ".join(SERVICES["postgres"]["command"])
    assert not re.search(r"fsync|synchronous_commit|full_page_writes", settings)
    redis = SERVICES["redis"]["command"]
    with open_redis(options=redis[1:]):
        pass  # it knows each of the options
    assert redis[redis.index("--save") + 1] == ""
    assert redis[redis.index("--appendonly") + 1] == "no"


def test_checks_of_health_are_commands_that_exist_and_know_their_arguments() -> None:
    found = {name: service["healthcheck"]["test"] for name, service in SERVICES.items() if "healthcheck" in service}
    assert {name: command[0] for name, command in found.items()} == dict.fromkeys(found, "CMD")
    assert sorted(found) == ["nginx", "postgres", "redis"]
    sockets = shared_postgres().sockets
    ready = [str(postgres_programs() / found["postgres"][1]), *found["postgres"][2:]]
    ready[ready.index("--host=127.0.0.1")] = f"--host={sockets}"
    assert "accepting connections" in subprocess.run(ready, capture_output=True, text=True, check=True).stdout
    with open_redis() as server:
        ping = [found["redis"][1], "-s", str(server.path), *found["redis"][2:]]
        assert subprocess.run(ping, capture_output=True, text=True, check=True).stdout == "PONG\n"
    assert shutil.which(found["nginx"][1])
    assert SERVICES["nginx"]["command"][0] == Path(nginx_program()).name


# Containerfile


def test_containerfile_has_nothing_to_complain_about() -> None:
    assert lint(TOOLS / "hadolint", DEPLOY / "Containerfile") == ""


def test_mistake_in_a_containerfile_is_found(tmp_path: Path) -> None:
    faulty = tmp_path / "Containerfile"
    faulty.write_text(CONTAINERFILE.replace('["serve"]', "serve"), encoding="utf-8")
    assert "DL3025" in lint(TOOLS / "hadolint", faulty)


def test_image_runs_chatd_as_nobody_in_particular() -> None:
    last_stage = CONTAINERFILE.split("\nFROM ")[-1]
    assert re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE) == ["10001"]
    assert re.findall(r"^STOPSIGNAL (\S+)$", last_stage, re.MULTILINE) == ["SIGTERM"]
    assert 'ENTRYPOINT ["python", "-m", "chatd"]' in last_stage
    assert not re.search(r"\bpip\b|apt-get|gcc", last_stage)
    given = re.findall(r"\b(CHATD_\w+)=(\S+)", last_stage)
    assert {name for name, _ in given} <= {option.variable for option in known_options()}
    assert load_config(Path(os.devnull), dict(given)).server.data_dir == "/var/lib/chatd"
    assert 'VOLUME ["/var/lib/chatd"]' in last_stage
    assert __version__.startswith(f"{SERVICES['node1']['image'].removeprefix('chatd:')}.")


def test_what_is_copied_exists_and_is_let_in() -> None:
    sources = re.findall(r"^COPY (?!--from)(\S+) ", CONTAINERFILE, re.MULTILINE)
    assert all((CHECKOUT / source).exists() for source in sources)
    lines = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(sources)


def test_no_address_of_a_registry_is_written_down() -> None:
    for path in DEPLOY.iterdir():
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(
                r"https?://(?!127\.0\.0\.1|\$|chatd_)|^\s*(FROM|image:?)\s+[\w.-]+[.:][\w.:]*/", text, re.MULTILINE
            ), path


async def test_check_of_health_says_whether_chatd_answers(tmp_path: Path) -> None:
    found = re.search(r'CMD \["python", "-c", "(.+)"\]$', CONTAINERFILE, re.MULTILINE)
    assert found
    command = [sys.executable, "-c", found[1].replace('\\"', '"')]
    async with start_process(tmp_path) as daemon:
        variables = {"CHATD_HTTP_PORT": str(daemon.http_port)}
        assert (await trio.run_process(command, env=variables)).returncode == 0
    variables["CHATD_HTTP_PORT"] = str(free_port())
    nobody = await trio.run_process(command, env=variables, check=False, capture_stderr=True)
    assert nobody.returncode == 1


def test_image_gets_what_chatd_requires_as_it_is_locked_and_nothing_else() -> None:
    whole, own = requirements(CHECKOUT / "requirements.lock"), requirements(DEPLOY / "requirements.lock")
    assert {pin: hashes for pin, hashes in own.items() if whole.get(pin) != hashes} == {}
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = {re.split(r"[>=\[]", each)[0].lower().replace("_", "-") for each in project["dependencies"]}
    names = {pin.partition("==")[0] for pin in own}
    assert direct <= names
    extras = {re.split(r"[>=\[]", each)[0] for part in project["optional-dependencies"].values() for each in part}
    assert names & (extras - direct) == set()
    assert all(own.values())


# The units


UNITS: Final = ("chatd.service", "chatd@.service", "chatd.socket", "chatd-http.socket")


def settings(unit: str) -> dict[str, list[str]]:
    """What a unit says, each key with all of its values."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / unit).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def verified(folder: Path, **changes: str) -> str:
    """What systemd complains about in copies of the units, whose program is one that is here."""
    for unit in UNITS:
        text = (DEPLOY / unit).read_text(encoding="utf-8").replace("/opt/chatd/bin/chatd serve", "/bin/true serve")
        for old, new in changes.items():
            text = text.replace(f"{old}=", f"{new}=")
        (folder / unit.replace("@", "@1")).write_text(text, encoding="utf-8")
    paths = [folder / unit.replace("@", "@1") for unit in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *paths], capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    return done.stderr.strip()


def test_systemd_understands_every_line_of_the_units(tmp_path: Path) -> None:
    assert verified(tmp_path) == ""


def test_mistake_in_a_unit_is_found(tmp_path: Path) -> None:
    assert "WatchDog" in verified(tmp_path, WatchdogSec="WatchDog")


@pytest.mark.parametrize("unit", ["chatd.service", "chatd@.service"])
def test_services_are_exposed_to_less_than_two_of_ten(unit: str) -> None:
    analyze = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(DEPLOY / unit)]
    done = subprocess.run(analyze, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_child_that_reads_an_image_asks_the_kernel_for_nothing_that_the_units_forbid(tmp_path: Path) -> None:
    forbidden: set[str] = set()
    for given in settings("chatd.service")["SystemCallFilter"]:
        names = {name for each in given.removeprefix("~").split() for name in calls_of(each)}
        forbidden = forbidden | names if given.startswith("~") else forbidden - names
    assert {"nice", "sched_setaffinity", "chroot"} <= forbidden
    (tmp_path / "a.jpg").write_bytes(jpeg())
    task = Task(
        source=str(tmp_path / "a.jpg"), target=str(tmp_path / "b.jpg"), thumbnail=str(tmp_path / "c.webp"),
        kind="jpeg", width=2000, thumbnail_width=300, max_pixels=10**6, memory_bytes=2**30, seconds=60,
        max_bytes=10**6,
    )  # fmt: skip
    traced = [
        "strace",
        "-f",
        "-qq",
        "-o",
        str(tmp_path / "trace"),
        "-e",
        "trace=" + ",".join(f"?{n}" for n in forbidden),
    ]
    child = [sys.executable, "-m", "chatd.files.image_child", json.dumps(task._asdict())]
    # An input that stays open, as its parent's does.
    with subprocess.Popen([*traced, *child], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "trace").read_text(encoding="utf-8") == ""


def calls_of(name: str) -> set[str]:
    """The system calls of one of systemd's groups, or this one."""
    if not name.startswith("@"):
        return {name}
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", name], capture_output=True, text=True, check=True
    )
    words = {line.strip() for line in done.stdout.splitlines()[1:] if not line.strip().startswith("#")}
    return {call for word in words - {""} for call in calls_of(word)}


def test_instances_differ_from_the_service_in_what_has_to_be_their_own_only() -> None:
    one, many = settings("chatd.service"), settings("chatd@.service")
    differing = {name for name in one | many if one.get(name) != many.get(name)}
    assert differing == {"Description", "Requires", "After", "Conflicts", "StateDirectory", "Environment"}


def test_units_leave_files_and_time_enough(tmp_path: Path) -> None:
    config = load_config(Path(os.devnull), {})
    for unit in ("chatd.service", "chatd@.service"):
        found = settings(unit)
        [files], [stop_s] = found["LimitNOFILE"], found["TimeoutStopSec"]
        assert int(files) > config.limits.connections + config.http.max_connections + 100
        assert int(stop_s) > config.server.drain_s
    for unit, options in (("chatd.socket", config.websocket), ("chatd-http.socket", config.http)):
        assert settings(unit)["ListenStream"] == [f"{options.host}:{options.port}"]


def test_variables_of_the_units_are_options() -> None:
    known = {option.variable for option in known_options()}
    for unit in ("chatd.service", "chatd@.service"):
        names = re.findall(r"(CHATD_\w+)=", (DEPLOY / unit).read_text(encoding="utf-8"))
        assert set(names) <= known


def test_installer_takes_what_the_units_and_its_command_ask_for() -> None:
    installer = (DEPLOY / "install.sh").read_text(encoding="utf-8")
    for unit in UNITS:
        assert f"deploy/{unit}" in installer
    for path in re.findall(
        r"(?:LoadCredential=\w+:|--config )(/etc/chatd/\w[\w.]*)",
        installer
        + "".join(
            (DEPLOY / name).read_text(encoding="utf-8")
            for name in ("chatd.service", "chatd@.service", "chatd-command.sh")
        ),
    ):
        assert f"$root{path}" in installer
    assert subprocess.run(["bash", "-n", DEPLOY / "install.sh"], check=False).returncode == 0
    assert subprocess.run(["sh", "-n", DEPLOY / "chatd-command.sh"], check=False).returncode == 0
