"""The numbers behind /metrics: how many connections, messages, deliveries, refusals, and how long it all takes.

The door to prometheus_client. Each server has a `Metrics` of its own, so several can live in one process. Whoever
knows a number holds the attribute it needs; labels take only values that are known beforehand, so that no client can
make the daemon keep ever more series. Every series is there from the start, at zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from chatd import __version__
from chatd.errors import CloseCode, ErrorCode
from chatd.protocol import MessageType
from chatd.telemetry import Defects

if TYPE_CHECKING:
    from collections.abc import Callable

RoomKind: TypeAlias = Literal["public", "private", "direct"]
UpgradeRefusal: TypeAlias = Literal[
    "bad_request", "origin", "timeout", "node_full", "address_full", "too_fast", "draining"
]
ConnectionState: TypeAlias = Literal["upgrading", "unauthenticated", "authenticated", "closing"]
Queue: TypeAlias = Literal["audit", "notifications", "acknowledgements"]
Lossy: TypeAlias = Literal["broadcasts", "notifications"]
UploadEnd: TypeAlias = Literal["stored", "refused", "broken_off"]
HealthPart: TypeAlias = Literal["database", "bus", "delivery", "canary", "loop"]

_OTHER: Final = "other"
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", _OTHER)
#: what chatd closes with, and what clients commonly say or leave unsaid (RFC 6455 section 7.4.1)
_CLOSE_CODES: Final = frozenset({1001, 1005, 1006}) | {
    code for code in vars(CloseCode).values() if isinstance(code, int)
}
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_ENTRIES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500)

# each counter's moment of birth as a series of its own, which nobody asks for
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # published without its type


class Metrics:
    """All numbers of one server. Changing one never waits and may be done from any thread."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(namespace="chatd", registry=registry)

        self.active_connections = Gauge(
            "chat_active_connections", "WebSocket connections that are open.", registry=registry
        )
        self.processing_seconds = Histogram(
            "message_processing_duration_seconds",
            "From receiving a message to its commit and acknowledgement.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.connections = Counter("chatd_connections", "WebSocket connections that were opened.", registry=registry)
        self.shed = Counter(
            "chatd_shed", "Ephemeral events that slow readers did not get (promise 6).", registry=registry
        )
        self.commits = Counter("chatd_commits", "Transactions of the journal.", registry=registry)
        self.commit_entries = Histogram(
            "chatd_commit_entries", "Entries stored by one transaction.", buckets=_ENTRIES, registry=registry
        )
        self.commit_seconds = Histogram(
            "chatd_commit_seconds", "Time that one transaction took.", buckets=_SECONDS, registry=registry
        )
        self.journal_waiting = Gauge(
            "chatd_journal_waiting", "Entries that wait for their transaction.", registry=registry
        )
        self.search_lag_seconds = Gauge(
            "chatd_search_lag_seconds",
            "How long the oldest message has waited that cannot be found yet.",
            registry=registry,
        )
        self.audit_events = Counter("chatd_audit_events", "Events written to the audit trail.", registry=registry)
        self.audit_dropped = Counter(
            "chatd_audit_dropped", "Events that the audit trail lacks because too many waited.", registry=registry
        )
        self.canary_seconds = Histogram(
            "chatd_canary_seconds",
            "From a message of the daemon's own through its port, the database and the bus back to its socket.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.loop_lag_seconds = Histogram(
            "chatd_loop_lag_seconds", "How late the event loop was.", buckets=_SECONDS, registry=registry
        )
        self.http_seconds = Histogram(
            "chatd_http_seconds", "From a request's head to the end of its answer.", buckets=_SECONDS, registry=registry
        )

        messages = Counter("chat_messages", "Messages that were stored.", ["type"], registry=registry)
        self.messages: Final[dict[MessageType, Counter]] = {
            kind: messages.labels(kind) for kind in get_args(MessageType)
        }
        rooms = Gauge("chatd_active_rooms", "Rooms with a member who is connected.", ["kind"], registry=registry)
        self.active_rooms: Final[dict[RoomKind, Gauge]] = {kind: rooms.labels(kind) for kind in get_args(RoomKind)}
        errors = Counter("chat_errors", "Requests that were refused, by both doors.", ["code"], registry=registry)
        self.errors: Final[dict[ErrorCode, Counter]] = {code: errors.labels(code) for code in get_args(ErrorCode)}
        refused = Counter(
            "chatd_refused_upgrades", "Connections refused before they were any.", ["reason"], registry=registry
        )
        self.refused_upgrades: Final[dict[UpgradeRefusal, Counter]] = {
            reason: refused.labels(reason) for reason in get_args(UpgradeRefusal)
        }
        closes = Counter("chatd_closes", "Connections that ended, by close code.", ["code"], registry=registry)
        self._closes = {code: closes.labels(str(code)) for code in sorted(_CLOSE_CODES)}
        self._other_close = closes.labels(_OTHER)
        self._add_what_is_looked_up(registry)
        self._add_times(registry)
        self._add_uploads(registry)
        self._requests = Counter("chatd_http_requests", "HTTP requests.", ["method", "status"], registry=registry)

    def _add_what_is_looked_up(self, registry: CollectorRegistry) -> None:
        """Numbers that are brought up to date before each look at them."""
        states = Gauge("chatd_connection_states", "Connections by what they are at.", ["state"], registry=registry)
        self.connection_states: dict[ConnectionState, Gauge] = {
            state: states.labels(state) for state in get_args(ConnectionState)
        }
        queues = Gauge("chatd_queue", "What waits, by what it waits for.", ["queue"], registry=registry)
        self.queues: dict[Queue, Gauge] = {queue: queues.labels(queue) for queue in get_args(Queue)}
        self.outbox_bytes = Gauge("chatd_outbox_bytes", "Bytes that wait for clients to read.", registry=registry)
        self.largest_outbox_bytes = Gauge(
            "chatd_largest_outbox_bytes", "Bytes that wait for the slowest client to read.", registry=registry
        )
        self.tail_bytes = Gauge(
            "chatd_tail_bytes", "About how much the newest events of active rooms take in memory.", registry=registry
        )
        self.rooms = Gauge("chatd_rooms_in_memory", "Rooms that are heard, or were lately.", registry=registry)
        self.repairs = Total(
            Counter("chatd_repairs", "Reads of the database to fill holes in what the bus told.", registry=registry)
        )
        self.slow_operations = Total(
            Counter("chatd_slow_operations", "Operations above telemetry.slow_ms.", registry=registry)
        )
        self.defects = Total(
            Counter("chatd_defects", "Errors that nobody expected; the log has them.", registry=registry)
        )
        self.defects.begin_at(Defects.count)
        dropped = Counter(
            "chatd_dropped", "What was not kept because too much waited, by what it waited for.", ["queue"],
            registry=registry,
        )  # fmt: skip
        self.dropped: dict[Lossy, Total] = {queue: Total(dropped.labels(queue)) for queue in get_args(Lossy)}
        self.deliveries = Total(Counter("chatd_deliveries", "Events handed to connections.", registry=registry))
        self.ready = Gauge("chatd_ready", "1 while /readyz says so.", registry=registry)
        ready = Gauge("chatd_part_ready", "1 while the part's last proof is fresh.", ["part"], registry=registry)
        self.part_ready = {part: ready.labels(part) for part in get_args(HealthPart)}
        version = Gauge("chatd_info", "Always 1, with the version.", ["version"], registry=registry)
        version.labels(__version__).set(1)
        #: Called before each look at the numbers.
        self.lookers: list[Callable[[], None]] = []

    def _add_times(self, registry: CollectorRegistry) -> None:
        self.delivery_seconds = Histogram(
            "chatd_delivery_seconds", "From a commit to the sockets of this node.", buckets=_SECONDS, registry=registry
        )
        database = Histogram(
            "chatd_database_seconds", "Calls of the database.", ["way"], buckets=_SECONDS, registry=registry
        )
        self.database_seconds = {way: database.labels(way) for way in ("read", "write")}
        self.bus_seconds = Histogram(
            "chatd_bus_seconds", "From publishing on the bus to hearing it.", buckets=_SECONDS, registry=registry
        )

    def _add_uploads(self, registry: CollectorRegistry) -> None:
        self.uploads_under_way = Gauge(
            "chatd_uploads_under_way", "Files that arrive or are looked at.", registry=registry
        )
        ended = Counter("chatd_uploads", "Uploads that ended, by how.", ["end"], registry=registry)
        self.uploads: dict[UploadEnd, Counter] = {end: ended.labels(end) for end in get_args(UploadEnd)}
        self.upload_bytes = Counter("chatd_upload_bytes", "Bytes of the files that were stored.", registry=registry)

    def stored_messages(self) -> float:
        """Messages of all types that were stored since the start."""
        values = (self._registry.get_sample_value("chat_messages_total", {"type": kind}) for kind in self.messages)
        return sum(value or 0.0 for value in values)

    def count_close(self, code: int) -> None:
        """Count the end of a connection; a code that a client made up counts as `other`."""
        self._closes.get(code, self._other_close).inc()

    def count_request(self, method: str, status: int, duration_s: float) -> None:
        """Count an answered HTTP request; a method that a client made up counts as `other`."""
        self._requests.labels(method if method in _METHODS else _OTHER, str(status)).inc()
        self.http_seconds.observe(duration_s)

    def figures(self) -> dict[str, float]:
        """Every series that is not zero, but those of histograms' buckets."""
        return {
            sample.name + "".join(f"_{value}" for value in sample.labels.values()): sample.value
            for family in self._registry.collect()
            for sample in family.samples
            if sample.value and not sample.name.endswith("_bucket")
        }

    def render(self) -> tuple[bytes, str]:
        """Return all numbers in Prometheus's text format, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


class Total:
    """A counter of what somebody else counts in their own way, for speed."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._counted = 0

    def begin_at(self, total: int) -> None:
        """What was counted before is not this counter's."""
        self._counted = total

    def bring_to(self, total: int) -> None:
        self._counter.inc(total - self._counted)
        self._counted = total

    def inc(self, count: int = 1) -> None:
        self._counted += count
        self._counter.inc(count)
