"""One's own profile: what may stand in it, and that a new name shows at once where the user is talking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

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
