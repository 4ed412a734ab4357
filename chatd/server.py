"""The life of the process: listeners, signals, and the drain at the end.

`serve` puts the two listeners in front of everything that `assembly` opens, and waits for a signal. Stopping: nothing
new is accepted, every client hears `server_shutdown` with a delay of its own, what is being committed is finished,
connections close with 1012, and the process ends within `server.drain_s`; a second signal ends it at once.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.assembly import check_start, open_chat
from chatd.backends import hold_data_folder
from chatd.canary import run_canary, with_own_door
from chatd.chat.routes import answer
from chatd.collector import Collector
from chatd.diagnosis import dump, measure
from chatd.limits.addresses import parse_networks
from chatd.limits.admission import Admission
from chatd.listener import serve_http
from chatd.nursery import Door, serve_websockets
from chatd.process import LOOK
from chatd.reload import ReadConfig, Reload
from chatd.sockets import bind, listening
from chatd.systemd import Systemd, supervise
from chatd.tls import Certificate, TlsListener

if TYPE_CHECKING:
    import socket

    from chatd.assembly import Checked
    from chatd.chat.context import Chat
    from chatd.config import Config

log = telemetry.get_logger(__name__)

#: Seconds between two collections of what is new.
COLLECT_S: Final = 0.05
#: Clients that are told of the shutdown before the loop turns to others.
DRAIN_BATCH: Final = 200
#: Clients are asked to come back within so many milliseconds at least, and one more for each connection.
RECONNECT_MS: Final = 1000

#: Called when both ports are open: with the WebSocket's and the HTTP side's port.
OnListening = Callable[[int, int], None]


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
    # Looked at before anything is bound or made, so that a faulty one leaves nothing behind.
    checked = check_start(config)
    certificates = checked.certificates
    with listening(config, systemd.sockets) as (websocket_sockets, http_sockets):
        # Asked now: who is told to stop while it starts has closed them by the time that this is told.
        ports = websocket_sockets[0].getsockname()[1], http_sockets[0].getsockname()[1]
        async with _open_alone(config, checked) as chat:
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
async def _open_alone(config: Config, checked: Checked) -> AsyncIterator[Chat]:
    """`open_chat` as the only daemon of the data folder.

    Nodes that share a database may share a folder: nothing in it is theirs alone.
    """
    with nullcontext() if config.database.url else hold_data_folder(config.server.data_path):
        async with open_chat(config, checked) as chat:
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
    listened = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, LOOK
    with trio.open_signal_receiver(*listened) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                with systemd.reloading():
                    await reload.run()
                continue
            if number == signal.SIGUSR1:
                await dump(door)
                continue
            if number == LOOK:
                # As if the bus had been out: whatever it would have told is read from the database.
                door.chat.hub.hear_return()
                continue
            if draining.is_set():
                log.warning("stopped_at_once", signal=signal.Signals(number).name)
                os._exit(1)
            log.info("stopping", signal=signal.Signals(number).name)
            draining.set()


async def _collect_garbage(door: Door) -> None:
    collector = Collector(trio.current_time())
    while True:
        await trio.sleep(COLLECT_S)
        collector.keep_up(trio.current_time(), live=len(door.connections), ever=door.admission.ever)


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
