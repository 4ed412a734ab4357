"""The same chat written plainly with FastAPI on uvicorn, as their documentation teaches: a WebSocket endpoint, a
connection manager that sends to one after the other, asyncpg. Environment: PORT, DATABASE_URL, JWT_SECRET. README.md
says what is left out. Started by bench/peer_servers.py, never imported.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import jwt
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

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


class ConnectionManager:
    """Who is in which room."""

    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}

    def enter(self, websocket: WebSocket, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["room_id"]:
                self.rooms.setdefault(row["room_id"], Room(row["last_seq"])).members.add(websocket)

    def leave(self, websocket: WebSocket, user: User) -> None:
        for room_id in user.room_ids:
            self.rooms[room_id].members.discard(websocket)
            if not self.rooms[room_id].members:
                del self.rooms[room_id]

    async def broadcast(self, room: Room, text: str) -> None:
        for member in list(room.members):
            # One who has gone is told from its own coroutine.
            with suppress(WebSocketDisconnect, RuntimeError):
                await member.send_text(text)


manager = ConnectionManager()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


async def authenticate(websocket: WebSocket) -> User | None:
    """The user once the first message proved who it is; None: the connection was closed."""
    try:
        async with asyncio.timeout(AUTH_TIMEOUT_S):
            message = await websocket.receive_json()
        claims = jwt.decode(message["token"], SECRET, algorithms=["HS256"])
    except TimeoutError:
        await websocket.close(4502, "authentication timeout")
        return None
    except (jwt.InvalidTokenError, KeyError, ValueError) as error:
        await websocket.send_json({"type": "auth_error", "code": "unauthenticated", "message": str(error)})
        await websocket.close(4501, "authentication failed")
        return None
    rows = await app.state.pool.fetch(FIND_ROOMS, claims["sub"])
    if not rows:
        await websocket.close(4501, "authentication failed")
        return None
    user = User(claims["sub"], rows[0]["username"], [row["room_id"] for row in rows if row["room_id"]])
    manager.enter(websocket, rows)
    await websocket.send_json(authenticated(user, rows))
    return user


async def send_message(websocket: WebSocket, user: User, request: dict[str, Any]) -> None:
    content, room = checked_content(request), manager.rooms.get(request.get("roomId", ""))
    if room is None or websocket not in room.members:
        raise Refused("not_a_member", "You are not in this room")
    message, row = new_message(room, user, request, content)
    await app.state.pool.execute(STORE_MESSAGE, *row)
    await websocket.send_json(ack_of(message))
    await manager.broadcast(room, json.dumps({"type": "new_message", "message": message}))


async def answer(websocket: WebSocket, user: User, request: dict[str, Any]) -> None:
    try:
        if request.get("type") == "send_message":
            await send_message(websocket, user, request)
        elif request.get("type") == "ping":
            await websocket.send_json(pong())
        else:
            raise Refused("bad_message", "Unknown type")
    except Refused as refusal:
        code, sentence = refusal.args
        await websocket.send_json({"type": "error", "code": code, "message": sentence})


@app.websocket("/")
async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    user = None
    try:
        user = await authenticate(websocket)
        while user is not None:
            await answer(websocket, user, await websocket.receive_json())
    except WebSocketDisconnect:
        pass
    finally:
        if user is not None:
            manager.leave(websocket, user)


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        loop="uvloop",
        ws="websockets-sansio",
        ws_max_size=65536,
        ws_per_message_deflate=False,
        backlog=4096,
        log_level="warning",
    )
