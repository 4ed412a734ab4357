"""Judges what messages say: as they are stored, and never as they were before what a client was told of them.

A message may be edited and deleted while clients are told of it, and everything shows it as it is by then. So what a
message said that was changed since is not compared with what is stored; but whoever was told that it was deleted, or
edited, is not told again what it said before. Whoever comes back is replayed what had been
changed by then as it was changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chatd.records import format_time_or_none
from chatd.verify.truth import differences, is_same_event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chatd.store.inspection import KeptMessage
    from chatd.verify.stays import StayJudge
    from chatd.verify.truth import RoomTruth

#: What is shown of a message that nothing is left of once it is deleted.
SAID = ("content", "metadata", "reactions", "pinned", "attachment")


class ContentJudge:
    """The messages and events of one connection."""

    def __init__(self, stay: StayJudge) -> None:
        self._stay = stay
        #: When each message was edited for the last time that this client was told of, as it was written down.
        self._edited: dict[str, str] = {}
        self._deleted: set[str] = set()
        #: Messages that were replayed as nobody had changed them yet.
        self._unchanged: set[str] = set()

    def judge_event(
        self, event: Mapping[str, Any], room: RoomTruth | None, room_id: str, seq: int, *, replayed_to: int | None
    ) -> None:
        """An event against what is stored. One of a replay has happened before it began up to the seq `replayed_to`."""
        kind, message = event["type"], event.get("message")
        is_new = kind in ("new_message", "new_dm")
        about = {"room_id": room_id, "seq": seq, "message_id": message["id"] if is_new and message else None}
        told = f"heard {kind} {seq} of room {room_id}, which is not what is stored"
        blame, truth = self._stay.blame, self._stay.truth
        if room is None:
            blame(3, f"{told}: there is no such room", **about)
        elif not is_new:
            if not is_same_event(truth.event(room_id, seq), event):
                blame(3, told, **about)
        elif (kept := truth.message(room_id, seq)) is None or kind != room.event_kind:
            blame(3, f"{told}: no message is", **about)
        elif wrong := differences(kept, event["message"]):
            blame(3, f"{told}: another {' and '.join(wrong)}", **about)
        if room is not None and message is not None:
            self._judge_state(message)
        if replayed_to is not None:
            self._judge_replay(event, room_id, seq, replayed_to)
        if kind == "message_deleted":
            self._deleted.add(event["messageId"])

    def _judge_replay(self, event: Mapping[str, Any], room_id: str, seq: int, replayed_to: int) -> None:
        message = event.get("message", {})
        if event["type"] in ("new_message", "new_dm"):
            if "editedAt" not in message and "deletedAt" not in message:
                self._unchanged.add(message["id"])
        elif event["type"] in ("message_edited", "message_deleted") and seq <= replayed_to:
            message_id = event.get("messageId") or message.get("id")
            if message_id in self._unchanged and ("editedAt" in message or event["type"] == "message_deleted"):
                self._stay.blame(
                    5, f"is replayed message {message_id} as it was before seq {seq}, which was before it came back",
                    room_id=room_id, seq=seq, message_id=message_id,
                )  # fmt: skip

    def judge_page(self, room_id: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """A page of history against what is stored; its messages follow each other."""
        stay, before = self._stay, None
        for told in messages:
            about = {"room_id": room_id, "seq": told["seq"], "message_id": told["id"]}
            kept = self._kept(told)
            wrong = ["message"] if kept is None else differences(kept, told)
            if wrong:
                detail = f"is given {told['seq']} of room {room_id} as history, which is not what is stored"
                stay.blame(3, f"{detail}: another {' and '.join(wrong)}", **about)
            elif kept is not None:
                if before is not None and kept.count_in_room != before + 1:
                    stay.blame(3, f"is given a history of room {room_id} that is not whole before {kept.seq}", **about)
                before = kept.count_in_room
                self._judge_state(told)

    def judge_unread(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Unread direct messages, of several rooms."""
        for told in messages:
            kept = self._kept(told)
            wrong = ["message"] if kept is None else differences(kept, told)
            if wrong:
                detail = f"is given {told['seq']} of room {told['roomId']} as unread, which is not what is stored"
                self._stay.blame(3, f"{detail}: another {' and '.join(wrong)}", message_id=told["id"])
            else:
                self._judge_state(told)

    def _kept(self, told: Mapping[str, Any]) -> KeptMessage | None:
        truth = self._stay.truth
        return None if truth.room(told["roomId"]) is None else truth.message(told["roomId"], told["seq"])

    def _judge_state(self, told: Mapping[str, Any]) -> None:
        """Whether a message is told in a state that it had, and not in an earlier one than this client knows."""
        message_id, kept = told["id"], self._kept(told)
        if kept is None:
            return
        edited_at, deleted_at = told.get("editedAt"), told.get("deletedAt")
        known_at = self._edited.get(message_id, "")
        wrong = ""
        if deleted_at is not None:
            if deleted_at != format_time_or_none(kept.deleted_at):
                wrong = "as deleted then, which it was not"
            elif any(told.get(name) for name in SAID):
                wrong = "with what it said before it was deleted"
            self._deleted.add(message_id)
        elif message_id in self._deleted:
            wrong = "as it was before it was deleted, of which it was told"
        elif (edited_at or "") < known_at:
            wrong = f"as it was before it was edited at {known_at}, of which it was told"
        elif edited_at is not None:
            self._edited[message_id] = edited_at
            if kept.deleted_at is None and edited_at > (format_time_or_none(kept.edited_at) or ""):
                # A time says no more of the content: a room's clock stands still where a node's was ahead.
                wrong = f"as edited at {edited_at}, which it was not"
        if wrong:
            about = {"room_id": told["roomId"], "seq": told["seq"], "message_id": message_id}
            self._stay.blame(3, f"is told message {message_id} {wrong}", **about)
