"""External prices reach the engine: rounded against the trader, newest only, nothing stale."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from tidebook.engine.v1 import internal_pb2, log_pb2

from kernel.markets import default_markets
from mesh.log import LogReader
from mesh.redis import open_redis
from services.marketdata.domain.prices import FeedKind, IndexPrice
from services.marketdata.price_sender import price_in
from tests.marketdata.rig import MarketDataRig, market_data_rig
from tests.support.waiting import eventually

UNIT = 10**8
MARKETS = {market.name: market for market in default_markets()}


def index(price: int, bid: int, ask: int, *, kind: FeedKind = FeedKind.BACKPACK) -> IndexPrice:
    """An index of BTC_USDC in 10**-8: said at 5, heard at 7."""
    return IndexPrice(
        "BTC_USDC", price, bid, ask, 0, kind, False, 5, 7, False, seq=1, inputs=(), used=()
    )


def test_a_price_between_ticks_is_rounded_against_whoever_trades_with_the_house() -> None:
    # 100.004 / 100.001 / 100.009, of a market with ticks of 0.01.
    price = index(10_000_400_000, 10_000_100_000, 10_000_900_000)
    assert price_in(MARKETS["BTC_USDC_CFD"], price) == internal_pb2.ExternalPrice(
        market="BTC_USDC_CFD", bid_ticks=10_000, ask_ticks=10_001, index_ticks=10_000, time_ns=5
    )


def test_an_unknown_bid_stays_unknown_and_a_recording_speaks_now() -> None:
    price = index(100 * UNIT, 0, 0, kind=FeedKind.REPLAY)
    assert price_in(MARKETS["BTC_USDC"], price) == internal_pb2.ExternalPrice(
        market="BTC_USDC", index_ticks=10_000, time_ns=7
    )


@pytest_asyncio.fixture
async def rig(short_dir: Path, valkey_url: str, postgres_url: str) -> AsyncIterator[MarketDataRig]:
    async with market_data_rig(short_dir, valkey_url, postgres_url, price_interval_ms=20) as rig:
        yield rig


async def test_prices_of_all_markets_flow_and_find_a_restarted_engine(rig: MarketDataRig) -> None:
    redis = open_redis(rig.settings)
    reader = LogReader(redis, rig.settings.shard)
    read_seq = 0

    async def named() -> set[int]:
        """Markets whose prices the log has got since the last look."""
        nonlocal read_seq
        found = set()
        for record in await reader.read(read_seq, 10_000):
            read_seq = record.seq
            for command in log_pb2.LogEntry.FromString(record.payload).commands:
                prices = command.set_prices.prices
                found |= {price.market_id for price in prices}
                for price in prices:
                    assert price.bid_ticks <= price.index_ticks <= price.ask_ticks
        return found

    seen: set[int] = set()

    async def all_priced() -> bool:
        seen.update(await named())
        return seen == {market.market_id for market in MARKETS.values()}

    try:
        await rig.engine.start()
        await rig.start()
        await eventually(all_priced)
        await rig.engine.stop()
        await rig.engine.start()
        await named()
        seen.clear()
        await eventually(all_priced)
    finally:
        await redis.aclose()
