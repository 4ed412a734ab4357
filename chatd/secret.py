"""Secrets of the configuration: kept from every log and traceback, and long enough to sign with.

`config` has them among its options; whoever uses one says so by `reveal`.
"""

from __future__ import annotations

import hmac
from typing import Final

MIN_SECRET_BYTES: Final = 32


class Secret:
    """A text that never shows in a repr, a log line or a traceback; only `reveal` gives it away."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(…)" if self._text else "Secret()"


def secret_fault(secret: Secret) -> str | None:
    """Say what is wrong with a secret that signs tokens, or None. RFC 7518 section 3.2 asks for 256 bits."""
    length = len(secret.reveal().encode())
    if length >= MIN_SECRET_BYTES:
        return None
    return f"must be at least {MIN_SECRET_BYTES} bytes long, got {length}: make one with `openssl rand -base64 48`"
