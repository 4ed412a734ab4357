"""Signing in and out, refreshing, and what a session's end means for what is open: through real doors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bcrypt
import pytest
import trio

from chatd.clock import wall_clock_ms
from chatd.config import Secret
from chatd.identity.tokens import Tokens
from tests.daemon import ON_BOTH_BACK_ENDS, ON_EMBEDDED, Answer, Client, Daemon, SignedIn, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS

SECRET, OTHER_SECRET = "s" * 48, "o" * 48


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path, AUTH_SECRET=SECRET) as daemon:
        yield daemon


async def login(daemon: Daemon, email: str, password: str = "correct horse") -> Answer:
    return await daemon.http("POST", "/api/auth/login", {"email": email, "password": password})


async def sign_in(daemon: Daemon, user: SignedIn) -> SignedIn:
    """Another device of a user: a session of its own."""
    granted = (await login(daemon, f"{user.username}@example.org")).json()
    return SignedIn(user.id, user.username, granted["token"], granted["refreshToken"])


async def refresh(daemon: Daemon, refresh_token: str) -> Answer:
    return await daemon.http("POST", "/api/auth/refresh", {"refreshToken": refresh_token})


async def status_of(daemon: Daemon, token: str) -> int:
    """What a token is answered with over HTTP."""
    return (await daemon.http("GET", "/api/users/me", token=token)).status


async def refused(client: Client, token: str) -> tuple[str, int]:
    """The code and the close code with which a WebSocket refuses a token."""
    await client.send(type="authenticate", token=token)
    answer = await client.wait_for("auth_error")
    code, _ = await client.wait_closed()
    return answer["code"], code


# Signing in


async def test_login_gives_a_session_of_its_own(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    answer = await login(daemon, "ADA@example.org")
    assert (answer.status, answer.json()["user"]["id"]) == (200, ada.id)
    assert answer.json()["refreshToken"] != ada.refresh_token
    assert answer.headers["cache-control"] == "no-store"


async def test_unknown_email_and_wrong_password_get_the_same_answer(daemon: Daemon) -> None:
    await daemon.register("ada")
    wrong = await login(daemon, "ada@example.org", "wrong horse")
    for unknown in (await login(daemon, "bob@example.org"), await login(daemon, "no address at all")):
        assert (unknown.status, unknown.body) == (wrong.status, wrong.body)
        assert unknown.headers.keys() == wrong.headers.keys()
    assert wrong.status == 401
    assert wrong.headers["www-authenticate"].startswith("Bearer")


async def test_unknown_email_and_wrong_password_cost_the_same_work(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    await daemon.register("ada")
    costs = []
    real = bcrypt.checkpw

    def checkpw(password: bytes, stored: bytes) -> bool:
        costs.append(stored.split(b"$")[2])
        return real(password, stored)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    for email in ("ada@example.org", "bob@example.org", "no address at all"):
        await login(daemon, email, "wrong horse")
    assert costs == [b"04"] * 3


async def test_disabled_account_is_told_so_only_with_the_right_password(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    daemon.rows("UPDATE users SET disabled_at = 1")
    assert (await login(daemon, "ada@example.org", "wrong horse")).status == 401
    answer = await login(daemon, "ada@example.org")
    assert (answer.status, answer.json()["code"]) == (403, "forbidden")
    assert (await refresh(daemon, ada.refresh_token)).status == 403
    assert await status_of(daemon, ada.token) == 403
    async with daemon.connect() as client:
        assert await refused(client, ada.token) == ("forbidden", 4504)


async def test_eleventh_sign_in_of_an_address_is_too_many(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=True) as daemon:
        await daemon.register("ada")
        for attempt in range(9):
            assert (await login(daemon, "ada@example.org", f"wrong horse {attempt}")).status == 401
        answer = await login(daemon, "ada@example.org")
        assert answer.status == 429
        assert answer.json()["detail"] == "Too many login attempts, please try again later."
        assert 0 < answer.json()["retryAfterMs"] <= 360_000
        assert int(answer.headers["retry-after"]) == -(-answer.json()["retryAfterMs"] // 1000)


# Refreshing


async def test_refresh_gives_a_new_pair_and_each_token_works_once(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    first = await refresh(daemon, ada.refresh_token)
    assert first.status == 200
    assert await status_of(daemon, first.json()["token"]) == 200
    assert first.json()["refreshToken"] != ada.refresh_token
    assert (await refresh(daemon, first.json()["refreshToken"])).status == 200


async def test_refresh_token_used_twice_ends_the_whole_session_and_its_connections(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    elsewhere = await sign_in(daemon, ada)
    newer = (await refresh(daemon, ada.refresh_token)).json()
    async with daemon.connect(ada) as client, daemon.connect(elsewhere) as other:
        assert (await refresh(daemon, ada.refresh_token)).status == 401
        assert (await client.wait_closed())[0] == 4506
        assert await status_of(daemon, newer["token"]) == 401
        assert (await refresh(daemon, newer["refreshToken"])).status == 401
        # a session of another sign-in has nothing to do with it
        assert (await other.ask(type="ping"))["type"] == "pong"
        assert await status_of(daemon, elsewhere.token) == 200


async def test_of_two_who_refresh_at_once_one_is_the_thief(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    statuses: list[int] = []

    async def use() -> None:
        statuses.append((await refresh(daemon, ada.refresh_token)).status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        nursery.start_soon(use)
    assert sorted(statuses) == [200, 401]
    assert await status_of(daemon, ada.token) == 401


async def test_expired_and_unknown_refresh_tokens_are_refused_alike(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    daemon.rows("UPDATE user_sessions SET expires_at = 1")
    expired = await refresh(daemon, ada.refresh_token)
    assert expired.status == 401
    assert expired.body == (await refresh(daemon, "made up")).body


@ON_EMBEDDED
async def test_refresh_tokens_and_passwords_are_not_in_the_database(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    stored = b"".join(path.read_bytes() for path in daemon.data_dir.glob("chatd.db*"))
    assert b"ada@example.org" in stored
    assert ada.refresh_token.encode() not in stored
    assert b"correct horse" not in stored


# Signing out


async def test_logout_ends_this_session_and_no_other(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    elsewhere = await sign_in(daemon, ada)
    async with daemon.connect(ada) as client, daemon.connect(elsewhere) as other:
        assert (await daemon.http("POST", "/api/auth/logout", token=ada.token)).status == 200
        assert (await client.wait_closed())[0] == 4506
        assert (await other.ask(type="ping"))["type"] == "pong"
    assert await status_of(daemon, ada.token) == 401
    assert await status_of(daemon, elsewhere.token) == 200
    assert (await refresh(daemon, ada.refresh_token)).status == 401
    assert (await refresh(daemon, elsewhere.refresh_token)).status == 200


async def test_logout_of_all_closes_every_device_of_the_user_and_of_nobody_else(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    elsewhere = await sign_in(daemon, ada)
    async with daemon.connect(ada) as one, daemon.connect(elsewhere) as two, daemon.connect(bob) as bystander:
        assert (await daemon.http("POST", "/api/auth/logout?all=true", token=ada.token)).status == 200
        assert (await one.wait_closed())[0] == 4506
        assert (await two.wait_closed())[0] == 4506
        assert (await bystander.ask(type="ping"))["type"] == "pong"
    assert await status_of(daemon, elsewhere.token) == 401
    assert await status_of(daemon, bob.token) == 200


async def test_token_of_a_revoked_session_opens_no_connection(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    await daemon.http("POST", "/api/auth/logout", token=ada.token)
    async with daemon.connect() as client:
        assert await refused(client, ada.token) == ("unauthenticated", 4501)


# Changing the password


async def test_new_password_asks_for_the_old_one(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    for change in ({"password": "new horse 1"}, {"password": "new horse 1", "oldPassword": "wrong horse"}):
        answer = await daemon.http("PATCH", "/api/users/me", change, token=ada.token)
        assert (answer.status, answer.json()["fields"].keys()) == (403, {"oldPassword"})
    assert (await login(daemon, "ada@example.org")).status == 200


async def test_new_password_ends_every_other_session(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    elsewhere = await sign_in(daemon, ada)
    async with daemon.connect(ada) as client, daemon.connect(elsewhere) as other:
        change = {"password": "new horse 1", "oldPassword": "correct horse"}
        assert (await daemon.http("PATCH", "/api/users/me", change, token=ada.token)).status == 200
        assert (await other.wait_closed())[0] == 4506
        assert (await client.ask(type="ping"))["type"] == "pong"
    assert await status_of(daemon, ada.token) == 200
    assert await status_of(daemon, elsewhere.token) == 401
    assert (await login(daemon, "ada@example.org")).status == 401
    assert (await login(daemon, "ada@example.org", "new horse 1")).status == 200


async def test_new_password_keeps_the_rules_of_passwords(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    change = {"password": "short", "oldPassword": "correct horse"}
    answer = await daemon.http("PATCH", "/api/users/me", change, token=ada.token)
    assert (answer.status, answer.json()["fields"].keys()) == (422, {"password"})


async def test_change_with_one_faulty_field_changes_nothing(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    change = {"password": "new horse 1", "oldPassword": "correct horse", "username": "!"}
    assert (await daemon.http("PATCH", "/api/users/me", change, token=ada.token)).status == 422
    assert (await login(daemon, "ada@example.org")).status == 200


# Access tokens


async def test_expired_token_is_told_apart(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    session_id = daemon.rows("SELECT id FROM user_sessions")[0][0]
    old = Tokens(Secret(SECRET), Secret(), access_s=60).issue(ada.id, session_id, wall_clock_ms() - 61_000)
    answer = await daemon.http("GET", "/api/users/me", token=old)
    assert (answer.status, answer.json()["code"]) == (401, "token_expired")
    async with daemon.connect() as client:
        assert await refused(client, old) == ("token_expired", 4501)


async def test_connection_ends_with_its_token_unless_a_fresh_one_came_meanwhile(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    session_id = daemon.rows("SELECT id FROM user_sessions")[0][0]
    brief = Tokens(Secret(SECRET), Secret(), access_s=1).issue(ada.id, session_id, wall_clock_ms() + 999)
    passing = SignedIn(ada.id, ada.username, brief, "")
    async with daemon.connect(passing) as client, daemon.connect(passing) as extended:
        again = await extended.ask(type="authenticate", token=ada.token)
        assert again["type"] == "authenticated"
        assert again["expiresAt"] > extended.inbox[0]["expiresAt"]
        assert (await client.wait_closed())[0] == 4001
        assert (await extended.ask(type="ping"))["type"] == "pong"


async def test_token_of_another_user_does_not_take_a_connection_over(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    async with daemon.connect(ada) as client:
        assert await refused(client, bob.token) == ("unauthenticated", 4501)


async def test_token_names_a_session_of_the_same_user(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    [[session_of_bob]] = daemon.rows(f"SELECT id FROM user_sessions WHERE user_id = '{bob.id}'")
    mixed = Tokens(Secret(SECRET), Secret(), access_s=60).issue(ada.id, session_of_bob, wall_clock_ms())
    assert await status_of(daemon, mixed) == 401
    async with daemon.connect() as client:
        assert await refused(client, mixed) == ("unauthenticated", 4501)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YWRhOng=", "Bearer a.b.c"])
async def test_call_without_a_good_token_is_told_where_to_get_one(daemon: Daemon, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = await daemon.http("GET", "/api/users/me", headers=headers)
    assert (answer.status, answer.json()["code"]) == (401, "unauthenticated")
    assert "/api/auth/login" in answer.json()["detail"]
    assert "www-authenticate" in answer.headers


async def test_secret_can_be_rotated_without_signing_anybody_out(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, AUTH_SECRET=SECRET) as daemon:
        ada = await daemon.register("ada")
    async with open_daemon(tmp_path, AUTH_SECRET=OTHER_SECRET, AUTH_PREVIOUS_SECRET=SECRET) as daemon:
        assert await status_of(daemon, ada.token) == 200
        async with daemon.connect(ada) as client:
            assert client.inbox[0]["username"] == "ada"
        newer = (await refresh(daemon, ada.refresh_token)).json()
    async with open_daemon(tmp_path, AUTH_SECRET=OTHER_SECRET) as daemon:
        assert await status_of(daemon, newer["token"]) == 200
        assert await status_of(daemon, ada.token) == 401
