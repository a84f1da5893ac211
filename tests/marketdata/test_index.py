"""The index: what counts of several sources, and one external pair for all markets of it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tidebook.marketdata.v1 import marketdata_pb2 as pb

from kernel.clock import ManualClock
from kernel.markets import default_markets
from services.marketdata.catalogue import Catalogue
from services.marketdata.domain.book import OrderBook
from services.marketdata.domain.candles import CandleSource
from services.marketdata.domain.intervals import Interval
from services.marketdata.domain.marks import marks_of
from services.marketdata.domain.prices import (
    OUTLIER_BPS,
    FeedEvent,
    FeedKind,
    FeedTrade,
    IndexPrice,
    PriceBoard,
    Quote,
    Source,
    in_ticks,
)
from services.marketdata.feeds.choose import make_feeds
from services.marketdata.feeds.desk import FeedDesk
from services.marketdata.feeds.port import Feed, FeedHealth, FeedSink
from services.marketdata.hub import Mailbox
from services.marketdata.projection import Projection
from services.marketdata.streams import CandleStreams, PriceStreams

PAIR = "BTC_USDC"
UNIT = 10**8
A, B, C = (Source(name, FeedKind.BACKPACK, False, rank) for rank, name in enumerate("ABC"))
MADE_UP = Source("synthetic", FeedKind.SYNTHETIC, True, 9)
SPOT = next(market for market in default_markets() if market.name == PAIR)
# Of one pair, as the default markets of other kinds are.
KINDS = (
    SPOT,
    replace(SPOT, market_id=101, name="BTC_USDC_MARGIN", kind="MARGIN"),
    replace(SPOT, market_id=102, name="BTC_USDC_CFD", kind="CFD"),
)


def board_of(*said: tuple[Source, int]) -> PriceBoard:
    """A board on which each source quoted a price, a unit either way."""
    board = PriceBoard()
    for source, price in said:
        board.apply([Quote(PAIR, price - UNIT, price + UNIT, 1)], source, 1)
    return board


def index_of(board: PriceBoard) -> IndexPrice:
    index = board.get(PAIR)
    assert index is not None
    return index


def used(index: IndexPrice) -> str:
    return "".join(one.source.name for one in index.used)


@pytest.mark.parametrize(
    ("said", "price", "counted"),
    [
        ([(A, 1000)], 1000, "A"),
        ([(A, 1000), (B, 1004)], 1002, "AB"),
        ([(A, 1000), (B, 1004), (C, 1001)], 1001, "ABC"),
        # One that is far off does not count, and moves the median only among the others.
        ([(A, 1000), (B, 5000), (C, 1002)], 1001, "AC"),
        ([(A, 5), (B, 1000), (C, 1002)], 1001, "BC"),
        # Two that disagree: the one named first.
        ([(B, 2000), (A, 1000)], 1000, "A"),
        # Made-up prices count only when there is nothing else.
        ([(MADE_UP, 1500), (A, 1000)], 1000, "A"),
        ([(MADE_UP, 1500)], 1500, "synthetic"),
    ],
)
def test_the_index_is_the_median_of_the_sources_without_outliers(
    said: list[tuple[Source, int]], price: int, counted: str
) -> None:
    index = index_of(board_of(*((source, value * UNIT) for source, value in said)))
    assert (index.price, used(index)) == (price * UNIT, counted)
    assert (index.bid, index.ask) == ((price - 1) * UNIT, (price + 1) * UNIT)
    assert [one.source for one in index.inputs] == sorted(
        (source for source, _ in said), key=lambda source: source.rank
    )


@given(
    st.lists(st.integers(900 * UNIT, 1100 * UNIT), min_size=1, max_size=3),
    st.integers(1, 10**6).map(lambda price: price * UNIT),
)
def test_one_wrong_source_of_many_moves_the_index_no_further_than_the_others_are_apart(
    honest: list[int], wrong: int
) -> None:
    honest = [honest[0] + (price - honest[0]) // 100 for price in honest]
    sources = [Source(f"{n}", FeedKind.BACKPACK, False, n) for n in range(2 * len(honest) + 1)]
    said = [*honest, *honest, wrong]
    index = index_of(board_of(*zip(sources, said, strict=True)))
    if len(honest) > 1 or abs(wrong - honest[0]) * 10_000 > OUTLIER_BPS * honest[0]:
        assert min(honest) <= index.price <= max(honest)


def test_a_source_that_goes_silent_leaves_the_index_and_the_last_one_makes_it_stale() -> None:
    board = board_of((A, 1000 * UNIT), (B, 1004 * UNIT))
    board.apply([Quote(PAIR, 1004 * UNIT, 1004 * UNIT, 2)], B, 50)
    (index,) = board.mark_stale(60, 20)
    assert (used(index), index.price, index.stale) == ("B", 1004 * UNIT, False)
    (index,) = board.mark_stale(100, 20)
    assert (used(index), index.price, index.stale) == ("", 1004 * UNIT, True)
    assert not board.mark_stale(200, 20)
    (index,) = board.apply([Quote(PAIR, 1000 * UNIT, 1000 * UNIT, 3)], A, 201)
    assert (used(index), index.stale) == ("A", False)


def test_a_stale_index_does_not_count_in_the_mark_price() -> None:
    book = OrderBook()
    book.place(1, 1, 9_000, 5)
    book.place(2, 2, 9_003, 5)
    index = index_of(board_of((A, 80 * UNIT)))
    assert in_ticks(SPOT, index.price) == 8_000
    assert marks_of(SPOT, book, 9_500, index).mark == 9_001
    stale = replace(index, stale=True)
    assert marks_of(SPOT, book, 9_500, stale).mark == (9_001 + 9_500) // 2
    assert marks_of(SPOT, OrderBook(), 0, None).mark == 0


class Script:
    """A feed that gives what the test says."""

    kind = FeedKind.BACKPACK
    simulated = False
    late_ns = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self.health = FeedHealth(connected=True, detail=f"{name} is live")

    async def run(self, sink: FeedSink) -> None:
        await asyncio.Event().wait()


class Heard:
    """Keeps the trades that candles are made of."""

    def __init__(self) -> None:
        self.trades: list[int] = []

    def on_prices(self, prices: Sequence[IndexPrice]) -> None:
        """Not of interest here."""

    def on_feed_trades(self, feed: Feed, trades: Sequence[FeedTrade], until_ns: int) -> None:
        self.trades += [trade.price for trade in trades]


def test_candles_count_the_trades_of_the_leading_source_only() -> None:
    clock, heard = ManualClock(1), Heard()
    first, second = Script("first"), Script("second")
    desk = FeedDesk([first, second], PriceBoard(), heard, clock, stale_ms=1)

    def trade(feed: Feed, price: int) -> None:
        events: list[FeedEvent] = [FeedTrade(PAIR, price, 1, clock.now_ns())]
        desk.on_events(feed, events)

    trade(second, 1_000)
    trade(first, 1_001)
    trade(second, 1_002)
    assert heard.trades == [1_000, 1_001]
    assert [one.healthy for one in desk.statuses()] == [True, True]
    clock.advance(10_000_000)
    desk.board.mark_stale(clock.now_ns(), 1_000_000)
    trade(second, 1_003)
    assert heard.trades == [1_000, 1_001, 1_003]
    assert [one.healthy for one in desk.statuses()] == [False, True]
    assert desk.status().name == "second"


async def test_every_market_of_a_pair_has_its_price_and_its_candles() -> None:
    catalogue, board = Catalogue(KINDS, Projection()), PriceBoard()
    prices, candles = PriceStreams(board, catalogue), CandleStreams(catalogue)
    mailbox = Mailbox()
    prices.open(mailbox, ["BTC_USDC_CFD", "BTC_USDC"])
    candles.open(mailbox, ["BTC_USDC_CFD"], CandleSource.INDEX, Interval.M1)
    trade = FeedTrade(PAIR, 70 * UNIT, UNIT, 60 * 10**9)
    prices.publish(board.apply([trade], A, 5))
    candles.publish(catalogue.add_feed_trades([trade], simulated=False, until_ns=0))
    first: pb.WatchPricesResponse = await anext(mailbox)
    assert [(p.market, p.price) for p in first.prices] == [
        ("BTC_USDC", "70"),
        ("BTC_USDC_CFD", "70"),
    ]
    second: pb.WatchCandlesResponse = await anext(mailbox)
    assert [(c.market, c.close, c.volume) for c in second.candles] == [("BTC_USDC_CFD", "70", "1")]


def test_several_feeds_are_told_apart_by_name_and_a_recording_stays_alone(
    tmp_path: Path,
) -> None:
    feeds = make_feeds("backpack; backpack?ws=ws://127.0.0.1:1/ ;synthetic:3", KINDS, ManualClock())
    assert [feed.name for feed in feeds] == ["backpack", "backpack-2", "synthetic"]
    path = tmp_path / "trades.csv.gz"
    path.write_bytes(gzip.compress(b"ts_us,symbol,price,qty,side\n"))
    with pytest.raises(ValueError, match="alone"):
        make_feeds(f"replay:{path};synthetic", KINDS, ManualClock())
