"""Candles: the rules, and recorded trades against an independent computation."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.clock import ManualClock
from kernel.markets import default_markets
from services.marketdata.catalogue import Catalogue
from services.marketdata.domain.candles import Candle, CandleSeries, CandleSource
from services.marketdata.domain.intervals import SECONDS, Interval, span_of
from services.marketdata.domain.prices import FeedTrade, IndexPrice, PriceBoard
from services.marketdata.feeds.desk import FeedDesk
from services.marketdata.feeds.port import Feed
from services.marketdata.feeds.replay import ReplayFeed
from services.marketdata.projection import Projection

SECOND = 1_000_000_000
RECORDINGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "trades"
FILES = sorted(RECORDINGS.glob("*.csv.gz"))
MARKETS = {market.base.code: market.name for market in default_markets() if market.kind == "SPOT"}


def series() -> CandleSeries:
    return CandleSeries("BTC_USDC", CandleSource.CLOB)


def test_a_candle_counts_every_trade_of_its_interval() -> None:
    candles = series()
    for second, price in ((60, 100), (61, 130), (62, 90), (119, 110)):
        candles.add(second * SECOND, price, 2, 2 * price)
    minute = candles.newest(Interval.M1)
    assert minute is not None
    assert (minute.open_s, minute.end_s) == (60, 120)
    assert (minute.open, minute.high, minute.low, minute.close) == (100, 130, 90, 110)
    assert (minute.volume, minute.quote_volume, minute.trades) == (8, 860, 4)
    assert not minute.closed


def test_a_later_trade_closes_a_candle_and_leaves_no_empty_one_between() -> None:
    candles = series()
    candles.add(60 * SECOND, 100, 1, 100)
    candles.add(300 * SECOND, 101, 1, 101)
    minutes = [c for c in candles.take_changed() if c.interval is Interval.M1]
    assert [(c.open_s, c.closed) for c in minutes] == [(60, True), (300, False)]


def test_time_alone_closes_a_candle_once_it_has_ended() -> None:
    candles = series()
    candles.add(60 * SECOND, 100, 1, 100)
    candles.take_changed()
    candles.close_until(120 * SECOND - 1)
    assert {c.interval for c in candles.take_changed()} == {Interval.S1}
    candles.close_until(120 * SECOND)
    assert {c.interval for c in candles.take_changed()} == {Interval.M1}


def test_a_trade_that_is_late_counts_in_the_candle_that_is_still_open() -> None:
    candles = series()
    candles.add(60 * SECOND, 100, 1, 100)
    candles.close_until(120 * SECOND)
    closed = candles.newest(Interval.M1)
    candles.add(119 * SECOND, 500, 7, 3500)
    late = candles.newest(Interval.M1)
    assert closed is not None and late is not None
    assert (closed.volume, closed.high, closed.closed) == (1, 100, True)
    assert (late.open_s, late.volume, late.closed) == (120, 7, False)
    # The hour is still open, so there it is simply part of it.
    hour = candles.newest(Interval.H1)
    assert hour is not None and hour.volume == 8


@given(st.integers(0, 4_102_444_800), st.sampled_from(list(Interval)))
def test_every_second_is_in_exactly_the_candle_that_says_so(
    time_s: int, interval: Interval
) -> None:
    begin, end = span_of(interval, time_s)
    assert begin <= time_s < end
    assert span_of(interval, begin) == span_of(interval, end - 1) == (begin, end)
    assert span_of(interval, end)[0] == end
    start = datetime.fromtimestamp(begin, UTC)
    if interval is Interval.MO1:
        assert (start.day, start.hour, start.minute, start.second) == (1, 0, 0, 0)
    elif interval is Interval.W1:
        assert start.weekday() == 0 and end - begin == 7 * 86_400
    else:
        assert end - begin == SECONDS[interval] and begin % SECONDS[interval] == 0


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(1, 50), st.integers(1, 9)), max_size=60),
)
def test_minutes_added_up_are_the_candles_of_the_longer_intervals(
    trades: list[tuple[int, int, int]],
) -> None:
    candles = series()
    for second, price, quantity in sorted(trades):
        candles.add(second * SECOND, price, quantity, price * quantity)
    made: dict[Interval, list[Candle]] = {interval: [] for interval in Interval}
    for candle in candles.take_changed():
        made[candle.interval].append(candle)
    for interval in (Interval.M5, Interval.H1, Interval.H4, Interval.D1, Interval.W1):
        for candle in made[interval]:
            parts = [m for m in made[Interval.M1] if candle.open_s <= m.open_s < candle.end_s]
            assert candle.open == parts[0].open
            assert candle.close == parts[-1].close
            assert candle.high == max(part.high for part in parts)
            assert candle.low == min(part.low for part in parts)
            assert candle.volume == sum(part.volume for part in parts)
            assert candle.quote_volume == sum(part.quote_volume for part in parts)
            assert candle.trades == sum(part.trades for part in parts)


class Collected:
    """Keeps the last state of every candle that the feed's trades make."""

    def __init__(self) -> None:
        self._catalogue = Catalogue(default_markets(), Projection())
        self.candles: dict[tuple[str, Interval, int], Candle] = {}
        self.prices: dict[str, IndexPrice] = {}

    def on_prices(self, prices: Sequence[IndexPrice]) -> None:
        self.prices.update((price.pair, price) for price in prices)

    def on_feed_trades(self, feed: Feed, trades: Sequence[FeedTrade], until_ns: int) -> None:
        changed = self._catalogue.add_feed_trades(
            trades, simulated=feed.simulated, until_ns=until_ns
        )
        for candle in changed:
            self.candles[candle.market, candle.interval, candle.open_s] = candle


def recorded(path: Path) -> Iterator[tuple[int, str, Decimal, Decimal]]:
    """(microseconds, market, price, quantity), read as simply as possible."""
    with gzip.open(path, "rt") as rows:
        for row in csv.DictReader(rows):
            market = MARKETS[row["symbol"].removesuffix("T").removesuffix("USD")]
            yield int(row["ts_us"]), market, Decimal(row["price"]), Decimal(row["qty"])


def begin_of(interval: Interval, time_us: int) -> int:
    """Where the candle of a moment begins, by the calendar."""
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    day = moment.replace(hour=0, minute=0, second=0)
    if interval is Interval.MO1:
        return int(day.replace(day=1).timestamp())
    if interval is Interval.W1:
        return int((day - timedelta(days=day.weekday())).timestamp())
    if interval is Interval.D3:
        return int(
            (day - timedelta(days=(day - datetime(1970, 1, 1, tzinfo=UTC)).days % 3)).timestamp()
        )
    seconds = int((moment - day).total_seconds())
    return int(day.timestamp()) + seconds - seconds % SECONDS[interval]


@pytest.mark.skipif(not FILES, reason=f"no recorded trades in {RECORDINGS}")
@pytest.mark.parametrize(
    "paths",
    [
        *([path] for path in FILES),
        [path for path in FILES if path.name.startswith("gemini")],
    ],
    ids=lambda paths: "+".join(path.name.split(".")[0] for path in paths),
)
async def test_candles_of_a_recording_equal_those_computed_from_the_file(
    paths: list[Path],
) -> None:
    collected = Collected()
    feed = ReplayFeed(paths, list(MARKETS.values()), speed=0)
    desk = FeedDesk([feed], PriceBoard(), collected, ManualClock(1))
    await feed.run(desk)

    expected: dict[tuple[str, Interval, int], list[tuple[Decimal, Decimal]]] = {}
    rows = sorted((row for path in paths for row in recorded(path)), key=lambda row: row[0])
    for time_us, market, price, quantity in rows:
        for interval in Interval:
            key = (market, interval, begin_of(interval, time_us))
            expected.setdefault(key, []).append((price, quantity))
    assert collected.candles.keys() == expected.keys()
    last_s = rows[-1][0] // 1_000_000
    unit = Decimal(10) ** -8
    for key, trades in expected.items():
        candle = collected.candles[key]
        prices = [price for price, _ in trades]
        assert candle.open * unit == prices[0]
        assert candle.high * unit == max(prices)
        assert candle.low * unit == min(prices)
        assert candle.close * unit == prices[-1]
        assert candle.volume * unit == sum(quantity for _, quantity in trades)
        assert candle.quote_volume * unit * unit == sum(p * q for p, q in trades)
        assert candle.trades == len(trades)
        assert candle.closed == (candle.end_s <= last_s)
        assert candle.simulated
    assert "has ended" in desk.status().detail
    assert desk.status().simulated and not desk.status().healthy
