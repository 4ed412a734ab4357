"""Where the actions of contract.py are tried: the people who take part, a room with each of them in a role, and asking.

What has to be done before an action stands in `GIVEN` by the name that the table uses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from tests.contract import MEMBERS, Http

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.daemon import Client, Daemon, SignedIn


@dataclass
class Cast:
    """Who takes part, each with a live connection: the one who asks, and those who are there for it."""

    daemon: Daemon
    actor: SignedIn
    olga: SignedIn
    victim: SignedIn
    outsider: SignedIn
    lines: dict[str, Client] = field(default_factory=dict)
    fresh: count[int] = field(default_factory=count)

    async def ask(self, user: SignedIn, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Something that has to succeed."""
        answer = await self.daemon.http(method, path, body, token=user.token)
        assert answer.status < 300, (method, path, body, answer.body)
        found: dict[str, Any] = answer.json()
        return found

    def heard(self) -> set[str]:
        return {message["type"] for line in self.lines.values() for message in line.inbox}


@dataclass(frozen=True)
class Place:
    """A room with everybody in their roles, and what is in it, by the names that the table uses."""

    names: Mapping[str, str]

    def fill_around(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message in which braces may be somebody's text: only what is a name as a whole is filled in."""
        return {
            name: self.names.get(value[1:-1], value) if isinstance(value, str) and value[:1] == "{" else value
            for name, value in message.items()
        }

    def fill(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.format_map(self.names) if "{" in value else value
        if isinstance(value, dict):
            return {name: self.fill(inner) for name, inner in value.items()}
        return value


async def make_place(cast: Cast, role: str, given: tuple[str, ...]) -> Place:
    """A room of its own in which the actor has this role. Whoever is in it has said something there."""
    owner = cast.actor if role == "owner" else cast.olga
    inside = [cast.victim, *([cast.actor] if role in MEMBERS else [])]
    kind = "public" if role in ("passer_by", "banned") else "private"
    form = {"name": "place", "kind": kind, "members": [user.id for user in inside]}
    room = (await cast.ask(owner, "POST", "/api/rooms", form))["id"]
    path = f"/api/rooms/{room}"
    theirs = (await cast.ask(cast.victim, "POST", f"{path}/messages", {"content": "hello from a member"}))["id"]
    own = theirs
    if role in MEMBERS:
        own = (await cast.ask(cast.actor, "POST", f"{path}/messages", {"content": "hello from the actor"}))["id"]
    names = {
        "room": room, "theirs": theirs, "own": own, "actor": cast.actor.id, "actor_name": cast.actor.username,
        "victim": cast.victim.id, "outsider": cast.outsider.id, "token": cast.actor.token,
        "fresh": f"fresh_{next(cast.fresh)}_{role}", "other_owner": cast.olga.id,
    }  # fmt: skip
    for each in given:
        names |= await GIVEN[each](cast, owner, role, names)
    if role in ("readonly", "moderator"):
        await cast.ask(owner, "PATCH", f"{path}/members/{cast.actor.id}", {"role": role})
    elif role == "banned":
        await cast.ask(owner, "DELETE", f"{path}/members/{cast.actor.id}", {"ban": True})
    return Place(names)


async def sign_in_again(cast: Cast, _owner: SignedIn, _role: str, _names: dict[str, str]) -> dict[str, str]:
    form = {"email": f"{cast.actor.username}@example.org", "password": "correct horse"}
    granted = (await cast.daemon.http("POST", "/api/auth/login", form)).json()
    return {"other_token": granted["token"], "other_refresh": granted["refreshToken"]}


async def add_an_owner(cast: Cast, owner: SignedIn, role: str, names: dict[str, str]) -> dict[str, str]:
    if role == "owner":
        await cast.ask(owner, "POST", f"/api/rooms/{names['room']}/members", {"userId": cast.olga.id})
        await cast.ask(owner, "PATCH", f"/api/rooms/{names['room']}/members/{cast.olga.id}", {"role": "owner"})
    return {}


async def ban_the_outsider(cast: Cast, owner: SignedIn, _role: str, names: dict[str, str]) -> dict[str, str]:
    await cast.ask(owner, "DELETE", f"/api/rooms/{names['room']}/members/{cast.outsider.id}", {"ban": True})
    return {}


async def mute_the_actor(cast: Cast, owner: SignedIn, role: str, names: dict[str, str]) -> dict[str, str]:
    """Before their role changes; an owner is muted as a member, and made an owner by the one who took the place."""
    if role not in MEMBERS:
        return {}
    path = f"/api/rooms/{names['room']}/members"
    if role == "owner":
        await add_an_owner(cast, owner, role, names)
        await cast.ask(owner, "PATCH", f"{path}/{cast.actor.id}", {"role": "member"})
    mute = {"mutedUntil": "2100-01-01T00:00:00Z"}
    await cast.ask(cast.olga, "PATCH", f"{path}/{cast.actor.id}", mute)
    if role == "owner":
        await cast.ask(cast.olga, "PATCH", f"{path}/{cast.actor.id}", {"role": "owner"})
    return {}


async def react(cast: Cast, _owner: SignedIn, role: str, names: dict[str, str]) -> dict[str, str]:
    if role in MEMBERS:
        told = await cast.lines["actor"].ask(type="add_reaction", messageId=names["theirs"], emoji="👍")
        assert told["type"] == "ok", told
    return {}


async def pin(cast: Cast, owner: SignedIn, _role: str, names: dict[str, str]) -> dict[str, str]:
    line = cast.lines["actor" if owner is cast.actor else "olga"]
    assert (await line.ask(type="pin_message", messageId=names["theirs"]))["type"] == "ok"
    return {}


async def begin_typing(cast: Cast, _owner: SignedIn, role: str, names: dict[str, str]) -> dict[str, str]:
    if role in MEMBERS:
        assert (await cast.lines["actor"].ask(type="typing_start", roomId=names["room"]))["type"] == "ok"
    return {}


async def block_the_actor(cast: Cast, _owner: SignedIn, _role: str, names: dict[str, str]) -> dict[str, str]:
    """By somebody who is there for nothing else."""
    blocker = await cast.daemon.register(f"blocker_{names['fresh']}")
    await cast.ask(blocker, "PUT", f"/api/users/{cast.actor.id}/block")
    return {"victim": blocker.id}


async def converse(cast: Cast, _owner: SignedIn, _role: str, _names: dict[str, str]) -> dict[str, str]:
    told = await cast.lines["victim"].ask(type="send_dm", recipientId=cast.actor.id, content="psst")
    assert told["type"] == "message_ack", told
    return {}


GIVEN: Final[dict[str, Callable[[Cast, SignedIn, str, dict[str, str]], Awaitable[dict[str, str]]]]] = {
    "another sign-in": sign_in_again,
    "another owner": add_an_owner,
    "outsider is banned": ban_the_outsider,
    "actor is muted": mute_the_actor,
    "reacted": react,
    "pinned": pin,
    "typing": begin_typing,
    "actor is blocked": block_the_actor,
    "has a conversation": converse,
}


async def ask_by_http(cast: Cast, place: Place, http: Http, fields: Mapping[str, Any] = {}, query: str = "") -> str:
    """`ok`, or the word of the refusal."""
    path = http.path
    for part in http.parts:
        path = re.sub(r":\w+", place.fill(part), path, count=1)
    assert ":" not in path, path
    asked = place.fill(query or http.query)
    body = None if http.body is None else place.fill({**http.body, **fields})
    token = None if http.token is None else place.fill(http.token)
    answer = await cast.daemon.http(http.method, f"{path}?{asked}" if asked else path, body, token=token)
    return "ok" if answer.status < 300 else str(answer.json()["code"])


async def ask_by_websocket(line: Client, place: Place, message: Mapping[str, Any]) -> str:
    told = await line.ask(**place.fill(dict(message)))
    return str(told["code"]) if told["type"] == "error" else "ok"
