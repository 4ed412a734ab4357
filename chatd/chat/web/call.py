"""One request on its way to its rule, and the shape of what answers it. Used by every module of `web`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from chatd.chat.accounts import Caller, Origin
from chatd.chat.context import Chat
from chatd.records import encode_json
from chatd.wire.http import Request, Response, json_response

T = TypeVar("T")


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


def page_response(noun: str, found: Sequence[T], *, has_more: bool, cursor: Callable[[T], str]) -> Response:
    """A page of a list under its noun; `after`, where there are more, is the cursor of its last entry."""
    answer: dict[str, object] = {noun: found, "hasMore": has_more}
    if has_more:
        answer["after"] = cursor(found[-1])
    return json_response(200, encode_json(answer))


Rule: TypeAlias = Callable[[Chat, Call], Awaitable[Response]]
