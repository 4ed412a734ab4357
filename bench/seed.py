"""Makes the people of a scenario: users with sessions, rooms, memberships and signed tokens, written straight into the
server's database, so that thousands take about a second and no sign-up is measured. Called by servers.py.
"""

import hashlib
import secrets
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt

TOKEN_HOURS = 12


@dataclass(frozen=True)
class User:
    """One user, who is in one room and has one session."""

    id: str
    name: str
    session_id: str
    room_id: str


@dataclass(frozen=True)
class Population:
    """The users of a scenario by connection, the rooms that they are in, and the secret that signs their tokens."""

    users: tuple[User, ...]
    room_ids: tuple[str, ...]
    secret: str

    def members_of(self) -> dict[str, int]:
        """How many users each room has."""
        counts = dict.fromkeys(self.room_ids, 0)
        for user in self.users:
            counts[user.room_id] += 1
        return counts


def make_population(connections: int, room_size: int) -> Population:
    """Users in rooms of `room_size`, the last room with what is left."""
    rooms = tuple(uuid7() for _ in range(-(-connections // room_size)))
    users = tuple(
        User(id=uuid7(), name=f"user{number:05}", session_id=uuid7(), room_id=rooms[number // room_size])
        for number in range(connections)
    )
    return Population(users, rooms, secrets.token_urlsafe(48))


def uuid7() -> str:
    """A UUIDv7 (RFC 9562) of now: 48 bits of milliseconds, version, variant, random."""
    number = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=number & ~(0x3 << 62) | 0x2 << 62))


def tokens_of(population: Population) -> Iterator[str]:
    """An access token for each user, in order, as chatd signs them."""
    now = int(time.time())
    for user in population.users:
        claims = {"sub": user.id, "sid": user.session_id, "iat": now, "exp": now + TOKEN_HOURS * 3600}
        yield jwt.encode(claims, population.secret, algorithm="HS256")


def write_clients(population: Population, path: Path) -> None:
    """The file that the generator reads: a line "token roomId userId" for each connection."""
    with path.open("w") as file:
        for user, token in zip(population.users, tokens_of(population), strict=True):
            file.write(f"{token} {user.room_id} {user.id}\n")


@dataclass(frozen=True)
class Table:
    """Rows for a table of chatd's (sql/migrations/0001_initial.up.sql), in the order of `columns`."""

    name: str
    columns: tuple[str, ...]
    rows: Iterable[tuple[str | int, ...]]


def chatd_tables(population: Population) -> tuple[Table, ...]:
    """What chatd's database holds of the population, in an order that foreign keys allow."""
    now = time.time_ns() // 1_000_000
    expires = now + 30 * 86_400_000
    users, rooms = population.users, population.members_of().items()
    return (
        Table(
            "users",
            ("id", "email", "username", "username_key", "password_hash", "created_at", "updated_at"),
            ((user.id, f"{user.name}@bench.invalid", user.name, user.name, "!", now, now) for user in users),
        ),
        Table(
            "user_sessions",
            ("id", "user_id", "refresh_hash", "address", "user_agent", "created_at", "refreshed_at", "expires_at"),
            ((user.session_id, user.id, unused_hash(), "127.0.0.1", "bench", now, now, expires) for user in users),
        ),
        Table(
            "rooms",
            ("id", "kind", "name", "created_at", "updated_at", "member_count"),
            ((room, "public", f"room {room[-6:]}", now, now, count) for room, count in rooms),
        ),
        Table(
            "room_members",
            ("room_id", "user_id", "role", "joined_at", "joined_seq"),
            ((user.room_id, user.id, "member", now, 0) for user in users),
        ),
    )


def fill_chatd(population: Population, database: Path) -> None:
    """Fills chatd's migrated SQLite file."""
    connection = sqlite3.connect(database)
    try:
        with connection:
            for table in chatd_tables(population):
                columns, places = ", ".join(table.columns), ", ".join("?" * len(table.columns))
                connection.executemany(
                    f"INSERT INTO {table.name} ({columns}) VALUES ({places})",  # noqa: S608  (names from this file)
                    table.rows,
                )
    finally:
        connection.close()


def chatd_script(population: Population) -> str:
    """What psql reads to fill chatd's migrated PostgreSQL database."""
    return "".join(copied(table) for table in chatd_tables(population)) + "ANALYZE;\n"


def unused_hash() -> str:
    """The hash of a refresh token that nobody has."""
    return hashlib.sha256(secrets.token_bytes(32)).hexdigest()


def postgres_script(population: Population) -> str:
    """What psql reads to fill the peers' tables (peers/schema.sql)."""
    tables = (
        Table("users", ("id", "username"), ((user.id, user.name) for user in population.users)),
        Table("rooms", ("id", "name"), ((room, f"room {room[-6:]}") for room in population.room_ids)),
        Table("room_members", ("room_id", "user_id"), ((user.room_id, user.id) for user in population.users)),
    )
    return "".join(map(copied, tables)) + "ANALYZE;\n"


def copied(table: Table) -> str:
    """A COPY of psql's with the rows; none of them holds a tab, a backslash or a line's end."""
    rows = "".join("\t".join(map(str, row)) + "\n" for row in table.rows)
    return f"COPY {table.name} ({', '.join(table.columns)}) FROM STDIN;\n{rows}\\.\n"
