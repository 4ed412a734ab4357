"""Cyclic garbage collection that does not stop the world for long: what lives long is not looked through again.

CPython's collector walks through all objects each time their number has grown by a quarter; with ten thousand
connections that is a third of a second in which nobody is served. A connection leaves no cycles of its own behind but a
handful of small objects (wsproto's parser holds a generator that holds the parser), so it is enough to set aside what
has grown (`gc.freeze`), and to take it back and collect once as many connections have gone as there are.

Source: https://docs.python.org/3/library/gc.html#gc.freeze; the figures are the bench's row `connect-9500`.
"""

from __future__ import annotations

import gc
from typing import Final

#: New containers before the youngest are looked through.
THRESHOLD: Final = 10_000
#: Connections that come before what there is is set aside, and that go before it is taken back, at the least.
GROWN: Final = 250
GONE: Final = 10_000


class Collector:
    """Told now and then how many connections live and have ever lived; sync, a microsecond unless there is work."""

    def __init__(self) -> None:
        gc.set_threshold(THRESHOLD, 10, 10)
        gc.collect()
        gc.freeze()
        self._frozen_at = 0
        self._thawed_at = 0

    def keep_up(self, *, live: int, ever: int) -> None:
        gone = ever - live
        if gone - self._thawed_at >= max(GONE, live):
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._thawed_at, self._frozen_at = gone, ever
        elif ever - self._frozen_at >= GROWN:
            gc.freeze()
            self._frozen_at = ever
