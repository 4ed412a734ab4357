"""The proof of delivery: an event goes the whole way from the bus to an outbox, or it is said that it does not."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio

from chatd.asyncio_loop import open_asyncio_loop
from chatd.bus.hub import Hub, HubOptions, open_hub
from chatd.bus.local import LocalBus
from chatd.bus.proof import open_proof
from chatd.errors import Unavailable
from tests.buses import open_node
from tests.histories import ListedHistory
from tests.servers import open_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from chatd.bus.port import Event


class LossyBus(LocalBus):
    """Loses what is published while `is_cut`."""

    is_cut = False

    def publish(self, events: Sequence[Event]) -> None:
        if not self.is_cut:
            super().publish(events)


@asynccontextmanager
async def open_lossy() -> AsyncIterator[tuple[LossyBus, Hub]]:
    bus, history = LossyBus(trio.current_time), ListedHistory()
    async with open_hub(bus, HubOptions(), read_last_seqs=history.last_seqs, read_events=history.events_after) as hub:
        yield bus, hub


async def test_what_is_published_is_delivered_again_and_again(autojump_clock: object) -> None:
    async with open_lossy() as (bus, hub):
        proof = await open_proof(bus, hub)
        for _ in range(3):
            await proof.deliver(within_s=1)
        # Long idle, it is not forgotten.
        await trio.sleep(1000)
        await proof.deliver(within_s=1)


async def test_what_is_lost_is_said_in_time_and_the_next_one_arrives(autojump_clock: object) -> None:
    async with open_lossy() as (bus, hub):
        proof = await open_proof(bus, hub)
        bus.is_cut = True
        began = trio.current_time()
        with pytest.raises(Unavailable, match="within 2 s"):
            await proof.deliver(within_s=2)
        assert trio.current_time() - began == 2
        bus.is_cut = False
        await proof.deliver(within_s=2)


async def test_two_nodes_proofs_do_not_meet(autojump_clock: object) -> None:
    async with open_lossy() as (bus, hub):
        first, second = await open_proof(bus, hub), await open_proof(bus, hub)
        await first.deliver(within_s=1)
        await second.deliver(within_s=1)
        assert len(hub.heard_rooms()) == 2


async def test_over_redis_a_proof_fails_while_it_is_gone_and_holds_again_when_it_is_back() -> None:
    history = ListedHistory()
    with open_redis() as server:
        async with (
            open_asyncio_loop(),
            open_node(server.url) as bus,
            open_hub(bus, HubOptions(), read_last_seqs=history.last_seqs, read_events=history.events_after) as hub,
        ):
            proof = await open_proof(bus, hub)
            await proof.deliver(within_s=10)
            server.kill()
            with pytest.raises(Unavailable):
                await proof.deliver(within_s=0.2)
            server.start()
            with trio.fail_after(30):
                while True:
                    with suppress(Unavailable):
                        await proof.deliver(within_s=0.2)
                        break
