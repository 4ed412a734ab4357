"""What the daemon can tell of itself: the numbers that nobody keeps up to date, and a dump of all its tasks.

`server` has `measure` called before each look at /metrics, and `dump` at SIGUSR1. Neither says anything of anybody:
counts, sizes, places in chatd's own code.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import trio

from chatd import telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chatd.chat.context import Chat
    from chatd.connection import Connection
    from chatd.metrics import ConnectionState
    from chatd.nursery import Door

log = telemetry.get_logger(__name__)

#: Rooms whose tails are weighed; the others are taken to weigh as much.
WEIGHED_ROOMS: Final = 500
#: Kinds of tasks that a dump tells, those of which there are most first.
MAX_KINDS: Final = 100


def measure(door: Door) -> None:
    """Look up connections, outboxes, queues, tails and health, in a time that hardly grows with their number."""
    chat, numbers = door.chat, door.chat.metrics
    states: Counter[ConnectionState] = Counter(map(_state_of, door.connections))
    states["upgrading"] = len(door.upgrading)
    for state, gauge in numbers.connection_states.items():
        gauge.set(states[state])
    waiting = [connection.session.outbox.waiting_bytes for connection in door.connections]
    numbers.outbox_bytes.set(sum(waiting))
    numbers.largest_outbox_bytes.set(max(waiting, default=0))
    numbers.journal_waiting.set(chat.journal.waiting)
    numbers.queues["audit"].set(chat.audit.waiting)
    numbers.queues["notifications"].set(chat.notifier.waiting)
    numbers.queues["acknowledgements"].set(sum(connection.session.pending for connection in door.connections))
    numbers.tail_bytes.set(_weigh_tails(chat))
    numbers.rooms.set(chat.hub.active_rooms)
    numbers.repairs.bring_to(chat.hub.repairs)
    numbers.slow_operations.bring_to(chat.slow.count)
    numbers.deliveries.bring_to(chat.hub.deliveries)
    numbers.dropped["broadcasts"].bring_to(chat.hub.broadcasts.dropped)
    numbers.dropped["notifications"].bring_to(chat.notifier.dropped)
    numbers.defects.bring_to(telemetry.Defects.count)
    numbers.ready.set(chat.health.is_ready)
    for part in chat.health.parts():
        numbers.part_ready[part.name].set(part.is_fresh)


def _state_of(connection: Connection) -> ConnectionState:
    if connection.has_ended:
        return "closing"
    return "authenticated" if connection.session.has_arrived else "unauthenticated"


def _weigh_tails(chat: Chat) -> int:
    """About how many bytes the tails of active rooms hold."""
    weighed = list(islice(chat.hub.rooms(), WEIGHED_ROOMS))
    size = sum(len(event.body) for room in weighed for event in room.tail)
    return size * chat.hub.active_rooms // len(weighed) if weighed else 0


async def dump(door: Door) -> None:
    """Write all tasks, by what they are and where they wait, and all numbers into the log."""
    chat = door.chat
    measure(door)
    kinds = Counter((task.name.removeprefix("chatd."), _place_of(task)) for task in _tasks())
    for (name, place), count in kinds.most_common(MAX_KINDS):
        log.warning("dump_task", task=name, at=place, count=count)
    await trio.lowlevel.checkpoint()
    log.warning("dump_numbers", **chat.metrics.figures())
    parts = {part.name: part.fault or "proven" for part in chat.health.parts()}
    log.warning("dump_ended", tasks=kinds.total(), kinds=len(kinds), parts=parts)


def _tasks() -> Iterator[trio.lowlevel.Task]:
    """Every task of this process."""
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        yield task
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)


def _place_of(task: trio.lowlevel.Task) -> str:
    """The innermost line of chatd's own code in which a task waits, or else of any."""
    own = any_place = "nowhere"
    step: Any = task.coro
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "ag_frame", None) or getattr(step, "gi_frame", None)
        if frame is not None:
            path = frame.f_code.co_filename
            any_place = f"{path.rsplit('/', 1)[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
            if "/chatd/" in path:
                own = f"{path.rsplit('/chatd/', 1)[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
        step = getattr(step, "cr_await", None) or getattr(step, "ag_await", None) or getattr(step, "gi_yieldfrom", None)
    return own if own != "nowhere" else any_place
