"""What is asked of the journal, and how a batch of it becomes rows and events. Pure: no database, no waiting.

An entry is one durable change of a room: a `Post` (a message) or a `MembershipChange`. `number_batch` goes through a
batch in order and gives each entry the room's next seq, or finds out that nothing is to be stored: a repeat under the
same `clientMessageId`, a refusal, somebody who is a member already. Called by `journal` inside of its transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

from chatd.bus.port import Event
from chatd.errors import Refusal
from chatd.ids import new_id
from chatd.protocol import NewDm, NewMessage, UserJoined, UserLeft, encode
from chatd.records import Attachment, Message, Raw, encode_json, format_time


class Stored(NamedTuple):
    """What became of an entry. `duplicate`: it was stored earlier, these are the first one's values.

    For a membership change that changes nothing, `duplicate` is set and `seq` is the room's newest.
    """

    message_id: str
    room_id: str
    seq: int
    created_at_ms: int
    duplicate: bool = False


Outcome: TypeAlias = Stored | Refusal
Settle: TypeAlias = Callable[[Outcome], None]


def settled_by_writer(outcome: Outcome) -> None:
    """`Journal.write` puts its own in the place of this one."""


#: What those are told of whom one blocks the other; who does is the other's own.
NOBODY_WRITES: Final = "Nobody writes in this conversation for now; both of you may read it."


def no_such_room() -> Refusal:
    return Refusal("not_found", "There is no such room.")


def mismatch() -> Refusal:
    """Of another message under a key that is in use."""
    return Refusal(
        "idempotency_mismatch",
        "Another message was sent under this `clientMessageId` before; give every new message a new one.",
    )


@dataclass(slots=True, eq=False)
class Post:
    """A message to be stored. `request_hash` covers all that the sender asked for; `metadata` is JSON text."""

    room_id: str
    sender_id: str
    sender_name: str
    message_type: str
    content: str
    settle: Settle
    reply_to: str | None = None
    metadata: bytes | None = None
    client_message_id: str | None = None
    request_hash: str | None = None
    attachment: Attachment | None = None
    message_id: str = field(default_factory=new_id)


@dataclass(slots=True, eq=False)
class MembershipChange:
    """Somebody becomes a member with `role`, or, without one, stops being one for `reason`."""

    room_id: str
    user_id: str
    username: str
    online: bool
    settle: Settle
    role: str | None = None
    reason: Literal["left", "kicked", "banned"] = "left"


Entry: TypeAlias = Post | MembershipChange


class Repeat(NamedTuple):
    """A message that was stored before under a key of this batch."""

    message_id: str
    room_id: str
    seq: int
    created_at_ms: int
    request_hash: str | None


@dataclass(slots=True)
class Head:
    """Where a room is, as the batch goes on."""

    kind: str
    last_seq: int
    message_count: int
    member_count: int
    max_members: int | None
    slow_mode_s: int = 0
    #: The newest seq at which somebody lost the right to send.
    standing_seq: int = 0


@dataclass(slots=True)
class Standing:
    """How a user stands in a room: their role (`None`: no member) and what keeps them from sending or joining."""

    role: str | None
    muted_until_ms: int | None = None
    posted_at_ms: int | None = None
    is_banned: bool = False


NO_STANDING: Final = Standing(None)


@dataclass(slots=True)
class Numbered:
    """A batch that was gone through: an outcome an entry, the rows to store, the events to publish."""

    outcomes: list[Outcome] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    message_rows: list[tuple[object, ...]] = field(default_factory=list)
    event_rows: list[tuple[object, ...]] = field(default_factory=list)
    joined_rows: list[tuple[object, ...]] = field(default_factory=list)
    left_rows: list[tuple[str, str]] = field(default_factory=list)
    posted_rows: list[tuple[str, str, int]] = field(default_factory=list)
    changed_rooms: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Batch:
    """Entries with what the database says about them.

    `repeats` by (sender, client message id); `standings` by (room, user).
    """

    entries: Sequence[Entry]
    heads: dict[str, Head]
    repeats: dict[tuple[str, str], Repeat]
    standings: dict[tuple[str, str], Standing]
    max_members: int
    now_ms: int


def number_batch(batch: Batch) -> Numbered:
    """Go through the entries in order. Changes `heads`, `repeats` and `standings` of the batch as it goes."""
    numbered = Numbered()
    created_at = format_time(batch.now_ms)
    for entry in batch.entries:
        head = batch.heads.get(entry.room_id)
        if head is None:
            outcome: Outcome = no_such_room()
        elif isinstance(entry, Post):
            outcome = _post(entry, head, batch, numbered, created_at)
        elif entry.role is not None:
            outcome = _join(entry, entry.role, head, batch, numbered)
        else:
            outcome = _leave(entry, head, batch, numbered)
        numbered.outcomes.append(outcome)
    return numbered


def _post(entry: Post, head: Head, batch: Batch, numbered: Numbered, created_at: str) -> Outcome:
    room_id, sender_id, client_message_id = entry.room_id, entry.sender_id, entry.client_message_id
    if client_message_id is not None:
        repeat = batch.repeats.get((sender_id, client_message_id))
        if repeat is not None:
            return _repeated(entry, repeat)
    standing = batch.standings.get((room_id, sender_id), NO_STANDING)
    if (refusal := _refusal_to_send(standing, head, batch.now_ms)) is not None:
        return refusal
    if head.slow_mode_s:
        standing.posted_at_ms = batch.now_ms
        numbered.posted_rows.append((room_id, sender_id, batch.now_ms))
    head.last_seq = seq = head.last_seq + 1
    head.message_count += 1
    message_id = entry.message_id
    stored = Stored(message_id, room_id, seq, batch.now_ms)
    if client_message_id is not None:
        batch.repeats[sender_id, client_message_id] = Repeat(message_id, room_id, seq, batch.now_ms, entry.request_hash)
    metadata = entry.metadata
    message = Message(
        id=message_id,
        room_id=room_id,
        seq=seq,
        sender_id=sender_id,
        sender_name=entry.sender_name,
        message_type=entry.message_type,
        content=entry.content,
        created_at=created_at,
        client_message_id=client_message_id,
        reply_to=entry.reply_to,
        metadata=None if metadata is None else Raw(metadata),
        attachment=entry.attachment,
    )
    event = NewDm(message=message) if head.kind == "direct" else NewMessage(message=message)
    numbered.events.append(Event(room_id, seq, "new_message", encode(event), sender_id))
    numbered.message_rows.append((
        message_id, room_id, seq, head.message_count, sender_id, entry.message_type, entry.content, entry.reply_to,
        None if metadata is None else metadata.decode(), client_message_id, entry.request_hash, batch.now_ms,
        *_file_columns(entry),
    ))  # fmt: skip
    numbered.changed_rooms.add(room_id)
    return stored


def _refusal_to_send(standing: Standing, head: Head, now_ms: int) -> Refusal | None:
    """What keeps somebody from sending a message now, whatever their node has heard of it."""
    if standing.role is None:
        return Refusal("not_a_member", "You are not a member of this room; send join_room first.")
    if standing.role == "readonly" and head.kind == "direct":
        return Refusal("forbidden", NOBODY_WRITES)
    if standing.role == "readonly":
        return Refusal("forbidden", "Your role in this room is readonly, which may not send; ask a moderator.")
    if (muted := refusal_while_muted(standing, now_ms)) is not None:
        return muted
    if head.slow_mode_s and standing.role == "member" and standing.posted_at_ms is not None:
        wait_ms = standing.posted_at_ms + 1000 * head.slow_mode_s - now_ms
        if wait_ms > 0:
            detail = f"This room has a slow mode: one message in {head.slow_mode_s} s from each member; wait a little."
            return Refusal("rate_limited", detail, retry_after_ms=wait_ms)
    return None


def refusal_while_muted(standing: Standing, now_ms: int) -> Refusal | None:
    if standing.muted_until_ms is None or standing.muted_until_ms <= now_ms:
        return None
    detail = f"You are muted in this room until {format_time(standing.muted_until_ms)}; you may read meanwhile."
    return Refusal("muted", detail, retry_after_ms=standing.muted_until_ms - now_ms)


def _repeated(entry: Post, repeat: Repeat) -> Outcome:
    # Of a message that was deleted no hash is kept: under its key nothing new is stored.
    if repeat.request_hash is not None and repeat.request_hash != entry.request_hash:
        return mismatch()
    return Stored(repeat.message_id, repeat.room_id, repeat.seq, repeat.created_at_ms, duplicate=True)


def _join(entry: MembershipChange, role: str, head: Head, batch: Batch, numbered: Numbered) -> Outcome:
    key = (entry.room_id, entry.user_id)
    standing = batch.standings.setdefault(key, Standing(None))
    if standing.role is not None:
        return Stored("", entry.room_id, head.last_seq, batch.now_ms, duplicate=True)
    if (refusal := refusal_to_join(standing, head, batch.max_members)) is not None:
        return refusal
    batch.standings[key] = Standing(role)
    head.last_seq = seq = head.last_seq + 1
    head.member_count += 1
    joined = UserJoined(
        room_id=entry.room_id, seq=seq, user_id=entry.user_id, username=entry.username, online=entry.online
    )
    _add_event(Event(entry.room_id, seq, "user_joined", encode(joined), entry.user_id), batch.now_ms, numbered)
    numbered.joined_rows.append((*key, role, batch.now_ms, seq, head.message_count))
    return Stored("", entry.room_id, seq, batch.now_ms)


def refusal_to_join(standing: Standing, head: Head, max_members: int) -> Refusal | None:
    """What keeps somebody who is no member from becoming one; `max_members` is the server's own bound, 0 for none."""
    if standing.is_banned:
        return Refusal("forbidden", "You are banned from this room; ask one of its moderators.")
    bounds = [bound for bound in (head.max_members, max_members) if bound]
    if bounds and head.member_count >= min(bounds):
        return Refusal("limit_reached", f"This room is full: it has {head.member_count} members.")
    return None


def _leave(entry: MembershipChange, head: Head, batch: Batch, numbered: Numbered) -> Outcome:
    key = (entry.room_id, entry.user_id)
    standing = batch.standings.get(key, NO_STANDING)
    if standing.role is None:
        return Stored("", entry.room_id, head.last_seq, batch.now_ms, duplicate=True)
    if standing.role == "owner":
        return Refusal("conflict", "You are an owner of this room by now; leave it again, for another one to follow.")
    standing.role = None
    head.last_seq = head.standing_seq = seq = head.last_seq + 1
    head.member_count -= 1
    left = UserLeft(
        room_id=entry.room_id,
        seq=seq,
        user_id=entry.user_id,
        username=entry.username,
        online=entry.online,
        reason=entry.reason,
    )
    _add_event(Event(entry.room_id, seq, "user_left", encode(left), entry.user_id), batch.now_ms, numbered)
    # A member who joined in this very batch is removed behind the insertion.
    numbered.left_rows.append(key)
    numbered.joined_rows = [row for row in numbered.joined_rows if row[:2] != key]
    return Stored("", entry.room_id, seq, batch.now_ms)


def _add_event(event: Event, now_ms: int, numbered: Numbered) -> None:
    numbered.events.append(event)
    numbered.event_rows.append((event.room_id, event.seq, event.kind, event.body.decode(), now_ms, None))
    numbered.changed_rooms.add(event.room_id)


def rows_of_posts(entries: Sequence[Post]) -> list[tuple[object, ...]] | None:
    """The rows of messages that the database numbers itself, each with its place among those of its room.

    `None` for a batch that has to be gone through here: with a key twice.
    """
    rows: list[tuple[object, ...]] = []
    places: dict[str, int] = {}
    keys = set()
    for entry in entries:
        if entry.client_message_id is not None:
            key = (entry.sender_id, entry.client_message_id)
            if key in keys:
                return None
            keys.add(key)
        places[entry.room_id] = place = places.get(entry.room_id, 0) + 1
        metadata = None if entry.metadata is None else entry.metadata.decode()
        rows.append((
            entry.message_id, entry.room_id, place, entry.sender_id, entry.message_type, entry.content, entry.reply_to,
            metadata, entry.client_message_id, entry.request_hash, *_file_columns(entry),
        ))  # fmt: skip
    return rows


def _file_columns(entry: Post) -> tuple[str | None, str | None]:
    """The id of the message's file, and what is shown of it as JSON text."""
    attachment = entry.attachment
    return (None, None) if attachment is None else (attachment.file_id, encode_json(attachment).decode())


def rows_of_heads(room_ids: Iterable[str], heads: Mapping[str, Head]) -> list[tuple[str, int, int, int, int]]:
    return [
        (room_id, head.last_seq, head.message_count, head.member_count, head.standing_seq)
        for room_id in room_ids
        for head in (heads[room_id],)
    ]
