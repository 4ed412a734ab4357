"""What a client's user may have to handle: a request that is refused for good, and a connection that is over for good.

Whatever goes away by itself (a lost connection, a server that is busy or restarts) is never raised: it is waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatd.errors import ErrorCode


class ClientError(Exception):
    """Base of all that a client raises by itself."""


class Refused(ClientError):
    """The server refused a request, and would again: what it asked for has not happened.

    `code` is a word of spec/protocol.md, `detail` a sentence for a person.
    """

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(code, detail)
        self.code: ErrorCode = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.detail} ({self.code})"


class Disconnected(ClientError):
    """The server closed the connection and asks not to come back without a change: codes 4500 to 4999.

    The client is over. What was being sent may have been stored or not.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"The server ended the connection: {self.reason.rstrip('.') or 'it gave no reason'} ({self.code})."


class UpgradeRefused(ClientError):
    """What answered at the URL is no chatd, or one that does not want this client: the HTTP status and what it said."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"The server refused to speak WebSocket: {self.reason.rstrip('.') or 'no reason'} (HTTP {self.status})."


class ProtocolFault(ClientError):
    """The server sent what is no message of the protocol."""


class ClientClosed(ClientError):
    """The block of `open_client` was left while an answer was waited for."""

    def __str__(self) -> str:
        return "The client is closed."
