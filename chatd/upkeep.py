"""What the daemon does beside its connections: it lets devices follow joins, proves its parts, and stores departures.

`server` opens it around the time in which it serves. Nothing in here is asked for by a client, so nothing that fails
in here is answered: it is logged and tried again, or ends the one connection that is concerned.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.bus.proof import open_proof
from chatd.chat.accounts import DAY_MS
from chatd.chat.arrival import refresh
from chatd.chat.catchup import follow
from chatd.chat.context import Arrival
from chatd.errors import CloseCode, Refusal
from chatd.health import Health
from chatd.store.messages import NO_SEQ

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from chatd.bus.port import Seconds
    from chatd.bus.proof import Proof
    from chatd.chat.context import Chat
    from chatd.chat.session import Session
    from chatd.store.accounts import Accounts
    from chatd.store.facts import Facts
    from chatd.store.rooms import Rooms

log = telemetry.get_logger(__name__)

#: Rooms that one device may wait to follow; past it the device is told to reconnect. A room that is made with many
#: members is one more for each of theirs.
MAX_FOLLOWING: Final = 1000
#: All that may wait on this node, and of how many the store is asked at once.
MAX_WAITING: Final = 100_000
FOLLOW_AT_ONCE: Final = 1000
#: Sessions that are looked at again by one read, and seconds between two such reads.
LOOK_AT_ONCE: Final = 200
LOOK_PAUSE_S: Final = 0.05
#: Seconds between two tries while the database is out.
RETRY_S: Final = 1.0
#: Seconds between two proofs that the parts work, and between two writings of who was last seen.
UPKEEP_S: Final = 2.0
#: Sessions that expired so long ago are removed.
FORGET_SESSIONS_MS: Final = 30 * DAY_MS


def new_health(seconds: Seconds) -> Health:
    """Health whose parts are stale once four proofs of them have failed."""
    return Health(seconds, stale_after_s=4 * UPKEEP_S)


async def read_arrivals(
    accounts: Accounts, rooms: Rooms, keys: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Arrival]:
    """Standing and rooms of all who authenticate at this moment, in two queries."""
    standings = await accounts.standings([session_id for session_id, _ in keys])
    own_rooms = await rooms.of_users(list({user_id for _, user_id in keys}))
    return {key: Arrival(standings.get(key[0]), own_rooms.get(key[1], [])) for key in keys}


class Followers:
    """Devices of which the store is to be asked whether they hear a room: their user joined it on another one, say."""

    def __init__(self) -> None:
        self._waiting, self._to_follow = trio.open_memory_channel[tuple["Session", str]](MAX_WAITING)

    def queue(self, session: Session, room_id: str) -> None:
        """Have the store asked, or end the session for which too much waits."""
        try:
            if len(session.following) > MAX_FOLLOWING:
                raise trio.WouldBlock
            self._waiting.send_nowait((session, room_id))
        except trio.WouldBlock:
            session.line.end(CloseCode.TRY_LATER, "your rooms change too fast: reconnect")

    async def let_follow(self, chat: Chat) -> None:
        """Let all that are queued hear their rooms; none waits for another that reads slowly."""
        places = trio.Semaphore(FOLLOW_AT_ONCE)

        async def let_follow(session: Session, room_id: str) -> None:
            try:
                await _follow_at_last(chat, session, room_id)
            except Exception:
                # This is one connection's work, although no task of its nursery does it.
                log.exception("following_failed", connection=session.connection_id, room=room_id)
                session.line.end(CloseCode.INTERNAL, "internal error")
            finally:
                places.release()

        async with trio.open_nursery() as nursery:
            async for session, room_id in self._to_follow:
                await places.acquire()
                nursery.start_soon(let_follow, session, room_id)


async def _follow_at_last(chat: Chat, session: Session, room_id: str) -> None:
    """Follow, and where the database is out try again, for as long as the session lives."""
    while True:
        try:
            await follow(chat, session, room_id)
        except Refusal:
            await trio.sleep(RETRY_S)
        else:
            return


class SecondLooks:
    """Sessions that may have missed notices, until the store has been asked for what those would have told."""

    def __init__(self) -> None:
        self._waiting: dict[Session, None] = {}
        self._has_some = trio.Event()
        self._database_is_out = False

    def queue(self, session: Session) -> None:
        """Have a session looked at soon; whoever comes last comes first, also while all others wait."""
        self._waiting.pop(session, None)
        self._waiting[session] = None
        self._has_some.set()

    async def look(self, chat: Chat) -> None:
        """Look at all who are queued, many by one read, with a pause before the next ones."""
        while True:
            await self._has_some.wait()
            count = min(LOOK_AT_ONCE, len(self._waiting))
            await self._look_at(chat, [self._waiting.popitem()[0] for _ in range(count)])
            if self._waiting:
                await trio.sleep(RETRY_S if self._database_is_out else LOOK_PAUSE_S)
            else:
                self._has_some = trio.Event()

    async def _look_at(self, chat: Chat, sessions: Sequence[Session]) -> None:
        changes = {session: session.changes for session in sessions if chat.sessions.has(session)}
        keys = [(session_id, session.user_id) for session in changes for session_id in session.session_ids]
        try:
            found = await chat.arrivals.get_many(keys)
        except Refusal as refusal:
            if not self._database_is_out:
                log.warning("second_looks_wait", sessions=len(self._waiting) + len(changes), detail=refusal.detail)
            self._database_is_out = True
            self._waiting |= dict.fromkeys(changes)
            return
        self._database_is_out = False
        ended = _ended(changes, found)
        leaving = [session for session in changes if session.rooms.keys() & ended]
        for session in changes.keys() - set(leaving):
            self._refresh(chat, session, found, changes[session])
        for room_id in ended:
            # Who left hears everything up to the leaving.
            with suppress(Refusal):
                await chat.hub.try_to_reach(room_id, NO_SEQ)
        for session in leaving:
            self._refresh(chat, session, found, changes[session])

    def _refresh(
        self, chat: Chat, session: Session, found: Mapping[tuple[str, str], Arrival], changes_before: int
    ) -> None:
        own_keys = [(session_id, session.user_id) for session_id in session.session_ids]
        if session.changes != changes_before or not found.keys() >= set(own_keys):
            # What was read may be older than what is known by now.
            self._waiting[session] = None
            return
        try:
            for key in own_keys:
                refresh(chat, session, found[key])
        except Exception:
            # As above: one connection's work.
            log.exception("second_look_failed", connection=session.connection_id)
            session.line.end(CloseCode.INTERNAL, "internal error")


def _ended(sessions: Iterable[Session], found: Mapping[tuple[str, str], Arrival]) -> set[str]:
    """The rooms that some of these sessions are in and their users, as it was found, are not."""
    own_rooms: dict[str, set[str]] = {}
    for (_, user_id), arrival in found.items():
        own_rooms[user_id] = {own.room_id for own in arrival.rooms}
    return {room_id for session in sessions for room_id in session.rooms.keys() - own_rooms.get(session.user_id, set())}


@asynccontextmanager
async def open_upkeep(chat: Chat, facts: Facts, followers: Followers, second_looks: SecondLooks) -> AsyncIterator[None]:
    """Keep up for as long as the block lasts; at its begin every part has been tried once."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(followers.let_follow, chat)
        nursery.start_soon(second_looks.look, chat)
        proof = await open_proof(chat.bus, chat.hub)
        await _prove_database(chat, facts)
        await _prove_delivery(chat, proof)
        nursery.start_soon(_keep_up, chat, facts)
        nursery.start_soon(_keep_proving_delivery, chat, proof)
        yield
        nursery.cancel_scope.cancel()
    try:
        await _store_departures(chat)
    except Refusal as refusal:
        # Nobody is there to be told, and nothing that was acknowledged is lost.
        log.warning("departures_not_stored", detail=refusal.detail)


async def _keep_up(chat: Chat, facts: Facts) -> None:
    """Every few seconds: prove that the database works, store who left, and once an hour forget old sessions."""
    next_cleaning = trio.current_time()
    while True:
        await trio.sleep(UPKEEP_S)
        await _prove_database(chat, facts)
        try:
            await _store_departures(chat)
            if trio.current_time() >= next_cleaning:
                next_cleaning = trio.current_time() + 3600
                await chat.accounts.forget_sessions(chat.clock() - FORGET_SESSIONS_MS)
                # So long after its use a token would have expired: that it comes back tells nothing any more.
                await chat.accounts.forget_spent_tokens(chat.clock() - chat.options.auth.refresh_days * DAY_MS)
                await chat.notifications.forget(chat.clock() - chat.options.notifications.keep_days * DAY_MS)
        except Refusal as refusal:
            log.warning("upkeep_failed", detail=refusal.detail)


async def _prove_database(chat: Chat, facts: Facts) -> None:
    """Write and read the database."""
    try:
        if await facts.prove("proof", str(chat.clock())):
            chat.health.prove("database")
        else:
            chat.health.fail("database", "It does not give back what was written.")
    except Refusal as refusal:
        chat.health.fail("database", refusal.detail)


async def _keep_proving_delivery(chat: Chat, proof: Proof) -> None:
    """Beside the database, which takes its time to fail."""
    while True:
        await trio.sleep(UPKEEP_S)
        await _prove_delivery(chat, proof)


async def _prove_delivery(chat: Chat, proof: Proof) -> None:
    """Send an event from the bus to an outbox."""
    began = chat.seconds()
    try:
        await proof.deliver(within_s=UPKEEP_S)
    except Refusal as refusal:
        is_out = "It is out; until it is back, events are found in the database."
        chat.health.fail("bus", is_out if chat.bus.is_out else refusal.detail)
        chat.health.fail("delivery", refusal.detail)
    else:
        chat.metrics.bus_seconds.observe(chat.seconds() - began)
        chat.health.prove("bus")
        chat.health.prove("delivery")


async def _store_departures(chat: Chat) -> None:
    departures, chat.sessions.departures = chat.sessions.departures, {}
    if departures:
        try:
            await chat.accounts.saw(departures)
        except Refusal:
            # For the next time; who has left again since then did so later.
            chat.sessions.departures = departures | chat.sessions.departures
            raise
