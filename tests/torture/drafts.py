"""What torture clients say: messages of all sizes, kinds and scripts, each under a key of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

#: What contents are made of: one byte a character, two, three, four; what JSON and databases have to escape.
SCRIPTS: Final = ("x", "äßé", "漢字かな", "😀👩‍👩‍👧🏳️‍🌈", "\"\\/\n\t'%;--\u2028\u202e", "a b c d ")
#: At most this many characters, and how often a content is small, of a page, and as large as can be.
MAX_CHARACTERS: Final = 10_000
SIZES: Final = ((200, 95), (2000, 4), (MAX_CHARACTERS, 1))


class Sent(NamedTuple):
    """A message that was sent, and is sent again until it is acknowledged; `extra` is the rest of its fields.

    To a room, or to a user, whose room is not known before.
    """

    key: str
    room_id: str
    content: str
    extra: Mapping[str, Any] = {}
    recipient_id: str = ""

    @property
    def request(self) -> dict[str, Any]:
        """As it is sent by the WebSocket, but for its id."""
        if self.recipient_id:
            return {"type": "send_dm", "recipientId": self.recipient_id, **self.body}
        return {"type": "send_message", "roomId": self.room_id, **self.body}

    @property
    def body(self) -> dict[str, Any]:
        """As it is sent through either door, but for its room."""
        return {"content": self.content, "clientMessageId": self.key, **self.extra}

    def differs_from(self, told: Mapping[str, Any]) -> bool:
        """Whether it is told to others in another way than it was sent; what became of it since is judged elsewhere."""
        if "editedAt" in told or "deletedAt" in told:
            return False
        kept = {"messageType": "text", "replyTo": None, "metadata": None, **self.extra}
        return {name: told.get(name) for name in kept} != kept or told["content"] != self.content


def words(dice: random.Random, start: str) -> str:
    """A content that begins so, of any size and script."""
    [size] = dice.choices([size for size, _ in SIZES], [weight for _, weight in SIZES])
    script = dice.choice(SCRIPTS)
    length = dice.randint(0, size - len(start) - 1)
    return f"{start} {(script * (length // len(script) + 1))[:length]}"


def draft(dice: random.Random, key: str, room_id: str, heard_ids: Sequence[str], *, recipient_id: str = "") -> Sent:
    """A new message to a room in which these messages were heard, or to a user."""
    extra: dict[str, Any] = {}
    if dice.random() < 0.1:
        extra["messageType"] = "code"
    if heard_ids and dice.random() < 0.1:
        extra["replyTo"] = dice.choice(heard_ids)
    if dice.random() < 0.1:
        text = dice.choice(SCRIPTS)
        extra["metadata"] = {"number": dice.randint(-(2**53), 2**53), "list": [True, None, 0.5, {"text": text}]}
    return Sent(key, room_id, words(dice, key), extra, recipient_id)
