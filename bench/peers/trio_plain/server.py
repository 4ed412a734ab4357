"""The same chat written plainly with trio-websocket and triopg, as their documentation teaches: a nursery for every
connection, one INSERT a message, `send_message` to every member in a loop. Environment: PORT, DATABASE_URL,
JWT_SECRET. README.md says what is left out. Started by bench/peer_servers.py, never imported.
"""

import contextlib
import json
import os
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import jwt
import trio
import trio_asyncio
import triopg
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

AUTH_TIMEOUT_S = 5
HEARTBEAT_S = 20
SECRET = os.environ["JWT_SECRET"]

FIND_ROOMS = """
    SELECT u.username, r.id AS room_id, r.name,
           (SELECT coalesce(max(seq), 0) FROM messages WHERE room_id = r.id) AS last_seq
      FROM users u
      LEFT JOIN room_members m ON m.user_id = u.id
      LEFT JOIN rooms r ON r.id = m.room_id
     WHERE u.id = $1
"""
STORE_MESSAGE = """
    INSERT INTO messages (id, room_id, seq, sender_id, content, client_message_id, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
"""


class Pool(Protocol):
    """What triopg's pool is used for (it has no types of its own)."""

    async def execute(self, statement: str, *args: object) -> str: ...

    async def fetch(self, query: str, *args: object) -> list[dict[str, Any]]: ...


@dataclass
class Room:
    """A room with someone connected."""

    last_seq: int
    connections: "set[Connection]" = field(default_factory=set)


@dataclass(eq=False)
class Connection:
    """One authenticated client."""

    ws: WebSocketConnection
    user_id: str
    username: str
    room_ids: list[str] = field(default_factory=list)


rooms: dict[str, Room] = {}


async def send(ws: WebSocketConnection, event: dict[str, Any]) -> None:
    await ws.send_message(json.dumps(event))


async def refuse(ws: WebSocketConnection, code: str, message: str) -> None:
    await send(ws, {"type": "error", "code": code, "message": message})


async def authenticate(pool: Pool, ws: WebSocketConnection) -> Connection | None:
    """The connection once its first message proved who it is; None: it was closed."""
    with trio.move_on_after(AUTH_TIMEOUT_S) as timeout:
        message = json.loads(await ws.get_message())
    if timeout.cancelled_caught:
        await ws.aclose(4502, "authentication timeout")
        return None
    try:
        claims = jwt.decode(message["token"], SECRET, algorithms=["HS256"])
    except (jwt.InvalidTokenError, KeyError) as error:
        await send(ws, {"type": "auth_error", "code": "unauthenticated", "message": str(error)})
        await ws.aclose(4501, "authentication failed")
        return None
    rows = await pool.fetch(FIND_ROOMS, claims["sub"])
    if not rows:
        await ws.aclose(4501, "authentication failed")
        return None
    connection = Connection(ws, claims["sub"], rows[0]["username"])
    for row in rows:
        if row["room_id"] is None:
            continue
        rooms.setdefault(row["room_id"], Room(row["last_seq"])).connections.add(connection)
        connection.room_ids.append(row["room_id"])
    found = [{"roomId": row["room_id"], "name": row["name"], "lastSeq": row["last_seq"]} for row in rows]
    await send(
        ws,
        {"type": "authenticated", "userId": connection.user_id, "username": connection.username, "rooms": found},
    )
    return connection


async def send_message(pool: Pool, sender: Connection, request: dict[str, Any]) -> None:
    room = rooms.get(request.get("roomId", ""))
    content = request.get("content")
    if not isinstance(content, str) or not content.strip() or len(content) > 10_000:
        await refuse(sender.ws, "bad_message", "content must be 1 to 10000 characters")
        return
    if room is None or sender not in room.connections:
        await refuse(sender.ws, "not_a_member", "You are not in this room")
        return
    now = datetime.now(UTC)
    room.last_seq += 1
    message = {
        "id": str(uuid.uuid4()),
        "roomId": request["roomId"],
        "seq": room.last_seq,
        "senderId": sender.user_id,
        "senderName": sender.username,
        "messageType": "text",
        "content": content,
        "createdAt": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "clientMessageId": request.get("clientMessageId"),
    }
    await pool.execute(
        STORE_MESSAGE,
        message["id"],
        message["roomId"],
        message["seq"],
        sender.user_id,
        content,
        message["clientMessageId"],
        now,
    )
    await send(
        sender.ws,
        {
            "type": "message_ack",
            "messageId": message["id"],
            "roomId": message["roomId"],
            "seq": message["seq"],
            "createdAt": message["createdAt"],
            "clientMessageId": message["clientMessageId"],
            "duplicate": False,
        },
    )
    text = json.dumps({"type": "new_message", "message": message})
    for member in list(room.connections):
        with contextlib.suppress(ConnectionClosed):
            await member.ws.send_message(text)


async def heartbeat(ws: WebSocketConnection) -> None:
    while True:
        await trio.sleep(HEARTBEAT_S)
        with trio.fail_after(HEARTBEAT_S):
            await ws.ping()


async def read_messages(pool: Pool, connection: Connection) -> None:
    while True:
        try:
            request = json.loads(await connection.ws.get_message())
        except json.JSONDecodeError as error:
            await refuse(connection.ws, "bad_message", str(error))
            continue
        if request.get("type") == "send_message":
            await send_message(pool, connection, request)
        elif request.get("type") == "ping":
            await send(connection.ws, {"type": "pong", "time": datetime.now(UTC).isoformat()})
        else:
            await refuse(connection.ws, "bad_message", "Unknown type")


async def serve_connection(pool: Pool, request: WebSocketRequest) -> None:
    """The life of one connection: its nursery holds the reader and the heartbeat."""
    ws = await request.accept()
    connection = None
    try:
        connection = await authenticate(pool, ws)
        if connection is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heartbeat, ws)
            await read_messages(pool, connection)
    except* (ConnectionClosed, trio.TooSlowError):
        pass
    finally:
        if connection is not None:
            leave(connection)


def leave(connection: Connection) -> None:
    for room_id in connection.room_ids:
        room = rooms[room_id]
        room.connections.discard(connection)
        if not room.connections:
            del rooms[room_id]


async def main() -> None:
    async with triopg.create_pool(os.environ["DATABASE_URL"]) as pool:
        await serve_websocket(partial(serve_connection, pool), "127.0.0.1", int(os.environ["PORT"]), None)


if __name__ == "__main__":
    trio_asyncio.run(main)
