r"""What travels between nodes, as bytes.

A commit's events of one room are one payload, a line each: `seq kind subject body`, the body being JSON and therefore
without a line end. A signal is `~kind about body`. What is told to all nodes is one JSON array; fields and kinds that a
newer node knows and this one does not are passed over. Broadcasts come on the same channel, a line each: `~about rooms
users body`, the ids with commas between. Nothing that is read in here is trusted: another program may
publish on our channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args, get_type_hints

from chatd.bus.port import Broadcast, Event, Notice
from chatd.records import encode_json, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SIGNAL: Final = b"~"
#: Broadcasts that are made together travel in parts of this size.
MAX_BROADCAST_BYTES: Final = 64 * 1024
_KINDS: Final = frozenset(get_args(get_type_hints(Notice)["kind"]))


class Malformed(Exception):
    """A payload that no node of ours has sent."""


def encode_event(event: Event) -> bytes:
    """One line; several are joined by line ends."""
    return b"%d %b %b %b" % (event.seq, event.kind.encode(), (event.subject or "").encode(), event.body)


def decode_events(room_id: str, payload: bytes) -> list[Event]:
    """The events of a payload, in their order. Raises `Malformed`."""
    try:
        return [
            Event(room_id, int(seq), str(kind, "utf-8"), body, str(subject, "utf-8") or None)
            for seq, kind, subject, body in [line.split(b" ", 3) for line in payload.split(b"\n")]
        ]
    except ValueError as error:
        raise Malformed from error


def encode_signal(body: bytes, about: str, kind: str) -> bytes:
    return b"~%b %b %b" % (kind.encode(), about.encode(), body)


def decode_signal(payload: bytes) -> tuple[bytes, str, str]:
    """The body, whom it is about, and its kind. Raises `Malformed`."""
    try:
        kind, about, body = payload.split(b" ", 2)
        return body, str(about, "utf-8"), str(kind[1:], "utf-8")
    except ValueError as error:
        raise Malformed from error


def encode_broadcasts(broadcasts: Iterable[Broadcast]) -> Iterator[bytes]:
    """Payloads of `MAX_BROADCAST_BYTES` at most, unless a single one is larger."""
    lines: list[bytes] = []
    size = 0
    for room_ids, body, about, to in broadcasts:
        line = b"~%b %b %b %b" % (about.encode(), ",".join(room_ids).encode(), ",".join(to).encode(), body)
        if lines and size + len(line) > MAX_BROADCAST_BYTES:
            yield b"\n".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if lines:
        yield b"\n".join(lines)


def decode_broadcasts(payload: bytes) -> list[Broadcast]:
    """Raises `Malformed`."""
    try:
        return [
            Broadcast(_ids(room_ids), body, str(about[1:], "utf-8"), _ids(to))
            for about, room_ids, to, body in [line.split(b" ", 3) for line in payload.split(b"\n")]
        ]
    except ValueError as error:
        raise Malformed from error


def _ids(data: bytes) -> tuple[str, ...]:
    return tuple(str(data, "utf-8").split(",")) if data else ()


class Word(NamedTuple):
    """What a node tells all others: its notice of this number, or, without one, how far its numbers have come.

    `has_lost`: events that it published may have been lost.
    """

    node: str
    number: int
    has_lost: bool = False
    notice: Notice | None = None


def encode_word(word: Word) -> bytes:
    fields = None
    if word.notice is not None:
        fields = {name: value for name, value in word.notice._asdict().items() if value is not None}
    return encode_json([word.node, word.number, word.has_lost, fields])


def decode_word(payload: bytes) -> Word:
    """Raises `Malformed`. A notice of a kind that is not known here is left out, its number stands."""
    try:
        parts = parse_json(payload)
    except ValueError as error:
        raise Malformed from error
    match parts:
        case [str(node), int(number), bool(has_lost), None]:
            return Word(node, number, has_lost)
        case [str(node), int(number), bool(has_lost), dict(fields)]:
            return Word(node, number, has_lost, _notice(fields))
    raise Malformed


def _notice(fields: dict[str, Any]) -> Notice | None:
    if fields.get("kind") not in _KINDS:
        return None
    known = {name: fields[name] for name in Notice._fields if name in fields}
    are_right = [isinstance(value, int if name == "seq" else str) for name, value in known.items()]
    if "user_id" not in known or not all(are_right):
        raise Malformed
    return Notice(**known)
