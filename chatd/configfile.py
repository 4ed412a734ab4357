"""Reads chatd.toml and the environment into a `Config`; called by `__main__`, for every command.

The file's values win over the defaults, `CHATD_<TABLE>_<OPTION>` wins over the file. What is not known, of a wrong
type or out of range is refused with one sentence that says where it stands.
"""

from __future__ import annotations

import difflib
import re
import socket
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from chatd.config import Config, ConfigError, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

DEFAULT_PATH: Final = Path("chatd.toml")
DEFAULT_DATA_DIR: Final = "./chatd-data"
PREFIX: Final = "CHATD_"
#: A table's and an option's line, as they are usually written.
_HEADER: Final = re.compile(r"\s*\[\s*([\w.-]+)\s*\]")
_NAME: Final = re.compile(r"\s*\"?([\w-]+)\"?\s*=")
#: What a reload may change while the daemon runs: tables, and options of others.
LIVE: Final = frozenset(
    {"limits", "server.features", "typing", "websocket.origins", "http.cors_origins", "telemetry.log_level"}
)


@dataclass(frozen=True, slots=True)
class Option:
    """One option: where it stands (`server.features` is a table as well), its type and its default."""

    table: str
    name: str
    type: Any
    default: Any

    @property
    def variable(self) -> str:
        return f"{PREFIX}{self.table}_{self.name}".replace(".", "_").upper()


@dataclass(frozen=True, slots=True)
class _Given:
    """A value that somebody gave, still of any type, and the words for where."""

    place: str
    value: object
    is_text: bool


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read `path` (None: `chatd.toml` in the working directory, if there is one) and `environ`.

    `server.data_dir`, `server.node_name` and `uploads.dir` are filled in where they are empty. Reads the one file and
    changes nothing. Raises `ConfigError`.
    """
    if path is None:
        path = DEFAULT_PATH if DEFAULT_PATH.exists() else None
    given = _from_file(path) if path else {}
    given |= _from_environment(environ)
    config = _build(Config, "", given)
    for table, record in _records(config):
        faults: Callable[[], Iterable[tuple[str, str]]] = getattr(record, "faults", tuple)
        for option, fault in faults():
            source = given.get((table, option))
            place = source.place if source else _Places(path or DEFAULT_PATH).of(table, option)
            raise ConfigError(f"{place}: {fault}")
    return _filled_in(config, environ)


def with_live_options(running: Config, read: Config) -> Config:
    """The configuration that runs, with those options of the one that was read which can change live."""
    changed: Config = _with_live(running, read, "")
    return changed


def _with_live(running: Any, read: Any, table: str) -> Any:
    values = {}
    for name, value in msgspec.structs.asdict(read).items():
        inner = f"{table}.{name}".removeprefix(".")
        if inner in LIVE:
            values[name] = value
        elif isinstance(value, Struct):
            values[name] = _with_live(getattr(running, name), value, inner)
    return msgspec.structs.replace(running, **values)


def differing_options(one: Config, other: Config) -> list[str]:
    """The options that the two do not have in common, as table and name, in the order of the records."""
    tables, other_tables = dict(_records(one)), dict(_records(other))
    return [
        f"{option.table}.{option.name}"
        for option in known_options()
        if getattr(tables[option.table], option.name) != getattr(other_tables[option.table], option.name)
    ]


@cache
def known_options() -> tuple[Option, ...]:
    """Return every option, in the order of the records."""
    return tuple(_options(Config, ""))


def _options(record: type[Struct], table: str) -> Iterator[Option]:
    types = get_type_hints(record, include_extras=True)
    for field in msgspec.structs.fields(record):
        if _is_record(types[field.name]):
            yield from _options(types[field.name], f"{table}.{field.name}".removeprefix("."))
        else:
            yield Option(table, field.name, types[field.name], field.default)


def _records(record: Struct, table: str = "") -> Iterator[tuple[str, Struct]]:
    """Each table with its record, the whole first."""
    yield table, record
    for name, value in msgspec.structs.asdict(record).items():
        if isinstance(value, Struct):
            yield from _records(value, f"{table}.{name}".removeprefix("."))


def _is_record(type_: object) -> bool:
    return isinstance(type_, type) and issubclass(type_, Struct)


def _from_file(path: Path) -> dict[tuple[str, str], _Given]:
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    return dict(_flattened(_Places(path, text), "", tables))


class _Places:
    """Where in a file its options stand: the file, the line where that can be told, and the table."""

    def __init__(self, path: Path, text: str = "") -> None:
        self._path = path
        self._lines: dict[tuple[str, str], int] = {}
        table = ""
        for number, line in enumerate(text.split("\n"), 1):
            if header := _HEADER.match(line):
                table = header[1]
                self._lines.setdefault((table, ""), number)
            elif name := _NAME.match(line):
                self._lines.setdefault((table, name[1]), number)

    def of(self, table: str, name: str = "") -> str:
        """Of an option; of a table without a name, and of what stands outside of every table without a table."""
        line = self._lines.get((table, name))
        file = f"{self._path}:{line}" if line else f"{self._path}"
        return f"{file}: " + " ".join(part for part in (table and f"[{table}]", name) if part)


def _flattened(places: _Places, table: str, values: dict[str, Any]) -> Iterator[tuple[tuple[str, str], _Given]]:
    tables = {option.table for option in known_options()}
    for name, value in values.items():
        inner = f"{table}.{name}".removeprefix(".")
        if inner in tables:
            if not isinstance(value, dict):
                raise ConfigError(f"{places.of(inner)}: expected a table, got {type(value).__name__}")
            yield from _flattened(places, inner, value)
        elif not table:
            _refuse_outside_tables(places, name, value, tables)
        elif any((option.table, option.name) == (table, name) for option in known_options()):
            yield (table, name), _Given(places.of(table, name), value, is_text=False)
        else:
            raise ConfigError(f"{places.of(table, name)}: unknown option{_better_option(table, name)}")


def _refuse_outside_tables(places: _Places, name: str, value: object, tables: Iterable[str]) -> None:
    if isinstance(value, dict):
        raise ConfigError(f"{places.of(name)}: unknown table{_nearest(name, tables, '[{}]')}")
    homes = _tables_with(name)
    hint = f"; it belongs in {homes}" if homes else ""
    raise ConfigError(f"{places.of('', name)}: stands outside of every table{hint}")


def _from_environment(environ: Mapping[str, str]) -> dict[tuple[str, str], _Given]:
    options = {option.variable: option for option in known_options()}
    given = {}
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        if variable not in options:
            raise ConfigError(f"{variable}: unknown environment variable{_nearest(variable, options)}")
        option = options[variable]
        given[option.table, option.name] = _Given(variable, environ[variable], is_text=True)
    return given


def _better_option(table: str, name: str) -> str:
    homes = _tables_with(name)
    if homes:
        return f"; it belongs in {homes}"
    return _nearest(name, [option.name for option in known_options() if option.table == table])


def _tables_with(name: str) -> str:
    return " or ".join(f"[{option.table}]" for option in known_options() if option.name == name)


def _nearest(name: str, known: Iterable[str], form: str = "{}") -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {form.format(nearest[0])}?" if nearest else ""


def _build(record: type[Any], table: str, given: Mapping[tuple[str, str], _Given]) -> Any:
    types = get_type_hints(record, include_extras=True)
    values = {}
    for name, type_ in types.items():
        if _is_record(type_):
            values[name] = _build(type_, f"{table}.{name}".removeprefix("."), given)
        elif (table, name) in given:
            values[name] = _converted(given[table, name], type_)
    return record(**values)


def _converted(given: _Given, type_: Any) -> object:
    value = given.value
    if type_ is Secret:
        if not isinstance(value, str):
            raise ConfigError(f"{given.place}: expected str, got {type(value).__name__}")
        return Secret(value)
    if given.is_text and get_origin(type_) is tuple:
        value = [item.strip() for item in str(value).split(",") if item.strip()]
    try:
        return msgspec.convert(value, type_, strict=not given.is_text)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{given.place}: {_explained(str(error), given, type_)}") from None


def _explained(error: str, given: _Given, type_: Any) -> str:
    """Turn msgspec's "Expected `int` <= 65535" into "expected int <= 65535, got 70000"."""
    if get_origin(type_) is Literal and isinstance(given.value, str):
        return f"expected {', '.join(get_args(type_)[:-1])} or {get_args(type_)[-1]}, got {given.value!r}"
    sentence = error.replace("`", "")
    sentence = re.sub(r" - at \$\[(\d+)\]", lambda found: f" as item {int(found[1]) + 1}", sentence)
    sentence = sentence[0].lower() + sentence[1:]
    if given.is_text:
        # everything in the environment is text: what it says tells more than that it is
        sentence = sentence.removesuffix(", got str")
    return sentence if ", got " in sentence else f"{sentence}, got {given.value!r}"


def _filled_in(config: Config, environ: Mapping[str, str]) -> Config:
    # systemd gives all StateDirectory= of a unit, separated by colons (systemd.exec(5))
    state_dir = environ.get("STATE_DIRECTORY", "").split(":")[0]
    data_dir = config.server.data_dir or state_dir or DEFAULT_DATA_DIR
    node_name = config.server.node_name or socket.gethostname()
    return msgspec.structs.replace(
        config,
        server=msgspec.structs.replace(config.server, data_dir=data_dir, node_name=node_name),
        uploads=msgspec.structs.replace(config.uploads, dir=config.uploads.dir or str(Path(data_dir, "uploads"))),
    )
