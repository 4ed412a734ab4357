"""Reactions: put and taken back through the real door, counted, bounded, shown everywhere alike."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatd.protocol import ReactionAdded, ReactionRemoved
from chatd.records import decode_reactions
from chatd.store import changes
from chatd.store.acts import Act
from chatd.store.changes import SHOWN_USERS
from chatd.store.queries import Query
from tests.counting import count_queries
from tests.daemon import ON_BOTH_BACK_ENDS, open_daemon
from tests.stores import KINDS, open_store, post
from tests.test_changes import daemon as daemon
from tests.test_changes import everywhere, is_ok, open_room, refusal, say, shown
from tests.test_cluster import hear, open_nodes

if TYPE_CHECKING:
    from pathlib import Path

    from chatd.store.acts import Decide, Scene
    from tests.daemon import Client, Daemon

THUMB, HEART = "👍", "❤️"


async def react(client: Client, message_id: str, emoji: str = THUMB, *, kind: str = "add_reaction") -> bool:
    return await is_ok(client, type=kind, messageId=message_id, emoji=emoji)


@ON_BOTH_BACK_ENDS
async def test_a_reaction_is_told_with_its_count_and_shown_from_then_on(daemon: Daemon) -> None:
    room_id, ada, [bob] = await open_room(daemon, "bob")
    async with daemon.connect(ada) as one, daemon.connect(bob) as two:
        message_id = await say(one, room_id)
        await react(two, message_id)
        await react(one, message_id)
        await react(one, message_id, HEART)
        told = [await hear(one, "reaction_added") for _ in range(3)]
        assert told[0] == {
            "type": "reaction_added", "roomId": room_id, "seq": 2, "messageId": message_id, "userId": bob.id,
            "emoji": THUMB, "count": 1,
        }  # fmt: skip
        assert [(event["userId"], event["emoji"], event["count"]) for event in told[1:]] == [
            (ada.id, THUMB, 2), (ada.id, HEART, 1),
        ]  # fmt: skip
        [message] = await everywhere(daemon, ada, room_id)
        assert message["reactions"] == [
            {"emoji": THUMB, "count": 2, "userIds": [bob.id, ada.id]},
            {"emoji": HEART, "count": 1, "userIds": [ada.id]},
        ]  # fmt: skip
        await react(two, message_id, kind="remove_reaction")
        assert await hear(one, "reaction_removed") == told[0] | {"type": "reaction_removed", "seq": 5}
        await react(one, message_id, kind="remove_reaction")
        assert (await hear(one, "reaction_removed"))["count"] == 0
        [message] = await everywhere(daemon, ada, room_id)
        assert message["reactions"] == [{"emoji": HEART, "count": 1, "userIds": [ada.id]}]
        await react(one, message_id, HEART, kind="remove_reaction")
        [message] = await everywhere(daemon, ada, room_id)
        assert "reactions" not in message


@ON_BOTH_BACK_ENDS
async def test_doing_it_twice_is_ok_and_told_once(daemon: Daemon) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        message_id = await say(client, room_id)
        for kind in ("remove_reaction", "add_reaction", "add_reaction", "remove_reaction", "remove_reaction"):
            await react(client, message_id, kind=kind)
        assert (await client.ask(type="send_message", roomId=room_id, content="next"))["seq"] == 4
        kinds = [message["type"] for message in client.inbox if "reaction" in message["type"]]
        assert kinds == ["reaction_added", "reaction_removed"]


@ON_BOTH_BACK_ENDS
async def test_an_edited_message_keeps_its_reactions_and_its_pin(daemon: Daemon) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        message_id = await say(client, room_id)
        await react(client, message_id)
        await is_ok(client, type="pin_message", messageId=message_id)
        await is_ok(client, type="edit_message", messageId=message_id, content="edited")
        edited = (await hear(client, "message_edited"))["message"]
        assert (edited["reactions"][0]["count"], edited["pinned"]) == (1, True)
        assert await everywhere(daemon, ada, room_id) == [edited]


@ON_BOTH_BACK_ENDS
@pytest.mark.parametrize(
    "emoji",
    [THUMB, HEART, "👨‍👩‍👧‍👦", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", ":tada:", "+1", "é", "x" * 32],
    ids=["thumb", "heart", "family", "flag", "word", "plus", "letter", "long"],
)
async def test_emoji_and_short_words_are_reactions(daemon: Daemon, emoji: str) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        await react(client, await say(client, room_id), emoji)
    assert (await shown(daemon, ada, room_id))[0]["reactions"][0]["emoji"] == emoji


@pytest.mark.parametrize(
    "emoji",
    ["", " ", "a b", "x" * 33, "\n", "\x00", "\x07", "\u202e", "\u200b", "\u200d", "<b>", "<script>alert(1)</script>"],
    ids=repr,
)
async def test_what_is_no_emoji_is_refused(daemon: Daemon, emoji: str) -> None:
    room_id, ada, _ = await open_room(daemon)
    async with daemon.connect(ada) as client:
        message_id = await say(client, room_id)
        request = {"type": "add_reaction", "messageId": message_id, "emoji": emoji}
        assert await refusal(client, **request) == "bad_message"


@pytest.mark.parametrize("action", ["mask", "refuse"])
async def test_the_word_filter_goes_over_reactions(tmp_path: Path, action: str) -> None:
    options = {"MESSAGES_WORD_FILTER": "darn", "MESSAGES_WORD_FILTER_ACTION": action}
    async with open_daemon(tmp_path, limits=False, **options) as daemon:
        room_id, ada, _ = await open_room(daemon)
        async with daemon.connect(ada) as client:
            message_id = await say(client, room_id)
            request = {"type": "add_reaction", "messageId": message_id, "emoji": "darn"}
            assert await refusal(client, **request) == "bad_message"


@ON_BOTH_BACK_ENDS
async def test_a_message_has_no_more_reactions_than_it_may(tmp_path: Path) -> None:
    options = {"LIMITS_REACTIONS_PER_MESSAGE": "2", "LIMITS_USERS_PER_REACTION": "1"}
    async with open_daemon(tmp_path, limits=False, **options) as daemon:
        room_id, ada, [bob] = await open_room(daemon, "bob")
        async with daemon.connect(ada) as one, daemon.connect(bob) as two:
            message_id = await say(one, room_id)
            await react(one, message_id, THUMB)
            await react(one, message_id, HEART)
            for client, emoji in ((one, "🎉"), (two, "🎉"), (two, THUMB)):
                request = {"type": "add_reaction", "messageId": message_id, "emoji": emoji}
                assert await refusal(client, **request) == "limit_reached"
            await react(one, message_id, THUMB, kind="remove_reaction")
            await react(two, message_id, "🎉")


@ON_BOTH_BACK_ENDS
async def test_who_may_only_read_may_not_react_but_take_back(daemon: Daemon) -> None:
    room_id, ada, [bob] = await open_room(daemon, "bob")
    member = f"WHERE room_id = '{room_id}' AND user_id = '{bob.id}'"
    async with daemon.connect(ada) as owner, daemon.connect(bob) as client:
        message_id = await say(owner, room_id)
        await react(client, message_id)
        request = {"type": "add_reaction", "messageId": message_id, "emoji": HEART}
        daemon.rows(f"UPDATE room_members SET muted_until = 9999999999999 {member}")
        assert await refusal(client, **request) == "muted"
        daemon.rows(f"UPDATE room_members SET muted_until = NULL, role = 'readonly' {member}")
        assert await refusal(client, **request) == "forbidden"
        await react(client, message_id, kind="remove_reaction")
        assert (await hear(owner, "reaction_removed"))["count"] == 0


@ON_BOTH_BACK_ENDS
async def test_the_first_twenty_are_shown_by_name_and_when_one_goes_the_next_one_is(tmp_path: Path) -> None:
    async with open_daemon(tmp_path) as daemon:
        room_id, ada, users = await open_room(daemon, *(f"user{number}" for number in range(SHOWN_USERS + 2)))
        async with daemon.connect(ada) as owner:
            message_id = await say(owner, room_id)
            for user in users:
                async with daemon.connect(user) as client:
                    await react(client, message_id)
            [reaction] = (await shown(daemon, ada, room_id))[0]["reactions"]
            assert reaction == {
                "emoji": THUMB, "count": SHOWN_USERS + 2, "userIds": [user.id for user in users[:SHOWN_USERS]],
            }  # fmt: skip
            async with daemon.connect(users[3]) as client:
                await react(client, message_id, kind="remove_reaction")
            [reaction] = (await shown(daemon, ada, room_id))[0]["reactions"]
            expected = [user.id for user in users if user is not users[3]][:SHOWN_USERS]
            assert (reaction["count"], reaction["userIds"]) == (SHOWN_USERS + 1, expected)


@pytest.mark.parametrize("back_ends", ["distributed"], indirect=True)
@ON_BOTH_BACK_ENDS
async def test_reactions_made_on_two_nodes_at_once_are_all_counted(tmp_path: Path) -> None:
    async with open_nodes(tmp_path, 2) as (one, other):
        room_id, ada, [bob] = await open_room(one, "bob")
        async with one.connect(ada) as first, other.connect(bob) as second:
            message_id = await say(first, room_id)
            emoji = [f":{number}:" for number in range(10)]
            for name in emoji:
                for client in (first, second):
                    await client.send(type="add_reaction", messageId=message_id, emoji=name)
            heard = [[await hear(client, "reaction_added") for _ in range(20)] for client in (first, second)]
            assert heard[0] == heard[1]
            assert Counter(event["count"] for event in heard[0]) == {1: 10, 2: 10}
        [message] = await shown(other, bob, room_id)
        assert {reaction["emoji"]: reaction["count"] for reaction in message["reactions"]} == dict.fromkeys(emoji, 2)


@ON_BOTH_BACK_ENDS
async def test_a_page_is_one_query_whatever_was_reacted_to_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    count_queries(monkeypatch, asked)
    async with open_daemon(tmp_path) as daemon:
        room_id, ada, _ = await open_room(daemon)
        async with daemon.connect(ada) as client:
            sent = [await say(client, room_id) for _ in range(5)]
            counts = []
            for message_id in (None, *sent):
                if message_id is not None:
                    await react(client, message_id)
                asked.clear()
                assert (await client.ask(type="get_history", roomId=room_id, beforeSeq=2**53))["messages"]
                # `messages.after` is the hub's, which asks now and then whether it has missed something.
                counts.append({name: n for name, n in asked.items() if re.match(r"messages\.(?!after)", name)})
            assert counts == [{"messages.before": 1}] * 6


# What is kept, by any run of putting and taking back

Step = tuple[bool, int, int]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 24)), max_size=120))
async def test_what_is_shown_is_what_was_put_and_not_taken_back(
    kind: str, steps: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As a client finds it that applies the events, in their order; of many the first twenty."""
    emojis = [THUMB, HEART, "🎉"]
    async with open_store(kind, tmp_path_factory.mktemp("store")) as store, store.open_journal() as written:
        users = [await store.add_user(f"user{number}") for number in range(25)]
        room_id = await store.add_room(*users)
        message_id = (await written.journal.write(post(users[0], room_id))).message_id
        for adds, which, who in steps:
            await written.journal.write(Act(room_id, _step(message_id, emojis[which], users[who].id, adds=adds)))
        expected: dict[str, list[str]] = {}
        for adds, which, who in steps:
            names = expected.setdefault(emojis[which], [])
            user_id = users[who].id
            if adds and user_id not in names:
                names.append(user_id)
            elif not adds and user_id in names:
                names.remove(user_id)
            if not names:
                del expected[emojis[which]]
        kept = Query("test.kept", "SELECT reactions FROM messages WHERE id = :id")
        row = await store.database.row(kept, {"id": message_id})
        assert row is not None
        found = [] if row[0] is None else decode_reactions(row[0])
        assert [(reaction.emoji, reaction.count, reaction.user_ids) for reaction in found] == [
            (emoji, len(names), names[:SHOWN_USERS]) for emoji, names in expected.items()
        ]


def _step(message_id: str, emoji: str, user_id: str, *, adds: bool) -> Decide:
    async def decide(scene: Scene) -> None:
        subject = await changes.read_subject(scene, message_id)
        assert subject is not None
        if await changes.has_reacted(scene, subject, emoji, user_id=user_id) == adds:
            return
        seq = scene.next_seq()
        fields: dict[str, Any] = {"room_id": scene.room_id, "seq": seq, "message_id": message_id}
        if adds:
            count = await changes.add_reaction(scene, subject, emoji, user_id=user_id, seq=seq)
            scene.add_event(ReactionAdded(**fields, user_id=user_id, emoji=emoji, count=count))
        else:
            count = await changes.remove_reaction(scene, subject, emoji, user_id=user_id)
            scene.add_event(ReactionRemoved(**fields, user_id=user_id, emoji=emoji, count=count))

    return decide
