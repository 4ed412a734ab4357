"""Hostile text in every field of every message and form of both doors, in every parameter and every part of a path.

The fields are those of the types themselves. Whatever is sent is done or refused with a word of the contract: never a
defect, nothing in the error log, nothing broken for others; and what is stored comes back as it was sent, or cleaned
as the manual says.
"""

from __future__ import annotations

import io
import json
import re
import urllib.parse
from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec
import pytest

from chatd import telemetry
from chatd.chat import forms
from chatd.chat.routes import ROUTES
from chatd.errors import ErrorCode
from chatd.protocol import ClientMessage, wire_name
from tests.contract import ACTIONS, OF_FILES
from tests.daemon import ON_BOTH_BACK_ENDS, Client, Daemon, SignedIn, open_daemon
from tests.logs import own_logging
from tests.places import Cast, Place, make_place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.contract import Action

pytestmark = ON_BOTH_BACK_ENDS

SCRIPT: Final = "<script>alert(1)</script>"
ASTRAL: Final = "\U0001d54f" * 10_000
UNSEEN: Final = "a\u200bb\u200cc\u200dd\ufeffe\u2060f"
TURNED: Final = "user\u202egnp.exe\u202c \u2066x\u2069 \u061c"
FLOOD: Final = "@everyone @here @ada " * 400
TEXTS: Final = (
    SCRIPT, "'; DROP TABLE messages; --", "\" OR ''='", "%_\\% $1 :id ?", UNSEEN, TURNED, ASTRAL, FLOOD, "a\u0000b",
    "\x1b[2J\x07", "\u2028\u2029", "\r\nSet-Cookie: a=b\r\n\r\n", "../../../etc/passwd", "{{7*7}}${7*7}%s%n",
    "javascript:alert(1)", "", " ", '{"type":"ping"}', "\ufffe\uffff\U0010ffff",
)  # fmt: skip
#: Half of a pair, which no text has: only JSON's escapes can say it.
LONE: Final = r"\ud800"
#: For the parts of a path and the parameters of a query, of which there are many.
SOME: Final = (
    SCRIPT,
    "'; DROP TABLE messages; --",
    TURNED,
    "\u0000",
    "%_\\%",
    "\r\nX: y",
    "🫖" * 50,
    "../..",
    "NEAR(a b) AND *",
)
PARAMETERS: Final = (
    "q", "roomId", "from", "ids", "after", "lastMessageId", "limit", "offset", "beforeSeq", "afterSeq", "all", "ban"
)  # fmt: skip
CODES: Final = frozenset(get_args(ErrorCode)) - {"internal", "unavailable", "overloaded"}
#: Where each form is filled in: the name of an action.
FORMS: Final[dict[type, str]] = {
    forms.Registration: "register", forms.Login: "sign in", forms.Refresh: "refresh",
    forms.ProfileChange: "change one's profile", forms.RoomForm: "make a room", forms.SettingsForm: "change a room",
    forms.RoomChangeForm: "change a room", forms.MemberForm: "add somebody",
    forms.MemberChangeForm: "take somebody's voice", forms.RemovalForm: "kick somebody",
    forms.NotificationsRead: "mark notifications as read", forms.NotifyForm: "choose what to be notified of",
    forms.MessageForm: "send a message", forms.MarkForm: "mark a conversation as read",
}  # fmt: skip
#: What is not to change under the feet of the test.
LEFT_ALONE: Final = {("ProfileChange", "username"), ("ProfileChange", "password")}


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    log = io.StringIO()
    with own_logging():
        telemetry.configure_logging("warning", "json", log)
        yield log


@pytest.fixture
async def cast(tmp_path: Path, log: io.StringIO) -> AsyncIterator[Cast]:
    """Everybody, of whom nobody minds what the log says of refused sign-ins."""
    async with open_daemon(tmp_path, AUTH_BCRYPT_COST="4") as daemon:
        actor, olga, ada, outsider = [await daemon.register(name) for name in ("actor", "olga", "ada", "outsider")]
        cast = Cast(daemon, actor, olga, ada, outsider)
        async with daemon.connect(cast.actor) as line, daemon.connect(cast.victim) as other:
            cast.lines = {"actor": line, "victim": other}
            yield cast
            assert (await daemon.http("GET", "/readyz")).status == 200
            for each in cast.lines.values():
                assert (await each.ask(type="ping"))["type"] == "pong"
    assert [line for line in log.getvalue().splitlines() if '"level":"error"' in line or "Traceback" in line] == []


def action(name: str) -> Action:
    return next(action for action in ACTIONS if action.name == name)


def texts_of(kind: type) -> list[str]:
    """The names on the wire of the fields of a type that take a text, or anything with texts in it."""
    takes_text = re.compile(r"\bstr\b|Any|Id|Literal|Resume|datetime")
    return [field.encode_name for field in msgspec.structs.fields(kind) if takes_text.search(str(field.type))]


def hostile(name: str, text: str) -> Any:
    """A value for a field: in the keys as well where it is an object."""
    match name:
        case "metadata":
            return {text: [text, {text: text}]}
        case "resume":
            return {"epoch": text, "rooms": {text: 1}}
        case "members" | "ids":
            return [text]
        case _:
            return text


def raw(value: Any) -> str:
    """JSON as people write it, with every character as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\u2028", "\\u2028")


def check_answer(status: int, body: bytes, what: str) -> None:
    assert status < 500 or status == 501, (what, status, body)
    assert b"Traceback" not in body, what
    if status >= 400 and body:
        assert json.loads(body)["code"] in CODES, (what, body)


def test_every_form_is_filled_in_somewhere() -> None:
    assert set(FORMS) == set(forms._Form.__subclasses__())


async def test_every_field_of_every_message_is_fed(cast: Cast) -> None:
    line, place = cast.lines["actor"], await make_place(cast, "owner", ())
    for kind in get_args(ClientMessage):
        name = wire_name(kind.__name__)
        [base, *_] = [action.message for action in ACTIONS if action.message and action.message["type"] == name]
        for field in {*texts_of(kind), "id", "type", "another"}:
            for text in TEXTS:
                told = await say(
                    cast, line, place, {**base, field: hostile(field, text)}, is_known=name != "authenticate"
                )
                assert told is None or told.get("code", "forbidden") in CODES, (name, field, told)
            lone = raw({**place.fill(dict(base)), field: "LONE", "id": "lone"}).replace("LONE", LONE)
            if field not in ("id", "type") and name != "authenticate":
                await line.send_text(lone)
                assert (await wait_for_reply(line, ("lone", None)))["code"] == "bad_message"


async def say(
    cast: Cast, line: Client, place: Place, message: dict[str, Any], *, is_known: bool
) -> dict[str, Any] | None:
    """Send a message; what it is answered, if anything. What may end a connection is sent on one of its own."""
    filled = {"id": "hostile", **place.fill_around(message)}
    text = raw(filled)
    if len(text.encode()) > 60_000:
        return None
    if not is_known:
        async with cast.daemon.connect() as other:
            await other.send_text(text)
            await other.send(type="ping")
            told = await other.receive()
            return told if told["type"] != "pong" else None
    await line.send_text(text)
    if filled["id"] == "hostile":
        return await wait_for_reply(line, ("hostile", None))
    await line.ask(type="ping")
    return None


async def wait_for_reply(line: Client, ids: tuple[str | None, ...]) -> dict[str, Any]:
    """The reply with one of these ids, or an error without any: the message was none."""
    while True:
        told = await line.receive()
        if told.get("id", "no id") in ids or (told["type"] == "error" and "id" not in told):
            return told


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
async def test_every_field_of_every_form_is_fed(cast: Cast, form: type) -> None:
    http, given = action(FORMS[form]).http, action(FORMS[form]).given
    assert http is not None
    place = await make_place(cast, "owner", given)
    path = http.path
    for part in http.parts:
        path = re.sub(r":\w+", place.fill(part), path, count=1)
    token = None if http.token is None else place.fill(http.token)
    for field in {*texts_of(form), "another"}:
        if (form.__name__, field) in LEFT_ALONE:
            continue
        for text in TEXTS:
            body = {**place.fill(dict(http.body or {})), field: hostile(field, text)}
            if form is forms.SettingsForm:
                body = {"settings": {field: text}}
            answer = await cast.daemon.http(http.method, path, raw(body).encode(), token=token)
            check_answer(answer.status, answer.body, f"{form.__name__}.{field} {text[:40]!r}")
        lone = raw({**place.fill(dict(http.body or {})), field: "LONE"}).replace("LONE", LONE)
        answer = await cast.daemon.http(http.method, path, lone.encode(), token=token)
        assert (answer.status, answer.json()["code"]) == (422, "bad_message")


async def test_every_part_of_every_path_and_every_parameter_is_fed(cast: Cast) -> None:
    place = await make_place(cast, "owner", ())
    for route in ROUTES:
        if route.path.startswith(OF_FILES) or route.path == "/api/auth/logout":
            continue
        bodiless = route.method in ("GET", "DELETE")
        for text in SOME:
            quoted = urllib.parse.quote(text, safe="")
            paths = [re.sub(r":\w+", quoted, route.path)] if ":" in route.path else []
            if route.method == "GET":
                there = re.sub(r":id", place.names["room"], re.sub(r":userId", place.names["victim"], route.path))
                paths += [f"{there}?{name}={quoted}" for name in PARAMETERS]
            for path in paths:
                answer = await cast.daemon.http(
                    route.method, path, None if bodiless else {}, token=cast.actor.token
                )  # fmt: skip
                check_answer(answer.status, answer.body, f"{route.method} {path}")


# What is stored


KEPT: Final = (
    UNSEEN, TURNED, ASTRAL, "'; DROP TABLE messages; --", "a < b && c > d", "<3", "%_\\%", "a\u2028b\u2029c", "e\u0301",
    "@everyone @here", '{"type":"ping"}', "\ufffe\uffff", "\U0010ffff",
)  # fmt: skip


async def send_by(cast: Cast, door: str, room_id: str, content: str, kind: str = "text") -> dict[str, Any]:
    """A message as it comes back to the one who sent it."""
    fields = {"content": content, "messageType": kind, "metadata": {"copy": content[:100]}}
    if door == "http":
        path = f"/api/rooms/{room_id}/messages"
        answer = await cast.daemon.http("POST", path, raw(fields).encode(), token=cast.actor.token)
        assert answer.status == 201, answer.body
        return dict(answer.json())
    await cast.lines["actor"].send_text(raw({"type": "send_message", "id": "kept", "roomId": room_id, **fields}))
    ack = await wait_for_reply(cast.lines["actor"], ("kept",))
    history = await cast.lines["actor"].ask(type="get_history", roomId=room_id, limit=1)
    assert history["messages"][0]["id"] == ack["messageId"]
    return dict(history["messages"][0])


@pytest.mark.parametrize("door", ["websocket", "http"])
async def test_what_is_written_comes_back_as_it_was_sent(cast: Cast, door: str) -> None:
    place = await make_place(cast, "owner", ())
    room_id = place.names["room"]
    for content in KEPT:
        stored = await send_by(cast, door, room_id, content)
        assert (stored["content"], stored["metadata"]["copy"]) == (content, content[:100])
        heard = await cast.lines["victim"].heard("new_message")
        while heard["message"]["id"] != stored["id"]:
            heard = await cast.lines["victim"].heard("new_message")
        assert heard["message"]["content"] == content
        listed = await cast.ask(cast.actor, "GET", f"/api/rooms/{room_id}/messages?limit=1")
        assert listed["messages"][0]["content"] == content
    chats = await cast.ask(cast.actor, "GET", "/api/chats?limit=1")
    assert chats["chats"][0]["lastMessage"]["content"] == KEPT[-1]


@pytest.mark.parametrize("door", ["websocket", "http"])
async def test_markup_is_left_out_of_text_and_stays_in_code(cast: Cast, door: str) -> None:
    place = await make_place(cast, "owner", ())
    room_id = place.names["room"]
    stored = await send_by(cast, door, room_id, f"before {SCRIPT} after")
    assert "<" not in stored["content"]
    assert "before" in stored["content"]
    assert (await send_by(cast, door, room_id, SCRIPT, "code"))["content"] == SCRIPT
    told = await cast.lines["actor"].ask(type="edit_message", messageId=stored["id"], content=f"{SCRIPT} again")
    assert told["type"] == "ok"
    listed = await cast.ask(cast.actor, "GET", f"/api/rooms/{room_id}/messages?limit=2")
    assert listed["messages"][0]["content"].strip() == "again"


async def test_flood_of_mentions_notifies_those_who_are_named_once(cast: Cast) -> None:
    place = await make_place(cast, "owner", ())
    await send_by(cast, "websocket", place.names["room"], FLOOD)
    told = await cast.lines["victim"].heard("notification")
    while told["notification"]["kind"] != "mention":
        told = await cast.lines["victim"].heard("notification")
    assert told["notification"]["actorId"] == cast.actor.id
    await cast.lines["victim"].ask(type="ping")
    listed = await cast.ask(cast.victim, "GET", "/api/notifications")
    assert len([n for n in listed["notifications"] if n["kind"] == "mention"]) == 1


async def test_names_of_rooms_and_people_come_back_as_they_were_sent(cast: Cast) -> None:
    for name in ("'; DROP TABLE rooms; --", SCRIPT, "a & b <c>", "\U0001d54f" * 100, "%_\\%"):
        room = await cast.ask(cast.actor, "POST", "/api/rooms", {"name": name, "topic": name})
        found = await cast.ask(cast.actor, "GET", f"/api/rooms/{room['id']}")
        assert (found["name"], found["topic"]) == (name, name)
    for text in ("'; DROP TABLE users; --", SCRIPT, "%_\\%"):
        changed = await cast.ask(cast.actor, "PATCH", "/api/users/me", {"displayName": text, "statusMessage": text})
        assert (changed["displayName"], changed["statusMessage"]) == (text, text)
    await expect_own(cast.daemon, cast.actor)


async def expect_own(daemon: Daemon, user: SignedIn) -> None:
    own = await daemon.http("GET", "/api/users/me", token=user.token)
    assert (own.status, own.json()["username"]) == (200, user.username)
