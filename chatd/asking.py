"""Asks the daemon that runs beside a command of the shell what it alone knows: whether somebody is online.

Daemons that share a bus know it of each other. An embedded one keeps it to itself, so it is asked by HTTP, with a token
of the very user, for an entry in the list of a room's members. Called by `administration`.
"""

from __future__ import annotations

import json
import ssl
import urllib.parse
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Final

import trio

from chatd.chat.accounts import Origin, sign_in
from chatd.process import find_daemon

if TYPE_CHECKING:
    from pathlib import Path

    from chatd.chat.context import Chat
    from chatd.config import HttpOptions
    from chatd.store.accounts import Account

TIMEOUT_S: Final = 5.0
#: Addresses to listen at, at which nobody can be reached.
ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - nothing is bound


async def is_member_online(chat: Chat, options: HttpOptions, data_path: Path, account: Account, room_id: str) -> bool:
    """Whether a member of a room is online, as far as that can be found out."""
    if await chat.bus.online([account.id]):
        return True
    if account.disabled_at is not None or find_daemon(data_path, options.port) is None:
        return False
    grant = await sign_in(chat, Origin("", "chatd"), account)
    try:
        return await trio.to_thread.run_sync(_ask, options, account.id, room_id, grant.token)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + TIMEOUT_S):
            session_id = chat.tokens.read(grant.token, chat.clock()).session_id
            await chat.accounts.revoke_session(session_id, chat.clock())


def _ask(options: HttpOptions, user_id: str, room_id: str, token: str) -> bool:
    """What the daemon says; False where it does not answer, for that is no reason not to go on."""
    # In the order of the ids there is nobody between the start of one and the whole of it but its neighbours.
    query = urllib.parse.urlencode({"after": user_id[:-1], "limit": 20})
    try:
        with closing(_connection(options)) as connection:
            connection.request(
                "GET", f"/api/rooms/{room_id}/members?{query}", headers={"Authorization": f"Bearer {token}"}
            )
            answer = connection.getresponse()
            members = json.load(answer)["members"] if answer.status == HTTPStatus.OK else []
    except (OSError, ValueError, HTTPException):
        return False
    return any(member["userId"] == user_id and member["online"] for member in members)


def _connection(options: HttpOptions) -> HTTPConnection:
    """To the daemon itself, whatever proxy the environment names: the token is for nobody else."""
    host = ANYWHERE.get(options.host, options.host)
    if not options.tls_cert:
        return HTTPConnection(host, options.port, timeout=TIMEOUT_S)
    # Whatever its name and whoever has signed it, it is to have the certificate of this configuration.
    context = ssl.create_default_context(cafile=options.tls_cert)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return HTTPSConnection(host, options.port, timeout=TIMEOUT_S, context=context)
