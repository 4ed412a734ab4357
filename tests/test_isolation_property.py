"""Made-up people in made-up rooms: nothing that anybody is told, by any way, is not for them.

Programs of what people do, by both doors, are played against a real daemon, and against how things ought to be
(`society`). After each step all that everybody was told is looked through for secrets: live events, replies, errors,
histories, search, notifications, chat lists, receipts, member lists, resumes. What is done is what may be done, and to
whoever is not in it a private room is like one that does not exist.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from chatd.protocol import RoomChange, wire_name
from tests.contract import NOWHERE
from tests.daemon import Answer, Client, Daemon, SignedIn, open_daemon
from tests.models import count_steps, programs, steps_of
from tests.society import NAMES, Place, Said, Society, pick, secrets_in

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DURABLE: Final = {wire_name(kind.__name__) for kind in get_args(RoomChange)}
#: What is told when its turn comes, of what was true a little before.
LATER: Final = {
    "notification", "user_online", "user_offline", "user_status", "user_typing", "user_stopped_typing",
    "messages_read", "messages_delivered",
}  # fmt: skip
#: Seconds back of which such a word may tell.
A_LITTLE_S: Final = 3.0
#: Seconds within which everybody has heard what concerns them, and what was written can be found.
HEARD_WITHIN_S: Final = 8.0
#: What a user may ask about any room and message, in which nothing but ids tells one from another.
QUESTIONS: Final = (
    ("GET", "/api/rooms/{room}", None),
    ("PATCH", "/api/rooms/{room}", {"topic": "mine"}),
    ("DELETE", "/api/rooms/{room}", None),
    ("GET", "/api/rooms/{room}/members", None),
    ("POST", "/api/rooms/{room}/members", {"userId": "{user}"}),
    ("PATCH", "/api/rooms/{room}/members/{user}", {"role": "owner"}),
    ("DELETE", "/api/rooms/{room}/members/{user}", None),
    ("GET", "/api/rooms/{room}/members/me", None),
    ("PATCH", "/api/rooms/{room}/members/me", {"notify": "all"}),
    ("GET", "/api/rooms/{room}/bans", None),
    ("DELETE", "/api/rooms/{room}/bans/{user}", None),
    ("GET", "/api/rooms/{room}/messages", None),
    ("GET", "/api/rooms/{room}/messages?lastMessageId={message}", None),
    ("POST", "/api/rooms/{room}/messages", {"content": "let me in"}),
    ("POST", "/api/rooms/{room}/messages", {"content": "let me in", "replyTo": "{message}"}),
    ("GET", "/api/rooms/{room}/pins", None),
    ("GET", "/api/messages/{message}/thread", None),
    ("GET", "/api/messages/{message}/receipts", None),
    ("GET", "/api/search?q=hello&roomId={room}", None),
)
REQUESTS: Final = (
    {"type": "join_room", "roomId": "{room}"},
    {"type": "join_room", "roomId": "{room}", "afterSeq": 0},
    {"type": "leave_room", "roomId": "{room}"},
    {"type": "send_message", "roomId": "{room}", "content": "let me in"},
    {"type": "send_message", "roomId": "{room}", "content": "let me in", "replyTo": "{message}"},
    {"type": "get_history", "roomId": "{room}"},
    {"type": "mark_as_read", "roomId": "{room}"},
    {"type": "mark_as_read", "roomId": "{room}", "messageId": "{message}"},
    {"type": "typing_start", "roomId": "{room}"},
    {"type": "typing_stop", "roomId": "{room}"},
    {"type": "edit_message", "messageId": "{message}", "content": "mine"},
    {"type": "delete_message", "messageId": "{message}"},
    {"type": "add_reaction", "messageId": "{message}", "emoji": "👀"},
    {"type": "remove_reaction", "messageId": "{message}", "emoji": "👀"},
    {"type": "pin_message", "messageId": "{message}"},
    {"type": "unpin_message", "messageId": "{message}"},
)


class Step(NamedTuple):
    """Somebody does something, with or to what the numbers say of what there is."""

    what: str
    who: int
    one: int
    other: int


class Before(NamedTuple):
    """What somebody might have been told of before a step, and of whom."""

    at_s: float
    allowed: set[str]
    near: set[str]


@dataclass
class Person:
    """A user with one device, what it has been told since the last look, and where it is in each room."""

    name: str
    user: SignedIn
    line: Client
    seqs: dict[str, int] = field(default_factory=dict)
    #: What they might have been told of before each of the last steps, and of whom.
    before: deque[Before] = field(default_factory=deque)

    def follow(self, message: dict[str, Any]) -> None:
        """Note where they are."""
        place = message.get("message", message) if message["type"] in ("new_message", "new_dm") else message
        if message["type"] in DURABLE or message["type"] in ("room_history", "caught_up", "resync"):
            self.seqs[place["roomId"]] = max(self.seqs.get(place["roomId"], 0), place["seq"])
        elif message["type"] == "authenticated":
            for room in message["rooms"]:
                self.seqs.setdefault(room["roomId"], room["lastSeq"])


@dataclass
class Play:
    """A program against a daemon."""

    daemon: Daemon
    stack: AsyncExitStack
    people: dict[str, Person] = field(default_factory=dict)
    society: Society = field(default_factory=Society)
    looked_through: Counter[str] = field(default_factory=Counter)

    async def begin(self) -> None:
        for name in NAMES:
            user = await self.daemon.register(name)
            line = await self.stack.enter_async_context(self.daemon.connect(user))
            self.people[name] = Person(name, user, line)

    async def take(self, step: Step) -> None:
        """Do it, and look at all that everybody is told."""
        for person in self.people.values():
            now_s = trio.current_time()
            person.before.append(Before(now_s, self.society.allowed(person.name), self._together(person.name)))
            while person.before[0].at_s < now_s - A_LITTLE_S:
                person.before.popleft()
        do: Callable[[Person, int, int], Awaitable[None]] = getattr(self, f"do_{step.what}")
        await do(self.people[NAMES[step.who % len(NAMES)]], step.one, step.other)
        await self.look_around()

    def _together(self, name: str) -> set[str]:
        return {self.people[other].user.id for other in NAMES if self.society.are_together(name, other)}

    # -- asking -------------------------------------------------------------------------------------------------------

    async def tell(self, person: Person, **message: Any) -> dict[str, Any]:
        """A request by the WebSocket. Its answer may name the ids that it was asked with."""
        answer = await person.line.ask(**message)
        person.follow(answer)
        self.look_at(person, answer, f"answer to {message}", asked=secrets_in(json.dumps(message)))
        return answer

    async def ask(self, person: Person, method: str, path: str, body: object = None) -> Answer:
        """A request by HTTP. The same holds."""
        answer = await self.daemon.http(method, path, body, token=person.user.token)
        asked = secrets_in(path + json.dumps(body))
        self.look_at(person, {"type": path, "body": answer.body.decode()}, f"{method} {path}", asked=asked)
        return answer

    def expect(self, person: Person, told: dict[str, Any] | Answer, what: str, *, may: bool) -> bool:
        """Whether it was done, which it was if it might be."""
        is_done = told.status < 300 if isinstance(told, Answer) else told["type"] != "error"
        found = told.body if isinstance(told, Answer) else told
        assert is_done == may, f"{person.name} {what}: {'may not' if is_done else 'may'}, and was answered {found!r}"
        return is_done

    # -- looking ------------------------------------------------------------------------------------------------------

    def look_at(self, person: Person, message: dict[str, Any], where: str, *, asked: set[str] = frozenset()) -> None:  # type: ignore[assignment]  # nobody changes it
        """Nothing stands in it that is not for this user now, or was before this step."""
        kind = message["type"]
        allowed = self.society.allowed(person.name) | asked
        befores = list(person.before)
        allowed |= set().union(*(each.allowed for each in (befores if kind in LATER else befores[-1:])))
        allowed |= {other.user.id for other in self.people.values()}
        found = secrets_in(json.dumps(message))
        self.looked_through[kind.partition("?")[0]] += len(found)
        connections = {str(message.get("connectionId")), str(message.get("epoch"))}
        notices = set() if kind != "notification" else {message["notification"]["id"]}
        for secret in found - allowed - connections - notices:
            if secret in self.society.secrets:
                raise AssertionError(f"{person.name} is told {secret} by {where}: {message}")
        if kind == "notification":
            self.look_at_notice(person, message["notification"])
        elif kind in ("user_online", "user_offline", "user_status") and message["userId"] != person.user.id:
            near = set().union(self._together(person.name), *(each.near for each in befores))
            assert message["userId"] in near, f"{person.name} is told of somebody apart: {message}"

    def look_at_notice(self, person: Person, notice: dict[str, Any]) -> None:
        """It is not about what somebody did whom they had blocked then."""
        deaf = self.society.deaf_to.get(notice.get("emoji", ""), frozenset())
        if notice["kind"] in ("mention", "reply", "direct"):
            deaf = next((said.deaf for said in self.society.said if said.id == notice["messageId"]), frozenset())
        assert person.name not in deaf, f"{person.name} is notified of what a blocked user did: {notice}"

    async def look_around(self) -> None:
        """Wait until everybody has heard everything, and look through it."""
        heads, roles = self._read_truth()
        for place in self.society.places:
            if not place.is_deleted:
                assert roles.get(place.id, {}).keys() == place.members.keys(), f"{place} has {roles.get(place.id)}"
                if place.kind != "direct":
                    place.members = roles[place.id]
        for person in self.people.values():
            with trio.move_on_after(HEARD_WITHIN_S) as scope:
                await self._hear_all(person, heads)
            assert not scope.cancelled_caught, f"{person.name} has heard {person.seqs} of {heads}"

    def _read_truth(self) -> tuple[dict[str, int], dict[str, dict[str, str]]]:
        """How far each room is, and the roles in it."""
        names = {person.user.id: name for name, person in self.people.items()}
        heads: dict[str, int] = {}
        roles: dict[str, dict[str, str]] = {}
        for room_id, seq, user_id, role in self.daemon.rows(
            "SELECT rooms.id, last_seq, user_id, role FROM rooms JOIN room_members ON room_id = rooms.id"
        ):
            heads[room_id] = seq
            roles.setdefault(room_id, {})[names[user_id]] = role
        return heads, roles

    async def _hear_all(self, person: Person, heads: dict[str, int]) -> None:
        own = [place.id for place in self.society.places if place.is_read_by(person.name)]
        while True:
            person.line.inbox.append(await person.line.ask(type="ping"))
            inbox, person.line.inbox[:] = list(person.line.inbox), []
            for message in inbox:
                person.follow(message)
                self.look_at(person, message, "its connection")
            if all(person.seqs.get(room_id, 0) >= heads[room_id] for room_id in own):
                return
            await trio.sleep(0.005)

    # -- what people do -----------------------------------------------------------------------------------------------

    def place(self, number: int) -> Place | None:
        places = [place for place in self.society.places if not place.is_deleted]
        return places[number % len(places)] if places else None

    def message(self, number: int) -> Said | None:
        return pick((said for said in self.society.said if not said.place.is_deleted), number)

    def other(self, person: Person, number: int) -> Person:
        others = [other for other in self.people.values() if other is not person]
        return others[number % len(others)]

    async def do_make(self, person: Person, one: int, other: int) -> None:
        members = [name for index, name in enumerate(NAMES) if one >> index & 1 and name != person.name]
        kind = ("private", "public", "private")[other % 3]
        made = Place("", kind, {person.name: "owner"} | dict.fromkeys(members, "member"))
        may = not any((name, person.name) in self.society.blocks for name in members)
        name, topic = self.society.new_word(made.is_seen_by), self.society.new_word(made.is_seen_by)
        if not may:
            self.society.drop(name)
            self.society.drop(topic)
        ids = [self.people[each].user.id for each in members]
        body = {"name": name, "kind": kind, "topic": topic, "members": ids}
        answer = await self.daemon.http("POST", "/api/rooms", body, token=person.user.token)
        if self.expect(person, answer, "makes a room", may=may):
            made.id = answer.json()["id"]
            self.society.add_place(made)

    async def do_say(self, person: Person, one: int, other: int) -> None:
        """Write in some room, now and then to somebody, or in answer to something."""
        if (place := self.place(one)) is None:
            return
        society, word = self.society, self.society.new_word(place.is_read_by)
        may = society.may_write(person.name, place)
        if not may:
            society.drop(word)
        fields: dict[str, Any] = {"content": word}
        if other % 3:
            fields["content"] += f" @{NAMES[other % len(NAMES)]}"
        answered = self.message(other)
        if other % 2 and answered is not None and answered.place is place and not answered.is_deleted:
            fields["replyTo"] = answered.id
        beside = society.new_word(place.is_read_by if may else lambda _: False)
        fields["metadata"] = {"beside": beside}
        # What happens is looked at later, when the message is known.
        if other % 7 < 3:
            answer = await self.daemon.http(
                "POST", f"/api/rooms/{place.id}/messages", fields, token=person.user.token
            )  # fmt: skip
            is_done = self.expect(person, answer, f"writes to {place}", may=may)
            message_id = answer.json().get("id")
        else:
            told = await person.line.ask(type="send_message", roomId=place.id, **fields)
            is_done = self.expect(person, told, f"writes to {place}", may=may)
            message_id = told.get("messageId")
        if is_done:
            said = society.add_said(message_id, place, person.name, word)
            society.hide_on(said, beside, person.name)

    async def do_whisper(self, person: Person, one: int, _: int) -> None:
        other = self.other(person, one)
        society = self.society
        place = society.direct(person.name, other.name)
        is_new = place is None
        place = place or Place("", "direct", {person.name: "member", other.name: "member"})
        may, word = not society.are_apart(person.name, other.name), society.new_word(place.is_read_by)
        if not may:
            society.drop(word)
        told = await person.line.ask(type="send_dm", recipientId=other.user.id, content=word)
        if self.expect(person, told, f"writes to {other.name}", may=may):
            if is_new:
                place.id = told["roomId"]
                society.add_place(place)
            assert told["roomId"] == place.id
            society.add_said(told["messageId"], place, person.name, word)

    async def do_edit(self, person: Person, one: int, _: int) -> None:
        if (said := self.message(one)) is None:
            return
        society = self.society
        may = society.may_write(person.name, said.place) and said.sender == person.name and not said.is_deleted
        word = society.new_word(lambda _: False)
        if may:
            society.hide_in(said, word)
        told = await self.tell(person, type="edit_message", messageId=said.id, content=word)
        self.expect(person, told, f"edits {said}", may=may)

    async def do_delete(self, person: Person, one: int, _: int) -> None:
        if (said := self.message(one)) is None:
            return
        may = said.place.is_read_by(person.name) and (
            said.sender == person.name or self.society.may_moderate(person.name, said.place)
        )
        told = await self.tell(person, type="delete_message", messageId=said.id)
        said.is_deleted |= self.expect(person, told, f"deletes {said}", may=may)

    async def do_react(self, person: Person, one: int, _: int) -> None:
        if (said := self.message(one)) is None:
            return
        may = self.society.may_write(person.name, said.place) and not said.is_deleted
        word = self.society.new_word(lambda _: False)
        if may:
            self.society.hide_on(said, word, person.name)
        told = await self.tell(person, type="add_reaction", messageId=said.id, emoji=word)
        self.expect(person, told, f"reacts to {said}", may=may)

    async def do_pin(self, person: Person, one: int, other: int) -> None:
        if (said := self.message(one)) is None:
            return
        may = self.society.may_moderate(person.name, said.place) and not said.is_deleted
        kind = "unpin_message" if other % 3 == 0 else "pin_message"
        self.expect(person, await self.tell(person, type=kind, messageId=said.id), f"pins {said}", may=may)

    async def do_join(self, person: Person, one: int, _: int) -> None:
        if (place := self.place(one)) is None:
            return
        may = self.society.may_join(person.name, place)
        if may:
            self.society.let_in(person.name, place)
        told = await self.tell(person, type="join_room", roomId=place.id)
        self.expect(person, told, f"joins {place}", may=may)

    async def do_leave(self, person: Person, one: int, _: int) -> None:
        if (place := self.place(one)) is None:
            return
        may = place.is_read_by(person.name) and place.kind != "direct"
        if self.expect(person, await self.tell(person, type="leave_room", roomId=place.id), f"leaves {place}", may=may):
            self.society.remove(person.name, place)

    async def do_bring(self, person: Person, one: int, other: int) -> None:
        """Add somebody to a room, or invite them."""
        if (place := self.place(one)) is None:
            return
        whom, is_invited = self.other(person, other), other % 2 == 0
        may = self.society.may_bring(person.name, whom.name, place)
        body = {"userId": whom.user.id, "invite": is_invited}
        answer = await self.ask(person, "POST", f"/api/rooms/{place.id}/members", body)
        if self.expect(person, answer, f"brings {whom.name} to {place}", may=may):
            if is_invited:
                place.invited.add(whom.name)
            else:
                self.society.let_in(whom.name, place)

    async def do_rank(self, person: Person, one: int, other: int) -> None:
        """Give somebody another role."""
        if (place := self.place(one)) is None:
            return
        whom, role = self.other(person, other), ("readonly", "member", "moderator")[other % 3]
        may = whom.name in place.members and self.society.may_act_on(person.name, whom.name, place)
        may = may and (role != "moderator" or self.society.role(person.name, place) == "owner")
        path = f"/api/rooms/{place.id}/members/{whom.user.id}"
        answer = await self.ask(person, "PATCH", path, {"role": role})
        self.expect(person, answer, f"makes {whom.name} {role} in {place}", may=may)

    async def do_kick(self, person: Person, one: int, other: int) -> None:
        if (place := self.place(one)) is None:
            return
        whom = self.other(person, other)
        is_there = whom.name in place.members or whom.name in place.invited
        may = is_there and self.society.may_act_on(person.name, whom.name, place)
        answer = await self.ask(person, "DELETE", f"/api/rooms/{place.id}/members/{whom.user.id}")
        if self.expect(person, answer, f"kicks {whom.name} out of {place}", may=may):
            if whom.name not in place.members:
                place.invited.discard(whom.name)
            self.society.remove(whom.name, place)

    async def do_ban(self, person: Person, one: int, other: int) -> None:
        if (place := self.place(one)) is None:
            return
        whom, society = self.other(person, other), self.society
        may = society.may_act_on(person.name, whom.name, place)
        word = society.new_word(lambda name: society.may_moderate(name, place))
        if not may:
            society.drop(word)
        path = f"/api/rooms/{place.id}/members/{whom.user.id}"
        answer = await self.ask(person, "DELETE", path, {"ban": True, "reason": word})
        if self.expect(person, answer, f"bans {whom.name} from {place}", may=may):
            society.remove(whom.name, place)
            place.invited.discard(whom.name)
            place.banned.add(whom.name)

    async def do_unban(self, person: Person, one: int, other: int) -> None:
        if (place := self.place(one)) is None:
            return
        whom = self.other(person, other)
        may = self.society.may_moderate(person.name, place) and whom.name in place.banned
        answer = await self.ask(person, "DELETE", f"/api/rooms/{place.id}/bans/{whom.user.id}")
        if self.expect(person, answer, f"lifts the ban of {whom.name} from {place}", may=may):
            place.banned.discard(whom.name)

    async def do_block(self, person: Person, one: int, _: int) -> None:
        other = self.other(person, one)
        await self.ask(person, "PUT", f"/api/users/{other.user.id}/block")
        self.society.blocks.add((person.name, other.name))

    async def do_unblock(self, person: Person, one: int, _: int) -> None:
        other = self.other(person, one)
        await self.ask(person, "DELETE", f"/api/users/{other.user.id}/block")
        self.society.blocks.discard((person.name, other.name))

    async def do_status(self, person: Person, one: int, _: int) -> None:
        """Say how one is to those who share a room."""
        society = self.society
        word = society.new_word(lambda name: name == person.name or society.are_together(name, person.name))
        told = await self.tell(person, type="update_status", status=("away", "busy")[one % 2], statusMessage=word)
        assert told["type"] == "ok"

    async def do_topic(self, person: Person, one: int, _: int) -> None:
        if (place := self.place(one)) is None:
            return
        may, word = self.society.may_moderate(person.name, place), self.society.new_word(place.is_seen_by)
        if place.kind == "direct":
            may = False
        if not may:
            self.society.drop(word)
        answer = await self.ask(person, "PATCH", f"/api/rooms/{place.id}", {"topic": word})
        self.expect(person, answer, f"changes {place}", may=may)

    async def do_end(self, person: Person, one: int, other: int) -> None:
        """Delete a room, which few try."""
        if (place := self.place(one)) is None or other % 4:
            return
        may = self.society.role(person.name, place) == "owner"
        if self.expect(person, await self.ask(person, "DELETE", f"/api/rooms/{place.id}"), f"ends {place}", may=may):
            place.is_deleted = True

    async def do_signal(self, person: Person, one: int, other: int) -> None:
        """Type, or mark as read."""
        if (place := self.place(one)) is None:
            return
        kind = ("typing_start", "mark_as_read")[other % 2]
        may = place.is_read_by(person.name) if other % 2 else self.society.may_write(person.name, place)
        self.expect(person, await self.tell(person, type=kind, roomId=place.id), f"{kind} in {place}", may=may)

    async def do_return(self, person: Person, one: int, other: int) -> None:
        """Come back on another connection, and claim to have been in rooms, whether that is so or not."""
        await person.line.connection.aclose()
        person.line = await self.stack.enter_async_context(self.daemon.connect())
        resume: dict[str, Any] = {}
        if other % 2:
            epoch = await self._epoch(person)
            claimed = [place.id for index, place in enumerate(self.society.places) if one >> index % 8 & 1]
            resume = {"resume": {"epoch": epoch, "rooms": dict.fromkeys(claimed, 0)}}
        await person.line.send(type="authenticate", token=person.user.token, **resume)
        asked = secrets_in(json.dumps(resume))
        waited_for = {"authenticated", *resume.get("resume", {}).get("rooms", {})}
        person.seqs.clear()
        while waited_for:
            message = await person.line.receive()
            person.follow(message)
            self.look_at(person, message, f"its return with {resume}", asked=asked)
            if message["type"] in ("caught_up", "resync", "authenticated"):
                waited_for.discard(message.get("roomId", "authenticated"))

    async def _epoch(self, person: Person) -> str:
        """What a server says of its database to everybody."""
        async with self.daemon.connect(person.user) as line:
            return str(line.inbox[0]["epoch"])

    async def do_look(self, person: Person, one: int, other: int) -> None:
        """Ask for everything that there is to ask for."""
        user = self.other(person, other).user.id
        paths = [
            "/api/rooms", "/api/chats", "/api/notifications", "/api/direct-messages/unread", "/api/blocks",
            "/api/users/me", f"/api/users?ids={user}", f"/api/users/{user}", f"/api/direct-messages/{user}",
            "/api/search?q=zq",
        ]  # fmt: skip
        if (place := self.place(one)) is not None:
            tails = ("", "/members", "/messages", "/messages?afterSeq=0", "/pins", "/bans", "/members/me")
            paths += [f"/api/rooms/{place.id}{tail}" for tail in tails]
            await self.tell(person, type="get_history", roomId=place.id)
        if (said := self.message(other)) is not None:
            paths += [f"/api/messages/{said.id}/thread", f"/api/messages/{said.id}/receipts"]
            paths += [f"/api/search?q={said.word}", f"/api/search?q={said.word}&roomId={said.place.id}"]
        for path in paths:
            await self.ask(person, "GET", path)

    async def do_guess(self, person: Person, one: int, other: int) -> None:
        """Ask about a room that one does not see, and about one that there is not: the answers are the same."""
        hidden = [place for place in self.society.places if not place.is_seen_by(person.name)]
        if not hidden:
            return
        place = hidden[one % len(hidden)]
        said = pick((said for said in self.society.said if said.place is place), other)
        message_id = NOWHERE if said is None else said.id
        user = self.other(person, other).user.id
        for method, path, body in QUESTIONS:
            answers = []
            for names in ({"room": place.id, "message": message_id}, {"room": NOWHERE, "message": NOWHERE}):
                asked = json.loads(_fill(json.dumps(body), user=user, **names))
                answer = await self.daemon.http(
                    method, _fill(path, user=user, **names), asked, token=person.user.token
                )  # fmt: skip
                headers = {**answer.headers, "date": ""}
                answers.append((answer.status, _plain(answer.body.decode(), names), _plain(str(headers), names)))
            assert answers[0] == answers[1], f"{person.name} {method} {path}: {answers}"
        for request in REQUESTS:
            told = []
            for names in ({"room": place.id, "message": message_id}, {"room": NOWHERE, "message": NOWHERE}):
                filled = json.loads(_fill(json.dumps(request), user=user, **names))
                told.append(_plain(json.dumps(await person.line.ask(id="?", **filled)), names))
            assert told[0] == told[1], f"{person.name} {request}: {told}"

    # -- the end ------------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """Everybody looks for everything that was ever said."""
        alive = [said for said in self.society.said if not said.is_deleted and not said.place.is_deleted]
        with trio.fail_after(HEARD_WITHIN_S):
            for said in alive[-1:]:
                reader = self.people[next(iter(said.place.members))]
                # Nobody says when the index has read it.
                while not (await self.ask(reader, "GET", f"/api/search?q={said.word}")).json()["results"]:  # noqa: ASYNC110
                    await trio.sleep(0.02)
        words = [word for word in self.society.secrets if "-" not in word]
        for person, word in product(self.people.values(), words[-20:]):
            await self.ask(person, "GET", f"/api/search?q={word}")
        places = [place for place in self.society.places if not place.is_deleted]
        for person, place in product(self.people.values(), places[-6:]):
            for tail in ("", "/members", "/messages", "/pins", "/bans"):
                await self.ask(person, "GET", f"/api/rooms/{place.id}{tail}")
        for person, said in product(self.people.values(), alive[-4:]):
            for tail in ("thread", "receipts"):
                await self.ask(person, "GET", f"/api/messages/{said.id}/{tail}")
            await self.do_look(person, 0, 0)
        await self.look_around()


def _fill(text: str, **names: str) -> str:
    for name, value in names.items():
        text = text.replace("{" + name + "}", value)
    return text


def _plain(text: str, names: dict[str, str]) -> str:
    for value in names.values():
        text = text.replace(value, "…")
    return text


WEIGHTS: Final = {
    "make": 3, "say": 10, "whisper": 5, "edit": 3, "delete": 2, "react": 3, "pin": 2, "join": 5, "leave": 3, "bring": 4,
    "rank": 3, "kick": 3, "ban": 3, "unban": 2, "block": 3, "unblock": 1, "status": 2, "topic": 2, "end": 1,
    "signal": 2, "return": 4, "look": 5, "guess": 2,
}  # fmt: skip
number = st.integers(0, 999)
step = st.builds(
    Step, st.sampled_from([what for what, weight in WEIGHTS.items() for _ in range(weight)]), number, number, number
)
#: Rooms of either kind with some people in them are where every program begins.
BEGINNING: Final = [Step("make", 0, 0b00110, 0), Step("make", 1, 0b10000, 1), Step("say", 0, 0, 0)]


async def play(steps: list[Step]) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        async with open_daemon(Path(folder), PRESENCE_GRACE_S="0.1") as daemon, AsyncExitStack() as stack:
            playing = Play(daemon, stack)
            await playing.begin()
            taken: list[Step] = []
            try:
                for each in BEGINNING + steps:
                    taken.append(each)
                    await playing.take(each)
                await playing.end()
            except (AssertionError, trio.TooSlowError) as fault:
                raise AssertionError(f"{fault}\nafter {taken}") from fault
            return playing.looked_through


#: A program takes its time, so that none is looked for which is shorter; each failure names its steps.
UNSHRUNK: Final = settings(phases=(Phase.explicit, Phase.reuse, Phase.generate))


@settings(programs(6), phases=UNSHRUNK.phases)
@given(steps_of(step, most=60))
def test_nobody_is_told_what_is_not_for_them(steps: list[Step]) -> None:
    count_steps("isolation", len(steps))
    trio.run(partial(play, steps))


@pytest.mark.parametrize("back_ends", ["distributed"], indirect=True)
def test_nobody_is_told_what_is_not_for_them_between_back_ends(back_ends: str) -> None:
    assert back_ends == "distributed"

    @settings(programs(2), phases=UNSHRUNK.phases)
    @given(steps_of(step, most=60))
    def check(steps: list[Step]) -> None:
        count_steps("isolation", len(steps))
        trio.run(partial(play, steps))

    check()
