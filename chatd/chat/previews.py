"""What a message shows of the pages that it links to: which pages, and how it gets into the message's metadata.

Fetching is the business of `chatd.previews`; here is what there is to fetch and what becomes of it. Nobody is asked and
nobody waits: the message is there already, and changes once more when its pages have been read, for everybody alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from chatd.chat.links import LINKS, PREVIEWS
from chatd.errors import Refusal
from chatd.protocol import MessageEdited
from chatd.records import encode_json, parse_json
from chatd.store import changes
from chatd.store.acts import Act

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.bus.port import Event
    from chatd.chat.context import Chat
    from chatd.store.acts import Scene

#: Pages of one message that are shown.
MAX_PREVIEWS: Final = 3
_CHANGES: Final = frozenset({"new_message", "message_edited"})
_HAS_LINKS: Final = b'"links":['
_HAS_PREVIEWS: Final = b'"previews":['


class Linked(NamedTuple):
    """A message with links whose pages are to be shown."""

    room_id: str
    message_id: str
    links: tuple[str, ...]


def linked_by(event: Event) -> Linked | None:
    """The message of an event, if it has pages to show and does not show them yet."""
    if event.kind not in _CHANGES or _HAS_LINKS not in event.body or _HAS_PREVIEWS in event.body:
        return None
    message = parse_json(event.body)["message"]
    links = (message.get("metadata") or {}).get(LINKS)
    if not isinstance(links, list):
        return None
    pages = [link for link in links if isinstance(link, str) and link.lower().startswith(("http://", "https://"))]
    return Linked(event.room_id, message["id"], tuple(pages[:MAX_PREVIEWS])) if pages else None


async def show_previews(chat: Chat, linked: Linked, previews: Sequence[dict[str, str]]) -> None:
    """Let a message show pages that it still links to; the room hears `message_edited`, `editedAt` stays as it is."""

    async def decide(scene: Scene) -> None:
        subject = await changes.read_subject(scene, linked.message_id)
        if subject is None or subject.is_deleted or subject.metadata is None:
            return
        metadata: dict[str, Any] = parse_json(subject.metadata)
        still = [preview for preview in previews if preview["url"] in metadata.get(LINKS, ())]
        if not still or PREVIEWS in metadata:
            return
        seq = scene.next_seq()
        shown = await changes.show_metadata(scene, linked.message_id, encode_json({**metadata, PREVIEWS: still}))
        event = MessageEdited(room_id=scene.room_id, seq=seq, message=shown)
        scene.add_event(event, subject=subject.sender_id, message_id=linked.message_id)

    try:
        await chat.journal.write(Act(linked.room_id, decide))
    except Refusal as refusal:
        # The room may be gone. A database that is out has more to do when it is back; the message is whole without.
        if not refusal.is_temporary and refusal.code != "not_found":
            raise
