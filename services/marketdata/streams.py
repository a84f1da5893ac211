"""The streams of prices, tickers, trades and candles: how each begins, and how it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence

from tidebook.marketdata.v1 import marketdata_pb2 as pb

from kernel.clock import NS_PER_SECOND, Clock
from services.marketdata import codec
from services.marketdata.catalogue import Catalogue
from services.marketdata.domain.candles import Candle, CandleSource
from services.marketdata.domain.intervals import Interval
from services.marketdata.domain.prices import IndexPrice, PriceBoard
from services.marketdata.domain.ticker import DayFigures
from services.marketdata.domain.trades import PublicTrade
from services.marketdata.hub import (
    KeyedSubscription,
    Mailbox,
    QueueSubscription,
    QueueTopic,
    Subscription,
    Topic,
)
from services.marketdata.projection import Applied, MarketState, Projection

TICKER_SECONDS = 0.25


class PriceStreams:
    """External prices: what they are now, then each change; a slow reader skips some."""

    def __init__(self, board: PriceBoard, catalogue: Catalogue) -> None:
        self._board = board
        self._catalogue = catalogue
        self._topic: Topic[pb.Price] = Topic()

    def publish(self, prices: Sequence[IndexPrice]) -> None:
        """These prices changed."""
        if self._topic:
            for price in prices:
                for market in self._catalogue.of_pair(price.pair):
                    message = codec.price_to_proto(market.name, price, price.seq - 1)
                    self._topic.publish(market.name, market.name, message)

    def open(self, mailbox: Mailbox, markets: Collection[str]) -> Subscription:
        """The prices of `markets` (empty: all)."""
        first = [
            (market.name, codec.price_to_proto(market.name, price, 0))
            for price in self._board
            for market in self._catalogue.of_pair(price.pair)
            if not markets or market.name in markets
        ]
        return KeyedSubscription(self._topic, mailbox, markets, _PriceChain().respond, first=first)


class _PriceChain:
    """Links one stream's prices by `prev_seq`, across those that a slow reader skipped."""

    def __init__(self) -> None:
        self._last_seq: dict[str, int] = {}

    def respond(self, prices: Sequence[pb.Price]) -> pb.WatchPricesResponse:
        response = pb.WatchPricesResponse(prices=prices)
        for price in response.prices:
            # `response` holds copies: the messages themselves belong to all readers.
            price.prev_seq = self._last_seq.get(price.market, 0)
            self._last_seq[price.market] = price.seq
        return response


class TickerStreams:
    """Tickers, made at most every `TICKER_SECONDS`; a slow reader skips some."""

    def __init__(self, projection: Projection, board: PriceBoard, clock: Clock) -> None:
        self._projection = projection
        self._board = board
        self._clock = clock
        self._topic: Topic[pb.Ticker] = Topic()
        self._dirty: set[str] = set()
        self._figures: dict[str, DayFigures] = {}

    def ticker(self, state: MarketState) -> pb.Ticker:
        """A market's ticker now."""
        name, now_ns = state.market.name, self._clock.now_ns()
        figures = self._figures.get(name)
        if state.day.trim(now_ns // NS_PER_SECOND) or figures is None:
            figures = self._figures[name] = state.day.figures()
        index = self._board.get(state.market.pair)
        return codec.ticker_to_proto(state, figures, index, now_ns)

    def market_prices(self, state: MarketState) -> pb.MarketPrices:
        """A market's index, mark and last price now."""
        index = self._board.get(state.market.pair)
        return codec.market_prices_to_proto(
            state, state.marks(index), index, self._projection.book_seq, self._clock.now_ns()
        )

    def publish(self, applied: Applied) -> None:
        """A log entry was applied."""
        self._dirty.update(applied.books, applied.statuses)
        for trade in applied.trades:
            self._dirty.add(trade.market)
            self._figures.pop(trade.market, None)

    def publish_prices(self, prices: Iterable[IndexPrice]) -> None:
        """These external prices changed."""
        pairs = {price.pair for price in prices}
        for name, state in self._projection.markets.items():
            if state.market.pair in pairs:
                self._dirty.add(name)

    async def run(self) -> None:
        """Send what changed until cancelled."""
        while True:
            await asyncio.sleep(TICKER_SECONDS)
            dirty, self._dirty = self._dirty, set()
            if not self._topic:
                continue
            for name in dirty:
                if (state := self._projection.markets.get(name)) is not None:
                    self._topic.publish(name, name, self.ticker(state))

    def open(self, mailbox: Mailbox, states: Sequence[MarketState]) -> Subscription:
        """The tickers of some markets."""
        first = [(state.market.name, self.ticker(state)) for state in states]
        return KeyedSubscription(
            self._topic,
            mailbox,
            [state.market.name for state in states],
            lambda tickers: pb.WatchTickersResponse(tickers=tickers),
            first=first,
        )


class TradeStreams:
    """Every trade in order; a reader that cannot keep up is ended and resumes."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._topic: QueueTopic[pb.Trade] = QueueTopic()

    def publish(self, trades: Sequence[PublicTrade]) -> None:
        """The trades of one log entry, together: resuming after it can then lose none."""
        if trades and self._topic:
            markets = self._projection.markets
            self._topic.publish(
                [(t.market, codec.trade_to_proto(markets[t.market].market, t)) for t in trades]
            )

    def open(
        self, mailbox: Mailbox, markets: Collection[str], missed: Sequence[PublicTrade]
    ) -> Subscription:
        """The trades of `markets`, those that a resuming reader missed first."""
        states = self._projection.markets
        return QueueSubscription(
            self._topic,
            mailbox,
            markets,
            lambda trades: pb.WatchTradesResponse(trades=trades),
            first=[codec.trade_to_proto(states[t.market].market, t) for t in missed],
        )


class CandleStreams:
    """Candles as they change; a slow reader skips states of an open one, never a closed one."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._topics: dict[tuple[CandleSource, Interval], Topic[pb.Candle]] = {}

    def publish(self, candles: Iterable[Candle]) -> None:
        """These candles changed."""
        for candle in candles:
            topic = self._topics.get((candle.source, candle.interval))
            if topic:
                for market in self._catalogue.markets_of(candle):
                    message = codec.candle_to_proto(market, candle)
                    topic.publish(market.name, (market.name, candle.open_s), message)

    def open(
        self, mailbox: Mailbox, names: Collection[str], source: CandleSource, of: Interval
    ) -> Subscription:
        """The newest candle of some markets, then each change."""
        first = []
        for name in dict.fromkeys(names):
            candle = self._catalogue.series(source, name).newest(of)
            if candle is not None:
                message = codec.candle_to_proto(self._catalogue.market(name), candle)
                first.append(((name, candle.open_s), message))
        return KeyedSubscription(
            self._topics.setdefault((source, of), Topic()),
            mailbox,
            names,
            lambda candles: pb.WatchCandlesResponse(candles=candles),
            first=first,
        )
