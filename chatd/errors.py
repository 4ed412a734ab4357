"""What can go wrong with a request or a connection, and the words and numbers that say so.

Three kinds, kept apart by type. A `Refusal` answers one request and the connection stays. A `Disconnect` ends a
connection with a close code. `Unavailable` says that a back end is out; only adapters of `store` and `bus` raise
it, and it is a refusal as far as the client is concerned. Anything else that is raised is a defect.

Both doors use the same words; `STATUS` gives each its HTTP status.
"""

from __future__ import annotations

from typing import Final, Literal

ErrorCode = Literal[
    "bad_message",
    "unauthenticated",
    "token_expired",
    "not_found",
    "not_a_member",
    "forbidden",
    "muted",
    "rate_limited",
    "content_too_long",
    "idempotency_mismatch",
    "conflict",
    "limit_reached",
    "file_rejected",
    "feature_disabled",
    "overloaded",
    "unavailable",
    "internal",
]

STATUS: Final[dict[ErrorCode, int]] = {
    "bad_message": 422,
    "unauthenticated": 401,
    "token_expired": 401,
    "not_found": 404,
    "not_a_member": 403,
    "forbidden": 403,
    "muted": 403,
    "rate_limited": 429,
    "content_too_long": 422,
    "idempotency_mismatch": 409,
    "conflict": 409,
    "limit_reached": 409,
    "file_rejected": 422,
    "feature_disabled": 501,
    "overloaded": 503,
    "unavailable": 503,
    "internal": 500,
}

#: Refusals that go away by themselves: trying the same again later may succeed.
TEMPORARY: Final[frozenset[ErrorCode]] = frozenset({"rate_limited", "overloaded", "unavailable"})


class Refusal(Exception):
    """One request is refused; what it asked for has not happened.

    `detail` is a sentence for a person that says what to do next. `retry_after_ms` says when the same request
    can succeed. `fields` names each failing field of a form with its own sentence (HTTP 422).
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        retry_after_ms: int | None = None,
        fields: dict[str, str] | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code: ErrorCode = code
        self.detail = detail
        self.retry_after_ms = retry_after_ms
        self.fields = fields

    @property
    def is_temporary(self) -> bool:
        return self.code in TEMPORARY


def bad_fields(faults: dict[str, str]) -> Refusal:
    """The refusal of a form, with each failing field and what is wrong with it."""
    named = ", ".join(f"`{name}`: {fault}" for name, fault in faults.items())
    return Refusal("bad_message", f"These fields are wrong: {named}.", fields=faults)


class Unavailable(Refusal):
    """A back end is out. Raised by adapters only; nothing is known of whether the last write landed."""

    def __init__(self, detail: str) -> None:
        super().__init__("unavailable", detail)


class Disconnect(Exception):
    """A connection ends with this close code. 4000-4499 invite to reconnect, 4500-4999 do not without a change."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class CloseCode:
    """Close codes of RFC 6455 section 7.4.1, of IANA's registry, and chatd's own (4000-4999)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    BINARY = 1003
    NO_STATUS = 1005  # never sent: the peer's close frame named no code
    ABNORMAL = 1006  # never sent: the connection broke
    NOT_UTF8 = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    RESTART = 1012
    TRY_LATER = 1013
    TOKEN_EXPIRED = 4001
    SLOW_READER = 4008
    HEARTBEAT = 4009
    RATE_LIMITED = 4029
    AUTH_FAILED = 4501
    AUTH_TIMEOUT = 4502
    BAD_MESSAGES = 4503
    ACCOUNT_DISABLED = 4504
    CONNECTION_LIMIT = 4505
    SESSION_REVOKED = 4506
