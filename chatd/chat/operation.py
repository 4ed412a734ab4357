"""The paths for those who run the daemon: is it alive, does it deliver, what are its numbers."""

from __future__ import annotations

import hmac
from contextlib import suppress
from typing import TYPE_CHECKING

from chatd.errors import Refusal, Unavailable
from chatd.limits.addresses import is_within, parse_address, parse_networks
from chatd.records import encode_json
from chatd.wire.http import Response, json_response

if TYPE_CHECKING:
    from chatd.chat.context import Chat
    from chatd.chat.web.call import Call


async def health(_chat: Chat, _call: Call) -> Response:
    """GET /healthz: the loop runs and answers, no more than that."""
    return json_response(200, b'{"status":"alive"}', headers=(("cache-control", "no-store"),))


async def readiness(chat: Chat, _call: Call) -> Response:
    """GET /readyz: every part with the age of its last proof; 503 when one is stale or the daemon stops."""
    parts = {}
    for part in chat.health.parts():
        told: dict[str, object] = {"ready": part.is_fresh}
        if part.age_s < float("inf"):
            told["ageSeconds"] = round(part.age_s, 3)
        if part.fault is not None:
            told["fault"] = part.fault
        parts[part.name] = told
    status = "stopping" if chat.health.is_draining else "ready" if chat.health.is_ready else "not ready"
    body = encode_json({"status": status, "parts": parts})
    headers = (("cache-control", "no-store"),)
    if chat.health.is_ready:
        return json_response(200, body, headers=headers)
    return json_response(503, body, headers=(*headers, ("retry-after", "1")))


async def metrics(chat: Chat, call: Call) -> Response:
    """GET /metrics, for the addresses and the token of chatd.toml."""
    options = chat.options.http
    token = options.metrics_token.reveal()
    given = (call.request.header("authorization") or "").removeprefix("Bearer ").encode()
    is_allowed = bool(token) and hmac.compare_digest(given, token.encode())
    if not is_allowed and not _is_allowed(call.request.address, options.metrics_allow):
        raise Refusal("forbidden", "This address may not read the metrics; see http.metrics_allow.")
    await _measure(chat)
    body, content_type = chat.metrics.render()
    return Response(200, (("content-type", content_type),), body)


async def _measure(chat: Chat) -> None:
    """Look up the numbers that nobody keeps up to date meanwhile. The rooms' kinds stay as they were in an outage."""
    numbers = chat.metrics
    for look in numbers.lookers:
        look()
    with suppress(Unavailable):
        kinds = await chat.rooms.count_kinds(chat.hub.heard_rooms())
        for kind, gauge in numbers.active_rooms.items():
            gauge.set(kinds.get(kind, 0))


def _is_allowed(address: str, networks: tuple[str, ...]) -> bool:
    parsed = parse_address(address)
    return parsed is not None and is_within(parsed, parse_networks(networks))
