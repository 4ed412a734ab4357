"""Cyclic garbage collection that does not stop the world for long: what lives long is not looked through again.

CPython's collector counts what is made less what is freed. Where tens of thousands of objects are replaced all the time
(what a task leaves where it waits for its socket) that number stands still while the youngest generation grows, until
one pass goes through 100 000 objects: 75 ms in which nobody is served, and a third of a second for all objects of ten
thousand connections. So the youngest are looked through many times a second, while they are few, and what is left of
them is set aside (`gc.freeze`): hardly anything here dies as a cycle, and what is no cycle is freed wherever it is.
What does die as a cycle later on is found by counting what is set aside, now and then: when it is more than the
connections account for, all of it is looked through. So it is once as many connections have gone as there are.

Source: https://docs.python.org/3/library/gc.html#gc.freeze; the figures are the bench's row `steady-rooms-of-10`.
"""

from __future__ import annotations

import gc
from typing import Final

#: New containers, less those that are gone, before the youngest are looked through in between.
THRESHOLD: Final = 10_000
#: Seconds between two counts of what is set aside, which take 20 ms for ten thousand connections.
COUNT_S: Final = 300.0
#: Objects that may be set aside for each connection, which needs some 150, and beside them.
FOR_CONNECTION: Final = 250
FOR_ALL: Final = 200_000
#: Connections that go before all is looked through, at the least.
GONE: Final = 10_000


class Collector:
    """Told many times a second how many connections live and have ever lived; sync, a millisecond while there is little
    that is new.
    """

    def __init__(self, now: float) -> None:
        gc.set_threshold(THRESHOLD, 10, 10)
        self._count_at = now + COUNT_S
        self._live = self._gone = 0
        gc.collect()
        gc.freeze()
        self._frozen = gc.get_freeze_count()

    def keep_up(self, now: float, *, live: int, ever: int) -> None:
        """Look through what is new; at its time through all. `now` is in seconds, of any clock."""
        gone = ever - live
        if gone - self._gone >= max(GONE, live):
            self._gone = gone
            self._collect_all(live)
            return
        if now >= self._count_at:
            self._count_at = now + COUNT_S
            came = max(0, live - self._live)
            if gc.get_freeze_count() > self._frozen + FOR_ALL + came * FOR_CONNECTION:
                self._collect_all(live)
                return
        gc.collect(0)
        gc.freeze()

    def _collect_all(self, live: int) -> None:
        self._live = live
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._frozen = gc.get_freeze_count()
