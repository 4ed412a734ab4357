"""Changing a room and deleting it: what its moderators and its owner decide about all of it.

A deleted room is gone for everybody on every node behind one last event, a `room_updated` with `deletedAt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatd.bus.port import Notice
from chatd.chat.moderation import governed_room, heed_here
from chatd.chat.permissions import check_may
from chatd.chat.rooms import check_texts, read_room
from chatd.errors import Refusal, bad_fields
from chatd.protocol import RoomUpdated
from chatd.store import moderation
from chatd.store.acts import Act
from chatd.store.moderation import RoomSettings

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.records import Room
    from chatd.store.acts import Scene


@dataclass(frozen=True, slots=True)
class RoomChange:
    """What is to be changed: `None` stays, an empty topic is taken away, 0 takes a bound away."""

    name: str | None = None
    topic: str | None = None
    max_members: int | None = None
    slow_mode_s: int | None = None

    def of(self, before: RoomSettings) -> RoomSettings:
        """The room's settings with the change made."""
        return RoomSettings(
            name=before.name if self.name is None else self.name,
            topic=before.topic if self.topic is None else self.topic or None,
            max_members=before.max_members if self.max_members is None else self.max_members,
            slow_mode_s=before.slow_mode_s if self.slow_mode_s is None else self.slow_mode_s,
        )


async def change_room(chat: Chat, user_id: str, room_id: str, change: RoomChange) -> Room:
    """Change a room, which hears of what is not as before. Raises `Refusal`."""
    await governed_room(chat, user_id, room_id, "change")
    if change == RoomChange():
        raise bad_fields({"name": "a name, or `topic`, or `settings`"})
    check_texts("name" if change.name is None else change.name, change.topic)

    async def decide(scene: Scene) -> None:
        check_may((await scene.standing(user_id)).role, "change")
        before = await moderation.room_settings(scene)
        after = change.of(before)
        if after != before:
            await moderation.change_room(scene, after)
            scene.add_event(_update(scene, before, after))

    stored = await chat.journal.write(Act(room_id, decide))
    if not stored.duplicate:
        chat.audit.note("room_changed", user=user_id, room=room_id)
    return await read_room(chat, user_id, room_id)


def _update(scene: Scene, before: RoomSettings, after: RoomSettings) -> RoomUpdated:
    """What a room hears: only what has changed."""
    settings: dict[str, Any] = {}
    if after.max_members != before.max_members:
        settings["maxMembers"] = after.max_members
    if after.slow_mode_s != before.slow_mode_s:
        settings["slowModeS"] = after.slow_mode_s
    return RoomUpdated(
        room_id=scene.room_id,
        seq=scene.next_seq(),
        name=after.name if after.name != before.name else None,
        topic=after.topic or "" if after.topic != before.topic else None,
        settings=settings or None,
    )


async def delete_room(chat: Chat, by: str | None, room_id: str) -> None:
    """Let a room be gone, for its owner, or for an administrator (`None`). Raises `Refusal`."""
    if by is not None:
        await governed_room(chat, by, room_id, "delete")
        if room_id == chat.lobby_id:
            raise Refusal("forbidden", "This is the server's first room; only an administrator deletes it.")

    async def decide(scene: Scene) -> None:
        if by is not None:
            check_may((await scene.standing(by)).role, "delete")
        await moderation.delete_room(scene)

    stored = await chat.journal.write(Act(room_id, decide))
    chat.audit.note("room_deleted", user=by or "", room=room_id)
    await heed_here(chat, Notice("room_deleted", "", room_id, seq=stored.seq))
