"""How far the model tests go: a few seconds each in a run of all tests, as far as one likes with `MODEL_TIMES`.

A model test plays made-up programs, lists of steps, against a part of the daemon and against what the part ought to
do. `MODEL_TIMES=300 .venv/bin/python -m pytest tests/test_*_model.py` plays 300 times as many programs, some million
steps, and says how many. What fails is printed as the shortest program that hypothesis finds, with a blob that
replays it; the order in which Trio runs tasks is part of it.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

S = TypeVar("S")

#: How many times as many programs as in a run of all tests.
TIMES: Final = int(os.environ.get("MODEL_TIMES", "1"))
#: Steps that have been played, by model.
PLAYED: Final[dict[str, int]] = {}


def programs(count: int) -> settings:
    """So many programs in a run of all tests. A long run takes its time on purpose, each program too."""
    return settings(
        max_examples=count * TIMES, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
    )


def often(*weighted: tuple[int, st.SearchStrategy[S]]) -> st.SearchStrategy[S]:
    """One of these, each as often as its number says beside the others (`one_of` does not count what comes twice)."""
    return st.sampled_from([step for weight, step in weighted for _ in range(weight)]).flatmap(lambda step: step)


def steps_of(step: st.SearchStrategy[S], *, most: int) -> st.SearchStrategy[list[S]]:
    """Programs of any length up to `most`, long ones as often as short ones."""
    return st.integers(0, most).flatmap(lambda count: st.lists(step, min_size=count, max_size=count))


def count_steps(model: str, count: int) -> None:
    PLAYED[model] = PLAYED.get(model, 0) + count


def run(play: Callable[..., Awaitable[object]], *args: object) -> None:
    """Play a program under a clock that jumps whenever everybody waits; what fails flies without its groups."""
    try:
        trio.run(partial(play, *args), clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseExceptionGroup as group:
        fault: BaseException = group
        while isinstance(fault, BaseExceptionGroup) and len(fault.exceptions) == 1:
            fault = fault.exceptions[0]
        raise fault from None


def interleaved(program: st.SearchStrategy[S]) -> st.SearchStrategy[S]:
    """The same with another order of Trio's tasks each time: hypothesis seeds the dice of the scheduler with it."""
    return st.tuples(st.random_module(), program).map(lambda drawn: drawn[1])


def report() -> Iterator[str]:
    """What a long run has done."""
    if TIMES > 1:
        for model, count in PLAYED.items():
            yield f"{model}: {count} steps played"
