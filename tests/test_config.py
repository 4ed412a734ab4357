"""Every option: the manual equals the code, what is wrong is named in one sentence, the environment wins."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chatd.config import (
    AuthOptions,
    BusOptions,
    Config,
    ConfigError,
    DatabaseOptions,
    HttpOptions,
    Secret,
    WebSocketOptions,
    secret_fault,
)
from chatd.configfile import Option, known_options, load_config

if TYPE_CHECKING:
    from collections.abc import Callable

MANUAL = Path(__file__).parent.parent / "chatd.toml"
LONG = "s" * 32


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write a chatd.toml into the working directory, which is an empty one."""
    monkeypatch.chdir(tmp_path)

    def write_config(text: str) -> Path:
        path = Path("chatd.toml")
        path.write_text(text, encoding="utf-8")
        return path

    return write_config


def refusal(path: Path | None = None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ)
    return str(caught.value)


# The manual


def manual_value(option: Option) -> Any:
    value: Any = tomllib.loads(MANUAL.read_text(encoding="utf-8"))
    for name in (*option.table.split("."), option.name):
        value = value[name]
    return value


@pytest.mark.parametrize("option", known_options(), ids=lambda option: option.variable)
def test_manual_gives_the_default_of_the_code(option: Option) -> None:
    value = manual_value(option)
    default = option.default
    if isinstance(default, Secret):
        default = default.reveal()
    assert (tuple(value) if isinstance(value, list) else value) == default


def test_manual_knows_every_option_and_nothing_else() -> None:
    def names(values: dict[str, Any], table: str = "") -> set[str]:
        found = set()
        for name, value in values.items():
            inner = f"{table}.{name}".removeprefix(".")
            found |= names(value, inner) if isinstance(value, dict) else {inner}
        return found

    manual = names(tomllib.loads(MANUAL.read_text(encoding="utf-8")))
    assert manual == {f"{option.table}.{option.name}" for option in known_options()}


def test_manual_says_the_reason_of_every_option_and_the_unit_of_every_number() -> None:
    lines = MANUAL.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if found := re.match(r"(\w+) = (.*)", line):
            comment = lines[number - 1]
            form = r"# \([a-z ]+\) \S.{8,}" if found[2].isdigit() else r"# \S.{8,}"
            assert re.fullmatch(form, comment), f"{found[1]} has no comment of the form {form} above it"


def test_manual_as_it_is_changes_nothing(write: Callable[[str], Path]) -> None:
    assert load_config(MANUAL, {}) == load_config(None, {})


# The file


def test_file_wins_over_the_defaults(write: Callable[[str], Path]) -> None:
    path = write('[http]\nport = 8080\ncors_origins = ["https://a.example"]\n[server.features]\nregistration = false')
    config = load_config(path, {})
    assert config.http == HttpOptions(port=8080, cors_origins=("https://a.example",))
    assert not config.server.features.registration
    assert config.server.features.room_creation
    assert config.websocket == WebSocketOptions()


def test_pages_of_any_origin_may_be_let_in(write: Callable[[str], Path]) -> None:
    assert load_config(write('[http]\ncors_origins = ["*"]'), {}).http.cors_origins == ("*",)


def test_file_in_the_working_directory_is_found(write: Callable[[str], Path]) -> None:
    assert load_config(None, {}).http.port == 3000
    write("[http]\nport = 8080")
    assert load_config(None, {}).http.port == 8080


def test_whole_number_is_a_number_of_seconds(write: Callable[[str], Path]) -> None:
    assert load_config(write("[http]\nhead_timeout_s = 3"), {}).http.head_timeout_s == 3
    assert load_config(write("[http]\nhead_timeout_s = 0.5"), {}).http.head_timeout_s == 0.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[http]\nport = "80"', "chatd.toml: [http] port: expected int, got str"),
        ("[http]\nport = true", "chatd.toml: [http] port: expected int, got bool"),
        ("[http]\nport = 65536", "chatd.toml: [http] port: expected int <= 65535, got 65536"),
        ("[http]\nport = -1", "chatd.toml: [http] port: expected int >= 0, got -1"),
        ("[http]\nprot = 1", "chatd.toml: [http] prot: unknown option; did you mean port?"),
        ("[http]\nzzzz = 1", "chatd.toml: [http] zzzz: unknown option"),
        ("[http]\nheartbeat_s = 1", "chatd.toml: [http] heartbeat_s: unknown option; it belongs in [websocket]"),
        ("[http.port]\na = 1", "chatd.toml: [http] port: expected int, got object"),
        ("[htpp]\nport = 1", "chatd.toml: [htpp]: unknown table; did you mean [http]?"),
        ("[zzzz]\nport = 1", "chatd.toml: [zzzz]: unknown table"),
        ("port = 1", "chatd.toml: port: stands outside of every table; it belongs in [websocket] or [http]"),
        ("zzzz = 1", "chatd.toml: zzzz: stands outside of every table"),
        ("http = 1", "chatd.toml: [http]: expected a table, got int"),
        ("[server]\nfeatures = []", "chatd.toml: [server.features]: expected a table, got list"),
        (
            "[server.features]\nregistratoin = false",
            "chatd.toml: [server.features] registratoin: unknown option; did you mean registration?",
        ),
        ("[server]\ndrain_s = 0", "chatd.toml: [server] drain_s: expected float > 0.0, got 0"),
        ("[server]\ndrain_s = inf", "chatd.toml: [server] drain_s: expected float <= 86400.0, got inf"),
        ("[server]\ndrain_s = nan", "chatd.toml: [server] drain_s: expected float > 0.0, got nan"),
        ('[server]\nlobby = ""', "chatd.toml: [server] lobby: expected str of length >= 1, got ''"),
        ('[websocket]\norigins = "x"', "chatd.toml: [websocket] origins: expected array, got str"),
        ("[websocket]\norigins = [1]", "chatd.toml: [websocket] origins: expected str, got int as item 1"),
        ("[auth]\nsecret = 5", "chatd.toml: [auth] secret: expected str, got int"),
        (
            '[messages]\nhtml = "burn"',
            "chatd.toml: [messages] html: expected strip, keep or escape, got 'burn'",
        ),
        ("[messages]\nhtml = 1", "chatd.toml: [messages] html: expected str, got int"),
        ("[messages]\nhistory = 101", "chatd.toml: [messages] history: expected int <= 100, got 101"),
        (
            "[websocket]\nheartbeat_s = 40",
            "chatd.toml: [websocket] dead_after_s: must be more than heartbeat_s, which is 40",
        ),
        (
            "[websocket]\noutbox_bytes = 10",
            "chatd.toml: [websocket] outbox_bytes: must be at least message_bytes, which is 65536",
        ),
        (
            '[websocket]\norigins = ["https://a.example/"]',
            (
                "chatd.toml: [websocket] origins: expected origins like https://chat.example.org, without a path, "
                "got 'https://a.example/'"
            ),
        ),
        (
            '[http]\ncors_origins = ["a.example"]',
            (
                "chatd.toml: [http] cors_origins: expected origins like https://chat.example.org, without a path, "
                "got 'a.example'"
            ),
        ),
        (
            '[websocket]\norigins = ["*"]',
            (
                "chatd.toml: [websocket] origins: expected origins like https://chat.example.org, without a path, "
                "got '*'"
            ),
        ),
        (
            "[limits]\nclient_message_id_bytes = 65",
            "chatd.toml: [limits] client_message_id_bytes: expected int <= 64, got 65",
        ),
        (
            '[http]\ntrusted_proxies = ["proxy"]',
            "chatd.toml: [http] trusted_proxies: expected addresses or networks like 10.0.0.0/8, got 'proxy'",
        ),
        (
            '[http]\nmetrics_allow = ["::1", "10.0.0.1/8"]',
            "chatd.toml: [http] metrics_allow: expected addresses or networks like 10.0.0.0/8, got '10.0.0.1/8'",
        ),
        (
            '[server]\npublic_url = "chat.example.org"',
            "chatd.toml: [server] public_url: expected a URL like https://chat.example.org, got 'chat.example.org'",
        ),
        (
            '[database]\nurl = "mysql://u:hunter2@h/d"',
            "chatd.toml: [database] url: expected a URL like postgresql://user:password@host/database",
        ),
        ("[database]\npool_min = 9", "chatd.toml: [database] pool_max: must be at least pool_min, which is 9"),
        ('[bus]\nurl = "amqp://h"', "chatd.toml: [bus] url: expected a URL like redis://host:6379/0"),
        (
            '[auth]\nsecret = "hunter2"',
            "chatd.toml: [auth] secret: must be at least 32 bytes long, got 7: make one with `openssl rand -base64 48`",
        ),
        (
            f'[auth]\nsecret = "{LONG}"\nsecret_file = "x"',
            "chatd.toml: [auth] secret_file: cannot be given beside secret: keep one of the two",
        ),
        (
            '[auth]\nprevious_secret = "hunter2"',
            (
                "chatd.toml: [auth] previous_secret: must be at least 32 bytes long, got 7: "
                "make one with `openssl rand -base64 48`"
            ),
        ),
        ("[http", "chatd.toml: is not valid TOML: Expected ']' at the end of a table declaration (at end of document)"),
    ],
)
def test_what_is_wrong_in_the_file_is_named_in_one_sentence(
    write: Callable[[str], Path], text: str, sentence: str
) -> None:
    # The line has a test of its own.
    assert re.sub(r"^chatd\.toml:\d+:", "chatd.toml:", refusal(write(text))) == sentence


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("# A comment.\n[http]\nhost = '::1'\nport = 65536", "chatd.toml:4: [http] port: "),
        ("[http]\n  prot = 1", "chatd.toml:2: [http] prot: "),
        ("# A\u2028line\x85to others\n[http]\nprot = 1", "chatd.toml:3: [http] prot: "),
        ("[auth]\n[server.features]\n\nsearsh = true", "chatd.toml:4: [server.features] searsh: "),
        ("\n[ htpp ]\nport = 1", "chatd.toml:2: [htpp]: "),
        ("\nport = 1", "chatd.toml:2: port: "),
        ("[auth]\nsecret = 'hunter2'", "chatd.toml:2: [auth] secret: "),
        # Written otherwise, it is named without its line.
        ("http.port = 65536", "chatd.toml: [http] port: "),
        ("[websocket]\nheartbeat_s = 40", "chatd.toml: [websocket] dead_after_s: "),
    ],
)
def test_line_of_what_is_wrong_is_said(write: Callable[[str], Path], text: str, place: str) -> None:
    assert refusal(write(text)).startswith(place)


def test_file_that_is_not_there_is_refused_only_when_asked_for(write: Callable[[str], Path]) -> None:
    assert refusal(Path("other.toml")) == "other.toml: cannot be read: No such file or directory"
    assert load_config(None, {}).http == HttpOptions()


def test_file_that_is_not_text_is_refused(write: Callable[[str], Path]) -> None:
    path = write("")
    path.write_bytes(b"\xff\xfe")
    assert refusal(path) == "chatd.toml: is not UTF-8 text"


# The environment


def test_environment_wins_over_the_file(write: Callable[[str], Path]) -> None:
    path = write('[http]\nport = 8080\nhost = "::1"')
    config = load_config(
        path,
        {
            "CHATD_HTTP_PORT": "9090",
            "CHATD_WEBSOCKET_ORIGINS": "https://a.example, https://b.example,",
            "CHATD_WEBSOCKET_REUSE_PORT": "true",
            "CHATD_WEBSOCKET_HEARTBEAT_S": "2.5",
            "CHATD_SERVER_FEATURES_REGISTRATION": "false",
            "CHATD_MESSAGES_HTML": "keep",
            "CHATD_AUTH_SECRET": LONG,
            "HOME": "/root",
        },
    )
    assert config.http == HttpOptions(port=9090, host="::1")
    assert config.websocket == WebSocketOptions(
        origins=("https://a.example", "https://b.example"), reuse_port=True, heartbeat_s=2.5
    )
    assert not config.server.features.registration
    assert config.messages.html == "keep"
    assert config.auth == AuthOptions(secret=Secret(LONG))


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("CHATD_HTTP_PORT", "abc", "CHATD_HTTP_PORT: expected int, got 'abc'"),
        ("CHATD_HTTP_PORT", "", "CHATD_HTTP_PORT: expected int, got ''"),
        ("CHATD_HTTP_PORT", "65536", "CHATD_HTTP_PORT: expected int <= 65535, got '65536'"),
        ("CHATD_WEBSOCKET_REUSE_PORT", "maybe", "CHATD_WEBSOCKET_REUSE_PORT: expected bool, got 'maybe'"),
        ("CHATD_SERVER_DRAIN_S", "soon", "CHATD_SERVER_DRAIN_S: expected float, got 'soon'"),
        ("CHATD_SERVER_DRAIN_S", "nan", "CHATD_SERVER_DRAIN_S: expected float > 0.0, got 'nan'"),
        ("CHATD_MESSAGES_HTML", "burn", "CHATD_MESSAGES_HTML: expected strip, keep or escape, got 'burn'"),
        (
            "CHATD_HTTP_PROT",
            "1",
            "CHATD_HTTP_PROT: unknown environment variable; did you mean CHATD_HTTP_PORT?",
        ),
        (
            "CHATD_HTTP_METRICS_ALLOW",
            "::1,nowhere",
            "CHATD_HTTP_METRICS_ALLOW: expected addresses or networks like 10.0.0.0/8, got 'nowhere'",
        ),
        (
            "CHATD_AUTH_SECRET",
            "hunter2",
            "CHATD_AUTH_SECRET: must be at least 32 bytes long, got 7: make one with `openssl rand -base64 48`",
        ),
        (
            "CHATD_WEBSOCKET_HEARTBEAT_S",
            "40",
            "chatd.toml: [websocket] dead_after_s: must be more than heartbeat_s, which is 40",
        ),
    ],
)
def test_what_is_wrong_in_the_environment_is_named_in_one_sentence(
    write: Callable[[str], Path], variable: str, value: str, sentence: str
) -> None:
    assert refusal(None, **{variable: value}) == sentence


def test_no_two_options_share_a_variable() -> None:
    variables = [option.variable for option in known_options()]
    assert len(set(variables)) == len(variables)


# What is filled in


def test_data_folder_is_what_was_given_else_the_state_directory_else_in_the_working_directory(
    write: Callable[[str], Path],
) -> None:
    systemd = {"STATE_DIRECTORY": "/var/lib/chatd:/var/lib/other"}
    assert load_config(None, {}).server.data_path == Path("chatd-data")
    assert load_config(None, systemd).server.data_path == Path("/var/lib/chatd")
    assert load_config(None, systemd | {"CHATD_SERVER_DATA_DIR": "/srv"}).server.data_path == Path("/srv")
    assert load_config(write('[server]\ndata_dir = "/opt"'), systemd).server.data_path == Path("/opt")


def test_node_name_is_the_host_name_unless_given(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    assert load_config(None, {}).server.node_name == "box"
    assert load_config(None, {"CHATD_SERVER_NODE_NAME": "n1"}).server.node_name == "n1"


def test_uploads_lie_in_the_data_folder_unless_given(write: Callable[[str], Path]) -> None:
    assert load_config(None, {"CHATD_SERVER_DATA_DIR": "/srv"}).uploads.dir == "/srv/uploads"
    assert load_config(None, {"CHATD_UPLOADS_DIR": "/files"}).uploads.dir == "/files"


def test_back_ends_are_chosen_by_url() -> None:
    database, bus = "postgresql://u:p@h/d", "redis://h:6379/0"
    config = load_config(MANUAL, {"CHATD_DATABASE_URL": database, "CHATD_BUS_URL": bus})
    assert config.database == DatabaseOptions(url=Secret(database))
    assert config.bus == BusOptions(url=Secret(bus))


# Secrets


def test_secret_shows_only_when_asked() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    assert "hunter2" not in f"{secret} {secret!r} {secret!s} {[secret]}"
    assert "hunter2" not in repr(Config(auth=AuthOptions(secret=secret)))


def test_secrets_are_equal_by_what_they_hold() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert Secret("a")
    assert not Secret()


def test_wrong_secret_is_not_repeated_in_the_sentence(write: Callable[[str], Path]) -> None:
    for variable in ("CHATD_AUTH_SECRET", "CHATD_DATABASE_URL", "CHATD_BUS_URL"):
        assert "hunter2" not in refusal(None, **{variable: "hunter2"})


def test_secret_is_long_enough_from_32_bytes_on() -> None:
    assert secret_fault(Secret("x" * 31)) == (
        "must be at least 32 bytes long, got 31: make one with `openssl rand -base64 48`"
    )
    assert secret_fault(Secret("x" * 32)) is None
    assert secret_fault(Secret("é" * 16)) is None
