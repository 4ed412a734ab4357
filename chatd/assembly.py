"""Everything behind the sockets, put together from the configuration: `open_chat`.

Opened in an order in which each thing closes before what it needs. `server` puts the two listeners in front of it, and
`administration` works on it without any. What keeps a daemon from starting is looked for before anything is made.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import trio

from chatd.audit import open_audit
from chatd.backends import (
    StartFault,
    check_back_ends,
    open_back_ends,
    open_uploads,
    prepare_lobby,
    prepare_schema,
)
from chatd.bus.hub import HubOptions, open_hub
from chatd.bus.lag import DeliveryLag
from chatd.chat.audit import Audit
from chatd.chat.canary import Canary
from chatd.chat.context import Chat, Options, flush
from chatd.chat.delivered import Deliveries
from chatd.chat.notifications import Notifier
from chatd.chat.presence import Presence
from chatd.chat.receipts import MAX_NAMED, Cursors, store_marks
from chatd.chat.sessions import Sessions, notice_of
from chatd.chat.typists import Typists
from chatd.chat.word_filter import WordFilter, read_word_filter
from chatd.clock import Clock, wall_clock_ms
from chatd.config import Config, Secret
from chatd.files.cleaning import open_cleaning
from chatd.identity.credentials import check_signing_secrets, signing_secrets
from chatd.identity.links import FileLinks
from chatd.identity.passwords import Passwords
from chatd.identity.tokens import Tokens
from chatd.ids import new_id
from chatd.loader import open_loader
from chatd.metrics import Metrics
from chatd.notifier import open_notifier
from chatd.previews import Previews, open_previews
from chatd.signals import Bell, open_signals
from chatd.slow import SlowLog
from chatd.store.accounts import Accounts
from chatd.store.audit import AuditTrail
from chatd.store.blocks import Blocks
from chatd.store.chats import Chats
from chatd.store.direct import Conversations
from chatd.store.facts import Facts
from chatd.store.files import Files
from chatd.store.journal import JournalOptions, open_journal
from chatd.store.messages import Messages
from chatd.store.moderation import Moderation
from chatd.store.notifications import Notifications
from chatd.store.presence import Statuses
from chatd.store.receipts import Receipts
from chatd.store.rooms import Rooms
from chatd.store.search import Search
from chatd.store.search_index import open_search_index
from chatd.store.timed import TimedDatabase
from chatd.tls import Certificates, read_certificates
from chatd.upkeep import Followers, SecondLooks, new_health, open_upkeep, read_arrivals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from chatd.bus.hub import Hub
    from chatd.bus.port import Bus, Event
    from chatd.store.database import Database
    from chatd.store.queries import Queries
    from chatd.wire.outbox import Outbox

#: Seconds in which those who authenticate one after the other gather for one read.
GATHER_S: Final = 0.02
#: Seconds in which what is read by many gathers for one statement, and marks that one takes.
MARK_S: Final = 0.05
MARKS_AT_ONCE: Final = 200
#: Stretches of rooms' histories that are read by one query: what they hold is in memory together.
STRETCHES_AT_ONCE: Final = 16


Witness: TypeAlias = "Callable[[Event], None]"


class Checked(NamedTuple):
    """What was read while it was looked whether a daemon can start."""

    word_filter: WordFilter
    certificates: Certificates


def check_start(config: Config) -> Checked:
    """Look for what keeps a daemon from starting, changing nothing. Raises `StartFault` and `ConfigError`."""
    is_shared = bool(config.database.url and config.bus.url)
    for table, options in (("websocket", config.websocket), ("http", config.http)):
        if options.reuse_port and not is_shared:
            raise StartFault(
                f"[{table}] reuse_port: daemons that share a port share their rooms: give [database] url and [bus] url."
            )
    checked = Checked(read_word_filter(config.messages), read_certificates(config.websocket, config.http))
    check_signing_secrets(config.auth, config.server.data_path, is_shared=bool(config.database.url))
    check_back_ends(config.server.data_path, config.database, config.bus)
    return checked


@asynccontextmanager
async def open_chat(
    config: Config, checked: Checked | None = None, *, clock: Clock = wall_clock_ms, metrics: Metrics | None = None
) -> AsyncIterator[Chat]:
    """Everything behind the sockets, ready for rules to run. Raises `StartFault` and `ConfigError`.

    `checked` is what `check_start` has found; without it that is looked for here.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        # Looked at before anything is made, so that a faulty one leaves nothing behind.
        checked = checked or check_start(config)
        metrics = metrics or Metrics()
        database, queries, bus, hub, slow, accounts, rooms, messages, facts = await _open_base(stack, config, metrics)
        secrets = signing_secrets(config.auth, config.server.data_path)
        epoch = await facts.get_or_add("epoch", new_id())
        lobby_id = await prepare_lobby(config.server.lobby, rooms, facts, clock)
        bells = _Bells(*(Bell() for _ in _Bells._fields))
        options = _options_of(config)
        lag = DeliveryLag(hub, trio.current_time, metrics.delivery_seconds.observe)
        search_index = await enter(
            open_search_index(
                database, queries, metrics=metrics, per_second=config.search.index_per_second,
                is_on=lambda: options.features.search,
            )
        )  # fmt: skip
        previews = Previews(config.previews, is_on=config.messages.link_previews)
        notifier, deliveries = Notifier(on_work=bells.concerns.ring), Deliveries(hub)
        #: Who is shown each event that this node has committed, in this order.
        witnesses: tuple[Witness, ...] = (
            hub.note_stored, partial(_announce, bus), search_index.note, previews.note, notifier.note,
            deliveries.note_written,
        )  # fmt: skip
        #: Outboxes that hold an acknowledgement until the batch's events have been sent.
        holding: list[Outbox] = []
        journal = await enter(
            open_journal(
                database, queries, _journal_options(config), clock=clock, metrics=metrics,
                publish=partial(_publish, bus, lag, witnesses), after_batch=partial(flush, holding),
            )
        )  # fmt: skip
        arrivals = await enter(open_loader(partial(read_arrivals, accounts, rooms), gather_s=GATHER_S))
        missed = await enter(open_loader(messages.events_of, max_keys=STRETCHES_AT_ONCE))
        receipts = Receipts(database, queries)
        marks = await enter(open_loader(partial(store_marks, receipts, clock), max_keys=MARKS_AT_ONCE, gather_s=MARK_S))
        readers = await enter(open_loader(partial(receipts.readers, limit=MAX_NAMED)))
        followers, second_looks = Followers(), SecondLooks()
        audit, trail = Audit(clock, on_work=bells.noted.ring), AuditTrail(database, queries)
        files, depot = Files(database, queries), await enter(open_uploads(config.uploads, clock=clock))
        sessions = Sessions(hub, bus, follow=followers.queue, look_again=second_looks.queue)
        seconds, previous = trio.current_time, secrets.previous or Secret()
        chat = Chat(
            options=options,
            epoch=epoch,
            clock=clock,
            seconds=seconds,
            bus=bus,
            hub=hub,
            journal=journal,
            accounts=accounts,
            rooms=rooms,
            moderation=Moderation(database, queries),
            lobby_id=lobby_id,
            messages=messages,
            arrivals=arrivals,
            missed=missed,
            sessions=sessions,
            statuses=Statuses(database, queries),
            presence=Presence(hub, on_news=bells.news.ring),
            typists=Typists(hub, bus, sessions, options=config.typing, seconds=seconds, on_due=bells.typing.ring),
            tokens=Tokens(secrets.current, previous, access_s=config.auth.access_minutes * 60),
            passwords=Passwords(cost=config.auth.bcrypt_cost, workers=config.auth.bcrypt_workers),
            word_filter=checked.word_filter,
            metrics=metrics,
            health=new_health(seconds),
            holding=holding,
            search=Search(database, queries),
            notifications=Notifications(database, queries),
            notifier=notifier,
            receipts=receipts,
            marks=marks,
            cursors=Cursors(hub, readers, seconds=seconds),
            deliveries=deliveries,
            direct=Conversations(database, queries),
            blocks=Blocks(database, queries),
            chats=Chats(database, queries),
            files=files,
            depot=depot,
            file_links=FileLinks(secrets.current, previous),
            canary=Canary(hub),
            audit=audit,
            slow=slow,
        )
        hub.on_signal = partial(_hear_signal, chat)
        async with (
            open_audit(audit, trail, config.audit, metrics=metrics, bell=bells.noted, clock=clock),
            open_upkeep(chat, facts, followers, second_looks),
            open_signals(chat, bells.news, bells.typing),
            open_notifier(chat, bells.concerns),
            open_cleaning(files, depot.blobs, config.uploads, clock=clock),
            open_previews(chat, previews),
        ):
            yield chat


class _Base(NamedTuple):
    """What everything else is made of."""

    database: Database
    queries: Queries
    bus: Bus
    hub: Hub
    slow: SlowLog
    accounts: Accounts
    rooms: Rooms
    messages: Messages
    facts: Facts


async def _open_base(stack: AsyncExitStack, config: Config, metrics: Metrics) -> _Base:
    database, queries, bus = await stack.enter_async_context(
        open_back_ends(
            config.server.data_path, config.database, config.bus, node_name=config.server.node_name,
            silence_s=config.presence.offline_after_s,
        )
    )  # fmt: skip
    await prepare_schema(database, queries, config.database)
    slow = SlowLog(config.telemetry.slow_ms)
    database = TimedDatabase(database, metrics, slow)
    accounts, rooms = Accounts(database, queries), Rooms(database, queries)
    messages, facts = Messages(database, queries), Facts(database, queries)
    options = HubOptions(tail_events=config.messages.tail, slice_receivers=config.websocket.fanout_slice)
    hub = await stack.enter_async_context(
        open_hub(bus, options, read_last_seqs=rooms.last_seqs, read_events=messages.events_after)
    )
    return _Base(database, queries, bus, hub, slow, accounts, rooms, messages, facts)


class _Bells(NamedTuple):
    """What the tasks beside the connections sleep on."""

    concerns: Bell
    news: Bell
    typing: Bell
    noted: Bell


def _publish(bus: Bus, lag: DeliveryLag, witnesses: Sequence[Witness], events: Sequence[Event]) -> None:
    """What the journal does with what it has committed."""
    lag.follow(events[-1])
    bus.publish(events)
    for event in events:
        for show in witnesses:
            show(event)


def _announce(bus: Bus, event: Event) -> None:
    """Tell every node of what it has to act on, whoever listens to the room there."""
    if (notice := notice_of(event)) is not None:
        bus.announce(notice)


def _options_of(config: Config) -> Options:
    return Options(
        limits=config.limits,
        auth=config.auth,
        messages=config.messages,
        resume=config.resume,
        websocket=config.websocket,
        http=config.http,
        features=config.server.features,
        presence=config.presence,
        typing=config.typing,
        search=config.search,
        notifications=config.notifications,
        receipts=config.receipts,
        uploads=config.uploads,
    )


def _journal_options(config: Config) -> JournalOptions:
    return JournalOptions(
        max_waiting=config.database.journal_max_waiting,
        space_s=config.database.journal_space_s,
        max_entries=config.database.commit_max_entries,
        max_characters=config.database.commit_max_characters,
        max_members=config.limits.members_per_room,
        committers=config.database.committers if config.database.url else 1,
    )


def _hear_signal(chat: Chat, room_id: str, body: bytes, about: str, kind: str) -> None:
    """What other nodes tell rooms and this one remembers."""
    chat.typists.hear(room_id, body, about, kind)
    chat.cursors.hear(room_id, body, about, kind)
