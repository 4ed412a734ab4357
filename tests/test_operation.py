"""What those who run chatd ask of it: is it alive, is it ready, what are its numbers; and the manners of its HTTP."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import trio

from chatd import upkeep
from tests.daemon import ON_BOTH_BACK_ENDS, ON_EMBEDDED, Daemon, open_daemon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.daemon import Answer

pytestmark = ON_BOTH_BACK_ENDS

SITE = "https://chat.example.org"


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with open_daemon(tmp_path) as daemon:
        yield daemon


async def numbers(daemon: Daemon) -> dict[str, float]:
    """All numbers of /metrics by name with labels."""
    answer = await daemon.http("GET", "/metrics")
    assert answer.status == 200
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def moved(daemon: Daemon, before: dict[str, float]) -> dict[str, float]:
    """What has changed since, and by how much."""
    now = await numbers(daemon)
    return {name: value - before.get(name, 0) for name, value in now.items() if value != before.get(name, 0)}


# Alive and ready


async def test_daemon_is_alive_and_ready_with_every_part_proven(daemon: Daemon) -> None:
    assert (await daemon.http("GET", "/healthz")).json() == {"status": "alive"}
    answer = await daemon.http("GET", "/readyz")
    assert (answer.status, answer.json()["status"]) == (200, "ready")
    assert answer.json()["parts"].keys() == {"database", "bus", "delivery", "canary", "loop"}
    assert all(part["ready"] and part["ageSeconds"] < 10 for part in answer.json()["parts"].values())
    assert answer.headers["cache-control"] == "no-store"


@ON_EMBEDDED
async def test_daemon_is_not_ready_while_its_database_is_out_and_ready_again_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "UPKEEP_S", 0.02)
    async with open_daemon(tmp_path) as daemon:
        with closing(sqlite3.connect(tmp_path / "chatd.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            answer = await wait_for_status(daemon, 503)
            assert answer.json()["status"] == "not ready"
            assert answer.json()["parts"]["database"]["ready"] is False
            assert answer.headers["retry-after"] == "1"
            # nobody is told that it is dead: it would be restarted, which helps no database
            assert (await daemon.http("GET", "/healthz")).status == 200
            assert (await daemon.http("GET", "/metrics")).status == 200
            other.execute("ROLLBACK")
        answer = await wait_for_status(daemon, 200)
        assert answer.json()["parts"]["database"]["ready"] is True


async def wait_for_status(daemon: Daemon, status: int) -> Answer:
    """Ask whether it is ready until it answers so."""
    with trio.fail_after(30):
        while True:
            answer = await daemon.http("GET", "/readyz")
            if answer.status == status:
                return answer


async def test_request_that_has_begun_when_the_daemon_stops_is_answered_and_told_so(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        begun, released = trio.Event(), trio.Event()
        received = b""

        async def ask(daemon: Daemon) -> None:
            nonlocal received
            async with await trio.open_tcp_stream("127.0.0.1", daemon.http_port) as stream:
                # one request that is answered shows that the connection is being served
                await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /readyz HTTP/1.1\r\n")
                await stream.receive_some()
                begun.set()
                await released.wait()
                await stream.send_all(b"Host: x\r\n\r\n")
                received = b"".join([part async for part in stream])

        async with open_daemon(tmp_path) as daemon:
            nursery.start_soon(ask, daemon)
            await begun.wait()
            ada = await daemon.register("ada")
            async with daemon.connect(ada) as client:
                daemon.stop.set()
                await client.wait_for("server_shutdown")
                released.set()
                await client.wait_closed()
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b'"status":"stopping"' in received
        assert b"connection: close" in received.lower()


# Numbers


async def test_numbers_have_the_names_that_dashboards_look_for(daemon: Daemon) -> None:
    names = {name.partition("{")[0] for name in await numbers(daemon)}
    assert {
        "chat_messages_total", "chat_active_connections", "chat_errors_total",
        "message_processing_duration_seconds_count", "message_processing_duration_seconds_bucket",
    } <= names  # fmt: skip
    assert not [name for name in names if not re.match("chat_|chatd_|message_processing_duration_seconds", name)]


async def test_numbers_move_with_what_happens(daemon: Daemon) -> None:
    ada, bob = await daemon.register("ada"), await daemon.register("bob")
    room_id = await daemon.create_room(ada, kind="private", members=[bob.id])
    before = await numbers(daemon)
    async with daemon.connect(ada) as client, daemon.connect(bob) as other:
        await client.ask(type="send_message", roomId=room_id, content="hello")
        await client.ask(type="send_message", roomId=room_id, content="x = 1", messageType="code")
        await other.wait_for("new_message")
        await client.ask(type="send_message", roomId="nowhere", content="x")
        await client.send_text("{")
        await client.wait_for("error")
        await daemon.http("POST", f"/api/rooms/{room_id}/messages", {"content": "hi"}, token=ada.token)
        await daemon.http("GET", "/api/rooms/nowhere", token=ada.token)
        await other.wait_for("new_message")
        change = await moved(daemon, before)
    assert change["chat_active_connections"] == change["chatd_connections_total"] == 2
    assert change['chatd_active_rooms{kind="private"}'] == 1
    assert change['chat_messages_total{type="text"}'] == 2
    assert change['chat_messages_total{type="code"}'] == 1
    assert change["message_processing_duration_seconds_count"] >= 2
    assert change["chatd_deliveries_total"] == 6
    assert change["chatd_commits_total"] == change["chatd_commit_seconds_count"] == 3
    assert change["chatd_commit_entries_sum"] == 3
    assert change['chat_errors_total{code="not_a_member"}'] == 1
    assert change['chat_errors_total{code="bad_message"}'] == 1
    assert change['chat_errors_total{code="not_found"}'] == 1
    assert change["chatd_http_seconds_count"] >= 2
    after = await numbers(daemon)
    assert after['chatd_http_requests_total{method="POST",status="201"}'] == 4
    assert after['chatd_http_requests_total{method="GET",status="404"}'] == 1


async def test_closed_connections_are_counted_by_their_code(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    before = await numbers(daemon)
    async with daemon.connect(ada) as client:
        await daemon.http("POST", "/api/auth/logout", token=ada.token)
        await client.wait_closed()
    with trio.fail_after(30):
        while (change := await moved(daemon, before)).get('chatd_closes_total{code="4506"}') != 1:
            pass
    assert "chat_active_connections" not in change


async def test_numbers_are_for_the_addresses_that_may_read_them(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, HTTP_METRICS_ALLOW="10.0.0.0/8", HTTP_TRUSTED_PROXIES="127.0.0.1") as daemon:
        answer = await daemon.http("GET", "/metrics")
        assert (answer.status, answer.json()["code"]) == (403, "forbidden")
        assert (await daemon.http("GET", "/metrics", headers={"X-Forwarded-For": "10.1.2.3"})).status == 200
        assert (await daemon.http("GET", "/metrics", headers={"X-Forwarded-For": "11.1.2.3"})).status == 403


async def test_numbers_are_for_whoever_has_the_token(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, HTTP_METRICS_ALLOW="", HTTP_METRICS_TOKEN="open sesame") as daemon:
        assert (await daemon.http("GET", "/metrics", token="open sesame")).status == 200
        for token in (None, "", "open sesam", "open sesame "):
            assert (await daemon.http("GET", "/metrics", token=token)).status == (
                200 if token == "open sesame " else 403
            )


async def test_without_a_token_configured_an_empty_one_opens_nothing(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, HTTP_METRICS_ALLOW="") as daemon:
        for headers in ({}, {"Authorization": ""}, {"Authorization": "Bearer "}):
            assert (await daemon.http("GET", "/metrics", headers=headers)).status == 403


# Manners


async def test_head_is_get_without_the_body(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    for path in ("/api/users/me", "/api/rooms", "/healthz"):
        got = await daemon.http("GET", path, token=ada.token)
        head = await daemon.http("HEAD", path, token=ada.token)
        assert (head.status, head.body) == (got.status, b"")
        assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/healthz", "GET, HEAD"),
        ("GET", "/api/auth/login", "POST"),
        ("PUT", "/api/users/me", "GET, HEAD, PATCH"),
        ("DELETE", "/api/rooms", "GET, HEAD, POST"),
        ("OPTIONS", "/api/rooms/some-id/messages", "GET, HEAD, POST"),
        ("get", "/healthz", "GET, HEAD"),
    ],
)
async def test_wrong_method_is_told_the_right_ones(daemon: Daemon, method: str, path: str, allowed: str) -> None:
    answer = await daemon.http(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/", "/api/rooms/", "/api/rooms//messages", "/healthz/", "/../healthz"]
)
async def test_nothing_is_at_other_paths(daemon: Daemon, path: str) -> None:
    answer = await daemon.http("GET", path)
    assert (answer.status, answer.json()["code"]) == (404, "not_found")
    assert answer.json().keys() == {"type", "title", "status", "detail", "code"}


async def test_every_answer_has_the_security_headers(daemon: Daemon) -> None:
    ada = await daemon.register("ada")
    for method, path, token in (
        ("GET", "/healthz", None),
        ("GET", "/metrics", None),
        ("GET", "/nothing", None),
        ("DELETE", "/healthz", None),
        ("GET", "/api/users/me", None),
        ("GET", "/api/users/me", ada.token),
    ):
        answer = await daemon.http(method, path, token=token)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "strict-transport-security" not in answer.headers


async def test_public_https_asks_browsers_to_stay_with_it(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, SERVER_PUBLIC_URL=SITE) as daemon:
        assert "strict-transport-security" in (await daemon.http("GET", "/healthz")).headers


async def test_pages_of_configured_origins_may_call_the_api(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, HTTP_CORS_ORIGINS=SITE) as daemon:
        asked = {"Origin": SITE, "Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "x"}
        preflight = await daemon.http("OPTIONS", "/api/users/me", headers=asked)
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == SITE
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        answer = await daemon.http("GET", "/api/users/me", headers={"Origin": SITE})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, SITE)
        assert answer.headers["vary"] == "Origin"
        stranger = await daemon.http("GET", "/healthz", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


async def test_without_configured_origins_no_page_may_call_the_api(daemon: Daemon) -> None:
    asked = {"Origin": SITE, "Access-Control-Request-Method": "PATCH"}
    assert (await daemon.http("OPTIONS", "/api/users/me", headers=asked)).status == 405
    answer = await daemon.http("GET", "/healthz", headers={"Origin": SITE})
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_calls_of_a_user_are_limited_whatever_the_address(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_API_PER_MINUTE="3") as daemon:
        ada = await daemon.register("ada")
        statuses = [(await daemon.http("GET", "/api/users/me", token=ada.token)).status for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        # health and numbers are no calls of the API
        assert (await daemon.http("GET", "/healthz", token=ada.token)).status == 200
        # without a token it is the address that counts, and it has registered once
        unknown = [(await daemon.http("POST", "/api/auth/refresh", {"refreshToken": "x"})).status for _ in range(3)]
        assert unknown == [401, 401, 429]


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "/api/users/me", None, 401),
        ("GET", "/api/users/me", "bad", 401),
        ("GET", "/api/nothing", None, 404),
        ("DELETE", "/api/users/me", None, 405),
    ],
)
async def test_calls_that_lead_nowhere_are_limited_by_address(
    tmp_path: Path, method: str, path: str, token: str | None, status: int
) -> None:
    async with open_daemon(tmp_path, LIMITS_API_PER_MINUTE="3", HTTP_TRUSTED_PROXIES="127.0.0.1") as daemon:

        async def ask(address: str) -> int:
            answer = await daemon.http(method, path, token=token, headers={"X-Forwarded-For": address})
            return answer.status

        # addresses of one IPv6 subscriber are one
        assert [await ask(f"2001:db8::{number}") for number in range(4)] == [status] * 3 + [429]
        assert await ask("2001:db8:0:1::1") == status


async def test_sign_ins_of_one_ipv6_subscriber_are_limited_together(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_SIGN_INS_PER_HOUR="2", HTTP_TRUSTED_PROXIES="127.0.0.1") as daemon:
        body = {"email": "ada@example.org", "password": "wrong"}
        statuses = [
            (await daemon.http("POST", "/api/auth/login", body, headers={"X-Forwarded-For": f"2001:db8::{end}"})).status
            for end in ("1", "2", "3", "1:0:0:0")
        ]
        assert statuses == [401, 401, 429, 429]


async def test_refused_paths_and_methods_are_counted(daemon: Daemon) -> None:
    before = await numbers(daemon)
    await daemon.http("GET", "/api/nothing")
    await daemon.http("DELETE", "/api/rooms")
    change = await moved(daemon, before)
    assert change['chat_errors_total{code="not_found"}'] == 1
    assert change['chat_errors_total{code="bad_message"}'] == 1
