"""How much one may do: so many at once, over all devices, and when it says "wait", the wait is true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.daemon import ON_BOTH_BACK_ENDS, ON_EMBEDDED, Client, open_daemon
from tests.stopped import open_door

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from tests.rawclient import RawClient

pytestmark = ON_BOTH_BACK_ENDS


async def ask(client: RawClient, **fields: object) -> Any:
    """The reply to a request; events of the room are passed over."""
    told = await client.ask(**fields, id="asked")
    while told.get("id") != "asked":
        told = await client.receive_json()
    return told


async def send(client: RawClient, room: str) -> Any:
    return await ask(client, type="send_message", roomId=room, content="x")


async def answers_of(client: Client, room: str, count: int) -> list[dict[str, Any]]:
    """Send so many messages at once: what each is answered."""
    for number in range(count):
        await client.send(type="send_message", roomId=room, content="x", id=str(number))
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        told = await client.receive()
        if "id" in told:
            found[told["id"]] = told
    return [found[str(number)] for number in range(count)]


async def test_thirty_messages_pass_at_once_and_the_next_waits_over_all_devices(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, limits=True) as daemon:
        ada, bob = await daemon.register("ada"), await daemon.register("bob")
        room = await daemon.create_room(ada, members=[bob.id])
        async with daemon.connect(ada) as phone, daemon.connect(ada) as laptop, daemon.connect(bob) as other:
            told = await answers_of(phone, room, 20) + await answers_of(laptop, room, 12)
            assert [each["type"] for each in told] == ["message_ack"] * 30 + ["error"] * 2
            for refused in told[30:]:
                assert (refused["code"], refused["temporary"]) == ("rate_limited", True)
                assert 0 < refused["retryAfterMs"] <= 2001
                assert "30 messages a minute" in refused["message"]
            assert (await phone.ask(type="send_message", roomId=room, content="x"))["code"] == "rate_limited"
            assert (await other.ask(type="send_message", roomId=room, content="x"))["type"] == "message_ack"


async def test_wait_that_is_told_is_true_on_a_real_clock(tmp_path: Path) -> None:
    async with open_daemon(tmp_path, LIMITS_MESSAGES_PER_MINUTE="120") as daemon:
        ada = await daemon.register("ada")
        room = await daemon.create_room(ada)
        async with daemon.connect(ada) as client:
            # While they are sent a few are refilled.
            refused = (await answers_of(client, room, 130))[-1]
            assert (refused["code"], 0 < refused["retryAfterMs"] <= 501) == ("rate_limited", True)
            await trio.sleep(refused["retryAfterMs"] / 1000)
            in_time, too_early = await answers_of(client, room, 2)
            assert (in_time["type"], too_early.get("code")) == ("message_ack", "rate_limited")


@ON_EMBEDDED
async def test_wait_that_is_told_is_exact(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock, LIMITS_MESSAGES_PER_MINUTE="30") as door:
        user_id, _, token = await door.sign_up()
        room = (await door.chat.rooms.visible(user_id, after="", limit=1, offset=0))[0].id
        async with door.connect(token) as (phone, _), door.connect(token) as (laptop, _):
            for device in (phone, laptop):
                assert (await ask(device, type="join_room", roomId=room))["type"] == "room_history"
            for _ in range(30):
                assert (await send(phone, room))["type"] == "message_ack"
            refused = await send(laptop, room)
            assert (refused["code"], refused["retryAfterMs"]) == ("rate_limited", pytest.approx(2000, abs=2))
            await door.jump((refused["retryAfterMs"] - 5) / 1000)
            assert (await send(laptop, room))["code"] == "rate_limited"
            await door.jump(0.005)
            assert (await send(laptop, room))["type"] == "message_ack"
            assert (await send(phone, room))["code"] == "rate_limited"


@ON_EMBEDDED
async def test_requests_of_one_connection_are_limited_and_those_of_another_are_not(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with (
        open_door(tmp_path, mock_clock, LIMITS_REQUESTS_PER_MINUTE="3") as door,
        door.connect() as (client, _),
        door.connect() as (other, _),
    ):
        assert [(await ask(client, type="ping"))["type"] for _ in range(3)] == ["pong"] * 3
        refused = await ask(client, type="ping")
        assert (refused["code"], refused["retryAfterMs"]) == ("rate_limited", pytest.approx(20_000, abs=2))
        assert "3 requests a minute" in refused["message"]
        assert (await ask(other, type="ping"))["type"] == "pong"


@ON_EMBEDDED
async def test_refused_message_costs_nothing_of_the_budget(tmp_path: Path, mock_clock: MockClock) -> None:
    async with open_door(tmp_path, mock_clock, LIMITS_MESSAGES_PER_MINUTE="2") as door:
        user_id, _, token = await door.sign_up()
        room = (await door.chat.rooms.visible(user_id, after="", limit=1, offset=0))[0].id
        async with door.connect(token) as (client, _):
            await ask(client, type="join_room", roomId=room)
            for _ in range(5):
                told = await ask(client, type="send_message", roomId=room, content=" ")
                assert told["code"] == "bad_message"
            assert [(await send(client, room)).get("code") for _ in range(3)] == [None, None, "rate_limited"]
