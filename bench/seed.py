"""Makes the people of a scenario: users with sessions, rooms, memberships and signed tokens, written straight into the
server's database, so that thousands take about a second and no sign-up is measured. Called by servers.py.
"""

import hashlib
import secrets
import sqlite3
import time
import uuid
from collections.abc import Iterator
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


def fill_chatd(population: Population, database: Path) -> None:
    """Fills chatd's migrated SQLite file (sql/migrations/0001_initial.up.sql)."""
    now = time.time_ns() // 1_000_000
    expires = now + 30 * 86_400_000
    connection = sqlite3.connect(database)
    try:
        with connection:
            connection.executemany(
                "INSERT INTO users (id, email, username, username_key, password_hash, created_at, updated_at)"
                " VALUES (?, ?, ?, ?, '!', ?, ?)",
                ((user.id, f"{user.name}@bench.invalid", user.name, user.name, now, now) for user in population.users),
            )
            connection.executemany(
                "INSERT INTO user_sessions"
                " (id, user_id, refresh_hash, address, user_agent, created_at, refreshed_at, expires_at)"
                " VALUES (?, ?, ?, '127.0.0.1', 'bench', ?, ?, ?)",
                ((user.session_id, user.id, unused_hash(), now, now, expires) for user in population.users),
            )
            connection.executemany(
                "INSERT INTO rooms (id, kind, name, created_at, updated_at, member_count)"
                " VALUES (?, 'public', ?, ?, ?, ?)",
                ((room, f"room {room[-6:]}", now, now, count) for room, count in population.members_of().items()),
            )
            connection.executemany(
                "INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq)"
                " VALUES (?, ?, 'member', ?, 0)",
                ((user.room_id, user.id, now) for user in population.users),
            )
    finally:
        connection.close()


def unused_hash() -> str:
    """The hash of a refresh token that nobody has."""
    return hashlib.sha256(secrets.token_bytes(32)).hexdigest()


def postgres_script(population: Population) -> str:
    """What psql reads to fill the peers' tables (peers/schema.sql)."""
    users = "".join(f"{user.id}\t{user.name}\n" for user in population.users)
    rooms = "".join(f"{room}\troom {room[-6:]}\n" for room in population.room_ids)
    members = "".join(f"{user.room_id}\t{user.id}\n" for user in population.users)
    return (
        f"COPY users (id, username) FROM STDIN;\n{users}\\.\n"
        f"COPY rooms (id, name) FROM STDIN;\n{rooms}\\.\n"
        f"COPY room_members (room_id, user_id) FROM STDIN;\n{members}\\.\n"
        "ANALYZE;\n"
    )
