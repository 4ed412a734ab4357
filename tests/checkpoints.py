"""Cancels an operation at each of its checkpoints in turn, for tests that look what is left then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

#: An operation with more checkpoints than this does not end.
MAX_CHECKPOINTS: Final = 1000


class _Canceller(trio.abc.Instrument):
    """Cancels a scope when a task waits for the `count`th time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, *, count: int) -> None:
        self._task = task
        self._scope = scope
        self._left = count

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


async def cancel_at_each_checkpoint(operate: Callable[[int], Awaitable[object]]) -> AsyncIterator[int]:
    """Call `operate(0)` and cancel it where it waits first, `operate(1)` where it waits next, and so on.

    Yields after each; the last one has ended without being cancelled.
    """
    for turn in range(MAX_CHECKPOINTS):
        with trio.CancelScope() as scope:
            canceller = _Canceller(trio.lowlevel.current_task(), scope, count=turn + 1)
            trio.lowlevel.add_instrument(canceller)
            try:
                await operate(turn)
            finally:
                trio.lowlevel.remove_instrument(canceller)
        yield turn
        if not scope.cancel_called:
            return
    raise AssertionError(f"This operation has more than {MAX_CHECKPOINTS} checkpoints.")
