"""Facts about a database as a whole, on every kind of store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from tests.stores import Store


async def test_a_fact_is_what_was_said_first(store: Store) -> None:
    assert await store.facts.get("epoch") is None
    assert await store.facts.get_or_add("epoch", "first") == "first"
    assert await store.facts.get_or_add("epoch", "second") == "first"
    assert await store.facts.get("epoch") == "first"
    assert await store.facts.get("lobby") is None


async def test_a_fact_that_is_proven_is_kept_whoever_else_proves_it_at_once(store: Store) -> None:
    proven = []

    async def prove(value: str) -> None:
        proven.append(await store.facts.prove("proof", value))

    async with trio.open_nursery() as nursery:
        for value in "abcdef":
            nursery.start_soon(prove, value)
    assert proven == [True] * 6
    assert await store.facts.get("proof") in set("abcdef")


async def test_two_who_say_it_at_once_get_the_same(store: Store) -> None:
    heard = []

    async def say(value: str) -> None:
        heard.append(await store.facts.get_or_add("epoch", value))

    async with trio.open_nursery() as nursery:
        for value in "abc":
            nursery.start_soon(say, value)
    assert len(set(heard)) == 1
    assert await store.facts.get("epoch") == heard[0]
