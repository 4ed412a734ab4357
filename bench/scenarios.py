"""What the bench measures: one record a row, data only. harness.py runs them, figures.py knows which figure of a mode
is the one that counts.
"""

from dataclasses import dataclass, replace

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
    """How a figure grows over rows that differ in one size (`room_size` or `connections`)."""

    title: str
    size: str
    figure: str
    unit: str


CURVES = {
    "fanout": Curve("CPU a delivery, by the size of the room", "room_size", "cpu_per_delivery_us", "µs"),
    "messages": Curve("Messages a second, by the size of the rooms", "room_size", "messages_per_s", "messages/s"),
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
    #: In mode "k6": the script in bench/k6, and what it is given.
    script: str = ""
    given: tuple[tuple[str, float], ...] = ()

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
        }

    def length_s(self) -> float:
        """About how long the generator works on it."""
        if self.mode == "k6":
            given = dict(self.given)
            return given.get("MINUTE", 0) * 5 + given.get("CONNECT", 0) + given.get("SECONDS", 0) + self.visits_s()
        connecting = self.connections / 1500
        if self.mode == "storm":
            connecting += self.deaf_s + self.connections / 800
        return connecting + (self.idle_s if self.mode == "connect" else self.warmup_s + self.seconds)

    def visits_s(self) -> float:
        """About how long everyone's visits of a k6 script last."""
        given = dict(self.given)
        return given.get("VISITS", 0) * (given.get("SAYS", 0) + 1) * given.get("PACE", 1) + given.get("STAY", 0)


SCENARIOS = (
    Scenario(
        "rooms-of-1",
        "Rooms of 1, as fast as it goes",
        "throughput",
        connections=200,
        room_size=1,
        short=(CHATD, NODE),
        senders=200,
        depth=4,
    ),
    Scenario(
        "rooms-of-10",
        "Rooms of 10, as fast as it goes",
        "throughput",
        connections=200,
        room_size=10,
        servers=(CHATD, ONE_NODE, *PEERS),
        short=(CHATD, ONE_NODE, *PEERS),
        senders=200,
        depth=4,
    ),
    Scenario(
        "room-of-1000",
        "One room of 1 000, as fast as it goes",
        "throughput",
        connections=1000,
        room_size=1000,
        short=(CHATD, NODE),
        senders=50,
        depth=4,
    ),
    Scenario(
        "steady-rooms-of-10",
        "9 500 connections, 1 000 messages/s, rooms of 10",
        "steady",
        connections=9500,
        room_size=10,
        short=(CHATD, NODE),
    ),
    Scenario(
        "steady-rooms-of-95",
        "9 500 connections, 1 000 messages/s, rooms of 95",
        "steady",
        connections=9500,
        room_size=95,
    ),
    Scenario(
        "steady-nodes",
        "5 000 connections, 1 000 messages/s, rooms of 10, over nodes",
        "steady",
        connections=5000,
        room_size=10,
        servers=(CHATD, ONE_NODE, TWO_NODES),
    ),
    Scenario(
        "fanout-1000",
        "Fan-out to 1 000, one frame a message",
        "fanout",
        connections=1000,
        room_size=1000,
        servers=(*CHAT_SERVERS, FLOOR),
        short=(CHATD, NODE, FLOOR),
    ),
    Scenario(
        "connect-9500",
        "9 500 connections: authenticate, then idle",
        "connect",
        connections=9500,
        room_size=10,
        short=(CHATD, NODE),
        idle_s=22.0,  # so that everyone's heartbeat of 20 s is in it
    ),
    Scenario(
        "storm",
        "9 500 connections in rooms of 10: kill -9, start again, all resume",
        "storm",
        connections=9500,
        room_size=10,
        servers=(CHATD, ONE_NODE),
        short=(CHATD,),
        seconds=3.0,
        handshakes=1000,  # a crowd; more would only wait in the kernel's queue
    ),
    Scenario(
        "k6-stages",
        "k6: in 1 min to 100 people, in 3 to 1 000, in 1 to none",
        "k6",
        connections=1000,
        room_size=10,
        servers=(CHATD, ONE_NODE),
        script="stages",
        given=(("MOST", 1000), ("MINUTE", 60), ("STAY", 20), ("PACE", 3)),
    ),
    Scenario(
        "k6-chat",
        "k6: join, type, send, read, leave, in rooms of 10",
        "k6",
        connections=100,
        room_size=10,
        servers=(CHATD, ONE_NODE),
        short=(CHATD,),
        script="chat",
        given=(("VUS", 100), ("VISITS", 3), ("SAYS", 3), ("PACE", 1)),
    ),
    Scenario(
        "k6-fanout",
        "k6: 20 messages/s to a room of 500",
        "k6",
        connections=500,
        room_size=500,
        servers=(CHATD, ONE_NODE),
        script="fanout",
        given=(("VUS", 10), ("RATE", 20), ("SECONDS", 20), ("CONNECT", 5)),
    ),
    Scenario(
        "k6-storm",
        "k6: 490 of 500 connections drop at once and resume",
        "k6",
        connections=500,
        room_size=50,
        servers=(CHATD, ONE_NODE),
        script="storm",
        given=(("VUS", 10), ("RATE", 20), ("SECONDS", 15), ("CONNECT", 5)),
    ),
    Scenario(
        "k6-http",
        "k6: pages of history, and uploads of 1 MiB",
        "k6",
        connections=20,
        room_size=10,
        servers=(CHATD, ONE_NODE),
        script="http",
        given=(("VUS", 10), ("SECONDS", 15), ("PACE", 0.1), ("SAYS", 30), ("FILES", 10), ("BYTES", 2**20)),
    ),
)


def scenario_named(name: str) -> Scenario:
    """Raises KeyError for a name that there is not."""
    return {scenario.name: scenario for scenario in SCENARIOS}[name]


def title_of(name: str) -> str:
    """The row's title; the name itself where a report has a row that is no more."""
    return next((scenario.title for scenario in SCENARIOS if scenario.name == name), name)


def short_set() -> list[Scenario]:
    """The rows of the short set on its servers, with short windows: a look at everything that has been promised."""
    return [
        replace(scenario, servers=scenario.short, warmup_s=min(scenario.warmup_s, 2), seconds=min(scenario.seconds, 6))
        for scenario in SCENARIOS
        if scenario.short
    ]


#: At most so much of each is given to a k6 script.
SHORTENED = {"MOST": 10, "MINUTE": 0.4, "STAY": 0.6, "PACE": 0.2, "VUS": 4, "VISITS": 1, "SAYS": 2}
SHORTENED |= {"RATE": 20, "SECONDS": 1.5, "CONNECT": 1, "FILES": 1, "BYTES": 20_000}


def shortened(scenario: Scenario) -> Scenario:
    """The same row in about a second with few connections: proves that everything works, measures nothing."""
    connections = min(scenario.connections, 100)
    few = {name: min(value, SHORTENED[name]) for name, value in scenario.given}
    return replace(
        scenario,
        connections=connections,
        room_size=min(scenario.room_size, connections),
        senders=min(scenario.senders, 20),
        rate=200,
        warmup_s=0.5,
        seconds=1.0,
        idle_s=1.0,
        deaf_s=0.5,
        given=tuple(few.items()),
    )
