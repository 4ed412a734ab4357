"""A torture client's HTTP side: its sign-ins, messages that it posts, and history that it reads."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from tests.daemon import Daemon
from tests.torture.checker import Kept, Promise, kept_of_history

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.daemon import SignedIn
    from tests.torture.drafts import Sent

PASSWORD: Final = "correct horse"
#: Seconds after which a request is given up; nothing is known then of what became of it.
PATIENCE_S: Final = 6.0
#: Refusals of one who is no member any more, is muted, or answers to what was deleted.
HAS_LEFT: Final = frozenset({403, 404})
#: Those of one who has a say over somebody who is not there, over too many, or until a time that is over by then, or
#: by the clock of a node that is wrong.
IN_VAIN: Final = HAS_LEFT | {409, 422}


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    body: Any


@dataclass
class Web:
    """Who asks, with what sign-in, and what was promised and told."""

    user: SignedIn
    #: The port to try next.
    port: Callable[[], int]
    promises: list[Promise] = field(default_factory=list)
    told: set[Kept] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    #: Tokens whose sign-in was ended, and those of which nobody knows.
    revoked: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.token, self.refresh_token = self.user.token, self.user.refresh_token

    async def ask(self, method: str, path: str, body: object = None, *, token: str | None = None) -> Reply | None:
        """One request to a node; `None` where nobody answers, or not for now."""
        reply = None
        with (
            trio.move_on_after(PATIENCE_S),
            suppress(OSError, trio.BrokenResourceError, trio.TooSlowError, ValueError, IndexError),
        ):
            answer = await Daemon(0, self.port(), Path()).http(method, path, body, token=token)
            reply = Reply(answer.status, answer.json())
        self.answers["none" if reply is None else str(reply.status)] += 1
        return None if reply is None or reply.status == 503 else reply

    def _is_good(self, reply: Reply | None, what: str, *, also: frozenset[int] = frozenset()) -> bool:
        if reply is None or reply.status in also:
            return False
        if reply.status not in {200, 201}:
            self.faults.append(f"{self.user.username} {what} by HTTP and was answered {reply}")
            return False
        return True

    async def post(self, sent: Sent) -> bool:
        """Send a message; whether it was acknowledged."""
        path = f"/api/rooms/{sent.room_id}/messages"
        reply = await self.ask("POST", path, sent.body, token=self.token)
        if not self._is_good(reply, f"sent {sent.key}", also=HAS_LEFT):
            return False
        assert reply is not None
        [kept] = kept_of_history([reply.body])
        self.promises.append(Promise(self.user.id, sent.key, sent.room_id, sent.content, kept.message_id, kept.seq))
        if sent.differs_from(reply.body):
            self.faults.append(f"{sent} was sent by HTTP and is stored as {reply.body}")
        return True

    async def read(self, room_id: str, query: str) -> None:
        """Read a page of history."""
        reply = await self.ask("GET", f"/api/rooms/{room_id}/messages?{query}", token=self.token)
        if self._is_good(reply, f"read {room_id}", also=HAS_LEFT):
            assert reply is not None
            page = kept_of_history(reply.body["messages"])
            self.told.update(page)
            if [kept.seq for kept in page] != sorted({kept.seq for kept in page}):
                self.faults.append(f"{self.user.username} read {query} of {room_id} and was given {page}")

    async def make_room(self, name: str, members: Sequence[str]) -> str | None:
        """Make a room with some people in it; its id, where that is known."""
        body = {"name": name, "kind": "public", "members": members}
        reply = await self.ask("POST", "/api/rooms", body, token=self.token)
        return str(reply.body["id"]) if reply is not None and self._is_good(reply, "made a room") else None

    async def moderate(self, method: str, room_id: str, user_id: str, body: object = None) -> None:
        """Have a say over somebody in a room of one's own."""
        path = f"/api/rooms/{room_id}/members" + (f"/{user_id}" if user_id else "")
        self._is_good(await self.ask(method, path, body, token=self.token), f"{method} {path}", also=IN_VAIN)

    async def look(self, path: str) -> None:
        """Read one of the lists that are made for a user."""
        self._is_good(await self.ask("GET", path, token=self.token), f"read {path}", also=HAS_LEFT)

    async def renew(self) -> bool:
        """Get a fresh token for the same sign-in; whether it came. Where that is not known, sign in anew."""
        token, self.refresh_token = self.refresh_token, ""
        if not token:
            return await self.sign_in()
        reply = await self.ask("POST", "/api/auth/refresh", {"refreshToken": token})
        return self._take(reply, "asked for a fresh token")

    async def sign_in(self) -> bool:
        """Begin another sign-in; the former one stays good."""
        body = {"email": f"{self.user.username}@example.org", "password": PASSWORD}
        return self._take(await self.ask("POST", "/api/auth/login", body), "signed in")

    def _take(self, reply: Reply | None, what: str) -> bool:
        if not self._is_good(reply, what):
            return False
        assert reply is not None
        self.token, self.refresh_token = reply.body["token"], reply.body["refreshToken"]
        return True

    async def log_out(self, token: str) -> None:
        """End one sign-in."""
        self.doubtful.add(token)
        if self._is_good(await self.ask("POST", "/api/auth/logout", token=token), "logged out"):
            self.revoked.add(token)
