"""The same chat written plainly with `websockets` and asyncpg, as their documentation teaches: a coroutine for every
connection, one INSERT a message, `broadcast` to the members. Environment: PORT, DATABASE_URL, JWT_SECRET. README.md
says what is left out. Started by bench/peer_servers.py, never imported.
"""

import asyncio
import json
import os
from typing import Any

import asyncpg
import jwt
import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from bench.peers.messages import (
    FIND_ROOMS,
    STORE_MESSAGE,
    Refused,
    Room,
    User,
    ack_of,
    authenticated,
    checked_content,
    new_message,
    pong,
)

AUTH_TIMEOUT_S = 5
SECRET = os.environ["JWT_SECRET"]

rooms: dict[str, Room] = {}


async def send(ws: ServerConnection, event: dict[str, Any]) -> None:
    await ws.send(json.dumps(event))


async def authenticate(pool: Any, ws: ServerConnection) -> User | None:
    """The user once the first message proved who it is; None: the connection was closed."""
    try:
        async with asyncio.timeout(AUTH_TIMEOUT_S):
            message = json.loads(await ws.recv())
        claims = jwt.decode(message["token"], SECRET, algorithms=["HS256"])
    except TimeoutError:
        await ws.close(4502, "authentication timeout")
        return None
    except (jwt.InvalidTokenError, KeyError, ValueError) as error:
        await send(ws, {"type": "auth_error", "code": "unauthenticated", "message": str(error)})
        await ws.close(4501, "authentication failed")
        return None
    rows = await pool.fetch(FIND_ROOMS, claims["sub"])
    if not rows:
        await ws.close(4501, "authentication failed")
        return None
    user = User(claims["sub"], rows[0]["username"], [row["room_id"] for row in rows if row["room_id"]])
    for row in rows:
        if row["room_id"]:
            rooms.setdefault(row["room_id"], Room(row["last_seq"])).members.add(ws)
    await send(ws, authenticated(user, rows))
    return user


async def send_message(pool: Any, ws: ServerConnection, user: User, request: dict[str, Any]) -> None:
    content, room = checked_content(request), rooms.get(request.get("roomId", ""))
    if room is None or ws not in room.members:
        raise Refused("not_a_member", "You are not in this room")
    message, row = new_message(room, user, request, content)
    await pool.execute(STORE_MESSAGE, *row)
    await send(ws, ack_of(message))
    broadcast(room.members, json.dumps({"type": "new_message", "message": message}))


async def serve_connection(pool: Any, ws: ServerConnection) -> None:
    user = None
    try:
        user = await authenticate(pool, ws)
        if user is None:
            return
        async for text in ws:
            try:
                request = json.loads(text)
                if request.get("type") == "send_message":
                    await send_message(pool, ws, user, request)
                elif request.get("type") == "ping":
                    await send(ws, pong())
                else:
                    raise Refused("bad_message", "Unknown type")
            except Refused as refusal:
                code, sentence = refusal.args
                await send(ws, {"type": "error", "code": code, "message": sentence})
            except json.JSONDecodeError as error:
                await send(ws, {"type": "error", "code": "bad_message", "message": str(error)})
    except ConnectionClosed:
        pass
    finally:
        for room_id in user.room_ids if user else ():
            rooms[room_id].members.discard(ws)
            if not rooms[room_id].members:
                del rooms[room_id]


async def main() -> None:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as pool:

        async def handler(ws: ServerConnection) -> None:
            await serve_connection(pool, ws)

        async with serve(
            handler, "127.0.0.1", int(os.environ["PORT"]), max_size=65536, compression=None, backlog=4096
        ) as server:
            await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
