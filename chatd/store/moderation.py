"""What moderators do, as typed calls: on the scene of an act, where what was found is true until it is stored.

Who may do it is for the rules of `chat` to say. `Moderation` is what is read outside of acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from chatd.protocol import RoomUpdated, UserJoined, UserLeft
from chatd.records import encode_json, format_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from chatd.store.acts import Scene
    from chatd.store.database import Database, Params
    from chatd.store.queries import Queries


class Person(NamedTuple):
    """A user, as far as a room's events tell of them."""

    username: str
    disabled_at: int | None


class Heir(NamedTuple):
    """Who is next to own a room."""

    user_id: str
    role: str


class RoomSettings(NamedTuple):
    """What of a room can be changed; no bound of its own and no slow mode are 0."""

    name: str
    topic: str | None
    max_members: int
    slow_mode_s: int


class FoundRoom(NamedTuple):
    """A room as the command line shows it."""

    id: str
    kind: str
    name: str
    member_count: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class BanRow:
    """Somebody who is kept out of a room."""

    user_id: str
    username: str
    banned_by: str | None
    banned_at: int
    reason: str | None


# -- who comes and goes -------------------------------------------------------------------------------------------


async def person(scene: Scene, user_id: str) -> Person | None:
    row = await scene.row("moderation.person", user_id=user_id)
    return None if row is None else Person(*row)


async def add_member(scene: Scene, user_id: str, username: str, *, role: str, online: bool) -> int:
    """Make somebody a member who has read everything up to here; the seq of their `user_joined`."""
    head, seq = scene.head, scene.next_seq()
    member = [scene.room_id, user_id, role, scene.now_ms, seq, head.message_count]
    await scene.run("journal.add_members", members=encode_json([member]).decode())
    head.member_count += 1
    joined = UserJoined(room_id=scene.room_id, seq=seq, user_id=user_id, username=username, online=online)
    scene.add_event(joined, subject=user_id)
    return seq


async def remove_member(
    scene: Scene, user_id: str, username: str, *, reason: Literal["left", "kicked", "banned"], online: bool
) -> None:
    """End a membership with a `user_left`."""
    head, seq = scene.head, scene.next_seq()
    await scene.run("journal.remove_members", members=encode_json([[scene.room_id, user_id]]).decode())
    head.member_count -= 1
    head.standing_seq = seq
    left = UserLeft(
        room_id=scene.room_id, seq=seq, user_id=user_id, username=username, online=online, reason=reason
    )  # fmt: skip
    scene.add_event(left, subject=user_id)


async def heir(scene: Scene, user_id: str) -> Heir | None:
    """Who owns the room, or is next to own it, once this user does not; `None`: nobody else is in it."""
    row = await scene.row("moderation.heir", room_id=scene.room_id, user_id=user_id)
    return None if row is None else Heir(*row)


# -- what members are ---------------------------------------------------------------------------------------------


async def set_role(scene: Scene, user_id: str, role: str) -> None:
    await scene.run("moderation.set_role", room_id=scene.room_id, user_id=user_id, role=role)


async def set_muted(scene: Scene, user_id: str, until_ms: int | None) -> None:
    await scene.run("moderation.set_muted", room_id=scene.room_id, user_id=user_id, until=until_ms)


# -- invitations and bans -----------------------------------------------------------------------------------------


async def invitation(scene: Scene, user_id: str) -> str | None:
    """The role that waits for somebody who is invited."""
    row = await scene.row("moderation.invitation", room_id=scene.room_id, user_id=user_id)
    return None if row is None else str(row[0])


async def count_invitations(scene: Scene) -> int:
    row = await scene.row("moderation.count_invitations", room_id=scene.room_id)
    return 0 if row is None else int(row[0])


async def invite(scene: Scene, user_id: str, role: str, *, invited_by: str | None) -> None:
    await scene.run(
        "moderation.invite", room_id=scene.room_id, user_id=user_id, role=role, invited_by=invited_by, now=scene.now_ms
    )


async def drop_invitation(scene: Scene, user_id: str) -> bool:
    """Take an invitation back; whether there was one."""
    return bool(await scene.run("moderation.drop_invitation", room_id=scene.room_id, user_id=user_id))


async def has_blocked(scene: Scene, user_id: str, other_id: str) -> bool:
    """Whether a user wants to hear nothing from the other."""
    return await scene.row("moderation.blocks", user_id=user_id, other_id=other_id) is not None


async def ban(scene: Scene, user_id: str, *, banned_by: str | None, reason: str | None) -> None:
    """Keep somebody out; who is kept out already stays so for the first reason."""
    await scene.run(
        "moderation.ban", room_id=scene.room_id, user_id=user_id, banned_by=banned_by, now=scene.now_ms, reason=reason
    )


async def unban(scene: Scene, user_id: str) -> bool:
    """Let somebody in again; whether they were kept out."""
    return bool(await scene.run("moderation.unban", room_id=scene.room_id, user_id=user_id))


# -- the room itself ----------------------------------------------------------------------------------------------


async def room_settings(scene: Scene) -> RoomSettings:
    row = await scene.row("moderation.room", room_id=scene.room_id)
    assert row is not None, "the scene has it locked"
    name, topic, max_members, slow_mode_s = row
    return RoomSettings(name, topic, max_members or 0, slow_mode_s)


async def change_room(scene: Scene, changed: RoomSettings) -> None:
    await scene.run(
        "moderation.change_room",
        room_id=scene.room_id,
        called=changed.name,
        topic=changed.topic,
        max_members=changed.max_members or None,
        slow_mode_s=changed.slow_mode_s,
        now=scene.now_ms,
    )


async def delete_room(scene: Scene) -> None:
    """Let a room be gone; the last that its members hear is a `room_updated` that says so."""
    await scene.run("moderation.delete_room", room_id=scene.room_id, now=scene.now_ms)
    await scene.run("moderation.drop_invitations", room_id=scene.room_id)
    seq = scene.next_seq()
    scene.head.standing_seq = seq
    last = RoomUpdated(room_id=scene.room_id, seq=seq, deleted_at=format_time(scene.now_ms))
    # The nodes know it by a kind of its own, for they let everybody go behind it.
    scene.add_event(last, kind="room_deleted")


class Moderation:
    """What moderators and administrators look at. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def bans(self, room_id: str, *, after: str, limit: int, offset: int) -> list[BanRow]:
        """Who is kept out of a room, in order of their ids, behind the id `after`."""
        params: Params = {"room_id": room_id, "after": after, "limit": limit, "offset": offset}
        return [BanRow(*row) for row in await self._database.rows(self._queries["moderation.bans"], params)]

    async def has_blockers(self, user_ids: Sequence[str], other_id: str) -> bool:
        """Whether one of these users wants to hear nothing from the other."""
        params: Params = {"users": encode_json(user_ids).decode(), "other_id": other_id}
        return await self._database.row(self._queries["moderation.blockers"], params) is not None

    async def find_rooms(self, name: str) -> list[FoundRoom]:
        """The room with this id, and rooms of this name; at most two."""
        rows = await self._database.rows(self._queries["moderation.find_rooms"], {"name": name})
        return [FoundRoom(*row) for row in rows]

    async def all_rooms(self, *, after: str, limit: int) -> list[FoundRoom]:
        rows = await self._database.rows(self._queries["moderation.all_rooms"], {"after": after, "limit": limit})
        return [FoundRoom(*row) for row in rows]
