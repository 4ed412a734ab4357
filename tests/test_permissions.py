"""Who may do what in a room: each role may all that the one below it may. At the doors test_contract.py tries it."""

from __future__ import annotations

from typing import get_args

import pytest

from chatd.chat.permissions import MAY, Action, check_may, check_may_act_on, check_may_give
from chatd.errors import Refusal
from tests.contract import MEMBERS

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


@pytest.mark.parametrize("role", MEMBERS)
@pytest.mark.parametrize("action", ACTIONS)
def test_role_may_what_the_table_says_and_nothing_else(role: str, action: Action) -> None:
    if MEMBERS.index(role) >= MEMBERS.index(FIRST_ALLOWED[action]):
        check_may(role, action)
    else:
        with pytest.raises(Refusal) as caught:
            check_may(role, action)
        assert caught.value.code == "forbidden"
        assert role in caught.value.detail


@pytest.mark.parametrize("action", [action for action in ACTIONS if action != "read"])
def test_who_may_not_is_sent_to_somebody_who_may(action: Action) -> None:
    lacking = MEMBERS[MEMBERS.index(FIRST_ALLOWED[action]) - 1]
    with pytest.raises(Refusal) as caught:
        check_may(lacking, action)
    asked = caught.value.detail.removesuffix(".").split()[-1]
    check_may(asked, action)
    assert asked != lacking


@pytest.mark.parametrize("action", ACTIONS)
def test_stranger_may_nothing(action: Action) -> None:
    with pytest.raises(Refusal) as caught:
        check_may(None, action)
    assert caught.value.code == "not_a_member"


def test_there_are_no_other_roles() -> None:
    assert set(MAY) == set(MEMBERS)


# Whom one may act on


@pytest.mark.parametrize("role", MEMBERS)
@pytest.mark.parametrize("other", MEMBERS)
def test_nobody_acts_on_who_stands_as_high(role: str, other: str) -> None:
    stands_above = {"moderator": {"readonly", "member"}, "owner": {"readonly", "member", "moderator"}}
    if other in stands_above.get(role, set()):
        check_may_act_on(role, "kick", other)
    else:
        with pytest.raises(Refusal, match=role):
            check_may_act_on(role, "kick", other)


def test_whoever_is_no_member_may_be_acted_on_by_all_who_may_act() -> None:
    check_may_act_on("moderator", "ban", None)
    with pytest.raises(Refusal):
        check_may_act_on("member", "ban", None)


@pytest.mark.parametrize("role", MEMBERS)
@pytest.mark.parametrize("given", MEMBERS)
def test_only_owners_give_a_role_as_high_as_their_own(role: str, given: str) -> None:
    if role == "owner" or (role == "moderator" and given in {"readonly", "member"}):
        check_may_give(role, "set_role", given)
    else:
        with pytest.raises(Refusal):
            check_may_give(role, "set_role", given)
