"""The life of the process: back ends, listeners, signals, and the drain at the end.

`open_chat` opens everything behind the sockets, in an order in which each thing closes before what it needs; `serve`
puts the two listeners in front of it and waits for a signal. Stopping: nothing new is accepted, every client hears
`server_shutdown` with a delay of its own, what is being committed is finished, connections close with 1012, and the
process ends within `server.drain_s`; a second signal ends it at once.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.audit import open_audit
from chatd.backends import (
    StartFault,
    check_back_ends,
    hold_data_folder,
    open_back_ends,
    open_uploads,
    prepare_lobby,
    prepare_schema,
)
from chatd.bus.hub import HubOptions, open_hub
from chatd.bus.lag import DeliveryLag
from chatd.canary import run_canary, with_own_door
from chatd.chat.audit import Audit
from chatd.chat.canary import Canary
from chatd.chat.context import Chat, Options, flush
from chatd.chat.delivered import Deliveries
from chatd.chat.notifications import Notifier
from chatd.chat.presence import Presence
from chatd.chat.receipts import MAX_NAMED, Cursors, store_marks
from chatd.chat.routes import answer
from chatd.chat.sessions import Sessions, notice_of
from chatd.chat.typists import Typists
from chatd.chat.word_filter import read_word_filter
from chatd.clock import Clock, wall_clock_ms
from chatd.collector import Collector
from chatd.config import Config, Secret
from chatd.diagnosis import dump, measure
from chatd.files.cleaning import open_cleaning
from chatd.identity.credentials import check_signing_secrets, signing_secrets
from chatd.identity.links import FileLinks
from chatd.identity.passwords import Passwords
from chatd.identity.tokens import Tokens
from chatd.ids import new_id
from chatd.limits.addresses import parse_networks
from chatd.limits.admission import Admission
from chatd.listener import serve_http
from chatd.loader import open_loader
from chatd.metrics import Metrics
from chatd.notifier import open_notifier
from chatd.nursery import Door, serve_websockets
from chatd.previews import Previews, open_previews
from chatd.reload import ReadConfig, Reload
from chatd.signals import Bell, open_signals
from chatd.slow import SlowLog
from chatd.sockets import bind, listening
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
from chatd.systemd import Systemd, supervise
from chatd.tls import Certificate, TlsListener, read_certificates
from chatd.upkeep import Followers, SecondLooks, new_health, open_upkeep, read_arrivals

if TYPE_CHECKING:
    import socket

    from chatd.bus.port import Event
    from chatd.wire.outbox import Outbox

log = telemetry.get_logger(__name__)

#: Seconds between two looks at whether there is garbage to collect.
COLLECT_S: Final = 0.25
#: Clients that are told of the shutdown before the loop turns to others.
DRAIN_BATCH: Final = 200
#: Clients are asked to come back within so many milliseconds at least, and one more for each connection.
RECONNECT_MS: Final = 1000
#: Seconds in which those who authenticate one after the other gather for one read.
GATHER_S: Final = 0.02
#: Seconds in which what is read by many gathers for one statement, and marks that one takes.
MARK_S: Final = 0.05
MARKS_AT_ONCE: Final = 200
#: Stretches of rooms' histories that are read by one query: what they hold is in memory together.
STRETCHES_AT_ONCE: Final = 16

#: Called when both ports are open: with the WebSocket's and the HTTP side's port.
OnListening = Callable[[int, int], None]


@asynccontextmanager
async def open_chat(
    config: Config, *, clock: Clock = wall_clock_ms, metrics: Metrics | None = None
) -> AsyncIterator[Chat]:
    """Everything behind the sockets, ready for rules to run. Raises `StartFault` and `ConfigError`."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        # Looked at before anything is made, so that a faulty one leaves nothing behind.
        check_start(config)
        data_path = config.server.data_path
        database, queries, bus = await enter(
            open_back_ends(
                data_path, config.database, config.bus, node_name=config.server.node_name,
                silence_s=config.presence.offline_after_s,
            )
        )  # fmt: skip
        await prepare_schema(database, queries, config.database)
        secrets = signing_secrets(config.auth, data_path)
        metrics, slow = metrics or Metrics(), SlowLog(config.telemetry.slow_ms)
        database = TimedDatabase(database, metrics, slow)
        accounts, rooms = Accounts(database, queries), Rooms(database, queries)
        messages, facts = Messages(database, queries), Facts(database, queries)
        epoch = await facts.get_or_add("epoch", new_id())
        lobby_id = await prepare_lobby(config.server.lobby, rooms, facts, clock)

        hub_options = HubOptions(tail_events=config.messages.tail, slice_receivers=config.websocket.fanout_slice)
        hub = await enter(open_hub(bus, hub_options, read_last_seqs=rooms.last_seqs, read_events=messages.events_after))
        holding: list[Outbox] = []
        concerns = Bell()
        notifier = Notifier(on_work=concerns.ring)
        deliveries = Deliveries(hub)
        options = Options(
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
        previews = Previews(config.previews, is_on=config.messages.link_previews)
        search_index = await enter(
            open_search_index(
                database, queries, metrics=metrics, per_second=config.search.index_per_second,
                is_on=lambda: options.features.search,
            )
        )  # fmt: skip

        lag = DeliveryLag(hub, trio.current_time, metrics.delivery_seconds.observe)

        def publish(events: Sequence[Event]) -> None:
            lag.follow(events[-1])
            bus.publish(events)
            for event in events:
                hub.note_stored(event)
                search_index.note(event)
                previews.note(event)
                notifier.note(event)
                deliveries.note_written(event)
                if (notice := notice_of(event)) is not None:
                    bus.announce(notice)

        journal_options = JournalOptions(
            max_waiting=config.database.journal_max_waiting,
            max_entries=config.database.commit_max_entries,
            max_characters=config.database.commit_max_characters,
            max_members=config.limits.members_per_room,
            committers=config.database.committers if config.database.url else 1,
        )
        journal = await enter(
            open_journal(
                database, queries, journal_options, clock=clock, metrics=metrics, publish=publish,
                after_batch=partial(flush, holding),
            )
        )  # fmt: skip
        arrivals = await enter(open_loader(partial(read_arrivals, accounts, rooms), gather_s=GATHER_S))
        missed = await enter(open_loader(messages.events_of, max_keys=STRETCHES_AT_ONCE))
        receipts = Receipts(database, queries)
        marks = await enter(open_loader(partial(store_marks, receipts, clock), max_keys=MARKS_AT_ONCE, gather_s=MARK_S))
        readers = await enter(open_loader(partial(receipts.readers, limit=MAX_NAMED)))
        followers, second_looks, news, typing = Followers(), SecondLooks(), Bell(), Bell()
        noted = Bell()
        audit, trail = Audit(clock, on_work=noted.ring), AuditTrail(database, queries)
        files, depot = Files(database, queries), await enter(open_uploads(config.uploads, clock=clock))
        sessions = Sessions(hub, bus, follow=followers.queue, look_again=second_looks.queue)
        chat = Chat(
            options=options,
            epoch=epoch,
            clock=clock,
            seconds=trio.current_time,
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
            presence=Presence(hub, on_news=news.ring),
            typists=Typists(hub, bus, sessions, options=config.typing, seconds=trio.current_time, on_due=typing.ring),
            tokens=Tokens(secrets.current, secrets.previous or Secret(), access_s=config.auth.access_minutes * 60),
            passwords=Passwords(cost=config.auth.bcrypt_cost, workers=config.auth.bcrypt_workers),
            word_filter=read_word_filter(config.messages),
            metrics=metrics,
            health=new_health(trio.current_time),
            holding=holding,
            search=Search(database, queries),
            notifications=Notifications(database, queries),
            notifier=notifier,
            receipts=receipts,
            marks=marks,
            cursors=Cursors(hub, readers, seconds=trio.current_time),
            deliveries=deliveries,
            direct=Conversations(database, queries),
            blocks=Blocks(database, queries),
            chats=Chats(database, queries),
            files=files,
            depot=depot,
            file_links=FileLinks(secrets.current, secrets.previous or Secret()),
            canary=Canary(hub),
            audit=audit,
            slow=slow,
        )
        hub.on_signal = partial(_hear_signal, chat)
        async with (
            open_audit(audit, trail, config.audit, metrics=metrics, bell=noted, clock=clock),
            open_upkeep(chat, facts, followers, second_looks),
            open_signals(chat, news, typing),
            open_notifier(chat, concerns),
            open_cleaning(files, depot.blobs, config.uploads, clock=clock),
            open_previews(chat, previews),
        ):
            yield chat


def _hear_signal(chat: Chat, room_id: str, body: bytes, about: str, kind: str) -> None:
    """What other nodes tell rooms and this one remembers."""
    chat.typists.hear(room_id, body, about, kind)
    chat.cursors.hear(room_id, body, about, kind)


def check_start(config: Config) -> None:
    """Look for what keeps a daemon from starting, changing nothing. Raises `StartFault` and `ConfigError`."""
    is_shared = bool(config.database.url and config.bus.url)
    for table, options in (("websocket", config.websocket), ("http", config.http)):
        if options.reuse_port and not is_shared:
            raise StartFault(
                f"[{table}] reuse_port: daemons that share a port share their rooms: give [database] url and [bus] url."
            )
    read_word_filter(config.messages)
    read_certificates(config.websocket, config.http)
    check_signing_secrets(config.auth, config.server.data_path, is_shared=bool(config.database.url))
    check_back_ends(config.server.data_path, config.database, config.bus)


# -- serving ------------------------------------------------------------------------------------------------------


async def serve(
    config: Config,
    on_listening: OnListening,
    *,
    stop: trio.Event | None = None,
    reread: ReadConfig | None = None,
    systemd: Systemd | None = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT, or until `stop` is set. Raises `StartFault` and `ConfigError`.

    `reread` reads the configuration again at SIGHUP; without it nothing changes. `systemd` is told how it goes, and the
    sockets that it hands over are closed at the end.
    """
    systemd = systemd or Systemd()
    draining = trio.Event() if stop is None else stop
    certificates = read_certificates(config.websocket, config.http)
    with listening(config, systemd.sockets) as (websocket_sockets, http_sockets):
        # Asked now: who is told to stop while it starts has closed them by the time that this is told.
        ports = websocket_sockets[0].getsockname()[1], http_sockets[0].getsockname()[1]
        async with _open_alone(config) as chat:
            admission = Admission(config.limits, trio.current_time)
            proxies = parse_networks(config.http.trusted_proxies)
            door = with_own_door(Door(chat, config.websocket, admission, chat.metrics, proxies, certificates.websocket))
            async with trio.open_nursery() as nursery:
                # Who hears that it listens may stop it at once.
                reload = Reload(
                    config, reread or (lambda: config), chat=chat, admission=admission, certificates=certificates
                )
                await nursery.start(_watch_signals, draining, reload, systemd, door)
                chat.metrics.lookers.append(partial(measure, door))
                nursery.start_soon(_collect_garbage, door)
                nursery.start_soon(partial(supervise, systemd, chat, connections=lambda: len(door.connections)))
                async with trio.open_nursery() as serving:
                    # Of a port that several daemons share the kernel says who accepts; the canary gets one of its own.
                    own = bind("websocket", "127.0.0.1", 0) if config.websocket.reuse_port else []
                    serving.start_soon(partial(serve_websockets, [*websocket_sockets, *own], door, draining=draining))
                    serving.start_soon(_serve_http, config, http_sockets, chat, draining, certificates.http)
                    proving = partial(run_canary, speaks_tls=certificates.websocket is not None)
                    await serving.start(proving, chat, own or websocket_sockets, config.telemetry.canary_s, draining)
                    on_listening(*ports)
                    await draining.wait()
                    systemd.tell(STOPPING=1, STATUS="Draining.")
                    # What is left of the time is for the journal, which commits what waits as it closes.
                    serving.cancel_scope.deadline = trio.current_time() + 0.9 * config.server.drain_s
                    await _tell_all(chat, door)
                log.info("drained", late=serving.cancel_scope.cancelled_caught)
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def _open_alone(config: Config) -> AsyncIterator[Chat]:
    """`open_chat` as the only daemon of the data folder, which is looked at before the lock is put into it.

    Nodes that share a database may share a folder: nothing in it is theirs alone.
    """
    check_start(config)
    with nullcontext() if config.database.url else hold_data_folder(config.server.data_path):
        async with open_chat(config) as chat:
            yield chat


async def _serve_http(
    config: Config, sockets: list[socket.socket], chat: Chat, draining: trio.Event, certificate: Certificate | None
) -> None:
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
    await serve_http(
        [TlsListener(listener, certificate) for listener in listeners] if certificate else listeners,
        partial(answer, chat),
        draining=draining,
        options=config.http,
        hsts=config.server.public_url.startswith("https://"),
        metrics=chat.metrics,
        cors_origins=lambda: chat.options.http.cors_origins,
    )


async def _watch_signals(
    draining: trio.Event, reload: Reload, systemd: Systemd, door: Door, *, task_status: trio.TaskStatus[None]
) -> None:
    """The first SIGTERM or SIGINT begins the drain; the second ends the process where it stands."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                with systemd.reloading():
                    await reload.run()
                continue
            if number == signal.SIGUSR1:
                await dump(door)
                continue
            if draining.is_set():
                log.warning("stopped_at_once", signal=signal.Signals(number).name)
                os._exit(1)
            log.info("stopping", signal=signal.Signals(number).name)
            draining.set()


async def _collect_garbage(door: Door) -> None:
    collector = Collector()
    while True:
        await trio.sleep(COLLECT_S)
        collector.keep_up(live=len(door.connections), ever=door.admission.ever)


async def _tell_all(chat: Chat, door: Door) -> None:
    """Tell every client to come back, each at a time of its own, so that they do not all come at once."""
    door.admission.is_draining = True
    chat.health.is_draining = True
    for scope in list(door.upgrading):
        scope.cancel()
    spread_ms = RECONNECT_MS + len(door.connections)
    for index, connection in enumerate(list(door.connections)):
        connection.shut_down(int(random.uniform(0, spread_ms)))  # noqa: S311 - spreads load, no secret
        if index % DRAIN_BATCH == DRAIN_BATCH - 1:
            await trio.lowlevel.checkpoint()
