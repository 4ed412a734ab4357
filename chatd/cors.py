"""What browsers are told of who may call from pages of other origins (the Fetch standard's CORS protocol).

`listener` puts it on its answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from chatd.config import ANY_ORIGIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chatd.wire.http import Headers, Request

PREFLIGHT_HEADERS: Final[Headers] = (
    ("access-control-allow-methods", "GET, HEAD, POST, PATCH, DELETE"),
    ("access-control-allow-headers", "Authorization, Content-Type, If-None-Match, Range"),
    ("access-control-max-age", "7200"),
)
_EXPOSED_HEADERS: Final = "Allow, Content-Disposition, Content-Range, ETag, Retry-After, WWW-Authenticate"


def is_preflight(request: Request, origins: Sequence[str]) -> bool:
    return (
        request.method == "OPTIONS"
        and bool(origins)
        and request.header("origin") is not None
        and request.header("access-control-request-method") is not None
    )


def cors_headers(origin: str | None, origins: Sequence[str]) -> Headers:
    """The headers of the Fetch standard's CORS protocol.

    An origin that is not listed gets none that allows it anything, and its browser keeps the answer from it.
    """
    if not origins:
        return ()
    exposed = ("access-control-expose-headers", _EXPOSED_HEADERS)
    if ANY_ORIGIN in origins:
        return () if origin is None else (("access-control-allow-origin", "*"), exposed)
    # Whether there is an Origin or not: a cache must not give one origin's answer to another.
    vary = ("vary", "Origin")
    if origin is None or origin not in origins:
        return (vary,)
    return vary, ("access-control-allow-origin", origin), ("access-control-allow-credentials", "true"), exposed
