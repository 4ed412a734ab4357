"""Each part is ready as long as its last proof is fresh; a failed try says why and does not make it stale by itself."""

from __future__ import annotations

import math

from chatd.health import Health, Part


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def is_ready(checked: Health) -> bool:
    return checked.is_ready


def health() -> tuple[Health, Clock]:
    clock = Clock()
    return Health(clock, stale_after_s=10), clock


def test_nothing_proven_is_not_ready() -> None:
    checked, _ = health()
    assert checked.parts() == []
    assert not is_ready(checked)


def test_a_part_is_fresh_until_its_proof_is_too_old_and_again_with_the_next() -> None:
    checked, clock = health()
    checked.prove("database")
    clock.now += 10
    assert checked.parts() == [Part("database", is_fresh=True, age_s=10, fault=None)]
    assert is_ready(checked)
    clock.now += 0.5
    assert checked.parts() == [Part("database", is_fresh=False, age_s=10.5, fault=None)]
    assert not is_ready(checked)
    checked.prove("database")
    assert is_ready(checked)


def test_part_whose_proofs_come_at_a_pace_of_their_own_is_fresh_for_as_long_as_was_said() -> None:
    checked, clock = health()
    checked.prove("database")
    checked.prove("canary", lasts_s=2)
    clock.now += 3
    assert [(part.name, part.is_fresh) for part in checked.parts()] == [("database", True), ("canary", False)]


def test_one_stale_part_makes_the_whole_not_ready() -> None:
    checked, clock = health()
    checked.prove("database")
    clock.now += 8
    checked.prove("bus")
    clock.now += 8
    assert [(part.name, part.is_fresh) for part in checked.parts()] == [("database", False), ("bus", True)]
    assert not is_ready(checked)


def test_a_failed_try_is_told_at_once_and_counts_when_the_last_proof_is_too_old() -> None:
    checked, clock = health()
    checked.prove("database")
    clock.now += 2
    checked.fail("database", "The disk is full.")
    assert checked.parts() == [Part("database", is_fresh=True, age_s=2, fault="The disk is full.")]
    assert is_ready(checked)
    clock.now += 9
    assert not is_ready(checked)
    checked.prove("database")
    assert checked.parts() == [Part("database", is_fresh=True, age_s=0, fault=None)]


def test_a_part_that_never_worked_is_stale_from_the_start() -> None:
    checked, _ = health()
    checked.fail("bus", "Nobody is there.")
    assert checked.parts() == [Part("bus", is_fresh=False, age_s=math.inf, fault="Nobody is there.")]
    assert not is_ready(checked)


def test_a_server_that_drains_is_not_ready_although_all_works() -> None:
    checked, _ = health()
    checked.prove("database")
    checked.is_draining = True
    assert not is_ready(checked)
    assert checked.parts()[0].is_fresh
