"""Judges acknowledgements: what is acknowledged is stored, once, as it was sent, and in the order of its sending."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chatd.verify.requests import Asked
    from chatd.verify.stays import StayJudge


class AckJudge:
    """The acknowledgements of one connection."""

    def __init__(self, stay: StayJudge) -> None:
        self._stay = stay
        #: The number and the seq of the last sent message of each room that was acknowledged as new.
        self._newest: dict[str, tuple[int, int]] = {}

    def judge(self, ack: Mapping[str, Any], asked: Asked | None) -> None:
        stay = self._stay
        key, room_id, seq = ack.get("clientMessageId"), ack["roomId"], ack["seq"]
        name = ack["messageId"] if key is None else key
        about = {"room_id": room_id, "seq": seq, "message_id": ack["messageId"]}
        if asked is None or asked.message.get("clientMessageId") != key:
            stay.blame(2, f"heard an ack of {name}, which it did not send, or was answered before", **about)
            return
        sent = asked.message
        if sent.get("roomId", room_id) != room_id:
            stay.blame(1, f"sent {name} to room {sent['roomId']}, acknowledged in {room_id}", **about)
        stay.findings.note_ack(stay.user_id, sent, ack)
        if stay.is_of_this_epoch:
            self._compare(ack, sent, name)
        if not ack["duplicate"] and asked.waiting == 0:
            number, newest = self._newest.get(room_id, (-1, 0))
            if number >= 0 and (asked.number < number) != (seq < newest):
                stay.blame(
                    3, f"{name} at {seq} and the message at {newest} did not keep the order of their sending", **about
                )
            self._newest[room_id] = max((number, newest), (asked.number, seq))

    def _compare(self, ack: Mapping[str, Any], sent: Mapping[str, Any], name: str) -> None:
        """With what is stored. Promises 1 and 2."""
        stay, room_id, seq, message_id = self._stay, ack["roomId"], ack["seq"], ack["messageId"]
        about = {"room_id": room_id, "seq": seq, "message_id": message_id}
        key = ack.get("clientMessageId")
        room = stay.truth.room(room_id)
        kept = stay.truth.message(room_id, seq) if room is not None else None
        promised = f"{name} was acknowledged as seq {seq} of room {room_id}"
        if room is None or kept is None or kept.id != message_id:
            places = [] if key is None else stay.truth.of_key(stay.user_id, key)
            found = " and ".join(f"seq {place.seq} of room {place.room_id}" for place in places)
            stay.blame(1, f"{promised} and is {f'stored as {found}' if found else 'lost'}", **about)
            return
        told = {"sender": stay.user_id, "clientMessageId": key, "messageType": sent.get("messageType", "text")}
        stored = {
            "sender": kept.sender_id, "clientMessageId": kept.client_message_id, "messageType": kept.message_type,
        }  # fmt: skip
        if kept.edited_at is None and kept.deleted_at is None:
            told["content"], stored["content"] = sent["content"], kept.content
        if wrong := [field for field, value in told.items() if stored[field] != value]:
            stay.blame(1, f"{promised} and is stored with another {' and '.join(wrong)}", **about)
            return
        room.acknowledged.add(seq)
        if not ack["duplicate"] and not room.told_new.add(seq):
            stay.blame(2, f"heard twice that {name} of {stay.client} is new", **about)
