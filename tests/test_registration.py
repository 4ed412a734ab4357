"""Making an account over HTTP: what is wrong is named at once, what is in use is a conflict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.daemon import ON_BOTH_BACK_ENDS, Daemon, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = ON_BOTH_BACK_ENDS


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def test_registration_gives_the_user_and_both_tokens(daemon: Daemon) -> None:
    body = {"email": "Ada@Example.ORG", "username": "Ada_1", "password": "correct horse"}
    answer = await daemon.http("POST", "/api/auth/register", body)
    assert answer.status == 201
    granted = answer.json()
    assert granted["user"].keys() == {"id", "username", "email", "createdAt"}
    assert (granted["user"]["email"], granted["user"]["username"]) == ("ada@example.org", "Ada_1")
    assert granted["expiresIn"] == 900
    assert answer.headers["cache-control"] == "no-store"
    assert (await daemon.http("GET", "/api/users/me", token=granted["token"])).status == 200


async def test_registration_names_every_faulty_field_at_once(daemon: Daemon) -> None:
    for body in ({"email": "nonsense", "username": "a!", "password": "short"}, {}):
        answer = await daemon.http("POST", "/api/auth/register", body)
        assert answer.status == 422
        assert answer.json()["code"] == "bad_message"
        assert answer.json()["fields"].keys() == {"email", "username", "password"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "a@"),
        ("email", "a@localhost"),
        ("email", "a b@example.org"),
        ("email", f"{'a' * 400}@example.org"),
        ("username", "ab"),
        ("username", "a" * 51),
        ("username", "with space"),
        ("username", "ada\n"),
        ("username", "ада́"),
        ("password", "seven77"),
        ("password", "ä" * 37),
        ("password", "nul\x00in the middle"),
    ],
)
async def test_registration_refuses_a_field_and_stores_nothing(daemon: Daemon, field: str, value: str) -> None:
    body = {"email": "ada@example.org", "username": "ada", "password": "correct horse"}
    answer = await daemon.http("POST", "/api/auth/register", body | {field: value})
    assert answer.status == 422
    assert answer.json()["fields"].keys() == {field}
    assert (await daemon.http("POST", "/api/auth/register", body)).status == 201


@pytest.mark.parametrize("username", ["abc", "a" * 50, "Žofie_9", "小明です"])
async def test_names_of_all_scripts_are_welcome(daemon: Daemon, username: str) -> None:
    body = {"email": "someone@example.org", "username": username, "password": "ä" * 36}
    assert (await daemon.http("POST", "/api/auth/register", body)).json()["user"]["username"] == username


async def test_names_that_differ_in_case_only_are_the_same(daemon: Daemon) -> None:
    await daemon.register("Straße")
    body = {"email": "other@example.org", "username": "STRASSE", "password": "correct horse"}
    answer = await daemon.http("POST", "/api/auth/register", body)
    assert (answer.status, answer.json()["code"]) == (409, "conflict")
    assert answer.json()["fields"].keys() == {"username"}


async def test_email_in_use_is_a_conflict_whatever_its_case(daemon: Daemon) -> None:
    await daemon.register("ada")
    body = {"email": "ADA@example.org", "username": "other", "password": "correct horse"}
    answer = await daemon.http("POST", "/api/auth/register", body)
    assert (answer.status, answer.json()["fields"].keys()) == (409, {"email"})
    answer = await daemon.http("POST", "/api/auth/register", body | {"username": "ADA"})
    assert (answer.status, answer.json()["fields"].keys()) == (409, {"email", "username"})


async def test_of_many_who_want_a_name_at_once_one_gets_it(daemon: Daemon) -> None:
    statuses: list[int] = []

    async def register(number: int) -> None:
        body = {"email": f"ada{number}@example.org", "username": "ada", "password": "correct horse"}
        statuses.append((await daemon.http("POST", "/api/auth/register", body)).status)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(register, number)
    assert sorted(statuses) == [201] + [409] * 7


async def test_registration_can_be_switched_off(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SERVER_FEATURES_REGISTRATION="false") as daemon:
        body = {"email": "ada@example.org", "username": "ada", "password": "correct horse"}
        answer = await daemon.http("POST", "/api/auth/register", body)
        assert (answer.status, answer.json()["code"]) == (501, "feature_disabled")
