"""What each path of the HTTP side takes and answers, for the contract that is made of it (`chatd.schema`).

One row a route, by its method and path; `routes` has the routes themselves. A path that answers no JSON of a record's
shape has neither form nor answer here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from chatd.chat import forms
from chatd.records import (
    Ban,
    BlockedUser,
    ChatEntry,
    Member,
    Message,
    Receipt,
    Room,
    SearchResult,
    UploadedFile,
    User,
    UserNotification,
)
from chatd.schema import Operation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class _Row(NamedTuple):
    """As `schema.Operation`, without what the route says."""

    summary: str
    form: type | None = None
    answer: type | None = None
    noun: str | None = None
    query: Sequence[str] = ()
    status: int = 200


class _Route(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def is_open(self) -> bool: ...


_PAGE: Final = ("limit", "offset", "after")
_HISTORY: Final = ("limit", "offset", "beforeSeq", "afterSeq", "lastMessageId")

ROWS: Final[dict[tuple[str, str], _Row]] = {
    ("POST", "/api/auth/register"): _Row("Make an account and sign in.", forms.Registration, status=201),
    ("POST", "/api/auth/login"): _Row("Sign in.", forms.Login),
    ("POST", "/api/auth/refresh"): _Row("Exchange a refresh token for a new pair.", forms.Refresh),
    ("POST", "/api/auth/logout"): _Row("End this session, or every session of the user.", query=("all",)),
    ("GET", "/api/users/me"): _Row("One's own profile.", answer=User),
    ("PATCH", "/api/users/me"): _Row("Change one's own profile or password.", forms.ProfileChange, User),
    ("GET", "/api/users"): _Row("Up to 100 profiles.", answer=User, noun="users", query=("ids",)),
    ("GET", "/api/users/:id"): _Row("One profile.", answer=User),
    ("GET", "/api/rooms"): _Row("Public rooms and one's own.", answer=Room, noun="rooms", query=_PAGE),
    ("POST", "/api/rooms"): _Row("Make a room.", forms.RoomForm, Room, status=201),
    ("GET", "/api/rooms/:id"): _Row("A room.", answer=Room),
    ("PATCH", "/api/rooms/:id"): _Row("Change a room.", forms.RoomChangeForm, Room),
    ("DELETE", "/api/rooms/:id"): _Row("Delete a room."),
    ("GET", "/api/rooms/:id/members"): _Row("Who is in a room.", answer=Member, noun="members", query=_PAGE),
    ("POST", "/api/rooms/:id/members"): _Row("Add or invite somebody.", forms.MemberForm, status=201),
    ("GET", "/api/rooms/:id/members/me"): _Row("What one wants to hear of a room.", answer=forms.NotifyForm),
    ("PATCH", "/api/rooms/:id/members/me"): _Row(
        "Choose what to hear of a room.", forms.NotifyForm, forms.NotifyForm
    ),
    ("PATCH", "/api/rooms/:id/members/:userId"): _Row(
        "Change a member's role, or mute them.", forms.MemberChangeForm, Member
    ),
    ("DELETE", "/api/rooms/:id/members/:userId"): _Row("Remove or ban a member.", forms.RemovalForm),
    ("GET", "/api/rooms/:id/bans"): _Row("Who is kept out of a room.", answer=Ban, noun="bans", query=_PAGE),
    ("DELETE", "/api/rooms/:id/bans/:userId"): _Row("Lift a ban."),
    ("GET", "/api/rooms/:id/messages"): _Row("History.", answer=Message, noun="messages", query=_HISTORY),
    ("POST", "/api/rooms/:id/messages"): _Row("Send a message.", forms.MessageForm, Message, status=201),
    ("GET", "/api/rooms/:id/pins"): _Row(
        "Pinned messages.", answer=Message, noun="messages", query=("limit", "offset")
    ),
    ("GET", "/api/messages/:id/thread"): _Row("A message's replies.", answer=Message, noun="messages", query=_HISTORY),
    ("GET", "/api/messages/:id/receipts"): _Row(
        "Who got and read a message, and when.", answer=Receipt, noun="receipts", query=_PAGE
    ),
    ("GET", "/api/notifications"): _Row(
        "What concerns oneself.", answer=UserNotification, noun="notifications", query=("limit", "after")
    ),
    ("POST", "/api/notifications/read"): _Row("Mark notifications read.", forms.NotificationsRead),
    ("GET", "/api/chats"): _Row("The chat list.", answer=ChatEntry, noun="chats", query=_PAGE),
    ("GET", "/api/direct-messages/unread"): _Row("How many direct messages are unread."),
    ("GET", "/api/direct-messages/:userId"): _Row(
        "A conversation.", answer=Message, noun="messages", query=_HISTORY
    ),
    ("POST", "/api/direct-messages/:userId/read"): _Row("Mark a conversation read.", forms.MarkForm),
    ("GET", "/api/blocks"): _Row("Whom one blocks.", answer=BlockedUser, noun="users", query=_PAGE),
    ("PUT", "/api/users/:id/block"): _Row("Block a user."),
    ("DELETE", "/api/users/:id/block"): _Row("Unblock a user."),
    ("GET", "/api/search"): _Row(
        "Messages by their words.", answer=SearchResult, noun="results",
        query=("q", "roomId", "from", "limit", "offset"),
    ),
    ("POST", "/api/upload"): _Row("Upload a file: a multipart form with the field `file`.", status=201),
    ("GET", "/api/upload"): _Row("One's own uploads.", answer=UploadedFile, noun="files", query=("limit", "after")),
    ("DELETE", "/api/upload/:id"): _Row("Remove an upload that no message shows."),
    ("GET", "/api/files/:name"): _Row("A file."),
    ("POST", "/api/files/:name/link"): _Row("Make a link to a file that works without a token.", status=201),
    ("GET", "/api/openapi.json"): _Row("The contract of the HTTP side."),
    ("GET", "/api/asyncapi.json"): _Row("The contract of the WebSocket side."),
    ("GET", "/healthz"): _Row("Alive."),
    ("GET", "/readyz"): _Row("Ready, with the age of each part's last proof."),
    ("GET", "/metrics"): _Row("Prometheus text."),
}  # fmt: skip


def operations(routes: Iterable[_Route]) -> list[Operation]:
    """Every route as the contract describes it; of one without a row there is little to say."""
    described = []
    for route in routes:
        row = ROWS.get((route.method, route.path), _Row(f"{route.method} {route.path}"))
        fields: dict[str, Any] = row._asdict()
        described.append(Operation(method=route.method, path=route.path, is_open=route.is_open, **fields))
    return described
