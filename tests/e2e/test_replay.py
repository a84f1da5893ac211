"""Recorded trades as the feed: prices follow the recording, candles are those of the file."""

from __future__ import annotations

import asyncio
import csv
import gzip
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tidebook.marketdata.v1 import marketdata_pb2, marketdata_pb2_grpc

from examples.client import Endpoints, HttpApi, grpc_channel
from tests.support.exchange import PORT_OFFSETS, Exchange, running_exchange
from tests.support.killing import kill
from tests.support.ports import free_ports
from tests.support.waiting import eventually

RECORDING = (
    Path(__file__).resolve().parents[3] / "shared/data/trades/gemini_BTCUSD_20251010_h00-20.csv.gz"
)
MARKET = "BTC_USDC"
# The recording's 21 hours in about twenty seconds: a busy machine skips more of the prices between.
SPEED = 4_000
INTERVALS = {"1S": 1, "1M": 60, "5M": 300, "1H": 3600, "1D": 86_400}
PAGE_SIZE = 1000

pytestmark = [
    pytest.mark.xdist_group("exchange"),
    pytest.mark.skipif(not RECORDING.exists(), reason=f"no recorded trades at {RECORDING}"),
]


@dataclass
class Expected:
    """A candle worked out straight from the file."""

    prices: list[Decimal] = field(default_factory=list)
    volume: Decimal = Decimal(0)
    quote_volume: Decimal = Decimal(0)


def recorded() -> Iterator[tuple[int, Decimal, Decimal]]:
    """(microseconds, price, quantity) of each trade of the file."""
    with gzip.open(RECORDING, "rt", newline="") as rows:
        for row in csv.DictReader(rows):
            yield int(row["ts_us"]), Decimal(row["price"]), Decimal(row["qty"])


def expected_candles(seconds: int) -> dict[int, Expected]:
    """Open time (Unix seconds) -> candle; an interval without a trade has none."""
    candles: dict[int, Expected] = {}
    for time_us, price, quantity in recorded():
        open_s = time_us // (seconds * 1_000_000) * seconds
        candle = candles.setdefault(open_s, Expected())
        candle.prices.append(price)
        candle.volume += quantity
        candle.quote_volume += price * quantity
    return candles


async def served_candles(http: HttpApi, interval: str) -> list[dict[str, Any]]:
    """All pages, newest first."""
    query = {
        "interval": f"CANDLE_INTERVAL_{interval}",
        "source": "CANDLE_SOURCE_INDEX",
        "pageSize": str(PAGE_SIZE),
    }
    found: list[dict[str, Any]] = []
    while True:
        page = await http.call("GET", f"/v1/marketdata/{MARKET}/candles", query=query)
        found += page["candles"]
        if not page["nextPageToken"]:
            return found
        assert len(page["candles"]) == PAGE_SIZE
        query["pageToken"] = page["nextPageToken"]


async def follow_prices(address: str, seen: list[marketdata_pb2.Price]) -> None:
    """Collect every price of the market from the moment that market data answers."""
    async with grpc_channel(address) as channel:
        stub = marketdata_pb2_grpc.MarketDataServiceStub(channel)
        call = stub.WatchPrices(
            marketdata_pb2.WatchPricesRequest(markets=[MARKET]), wait_for_ready=True
        )
        async for message in call:
            seen.extend(message.prices)


@asynccontextmanager
async def replaying_exchange(
    data_dir: Path, seen: list[marketdata_pb2.Price]
) -> AsyncIterator[Exchange]:
    """A system that replays the recording; `seen` gets the prices from its first moment on."""
    base = free_ports(PORT_OFFSETS)
    watching = asyncio.create_task(follow_prices(f"127.0.0.1:{base + 4}", seen))
    try:
        async with running_exchange(
            data_dir,
            port_base=base,
            TIDEBOOK_BOTS="false",
            TIDEBOOK_FEED=f"replay:{RECORDING}?speed={SPEED}",
        ) as exchange:
            yield exchange
    finally:
        watching.cancel()
        # The system's end ends the stream as well.
        await asyncio.gather(watching, return_exceptions=True)


def check_prices(seen: list[marketdata_pb2.Price]) -> None:
    """The stream followed the recording to its end, and always called it simulated."""
    traded: dict[int, set[Decimal]] = {}
    for time_us, price, _ in recorded():
        traded.setdefault(time_us, set()).add(price)
    prices = [price for price in seen if price.price]
    assert len({price.seq for price in prices}) > 50
    times = [price.source_time.ToMicroseconds() for price in prices]
    assert times == sorted(times)
    for time_us, told in zip(times, prices, strict=True):
        assert told.simulated
        assert told.source == marketdata_pb2.FEED_KIND_REPLAY
        assert Decimal(told.price) == Decimal(told.last)
        assert Decimal(told.price) in traded[time_us]
    last_us, last_price, _ = list(recorded())[-1]
    assert (times[-1], Decimal(prices[-1].last)) == (last_us, last_price)


def check_candles(served: list[dict[str, Any]], seconds: int) -> None:
    """Each candle of the file is served, equal to the last digit, and no other."""
    expected = expected_candles(seconds)
    opened = [
        int(
            datetime.strptime(c["openTime"][:19], "%Y-%m-%dT%H:%M:%S")
            .replace(tzinfo=UTC)
            .timestamp()
        )
        for c in served
    ]
    assert opened == sorted(expected, reverse=True)
    for open_s, candle in zip(opened, served, strict=True):
        wanted = expected[open_s]
        assert Decimal(candle["open"]) == wanted.prices[0]
        assert Decimal(candle["high"]) == max(wanted.prices)
        assert Decimal(candle["low"]) == min(wanted.prices)
        assert Decimal(candle["close"]) == wanted.prices[-1]
        assert Decimal(candle["volume"]) == wanted.volume
        assert Decimal(candle["quoteVolume"]) == wanted.quote_volume
        assert int(candle["trades"]) == len(wanted.prices)
        assert candle["simulated"] is True
    assert all(candle["closed"] for candle in served[1:]), "only the newest may be open"


async def check_all_candles(http: HttpApi) -> None:
    for interval, seconds in INTERVALS.items():
        check_candles(await served_candles(http, interval), seconds)


async def test_prices_follow_a_recording_and_candles_are_those_of_the_file(
    short_dir: Path,
) -> None:
    seen: list[marketdata_pb2.Price] = []
    trades = sum(1 for _ in recorded())
    async with replaying_exchange(short_dir / "data", seen) as exchange:
        endpoints = Endpoints(exchange.http_url, exchange.grpc_address)
        async with HttpApi(endpoints) as http:

            async def ended() -> None:
                feed = (await http.call("GET", "/v1/prices"))["feed"]
                assert f"has ended after {trades} trades" in feed["detail"]
                assert feed["simulated"] is True

            await eventually(ended)
            # The stream may be a moment behind the answer that says so.
            await eventually(lambda: check_prices(seen))
            await check_all_candles(http)
            # After a crash the recording is played anew, and nothing counts twice.
            await kill(exchange, "marketdata")
            await eventually(ended)
            await check_all_candles(http)
