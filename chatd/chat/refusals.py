"""How a refusal is told to a connection: one `error`, counted, and held against it where it misbehaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatd.protocol import Error

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.session import Session
    from chatd.errors import Refusal


def send_error(chat: Chat, session: Session, refusal: Refusal, *, request_id: str | None) -> None:
    chat.metrics.errors[refusal.code].inc()
    chat.audit.note_refusal(refusal, user=session.user_id)
    session.send(
        Error(
            id=request_id,
            message=refusal.detail,
            code=refusal.code,
            temporary=refusal.is_temporary,
            retry_after_ms=refusal.retry_after_ms,
        )
    )
    if refusal.code in ("rate_limited", "bad_message"):
        session.line.refused(refusal.code)
