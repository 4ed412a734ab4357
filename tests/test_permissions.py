"""Who may do what in a room: each role may all that the one below it may."""

from __future__ import annotations

from typing import get_args

import pytest

from chatd.chat.permissions import MAY, Action, check_may
from chatd.errors import Refusal

ROLES = ["readonly", "member", "moderator", "owner"]
ACTIONS: tuple[Action, ...] = get_args(Action)
FIRST_ALLOWED: dict[Action, str] = {
    "read": "readonly",
    "send": "member",
    "react": "member",
    "pin": "moderator",
    "delete_any": "moderator",
    "invite": "moderator",
    "kick": "moderator",
    "ban": "moderator",
    "mute": "moderator",
    "set_role": "moderator",
    "change": "moderator",
    "delete": "owner",
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("action", ACTIONS)
def test_role_may_what_the_table_says_and_nothing_else(role: str, action: Action) -> None:
    if ROLES.index(role) >= ROLES.index(FIRST_ALLOWED[action]):
        check_may(role, action)
    else:
        with pytest.raises(Refusal) as caught:
            check_may(role, action)
        assert caught.value.code == "forbidden"
        assert role in caught.value.detail


@pytest.mark.parametrize("action", ACTIONS)
def test_stranger_may_nothing(action: Action) -> None:
    with pytest.raises(Refusal) as caught:
        check_may(None, action)
    assert caught.value.code == "not_a_member"


def test_there_are_no_other_roles() -> None:
    assert set(MAY) == set(ROLES)
