"""The JSON bodies of HTTP requests, and the paging parameters of their queries, as typed records.

Same field names and same kind of sentences as the WebSocket side; whatever is not a field is refused.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from chatd.decoding import half_pair_faults, nul_faults, validation_sentence
from chatd.errors import Refusal, bad_fields
from chatd.protocol import ClientMessageId, Id, MessageType

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

MAX_PAGE = 100
#: What an offset skips is read all the same, so far into a list only cursors lead.
MAX_OFFSET = 10_000
MAX_SEQ = 2**53
MAX_DIGITS = len(str(MAX_SEQ))
CURSORS = ("beforeSeq", "afterSeq", "lastMessageId", "after")


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    pass


class Registration(_Form, frozen=True, kw_only=True):
    """A new account. An absent field fails like an empty one, so that one answer names all that is wrong."""

    email: str = ""
    username: str = ""
    password: str = ""


class Login(_Form, frozen=True, kw_only=True):
    """A sign-in."""

    email: str
    password: str


class Refresh(_Form, frozen=True, kw_only=True):
    """A refresh token in exchange for a new pair."""

    refresh_token: Annotated[str, Meta(max_length=1000)]


class ProfileChange(_Form, frozen=True, kw_only=True):
    """What is absent stays; an empty text removes."""

    username: str | None = None
    display_name: str | None = None
    status_message: str | None = None
    avatar_file_id: str | None = None
    password: str | None = None
    old_password: str | None = None


#: Characters of a room's name.
MAX_ROOM_NAME = 100
RoomName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_ROOM_NAME)]
Topic: TypeAlias = Annotated[str, Meta(max_length=500)]


class RoomForm(_Form, frozen=True, kw_only=True):
    """A new room; `members` are user ids."""

    name: RoomName
    kind: Literal["public", "private"] = "public"
    topic: Topic | None = None
    members: Annotated[list[Id], Meta(max_length=1000)] = []


class SettingsForm(_Form, frozen=True, kw_only=True):
    """What is absent stays; 0 takes a bound away."""

    max_members: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    slow_mode_s: Annotated[int, Meta(ge=0, le=86_400)] | None = None


class RoomChangeForm(_Form, frozen=True, kw_only=True):
    """What is absent stays; an empty topic removes it."""

    name: RoomName | None = None
    topic: Topic | None = None
    settings: SettingsForm = SettingsForm()


class MemberForm(_Form, frozen=True, kw_only=True):
    """Somebody to be added to a room, or invited to it; an owner is made of a member."""

    user_id: Id
    role: Literal["moderator", "member", "readonly"] = "member"
    invite: bool = False


class MemberChangeForm(_Form, frozen=True, kw_only=True):
    """Another role, or until when somebody may not send: a time with its zone, or null for not any more."""

    role: Literal["owner", "moderator", "member", "readonly"] | None = None
    muted_until: Annotated[datetime, Meta(tz=True)] | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def is_muting(self) -> bool:
        """Something is said of muting, if only that it is over."""
        return self.muted_until is not msgspec.UNSET

    @property
    def muted_until_ms(self) -> int | None:
        return int(self.muted_until.timestamp() * 1000) if isinstance(self.muted_until, datetime) else None


class RemovalForm(_Form, frozen=True, kw_only=True):
    """Whether somebody who is removed is to be kept out, and why."""

    ban: bool = False
    reason: Annotated[str, Meta(max_length=500)] | None = None


class NotificationsRead(_Form, frozen=True, kw_only=True):
    """Notifications that were read; all of them where none are named."""

    ids: Annotated[list[Id], Meta(max_length=1000)] | None = None


class NotifyForm(_Form, frozen=True, kw_only=True):
    """What a member wants to hear of a room."""

    notify: Literal["all", "mentions", "none"]


class MessageForm(_Form, frozen=True, kw_only=True):
    """A message, as `send_message` has it."""

    content: str
    message_type: MessageType = "text"
    file_id: Id | None = None
    reply_to: Id | None = None
    metadata: dict[str, Any] | None = None
    client_message_id: ClientMessageId | None = None


class MarkForm(_Form, frozen=True, kw_only=True):
    """Up to where something was read; nothing given is the newest."""

    message_id: Id | None = None
    seq: Annotated[int, Meta(ge=0, le=MAX_SEQ)] | None = None


def read_form(body: bytes, form: type[T]) -> T:
    """A body as a form. Raises `Refusal` (`bad_message`) that names the field."""
    try:
        filled_in = msgspec.json.decode(body, type=form)
        faults = nul_faults(body.decode())
    except msgspec.ValidationError as error:
        raise Refusal("bad_message", validation_sentence(error, "the body", shape=form)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if faults := half_pair_faults(body.decode(errors="replace")):
            raise bad_fields(faults) from None
        raise Refusal("bad_message", f"The body is not JSON ({str(error)[:100]}).") from None
    if faults:
        raise bad_fields(faults)
    return filled_in


class PageQuery(NamedTuple):
    """Which page of a list is asked for."""

    limit: int
    offset: int
    before_seq: int | None
    after_seq: int | None
    last_message_id: str | None
    after_id: str


def read_page(query: Mapping[str, str], *, default_limit: int) -> PageQuery:
    """The paging parameters of a query. Raises `Refusal` (`bad_message`) that names the parameter."""
    page = PageQuery(
        limit=_number(query, "limit", 1, MAX_PAGE, default=default_limit),
        offset=_number(query, "offset", 0, MAX_OFFSET, default=0, hint="; further on use the cursors of the answer"),
        before_seq=_number(query, "beforeSeq", 0, MAX_SEQ, default=-1) if "beforeSeq" in query else None,
        after_seq=_number(query, "afterSeq", 0, MAX_SEQ, default=-1) if "afterSeq" in query else None,
        last_message_id=query.get("lastMessageId"),
        after_id=query.get("after", ""),
    )
    starts = [name for name in (*CURSORS, "offset") if name in query]
    if len(starts) > 1:
        raise Refusal("bad_message", f"Give one of `{'`, `'.join(starts)}`, not several.")
    return page


def _number(query: Mapping[str, str], name: str, lowest: int, highest: int, *, default: int, hint: str = "") -> int:
    text = query.get(name)
    if text is None:
        return default
    # Bounded before it is converted, which takes the square of the digits' time.
    if len(text) <= MAX_DIGITS and text.isascii() and text.isdigit() and lowest <= int(text) <= highest:
        return int(text)
    raise Refusal("bad_message", f"The parameter `{name}` is a number from {lowest} to {highest}{hint}.")
