"""Made-up prices: a seeded random walk in whole ticks that is drawn back to where it began."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

from kernel.clock import Clock
from kernel.markets import Market
from kernel.money import parse_units
from services.marketdata.domain.prices import (
    FEED_DECIMALS,
    FeedEvent,
    FeedKind,
    FeedTrade,
    Quote,
    one_per_pair,
)
from services.marketdata.feeds.port import FeedHealth, FeedSink

DEFAULT_SEED = 1
# Where the walks begin, in quote per base.
START_PRICES: dict[str, str] = {
    "BTC": "65000",
    "ETH": "3200",
    "SOL": "150",
    "DOGE": "0.125",
    "BNB": "590",
}
_OTHER_START_PRICE = "100"
_STEPS_PER_SECOND = 2
# One step moves by at most 1 in 2,500 (4 basis points); the spread is 2 basis points.
_STEP_FRACTION = 2_500
_SPREAD_FRACTION = 5_000
# A step is drawn back by 1 in 200 of the distance from the start.
_PULL_FRACTION = 200
# A trade is worth between 20 and 2,000 quote coins.
_TRADE_VALUES = (20, 2_000)


class Walk:
    """One pair's walk. The same seed and pair give the same steps, whatever the time."""

    def __init__(self, market: Market, seed: int, start: int | None = None) -> None:
        self.pair = market.pair
        self._random = random.Random(f"{seed}/{self.pair}")
        self._tick = _rescale(market.tick_size_units, market.quote.decimals)
        self._lot = _rescale(market.lot_size_units, market.base.decimals)
        if start is None:
            text = START_PRICES.get(market.base.code, _OTHER_START_PRICE)
            start = parse_units(text, FEED_DECIMALS)
        self._start_ticks = max(10, start // self._tick)
        self._ticks = self._start_ticks

    def step(self, time_ns: int) -> list[FeedEvent]:
        """The next quote and, half of the time, a trade at its bid or ask."""
        choose = self._random.randint
        most = max(1, self._ticks // _STEP_FRACTION)
        pull = (self._start_ticks - self._ticks) // _PULL_FRACTION
        self._ticks = max(10, self._ticks + choose(-most, most) + pull)
        half_spread = max(1, self._ticks // (2 * _SPREAD_FRACTION))
        bid = (self._ticks - half_spread) * self._tick
        ask = (self._ticks + half_spread) * self._tick
        events: list[FeedEvent] = [Quote(self.pair, bid, ask, time_ns)]
        if choose(0, 1):
            price = (bid, ask)[choose(0, 1)]
            value = choose(*_TRADE_VALUES) * 10 ** (2 * FEED_DECIMALS)
            quantity = max(1, value // (price * self._lot)) * self._lot
            events.append(FeedTrade(self.pair, price, quantity, time_ns))
        return events


class SyntheticFeed:
    """Random walks of all pairs, about two quotes a second each."""

    kind = FeedKind.SYNTHETIC
    name = "synthetic"
    simulated = True
    late_ns = 0

    def __init__(
        self,
        markets: Sequence[Market],
        clock: Clock,
        seed: int = DEFAULT_SEED,
        *,
        start_prices: Mapping[str, int] | None = None,
    ) -> None:
        """`start_prices` (pair -> price) continue another source's prices."""
        starts = start_prices or {}
        self._walks = [
            Walk(market, seed, starts.get(pair)) for pair, market in one_per_pair(markets).items()
        ]
        self._clock = clock
        self.health = FeedHealth(detail=f"made-up prices (seed {seed})")

    async def run(self, sink: FeedSink) -> None:
        self.health.connected = True
        pause = 1 / (_STEPS_PER_SECOND * max(1, len(self._walks)))
        while True:
            for walk in self._walks:
                sink.on_events(self, walk.step(self._clock.now_ns()))
                await asyncio.sleep(pause)


def _rescale(units: int, decimals: int) -> int:
    """Units of an asset -> units of 10**-8, at least 1."""
    scaled: int = units * 10**FEED_DECIMALS // 10**decimals
    return max(1, scaled)
