"""What is kept of people and their sessions, call by call, on every kind of store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from chatd.store.accounts import Account, NewPassword, NewSession, Profile, Standing, Taken
from chatd.store.database import Conflict

if TYPE_CHECKING:
    from tests.stores import Store

DAY_MS = 86_400_000


def session(
    user: Account, name: str = "s1", refresh_hash: str = "hash1", *, expires_at: int = 10 * DAY_MS
) -> NewSession:
    return NewSession(name, user.id, refresh_hash, "127.0.0.1", "test", expires_at)


async def test_an_account_is_found_by_each_of_its_names(store: Store) -> None:
    ada = await store.add_user("Ada")
    assert await store.accounts.by_id(ada.id) == ada
    assert await store.accounts.by_email("Ada@example.org") == ada
    assert await store.accounts.by_username("ada") == ada
    assert await store.accounts.by_id("x") is None
    assert await store.accounts.by_email("x") is None
    assert await store.accounts.by_username("Ada") is None


@pytest.mark.parametrize("same", ["email", "username"])
async def test_an_email_or_a_name_in_use_is_a_conflict(store: Store, same: str) -> None:
    ada = await store.add_user("ada")
    other = replace(ada, id="2", email="other@example.org", username="other")
    twin = replace(other, **{same: getattr(ada, same)})
    with pytest.raises(Conflict):
        await store.accounts.add(twin, twin.username.casefold())
    await store.accounts.add(other, "other")


async def test_names_that_differ_in_case_only_are_the_same_name(store: Store) -> None:
    ada = await store.add_user("Ada")
    with pytest.raises(Conflict):
        await store.accounts.add(replace(ada, id="2", email="other@example.org", username="ADA"), "ada")


async def test_it_is_known_which_of_two_names_are_taken(store: Store) -> None:
    await store.add_user("ada")
    await store.add_user("bob")
    ada, free = "ada@example.org", "free@example.org"
    assert await store.accounts.taken(ada, "bob") == Taken(email=True, username=True)
    assert await store.accounts.taken(ada, "free") == Taken(email=True, username=False)
    assert await store.accounts.taken(free, "bob") == Taken(email=False, username=True)
    assert await store.accounts.taken(free, "free") == Taken(email=False, username=False)


async def test_a_page_goes_on_behind_a_name_whatever_its_case(store: Store) -> None:
    for name in ("cy", "Ada", "bob", "Zoe"):
        await store.add_user(name)
    first = await store.accounts.page(after="", limit=2)
    second = await store.accounts.page(after="bob", limit=9)
    assert [account.username for account in first] == ["Ada", "bob"]
    assert [account.username for account in second] == ["cy", "Zoe"]


async def test_a_profile_changes_in_all_its_fields_and_keeps_the_rest(store: Store) -> None:
    ada = await store.add_user("ada")
    changed = replace(ada, username="Countess", display_name="Ada L.", status_message="busy", password_hash="ignored")
    await store.accounts.change(ada.id, Profile.of(changed), None, now_ms=2000)
    assert await store.accounts.by_id(ada.id) == replace(changed, password_hash=ada.password_hash)
    assert await store.accounts.by_username("countess") is not None
    assert await store.accounts.by_username("ada") is None


async def test_a_profile_cannot_take_anothers_name(store: Store) -> None:
    ada, _ = await store.add_user("ada"), await store.add_user("bob")
    with pytest.raises(Conflict):
        await store.accounts.change(ada.id, Profile("Bob", "bob", None, None), None, now_ms=2000)
    assert await store.accounts.by_id(ada.id) == ada


async def test_a_profile_that_cannot_be_stored_leaves_password_and_sessions_as_they_are(store: Store) -> None:
    ada, _ = await store.add_user("ada"), await store.add_user("bob")
    await store.accounts.add_session(session(ada), 1000)
    with pytest.raises(Conflict):
        await store.accounts.change(ada.id, Profile("Bob", "bob", None, None), NewPassword("new hash"), now_ms=2000)
    assert await store.accounts.by_id(ada.id) == ada
    assert (await store.accounts.standings(["s1"]))["s1"].revoked_at is None


async def test_a_profile_and_a_password_are_stored_in_one_transaction(store: Store) -> None:
    ada = await store.add_user("ada")
    before = store.database.writes
    await store.accounts.change(ada.id, Profile("Countess", "countess", None, None), NewPassword("new"), now_ms=2000)
    assert store.database.writes == before + 1


async def test_a_new_password_ends_all_sessions_but_the_spared_one(store: Store) -> None:
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    await store.accounts.add_session(session(ada), 1000)
    await store.accounts.add_session(session(ada, "s2", "hash2"), 1000)
    await store.accounts.add_session(session(bob, "s3", "hash3"), 1000)
    await store.accounts.change(ada.id, None, NewPassword("new hash", "s2"), now_ms=2000)
    found = await store.accounts.by_id(ada.id)
    assert found is not None
    assert found.password_hash == "new hash"
    assert await store.accounts.standings(["s1", "s2", "s3"]) == {
        "s1": Standing(ada.id, "ada", None, 2000),
        "s2": Standing(ada.id, "ada", None, None),
        "s3": Standing(bob.id, "bob", None, None),
    }


async def test_disabling_ends_every_session_and_keeps_the_first_date(store: Store) -> None:
    ada = await store.add_user("ada")
    await store.accounts.add_session(session(ada), 1000)
    await store.accounts.disable(ada.id, 2000)
    await store.accounts.disable(ada.id, 3000)
    assert await store.accounts.standings(["s1"]) == {"s1": Standing(ada.id, "ada", 2000, 2000)}


async def test_last_seen_never_moves_back(store: Store) -> None:
    ada, bob = await store.add_user("ada"), await store.add_user("bob")
    await store.accounts.saw({ada.id: 5000, bob.id: 100, "unknown": 1})
    await store.accounts.saw({ada.id: 4000, bob.id: 200})
    found = [await store.accounts.by_id(user.id) for user in (ada, bob)]
    assert [account and account.last_seen_at for account in found] == [5000, 200]


async def test_a_session_of_nobody_is_a_conflict_and_so_is_a_token_twice(store: Store) -> None:
    ada = await store.add_user("ada")
    with pytest.raises(Conflict):
        await store.accounts.add_session(session(replace(ada, id="nobody")), 1000)
    await store.accounts.add_session(session(ada), 1000)
    with pytest.raises(Conflict):
        await store.accounts.add_session(session(ada, "s2", "hash1"), 1000)
    assert list(await store.accounts.standings(["s1", "s2", "s3"])) == ["s1"]


async def test_a_refresh_token_works_once_and_its_successor_after_it(store: Store) -> None:
    ada = await store.add_user("ada")
    await store.accounts.add_session(session(ada), 1000)
    first = await store.accounts.rotate("hash1", session(ada, refresh_hash="hash2", expires_at=20 * DAY_MS), 2000)
    second = await store.accounts.rotate("hash2", session(ada, refresh_hash="hash3", expires_at=30 * DAY_MS), 3000)
    assert first is not None
    assert second is not None
    assert (first.id, first.user_id, first.expires_at, first.revoked_at) == ("s1", ada.id, 10 * DAY_MS, None)
    assert (second.expires_at, second.revoked_at) == (20 * DAY_MS, None)


@pytest.mark.parametrize("reused", ["hash1", "hash2"])
async def test_a_refresh_token_that_is_used_twice_ends_its_session(store: Store, reused: str) -> None:
    ada = await store.add_user("ada")
    await store.accounts.add_session(session(ada), 1000)
    await store.accounts.rotate("hash1", session(ada, refresh_hash="hash2"), 2000)
    await store.accounts.rotate("hash2", session(ada, refresh_hash="hash3"), 2000)
    stolen = await store.accounts.rotate(reused, session(ada, refresh_hash="thief"), 3000)
    assert stolen is not None
    assert stolen.revoked_at == 3000
    assert (await store.accounts.standings(["s1"]))["s1"].revoked_at == 3000
    for refresh_hash in ("hash3", "thief"):
        after = await store.accounts.rotate(refresh_hash, session(ada, refresh_hash="hash5"), 4000)
        assert after is None or after.revoked_at == 3000
    assert await store.accounts.rotate("hash5", session(ada, refresh_hash="hash6"), 4000) is None


async def test_one_refresh_token_used_at_once_by_two_is_given_to_one(store: Store) -> None:
    ada = await store.add_user("ada")
    await store.accounts.add_session(session(ada), 1000)
    given = []

    async def rotate(number: int) -> None:
        given.append(await store.accounts.rotate("hash1", session(ada, refresh_hash=f"new{number}"), 2000))

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(rotate, number)
    assert sorted(row.revoked_at or 0 for row in given if row is not None) == [0, 2000]


async def test_an_unknown_an_expired_or_a_revoked_session_is_left_as_it_is(store: Store) -> None:
    ada = await store.add_user("ada")
    await store.accounts.add_session(session(ada, expires_at=5000), 1000)
    await store.accounts.add_session(session(ada, "s2", "hash2"), 1000)
    await store.accounts.revoke_session("s2", 1500)
    assert await store.accounts.rotate("never", session(ada, refresh_hash="x"), 2000) is None
    expired = await store.accounts.rotate("hash1", session(ada, refresh_hash="x"), 5000)
    assert expired is not None
    assert expired.expires_at == 5000
    revoked = await store.accounts.rotate("hash2", session(ada, refresh_hash="x"), 2000)
    assert revoked is not None
    assert revoked.revoked_at == 1500
    assert await store.accounts.rotate("x", session(ada, refresh_hash="y"), 2000) is None


async def test_revoking_keeps_the_first_date_and_spares_who_is_to_be_spared(store: Store) -> None:
    ada = await store.add_user("ada")
    for number in (1, 2, 3):
        await store.accounts.add_session(session(ada, f"s{number}", f"hash{number}"), 1000)
    await store.accounts.revoke_session("s1", 2000)
    await store.accounts.revoke_sessions(ada.id, spared_session_id="s3", now_ms=3000)
    await store.accounts.revoke_session("s1", 4000)
    standings = await store.accounts.standings(["s1", "s2", "s3"])
    assert {name: standing.revoked_at for name, standing in standings.items()} == {"s1": 2000, "s2": 3000, "s3": None}


async def test_sessions_that_expired_are_forgotten_with_their_spent_tokens(store: Store) -> None:
    ada = await store.add_user("ada")
    await store.accounts.add_session(session(ada, expires_at=5000), 1000)
    await store.accounts.rotate("hash1", session(ada, refresh_hash="hash2", expires_at=6000), 2000)
    await store.accounts.add_session(session(ada, "s2", "other", expires_at=7000), 1000)
    await store.accounts.forget_sessions(6000)
    assert len(await store.accounts.standings(["s1", "s2"])) == 2
    await store.accounts.forget_sessions(6001)
    assert list(await store.accounts.standings(["s1", "s2"])) == ["s2"]
    for refresh_hash in ("hash1", "hash2"):
        assert await store.accounts.rotate(refresh_hash, session(ada, refresh_hash="x"), 6500) is None


async def test_spent_tokens_are_forgotten_once_they_would_have_expired_anyway(store: Store) -> None:
    ada = await store.add_user("ada")
    await store.accounts.add_session(session(ada), 1000)
    await store.accounts.rotate("hash1", session(ada, refresh_hash="hash2"), 2000)
    await store.accounts.rotate("hash2", session(ada, refresh_hash="hash3"), 3000)
    await store.accounts.forget_spent_tokens(3000)
    assert await store.accounts.rotate("hash1", session(ada, refresh_hash="x"), 4000) is None
    assert (await store.accounts.standings(["s1"]))["s1"].revoked_at is None
    stolen = await store.accounts.rotate("hash2", session(ada, refresh_hash="x"), 4000)
    assert stolen is not None
    assert stolen.revoked_at == 4000


def test_an_account_keeps_its_password_hash_out_of_its_repr() -> None:
    assert "secret" not in repr(Account("1", "e", "u", None, None, None, "secret", 1, None, None))
    assert "secret" not in repr(NewPassword("secret"))


async def test_of_two_who_use_one_refresh_token_at_once_the_second_ends_the_session(store: Store) -> None:
    ada = await store.add_user("ada")
    names = [f"s{number}" for number in range(20)]
    for name in names:
        await store.accounts.add_session(session(ada, name, f"old {name}"), 1000)
    found = []

    async def use(name: str, new_hash: str) -> None:
        found.append(await store.accounts.rotate(f"old {name}", session(ada, name, new_hash), 2000))

    for name in names:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, name, f"new {name}")
            nursery.start_soon(use, name, f"newer {name}")
    assert sorted(row.id for row in found if row is not None and row.revoked_at == 2000) == sorted(names)
    assert sorted(row.id for row in found if row is not None and row.revoked_at is None) == sorted(names)
    standings = await store.accounts.standings(names)
    assert {standing.revoked_at for standing in standings.values()} == {2000}


async def test_when_users_were_last_seen_is_noted_by_all_nodes_at_once(store: Store) -> None:
    users = [await store.add_user(f"user{number}") for number in range(30)]
    seen = [(user.id, 5000 + number) for number, user in enumerate(users)]
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(store.accounts.saw, dict(seen))
            nursery.start_soon(store.accounts.saw, {user_id: at - 1000 for user_id, at in reversed(seen)})
    for user_id, at in seen:
        account = await store.accounts.by_id(user_id)
        assert account is not None
        assert account.last_seen_at == at
