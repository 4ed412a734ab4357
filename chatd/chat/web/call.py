"""One request on its way to its rule, and the shape of what answers it. Used by every module of `web`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from chatd.chat.accounts import Caller, Origin
from chatd.chat.context import Chat
from chatd.wire.http import Request, Response


@dataclass(frozen=True, slots=True)
class Call:
    """One request on its way to its rule: `parts` are the variable parts of the path, in order."""

    request: Request
    parts: tuple[str, ...]
    caller: Caller | None

    @property
    def signed_in(self) -> Caller:
        assert self.caller is not None, "the route asks for a token"
        return self.caller

    @property
    def origin(self) -> Origin:
        return Origin(self.request.address, self.request.header("user-agent") or "")


Rule: TypeAlias = Callable[[Chat, Call], Awaitable[Response]]
