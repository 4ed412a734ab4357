"""Links to files that work without signing in, for a while: signed with the secret that signs tokens.

The signature is over the file's name, who made the link and the time, in a key of its own, so that no token is a link
and no link a token. Whether its maker may see the file still is for `chatd.chat.files` to ask.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Final

from chatd.errors import Refusal

if TYPE_CHECKING:
    from chatd.config import Secret

_PURPOSE: Final = b"chatd file link"
_MAX_DIGITS: Final = 16


class FileLinks:
    """Signs with `secret`; takes what was signed with it or with the `previous` one, for a rotation."""

    def __init__(self, secret: Secret, previous: Secret) -> None:
        self._keys = [hmac.digest(key.reveal().encode(), _PURPOSE, hashlib.sha256) for key in (secret, previous) if key]

    def sign(self, name: str, *, maker_id: str, expires_at_ms: int) -> str:
        """What is to stand behind the `?` of the file's path."""
        signature = _signature(self._keys[0], name, maker_id, str(expires_at_ms))
        return f"by={maker_id}&expires={expires_at_ms}&signature={signature}"

    def check(self, name: str, *, maker_id: str, expires: str, signature: str, now_ms: int) -> int:
        """Until when the link lasts (milliseconds). Raises `Refusal` (`forbidden`) for one that is over or changed."""
        is_good = any(
            hmac.compare_digest(_signature(key, name, maker_id, expires).encode(), signature.encode("utf-8", "replace"))
            for key in self._keys
        )
        if not is_good or not (expires.isascii() and expires.isdigit()) or len(expires) > _MAX_DIGITS:
            raise Refusal("forbidden", "This link is not one that this server made; ask for a new one.")
        if int(expires) <= now_ms:
            raise Refusal("forbidden", "This link has expired; ask for a new one.")
        return int(expires)


def _signature(key: bytes, *signed: str) -> str:
    # None of them has a line's end in it where the server has signed them.
    return hmac.new(key, "\n".join(signed).encode("utf-8", "replace"), hashlib.sha256).hexdigest()
