"""Who may do what in a room: one table, for both doors."""

from __future__ import annotations

from typing import Final, Literal

from chatd.errors import Refusal

Action = Literal["read", "send", "invite", "moderate", "change", "delete"]

_READONLY: Final[frozenset[Action]] = frozenset({"read"})
_MEMBER: Final[frozenset[Action]] = _READONLY | {"send"}
_MODERATOR: Final[frozenset[Action]] = _MEMBER | {"invite", "moderate", "change"}
_OWNER: Final[frozenset[Action]] = _MODERATOR | {"delete"}

MAY: Final[dict[str, frozenset[Action]]] = {
    "readonly": _READONLY,
    "member": _MEMBER,
    "moderator": _MODERATOR,
    "owner": _OWNER,
}


def check_may(role: str | None, action: Action) -> None:
    """Raise `Refusal` if somebody with this role (`None`: no member) may not do it."""
    if role is None:
        raise Refusal("not_a_member", "You are not a member of this room; send join_room first.")
    if action not in MAY[role]:
        raise Refusal("forbidden", f"Your role in this room is {role}, which may not {action}; ask a moderator.")
