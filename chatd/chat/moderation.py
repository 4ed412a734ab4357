"""Who has a say over others in a room: roles, muting, kicking and banning.

Each rule is decided inside of the transaction that stores it, by the roles that stand there, and its room hears of it.
It holds at once on every node: whoever may not send any more is refused by the journal, whoever is no member hears
nothing behind their own `user_left`. Without a moderator (`by` is `None`) it is an administrator's doing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple

from chatd.bus.port import Notice
from chatd.chat.permissions import check_may, check_may_act_on, check_may_give
from chatd.chat.rooms import check_shared, end_membership, hand_over, no_such_member, read_member, visible_room
from chatd.errors import Refusal, bad_fields
from chatd.protocol import MemberUpdated
from chatd.records import Ban, format_time, format_time_or_none
from chatd.store import moderation
from chatd.store.acts import Act

if TYPE_CHECKING:
    from chatd.chat.accounts import Caller
    from chatd.chat.context import Chat
    from chatd.chat.permissions import Action
    from chatd.records import Member
    from chatd.store.acts import Scene
    from chatd.store.entries import Standing
    from chatd.store.rooms import RoomRow


async def governed_room(chat: Chat, user_id: str, room_id: str, action: Action) -> RoomRow:
    """A room in which the user may do this, as far as can be told before the transaction. Raises `Refusal`."""
    room = await visible_room(chat, user_id, room_id)
    check_shared(room)
    check_may(room.role, action)
    return room


async def change_member(
    chat: Chat,
    caller: Caller,
    room_id: str,
    user_id: str,
    *,
    role: str | None,
    muted_until_ms: int | None,
    is_muting: bool,
) -> Member:
    """Give a member another role, mute them until a time (`None`: not any more), or both, together."""
    if role is None and not is_muting:
        raise bad_fields({"role": "a role, or `mutedUntil` a time"})
    if muted_until_ms is not None and muted_until_ms <= chat.clock():
        raise bad_fields({"mutedUntil": "a time to come, or null to let them send again"})
    await governed_room(chat, caller.user_id, room_id, "mute" if is_muting else "set_role")

    async def decide(scene: Scene) -> None:
        pair = Pair(caller.user_id, user_id, *await scene.standings(caller.user_id, user_id))
        check_may(pair.own.role, "mute" if is_muting else "set_role")
        if pair.other.role is None:
            raise no_such_member()
        if is_muting:
            check_may_act_on(pair.own.role, "mute", pair.other.role)
        if role is not None and role != pair.other.role:
            await _set_role(scene, pair, role)
        if is_muting:
            await _mute(scene, pair, muted_until_ms)

    stored = await chat.journal.write(Act(room_id, decide))
    if not stored.duplicate:
        chat.audit.note(
            "member_changed", user=caller.user_id, room=room_id, member=user_id, role=role, muted_until=muted_until_ms
        )
        if role is not None:
            await heed_here(chat, Notice("member_updated", user_id, room_id, seq=stored.seq, role=role))
    return await read_member(chat, room_id, user_id)


class Pair(NamedTuple):
    """Somebody who acts on a member, and how the two stand."""

    own_id: str
    other_id: str
    own: Standing
    other: Standing


async def _set_role(scene: Scene, pair: Pair, role: str) -> None:
    if pair.own_id != pair.other_id:
        check_may_act_on(pair.own.role, "set_role", pair.other.role)
        check_may_give(pair.own.role, "set_role", role)
    elif pair.own.role == "owner":
        # To step down is one's own to do, and the room keeps an owner.
        heir = await moderation.heir(scene, pair.other_id)
        if heir is None or heir.role != "owner":
            raise Refusal("conflict", "You are the only owner of this room; make somebody else an owner first.")
    else:
        check_may_give(pair.own.role, "set_role", role)
    await moderation.set_role(scene, pair.other_id, role)
    _tell_update(scene, MemberUpdated(room_id=scene.room_id, seq=scene.next_seq(), user_id=pair.other_id, role=role))


async def _mute(scene: Scene, pair: Pair, until_ms: int | None) -> None:
    if until_ms == pair.other.muted_until_ms or (until_ms is None and _is_over(pair.other, scene.now_ms)):
        return
    await moderation.set_muted(scene, pair.other_id, until_ms)
    until = format_time_or_none(until_ms)
    _tell_update(
        scene, MemberUpdated(room_id=scene.room_id, seq=scene.next_seq(), user_id=pair.other_id, muted_until=until)
    )


def _is_over(standing: Standing, now_ms: int) -> bool:
    """Nobody keeps them from sending any more."""
    return standing.muted_until_ms is None or standing.muted_until_ms <= now_ms


def _tell_update(scene: Scene, event: MemberUpdated) -> None:
    scene.head.standing_seq = event.seq
    scene.add_event(event, subject=event.user_id)


async def remove_member(
    chat: Chat,
    by: str | None,
    room_id: str,
    user_id: str,
    *,
    reason: Literal["kicked", "banned"],
    note: str | None = None,
    online: bool | None = None,
) -> None:
    """Kick somebody, or ban them: whether they are a member or not, they cannot come in until unbanned.

    Somebody who is invited only is so no more. Raises `Refusal` (`not_found`) for a kick of anybody else.
    Whether they are online is asked of the bus, unless it is given.
    """
    action: Action = "ban" if reason == "banned" else "kick"
    if by is not None:
        await governed_room(chat, by, room_id, action)
    if online is None:
        online = bool(await chat.bus.online([user_id]))

    async def decide(scene: Scene) -> None:
        other = await scene.standing(user_id)
        if by is not None:
            check_may_act_on((await scene.standing(by)).role, action, other.role)
        found = await moderation.person(scene, user_id)
        if found is None or (reason == "kicked" and other.role is None):
            if found is None or not await moderation.drop_invitation(scene, user_id):
                raise no_such_member()
            return
        await moderation.drop_invitation(scene, user_id)
        if reason == "banned" and not other.is_banned:
            await moderation.ban(scene, user_id, banned_by=by, reason=note)
        if other.role == "owner":
            await hand_over(scene, user_id)
        if other.role is not None:
            await moderation.remove_member(scene, user_id, found.username, reason=reason, online=online)

    stored = await chat.journal.write(Act(room_id, decide))
    chat.audit.note("member_removed", user=by or "", room=room_id, member=user_id, reason=reason)
    if not stored.duplicate:
        await heed_here(chat, Notice("member_left", user_id, room_id, seq=stored.seq))


async def remove_oneself(chat: Chat, caller: Caller, room_id: str) -> None:
    """Leave a room, or decline the invitation to it."""
    room = await visible_room(chat, caller.user_id, room_id)
    if room.role is None and room.invited_as is not None:

        async def decline(scene: Scene) -> None:
            await moderation.drop_invitation(scene, caller.user_id)

        await chat.journal.write(Act(room_id, decline))
        return
    stored = await end_membership(chat, caller.user_id, caller.username, room_id)
    await heed_here(chat, Notice("member_left", caller.user_id, room_id, seq=stored.seq))


async def unban(chat: Chat, by: str | None, room_id: str, user_id: str) -> None:
    """Let somebody in again who was kept out. Raises `Refusal` (`not_found`) where nobody was."""
    if by is not None:
        await governed_room(chat, by, room_id, "ban")

    async def decide(scene: Scene) -> None:
        if by is not None:
            check_may((await scene.standing(by)).role, "ban")
        if not await moderation.unban(scene, user_id):
            raise Refusal("not_found", "This user is not banned from the room; GET its bans to see who is.")

    await chat.journal.write(Act(room_id, decide))
    chat.audit.note("member_unbanned", user=by or "", room=room_id, member=user_id)


async def list_bans(
    chat: Chat, user_id: str, room_id: str, *, after: str, limit: int, offset: int
) -> tuple[list[Ban], bool]:
    """Who is kept out of a room, and whether there are more."""
    await governed_room(chat, user_id, room_id, "ban")
    rows = await chat.moderation.bans(room_id, after=after, limit=limit + 1, offset=offset)
    bans = [
        Ban(
            user_id=row.user_id,
            username=row.username,
            banned_at=format_time(row.banned_at),
            banned_by=row.banned_by,
            reason=row.reason,
        )
        for row in rows[:limit]
    ]
    return bans, len(rows) > limit


async def heed_here(chat: Chat, notice: Notice) -> None:
    """Have this node act on what was stored before it is answered; every node is told by its event anyway."""
    room_id = notice.room_id or ""
    if chat.hub.room(room_id) is not None:
        # It holds, also where what this node has not heard yet cannot be read now.
        with suppress(Refusal):
            await chat.hub.reach({room_id: notice.seq})
    chat.sessions.heed(notice)
