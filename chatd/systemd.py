"""What systemd is told and what it hands over: ready, reloading, stopping, how it goes, and the listening sockets.

`server` uses it; without systemd nothing is told and nothing was handed over. The protocol is some datagrams and
variables (sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3)), which is less than a library around it. The watchdog
is fed only while the daemon does its part in delivering.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from chatd import telemetry
from chatd.backends import StartFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping

    from chatd.chat.context import Chat
    from chatd.health import Health

log = telemetry.get_logger(__name__)

#: The first descriptor that is handed over.
FIRST_DESCRIPTOR: Final = 3
#: What FileDescriptorName= of the .socket units may say.
NAMES: Final = ("websocket", "http")
#: Seconds between two looks at whether it is ready yet, and between two lines of STATUS.
LOOK_S: Final = 0.05
STATUS_S: Final = 5.0
#: The watchdog is fed so many times in its time.
FEEDS: Final = 3
#: Parts that are not the daemon's own: while one is out, a restart mends nothing and drops those who are connected.
BACK_ENDS: Final = frozenset({"database", "bus"})


class Systemd:
    """The service manager that started this process, if one did."""

    def __init__(
        self, address: str = "", *, watchdog_s: float = 0.0, sockets: Mapping[str, list[socket.socket]] | None = None
    ) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        #: Silence after which it kills the process; 0 is none.
        self.watchdog_s = watchdog_s
        self.sockets = sockets or {}
        self._is_ready = False

    @property
    def listens(self) -> bool:
        return bool(self._address)

    def tell(self, **states: str | int) -> None:
        """Send states like `STATUS="…"`. Never waits; what systemd cannot take is lost, and said so in the log."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in states.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), self._address)
        except OSError as error:
            log.warning("systemd_not_told", states=list(states), detail=str(error))

    def tell_ready(self, status: str) -> None:
        self._is_ready = True
        self.tell(READY=1, STATUS=status)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """A reload, from its beginning to its end. One that comes before the daemon is ready is none to systemd."""
        is_told = self._is_ready
        if is_told:
            self.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        try:
            yield
        finally:
            if is_told:
                self.tell(READY=1)


def take_systemd(environ: MutableMapping[str, str]) -> Systemd:
    """What the environment says of systemd, taken out of it, so that no child takes it for its own.

    The sockets are non-blocking and closed in children. Raises `StartFault`.
    """
    address = environ.pop("NOTIFY_SOCKET", "")
    watchdog_us, watchdog_pid = environ.pop("WATCHDOG_USEC", "0"), environ.pop("WATCHDOG_PID", "")
    count, pid = environ.pop("LISTEN_FDS", "0"), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "")
    own = str(os.getpid())
    is_watched = watchdog_us.isdecimal() and watchdog_pid in ("", own)
    sockets = _take_sockets(int(count), names.split(":")) if pid == own and count.isdecimal() else {}
    return Systemd(address, watchdog_s=int(watchdog_us) / 1e6 if is_watched else 0.0, sockets=sockets)


def _take_sockets(count: int, names: list[str]) -> dict[str, list[socket.socket]]:
    sockets: dict[str, list[socket.socket]] = {}
    for index in range(count):
        name = names[index] if index < len(names) else ""
        if name not in NAMES:
            raise StartFault(
                f"systemd hands over a socket named {name!r}: say FileDescriptorName=websocket or =http in its unit."
            )
        os.set_inheritable(FIRST_DESCRIPTOR + index, False)
        try:
            sock = socket.socket(fileno=FIRST_DESCRIPTOR + index)
            is_listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise StartFault(f"What systemd hands over as {name} is no socket ({error.strerror}).") from error
        if not is_listening or sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise StartFault(f"What systemd hands over as {name} does not listen on a TCP port: use ListenStream=.")
        sock.setblocking(False)
        sockets.setdefault(name, []).append(sock)
    return sockets


def does_its_part(health: Health) -> bool:
    """Whether delivery is proven, or what keeps it from being is a back end that says that it is out.

    Those who are connected stay connected then, and a restart would only drop them.
    """
    if health.is_ready or health.is_draining:
        return True
    return any(part.name in BACK_ENDS and part.fault for part in health.parts())


async def supervise(systemd: Systemd, chat: Chat, *, connections: Callable[[], int]) -> None:
    """Tell systemd that the daemon is ready when delivery is proven, then how it goes, and feed the watchdog."""
    if not systemd.listens:
        return
    while not chat.health.is_ready:
        if chat.health.is_draining:
            return
        # A start may take long (a large migration, a slow disk): it is not hung while this runs.
        systemd.tell(WATCHDOG=1)
        await trio.sleep(LOOK_S)
    systemd.tell_ready("Ready.")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell_status, systemd, chat, connections)
        if systemd.watchdog_s:
            nursery.start_soon(_feed, systemd, chat.health)


async def _tell_status(systemd: Systemd, chat: Chat, connections: Callable[[], int]) -> None:
    messages, deliveries, looked_at = chat.metrics.stored_messages(), chat.hub.deliveries, trio.current_time()
    while True:
        await trio.sleep(STATUS_S)
        if chat.health.is_draining:
            return
        was, had, before = messages, deliveries, looked_at
        messages, deliveries, looked_at = chat.metrics.stored_messages(), chat.hub.deliveries, trio.current_time()
        passed = looked_at - before
        systemd.tell(STATUS=status_line(connections(), (messages - was) / passed, (deliveries - had) / passed))


def status_line(connections: int, messages_per_second: float, deliveries_per_second: float) -> str:
    """What `systemctl status` shows."""
    rates = f"{messages_per_second:.1f} messages and {deliveries_per_second:.1f} deliveries a second"
    return f"{connections} connections, {rates}"


async def _feed(systemd: Systemd, health: Health) -> None:
    is_hungry = False
    while True:
        if does_its_part(health):
            systemd.tell(WATCHDOG=1)
            is_hungry = False
        elif not is_hungry:
            is_hungry = True
            stale = {part.name: part.fault for part in health.parts() if not part.is_fresh}
            log.error("watchdog_not_fed", parts=stale, detail=f"systemd restarts it after {systemd.watchdog_s:g} s.")
        await trio.sleep(systemd.watchdog_s / FEEDS)
