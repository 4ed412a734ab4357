"""What the daemon does beside its connections: it lets devices follow joins, proves its parts, and stores departures.

`server` opens it around the time in which it serves. Nothing in here is asked for by a client, so nothing that fails
in here is answered: it is logged and tried again, or ends the one connection that is concerned.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.bus.proof import open_proof
from chatd.chat.accounts import DAY_MS
from chatd.chat.catchup import follow
from chatd.chat.context import Arrival
from chatd.errors import CloseCode, Refusal
from chatd.health import Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from chatd.bus.port import Seconds
    from chatd.bus.proof import Proof
    from chatd.chat.context import Chat
    from chatd.chat.session import Session
    from chatd.store.accounts import Accounts
    from chatd.store.facts import Facts
    from chatd.store.rooms import Rooms

log = telemetry.get_logger(__name__)

#: Devices that wait to follow a join made elsewhere; past it the device is told to reconnect.
MAX_FOLLOWING: Final = 1000
#: Seconds between two proofs that the parts work, and between two writings of who was last seen.
UPKEEP_S: Final = 2.0
#: Sessions that expired so long ago are removed.
FORGET_SESSIONS_MS: Final = 30 * DAY_MS


def new_health(seconds: Seconds) -> Health:
    """Health whose parts are stale once five proofs of them have failed."""
    return Health(seconds, stale_after_s=5 * UPKEEP_S)


async def read_arrivals(
    accounts: Accounts, rooms: Rooms, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Arrival]:
    """Standing and rooms of all who authenticate at this moment, in two queries."""
    standings = await accounts.standings([session_id for session_id, _ in keys])
    own_rooms = await rooms.of_users(list({user_id for _, user_id in keys}))
    return {key: Arrival(standings.get(key[0]), own_rooms.get(key[1], [])) for key in keys}


class Followers:
    """Devices whose user joined a room on another one, until they hear it."""

    def __init__(self) -> None:
        self._waiting, self._to_follow = trio.open_memory_channel[tuple["Session", str, int]](MAX_FOLLOWING)

    def queue(self, session: Session, room_id: str, seq: int) -> None:
        """Let the session hear a room from the event `seq` on, or end it when too many wait."""
        try:
            self._waiting.send_nowait((session, room_id, max(seq - 1, 0)))
        except trio.WouldBlock:
            session.line.end(CloseCode.TRY_LATER, "your rooms change too fast: reconnect")

    async def let_follow(self, chat: Chat) -> None:
        """Let all that are queued hear their rooms; none waits for another that reads slowly."""
        places = trio.Semaphore(MAX_FOLLOWING)

        async def let_follow(session: Session, room_id: str, after: int) -> None:
            try:
                await follow(chat, session, room_id, after)
            except Refusal as refusal:
                session.line.end(CloseCode.TRY_LATER, f"{refusal.code}: reconnect")
            except Exception:
                # This is one connection's work, although no task of its nursery does it.
                log.exception("following_failed", connection=session.connection_id, room=room_id)
                session.line.end(CloseCode.INTERNAL, "internal error")
            finally:
                places.release()

        async with trio.open_nursery() as nursery:
            async for session, room_id, after in self._to_follow:
                await places.acquire()
                nursery.start_soon(let_follow, session, room_id, after)


@asynccontextmanager
async def open_upkeep(chat: Chat, facts: Facts, followers: Followers) -> AsyncIterator[None]:
    """Keep up for as long as the block lasts; at its begin every part has been tried once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(followers.let_follow, chat)
        proof = await open_proof(chat.bus, chat.hub)
        await _prove(chat, facts, proof)
        nursery.start_soon(_keep_up, chat, facts, proof)
        yield
        nursery.cancel_scope.cancel()
    try:
        await _store_departures(chat)
    except Refusal as refusal:
        # Nobody is there to be told, and nothing that was acknowledged is lost.
        log.warning("departures_not_stored", detail=refusal.detail)


async def _keep_up(chat: Chat, facts: Facts, proof: Proof) -> None:
    """Every few seconds: prove that the parts work, store who left, and once an hour forget old sessions."""
    next_cleaning = trio.current_time()
    while True:
        await trio.sleep(UPKEEP_S)
        await _prove(chat, facts, proof)
        try:
            await _store_departures(chat)
            if trio.current_time() >= next_cleaning:
                next_cleaning = trio.current_time() + 3600
                await chat.accounts.forget_sessions(chat.clock() - FORGET_SESSIONS_MS)
                # So long after its use a token would have expired: that it comes back tells nothing any more.
                await chat.accounts.forget_spent_tokens(chat.clock() - chat.options.auth.refresh_days * DAY_MS)
        except Refusal as refusal:
            log.warning("upkeep_failed", detail=refusal.detail)


async def _prove(chat: Chat, facts: Facts, proof: Proof) -> None:
    """Write and read the database, and send an event from the bus to an outbox."""
    part = "database"
    try:
        now = str(chat.clock())
        await facts.put("proof", now)
        if await facts.get("proof") != now:
            chat.health.fail(part, "It does not give back what was written.")
            return
        chat.health.prove(part)
        part = "bus"
        await proof.deliver(within_s=UPKEEP_S)
        chat.health.prove(part)
        chat.health.prove("delivery")
    except Refusal as refusal:
        chat.health.fail(part, refusal.detail)


async def _store_departures(chat: Chat) -> None:
    departures, chat.sessions.departures = chat.sessions.departures, {}
    if departures:
        try:
            await chat.accounts.saw(departures)
        except Refusal:
            # For the next time; who has left again since then did so later.
            chat.sessions.departures = departures | chat.sessions.departures
            raise
