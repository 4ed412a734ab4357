"""The shape of design/architecture.md, held as data: who may import whom, the one door of each library, and so on.

Each rule is a function from the root of a checkout to sentences about what breaks it. It is tried on this checkout,
where there must be none, and on small made-up ones, where it must find what is wrong.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT: Final = Path(__file__).parent.parent

#: From the top down. A module imports what stands below it, and its own package; `chat` stands for all of chatd/chat/.
LAYERS: Final = (
    {"__main__"},
    {"administration", "backups", "terminal", "trail", "verify"},
    {"server"},
    {"canary", "diagnosis", "assembly"},
    {"notifier", "previews", "audit", "asking"},
    {"upkeep", "signals", "reload", "systemd", "sockets"},
    {"backends"},
    {"nursery", "listener"},
    {"connection", "cors"},
    {"chat"},
    {"files"},
    # the journal hands its events to the bus, the bus makes frames of them
    {"store"},
    {"bus"},
    {"wire"},
    {"loader", "web_pages"},
    {
        "configfile",
        "identity",
        "limits",
        "health",
        "schema",
        "collector",
        "process",
        "asyncio_loop",
        "tls",
        "arguments",
    },
    {"decoding"},
    {"protocol", "client_messages", "server_messages", "metrics"},
    {"records", "errors", "config", "secret", "telemetry", "clock", "ids", "slow"},
)
#: Stands beside the layers: the command line and its terminal may import it, and it only these.
CLIENT_USERS: Final = {"__main__", "terminal"}
CLIENT: Final = {"protocol", "records", "errors", "telemetry", "ids", "clock"}

#: The only modules that import a library from elsewhere. Trio needs no door: all of chatd but chat and wire speaks it.
DOORS: Final = {
    "multipart": {"wire/multipart.py"},
    "puremagic": {"files/kinds.py"},
    "pyvips": {"files/image_child.py"},
    "wsproto": {"wire/frames.py"},
    "h11": {"wire/http.py", "web_pages.py", "files/s3_link.py"},
    "jwt": {"identity/tokens.py"},
    "bcrypt": {"identity/passwords.py"},
    "sqlite3": {"store/sqlite.py", "store/copies.py"},
    "triopg": {"store/postgres.py"},
    "asyncpg": {"store/postgres.py", "store/postgres_errors.py"},
    "trio_asyncio": {"asyncio_loop.py"},
    "redis": {"bus/link.py"},
    "structlog": {"telemetry.py"},
    "prometheus_client": {"metrics.py"},
    "msgspec": {
        "protocol.py",
        "client_messages.py",
        "server_messages.py",
        "records.py",
        "config.py",
        "configfile.py",
        "decoding.py",
        "chat/forms.py",
        "schema.py",
        "verify/log.py",
    },
    "email_validator": {"chat/accounts.py"},
    "uuid_utils": {"ids.py"},
    "nh3": {"chat/markup.py"},
    "linkify_it": {"chat/links.py"},
    "trio_websocket": {"client/link.py"},
}
#: What a package must not import, although others may.
CLOSED: Final = {"chat": {"trio", "socket"}, "wire": {"trio"}}

#: These start tasks wherever they like; those, only in a function named open_…, whose block the tasks live in.
STARTERS: Final = {
    "audit.py",
    "canary.py",
    "nursery.py",
    "listener.py",
    "server.py",
    "upkeep.py",
    "signals.py",
    "systemd.py",
    "notifier.py",
    "previews.py",
    "terminal.py",
}
OPENERS: Final = ("store/", "bus/", "files/", "loader.py", "client/")

#: These see the whole configuration: who uses it, and who makes it.
CONFIG_READERS: Final = {
    "sockets.py",
    "reload.py",
    "assembly.py",
    "server.py",
    "__main__.py",
    "administration.py",
    "backups.py",
    "trail.py",
    "configfile.py",
    "config.py",
}

MAX_LINES: Final = 400
VAGUE_NAMES: Final = {"utils", "util", "common", "helpers", "helper", "manager", "managers", "misc"}

SQL: Final = re.compile(
    r"\bSELECT\s|\bVALUES\s*\(|(?i:\binsert\s+(or\s+\w+\s+)?into\s|\bdelete\s+from\s|\bupdate\s+\w+\s+set\s"
    r"|\b(create|drop|alter)\s+(unique\s+)?(table|index|trigger|view)\s)"
)
#: How a transaction begins and ends, and a database's own switches.
CONTROL: Final = re.compile(r"(?i:\s*(pragma|begin|commit|rollback|savepoint|release|vacuum)\b)")
ADAPTERS: Final = {"store/sqlite.py", "store/copies.py", "store/postgres.py"}


# Reading the source


def modules(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yield each module as its path below chatd/, with its syntax tree."""
    package = root / "chatd"
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).as_posix(), ast.parse(path.read_text(encoding="utf-8"), path)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Each thing imported, dotted, those for type checking only as well; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def group(path: str) -> str:
    return path.partition("/")[0].removesuffix(".py")


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """Each string constant but docstrings, which may speak of anything."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


# The rules


def check_directions(root: Path) -> Iterator[str]:
    heights = {name: -depth for depth, layer in enumerate(LAYERS) for name in layer}
    for path, tree in modules(root):
        importer = group(path)
        if importer not in heights and importer not in {"__init__", "client"}:
            yield f"{path}: stands in no layer"
            continue
        for line, name in imports(tree):
            package, _, inner = name.partition(".")
            imported = inner.split(".")[0]
            if package != "chatd" or imported in {importer, "__version__"}:
                continue
            if importer == "client":
                is_allowed = imported in CLIENT
            elif imported == "client":
                is_allowed = importer in CLIENT_USERS
            else:
                is_allowed = imported in heights and heights[imported] < heights.get(importer, -len(LAYERS))
                # modules of one layer at the bottom may lean on each other; that they do not in circles, Python shows
                is_allowed |= {importer, imported} <= LAYERS[-1] or {importer, imported} <= LAYERS[-2]
            if not is_allowed:
                yield f"{path}:{line}: may not import chatd.{imported}"


def check_doors(root: Path) -> Iterator[str]:
    foreign = {path: {name.split(".")[0] for _, name in imports(tree)} for path, tree in modules(root)}
    for path, names in foreign.items():
        for name in sorted(names - {"chatd", "trio"}):
            if name in DOORS and path not in DOORS[name]:
                yield f"{path}: imports {name}, whose door is {', '.join(sorted(DOORS[name]))}"
            elif name not in DOORS and name not in sys.stdlib_module_names:
                yield f"{path}: imports {name}, which has no door"
        for name in sorted(names & CLOSED.get(group(path), set())):
            yield f"{path}: imports {name}, which {group(path)}/ does without"
    for name, doors in DOORS.items():
        for path in sorted(doors & foreign.keys()):
            if name not in foreign[path]:
                yield f"{path}: is named a door to {name} and does not import it"


def check_task_starts(root: Path) -> Iterator[str]:
    for path, tree in modules(root):
        if path in STARTERS:
            continue
        inside_open = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("open_")
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            is_start = name in {"start_soon", "open_nursery"} or (name == "start" and bool(node.args))
            if name == "spawn_system_task" or (is_start and not (path.startswith(OPENERS) and id(node) in inside_open)):
                yield f"{path}:{node.lineno}: starts tasks with {name}"


def check_whole_config(root: Path) -> Iterator[str]:
    for path, tree in modules(root):
        if path in CONFIG_READERS:
            continue
        for line, name in imports(tree):
            if name in {"chatd.config.Config", "chatd.config.*", "chatd.configfile.load_config"}:
                yield f"{path}:{line}: sees the whole configuration"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in {"Config", "load_config"}:
                yield f"{path}:{node.lineno}: sees the whole configuration"


def check_modules(root: Path) -> Iterator[str]:
    for path, tree in modules(root):
        lines = len((root / "chatd" / path).read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES:
            yield f"{path}: has {lines} lines, more than {MAX_LINES}"
        if not ast.get_docstring(tree):
            yield f"{path}: has no docstring"
        words = set(re.split(r"[/_.]", path))
        for name in sorted(words & VAGUE_NAMES):
            yield f"{path}: is named {name}, which says nothing"


def check_private_names_stay_in_their_module(root: Path) -> Iterator[str]:
    """An `open_…` function may touch what is private to the class beside it; nobody else may."""
    for path, tree in modules(root):
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        # texts for __slots__; a named tuple's methods, and os._exit, are public whatever their names look like
        own = names | {str(node.value) for node in texts(tree)} | {"_asdict", "_replace", "_fields", "_make", "_exit"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id == "self" else set()
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr) and node.attr not in own:
                yield f"{path}:{node.lineno}: touches {node.attr}, which is private to another module"


def check_sql_stands_in_files(root: Path) -> Iterator[str]:
    for path, tree in modules(root):
        for node in texts(tree):
            text = str(node.value)
            is_control = path in ADAPTERS and CONTROL.match(text)
            if (SQL.search(text) or re.match(r"PRAGMA\b", text)) and not is_control:
                yield f"{path}:{node.lineno}: holds SQL"


def check_queries_are_used(root: Path) -> Iterator[str]:
    """A query is used where its whole name stands in a module of the store, so that a search for it finds both."""
    named: dict[str, str] = {}
    for file in sorted((root / "sql" / "queries").glob("*.sql")):
        feature = file.name.split(".")[0]
        for found in re.finditer(r"^-- name: (\w+)\s*$", file.read_text(encoding="utf-8"), re.MULTILINE):
            named[f"{feature}.{found[1]}"] = file.name
    features = {name.split(".")[0] for name in named}
    used: dict[str, str] = {}
    for path, tree in modules(root):
        for node in texts(tree):
            name = str(node.value)
            feature, _, rest = name.partition(".")
            if path.startswith("store/") and feature in features and rest.isidentifier():
                used[name] = f"{path}:{node.lineno}"
    for name in sorted(named.keys() - used.keys()):
        yield f"sql/queries/{named[name]}: nobody uses {name}"
    for name in sorted(used.keys() - named.keys()):
        yield f"{used[name]}: there is no query {name}"


RULES: Final = (
    check_directions,
    check_doors,
    check_task_starts,
    check_whole_config,
    check_modules,
    check_private_names_stay_in_their_module,
    check_sql_stands_in_files,
    check_queries_are_used,
)


# This checkout


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_chatd_keeps_its_shape(rule: Callable[[Path], Iterator[str]]) -> None:
    assert list(rule(ROOT)) == []


def test_all_of_chatd_is_read() -> None:
    read = {path for path, _ in modules(ROOT)}
    assert {"__init__.py", "errors.py", "wire/frames.py"} <= read


# Made-up ones


def tree_with(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("rule", "path", "text", "sentence"),
    [
        (check_directions, "store/rooms.py", "import chatd.chat.rooms", "store/rooms.py:1: may not import chatd.chat"),
        (check_directions, "wire/frames.py", "from chatd import chat", "wire/frames.py:1: may not import chatd.chat"),
        (check_directions, "wire/frames.py", "from chatd.bus import hub", "may not import chatd.bus"),
        (check_directions, "bus/hub.py", "from chatd.store.rooms import x", "may not import chatd.store"),
        (check_directions, "nursery.py", "from chatd.listener import x", "may not import chatd.listener"),
        (check_directions, "nursery.py", "from chatd.server import x", "may not import chatd.server"),
        (
            check_directions,
            "errors.py",
            "def f():\n    from chatd.wire import x",
            "errors.py:2: may not import chatd.wire",
        ),
        (check_directions, "errors.py", "if TYPE_CHECKING:\n    import chatd.server", "may not import chatd.server"),
        (check_directions, "client/link.py", "from chatd.wire.frames import x", "may not import chatd.wire"),
        (check_directions, "administration.py", "from chatd import client", "may not import chatd.client"),
        (check_directions, "server.py", "from chatd import client", "may not import chatd.client"),
        (check_directions, "__init__.py", "from chatd import errors", "may not import chatd.errors"),
        (check_directions, "server.py", "from chatd.nowhere import x", "may not import chatd.nowhere"),
        (check_directions, "stuff.py", "", "stuff.py: stands in no layer"),
        (
            check_doors,
            "chat/rooms.py",
            "import bcrypt",
            "chat/rooms.py: imports bcrypt, whose door is identity/passwords.py",
        ),
        (check_doors, "server.py", "from wsproto.events import x", "imports wsproto, whose door is wire/frames.py"),
        (check_doors, "store/rooms.py", "import sqlite3", "imports sqlite3, whose door is store/copies.py"),
        (check_doors, "server.py", "import requests", "server.py: imports requests, which has no door"),
        (check_doors, "chat/rooms.py", "import trio", "chat/rooms.py: imports trio, which chat/ does without"),
        (check_doors, "chat/rooms.py", "import socket", "imports socket, which chat/ does without"),
        (check_doors, "wire/outbox.py", "from trio import x", "imports trio, which wire/ does without"),
        (
            check_doors,
            "identity/tokens.py",
            "import json",
            "identity/tokens.py: is named a door to jwt and does not import it",
        ),
        (check_task_starts, "chat/rooms.py", "nursery.start_soon(f)", "chat/rooms.py:1: starts tasks with start_soon"),
        (check_task_starts, "store/rooms.py", "async def send():\n    await n.start(f)", "starts tasks with start"),
        (check_task_starts, "bus/hub.py", "async def f():\n    trio.open_nursery()", "starts tasks with open_nursery"),
        (check_task_starts, "wire/x.py", "async def open_x():\n    n.start_soon(f)", "starts tasks with start_soon"),
        (
            check_task_starts,
            "bus/hub.py",
            "async def open_x():\n    spawn_system_task(f)",
            "tasks with spawn_system_task",
        ),
        (check_whole_config, "nursery.py", "from chatd.config import Config", "nursery.py:1: sees the whole config"),
        (
            check_whole_config,
            "chat/x.py",
            "from chatd import config\nx: config.Config",
            "x.py:2: sees the whole config",
        ),
        (check_whole_config, "chat/x.py", "from chatd.configfile import load_config", "sees the whole config"),
        (check_modules, "chat/rooms.py", '"""A."""\n' + "\n" * 400, "chat/rooms.py: has 401 lines, more than 400"),
        (check_modules, "chat/rooms.py", "x = 1", "chat/rooms.py: has no docstring"),
        (check_modules, "chat/utils.py", '"""A."""', "chat/utils.py: is named utils, which says nothing"),
        (check_modules, "store/room_manager.py", '"""A."""', "is named manager, which says nothing"),
        (check_modules, "common/rooms.py", '"""A."""', "is named common, which says nothing"),
        (check_private_names_stay_in_their_module, "nursery.py", "x._state", "nursery.py:1: touches _state, which is"),
        (check_private_names_stay_in_their_module, "nursery.py", "x._state = 1", "nursery.py:1: touches _state"),
        (check_sql_stands_in_files, "store/rooms.py", 'x = "SELECT 1"', "store/rooms.py:1: holds SQL"),
        (check_sql_stands_in_files, "store/rooms.py", 'f"insert into {x} values (1)"', "holds SQL"),
        (check_sql_stands_in_files, "store/sqlite.py", "x = 'DELETE FROM rooms'", "holds SQL"),
        (check_sql_stands_in_files, "server.py", "x = 'UPDATE rooms\\nSET name = 1'", "holds SQL"),
        (check_sql_stands_in_files, "store/rooms.py", "x = 'CREATE TABLE x (y)'", "holds SQL"),
        (check_sql_stands_in_files, "store/rooms.py", "x = 'PRAGMA foreign_keys = OFF'", "holds SQL"),
        (check_queries_are_used, "store/rooms.py", "Q['rooms.gone']", "store/rooms.py:1: there is no query rooms.gone"),
        (check_queries_are_used, "store/rooms.py", "", "sql/queries/rooms.sql: nobody uses rooms.by_id"),
        (check_queries_are_used, "store/rooms.py", '"""rooms.by_id"""', "nobody uses rooms.by_id"),
    ],
)
def test_breaking_a_rule_is_found(
    tmp_path: Path, rule: Callable[[Path], Iterator[str]], path: str, text: str, sentence: str
) -> None:
    root = tree_with(tmp_path, {f"chatd/{path}": text, "sql/queries/rooms.sql": "-- name: by_id\n"})
    assert [found for found in rule(root) if sentence in found]


SOUND: Final = {
    "__main__.py": '"""A."""\nfrom chatd import client, server\nfrom chatd.config import Config',
    "server.py": '"""A."""\nfrom chatd.configfile import load_config\nfrom chatd import nursery\nn.start_soon(f)',
    "nursery.py": '"""A."""\nimport trio\nfrom chatd.chat import rooms\nfrom chatd.config import WebSocketOptions',
    "chat/rooms.py": '"""A."""\nfrom chatd.chat.members import x\nfrom chatd import store\nfrom chatd.config import x',
    "bus/hub.py": '"""A."""\nfrom chatd.wire import x\nasync def open_hub():\n    def f():\n        n.start_soon(f)',
    "store/rooms.py": '"""SELECT x FROM y"""\nQ["rooms.by_id"]\n"select a room from the list"\nx.start()',
    "decoding.py": '"""A."""\nimport msgspec\nclass A:\n    def f(self):\n        self._x = 1\nA()._x',
    "store/sqlite.py": '"""A."""\nimport sqlite3\nx = "PRAGMA foreign_keys = ON"\ny = "BEGIN IMMEDIATE"',
    "wire/outbox.py": '"""A."""\nimport socket\nfrom chatd import __version__\nfrom chatd.errors import Disconnect',
    "client/link.py": '"""A."""\nimport trio_websocket\nfrom chatd.protocol import x\nfrom chatd import telemetry',
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_keeping_the_rules_is_not_complained_about(tmp_path: Path, rule: Callable[[Path], Iterator[str]]) -> None:
    files = {f"chatd/{path}": text for path, text in SOUND.items()}
    root = tree_with(tmp_path, {**files, "sql/queries/rooms.sql": "-- name: by_id\n"})
    assert list(rule(root)) == []
