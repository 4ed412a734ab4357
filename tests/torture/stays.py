"""Judges diaries by the database: what each client was told, on each of its connections, room by room.

While a client hears a room it is given every event exactly once, in order, as it is stored, from where it began to
where it ended; nothing of the time before it joined or after it left; and no gap or repeat across a resume. Whoever is
there at the end has been given everything.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.torture.checker import Found, Promise, kept_of_history

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tests.torture.diary import Diary, Line

#: Words that are no fault of a server: answers, and what `judge_diary` looks at.
KNOWN: Final = {
    "new_message", "user_joined", "user_left", "message_ack", "room_history", "caught_up", "resync", "authenticated",
    "server_shutdown", "error", "ok", "pong",
}  # fmt: skip
#: A device hears of these when another one of its user has just left the room.
OF_SHARED: Final = {"not_a_member", "not_found"}
#: Seconds after which somebody who left must have been told of it on a connection that lives.
TOLD_WITHIN_S: Final = 15.0


class Membership(NamedTuple):
    """A user's time in a room, by seq: from its `user_joined` to its `user_left`, both included, or for ever."""

    start: int
    end: int | None

    def holds(self, seq: int) -> bool:
        return self.start <= seq and (self.end is None or seq <= self.end)


class Truth:
    """The database, looked up by room and seq."""

    def __init__(self, found: Found) -> None:
        self.messages = {(kept.room_id, kept.seq): kept for kept in found.messages}
        self.bodies = {(change.room_id, change.seq): json.loads(change.body) for change in found.events}
        self.last_seqs = {room_id: last_seq for room_id, (last_seq, _, _) in found.heads.items()}
        self.memberships: dict[tuple[str, str], list[Membership]] = defaultdict(list)
        for (room_id, seq), body in sorted(self.bodies.items()):
            if body["type"] in {"user_joined", "user_left"}:
                times = self.memberships[room_id, body["userId"]]
                if body["type"] == "user_joined":
                    times.append(Membership(seq, None))
                else:
                    # Who never joined was there from the start.
                    start = times.pop().start if times else 0
                    times.append(Membership(start, seq))
        for key in found.members - self.memberships.keys():
            self.memberships[key] = [Membership(0, None)]

    def membership(self, room_id: str, user_id: str, seq: int) -> Membership | None:
        """The time in the room that a seq belongs to."""
        return next((time for time in self.memberships.get((room_id, user_id), ()) if time.holds(seq)), None)

    def rooms_of(self, user_id: str) -> list[str]:
        """Where the user is a member at the end."""
        return [room for (room, user), times in self.memberships.items() if user == user_id and times[-1].end is None]

    def is_stored(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is told as it is kept."""
        if event["type"] == "new_message":
            [told] = kept_of_history([event["message"]])
            return self.messages.get((told.room_id, told.seq)) == told
        return bool(self.bodies.get((event["roomId"], event["seq"])) == event)


@dataclass
class Judgement:
    """What is wrong, a sentence each, and what was counted on the way."""

    faults: list[str] = field(default_factory=list)
    promises: dict[str, Promise] = field(default_factory=dict)
    events: int = 0
    replayed: int = 0
    resumes: int = 0
    resyncs: int = 0
    stays: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    #: When each event was heard live for the first and for the last time, by room and seq.
    heard_at: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)


@dataclass
class _Hearing:
    """Where a client is in one room on one connection."""

    position: int
    is_replaying: bool = False


class _StayJudge:
    """Goes through the lines of one connection."""

    def __init__(self, diary: Diary, number: int, truth: Truth, judgement: Judgement, *, is_shared: bool) -> None:
        self.diary = diary
        self.number = number
        self.truth = truth
        self.judgement = judgement
        self.is_shared = is_shared
        self.rooms: dict[str, _Hearing] = {}
        self.asked: dict[str, Mapping[str, Any]] = {}
        self.claimed: dict[str, int] = {}
        self.is_authenticated = False
        self.is_over = False
        self.left_at: dict[str, float] = {}
        self.sends: dict[str, int] = {}
        self.newest: dict[str, tuple[int, int]] = {}
        self.at_s = 0.0

    def blame(self, sentence: str) -> None:
        where = f"{self.diary.name}, connection {self.number}, {self.at_s:.2f} s"
        self.judgement.faults.append(f"{where}: {sentence}")

    def judge(self, lines: Sequence[Line], must_hear: dict[str, int]) -> None:
        for at_s, _, what, message in lines:
            self.at_s = at_s
            if what == "sent":
                self._note_request(message)
            elif what == "heard":
                self._judge_told(message, must_hear)
            elif what == "ends":
                self.is_over = True
        for room_id, left_at_s in self.left_at.items():
            if room_id in self.rooms and self.at_s - left_at_s > TOLD_WITHIN_S:
                position = self.rooms[room_id].position
                self.blame(f"left room {room_id} at {left_at_s:.2f} s and was never told, having heard {position}")

    def _note_request(self, message: Mapping[str, Any]) -> None:
        if "id" in message:
            self.asked[message["id"]] = message
        if message["type"] == "authenticate":
            self.claimed = dict(message.get("resume", {}).get("rooms", {}))
        elif message["type"] == "send_message":
            self.sends[message["id"]] = len(self.sends)
        elif message["type"] == "join_room" and "afterSeq" in message:
            self.rooms[message["roomId"]] = _Hearing(message["afterSeq"], is_replaying=True)

    def _judge_told(self, message: dict[str, Any], must_hear: dict[str, int]) -> None:
        kind = message["type"]
        if kind in {"new_message", "user_joined", "user_left"}:
            self._judge_event(message, must_hear)
        elif kind == "message_ack":
            self._judge_ack(message)
        elif kind == "authenticated":
            self._judge_arrival(message, must_hear)
        elif kind == "room_history":
            self._judge_history(message, must_hear)
        elif kind in {"caught_up", "resync"}:
            self._judge_end_of_replay(message)
        elif kind == "error":
            self._judge_error(message)
        elif kind == "ok":
            asked = self.asked.get(message["id"], {})
            if asked.get("type") == "leave_room":
                must_hear.pop(asked["roomId"], None)
                if asked["roomId"] in self.rooms:
                    self.left_at[asked["roomId"]] = self.at_s
        elif kind not in KNOWN:
            self.blame(f"heard {message}")

    # -- events -----------------------------------------------------------------------------------------------------

    def _judge_event(self, event: dict[str, Any], must_hear: dict[str, int]) -> None:
        where = event["message"] if event["type"] == "new_message" else event
        room_id, seq = where["roomId"], where["seq"]
        is_own = event.get("userId") == self.diary.user_id
        self.judgement.events += 1
        if not self.truth.is_stored(event):
            self.blame(f"heard {event}, which is not what is stored")
        hearing = self.rooms.get(room_id)
        if hearing is None:
            if not (is_own and event["type"] == "user_joined"):
                self.blame(f"heard seq {seq} of room {room_id}, which it does not hear")
            # A device follows what another one has joined.
            self.rooms[room_id] = hearing = _Hearing(seq)
        elif seq <= hearing.position:
            self.blame(f"heard seq {seq} of room {room_id} again, having heard {hearing.position}")
        elif seq != hearing.position + 1:
            self.blame(f"heard seq {seq} of room {room_id} where {hearing.position + 1} was next: a hole")
        hearing.position = max(seq, hearing.position)
        if hearing.is_replaying:
            self.judgement.replayed += 1
            return
        self._note_time(room_id, seq)
        if self.truth.membership(room_id, self.diary.user_id, seq) is None:
            self.blame(f"heard seq {seq} of room {room_id}, of which it was no member then")
        if is_own and event["type"] == "user_left":
            del self.rooms[room_id]
            self.left_at.pop(room_id, None)
            must_hear.pop(room_id, None)

    def _note_time(self, room_id: str, seq: int) -> None:
        first_s, _ = self.judgement.heard_at.get((room_id, seq), (self.at_s, self.at_s))
        self.judgement.heard_at[room_id, seq] = (min(first_s, self.at_s), self.at_s)

    # -- answers ----------------------------------------------------------------------------------------------------

    def _judge_arrival(self, message: Mapping[str, Any], must_hear: dict[str, int]) -> None:
        self.is_authenticated = True
        listed = {room["roomId"]: room["lastSeq"] for room in message["rooms"]}
        self.judgement.resumes += bool(self.claimed)
        self.rooms = {room_id: _Hearing(seq) for room_id, seq in listed.items()}
        self.rooms |= {room_id: _Hearing(seq, is_replaying=True) for room_id, seq in self.claimed.items()}
        for room_id, seq in must_hear.items():
            time = self.truth.membership(room_id, self.diary.user_id, seq)
            if time is not None and time.end is None and room_id not in listed:
                self.blame(f"is a member of room {room_id}, which it is not told when it authenticates")
        for room_id, seq in listed.items():
            if seq > self.truth.last_seqs.get(room_id, -1):
                self.blame(f"is told seq {seq} of room {room_id}, which never came so far")

    def _judge_history(self, message: Mapping[str, Any], must_hear: dict[str, int]) -> None:
        room_id, seq = message["roomId"], message["seq"]
        for kept in kept_of_history(message["messages"]):
            if self.truth.messages.get((room_id, kept.seq)) != kept:
                self.blame(f"is given {kept} as history, which is not what is stored")
        if self.asked.get(message.get("id", ""), {}).get("type") != "join_room":
            return
        must_hear[room_id] = seq
        hearing = self.rooms.get(room_id)
        if hearing is None:
            self.rooms[room_id] = _Hearing(seq)
        elif seq > hearing.position:
            self.blame(f"is told seq {seq} of room {room_id}, which it has heard up to {hearing.position}")
            hearing.position = seq

    def _judge_end_of_replay(self, message: Mapping[str, Any]) -> None:
        room_id, seq = message["roomId"], message["seq"]
        hearing = self.rooms.get(room_id)
        if hearing is None or not hearing.is_replaying:
            self.blame(f"is told {message}, having asked for no replay")
            return
        hearing.is_replaying = False
        if message["type"] == "caught_up":
            if seq != hearing.position:
                self.blame(f"is told to be caught up at {seq} of room {room_id}, having heard {hearing.position}")
                hearing.position = seq
            return
        self.judgement.resyncs += 1
        del self.rooms[room_id]
        if message["reason"] != "not_a_member":
            self.blame(f"cannot resume room {room_id} from {hearing.position}: {message['reason']}")
            self.rooms[room_id] = _Hearing(seq)
            return
        time = self.truth.membership(room_id, self.diary.user_id, hearing.position)
        if time is not None and time.end is None:
            self.blame(f"cannot resume room {room_id} from {hearing.position}: no member, although it is one")

    def _judge_error(self, error: Mapping[str, Any]) -> None:
        code = error["code"]
        self.judgement.refusals[code] += 1
        asked = self.asked.get(error.get("id", ""), {})
        if asked.get("type") == "join_room" and "afterSeq" in asked and not error["temporary"]:
            self.rooms.pop(asked["roomId"], None)
        if not error["temporary"] and not (self.is_shared and code in OF_SHARED):
            self.blame(f"asked {asked or '?'} and heard {error}")

    def _judge_ack(self, ack: Mapping[str, Any]) -> None:
        key, name = ack["clientMessageId"], self.diary.name
        sent = self.asked.get(key)
        if sent is None:
            self.blame(f"heard an ack of {key}, which it did not send")
            return
        if sent["roomId"] != ack["roomId"]:
            self.blame(f"sent {key} to room {sent['roomId']}, acknowledged in {ack['roomId']}")
        promise = Promise(self.diary.user_id, key, ack["roomId"], sent["content"], ack["messageId"], ack["seq"])
        known = self.judgement.promises.setdefault(key, promise)
        if known != promise:
            self.blame(f"was promised {known}, then {promise}")
        elif known is not promise and not ack["duplicate"]:
            self.blame(f"heard twice that {key} of {name} is new")
        if not ack["duplicate"]:
            number, seq = self.newest.get(ack["roomId"], (-1, 0))
            if number >= 0 and (self.sends[key] < number) != (ack["seq"] < seq):
                self.blame(f"{key} at {ack['seq']} and the message at {seq} did not keep the order of their sending")
            self.newest[ack["roomId"]] = max((number, seq), (self.sends[key], ack["seq"]))

    # -- the end ----------------------------------------------------------------------------------------------------

    def judge_end(self) -> None:
        """Whoever is there at the end hears all rooms that it is in, and has been given everything."""
        if self.is_over or not self.is_authenticated:
            self.blame("is not connected at the end")
            return
        own = self.truth.rooms_of(self.diary.user_id)
        for room_id in self.rooms.keys() - own:
            self.blame(
                f"is no member of room {room_id}, was never told, and heard it up to {self.rooms[room_id].position}"
            )
        for room_id in own:
            hearing, last_seq = self.rooms.get(room_id), self.truth.last_seqs[room_id]
            if hearing is None:
                self.blame(f"is a member of room {room_id} at the end and does not hear it")
            elif hearing.is_replaying:
                self.blame(f"was never caught up in room {room_id}")
            elif hearing.position != last_seq:
                self.blame(f"has heard room {room_id} up to {hearing.position} at the end, which is at {last_seq}")


def judge_diaries(found: Found, diaries: Collection[Diary], *, is_settled: bool) -> Judgement:
    """Go through everything that clients wrote down; with `is_settled` they were to hear all before the end."""
    truth, judgement = Truth(found), Judgement()
    devices = Counter(diary.user_id for diary in diaries)
    for diary in diaries:
        # Rooms that this client has been told it is in, each with a seq of that time.
        must_hear: dict[str, int] = {}
        judge = None
        for number, lines in diary.stays().items():
            is_shared = devices[diary.user_id] > 1
            judge = _StayJudge(diary, number, truth, judgement, is_shared=is_shared)
            judge.judge(lines, must_hear)
            judgement.stays += 1
        if is_settled:
            if judge is None:
                judgement.faults.append(f"{diary.name} was never connected")
            else:
                judge.judge_end()
    return judgement
