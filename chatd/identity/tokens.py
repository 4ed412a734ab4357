"""Access tokens: JWT, signed with HS256. The one door to PyJWT. Refresh tokens: 256 random bits, kept hashed.

A token names its user and session and is checked without a database; whether the session still stands is looked up
once, when a connection authenticates. Source: RFC 7519, RFC 7518 section 3.2.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

import jwt

from chatd.errors import Refusal

if TYPE_CHECKING:
    from chatd.config import Secret

_ALGORITHM: Final = "HS256"
_CLAIMS: Final = ("sub", "sid", "iat", "exp")
#: Nobody's token is longer; past it no time is spent on it.
MAX_TOKEN_CHARACTERS: Final = 4096


class Claims(NamedTuple):
    """What a token says. Milliseconds since 1970."""

    user_id: str
    session_id: str
    expires_at_ms: int


class Tokens:
    """Signs with `secret`; reads what was signed with it or with the `previous` one, for a rotation."""

    def __init__(self, secret: Secret, previous: Secret, *, access_s: int) -> None:
        self._secret = secret
        self._keys = [key for key in (secret, previous) if key]
        self.access_s = access_s

    def issue(self, user_id: str, session_id: str, now_ms: int) -> str:
        issued_at = now_ms // 1000
        claims = {"sub": user_id, "sid": session_id, "iat": issued_at, "exp": issued_at + self.access_s}
        return jwt.encode(claims, self._secret.reveal(), algorithm=_ALGORITHM)

    def read(self, token: str, now_ms: int) -> Claims:
        """What the token says. Raises `Refusal`: `token_expired`, or `unauthenticated` for anything else."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _bad_token()
        for key in self._keys:
            try:
                claims = jwt.decode(
                    token,
                    key.reveal(),
                    algorithms=[_ALGORITHM],
                    # The times are compared below, with the daemon's own clock.
                    options={"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False, "verify_sub": True},
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.InvalidTokenError, ValueError):
                raise _bad_token() from None
            user_id, session_id, expires_at = claims["sub"], claims["sid"], claims["exp"]
            if not isinstance(session_id, str) or not isinstance(expires_at, int):
                raise _bad_token()
            if expires_at * 1000 <= now_ms:
                raise Refusal(
                    "token_expired", "This token has expired; get a new one from POST /api/auth/refresh or sign in."
                )
            return Claims(user_id, session_id, expires_at * 1000)
        raise _bad_token()


def _bad_token() -> Refusal:
    return Refusal("unauthenticated", "This is no valid token; get one from POST /api/auth/login.")


def new_refresh_token() -> str:
    return secrets.token_urlsafe(32)


def hash_refresh_token(token: str) -> str:
    """What is kept of a refresh token. 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
