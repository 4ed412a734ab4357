"""The configuration read again while the daemon serves: what can change live changes, and the rest is named in the log.

`server` calls it at SIGHUP. A file that cannot be used changes nothing and says so. What can change live stands in
`configfile.LIVE`; everything else stays as it was at the start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import trio

from chatd import telemetry
from chatd.config import Config, ConfigError
from chatd.configfile import differing_options, with_live_options

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.limits.admission import Admission
    from chatd.tls import Certificates

log = telemetry.get_logger(__name__)

#: Reads the configuration as it is now, in a thread. Raises `ConfigError`.
ReadConfig: TypeAlias = Callable[[], Config]


class Reload:
    """Reads again, as often as it is asked to. `config` is what the daemon runs with."""

    def __init__(
        self, config: Config, read: ReadConfig, *, chat: Chat, admission: Admission, certificates: Certificates
    ) -> None:
        self.config = config
        self._read = read
        self._chat = chat
        self._admission = admission
        self._certificates = certificates

    async def run(self) -> None:
        """Read, change what can change, and say what became of it. Raises nothing."""
        try:
            read = await trio.to_thread.run_sync(self._read)
            # Their files may be new where no option is.
            contexts = await trio.to_thread.run_sync(self._certificates.read)
        except ConfigError as error:
            log.warning("reload_refused", detail=f"Nothing has changed: {error}")
            return
        config = with_live_options(self.config, read)
        changed, waiting = differing_options(self.config, config), differing_options(config, read)
        self.config = config
        self._follow()
        for certificate, context in contexts:
            certificate.use(context)
        log.info("reloaded", changed=changed)
        if waiting:
            log.warning("restart_to_change", options=waiting, detail="These options are read at the start only.")

    def _follow(self) -> None:
        """Everything that keeps an option which can change live, and does not read it from `Chat.options`."""
        config, options = self.config, self._chat.options
        options.limit(config.limits)
        options.features = config.server.features
        options.typing = self._chat.typists.options = config.typing
        options.websocket, options.http = config.websocket, config.http
        self._admission.limits = config.limits
        self._chat.journal.bound_members(config.limits.members_per_room)
        telemetry.change_level(config.telemetry.log_level)
