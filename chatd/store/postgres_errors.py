"""What PostgreSQL and asyncpg raise, in the words of the database port. Called by the adapter beside it.

Source: https://www.postgresql.org/docs/15/errcodes-appendix.html
"""

from __future__ import annotations

import errno
from typing import Final, NoReturn

import asyncpg

from chatd.errors import Refusal, Unavailable
from chatd.store.database import Conflict

#: The transaction was undone so that another one could go on, or the schema changed under a prepared statement.
UNDONE: Final = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.exceptions.OutdatedSchemaCacheError,
)
#: Text with U+0000, plain and within JSON, which PostgreSQL neither holds nor looks for.
_NUL: Final = (asyncpg.CharacterNotInRepertoireError, asyncpg.UntranslatableCharacterError)
#: The server cannot do it now, or not for us: gone, stopping, full, read-only, too slow, closed to this user.
OUT: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.exceptions.TargetServerAttributeNotMatched,
)


def translate(error: Exception, *, is_cut: bool) -> NoReturn:
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        raise Conflict(str(error)) from error
    if isinstance(error, _NUL):
        raise Refusal("bad_message", "A text has a NUL character in it; leave it out.") from error
    if isinstance(error, UNDONE):
        raise Unavailable("The database had too much to do at once; try again in a moment.") from error
    if isinstance(error, OUT) or (is_cut and _is_of_the_cut(error)):
        raise Unavailable(f"The database is out ({reason_of(error)}); try again in a moment.") from error
    raise error


def _is_of_the_cut(error: Exception) -> bool:
    """What asyncpg makes of a connection that is lost in the moment in which it is given back, or between two steps of
    a query: a defect of its own, or an attribute of the protocol that it has no more.
    """
    is_gone = isinstance(error, AttributeError) and error.obj is None
    return is_gone or isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError)


def is_scarcity(error: Exception) -> bool:
    """There is no further connection, there or here; those that there are do as well as before."""
    is_local = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return is_local or isinstance(error, asyncpg.TooManyConnectionsError)


def reason_of(error: Exception) -> str:
    """What an error says, in a few words of one line."""
    if isinstance(error, TimeoutError):
        return "it does not answer"
    said = error.strerror if isinstance(error, OSError) else str(error)
    return (said or type(error).__name__).splitlines()[0].rstrip(".")
