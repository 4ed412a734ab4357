"""Bringing others into a room: added at once, or invited to come by themselves.

An invitation opens a private room to one user, in the role that it offers, and is used up by joining. Whoever has
blocked the one who brings them in, or is banned from the room, is neither added nor invited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.bus.port import Notice
from chatd.chat.moderation import governed_room, heed_here
from chatd.chat.permissions import check_may_give
from chatd.chat.rooms import read_member
from chatd.errors import Refusal
from chatd.records import Invitation
from chatd.store import moderation
from chatd.store.acts import Act
from chatd.store.entries import refusal_to_join

if TYPE_CHECKING:
    from chatd.chat.accounts import Caller
    from chatd.chat.context import Chat
    from chatd.records import Member
    from chatd.store.acts import Scene


async def add_member(chat: Chat, caller: Caller, room_id: str, user_id: str, *, role: str) -> Member:
    """Make somebody a member at once; their live connections hear the room from then on."""
    await governed_room(chat, caller.user_id, room_id, "invite")
    limits = chat.options.limits
    if limits.rooms_per_user and await chat.rooms.count_of_user(user_id) >= limits.rooms_per_user:
        raise Refusal("limit_reached", f"This user is in {limits.rooms_per_user} rooms already.")
    online = bool(await chat.bus.online([user_id]))

    async def decide(scene: Scene) -> None:
        username = await _check_may_bring(scene, caller, user_id, role)
        standing = await scene.standing(user_id)
        if (refusal := refusal_to_join(standing, scene.head, limits.members_per_room)) is not None:
            raise refusal
        await moderation.drop_invitation(scene, user_id)
        await moderation.add_member(scene, user_id, username, role=role, online=online)

    # Active before its new member is told, so that their connections here are in it when this is answered.
    await chat.hub.activate([room_id])
    stored = await chat.journal.write(Act(room_id, decide))
    chat.notifier.note_invitation(room_id, user_id, by=caller.user_id)
    chat.audit.note("member_added", user=caller.user_id, room=room_id, member=user_id, role=role)
    await heed_here(chat, Notice("member_joined", user_id, room_id, seq=stored.seq, role=role))
    return await read_member(chat, room_id, user_id)


async def invite(chat: Chat, caller: Caller, room_id: str, user_id: str, *, role: str) -> Invitation:
    """Let somebody join a room in a role; a second invitation takes the place of the first."""
    await governed_room(chat, caller.user_id, room_id, "invite")
    most = chat.options.limits.invitations_per_room

    async def decide(scene: Scene) -> None:
        await _check_may_bring(scene, caller, user_id, role)
        is_new = await moderation.invitation(scene, user_id) is None
        if most and is_new and await moderation.count_invitations(scene) >= most:
            raise Refusal("limit_reached", f"{most} invitations to this room wait already; take one back first.")
        await moderation.invite(scene, user_id, role, invited_by=caller.user_id)

    await chat.journal.write(Act(room_id, decide))
    chat.notifier.note_invitation(room_id, user_id, by=caller.user_id)
    chat.audit.note("member_invited", user=caller.user_id, room=room_id, member=user_id, role=role)
    return Invitation(room_id=room_id, user_id=user_id, role=role, invited_by=caller.user_id)


async def _check_may_bring(scene: Scene, caller: Caller, user_id: str, role: str) -> str:
    """The name of somebody who may be brought in. Raises `Refusal`."""
    check_may_give((await scene.standing(caller.user_id)).role, "invite", role)
    found = await moderation.person(scene, user_id)
    if found is None or found.disabled_at is not None:
        raise Refusal("not_found", "There is no user with this `userId`.")
    standing = await scene.standing(user_id)
    if standing.role is not None:
        raise Refusal("conflict", "This user is a member of the room already.")
    if standing.is_banned:
        raise Refusal("forbidden", "This user is banned from the room; lift the ban first.")
    if await moderation.has_blocked(scene, user_id, caller.user_id):
        raise Refusal("forbidden", "This user cannot be brought in by you; let them join by themselves.")
    return found.username
