"""Who may do what: every request of both contracts, how it is asked by either door, and what each role is answered.

One table, `ACTIONS`; test_contract.py walks it against a daemon and holds it against the types, the routes and the
pages, so that a message or a path without a rule, without somebody who may, or without a refusal, fails there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

#: In which room who asks: a stranger in a private one, a passer-by and somebody banned in a public one.
ROLES: Final = ("stranger", "passer_by", "banned", "readonly", "member", "moderator", "owner")
MEMBERS: Final = ROLES[3:]
#: An id that nothing has.
NOWHERE: Final = "01900000-0000-7000-8000-000000000000"
#: Done, or the word of the refusal, in the order of the roles.
Answers = tuple[str, ...]


def answers(strangers: str, members: str) -> Answers:
    """What is answered to those who are not in the room, then to those who are."""
    found = (*strangers.split(), *members.split())
    assert len(found) == len(ROLES)
    return found


OUTSIDE: Final = "not_found not_a_member not_a_member"
#: By the WebSocket a room that a session is not in is one that it is not in, whether there is one or not.
UNHEARD: Final = "not_a_member not_a_member not_a_member"
ANYBODY: Final = answers("ok ok ok", "ok ok ok ok")
FORBIDDEN: Final = answers("forbidden forbidden forbidden", "forbidden forbidden forbidden forbidden")
READERS: Final = answers(OUTSIDE, "ok ok ok ok")
WRITERS: Final = answers(OUTSIDE, "forbidden ok ok ok")
MODERATORS: Final = answers(OUTSIDE, "forbidden forbidden ok ok")
OWNERS: Final = answers(OUTSIDE, "forbidden forbidden forbidden ok")
NOBODY: Final = answers(OUTSIDE, "forbidden forbidden forbidden forbidden")


class Http(NamedTuple):
    """A request by its route. Braces name what the place has; without a token nobody is signed in."""

    method: str
    path: str
    parts: tuple[str, ...] = ()
    body: Mapping[str, Any] | None = None
    query: str = ""
    token: str | None = "{token}"


class Refused(NamedTuple):
    """A request that is refused to who may do the action: by other fields, another query, or about something else."""

    code: str
    fields: Mapping[str, Any] = {}
    query: str = ""
    instead: Mapping[str, str] = {}
    #: A request that has nothing in it which could be wrong is refused to who is not signed in, as all are.
    is_unsigned: bool = False


UNSIGNED: Final = Refused("unauthenticated", is_unsigned=True)


@dataclass(frozen=True)
class Action:
    """One thing to do. `told` is the message, without its `id`; `given` is what has to be done before by others."""

    name: str
    by: Answers
    refused: Refused
    message: Mapping[str, Any] | None = None
    http: Http | None = None
    #: By the WebSocket, where that differs.
    by_websocket: Answers | None = None
    given: tuple[str, ...] = ()
    #: It changes nothing that another action minds, so that they may share a place. So does whoever is refused.
    is_harmless: bool = field(default=False, kw_only=True)

    def expected(self, role: str, *, is_websocket: bool) -> str:
        found = self.by_websocket if is_websocket and self.by_websocket is not None else self.by
        return found[ROLES.index(role)]


def _of_room(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "roomId": "{room}", **fields}


def _of_message(kind: str, message: str = "{theirs}", **fields: Any) -> dict[str, Any]:
    return {"type": kind, "messageId": message, **fields}


_ROOM: Final = ("{room}",)
_NO_MESSAGE: Final = Refused("not_found", {"messageId": NOWHERE})
_NO_ROOM: Final = Refused("not_found", instead={"room": NOWHERE})
_BAD_PAGE: Final = Refused("bad_message", {"limit": 0}, query="limit=0")
_ACCOUNT: Final = {"email": "{fresh}@example.org", "username": "{fresh}", "password": "correct horse"}

_SESSIONS: Final = (
    Action(
        "authenticate again", ANYBODY, Refused("bad_message", {"token": 1}),
        {"type": "authenticate", "token": "{token}"}, is_harmless=True,
    ),
    Action("ping", ANYBODY, Refused("bad_message", {"payload": "x"}), {"type": "ping"}, is_harmless=True),
    Action(
        "register", ANYBODY, Refused("conflict", {"username": "{actor_name}"}),
        http=Http("POST", "/api/auth/register", body=_ACCOUNT, token=None), is_harmless=True,
    ),
    Action(
        "sign in", ANYBODY, Refused("unauthenticated", {"password": "wrong horse"}),
        http=Http(
            "POST", "/api/auth/login", token=None,
            body={"email": "{actor_name}@example.org", "password": "correct horse"},
        ), is_harmless=True,
    ),
    Action(
        "refresh", ANYBODY, Refused("unauthenticated", {"refreshToken": "none of ours"}), given=("another sign-in",),
        http=Http("POST", "/api/auth/refresh", body={"refreshToken": "{other_refresh}"}, token=None),
    ),
    Action(
        "sign out", ANYBODY, UNSIGNED, given=("another sign-in",),
        http=Http("POST", "/api/auth/logout", token="{other_token}"),
    ),
    Action("read one's profile", ANYBODY, UNSIGNED, http=Http("GET", "/api/users/me"), is_harmless=True),
    Action(
        "change one's profile", ANYBODY, Refused("bad_message", {"username": "a b"}),
        http=Http("PATCH", "/api/users/me", body={"displayName": "A. C. Tor"}), is_harmless=True,
    ),
    Action(
        "read somebody's profile", ANYBODY, Refused("not_found", instead={"outsider": NOWHERE}),
        http=Http("GET", "/api/users/:id", ("{outsider}",)), is_harmless=True,
    ),
    Action(
        "read profiles", ANYBODY, Refused("bad_message", query="ids="),
        http=Http("GET", "/api/users", query="ids={outsider},{victim}"), is_harmless=True,
    ),
    Action(
        "say how one is", ANYBODY, Refused("bad_message", {"status": "offline"}),
        {"type": "update_status", "status": "away", "statusMessage": "at tea"}, is_harmless=True,
    ),
)  # fmt: skip

_ROOMS: Final = (
    Action(
        "list rooms", ANYBODY, Refused("bad_message", query="limit=0"), http=Http("GET", "/api/rooms"), is_harmless=True
    ),
    Action(
        "make a room", ANYBODY, Refused("bad_message", {"kind": "secret"}),
        http=Http("POST", "/api/rooms", body={"name": "new"}), is_harmless=True,
    ),
    Action(
        "see a room", answers("not_found ok ok", "ok ok ok ok"), _NO_ROOM,
        http=Http("GET", "/api/rooms/:id", _ROOM), is_harmless=True,
    ),
    Action(
        "change a room", MODERATORS, Refused("bad_message", {"name": ""}),
        http=Http("PATCH", "/api/rooms/:id", _ROOM, {"topic": "tea"}), is_harmless=True,
    ),
    Action(
        "slow a room down", MODERATORS, Refused("bad_message", {"settings": {"slowModeS": -1}}),
        http=Http("PATCH", "/api/rooms/:id", _ROOM, {"settings": {"slowModeS": 1}}),
    ),
    Action("delete a room", OWNERS, _NO_ROOM, http=Http("DELETE", "/api/rooms/:id", _ROOM)),
    Action(
        "join", answers("not_found ok forbidden", "ok ok ok ok"), Refused("bad_message", {"limit": 101}),
        _of_room("join_room"),
    ),
    Action("leave", answers(UNHEARD, "ok ok ok ok"), Refused("bad_message", {"roomId": ""}), _of_room("leave_room")),
    Action(
        "leave by HTTP", READERS, _NO_ROOM,
        http=Http("DELETE", "/api/rooms/:id/members/:userId", ("{room}", "{actor}")),
    ),
    Action(
        "list members", READERS, Refused("bad_message", query="limit=101"),
        http=Http("GET", "/api/rooms/:id/members", _ROOM), is_harmless=True,
    ),
    Action(
        "add somebody", MODERATORS, Refused("not_found", {"userId": NOWHERE}),
        http=Http("POST", "/api/rooms/:id/members", _ROOM, {"userId": "{outsider}"}),
    ),
    Action(
        "add a moderator", OWNERS, Refused("bad_message", {"role": "owner"}),
        http=Http("POST", "/api/rooms/:id/members", _ROOM, {"userId": "{outsider}", "role": "moderator"}),
    ),
    Action(
        "invite somebody", MODERATORS, Refused("conflict", {"userId": "{victim}"}),
        http=Http("POST", "/api/rooms/:id/members", _ROOM, {"userId": "{outsider}", "invite": True}),
    ),
    Action(
        "take somebody's voice", MODERATORS, Refused("bad_message", {"role": "king"}),
        http=Http("PATCH", "/api/rooms/:id/members/:userId", ("{room}", "{victim}"), {"role": "readonly"}),
    ),
    Action(
        "make somebody a moderator", OWNERS, Refused("not_found", instead={"victim": NOWHERE}),
        http=Http("PATCH", "/api/rooms/:id/members/:userId", ("{room}", "{victim}"), {"role": "moderator"}),
    ),
    Action(
        "make somebody an owner", OWNERS, Refused("bad_message", {"role": ""}),
        http=Http("PATCH", "/api/rooms/:id/members/:userId", ("{room}", "{victim}"), {"role": "owner"}),
    ),
    Action(
        "mute somebody", MODERATORS, Refused("bad_message", {"mutedUntil": "2001-01-01T00:00:00Z"}),
        http=Http(
            "PATCH", "/api/rooms/:id/members/:userId", ("{room}", "{victim}"), {"mutedUntil": "2100-01-01T00:00:00Z"}
        ),
    ),
    Action(
        "let somebody speak again", MODERATORS, Refused("bad_message", {"mutedUntil": "tomorrow"}),
        http=Http("PATCH", "/api/rooms/:id/members/:userId", ("{room}", "{victim}"), {"mutedUntil": None}),
        is_harmless=True,
    ),
    Action(
        "kick somebody", MODERATORS, Refused("not_found", instead={"victim": NOWHERE}),
        http=Http("DELETE", "/api/rooms/:id/members/:userId", ("{room}", "{victim}")),
    ),
    Action(
        "ban somebody", MODERATORS, Refused("not_found", instead={"victim": NOWHERE}),
        http=Http("DELETE", "/api/rooms/:id/members/:userId", ("{room}", "{victim}"), {"ban": True}),
    ),
    Action(
        "ban who is no member", MODERATORS, Refused("bad_message", {"ban": "yes"}),
        http=Http("DELETE", "/api/rooms/:id/members/:userId", ("{room}", "{outsider}"), {"ban": True}),
    ),
    Action(
        "act on an owner", NOBODY, _NO_ROOM, given=("another owner",),
        http=Http("DELETE", "/api/rooms/:id/members/:userId", ("{room}", "{other_owner}")),
    ),
    Action(
        "see who is banned", MODERATORS, Refused("bad_message", query="limit=0"),
        http=Http("GET", "/api/rooms/:id/bans", _ROOM), is_harmless=True,
    ),
    Action(
        "lift a ban", MODERATORS, Refused("not_found", instead={"outsider": NOWHERE}), given=("outsider is banned",),
        http=Http("DELETE", "/api/rooms/:id/bans/:userId", ("{room}", "{outsider}")),
    ),
)  # fmt: skip

_MESSAGES: Final = (
    Action(
        "send a message", WRITERS, Refused("bad_message", {"content": " "}),
        _of_room("send_message", content="hello"),
        Http("POST", "/api/rooms/:id/messages", _ROOM, {"content": "hello"}),
        by_websocket=answers(UNHEARD, "forbidden ok ok ok"), is_harmless=True,
    ),
    Action(
        "send a message while muted", answers(OUTSIDE, "forbidden muted muted muted"),
        Refused("bad_message", {"content": ""}),
        _of_room("send_message", content="hello"),
        Http("POST", "/api/rooms/:id/messages", _ROOM, {"content": "hello"}),
        by_websocket=answers(UNHEARD, "forbidden muted muted muted"), given=("actor is muted",),
    ),
    Action(
        "read history", READERS, _BAD_PAGE,
        _of_room("get_history"), Http("GET", "/api/rooms/:id/messages", _ROOM),
        by_websocket=answers(UNHEARD, "ok ok ok ok"), is_harmless=True,
    ),
    Action(
        "edit a message", WRITERS, Refused("bad_message", {"content": ""}),
        _of_message("edit_message", "{own}", content="other words"),
    ),
    Action("edit somebody's message", NOBODY, _NO_MESSAGE, _of_message("edit_message", content="other words")),
    Action("delete a message", READERS, _NO_MESSAGE, _of_message("delete_message", "{own}")),
    Action("delete somebody's message", MODERATORS, _NO_MESSAGE, _of_message("delete_message")),
    Action(
        "react", WRITERS, Refused("bad_message", {"emoji": "two words"}), _of_message("add_reaction", emoji="👍"),
        is_harmless=True,
    ),
    Action(
        "take a reaction back", READERS, _NO_MESSAGE, _of_message("remove_reaction", emoji="👍"), given=("reacted",)
    ),
    Action("pin", MODERATORS, _NO_MESSAGE, _of_message("pin_message"), is_harmless=True),
    Action("unpin", MODERATORS, _NO_MESSAGE, _of_message("unpin_message"), given=("pinned",)),
    Action(
        "see what is pinned", READERS, Refused("bad_message", query="limit=0"),
        http=Http("GET", "/api/rooms/:id/pins", _ROOM), is_harmless=True,
    ),
    Action(
        "read a thread", READERS, Refused("not_found", instead={"theirs": NOWHERE}),
        http=Http("GET", "/api/messages/:id/thread", ("{theirs}",)), is_harmless=True,
    ),
    Action(
        "read receipts", READERS, Refused("not_found", instead={"theirs": NOWHERE}),
        http=Http("GET", "/api/messages/:id/receipts", ("{theirs}",)), is_harmless=True,
    ),
    Action(
        "mark as read", READERS, _NO_MESSAGE, _of_room("mark_as_read", messageId="{theirs}"),
        by_websocket=answers(UNHEARD, "ok ok ok ok"), is_harmless=True,
    ),
    Action(
        "type", answers(UNHEARD, "forbidden ok ok ok"), Refused("bad_message", {"roomId": 1}),
        _of_room("typing_start"), is_harmless=True,
    ),
    Action(
        "stop typing", answers(UNHEARD, "ok ok ok ok"), Refused("bad_message", {"roomId": 1}),
        _of_room("typing_stop"), given=("typing",),
    ),
    Action(
        "search", ANYBODY, Refused("bad_message", query="q="),
        http=Http("GET", "/api/search", query="q=hello"), is_harmless=True,
    ),
    Action(
        "search a room", answers("not_found not_a_member not_a_member", "ok ok ok ok"),
        Refused("bad_message", query="q=&roomId={room}"),
        http=Http("GET", "/api/search", query="q=hello&roomId={room}"), is_harmless=True,
    ),
)  # fmt: skip

_BETWEEN: Final = (
    Action(
        "write to somebody", ANYBODY, Refused("bad_message", {"content": ""}),
        {"type": "send_dm", "recipientId": "{victim}", "content": "psst"}, is_harmless=True,
    ),
    Action(
        "write to who has blocked one", FORBIDDEN, Refused("bad_message", {"content": ""}),
        {"type": "send_dm", "recipientId": "{victim}", "content": "psst"},
        given=("actor is blocked",),
    ),
    Action(
        "read a conversation", ANYBODY, Refused("bad_message", query="limit=0"), given=("has a conversation",),
        http=Http("GET", "/api/direct-messages/:userId", ("{victim}",)), is_harmless=True,
    ),
    Action(
        "mark a conversation as read", ANYBODY, Refused("not_found", instead={"victim": NOWHERE}),
        http=Http("POST", "/api/direct-messages/:userId/read", ("{victim}",), {}), given=("has a conversation",),
    ),
    Action(
        "count unread direct messages", ANYBODY, UNSIGNED,
        http=Http("GET", "/api/direct-messages/unread"), is_harmless=True,
    ),
    Action(
        "block somebody", ANYBODY, Refused("not_found", instead={"outsider": NOWHERE}),
        http=Http("PUT", "/api/users/:id/block", ("{outsider}",)), is_harmless=True,
    ),
    Action(
        "unblock somebody", ANYBODY, UNSIGNED,
        http=Http("DELETE", "/api/users/:id/block", ("{outsider}",)), is_harmless=True,
    ),
    Action(
        "see whom one has blocked", ANYBODY, Refused("bad_message", query="limit=0"),
        http=Http("GET", "/api/blocks"), is_harmless=True,
    ),
    Action(
        "list chats", ANYBODY, Refused("bad_message", query="limit=0"), http=Http("GET", "/api/chats"), is_harmless=True
    ),
    Action(
        "read notifications", ANYBODY, Refused("bad_message", query="limit=0"),
        http=Http("GET", "/api/notifications"), is_harmless=True,
    ),
    Action(
        "mark notifications as read", ANYBODY, Refused("bad_message", {"ids": "all"}),
        http=Http("POST", "/api/notifications/read", body={}), is_harmless=True,
    ),
    Action(
        "see what one is notified of", READERS, _NO_ROOM,
        http=Http("GET", "/api/rooms/:id/members/me", _ROOM), is_harmless=True,
    ),
    Action(
        "choose what to be notified of", READERS, Refused("bad_message", {"notify": "sometimes"}),
        http=Http("PATCH", "/api/rooms/:id/members/me", _ROOM, {"notify": "mentions"}), is_harmless=True,
    ),
)  # fmt: skip

_OPERATION: Final = tuple(
    Action(f"ask {path}", ANYBODY, UNSIGNED, http=Http("GET", path, token=None), is_harmless=True)
    for path in ("/api/openapi.json", "/api/asyncapi.json", "/healthz", "/readyz", "/metrics")
)

ACTIONS: Final = (*_SESSIONS, *_ROOMS, *_MESSAGES, *_BETWEEN, *_OPERATION)

#: Paths that are open to everybody and have nothing that could be wrong.
WITHOUT_REFUSAL: Final = {"/api/openapi.json", "/api/asyncapi.json", "/healthz", "/readyz", "/metrics"}
#: Paths that are walked elsewhere: whose a file is says itself and not a role, and what is sent is no JSON.
OF_FILES: Final = ("/api/upload", "/api/files/")
#: What servers say and this walk does not bring about, with the tests that do.
HEARD_ELSEWHERE: Final = {
    "auth_error": "test_sign_in.py",
    "caught_up": "test_resume.py",
    "resync": "test_resume.py",
    "server_shutdown": "test_drain.py",
    "unread_dms": "test_direct.py",
    "messages_delivered": "test_delivered.py",
    "user_online": "test_presence.py",
    "user_offline": "test_presence.py",
}
