"""Accounts and their sessions, as typed calls. What may be done with them is for `chat.accounts` to say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from chatd.records import encode_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from chatd.store.database import Database, Params, Transaction
    from chatd.store.queries import Queries


@dataclass(frozen=True, slots=True)
class Account:
    """A row of `users`. Times are milliseconds since 1970."""

    id: str
    email: str
    username: str
    display_name: str | None
    avatar_file_id: str | None
    status_message: str | None
    password_hash: str = field(repr=False)
    created_at: int
    last_seen_at: int | None
    disabled_at: int | None


class SessionRow(NamedTuple):
    """A row of `user_sessions`, as far as a refresh needs it."""

    id: str
    user_id: str
    expires_at: int
    revoked_at: int | None


class Standing(NamedTuple):
    """Whether a session may still be used, and whose it is."""

    user_id: str
    username: str
    disabled_at: int | None
    revoked_at: int | None


class NewSession(NamedTuple):
    """A session about to begin, or the state that it takes on with a refresh."""

    id: str
    user_id: str
    refresh_hash: str
    address: str
    user_agent: str
    expires_at: int


class Profile(NamedTuple):
    """What users say of themselves."""

    username: str
    username_key: str
    display_name: str | None
    status_message: str | None
    avatar_file_id: str | None = None

    @classmethod
    def of(cls, account: Account) -> Profile:
        return cls(
            account.username, account.username.casefold(), account.display_name, account.status_message,
            account.avatar_file_id,
        )  # fmt: skip


class ProfileRow(NamedTuple):
    """Somebody's profile; `is_near`: whoever asked shares a room with them, and neither has blocked the other."""

    id: str
    username: str
    display_name: str | None
    avatar_file_id: str | None
    created_at: int
    status: str
    status_message: str | None
    last_seen_at: int | None
    is_near: bool


class NewPassword(NamedTuple):
    """A password's hash, and the one session that does not end with the old password (none: empty)."""

    hash: str
    spared_session_id: str = ""

    def __repr__(self) -> str:
        return "NewPassword(…)"


class Taken(NamedTuple):
    """Which of two unique names are in use by others."""

    email: bool
    username: bool


class Accounts:
    """Everything that is kept of people and their sessions. All calls raise `Unavailable`."""

    def __init__(self, database: Database, queries: Queries) -> None:
        self._database = database
        self._queries = queries

    async def add(self, account: Account, username_key: str) -> None:
        """Add an account. Raises `Conflict` if its email or its username is taken."""
        query = self._queries["accounts.add"]
        params: Params = {
            "id": account.id,
            "email": account.email,
            "username": account.username,
            "username_key": username_key,
            "password_hash": account.password_hash,
            "now": account.created_at,
        }
        await self._database.transaction(lambda tx: tx.run(query, params))

    async def taken(self, email: str, username_key: str) -> Taken:
        rows = await self._database.rows(
            self._queries["accounts.taken"], {"email": email, "username_key": username_key}
        )
        return Taken(email=any(row[0] == email for row in rows), username=any(row[1] == username_key for row in rows))

    async def by_id(self, user_id: str) -> Account | None:
        row = await self._database.row(self._queries["accounts.by_id"], {"id": user_id})
        return None if row is None else Account(*row)

    async def by_email(self, email: str) -> Account | None:
        row = await self._database.row(self._queries["accounts.by_email"], {"email": email})
        return None if row is None else Account(*row)

    async def by_username(self, username_key: str) -> Account | None:
        row = await self._database.row(self._queries["accounts.by_username"], {"username_key": username_key})
        return None if row is None else Account(*row)

    async def profiles(self, user_ids: Sequence[str], *, asked_by: str) -> list[ProfileRow]:
        """The profiles of many users in one query; unknown ids are left out."""
        params: Params = {"ids": encode_json(user_ids).decode(), "asked_by": asked_by}
        return [ProfileRow(*row) for row in await self._database.rows(self._queries["accounts.profiles"], params)]

    async def page(self, *, after: str, limit: int) -> list[Account]:
        """Accounts in order of their lower-case names, behind the name `after`."""
        rows = await self._database.rows(self._queries["accounts.page"], {"after": after, "limit": limit})
        return [Account(*row) for row in rows]

    async def change(self, user_id: str, profile: Profile | None, password: NewPassword | None, *, now_ms: int) -> None:
        """Store what is given, together; a new password ends every session of the user but the spared one.

        Raises `Conflict` if the username is taken.
        """

        async def work(tx: Transaction) -> None:
            if profile is not None:
                named: Params = {"id": user_id, **profile._asdict(), "now": now_ms}
                await tx.run(self._queries["accounts.change_profile"], named)
            if password is not None:
                changed: Params = {"id": user_id, "password_hash": password.hash, "now": now_ms}
                await tx.run(self._queries["accounts.change_password"], changed)
                ended: Params = {"user_id": user_id, "spared_id": password.spared_session_id, "now": now_ms}
                await tx.run(self._queries["accounts.revoke_sessions"], ended)

        await self._database.transaction(work)

    async def disable(self, user_id: str, now_ms: int) -> None:
        """Shut an account and end all its sessions, together."""

        async def work(tx: Transaction) -> None:
            await tx.run(self._queries["accounts.disable"], {"id": user_id, "now": now_ms})
            ended: Params = {"user_id": user_id, "spared_id": "", "now": now_ms}
            await tx.run(self._queries["accounts.revoke_sessions"], ended)

        await self._database.transaction(work)

    async def saw(self, seen_at: Mapping[str, int]) -> None:
        """Note when users were last seen (milliseconds); never moves back."""
        query, seen = self._queries["accounts.saw"], encode_json(list(seen_at.items())).decode()
        await self._database.transaction(lambda tx: tx.run(query, {"seen": seen}))

    async def add_session(self, session: NewSession, now_ms: int) -> None:
        query = self._queries["accounts.add_session"]
        params: Params = {**session._asdict(), "now": now_ms}
        await self._database.transaction(lambda tx: tx.run(query, params))

    async def rotate(self, old_hash: str, new: NewSession, now_ms: int) -> SessionRow | None:
        """Exchange a refresh token for a new one; `new` lends hash, address, agent and expiry.

        The session, as it was before: revoked or expired ones are left as they are. `None` for a token that never
        was. A token that was used before ends its session here and now, and that is what is returned.
        """

        async def work(tx: Transaction) -> SessionRow | None:
            row = await tx.row(self._queries["accounts.session_by_refresh"], {"refresh_hash": old_hash})
            if row is None:
                row = await tx.row(self._queries["accounts.session_by_spent"], {"refresh_hash": old_hash})
                if row is None:
                    return None
                session = SessionRow(*row)
                await tx.run(self._queries["accounts.revoke_session"], {"id": session.id, "now": now_ms})
                return session._replace(revoked_at=session.revoked_at or now_ms)
            session = SessionRow(*row)
            if session.revoked_at is None and session.expires_at > now_ms:
                spent: Params = {"refresh_hash": old_hash, "session_id": session.id, "now": now_ms}
                await tx.run(self._queries["accounts.spend"], spent)
                rotated: Params = {
                    "id": session.id,
                    "old_hash": old_hash,
                    "new_hash": new.refresh_hash,
                    "address": new.address,
                    "user_agent": new.user_agent,
                    "expires_at": new.expires_at,
                    "now": now_ms,
                }
                await tx.run(self._queries["accounts.rotate"], rotated)
            return session

        return await self._database.transaction(work)

    async def revoke_session(self, session_id: str, now_ms: int) -> None:
        query = self._queries["accounts.revoke_session"]
        await self._database.transaction(lambda tx: tx.run(query, {"id": session_id, "now": now_ms}))

    async def revoke_sessions(self, user_id: str, *, spared_session_id: str, now_ms: int) -> None:
        query = self._queries["accounts.revoke_sessions"]
        params: Params = {"user_id": user_id, "spared_id": spared_session_id, "now": now_ms}
        await self._database.transaction(lambda tx: tx.run(query, params))

    async def standings(self, session_ids: Sequence[str]) -> dict[str, Standing]:
        """Whether each of these sessions may be used; unknown ones are left out."""
        rows = await self._database.rows(
            self._queries["accounts.standings"], {"sessions": encode_json(session_ids).decode()}
        )
        return {session_id: Standing(*standing) for session_id, *standing in rows}

    async def forget_sessions(self, before_ms: int) -> None:
        """Remove sessions that expired before a time."""
        query = self._queries["accounts.forget_sessions"]
        await self._database.transaction(lambda tx: tx.run(query, {"before": before_ms}))

    async def forget_spent_tokens(self, before_ms: int) -> None:
        """Remove refresh tokens that were used before a time; a reader finds them, so that no writing waits for it."""
        finding = self._queries["accounts.spent_before"]
        while rows := await self._database.rows(finding, {"before": before_ms}):
            hashes = encode_json([row[0] for row in rows]).decode()
            await self._forget_spent(hashes)

    async def _forget_spent(self, hashes: str) -> None:
        query = self._queries["accounts.forget_spent"]
        await self._database.transaction(lambda tx: tx.run(query, {"hashes": hashes}))
