"""Judges what a client was told on one connection, room by room, by what is stored.

While a client hears a room it is given every event exactly once, in order, as it is stored, from where it began to
where it ended; nothing of the time before it joined or after it left; and no gap or repeat across a resume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args

from chatd.protocol import RoomChange, ServerMessage
from chatd.verify.acks import AckJudge
from chatd.verify.contents import ContentJudge
from chatd.verify.findings import Fault, Findings, Witness
from chatd.verify.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chatd.verify.log import Head, Line
    from chatd.verify.truth import RoomTruth, Truth

#: Every word of the protocol that a client may hear, those that are durable events, and those with a message inside.
KNOWN: Final = frozenset(str(kind.__struct_config__.tag) for kind in get_args(ServerMessage))
DURABLE: Final = frozenset(str(kind.__struct_config__.tag) for kind in get_args(RoomChange))
NEW: Final = frozenset({"new_message", "new_dm"})
#: A device hears of these when its user has just left the room by another one, or was removed from it.
OF_NO_MEMBERS: Final = frozenset({"not_a_member", "not_found"})
#: Requests that nothing but a room could be missing for.
OF_ROOMS: Final = frozenset({"get_history", "join_room", "leave_room", "typing_start", "typing_stop"})
#: Seconds after which somebody who left must have been told of it on a connection that lives.
TOLD_WITHIN_S: Final = 15.0


class Rules(NamedTuple):
    """What is expected of a run beyond the promises.

    `is_settled`: its clients were connected at the end and had the time to hear everything. `is_peaceful`: nobody
    asked for what is refused for good, but with one of the codes `tolerated`. Past `max_resume_events` a resume may be
    refused as too old.
    """

    is_settled: bool = False
    is_peaceful: bool = False
    tolerated: frozenset[str] = frozenset()
    max_resume_events: int = 10_000


class Hearing:
    """Where a client is in one room on one connection, and the replay that it waits for, behind `asked`."""

    __slots__ = ("asked", "has_begun", "is_level", "is_stale", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.asked: int | None = None
        #: The replay has begun. Until then a room that was heard before goes on.
        self.has_begun = False
        #: It was asked for from where the room was heard: what comes next may come live, and in the replay once more.
        self.is_level = False
        #: It was asked for by an epoch that is not the server's.
        self.is_stale = False

    def ask(self, after: int, *, is_stale: bool = False) -> None:
        self.asked, self.is_stale = after, is_stale
        self.has_begun = self.is_level = after == self.position

    def is_begun_by(self, seq: int) -> bool:
        """Whether the replay that it waits for begins with this event."""
        if self.asked is None or seq != self.asked + 1:
            return False
        return not self.has_begun or (self.is_level and seq <= self.position)

    @property
    def is_replaying(self) -> bool:
        return self.asked is not None and self.has_begun


class StayJudge:
    """Goes through the lines of one connection."""

    def __init__(
        self, head: Head, number: int, *, truth: Truth, findings: Findings, rules: Rules, is_shared: bool
    ) -> None:
        self.client = head.name
        self.user_id = head.user_id
        self.number = number
        self.truth = truth
        self.findings = findings
        self.rules = rules
        #: Other clients of the same user join and leave rooms as well.
        self.is_shared = is_shared
        self.rooms: dict[str, Hearing] = {}
        self.epoch: str | None = None
        self.is_authenticated = False
        self.is_over = False
        self._requests = Requests()
        self._acks = AckJudge(self)
        self._contents = ContentJudge(self)
        self._left_at_s: dict[str, float] = {}
        #: How far its rooms were when it authenticated.
        self._arrived_at: dict[str, int] = {}
        self._at_s = 0.0
        self._heard_at_s = 0.0

    def blame(self, promise: int | None, detail: str, **about: Any) -> None:
        """`about`: `room_id`, `seq` and `message_id`, where they are known."""
        self.findings.blame(Fault(promise, detail, Witness(self.client, self.number, self._at_s), **about))

    @property
    def is_of_this_epoch(self) -> bool:
        """What it was told can be compared: the database was not restored from a backup since."""
        return self.epoch is None or self.truth.epoch in (None, self.epoch)

    def judge(self, line: Line, must_hear: dict[str, int]) -> None:
        """Take in a line. `must_hear`: rooms that this client has been told it is in, each with a seq of that time."""
        self._at_s = line.at_s
        match line.what:
            case "sent":
                self._note_request(line.message)
            case "heard":
                self._heard_at_s = line.at_s
                try:
                    self._judge_told(line.message, must_hear)
                except (KeyError, TypeError, AttributeError) as fault:
                    self.blame(None, f"heard a {line.message.get('type')} that is not as it should be: {fault!r}")
            case "ends":
                self.is_over = True

    def close(self) -> None:
        """There are no more lines of this connection."""
        for room_id, left_at_s in self._left_at_s.items():
            if room_id in self.rooms and self._heard_at_s - left_at_s > TOLD_WITHIN_S:
                position = self.rooms[room_id].position
                self.blame(
                    4, f"left room {room_id} at {left_at_s:.2f} s and was never told, having heard {position}",
                    room_id=room_id, seq=position,
                )  # fmt: skip

    def _note_request(self, message: Mapping[str, Any]) -> None:
        self._requests.note(message)
        room_id, after = message.get("roomId"), message.get("afterSeq")
        if message.get("type") == "join_room" and isinstance(room_id, str) and type(after) is int:
            self.rooms.setdefault(room_id, Hearing(after)).ask(after)

    def _judge_told(self, message: Mapping[str, Any], must_hear: dict[str, int]) -> None:
        kind = message["type"]
        if kind in DURABLE:
            self._judge_event(message, must_hear)
            return
        if kind == "authenticated":
            self._requests.answer(message)
            self._judge_arrival(message, must_hear)
            return
        asked = self._requests.answer(message)
        request: Mapping[str, Any] = {} if asked is None else asked.message
        match kind:
            case "message_ack":
                self._acks.judge(message, asked)
            case "room_history":
                self._judge_history(message, request, must_hear)
            case "caught_up" | "resync":
                self._judge_end_of_replay(message, must_hear)
            case "unread_dms" if self.is_of_this_epoch:
                self._contents.judge_unread(message["messages"])
            case "error":
                self._judge_error(message, request)
            case "ok" if request.get("type") == "leave_room":
                must_hear.pop(request["roomId"], None)
                if request["roomId"] in self.rooms:
                    self._left_at_s[request["roomId"]] = self._at_s
            case _ if kind not in KNOWN:
                self.blame(None, f"heard {kind}, which is no word of the protocol")

    # -- events -------------------------------------------------------------------------------------------------------

    def _judge_event(self, event: Mapping[str, Any], must_hear: dict[str, int]) -> None:
        place = event["message"] if event["type"] in NEW else event
        room_id, seq = place["roomId"], place["seq"]
        self.findings.events += 1
        room = self.truth.room(room_id) if self.is_of_this_epoch else None
        hearing = self.rooms.get(room_id)
        if self.is_of_this_epoch:
            is_replayed = hearing is not None and hearing.asked is not None
            replayed_to = self._arrived_at.get(room_id, 0) if is_replayed else None
            self._contents.judge_event(event, room, room_id, seq, replayed_to=replayed_to)
        if hearing is None:
            hearing = self._judge_first(room, room_id, seq)
        elif hearing.is_begun_by(seq):
            hearing.has_begun, hearing.is_level, hearing.position = True, False, seq
        else:
            self._judge_next(hearing, room_id, seq)
        if hearing.is_replaying:
            self.findings.replayed += 1
            return
        self.findings.note_heard(room_id, seq, self._at_s)
        if room is not None and room.membership(self.user_id, seq) is None:
            self.blame(
                None, f"heard seq {seq} of room {room_id}, of which it was no member then", room_id=room_id, seq=seq
            )
        is_leaving = event["type"] == "user_left" and event["userId"] == self.user_id
        if is_leaving or (event["type"] == "room_updated" and event.get("deletedAt") is not None):
            del self.rooms[room_id]
            self._left_at_s.pop(room_id, None)
            must_hear.pop(room_id, None)

    def _judge_first(self, room: RoomTruth | None, room_id: str, seq: int) -> Hearing:
        """An event of a room that is not heard: a device follows what another one has joined, from its beginning on."""
        membership = None if room is None else room.membership(self.user_id, seq)
        is_beginning = membership is not None and seq - membership.start in (0, 1)
        if not is_beginning and self.is_of_this_epoch:
            self.blame(
                None, f"heard seq {seq} of room {room_id}, which it does not hear", room_id=room_id, seq=seq
            )  # fmt: skip
        self.rooms[room_id] = Hearing(seq)
        return self.rooms[room_id]

    def _judge_next(self, hearing: Hearing, room_id: str, seq: int) -> None:
        about = {"room_id": room_id, "seq": seq}
        if seq <= hearing.position:
            promise = 5 if hearing.is_replaying else 3
            self.blame(promise, f"heard seq {seq} of room {room_id} again, having heard {hearing.position}", **about)
        elif seq != hearing.position + 1:
            promise = 5 if hearing.is_replaying else 4
            self.blame(
                promise, f"heard seq {seq} of room {room_id} where {hearing.position + 1} was next: a hole", **about
            )
        hearing.position = max(seq, hearing.position)

    # -- answers ------------------------------------------------------------------------------------------------------

    def _judge_arrival(self, message: Mapping[str, Any], must_hear: dict[str, int]) -> None:
        resume = self._requests.answer_hello().get("resume") or {}
        claimed: dict[str, int] = resume.get("rooms", {})
        self.findings.resumes += bool(claimed)
        self.epoch = message.get("epoch")
        is_stale = resume.get("epoch") != self.epoch
        listed: dict[str, int] = {room["roomId"]: room["lastSeq"] for room in message["rooms"]}
        self._arrived_at = listed
        for room_id, seq in listed.items():
            # On a live connection a room that is heard goes on.
            self.rooms.setdefault(room_id, Hearing(seq))
        for room_id, seq in claimed.items():
            if not self.is_authenticated:
                self.rooms[room_id] = Hearing(seq)
            self.rooms.setdefault(room_id, Hearing(seq)).ask(seq, is_stale=is_stale)
        self.is_authenticated = True
        if not self.is_of_this_epoch:
            must_hear.clear()
            return
        for room_id, seq in must_hear.items():
            if room_id not in listed and self._is_still_member(room_id, seq):
                self.blame(
                    5, f"is a member of room {room_id}, which it is not told when it authenticates", room_id=room_id
                )
        must_hear |= listed
        for room_id, seq in listed.items():
            room = self.truth.room(room_id)
            if room is None or seq > room.last_seq:
                self.blame(3, f"is told seq {seq} of room {room_id}, which never came so far", room_id=room_id, seq=seq)

    def _is_still_member(self, room_id: str, seq: int) -> bool:
        """Whether the membership to which a seq belongs has not ended."""
        room = self.truth.room(room_id)
        time = None if room is None else room.membership(self.user_id, seq)
        return time is not None and time.end is None

    def _judge_history(self, message: Mapping[str, Any], request: Mapping[str, Any], must_hear: dict[str, int]) -> None:
        room_id, seq = message["roomId"], message["seq"]
        if self.is_of_this_epoch:
            self._contents.judge_page(room_id, message["messages"])
        if request.get("type") != "join_room":
            return
        must_hear[room_id] = seq
        hearing = self.rooms.get(room_id)
        if hearing is None:
            self.rooms[room_id] = Hearing(seq)
        elif seq > hearing.position:
            self.blame(
                4, f"is told seq {seq} of room {room_id}, which it has heard up to {hearing.position}",
                room_id=room_id, seq=seq,
            )  # fmt: skip
            hearing.position = seq

    def _judge_end_of_replay(self, message: Mapping[str, Any], must_hear: dict[str, int]) -> None:
        room_id, seq, kind = message["roomId"], message["seq"], message["type"]
        about = {"room_id": room_id, "seq": seq}
        hearing = self.rooms.get(room_id)
        if hearing is None or hearing.asked is None:
            self.blame(5, f"is told {kind} at {seq} of room {room_id}, having asked for no replay", **about)
            return
        asked, hearing.asked = hearing.asked, None
        if kind == "caught_up":
            heard = hearing.position if hearing.has_begun else asked
            if seq != heard:
                self.blame(5, f"is told to be caught up at {seq} of room {room_id}, having heard {heard}", **about)
            hearing.position = seq
            must_hear[room_id] = seq
            return
        self.findings.resyncs += 1
        del self.rooms[room_id]
        reason = message["reason"]
        if reason != "not_a_member":
            self.rooms[room_id] = Hearing(seq)
        if self.is_of_this_epoch and not self._may_refuse(hearing, message, asked):
            detail = ": no member, although it is one" if reason == "not_a_member" else f": {reason}"
            self.blame(5, f"cannot resume room {room_id} from {hearing.position}{detail}", **about)

    def _may_refuse(self, hearing: Hearing, resync: Mapping[str, Any], asked: int) -> bool:
        """Whether there is the reason for a resync that it names."""
        room_id = resync["roomId"]
        match resync["reason"]:
            case "not_a_member":
                return not self._is_still_member(room_id, asked)
            case "too_old":
                return bool(resync["seq"] - asked > self.rules.max_resume_events)
            case _:
                room = self.truth.room(room_id)
                return hearing.is_stale or room is None or asked > room.last_seq

    def _judge_error(self, error: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        code = error["code"]
        self.findings.refusals[code] += 1
        if request.get("type") == "authenticate":
            self._requests.refuse_hello(request)
        if request.get("type") == "join_room" and request.get("afterSeq") is not None and not error["temporary"]:
            self.rooms.pop(request["roomId"], None)
        if error["temporary"] or not self.rules.is_peaceful:
            return
        asked = f"asked {dict(request) or '?'} and heard {dict(error)}"
        if code not in self.rules.tolerated and not (self.is_shared and code in OF_NO_MEMBERS):
            self.blame(None, asked)
        elif (code == "not_a_member" or request.get("type") in OF_ROOMS) and self._is_member_for_good(request, code):
            self.blame(None, f"{asked}, having been a member from before to the end")

    def _is_member_for_good(self, request: Mapping[str, Any], code: str) -> bool:
        """Whether this was refused as to no member, although the membership by which it hears the room lasts."""
        room_id = request.get("roomId", "")
        hearing = self.rooms.get(room_id)
        if code not in OF_NO_MEMBERS or hearing is None or not self.is_of_this_epoch:
            return False
        return self._is_still_member(room_id, hearing.position)

    # -- the end ------------------------------------------------------------------------------------------------------

    def judge_end(self) -> None:
        """Whoever is there at the end hears all rooms that it is in, and has been given everything."""
        if self.is_over or not self.is_authenticated:
            self.blame(None, "is not connected at the end")
            return
        own = {room.id: room for room in self.truth.rooms_of(self.user_id)}
        for room_id in self.rooms.keys() - own.keys():
            position = self.rooms[room_id].position
            self.blame(
                4, f"is no member of room {room_id}, was never told, and heard it up to {position}",
                room_id=room_id, seq=position,
            )  # fmt: skip
        for room_id, room in own.items():
            hearing = self.rooms.get(room_id)
            if hearing is None and room.last_seq == 0:
                # Nothing was ever told of it.
                continue
            if hearing is None:
                self.blame(4, f"is a member of room {room_id} at the end and does not hear it", room_id=room_id)
            elif hearing.asked is not None:
                self.blame(5, f"was never caught up in room {room_id}", room_id=room_id)
            elif hearing.position != room.last_seq:
                self.blame(
                    4, f"has heard room {room_id} up to {hearing.position} at the end, which is at {room.last_seq}",
                    room_id=room_id, seq=hearing.position + 1,
                )  # fmt: skip
