"""What the asyncio peers (websockets_plain, fastapi_plain) say and store alike, so that they differ in their libraries
only: the SQL, a room, a user, the events.
"""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

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


@dataclass
class Room:
    """A room with someone connected; `members` are the library's own connections."""

    last_seq: int
    members: set[Any] = field(default_factory=set)


@dataclass
class User:
    """Who a connection belongs to."""

    id: str
    name: str
    room_ids: list[str]


class Refused(Exception):
    """(code, sentence) of a request that was refused."""


def checked_content(request: dict[str, Any]) -> str:
    """Raises Refused."""
    content = request.get("content")
    if not isinstance(content, str) or not content.strip() or len(content) > 10_000:
        raise Refused("bad_message", "content must be 1 to 10000 characters")
    return content


def new_message(
    room: Room, user: User, request: dict[str, Any], content: str
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The next message of the room, and the row to store."""
    now = datetime.now(UTC)
    room.last_seq += 1
    message = {
        "id": str(uuid.uuid4()),
        "roomId": request["roomId"],
        "seq": room.last_seq,
        "senderId": user.id,
        "senderName": user.name,
        "messageType": "text",
        "content": content,
        "createdAt": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "clientMessageId": request.get("clientMessageId"),
    }
    row = (message["id"], message["roomId"], message["seq"], user.id, content, message["clientMessageId"], now)
    return message, row


def ack_of(message: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "message_ack",
        "messageId": message["id"],
        "roomId": message["roomId"],
        "seq": message["seq"],
        "createdAt": message["createdAt"],
        "clientMessageId": message["clientMessageId"],
        "duplicate": False,
    }


def authenticated(user: User, rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = [{"roomId": row["room_id"], "name": row["name"], "lastSeq": row["last_seq"]} for row in rows]
    return {"type": "authenticated", "userId": user.id, "username": user.name, "rooms": found}


def pong() -> dict[str, Any]:
    return {"type": "pong", "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")}
