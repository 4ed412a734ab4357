"""chatd with one promise broken on purpose, to see that the torture finds it.

    python -m tests.torture.sabotage early-ack serve --config chatd.toml

Stands in for `python -m chatd`: it changes chatd in this process alone, then does what chatd does.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from chatd.__main__ import main
from chatd.bus.hub import Hub
from chatd.bus.room import ActiveRoom, frame_of
from chatd.chat import catchup
from chatd.store.batches import Batches
from chatd.store.journal import Journal
from tests.daemon import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from chatd.bus.port import Event
    from chatd.bus.room import Receiver
    from chatd.chat.context import Chat
    from chatd.chat.session import CatchUp, Session
    from chatd.store.acts import Act
    from chatd.store.database import Transaction
    from chatd.store.entries import Entry, Head, Numbered, Outcome, Repeat

#: Seconds between an acknowledgement and its commit, and between going live and the replay.
EARLY_S: Final = 0.3
#: One event in so many is lost.
LOST_ONE_IN: Final = 50
#: Makes a table without its constraints, but for the key that others refer to.
UNBOUND: Final = """
CREATE TABLE copies AS SELECT * FROM messages;
DROP TABLE messages;
ALTER TABLE copies RENAME TO messages;
CREATE UNIQUE INDEX messages_by_id ON messages (id);
"""


def acknowledge_early() -> None:
    """Acknowledge before the commit."""
    store, init = Batches._store, Journal.__init__
    journals: dict[Batches, Journal] = {}

    def init_and_remember(journal: Journal, *args: Any, **options: Any) -> None:
        init(journal, *args, **options)
        journals[journal._batches] = journal

    async def store_late(batches: Batches, tx: Transaction, entries: Sequence[Entry | Act], now_ms: int) -> Numbered:
        numbered = await store(batches, tx, entries, now_ms)

        def tell() -> None:
            for entry, outcome in zip(entries, numbered.outcomes, strict=True):
                entry.settle(outcome)
                entry.settle = _ignore
            journals[batches]._after_batch()

        trio.from_thread.run_sync(tell)
        time.sleep(EARLY_S)  # noqa: ASYNC251 - a transaction has a thread of its own, where nothing may suspend
        return numbered

    _replace(Journal, "__init__", init_and_remember)
    _replace(Batches, "_store", store_late)


def _ignore(_: Outcome) -> None:
    pass


def skip_events() -> None:
    """Lose what the bus says now and then, and never look for holes."""
    offer = ActiveRoom.offer

    def offer_some(room: ActiveRoom, events: Sequence[Event]) -> list[Event]:
        ready = []
        for event in events:
            if event.seq % LOST_ONE_IN:
                room.next_seq = max(room.next_seq, event.seq)
                ready += offer(room, [event])
        return ready

    _replace(ActiveRoom, "offer", offer_some)


def go_live_first() -> None:
    """Go live, then replay what was missed."""

    async def page_late(chat: Chat, session: Session, room_id: str, mine: CatchUp) -> bool:
        room = await catchup.read_stay(chat, session, room_id)
        if room is None:
            return False
        last_seq = room.position
        chat.hub.listen(session, room_id, after=last_seq)
        await trio.sleep(EARLY_S)
        while mine.position < last_seq:
            events = await chat.messages.events_after(room_id, mine.position, catchup.PAGE_EVENTS)
            missed = [event for event in events if event.seq <= last_seq]
            session.put(b"".join([frame_of(event) for event in missed]))
            mine.position = missed[-1].seq
        return True

    _replace(catchup, "_page_through", page_late)


def repeat_at_hand_over() -> None:
    """Send the last replayed event once more when live begins."""
    listen = Hub.listen

    def listen_before(hub: Hub, receiver: Receiver, room_id: str, *, after: int, max_bytes: int = 0) -> bool:
        if max_bytes and after > 1:
            after -= 1
        return listen(hub, receiver, room_id, after=after, max_bytes=max_bytes)

    _replace(Hub, "listen", listen_before)


def forget_keys() -> None:
    """Leave out the unique key of messages and the look for it."""
    read_heads = Batches._read_heads

    async def read_no_keys(
        batches: Batches, tx: Transaction, entries: Sequence[Entry | Act]
    ) -> tuple[dict[str, Head], dict[tuple[str, str], Repeat]]:
        heads, _ = await read_heads(batches, tx, entries)
        return heads, {}

    _replace(Batches, "_read_heads", read_no_keys)
    database = Path(os.environ["CHATD_SERVER_DATA_DIR"], "chatd.db")
    if not database.exists():
        main(["migrate", "up", "--config", os.devnull])
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript(UNBOUND)


def remember_old_words() -> None:
    """Replay messages from memory as they were sent, whatever became of them."""
    _replace(ActiveRoom, "_forget_before", _ignore_change)


def _ignore_change(_room: ActiveRoom, _changed_seq: int) -> None:
    pass


def _replace(owner: Any, name: str, function: Callable[..., object]) -> None:
    assert hasattr(owner, name)
    setattr(owner, name, function)


SABOTAGES: Final[Mapping[str, Callable[[], None]]] = {
    "early-ack": acknowledge_early,
    "skipped-event": skip_events,
    "live-first": go_live_first,
    "repeated-event": repeat_at_hand_over,
    "no-key": forget_keys,
    "old-words": remember_old_words,
}


def sabotaged(name: str) -> Program:
    """A program for `start_program`."""
    root = str(Path(__file__).parent.parent.parent)
    return Program(("-m", "tests.torture.sabotage", name), {"PYTHONPATH": root})


if __name__ == "__main__":
    _, sabotage, *arguments = sys.argv
    SABOTAGES[sabotage]()
    main(arguments)
