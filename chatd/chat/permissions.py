"""Who may do what in a room: one table, for both doors.

A role may what stands in its row. What is done to another member is also bounded by their role: nobody acts on somebody
who stands as high as they do, and nobody gives a role as high as their own; only owners make owners.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from chatd.errors import Refusal
from chatd.store.entries import NOBODY_WRITES

if TYPE_CHECKING:
    from chatd.chat.context import Chat

Action = Literal[
    "read", "send", "react", "pin", "delete_any", "invite", "kick", "ban", "mute", "set_role", "change", "delete"
]

_READONLY: Final[frozenset[Action]] = frozenset({"read"})
_MEMBER: Final[frozenset[Action]] = _READONLY | {"send", "react"}
_MODERATOR: Final[frozenset[Action]] = _MEMBER | {
    "pin", "delete_any", "invite", "kick", "ban", "mute", "set_role", "change"
}  # fmt: skip
_OWNER: Final[frozenset[Action]] = _MODERATOR | {"delete"}

MAY: Final[dict[str, frozenset[Action]]] = {
    "readonly": _READONLY,
    "member": _MEMBER,
    "moderator": _MODERATOR,
    "owner": _OWNER,
}
#: How high each role stands above others.
HEIGHT: Final[dict[str, int]] = {"readonly": 0, "member": 0, "moderator": 1, "owner": 2}

#: What an action is called in a sentence, where its own word does not say it.
_WORDS: Final[dict[Action, str]] = {
    "delete_any": "delete messages of others",
    "invite": "bring others in",
    "kick": "remove others",
    "ban": "ban others",
    "mute": "mute others",
    "set_role": "change roles",
    "change": "change the room",
    "delete": "delete the room",
}


def check_may(role: str | None, action: Action, *, kind: str = "") -> None:
    """Raise `Refusal` if somebody with this role (`None`: no member) may not do it.

    `kind` is the room's, where it is known: in a direct conversation there is nobody to be asked for more.
    """
    if role is None:
        raise not_a_member()
    if action not in MAY[role]:
        words = _WORDS.get(action, action)
        if kind == "direct" and role == "readonly":
            raise Refusal("forbidden", NOBODY_WRITES)
        if kind == "direct":
            raise Refusal("forbidden", f"This is a direct conversation, in which nobody may {words}.")
        asked = "a moderator" if action in MAY["moderator"] else "an owner"
        raise Refusal("forbidden", f"Your role in this room is {role}, which may not {words}; ask {asked}.")


def not_a_member() -> Refusal:
    return Refusal("not_a_member", "You are not a member of this room; send join_room first.")


async def check_may_send(chat: Chat, user_id: str, role: str | None, room_id: str) -> None:
    """`check_may` of sending, for who knows nothing of the room but the role."""
    if role == "readonly":
        room = await chat.rooms.by_id(room_id, asked_by=user_id)
        check_may(role, "send", kind="" if room is None else room.kind)
    else:
        check_may(role, "send")


def check_may_act_on(role: str | None, action: Action, other_role: str | None) -> None:
    """`check_may`, and that the other, if a member, does not stand as high."""
    check_may(role, action)
    assert role is not None, "nobody else may anything"
    if other_role is not None and HEIGHT[other_role] >= HEIGHT[role]:
        raise Refusal("forbidden", f"Your role in this room is {role}, and so you cannot act on its {other_role}s.")


def check_may_give(role: str | None, action: Action, given_role: str) -> None:
    """`check_may`, and that the role that is given to somebody stands lower; an owner may give every role."""
    check_may(role, action)
    assert role is not None, "nobody else may anything"
    if role != "owner" and HEIGHT[given_role] >= HEIGHT[role]:
        raise Refusal("forbidden", f"Your role in this room is {role}; only an owner makes somebody {given_role}.")
