"""Candles of all intervals, built from trades one by one.

Rules:
- Empty candles are not made: an interval without a trade has none.
- A candle is closed when a trade of a later one comes, or when it is known that no trade from
  before its end will come. A closed candle never changes again.
- A trade that is older than the last closed candle of an interval counts there in the oldest one
  that is still open, so that volumes over all candles are always those of all trades.

Prices, quantities and quote amounts are integers; their scale is the business of who feeds them in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from services.marketdata.domain.intervals import Interval, span_of

_SECOND_NS = 1_000_000_000


class CandleSource(IntEnum):
    """What candles are made of; the numbers are those of `tidebook.marketdata.v1.CandleSource`."""

    CLOB = 1
    INDEX = 2


@dataclass(slots=True)
class Candle:
    """One candle; times are whole seconds since 1970, the end is not part of it."""

    market: str
    source: CandleSource
    interval: Interval
    open_s: int
    end_s: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote_volume: int = 0
    trades: int = 0
    closed: bool = False
    # Some of it comes from recorded or made-up prices.
    simulated: bool = False


class CandleSeries:
    """The candles of one market from one source, in all intervals."""

    def __init__(self, market: str, source: CandleSource) -> None:
        self.market = market
        self._source = source
        # The newest candle of each interval, open or closed.
        self._newest: dict[Interval, Candle] = {}
        self._changed: dict[tuple[Interval, int], Candle] = {}
        # The earliest end of an open candle: most calls of `close_until` have nothing to do.
        self._next_end_s: int | None = None

    def restore(self, candles: Iterable[Candle]) -> None:
        """Go on from the newest candle of each interval."""
        self._newest.update((candle.interval, candle) for candle in candles)
        self._find_next_end()

    def newest(self, interval: Interval) -> Candle | None:
        """The newest candle of an interval, open or closed."""
        return self._newest.get(interval)

    def add(
        self, time_ns: int, price: int, quantity: int, quote: int, *, simulated: bool = False
    ) -> None:
        """Count a trade in every interval."""
        time_s = time_ns // _SECOND_NS
        for interval in Interval:
            candle = self._newest.get(interval)
            if candle is None or candle.closed or time_s >= candle.end_s:
                candle = self._next(interval, candle, time_s, price)
            if price > candle.high:
                candle.high = price
            if price < candle.low:
                candle.low = price
            candle.close = price
            candle.volume += quantity
            candle.quote_volume += quote
            candle.trades += 1
            candle.simulated = candle.simulated or simulated
            self._changed[interval, candle.open_s] = candle

    def close_until(self, time_ns: int) -> None:
        """No trade from before `time_ns` will come: close what ended by then."""
        time_s = time_ns // _SECOND_NS
        if self._next_end_s is None or time_s < self._next_end_s:
            return
        for candle in self._newest.values():
            if not candle.closed and candle.end_s <= time_s:
                self._close(candle)
        self._find_next_end()

    def take_changed(self) -> list[Candle]:
        """The candles that changed since the last call, those of an interval in their order."""
        changed, self._changed = self._changed, {}
        return list(changed.values())

    def _next(self, interval: Interval, newest: Candle | None, time_s: int, price: int) -> Candle:
        if newest is not None:
            if not newest.closed:
                self._close(newest)
            time_s = max(time_s, newest.end_s)
        open_s, end_s = span_of(interval, time_s)
        candle = Candle(
            self.market, self._source, interval, open_s, end_s, price, price, price, price
        )
        self._newest[interval] = candle
        if self._next_end_s is None or end_s < self._next_end_s:
            self._next_end_s = end_s
        return candle

    def _close(self, candle: Candle) -> None:
        candle.closed = True
        self._changed[candle.interval, candle.open_s] = candle

    def _find_next_end(self) -> None:
        self._next_end_s = min(
            (candle.end_s for candle in self._newest.values() if not candle.closed), default=None
        )
