"""What the rules work with: the store, the journal, the hub and the bus, the limits and the clock, in one record.

`server` makes it once; every rule, from either door, gets it as its first argument. Rates are made from the limits
here, so that a limit has one name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from chatd.chat.audit import Audit
from chatd.chat.word_filter import NO_WORDS, WordFilter
from chatd.config import NotificationOptions, ReceiptOptions, SearchOptions, UploadOptions
from chatd.errors import Refusal
from chatd.limits.rates import Rate
from chatd.slow import SlowLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from chatd.bus.hub import Hub
    from chatd.bus.port import Bus, Event, Notice
    from chatd.chat.canary import Canary
    from chatd.chat.delivered import Deliveries
    from chatd.chat.notifications import Notifier
    from chatd.chat.presence import Presence
    from chatd.chat.receipts import Cursors
    from chatd.chat.sessions import Sessions
    from chatd.chat.typists import Typists
    from chatd.clock import Clock
    from chatd.config import (
        AuthOptions,
        Features,
        HttpOptions,
        LimitOptions,
        MessageOptions,
        PresenceOptions,
        ResumeOptions,
        TypingOptions,
        WebSocketOptions,
    )
    from chatd.files.depot import Depot
    from chatd.health import Health
    from chatd.identity.links import FileLinks
    from chatd.identity.passwords import Passwords
    from chatd.identity.tokens import Tokens
    from chatd.loader import Loader
    from chatd.metrics import Metrics
    from chatd.store.accounts import Accounts, Standing
    from chatd.store.blocks import Blocks
    from chatd.store.chats import Chats
    from chatd.store.direct import Conversations
    from chatd.store.files import Files
    from chatd.store.journal import Journal
    from chatd.store.messages import Messages, Stretch
    from chatd.store.moderation import Moderation
    from chatd.store.notifications import Notifications
    from chatd.store.presence import Statuses
    from chatd.store.receipts import Mark, Read, Receipts
    from chatd.store.rooms import OwnRoom, Rooms
    from chatd.store.search import Search
    from chatd.wire.outbox import Outbox


class Arrival(NamedTuple):
    """What a connection needs to know when it authenticates, from one state of the database."""

    standing: Standing | None
    rooms: list[OwnRoom]


@dataclass(slots=True)
class Options:
    """The tables of chatd.toml that the rules read, each time anew: a reload puts others in their place."""

    limits: LimitOptions
    auth: AuthOptions
    messages: MessageOptions
    resume: ResumeOptions
    websocket: WebSocketOptions
    http: HttpOptions
    features: Features
    presence: PresenceOptions
    typing: TypingOptions
    search: SearchOptions = field(default_factory=SearchOptions)
    notifications: NotificationOptions = field(default_factory=NotificationOptions)
    receipts: ReceiptOptions = field(default_factory=ReceiptOptions)
    uploads: UploadOptions = field(default_factory=UploadOptions)
    rates: Rates = field(init=False)

    def __post_init__(self) -> None:
        self.limit(self.limits)

    def limit(self, limits: LimitOptions) -> None:
        """Put other limits, and the rates that they make, in the place of these."""
        self.limits, self.rates = limits, rates_of(limits)


class Rates(NamedTuple):
    """The limits that refill, as rates."""

    messages: Rate
    requests: Rate
    rooms: Rate
    joins: Rate
    conversations: Rate
    renames: Rate
    sign_ins: Rate
    api: Rate
    uploads: Rate


def rates_of(limits: LimitOptions) -> Rates:
    return Rates(
        messages=Rate(limits.messages_per_minute, 60.0),
        requests=Rate(limits.requests_per_minute, 60.0),
        rooms=Rate(limits.rooms_per_hour, 3600.0),
        joins=Rate(limits.joins_per_hour, 3600.0),
        conversations=Rate(limits.conversations_per_hour, 3600.0),
        renames=Rate(limits.renames_per_hour, 3600.0),
        sign_ins=Rate(limits.sign_ins_per_hour, 3600.0),
        api=Rate(limits.api_per_minute, 60.0),
        uploads=Rate(limits.uploads_per_hour, 3600.0),
    )


@dataclass(frozen=True, slots=True)
class Chat:
    """Everything that rules use. `seconds` is the event loop's clock, `clock` the time of day."""

    options: Options
    epoch: str
    clock: Clock
    seconds: Callable[[], float]
    bus: Bus
    hub: Hub
    journal: Journal
    accounts: Accounts
    rooms: Rooms
    moderation: Moderation
    #: The first room of this database, which is nobody's to delete but an administrator's.
    lobby_id: str
    messages: Messages
    arrivals: Loader[tuple[str, str], Arrival]
    #: What was missed of rooms, read once for all who ask for the same.
    missed: Loader[Stretch, list[Event]]
    sessions: Sessions
    statuses: Statuses
    presence: Presence
    typists: Typists
    tokens: Tokens
    passwords: Passwords
    metrics: Metrics
    health: Health
    #: Outboxes that hold an acknowledgement until the batch's events have been sent.
    holding: list[Outbox]
    search: Search
    notifications: Notifications
    notifier: Notifier
    receipts: Receipts
    #: What members have read, stored together for all who say so at the same time.
    marks: Loader[Mark, Read]
    cursors: Cursors
    deliveries: Deliveries
    direct: Conversations
    blocks: Blocks
    chats: Chats
    files: Files
    depot: Depot
    file_links: FileLinks
    canary: Canary
    audit: Audit = field(default_factory=Audit)
    slow: SlowLog = field(default_factory=SlowLog)
    word_filter: WordFilter = NO_WORDS

    @property
    def rates(self) -> Rates:
        return self.options.rates


def flush(holding: list[Outbox]) -> None:
    """Send the acknowledgements that no event took along. The journal calls it after each batch."""
    for outbox in holding:
        outbox.flush()
    holding.clear()


def tell_all(chat: Chat, notice: Notice) -> None:
    """Have a notice acted on here at once and on every node as soon as it gets there; twice does no harm."""
    chat.sessions.heed(notice)
    chat.bus.announce(notice)


async def take(chat: Chat, key: str, rate: Rate, detail: str) -> None:
    """Take one from a shared budget. Raises `Refusal` (`rate_limited`) with the time after which there is one."""
    wait_ms = await chat.bus.take(key, rate)
    if wait_ms:
        raise Refusal("rate_limited", detail, retry_after_ms=wait_ms)
