"""Who may do what in a room, as data: every deed at both doors, with the role from which on it is allowed.

`DEEDS` is the table; another deed is one more line. `try_deed` has somebody do one in a room made for it, and says what
came of it: `ok`, or the code of the refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from chatd.chat.dispatch import RULES
from chatd.protocol import wire_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.daemon import Client, Daemon, SignedIn

#: From the lowest up; a stranger is no member.
ROLES: Final = ("readonly", "member", "moderator", "owner")
STRANGER: Final = "stranger"
MISSING: Final = "0195d9a0-0000-7000-8000-000000000000"


@dataclass(frozen=True)
class Deed:
    """Something done in a room, and from which role on. `{room}`, `{target}` (a member of it), `{outsider}` and
    `{message}` (the owner's) are filled in everywhere.

    With a method `what` is a path, otherwise the type of a message. `before` is what an owner does first. To whom is no
    member it is refused as `stranger` in a public room, and as `hidden` in a private one.
    """

    name: str
    least: str
    what: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    method: str = ""
    before: tuple[Deed, ...] = ()
    stranger: str = "not_a_member"
    hidden: str = ""

    def outcome(self, role: str, kind: str) -> str:
        """What has to come of it."""
        if role != STRANGER:
            return "ok" if ROLES.index(role) >= ROLES.index(self.least) else "forbidden"
        if kind == "public":
            return self.stranger
        return self.hidden or ("not_found" if self.method else "not_a_member")


ROOM: Final = "/api/rooms/{room}"
BAN: Final = Deed("ban", "moderator", ROOM + "/members/{outsider}", {"ban": True}, "DELETE")

DEEDS: Final = (
    # HTTP
    Deed("see", "readonly", ROOM, method="GET", stranger="ok"),
    Deed("list members", "readonly", ROOM + "/members", method="GET"),
    Deed("read history", "readonly", ROOM + "/messages", method="GET"),
    Deed("send by HTTP", "member", ROOM + "/messages", {"content": "hello"}, "POST"),
    Deed("rename", "moderator", ROOM, {"name": "another name"}, "PATCH"),
    Deed("slow down", "moderator", ROOM, {"settings": {"slowModeS": 1}}, "PATCH"),
    Deed("delete", "owner", ROOM, method="DELETE"),
    Deed("add", "moderator", ROOM + "/members", {"userId": "{outsider}"}, "POST"),
    Deed("add a moderator", "owner", ROOM + "/members", {"userId": "{outsider}", "role": "moderator"}, "POST"),
    Deed("invite", "moderator", ROOM + "/members", {"userId": "{outsider}", "invite": True}, "POST"),
    Deed("silence", "moderator", ROOM + "/members/{target}", {"role": "readonly"}, "PATCH"),
    Deed("promote", "owner", ROOM + "/members/{target}", {"role": "moderator"}, "PATCH"),
    Deed("make an owner", "owner", ROOM + "/members/{target}", {"role": "owner"}, "PATCH"),
    Deed("mute", "moderator", ROOM + "/members/{target}", {"mutedUntil": "2999-01-01T00:00:00Z"}, "PATCH"),
    Deed("unmute", "moderator", ROOM + "/members/{target}", {"mutedUntil": None}, "PATCH"),
    Deed("kick", "moderator", ROOM + "/members/{target}", method="DELETE"),
    Deed("ban a member", "moderator", ROOM + "/members/{target}", {"ban": True}, "DELETE"),
    BAN,
    Deed("list bans", "moderator", ROOM + "/bans", method="GET"),
    Deed("unban", "moderator", ROOM + "/bans/{outsider}", method="DELETE", before=(BAN,)),
    Deed("list pins", "readonly", ROOM + "/pins", method="GET"),
    # WebSocket
    Deed("join", "readonly", "join_room", {"roomId": "{room}"}, stranger="ok", hidden="not_found"),
    Deed("read", "readonly", "get_history", {"roomId": "{room}"}),
    Deed("send", "member", "send_message", {"roomId": "{room}", "content": "hello"}),
    Deed("type", "member", "typing_start", {"roomId": "{room}"}),
    Deed("mark as read", "readonly", "mark_as_read", {"roomId": "{room}"}),
    Deed("react", "member", "add_reaction", {"messageId": "{message}", "emoji": "👍"}, hidden="not_found"),
    Deed("pin", "moderator", "pin_message", {"messageId": "{message}"}, hidden="not_found"),
    Deed("delete a message", "moderator", "delete_message", {"messageId": "{message}"}, hidden="not_found"),
    Deed("leave", "readonly", "leave_room", {"roomId": "{room}"}),
)  # fmt: skip


def is_served(deed: Deed) -> bool:
    """There is a rule for it."""
    return bool(deed.method) or deed.what in {wire_name(kind.__name__) for kind in RULES}


@dataclass(frozen=True)
class Cast:
    """Users who play the roles of every room, one each, and two on whom is acted."""

    by_role: Mapping[str, SignedIn]
    target: SignedIn
    outsider: SignedIn


async def new_cast(daemon: Daemon) -> Cast:
    by_role = {role: await daemon.register(f"a_{role}") for role in (*ROLES, STRANGER)}
    return Cast(by_role, await daemon.register("target"), await daemon.register("outsider"))


async def try_deed(daemon: Daemon, cast: Cast, client: Client, role: str, deed: Deed, *, kind: str) -> str:
    """What comes of a deed in a new room; `client` is the connection of who does it."""
    owner = cast.by_role["owner"]
    others = [cast.by_role[name].id for name in ROLES[:-1]]
    room_id = await daemon.create_room(owner, kind=kind, members=[*others, cast.target.id])
    for name in ("readonly", "moderator"):
        path = f"/api/rooms/{room_id}/members/{cast.by_role[name].id}"
        assert (await daemon.http("PATCH", path, {"role": name}, token=owner.token)).status == 200
    sent = await daemon.http("POST", f"/api/rooms/{room_id}/messages", {"content": "x"}, token=owner.token)
    filled = {
        "room": room_id, "target": cast.target.id, "outsider": cast.outsider.id, "message": sent.json()["id"],
    }  # fmt: skip
    for first in deed.before:
        assert await _do(daemon, owner, client, first, filled) == "ok"
    return await _do(daemon, cast.by_role[role], client, deed, filled)


async def _do(daemon: Daemon, user: SignedIn, client: Client, deed: Deed, filled: Mapping[str, str]) -> str:
    fields = {name: _fill(value, filled) for name, value in deed.fields.items()}
    if deed.method:
        answer = await daemon.http(deed.method, deed.what.format(**filled), fields or None, token=user.token)
        return "ok" if answer.status < 300 else str(answer.json()["code"])
    reply = await client.ask(type=deed.what, **fields)
    return str(reply["code"]) if reply["type"] == "error" else "ok"


def _fill(value: object, filled: Mapping[str, str]) -> object:
    return value.format(**filled) if isinstance(value, str) else value
