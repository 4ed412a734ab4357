"""What a node's sessions make of new roles and of rooms that are deleted, in whatever order they are told.

Behind the scripted bus, under the mock clock, as test_sessions.py does for joining and leaving.
"""

from __future__ import annotations

import pytest
import trio
import trio.testing

from chatd.bus.port import Event, Notice
from chatd.chat.sessions import notice_of
from chatd.protocol import MemberUpdated, encode
from tests.scripted import Device, Node, open_node

USER = "ada"


@pytest.fixture
def autojump(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


def new_role(seq: int, role: str) -> Notice:
    return Notice("member_updated", USER, "room", seq, role=role)


async def member_of_room(node: Node) -> Device:
    """A device of a user who has been in the room from the start."""
    node.history.first_members.add(("room", USER))
    return await node.arrive(USER)


async def test_newest_role_counts_in_whatever_order_they_are_told(autojump: object) -> None:
    async with open_node("room") as node:
        session = (await member_of_room(node)).session
        for seq, role, known in ((3, "moderator", "moderator"), (5, "readonly", "readonly"), (4, "owner", "readonly")):
            node.bus.hear(new_role(seq, role))
            assert session.role_in("room") == known


async def test_role_is_known_to_a_session_that_hears_nothing_of_the_room_yet(autojump: object) -> None:
    async with open_node("room") as node:
        session = (await member_of_room(node)).session
        node.hub.pause(session, "room")
        node.bus.hear(new_role(1, "readonly"))
        assert session.role_in("room") == "readonly"


async def test_event_alone_tells_the_role(autojump: object) -> None:
    async with open_node("room") as node:
        session = (await member_of_room(node)).session
        update = MemberUpdated(room_id="room", seq=1, user_id=USER, role="readonly")
        node.history.append_nowait("room", "member_updated")
        # As it comes from the store, which does not say whom it is about.
        node.bus.hear(Event("room", 1, "member_updated", encode(update)))
        assert session.role_in("room") == "readonly"


async def test_role_of_somebody_who_is_no_member_changes_nothing(autojump: object) -> None:
    async with open_node("room") as node:
        session = (await node.arrive(USER)).session
        node.bus.hear(new_role(1, "owner"))
        assert session.role_in("room") is None


async def test_role_that_changes_while_a_session_joins_is_looked_up(autojump: object) -> None:
    async with open_node("room") as node:
        session = (await member_of_room(node)).session
        session.rooms.clear()
        session.joining["room"] = 0
        node.bus.hear(new_role(2, "member"))
        del session.joining["room"]
        session.enter("room", "owner", 1)
        await trio.sleep(1)
        assert session.role_in("room") == "member"


async def test_role_of_a_later_stay_is_looked_up(autojump: object) -> None:
    async with open_node("room") as node:
        session = (await member_of_room(node)).session
        session.enter("room", "owner", 0)
        node.hub.pause(session, "room")
        node.history.append_nowait("room", "user_left", USER)
        joined = node.history.append_nowait("room", "user_joined", USER)
        node.bus.hear(Notice("member_joined", USER, "room", joined.seq))
        await trio.sleep(1)
        assert session.role_in("room") == "member"


@pytest.mark.parametrize("first", ["notice", "event"])
async def test_deleted_room_is_heard_up_to_its_last_event_and_not_served_from_the_notice_on(
    autojump: object, first: str
) -> None:
    async with open_node("room", "other") as node:
        devices = [await member_of_room(node) for _ in range(2)]
        events = [node.commit("room"), node.commit("room", "room_deleted")]
        node.bus.channels.clear()
        notice = Notice("room_deleted", "", "room", 2)
        if first == "notice":
            node.bus.hear(notice)
            assert [device.session.role_in("room") for device in devices] == [None, None]
        for event in events:
            node.bus.hear(event)
        node.bus.hear(notice)
        for device in devices:
            assert device.seqs("room") == [1, 2]
            assert device.session.role_in("room") is None
            assert not node.hub.is_heard_by(device.session, "room")


async def test_deleted_room_is_nothing_to_those_who_have_nothing_to_do_with_it(autojump: object) -> None:
    async with open_node("room", "other") as node:
        member, stranger = (await member_of_room(node)).session, (await node.arrive("eve")).session
        counts = member.changes, stranger.changes
        node.bus.hear(Notice("room_deleted", "", "room", 1))
        assert member.changes > counts[0]
        assert stranger.changes == counts[1]
        # Of one that is being asked for its rooms nobody knows yet.
        stranger.is_settling = True
        node.bus.hear(Notice("room_deleted", "", "room", 1))
        assert stranger.changes > counts[1]


async def test_lost_deletion_is_found_in_the_store(autojump: object) -> None:
    async with open_node("room") as node:
        device = await member_of_room(node)
        node.commit("room", "room_deleted")
        node.bus.channels.clear()
        await trio.sleep(20)
        assert device.seqs("room") == [1]
        assert device.session.role_in("room") is None


def test_every_node_is_told_of_roles_and_not_of_muting() -> None:
    def event(update: MemberUpdated) -> Event:
        return Event("room", update.seq, "member_updated", encode(update), USER)

    told = notice_of(event(MemberUpdated(room_id="room", seq=4, user_id=USER, role="owner")))
    assert told == new_role(4, "owner")
    assert notice_of(event(MemberUpdated(room_id="room", seq=4, user_id=USER, muted_until=None))) is None
    assert notice_of(Event("room", 4, "new_message", b"{}", USER)) is None
    assert notice_of(Event("room", 4, "room_deleted", b"{}")) == Notice("room_deleted", "", "room", 4)
