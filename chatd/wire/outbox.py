"""What waits to be sent to one client: a first try without waiting, a bound, and what happens at it.

`put` is sync and never waits: with nothing queued it hands the frame to the socket's non-blocking `send`, and what
the kernel does not take is queued for the writer task of `nursery`. Promises 6 and 7 of spec/protocol.md live here:
above half of the bound ephemeral frames are dropped, at the bound the connection is given up and nobody else waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

Send = Callable[[bytes], int]

#: What most connections have waiting: one deque for all of them, for an empty one of its own takes 600 bytes. It takes
#: nothing in, so that nobody finds there what is another's.
NOTHING: Final[deque[Any]] = deque(maxlen=0)


def _nothing() -> None:
    pass


class Outbox:
    """Frames on their way to one socket, in order.

    `send` is the non-blocking socket's; `on_waiting` is called when bytes begin to wait, `on_overflow` when more than
    `bound_bytes` wait, `on_broken` once when the socket fails. They are called in the middle of a `put` and may call
    nothing of the outbox but `end`.
    """

    __slots__ = (
        "_bound", "_ended", "_held", "_on_broken", "_on_overflow", "_on_waiting", "_queue", "_quiet",
        "_send", "late_bytes", "shed", "waiting_bytes",
    )  # fmt: skip

    def __init__(
        self,
        send: Send,
        *,
        bound_bytes: int,
        on_waiting: Callable[[], None],
        on_overflow: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._send = send
        self._bound = bound_bytes
        self._on_waiting = on_waiting
        self._on_overflow = on_overflow
        self._on_broken = on_broken
        self._queue: deque[bytes] = NOTHING
        self._held: list[bytes] = []
        # Nothing queued, nothing held, not ended: the next frame may go straight to the socket.
        self._quiet = True
        self._ended = False
        self.waiting_bytes = 0
        #: Bytes that had to wait and have left.
        self.late_bytes = 0
        self.shed = 0

    def put(self, frames: bytes) -> None:
        """Send one or more whole frames, or queue them behind what waits already."""
        if not self._quiet:
            frames = self._after_what_waits(frames)
            if not self._quiet:
                return
        try:
            sent = self._send(frames)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._break()
            return
        if sent < len(frames):
            self._enqueue(frames[sent:])

    def put_ephemeral(self, frames: bytes) -> None:
        """Send frames that may be lost: above half of the bound they are dropped and counted in `shed`."""
        if self.waiting_bytes > self._bound // 2:
            self.shed += 1
        else:
            self.put(frames)

    def hold(self, frame: bytes) -> None:
        """Keep a frame back until the next `put` or `flush`, so that both leave in one send."""
        if not self._ended:
            self._held.append(frame)
            self._quiet = False

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            self.put(b"")

    def end(self, last_frame: bytes, *, drop: bool = False) -> None:
        """Accept nothing more and send `last_frame`; with `drop`, instead of what has not begun to leave."""
        if self._ended:
            return
        if drop:
            self._held.clear()
            while len(self._queue) > 1:
                self.waiting_bytes -= len(self._queue.pop())
        frames = b"".join((*self._held, last_frame))
        self._held.clear()
        # From here on nothing is an overflow: what is last may come on top of the bound.
        self._ended = True
        self._quiet = not self._queue
        if self._quiet:
            self.put(frames)
        else:
            self._enqueue(frames)
        self._quiet = False

    def detach(self) -> None:
        """Forget the socket and the connection, which have ended; whatever is put is dropped."""
        self._clear()
        self._send = len
        self._on_waiting = self._on_overflow = self._on_broken = _nothing

    def write(self) -> None:
        """Send what waits, as much as the socket takes now. Called by the writer when the socket is writable."""
        queue = self._queue
        while queue:
            block = queue.popleft()
            if queue and len(block) < 65536:
                block = self._gather(block)
            try:
                sent = self._send(block)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self._break()
                return
            self.late_bytes += sent
            self.waiting_bytes -= sent
            if sent < len(block):
                queue.appendleft(block[sent:])
                return
        self._queue = NOTHING
        self._quiet = not (self._held or self._ended)

    @property
    def is_empty(self) -> bool:
        """Nothing waits for the socket."""
        return not self._queue

    def _gather(self, block: bytes) -> bytes:
        """`block` with the queued ones behind it, up to 64 KiB: many small frames leave in one send."""
        blocks = [block]
        size = len(block)
        while self._queue and size + len(self._queue[0]) <= 65536:
            size += len(self._queue[0])
            blocks.append(self._queue.popleft())
        return b"".join(blocks)

    def _after_what_waits(self, frames: bytes) -> bytes:
        """Queue frames, with those held before them; or return both, if nothing is queued before them."""
        if self._held:
            frames = b"".join((*self._held, frames))
            self._held.clear()
            self._quiet = not (self._queue or self._ended)
        if not self._quiet and not self._ended:
            self._enqueue(frames)
        return frames

    def _enqueue(self, frames: bytes) -> None:
        # Also past the bound: these may be the rest of a frame that has begun to leave.
        if not self._queue:
            self._queue = deque()
        self._queue.append(frames)
        self.waiting_bytes += len(frames)
        self._quiet = False
        if len(self._queue) == 1:
            self._on_waiting()
        if self.waiting_bytes > self._bound and not self._ended:
            self._on_overflow()

    def _break(self) -> None:
        self._clear()
        self._on_broken()

    def _clear(self) -> None:
        self._queue = NOTHING
        self._held.clear()
        self.waiting_bytes = 0
        self._ended = True
        self._quiet = False


def put_to_all(outboxes: Iterable[Outbox], frames: bytes) -> None:
    """`put` the same frames to many: the load of a chat server, so its usual case is written out here.

    An outbox with nothing waiting whose socket takes all at once costs one `send` and nothing else.
    """
    size = len(frames)
    for outbox in outboxes:
        if not outbox._quiet:
            outbox.put(frames)
            continue
        try:
            sent = outbox._send(frames)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            outbox._break()
            continue
        if sent < size:
            outbox._enqueue(frames[sent:])
