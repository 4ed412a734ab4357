"""From a text frame to the rule that answers it: one table of what exists, what it costs, and who may ask.

`dispatch` is the way of every WebSocket message: decode, find the rule, take its price, run it, answer. A refusal
becomes `error` with the request's `id`; a request without a reply of its own gets `ok`, if it had an `id`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from chatd import protocol
from chatd.chat.canary import authenticate, send_message
from chatd.chat.changes import delete_message, edit_message
from chatd.chat.direct import send_dm
from chatd.chat.features import Feature, check_feature
from chatd.chat.messages import get_history
from chatd.chat.pins import pin_message, unpin_message
from chatd.chat.presence import update_status
from chatd.chat.reactions import add_reaction, remove_reaction
from chatd.chat.receipts import mark_as_read
from chatd.chat.refusals import send_error
from chatd.chat.rooms import join_room, leave_room
from chatd.chat.typists import typing_start, typing_stop
from chatd.decoding import BadMessage, decode
from chatd.errors import Refusal
from chatd.limits.rates import spend
from chatd.protocol import Ok, Ping, Pong, ServerReply
from chatd.records import format_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from chatd.chat.context import Chat
    from chatd.chat.session import Session


class Rule(NamedTuple):
    """A rule, its price and its switch.

    A price of its `own` it takes itself; `request` counts towards the connection's.
    """

    run: Callable[[Chat, Session, Any], Awaitable[ServerReply | None]]
    price: Literal["own", "request"] = "request"
    before_authentication: bool = False
    feature: Feature | None = None


async def pong(chat: Chat, _session: Session, message: Ping) -> Pong:
    """Answer a client's own heartbeat."""
    return Pong(id=message.id, time=format_time(chat.clock()))


RULES: Final[dict[type, Rule]] = {
    protocol.Authenticate: Rule(authenticate, before_authentication=True),
    protocol.Ping: Rule(pong, before_authentication=True),
    protocol.JoinRoom: Rule(join_room),
    protocol.LeaveRoom: Rule(leave_room),
    protocol.SendMessage: Rule(send_message, price="own"),
    protocol.SendDm: Rule(send_dm, price="own", feature="direct_messages"),
    protocol.MarkAsRead: Rule(mark_as_read, feature="receipts"),
    protocol.EditMessage: Rule(edit_message, feature="edits"),
    protocol.DeleteMessage: Rule(delete_message, feature="edits"),
    protocol.AddReaction: Rule(add_reaction, feature="reactions"),
    protocol.RemoveReaction: Rule(remove_reaction, feature="reactions"),
    protocol.PinMessage: Rule(pin_message, feature="pins"),
    protocol.UnpinMessage: Rule(unpin_message, feature="pins"),
    protocol.GetHistory: Rule(get_history),
    protocol.TypingStart: Rule(typing_start, feature="typing"),
    protocol.TypingStop: Rule(typing_stop, feature="typing"),
    protocol.UpdateStatus: Rule(update_status, feature="presence"),
}


async def dispatch(chat: Chat, session: Session, text: str) -> None:
    """Answer one text frame. Never raises a `Refusal`; anything else that it raises is a defect."""
    request_id, rule = None, None
    try:
        message = decode(text)
        request_id = message.id
        rule = RULES[type(message)]
        _check_price(chat, session, rule)
        if not session.has_arrived and not rule.before_authentication:
            raise Refusal("unauthenticated", 'Send {"type":"authenticate","token":"…"} first.')
        check_feature(chat, rule.feature)
        if rule.price == "own":
            # What is sent is timed up to its commit.
            reply = await rule.run(chat, session, message)
        else:
            began = chat.seconds()
            reply = await rule.run(chat, session, message)
            chat.slow.note(type(message).__name__, chat.seconds() - began, connection=session.connection_id)
        if reply is not None and (request_id is not None or type(reply) is not Ok):
            session.send(reply)
    except BadMessage as refusal:
        send_error(chat, session, refusal, request_id=refusal.request_id)
    except Refusal as refusal:
        if rule is not None and rule.price == "own" and refusal.code != "rate_limited":
            session.requests_full_at, _ = spend(session.requests_full_at, chat.seconds(), chat.rates.requests)
        send_error(chat, session, refusal, request_id=request_id)


def _check_price(chat: Chat, session: Session, rule: Rule) -> None:
    """Take a request from the connection's budget; a rule with a price of its own needs only that there is one left.

    Its refusals are paid for when they happen, so that a client which is always refused comes to its limit too.
    """
    full_at, wait_ms = spend(session.requests_full_at, chat.seconds(), chat.rates.requests)
    if wait_ms:
        raise Refusal(
            "rate_limited",
            f"You may make {chat.rates.requests.burst} requests a minute on one connection; wait a little.",
            retry_after_ms=wait_ms,
        )
    if rule.price == "request":
        session.requests_full_at = full_at
