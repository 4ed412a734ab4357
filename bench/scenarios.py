"""What the bench measures is made of: what a row is, who takes part, which rows are points of one curve. rows.py has
the rows.
"""

from dataclasses import dataclass

CHATD = "chatd"
ONE_NODE = "one-node"
TWO_NODES = "two-nodes"
NODE = "node"
SOCKET_IO = "socketio"
WEBSOCKETS = "websockets"
FASTAPI = "fastapi"
TRIO_PLAIN = "trio_plain"
CENTRIFUGO = "centrifugo"
TINODE = "tinode"
FLOOR = "floor"
#: Those who do the same authenticated, persisted work, as far as their READMEs say.
PEERS = (NODE, SOCKET_IO, WEBSOCKETS, FASTAPI, TRIO_PLAIN, CENTRIFUGO, TINODE)
CHAT_SERVERS = (CHATD, *PEERS)
#: chatd, embedded and on the distributed back ends
OURS = (CHATD, ONE_NODE, TWO_NODES)


@dataclass(frozen=True)
class Curve:
    """How a figure grows over rows that differ in one size (`room_size`, `connections` or `rate`)."""

    title: str
    size: str
    figure: str
    unit: str


CURVES = {
    "fanout": Curve("CPU a delivery, by the size of the room", "room_size", "cpu_per_delivery_us", "µs"),
    "messages": Curve("Messages a second, by the size of the rooms", "room_size", "messages_per_s", "messages/s"),
    "rate": Curve("Lateness of 99 %, by messages a second over 10 000 connections", "rate", "p99_ms", "ms"),
    "connections": Curve("CPU a delivery, by connections", "connections", "cpu_per_delivery_us", "µs"),
}


@dataclass(frozen=True)
class Scenario:
    """One row: `mode` and the figures below are the generator's (generator/generator.c says what each mode does)."""

    name: str
    title: str
    mode: str
    connections: int
    room_size: int
    servers: tuple[str, ...] = CHAT_SERVERS
    #: Those of the short set, which a bare `make bench` runs; none: the row is not in it.
    short: tuple[str, ...] = ()
    #: The name in CURVES of what the row is a point of.
    curve: str = ""
    senders: int = 1
    depth: int = 1
    rate: int = 1000
    warmup_s: float = 3.0
    seconds: float = 10.0
    drain_s: float = 10.0
    idle_s: float = 5.0
    handshakes: int = 64
    deaf_s: float = 2.0
    recover_s: float = 60.0
    away_s: float = 12.0
    slow: int = 0
    content_bytes: int = 64
    #: In mode "k6": the script in bench/k6, and what it is given.
    script: str = ""
    given: tuple[tuple[str, float], ...] = ()
    #: In mode "store": how many messages the largest room has (history.py).
    most_messages: int = 0

    @property
    def is_steered(self) -> bool:
        """Whether the clients' side of the network is to run on the clients' core. At a steady rate it is: there a
        server that is late pays for it in latency. As fast as it goes, and for the CPU of a delivery, all of a `send`
        counts, as in the table of the design.
        """
        return self.mode == "steady"

    def flags(self) -> dict[str, float]:
        """The generator's flags for this row."""
        return {
            "--senders": self.senders,
            "--depth": self.depth,
            "--rate": self.rate,
            "--warmup": self.warmup_s,
            "--seconds": self.seconds,
            "--drain": self.drain_s,
            "--idle": self.idle_s,
            "--handshakes": self.handshakes,
            "--deaf": self.deaf_s,
            "--recover": self.recover_s,
            "--away": self.away_s,
            "--slow": self.slow,
            "--content-bytes": self.content_bytes,
        }

    def window_s(self) -> float:
        """About how long what is measured lasts."""
        if self.mode == "k6":
            return self.length_s()
        return self.connections / 1500 if self.mode == "connect" else self.seconds

    def length_s(self) -> float:
        """About how long the generator works on it."""
        if self.mode == "k6":
            given = dict(self.given)
            return given.get("MINUTE", 0) * 5 + given.get("CONNECT", 0) + given.get("SECONDS", 0) + self.visits_s()
        connecting = self.connections / 1500
        if self.mode == "storm":
            connecting += self.deaf_s + self.connections / 800
        if self.mode == "store":
            return self.most_messages / 10_000
        return connecting + (self.idle_s if self.mode == "connect" else self.warmup_s + self.seconds)

    def visits_s(self) -> float:
        """About how long everyone's visits of a k6 script last."""
        given = dict(self.given)
        return given.get("VISITS", 0) * (given.get("SAYS", 0) + 1) * given.get("PACE", 1) + given.get("STAY", 0)
