"""Profiles: what may stand in one's own, who sees what of it, and that a change shows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from chatd.ids import new_id
from tests.daemon import ON_BOTH_BACK_ENDS, Answer, Daemon, SignedIn, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def change(daemon: Daemon, user: SignedIn, **fields: Any) -> Answer:
    return await daemon.http("PATCH", "/api/users/me", fields, token=user.token)


async def test_profile_is_shown_to_its_owner_with_the_email(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    profile = (await daemon.http("GET", "/api/users/me", token=ada.token)).json()
    assert (profile["id"], profile["username"], profile["email"]) == (ada.id, "ada", "ada@example.org")
    assert "passwordHash" not in profile


async def test_change_is_answered_and_stays(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    answer = await change(daemon, ada, username="countess", displayName="Ada L.", statusMessage="at tea ☕")
    assert answer.status == 200
    assert (answer.json()["username"], answer.json()["displayName"]) == ("countess", "Ada L.")
    assert answer.json() == (await daemon.http("GET", "/api/users/me", token=ada.token)).json()


async def test_what_is_not_given_stays_and_an_empty_text_removes(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    await change(daemon, ada, displayName="Ada L.", statusMessage="at tea")
    profile = (await change(daemon, ada, statusMessage="")).json()
    assert profile["displayName"] == "Ada L."
    assert "statusMessage" not in profile
    assert (await change(daemon, ada)).json() == profile


async def test_every_faulty_field_is_named_at_once(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    answer = await change(daemon, ada, username="", displayName="x" * 101, statusMessage="two\nlines", password="short")
    assert answer.status == 422
    assert answer.json()["fields"].keys() == {"username", "displayName", "statusMessage", "password"}


async def test_fields_that_are_nobodys_to_change_are_refused(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    for name in ("id", "email", "createdAt", "role"):
        answer = await change(daemon, ada, **{name: "x"})
        assert (answer.status, f"`{name}`" in answer.json()["detail"]) == (422, True)


async def test_name_of_another_is_a_conflict_and_changes_nothing(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    await daemon.register("Bob")
    answer = await change(
        daemon, ada, username="BOB", statusMessage="new", password="new horse 1", oldPassword="correct horse"
    )
    assert (answer.status, answer.json()["fields"].keys()) == (409, {"username"})
    assert "statusMessage" not in (await daemon.http("GET", "/api/users/me", token=ada.token)).json()
    body = {"email": "ada@example.org", "password": "correct horse"}
    assert (await daemon.http("POST", "/api/auth/login", body)).status == 200


async def test_profile_and_password_change_together_or_not_at_all(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    answer = await change(
        daemon, ada, displayName="Ada L.", username="countess", password="new horse 1", oldPassword="correct horse"
    )
    assert (answer.status, answer.json()["username"], answer.json()["displayName"]) == (200, "countess", "Ada L.")
    for password, status in (("correct horse", 401), ("new horse 1", 200)):
        body = {"email": "ada@example.org", "password": password}
        assert (await daemon.http("POST", "/api/auth/login", body)).status == status


async def test_name_can_be_changed_so_often_in_an_hour(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_RENAMES_PER_HOUR="2") as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        assert [(await change(daemon, ada, username=f"ada{number}")).status for number in range(2)] == [200, 200]
        refused = await change(daemon, ada, username="ada2", statusMessage="new")
        assert (refused.status, refused.json()["code"]) == (429, "rate_limited")
        assert 0 < refused.json()["retryAfterMs"] <= 1_800_000
        # what does not change the name goes on, and so do others
        profile = (await change(daemon, ada, username="ada1", displayName="Ada L.")).json()
        assert (profile["username"], profile["displayName"], "statusMessage" in profile) == ("ada1", "Ada L.", False)
        assert (await change(daemon, bob, username="bob2")).status == 200


async def test_own_name_can_change_its_case(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    assert (await change(daemon, ada, username="Ada")).json()["username"] == "Ada"


async def test_name_that_was_given_up_is_free(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    await change(daemon, ada, username="countess")
    body = {"email": "other@example.org", "username": "ada", "password": "correct horse"}
    assert (await daemon.http("POST", "/api/auth/register", body)).status == 201


async def test_new_name_shows_at_once_in_messages_of_live_connections(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    lobby = await daemon.lobby(ada)
    async with daemon.connect(ada) as ada_client, daemon.connect(bob) as bob_client:
        await ada_client.ask(type="join_room", roomId=lobby)
        await bob_client.ask(type="join_room", roomId=lobby)
        await change(daemon, ada, username="countess")
        await ada_client.ask(type="send_message", roomId=lobby, content="hello")
        assert (await bob_client.wait_for("new_message"))["message"]["senderName"] == "countess"
        await daemon.http("POST", f"/api/rooms/{lobby}/messages", {"content": "hi"}, token=ada.token)
        assert (await bob_client.wait_for("new_message"))["message"]["senderName"] == "countess"


async def test_new_name_shows_in_the_history_of_a_room_that_is_active(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    lobby = await daemon.lobby(ada)
    async with daemon.connect(ada) as client, daemon.connect(bob) as reader:
        await client.ask(type="join_room", roomId=lobby)
        for content in ("one", "two", "three"):
            await client.ask(type="send_message", roomId=lobby, content=content)
        await change(daemon, ada, username="countess")
        # so short a page comes from the memory of the room, where the messages are as they were sent
        joined = await reader.ask(type="join_room", roomId=lobby, limit=2)
        assert [message["senderName"] for message in joined["messages"]] == ["countess"] * 2
        stored = await daemon.http("GET", f"/api/rooms/{lobby}/messages?limit=2", token=bob.token)
        assert joined["messages"] == stored.json()["messages"]


# Others


async def profiles(daemon: Daemon, user: SignedIn, *ids: str) -> list[dict[str, Any]]:
    answer = await daemon.http("GET", f"/api/users?ids={','.join(ids)}", token=user.token)
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()["users"]
    return found


async def test_profiles_of_others_are_read_many_at_once_in_the_order_asked_for(daemon: Daemon) -> None:
    ada, bob, cy = [await daemon.register(name) for name in ("ada", "bob", "cyd")]
    await change(daemon, bob, displayName="Bob B.")
    found = await profiles(daemon, ada, cy.id, new_id(), bob.id, cy.id, "nonsense")
    assert [user["username"] for user in found] == ["cyd", "bob"]
    assert found[1] == {
        "id": bob.id, "username": "bob", "displayName": "Bob B.", "createdAt": found[1]["createdAt"]
    }  # fmt: skip
    assert (await daemon.http("GET", f"/api/users/{bob.id}", token=ada.token)).json() == found[1]


async def test_no_email_and_no_secret_of_another_is_shown(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    await daemon.create_room(ada, members=[bob.id])
    for path in (f"/api/users/{bob.id}", f"/api/users?ids={bob.id},{ada.id}"):
        body = (await daemon.http("GET", path, token=ada.token)).body
        assert b"example.org" not in body
        assert b"assword" not in body


async def test_what_one_says_of_oneself_is_for_those_who_share_a_room(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    await change(daemon, bob, statusMessage="at tea")

    async def seen() -> tuple[str | None, str | None, bool]:
        [user] = await profiles(daemon, ada, bob.id)
        return user.get("status"), user.get("statusMessage"), "lastSeen" in user

    async with daemon.connect(bob):
        assert await seen() == (None, None, False)
        room = await daemon.create_room(ada, members=[bob.id], kind="private")
        assert await seen() == ("online", "at tea", False)
        for one, other in ((ada, bob), (bob, ada)):
            daemon.rows(
                f"INSERT INTO user_blocks (user_id, blocked_id, blocked_at) VALUES ('{one.id}', '{other.id}', 1)"
            )
            assert await seen() == (None, None, False)
            daemon.rows("DELETE FROM user_blocks")
        daemon.rows(f"UPDATE rooms SET deleted_at = 1 WHERE id = '{room}'")
        assert await seen() == (None, None, False)


async def test_who_asks_for_no_profile_or_too_many_is_told_so(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    for query in ("", "?ids=", "?ids=,,", "?ids=" + ",".join(new_id() for _ in range(101))):
        answer = await daemon.http("GET", f"/api/users{query}", token=ada.token)
        assert (answer.status, answer.json()["code"]) == (422, "bad_message")
    assert await profiles(daemon, ada, *[new_id() for _ in range(100)]) == []
    for nobody in (new_id(), "x" * 300):
        assert (await daemon.http("GET", f"/api/users/{nobody}", token=ada.token)).json()["code"] == "not_found"
    for path in ("/api/users?ids=x", f"/api/users/{ada.id}"):
        assert (await daemon.http("GET", path)).status == 401


async def test_changed_status_message_is_told_at_once_to_those_who_share_a_room(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    await daemon.create_room(ada, members=[bob.id])
    async with daemon.connect(ada), daemon.connect(bob) as client:
        await change(daemon, ada, statusMessage="at tea")
        while (told := await client.heard("user_status")).get("statusMessage") != "at tea":
            pass
        assert (told["userId"], told["username"]) == (ada.id, "ada")


async def test_new_password_asks_for_the_old_one_and_ends_other_sessions(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    body = {"email": "ada@example.org", "password": "correct horse"}
    other = (await daemon.http("POST", "/api/auth/login", body)).json()["token"]
    for old in ({}, {"oldPassword": "wrong"}):
        assert (await change(daemon, ada, password="new horse 1", **old)).json()["code"] == "forbidden"
    assert (await change(daemon, ada, password="new horse 1", oldPassword="correct horse")).status == 200
    assert (await daemon.http("GET", "/api/users/me", token=ada.token)).status == 200
    assert (await daemon.http("GET", "/api/users/me", token=other)).status == 401
