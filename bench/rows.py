"""The rows of the bench, data only: `SCENARIOS`, and the short set of them. harness.py runs them, figures.py knows
which figure of a mode is the one that counts.
"""

from collections.abc import Iterator
from dataclasses import replace

from bench.scenarios import (
    CHAT_SERVERS,
    CHATD,
    FASTAPI,
    FLOOR,
    NODE,
    ONE_NODE,
    OURS,
    PEERS,
    SOCKET_IO,
    TRIO_PLAIN,
    WEBSOCKETS,
    Scenario,
)

PINGED = (CHATD, NODE, SOCKET_IO, WEBSOCKETS, FASTAPI, TRIO_PLAIN)
EMBEDDED_AND_NOT = (CHATD, ONE_NODE)


def spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def messages_by_room_size() -> Iterator[Scenario]:
    """As many messages as it takes, in rooms of one size each."""
    for size, servers, short in (
        (1, CHAT_SERVERS, (CHATD, NODE)),
        (10, (*OURS, *PEERS), (CHATD, ONE_NODE, *PEERS)),
        (100, CHAT_SERVERS, ()),
    ):
        yield Scenario(
            f"rooms-of-{size}",
            f"Rooms of {size}, as fast as it goes",
            "throughput",
            connections=200,
            room_size=size,
            servers=servers,
            short=short,
            curve="messages",
            senders=200,
            depth=4,
        )
    yield Scenario(
        "room-of-1000",
        "One room of 1 000, as fast as it goes",
        "throughput",
        connections=1000,
        room_size=1000,
        short=(CHATD, NODE),
        curve="messages",
        senders=50,
        depth=4,
    )


def fanout_by_room_size() -> Iterator[Scenario]:
    """One message after the other to rooms of one size each, beside the floor."""
    for size in (1, 10, 100, 1000, 10_000):
        is_main = size == 1000
        yield Scenario(
            f"fanout-{size}",
            f"Fan-out to {spaced(size)}, one frame a message",
            "fanout",
            connections=size,
            room_size=size,
            servers=(*CHAT_SERVERS, FLOOR) if is_main else (CHATD, NODE, WEBSOCKETS, FLOOR),
            short=(CHATD, NODE, FLOOR) if is_main else (),
            curve="fanout",
        )


def steady_by_connections() -> Iterator[Scenario]:
    """1 000 messages a second in rooms of 10 over ever more connections; the last is the headline."""
    for connections in (100, 1000, 10_000):
        is_headline = connections == 10_000
        yield Scenario(
            "steady-rooms-of-10" if is_headline else f"steady-{connections}",
            f"{spaced(connections)} connections, 1 000 messages/s, rooms of 10",
            "steady",
            connections=connections,
            room_size=10,
            servers=CHAT_SERVERS if is_headline else (CHATD, NODE),
            short=(CHATD, NODE) if is_headline else (CHATD,) if connections == 100 else (),
            curve="connections",
        )


def steady_by_rate() -> Iterator[Scenario]:
    """The headline with ever more messages, so that the rate from which they are late is seen; the last is tenfold."""
    for times in (2, 4, 7, 10):
        is_last = times == 10
        yield Scenario(
            "steady-tenfold" if is_last else f"steady-times-{times}",
            f"10 000 connections, {spaced(1000 * times)} messages/s, rooms of 10",
            "steady",
            connections=10_000,
            room_size=10,
            servers=(CHATD, ONE_NODE, NODE, WEBSOCKETS),
            short=(CHATD,) if is_last else (),
            curve="rate",
            rate=1000 * times,
        )


SCENARIOS = (
    Scenario(
        "echo",
        "Echo of the wire: 200 connections, one ping each",
        "echo",
        connections=200,
        room_size=10,
        servers=PINGED,
        short=(CHATD, NODE),
        senders=200,
    ),
    *messages_by_room_size(),
    *fanout_by_room_size(),
    *steady_by_connections(),
    Scenario(
        "steady-rooms-of-100",
        "10 000 connections, 1 000 messages/s, rooms of 100",
        "steady",
        connections=10_000,
        room_size=100,
    ),
    *steady_by_rate(),
    Scenario(
        "steady-nodes",
        "5 000 connections, 1 000 messages/s, rooms of 10, over nodes",
        "steady",
        connections=5000,
        room_size=10,
        servers=OURS,
    ),
    Scenario(
        "fast-readers",
        "300 connections, 150 messages/s of 4 KB, rooms of 100: all read",
        "steady",
        connections=300,
        room_size=100,
        servers=(CHATD, NODE, FASTAPI, TRIO_PLAIN),
        rate=150,
        seconds=30.0,
        content_bytes=4000,
    ),
    Scenario(
        "slow-readers",
        "The same, and a tenth of them read nothing: 200 KB a second pile up for each",
        "steady",
        connections=300,
        room_size=100,
        servers=(CHATD, NODE, FASTAPI, TRIO_PLAIN),
        rate=150,
        seconds=30.0,
        slow=30,
        content_bytes=4000,
    ),
    Scenario(
        "connect-10000",
        "10 000 connections: authenticate, then idle",
        "connect",
        connections=10_000,
        room_size=10,
        short=(CHATD, NODE),
        idle_s=22.0,  # so that everyone's heartbeat of 20 s is in it
    ),
    Scenario(
        "storm",
        "10 000 connections in rooms of 10: kill -9, start again, all resume",
        "storm",
        connections=10_000,
        room_size=10,
        servers=EMBEDDED_AND_NOT,
        short=(CHATD,),
        seconds=3.0,
        handshakes=1000,  # a crowd; more would only wait in the kernel's queue
    ),
    Scenario(
        "presence-churn",
        "5 000 people in rooms of 10, 200 a second go and come back after 12 s",
        "churn",
        connections=5000,
        room_size=10,
        servers=OURS,
        rate=200,
        warmup_s=24.0,  # until who went first is back, and as many come as go
        seconds=15.0,
    ),
    Scenario(
        "soak",
        "An hour's worth of 1 000 messages/s in ten minutes, rooms of 10",
        "steady",
        connections=1000,
        room_size=10,
        servers=EMBEDDED_AND_NOT,
        rate=6000,
        seconds=600.0,
    ),
    Scenario(
        "history",
        "Pages, searches and sends in rooms of a thousand to ten million messages",
        "store",
        connections=1,
        room_size=1,
        servers=EMBEDDED_AND_NOT,
        most_messages=10_000_000,
    ),
    Scenario(
        "k6-stages",
        "k6: in 1 min to 100 people, in 3 to 1 000, in 1 to none",
        "k6",
        connections=1000,
        room_size=10,
        servers=EMBEDDED_AND_NOT,
        script="stages",
        given=(("MOST", 1000), ("MINUTE", 60), ("STAY", 20), ("PACE", 3)),
    ),
    Scenario(
        "k6-chat",
        "k6: join, type, send, read, leave, in rooms of 10",
        "k6",
        connections=100,
        room_size=10,
        servers=EMBEDDED_AND_NOT,
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
        servers=EMBEDDED_AND_NOT,
        script="fanout",
        given=(("VUS", 10), ("RATE", 20), ("SECONDS", 20), ("CONNECT", 5)),
    ),
    Scenario(
        "k6-storm",
        "k6: 490 of 500 connections drop at once and resume",
        "k6",
        connections=500,
        room_size=50,
        servers=EMBEDDED_AND_NOT,
        script="storm",
        given=(("VUS", 10), ("RATE", 20), ("SECONDS", 15), ("CONNECT", 5)),
    ),
    Scenario(
        "k6-http",
        "k6: pages of history, and uploads of 1 MiB",
        "k6",
        connections=20,
        room_size=10,
        servers=EMBEDDED_AND_NOT,
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
        away_s=0.5,
        slow=min(scenario.slow, connections // 10),
        most_messages=min(scenario.most_messages, 3000),
    )
