"""Passwords: what fits, what does not, and that an unknown account costs as much as a known one."""

from __future__ import annotations

import bcrypt
import pytest
import trio

from chatd.identity.passwords import MAX_PASSWORD_BYTES, Passwords


@pytest.fixture(scope="module")
def passwords() -> Passwords:
    return Passwords(cost=4, workers=2)


async def test_password_fits_its_own_hash_only(passwords: Passwords) -> None:
    hashed = await passwords.hash("correct horse")
    assert await passwords.check("correct horse", hashed)
    assert not await passwords.check("correct horsE", hashed)
    assert not await passwords.check("", hashed)


async def test_same_password_has_another_hash_each_time(passwords: Passwords) -> None:
    assert await passwords.hash("correct horse") != await passwords.hash("correct horse")


async def test_hash_has_the_cost_that_was_asked_for() -> None:
    assert (await Passwords(cost=5, workers=1).hash("correct horse")).startswith("$2b$05$")


async def test_hash_of_another_cost_still_fits(passwords: Passwords) -> None:
    assert await passwords.check("correct horse", await Passwords(cost=5, workers=1).hash("correct horse"))


async def test_nothing_fits_an_account_that_does_not_exist(passwords: Passwords) -> None:
    for password in ("", "nobody's", "correct horse"):
        assert not await passwords.check(password, None)


@pytest.mark.parametrize("stored", ["", "plain text", "!", "correct horse"])
async def test_nothing_fits_what_is_no_hash(passwords: Passwords, stored: str) -> None:
    assert not await passwords.check("correct horse", stored)


async def test_unknown_account_is_checked_with_as_many_rounds_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(cost=4, workers=1)
    hashed = await passwords.hash("correct horse")
    costs = []
    real = bcrypt.checkpw

    def checkpw(password: bytes, stored: bytes) -> bool:
        costs.append(stored.split(b"$")[2])
        return real(password, stored)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    await passwords.check("wrong", hashed)
    await passwords.check("wrong", None)
    assert costs == [b"04", b"04"]


async def test_72_bytes_count_to_the_last_one(passwords: Passwords) -> None:
    longest = "ä" * (MAX_PASSWORD_BYTES // 2)
    hashed = await passwords.hash(longest)
    assert await passwords.check(longest, hashed)
    assert not await passwords.check(longest[:-1] + "a", hashed)


async def test_password_that_only_begins_right_does_not_fit(passwords: Passwords) -> None:
    hashed = await passwords.hash("a" * MAX_PASSWORD_BYTES)
    assert not await passwords.check("a" * (MAX_PASSWORD_BYTES + 1), hashed)


@pytest.mark.parametrize("password", ["with\x00nul", "\x00", "\ud800", "x" * 1_000_000], ids=["nul", "0", "half", "1M"])
async def test_strange_passwords_do_not_fit_and_break_nothing(passwords: Passwords, password: str) -> None:
    assert not await passwords.check(password, await passwords.hash("with"))


async def test_hashing_leaves_the_loop_free_and_takes_no_more_threads_than_given() -> None:
    passwords = Passwords(cost=8, workers=1)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        await passwords.hash("correct horse")
        nursery.cancel_scope.cancel()
    assert turns > 1
