"""Passwords: bcrypt, in worker threads of its own. The one door to bcrypt.

Hashing takes a quarter of a second of a core on purpose; the limiter keeps a crowd that signs in from taking all of
them, and the event loop never waits. bcrypt reads 72 bytes at most, so longer passwords are refused, not cut.
"""

from __future__ import annotations

from typing import Final

import bcrypt
import trio

MAX_PASSWORD_BYTES: Final = 72


class Passwords:
    """Hashes and checks passwords, at most `workers` at once, with 2 to the power of `cost` rounds."""

    def __init__(self, *, cost: int, workers: int) -> None:
        self._cost = cost
        self._limiter = trio.CapacityLimiter(workers)
        # Well-formed, and no password has it: checking against it takes as long as any other check.
        self._nobody = f"$2b${cost:02d}${'.' * 53}"

    async def hash(self, password: str) -> str:
        """The hash of a password of at most 72 bytes."""
        salt = bcrypt.gensalt(self._cost)
        hashed = await trio.to_thread.run_sync(bcrypt.hashpw, password.encode(), salt, limiter=self._limiter)
        return hashed.decode()

    async def check(self, password: str, password_hash: str | None) -> bool:
        """Whether the password fits; takes the same time when there is no hash to fit (an unknown account)."""
        data = password.encode("utf-8", "surrogatepass")
        stored = (password_hash if password_hash and password_hash.startswith("$2") else self._nobody).encode()
        fits = await trio.to_thread.run_sync(bcrypt.checkpw, data[:MAX_PASSWORD_BYTES], stored, limiter=self._limiter)
        return fits and len(data) <= MAX_PASSWORD_BYTES and stored != self._nobody.encode()
