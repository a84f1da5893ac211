"""Sends the index of every pair to the engine, where stops, CFDs and liquidations hang on it.

To whichever engine leads: only that one is healthy, so the channel finds it, and a stream that ends
is opened anew. Of several market data replicas each sends; the core takes the newest of a market's
prices by their time and leaves older ones, so it does not matter who was first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import grpc
import structlog
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc

from kernel.markets import Market
from kernel.money import ceil_div
from mesh.aio import Backoff
from mesh.channel import cancelling
from services.marketdata.domain.prices import (
    FEED_DECIMALS,
    FeedKind,
    IndexPrice,
    PriceBoard,
    in_ticks,
)

# A price that does not move is sent again when it has this part of its life behind it.
_REFRESH = 4

log = structlog.get_logger()


class PriceSender:
    """Sends what is new on the board, at most once in `interval_ms`, each market's newest only.

    A stale price is never sent, and a feed that says nothing costs nothing.
    """

    def __init__(
        self,
        engine: internal_pb2_grpc.EngineInternalServiceAsyncStub,
        board: PriceBoard,
        markets: Iterable[Market],
        *,
        interval_ms: int,
    ) -> None:
        self._engine = engine
        self._board = board
        self._interval_seconds = interval_ms / 1000
        self._markets: dict[str, list[Market]] = {}
        for market in markets:
            self._markets.setdefault(market.pair, []).append(market)
        # What the engine has: pair -> last sent.
        self._sent: dict[str, IndexPrice] = {}

    async def run(self) -> None:
        """Send until cancelled."""
        backoff = Backoff(first_seconds=0.1, most_seconds=2.0)
        while True:
            try:
                await self._stream(backoff)
            except grpc.aio.AioRpcError as error:
                log.info("prices_not_taken", code=error.code().name, why=error.details())
            await backoff.wait()

    async def _stream(self, backoff: Backoff) -> None:
        """One stream, from everything that is known on; returns or raises when it has ended."""
        self._sent.clear()
        async with cancelling(self._engine.SetPrices()) as call:
            while not call.done():
                moved = [price for price in self._board if self._is_due(price)]
                if moved:
                    await call.write(internal_pb2.SetPricesRequest(prices=self._prices(moved)))
                    self._sent.update((price.pair, price) for price in moved)
                    backoff.reset()
                await asyncio.sleep(self._interval_seconds)
            await call

    def _is_due(self, price: IndexPrice) -> bool:
        markets = self._markets.get(price.pair)
        if not markets or price.stale or not price.price:
            return False
        sent = self._sent.get(price.pair)
        if sent is None or (price.price, price.bid, price.ask) != (sent.price, sent.bid, sent.ask):
            return True
        lives_ns = min(market.price_stale_ns for market in markets)
        return bool(lives_ns) and (_time_ns(price) - _time_ns(sent)) * _REFRESH > lives_ns

    def _prices(self, moved: Sequence[IndexPrice]) -> list[internal_pb2.ExternalPrice]:
        return [price_in(market, price) for price in moved for market in self._markets[price.pair]]


def price_in(market: Market, price: IndexPrice) -> internal_pb2.ExternalPrice:
    """A pair's price in a market's ticks: the bid rounded down, the ask up, against whoever trades
    with the house. An index below one tick is one tick.
    """
    return internal_pb2.ExternalPrice(
        market=market.name,
        bid_ticks=in_ticks(market, price.bid),
        ask_ticks=_in_ticks_up(market, price.ask),
        index_ticks=max(1, in_ticks(market, price.price)),
        time_ns=_time_ns(price),
    )


def _in_ticks_up(market: Market, price: int) -> int:
    units = price * 10**market.quote.decimals
    return ceil_div(units, market.tick_size_units * 10**FEED_DECIMALS)


def _time_ns(price: IndexPrice) -> int:
    """When the price was one: by the source's clock, but never later than we got it. A recording's
    own time is long past; what it says is said now.
    """
    if price.kind is FeedKind.REPLAY:
        return price.receive_time_ns
    return min(price.source_time_ns, price.receive_time_ns)
