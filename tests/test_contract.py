"""Both contracts walked: each request has a rule, is done for those who may, and refused to those who may not.

The table is in contract.py. Nothing stands in it that the types and routes do not have, and the other way round; the
pages say the same. Each request is made for real in each role, through each door that it has.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import pytest

from chatd.chat.dispatch import RULES
from chatd.chat.routes import ROUTES
from chatd.protocol import CLIENT_TYPES, ClientMessage, ServerMessage, wire_name
from tests.contract import ACTIONS, HEARD_ELSEWHERE, NOWHERE, OF_FILES, ROLES, WITHOUT_REFUSAL
from tests.daemon import open_daemon
from tests.places import Cast, Place, ask_by_http, ask_by_websocket, make_place

if TYPE_CHECKING:
    from tests.contract import Action

CHECKOUT: Final = Path(__file__).parent.parent
SERVER_TYPES: Final = {wire_name(kind.__name__) for kind in get_args(ServerMessage)}


def page(name: str) -> str:
    return (CHECKOUT / "docs" / name).read_text(encoding="utf-8")


def names_in_table(text: str) -> list[str]:
    """The names in the first column of a page's tables."""
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


# The table against the types, the routes and the pages


def test_every_message_of_the_protocol_has_a_rule() -> None:
    assert {kind for kind in get_args(ClientMessage) if kind not in RULES} == set()


def test_every_message_stands_in_the_table_and_no_other() -> None:
    assert {action.message["type"] for action in ACTIONS if action.message is not None} == set(CLIENT_TYPES)


def test_every_path_stands_in_the_table_and_no_other() -> None:
    walked = {(action.http.method, action.http.path) for action in ACTIONS if action.http is not None}
    assert walked == {(route.method, route.path) for route in ROUTES if not route.path.startswith(OF_FILES)}


def test_pages_list_every_message_of_both_sides_once() -> None:
    sent, heard = page("protocol.md").split("## What a client hears")
    heard = heard.split("\n## ")[0]
    assert Counter(names_in_table(sent)) == Counter(CLIENT_TYPES)
    assert Counter(names_in_table(heard)) == Counter(SERVER_TYPES)


def test_every_request_is_done_for_somebody_and_refused_to_somebody() -> None:
    doors: dict[str, set[str]] = {}
    for action in ACTIONS:
        for name, is_websocket in names_of(action):
            told = {action.expected(role, is_websocket=is_websocket) for role in ROLES}
            doors.setdefault(name, set()).update(told, {action.refused.code})
    only_refused = {name for name, told in doors.items() if "ok" not in told}
    never_refused = {name for name, told in doors.items() if told == {"ok"}}
    assert (only_refused, never_refused) == (set(), set())
    signed = {action.http.path for action in ACTIONS if action.http and action.refused.is_unsigned}
    open_paths = {route.path for route in ROUTES if route.is_open}
    assert signed & open_paths == WITHOUT_REFUSAL


def names_of(action: Action) -> list[tuple[str, bool]]:
    """The doors of an action: a message's name, a method with its path."""
    found = []
    if action.message is not None:
        found.append((action.message["type"], True))
    if action.http is not None:
        found.append((f"{action.http.method} {action.http.path}", False))
    return found


def test_what_servers_say_elsewhere_is_shown_there() -> None:
    for kind, module in HEARD_ELSEWHERE.items():
        assert kind in SERVER_TYPES
        assert f'"{kind}"' in (CHECKOUT / "tests" / module).read_text(encoding="utf-8")


# The walk


@dataclass
class Walk:
    """Every action in one role, and what was answered otherwise than the table says."""

    cast: Cast
    role: str
    wrong: list[str] = field(default_factory=list)
    _shared: Place | None = None

    async def place(self, action: Action, expected: str) -> Place:
        if action.given or (expected == "ok" and not action.is_harmless):
            return await make_place(self.cast, self.role, action.given)
        if self._shared is None:
            self._shared = await make_place(self.cast, self.role, ())
        return self._shared

    async def take(self, action: Action) -> None:
        """By the WebSocket, then by HTTP, each at a place of its own if it may change what others find there."""
        for name, is_websocket in names_of(action):
            expected = action.expected(self.role, is_websocket=is_websocket)
            place = await self.place(action, expected)
            told = await self.ask(action, place, is_websocket=is_websocket)
            self.compare(action, name, told, expected)
            if self.role == "owner" and expected == "ok":
                place = await self.place(action, action.refused.code)
                told = await self.ask_wrongly(action, place, is_websocket=is_websocket)
                self.compare(action, f"{name}, wrongly", told, action.refused.code)

    def compare(self, action: Action, name: str, told: str, expected: str) -> None:
        if told != expected:
            self.wrong.append(f"{self.role}: {action.name} ({name}): {told} instead of {expected}")

    async def ask(self, action: Action, place: Place, *, is_websocket: bool) -> str:
        if is_websocket:
            assert action.message is not None
            return await ask_by_websocket(self.cast.lines["actor"], place, action.message)
        assert action.http is not None
        return await ask_by_http(self.cast, place, action.http)

    async def ask_wrongly(self, action: Action, place: Place, *, is_websocket: bool) -> str:
        refused = action.refused
        place = Place({**place.names, **refused.instead})
        if is_websocket:
            assert action.message is not None
            return await ask_by_websocket(self.cast.lines["actor"], place, {**action.message, **refused.fields})
        assert action.http is not None
        if refused.is_unsigned:
            if action.http.path in WITHOUT_REFUSAL:
                return refused.code
            return await ask_by_http(self.cast, place, action.http._replace(token=None))
        return await ask_by_http(self.cast, place, action.http, refused.fields, refused.query)


@pytest.mark.usefixtures("back_ends")
@pytest.mark.parametrize("role", ROLES)
async def test_each_role_may_what_the_table_says_by_either_door(tmp_path: Path, role: str) -> None:
    async with open_daemon(tmp_path) as daemon:
        actor, olga, victim, outsider = [await daemon.register(n) for n in ("actor", "olga", "victim", "outsider")]
        cast = Cast(daemon, actor, olga, victim, outsider)
        async with (
            daemon.connect(victim) as victim_line, daemon.connect(olga) as olga_line, daemon.connect(actor) as line,
        ):  # fmt: skip
            cast.lines = {"victim": victim_line, "olga": olga_line, "actor": line}
            walk = Walk(cast, role)
            for action in ACTIONS:
                await walk.take(action)
            for each in cast.lines.values():
                each.inbox.append(await each.ask(type="ping"))
                assert [told for told in each.inbox if told.get("code") == "internal"] == []
        assert walk.wrong == [], "\n".join(walk.wrong)
        if role == "owner":
            direct = {"ok", "error", "message_ack", "pong", "authenticated", "room_history"}
            assert SERVER_TYPES - cast.heard() - direct - set(HEARD_ELSEWHERE) == set()


@pytest.mark.usefixtures("back_ends")
async def test_nobody_is_answered_before_they_have_said_who_they_are(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        actor = await daemon.register("actor")
        names = dict.fromkeys(("room", "theirs", "own", "victim", "outsider", "actor", "other_owner"), NOWHERE)
        place = Place({**names, "token": "no token", "other_token": "no token", "fresh": "", "actor_name": "actor"})
        cast = Cast(daemon, actor, actor, actor, actor)
        async with daemon.connect() as line:
            for action in ACTIONS:
                if action.message is not None and action.message["type"] not in ("authenticate", "ping"):
                    assert await ask_by_websocket(line, place, action.message) == "unauthenticated", action.name
        open_paths = {route.path for route in ROUTES if route.is_open}
        for action in ACTIONS:
            if action.http is not None and action.http.path not in open_paths:
                for http in (action.http, action.http._replace(token=None)):
                    assert await ask_by_http(cast, place, http) == "unauthenticated", action.name
