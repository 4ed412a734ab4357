"""Every option of chatd.toml as typed records: one a table, with defaults and what is allowed.

What each option is for stands in `chatd.toml`, the manual, which a test holds equal to this module. `configfile`
reads the file and the environment into these records, `identity` the secrets that live in files. Only `server` and
`__main__` see the whole `Config`; everything else is given its own table and may trust what it finds there.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct

from chatd.secret import MIN_SECRET_BYTES as MIN_SECRET_BYTES
from chatd.secret import Secret as Secret
from chatd.secret import secret_fault as secret_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: In `http.cors_origins`: pages of any origin, without credentials.
ANY_ORIGIN: Final = "*"


class ConfigError(Exception):
    """The configuration cannot be used; `str()` of it is one sentence that names where and what."""


Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=86_400)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=2**53)]
#: 0 means no limit
Limit: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=100)]
#: (option, what is wrong with it)
Fault: TypeAlias = tuple[str, str]


class Features(Struct, frozen=True, kw_only=True):
    """What can be switched off, also by a reload; what is off answers `feature_disabled`."""

    registration: bool = True
    room_creation: bool = True
    edits: bool = True
    reactions: bool = True
    pins: bool = True
    threads: bool = True
    receipts: bool = True
    direct_messages: bool = True
    blocks: bool = True
    moderation: bool = True
    invitations: bool = True
    presence: bool = True
    typing: bool = True
    notifications: bool = True
    search: bool = True
    profiles: bool = True
    uploads: bool = True


class ServerOptions(Struct, frozen=True, kw_only=True):
    """The process. `configfile` fills in `data_dir` and `node_name` where they are empty."""

    data_dir: str = ""
    node_name: Annotated[str, Meta(max_length=100)] = ""
    public_url: str = ""
    drain_s: Seconds = 10
    lobby: Name = "lobby"
    features: Features = Features()

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir)

    def faults(self) -> Iterator[Fault]:
        if self.public_url and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", self.public_url):
            yield "public_url", f"expected a URL like https://chat.example.org, got {self.public_url!r}"


class WebSocketOptions(Struct, frozen=True, kw_only=True):
    """The port that clients talk on."""

    host: Name = "127.0.0.1"
    port: Port = 3001
    reuse_port: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    origins: tuple[str, ...] = ()
    handshake_timeout_s: Seconds = 10
    auth_timeout_s: Seconds = 5
    heartbeat_s: Seconds = 20
    dead_after_s: Seconds = 30
    write_timeout_s: Seconds = 30
    close_timeout_s: Seconds = 5
    message_bytes: Positive = 65_536
    outbox_bytes: Positive = 1_048_576
    fanout_slice: Positive = 500

    def faults(self) -> Iterator[Fault]:
        yield from _origin_faults("origins", self.origins)
        yield from _tls_faults(self.tls_cert, self.tls_key)
        if self.dead_after_s <= self.heartbeat_s:
            yield "dead_after_s", f"must be more than heartbeat_s, which is {self.heartbeat_s:g}"
        if self.outbox_bytes < self.message_bytes:
            yield "outbox_bytes", f"must be at least message_bytes, which is {self.message_bytes}"


class HttpOptions(Struct, frozen=True, kw_only=True):
    """The side-listener."""

    host: Name = "127.0.0.1"
    port: Port = 3000
    reuse_port: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    trusted_proxies: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_connections: Limit = 1000
    connections_per_address: Limit = 100
    head_timeout_s: Seconds = 10
    body_timeout_s: Seconds = 30
    body_total_s: Seconds = 60
    write_timeout_s: Seconds = 30
    idle_timeout_s: Seconds = 75
    max_json_bytes: Positive = 1_048_576
    metrics_allow: tuple[str, ...] = ("127.0.0.0/8", "::1")
    metrics_token: Secret = Secret()

    def faults(self) -> Iterator[Fault]:
        yield from _origin_faults("cors_origins", [origin for origin in self.cors_origins if origin != ANY_ORIGIN])
        yield from _tls_faults(self.tls_cert, self.tls_key)
        yield from _network_faults("trusted_proxies", self.trusted_proxies)
        yield from _network_faults("metrics_allow", self.metrics_allow)


class DatabaseOptions(Struct, frozen=True, kw_only=True):
    """What is kept, and how much of it is written at once."""

    url: Secret = Secret()
    pool_min: Positive = 1
    pool_max: Positive = 8
    committers: Annotated[int, Meta(ge=1, le=64)] = 2
    timeout_s: Seconds = 3
    migrate: bool = False
    readers: Annotated[int, Meta(ge=1, le=64)] = 2
    journal_max_waiting: Positive = 10_000
    journal_space_s: Seconds = 5
    commit_max_entries: Positive = 500
    commit_max_characters: Positive = 500_000

    def faults(self) -> Iterator[Fault]:
        if self.url and not self.url.reveal().startswith(("postgresql://", "postgres://")):
            yield "url", "expected a URL like postgresql://user:password@host/database"
        if self.pool_max < self.pool_min:
            yield "pool_max", f"must be at least pool_min, which is {self.pool_min}"
        if self.pool_max <= self.committers:
            yield "pool_max", f"must be more than committers, which is {self.committers}, so that reading goes on"


class BusOptions(Struct, frozen=True, kw_only=True):
    """How nodes hear of each other."""

    url: Secret = Secret()
    prefix: Annotated[str, Meta(pattern=r"^[\w.-]{1,50}$")] = "chatd"
    timeout_s: Seconds = 2

    def faults(self) -> Iterator[Fault]:
        if self.url and not self.url.reveal().startswith(("redis://", "rediss://", "unix://")):
            yield "url", "expected a URL like redis://host:6379/0"


class AuthOptions(Struct, frozen=True, kw_only=True):
    """Sign-in, tokens and passwords."""

    secret: Secret = Secret()
    secret_file: str = ""
    previous_secret: Secret = Secret()
    access_minutes: Annotated[int, Meta(ge=1, le=1440)] = 15
    refresh_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    bcrypt_cost: Annotated[int, Meta(ge=4, le=20)] = 12
    bcrypt_workers: Annotated[int, Meta(ge=1, le=64)] = 2
    min_password_length: Annotated[int, Meta(ge=1, le=72)] = 8

    def faults(self) -> Iterator[Fault]:
        for option, secret in (("secret", self.secret), ("previous_secret", self.previous_secret)):
            if secret and (fault := secret_fault(secret)):
                yield option, fault
        if self.secret and self.secret_file:
            yield "secret_file", "cannot be given beside secret: keep one of the two"


class LimitOptions(Struct, frozen=True, kw_only=True):
    """How much one may do; 0 means no limit."""

    messages_per_minute: Limit = 30
    rooms_per_hour: Limit = 5
    joins_per_hour: Limit = 20
    conversations_per_hour: Limit = 60
    renames_per_hour: Limit = 5
    invitations_per_room: Limit = 1000
    requests_per_minute: Limit = 120
    refusals_per_minute: Limit = 20
    sign_ins_per_hour: Limit = 10
    api_per_minute: Limit = 100
    uploads_per_hour: Limit = 20
    connections: Limit = 20_000
    connections_per_address: Limit = 100
    connections_per_user: Limit = 20
    new_connections_per_second: Limit = 500
    rooms_per_user: Limit = 1000
    blocks_per_user: Limit = 1000
    members_per_room: Limit = 100_000
    content_characters: Limit = 10_000
    metadata_bytes: Limit = 4096
    metadata_depth: Limit = 16
    reactions_per_message: Limit = 20
    users_per_reaction: Limit = 5000
    pins_per_room: Limit = 50
    client_message_id_bytes: Annotated[int, Meta(ge=0, le=64)] = 64


class PresenceOptions(Struct, frozen=True, kw_only=True):
    """When a user counts as online, and who hears of it."""

    offline_after_s: Seconds = 30
    grace_s: Seconds = 10
    max_members: Limit = 500


class TypingOptions(Struct, frozen=True, kw_only=True):
    """How long somebody counts as typing, and how often others are told."""

    expires_s: Seconds = 5
    every_s: Seconds = 3
    max_typists: Positive = 10_000


class ReceiptOptions(Struct, frozen=True, kw_only=True):
    """Who is told what was read and delivered, and how often that is looked at."""

    read_max_members: Limit = 500
    delivered_max_members: Limit = 50
    delivered_every_s: Seconds = 1
    delivered_per_second: Positive = 500


class MessageOptions(Struct, frozen=True, kw_only=True):
    """What is done with messages."""

    history: Annotated[int, Meta(ge=1, le=100)] = 50
    tail: Annotated[int, Meta(ge=0, le=10_000)] = 100
    html: Literal["strip", "keep", "escape"] = "strip"
    word_filter: tuple[str, ...] = ()
    word_filter_file: str = ""
    word_filter_action: Literal["mask", "refuse"] = "mask"
    link_previews: bool = False


class PreviewOptions(Struct, frozen=True, kw_only=True):
    """Reading the pages that messages link to."""

    workers: Annotated[int, Meta(ge=1, le=64)] = 2
    max_waiting: Positive = 100
    timeout_s: Seconds = 5
    max_bytes: Annotated[int, Meta(ge=1024, le=16_777_216)] = 131_072
    redirects: Annotated[int, Meta(ge=0, le=20)] = 3


class SearchOptions(Struct, frozen=True, kw_only=True):
    """Finding messages by their words."""

    query_characters: Annotated[int, Meta(ge=1, le=1000)] = 200
    matches: Annotated[int, Meta(ge=1, le=2000)] = 200
    timeout_s: Seconds = 1
    index_per_second: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000


class NotificationOptions(Struct, frozen=True, kw_only=True):
    """Telling users of what concerns them."""

    max_mentions: Annotated[int, Meta(ge=0, le=100)] = 20
    keep_days: Annotated[int, Meta(ge=1, le=3650)] = 90


class ResumeOptions(Struct, frozen=True, kw_only=True):
    """What a client that comes back is sent."""

    max_events: Positive = 10_000


FileKind: TypeAlias = Literal["jpeg", "png", "gif", "webp", "pdf", "txt", "markdown", "zip"]


class UploadOptions(Struct, frozen=True, kw_only=True):
    """Files that users send. `configfile` fills in `dir` where it is empty."""

    dir: str = ""
    kinds: tuple[FileKind, ...] = ("jpeg", "png", "gif", "webp", "pdf", "txt", "markdown", "zip")
    max_bytes: Positive = 10_485_760
    total_s: Annotated[float, Meta(gt=0, le=3600)] = 600
    quota_bytes: Limit = 1_073_741_824
    bytes_per_second: Limit = 33_554_432
    at_once: Positive = 200
    at_once_per_user: Positive = 4
    keep_unshown_hours: Positive = 24
    link_hours: Annotated[int, Meta(ge=1, le=720)] = 24
    image_width: Annotated[int, Meta(ge=16, le=16_384)] = 2000
    thumbnail_width: Annotated[int, Meta(ge=16, le=4096)] = 300
    image_pixels: Positive = 50_000_000
    image_memory_bytes: Annotated[int, Meta(ge=2**28, le=2**40)] = 1_073_741_824
    image_s: Annotated[float, Meta(gt=0, le=600)] = 30
    images_at_once: Annotated[int, Meta(ge=1, le=64)] = 2
    s3_url: str = ""
    s3_region: Name = "us-east-1"
    s3_key_id: str = ""
    s3_secret: Secret = Secret()
    s3_timeout_s: Seconds = 10

    def faults(self) -> Iterator[Fault]:
        if self.s3_url and not re.fullmatch(r"https?://[^/\s?#]+(/[\w.-]+)+/?", self.s3_url):
            yield "s3_url", f"expected a URL like https://s3.example.org/bucket/prefix, got {self.s3_url!r}"
        if self.s3_url and not (self.s3_key_id and self.s3_secret):
            yield "s3_key_id", "has to be given, and s3_secret, where s3_url is"


class AuditOptions(Struct, frozen=True, kw_only=True):
    """The trail of who did what."""

    messages: bool = True
    keep_days: Annotated[int, Meta(ge=1, le=3650)] = 90
    per_second: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000


class TelemetryOptions(Struct, frozen=True, kw_only=True):
    """What the daemon says of itself."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    slow_ms: Limit = 500
    canary_s: Annotated[float, Meta(ge=0.1, le=60)] = 2


class Config(Struct, frozen=True, kw_only=True):
    """All tables of chatd.toml. `Config()` is the built-in defaults, before anything is filled in."""

    server: ServerOptions = ServerOptions()
    websocket: WebSocketOptions = WebSocketOptions()
    http: HttpOptions = HttpOptions()
    database: DatabaseOptions = DatabaseOptions()
    bus: BusOptions = BusOptions()
    auth: AuthOptions = AuthOptions()
    limits: LimitOptions = LimitOptions()
    presence: PresenceOptions = PresenceOptions()
    typing: TypingOptions = TypingOptions()
    receipts: ReceiptOptions = ReceiptOptions()
    messages: MessageOptions = MessageOptions()
    previews: PreviewOptions = PreviewOptions()
    search: SearchOptions = SearchOptions()
    notifications: NotificationOptions = NotificationOptions()
    resume: ResumeOptions = ResumeOptions()
    uploads: UploadOptions = UploadOptions()
    audit: AuditOptions = AuditOptions()
    telemetry: TelemetryOptions = TelemetryOptions()


def _origin_faults(option: str, origins: Iterable[str]) -> Iterator[Fault]:
    for origin in origins:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            yield option, f"expected origins like https://chat.example.org, without a path, got {origin!r}"


def _tls_faults(cert: str, key: str) -> Iterator[Fault]:
    if cert and not key:
        yield "tls_key", "is missing: a certificate needs its key, which may stand in the same file"
    if key and not cert:
        yield "tls_cert", "is missing: a key is of no use without its certificate"


def _network_faults(option: str, networks: Iterable[str]) -> Iterator[Fault]:
    for network in networks:
        try:
            ip_network(network)
        except ValueError:
            yield option, f"expected addresses or networks like 10.0.0.0/8, got {network!r}"
