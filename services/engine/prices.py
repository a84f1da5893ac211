"""External prices on their way into the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tidebook.engine.v1 import internal_pb2

from mesh.aio import cancel_and_wait
from services.engine.domain import commands as c
from services.engine.service import Engine


async def take_prices(
    engine: Engine, requests: AsyncIterator[internal_pb2.SetPricesRequest]
) -> None:
    """Write the prices of a stream until it ends: one command at a time, and of what came while
    that was written each market's newest, so that a slow log gets no backlog of old prices.

    Raises `Refused` when a market is unknown, a price invalid, or this engine takes no commands.
    """
    waiting: dict[int, c.PriceUpdate] = {}
    arrived = asyncio.Event()

    async def read() -> None:
        try:
            async for request in requests:
                for price in request.prices:
                    market_id = engine.texts.named(price.market).market.market_id
                    waiting[market_id] = c.PriceUpdate(
                        market_id,
                        price.bid_ticks,
                        price.ask_ticks,
                        price.index_ticks,
                        price.time_ns,
                    )
                arrived.set()
        finally:
            arrived.set()

    reading = asyncio.create_task(read())
    try:
        while waiting or not reading.done():
            await arrived.wait()
            arrived.clear()
            if waiting:
                prices = tuple(waiting.values())
                waiting.clear()
                await engine.set_prices(prices)
        await reading
    finally:
        await cancel_and_wait(reading)
