"""Hands what is new to everybody who reads it: streams and history."""

from __future__ import annotations

from collections.abc import Sequence

from services.marketdata.book_streams import BookStreams
from services.marketdata.catalogue import Catalogue
from services.marketdata.domain.candles import Candle
from services.marketdata.domain.prices import FeedTrade, IndexPrice
from services.marketdata.feeds.port import Feed
from services.marketdata.history import History
from services.marketdata.projection import Applied
from services.marketdata.streams import CandleStreams, PriceStreams, TickerStreams, TradeStreams


class Publisher:
    """The one place where events meet readers."""

    def __init__(
        self,
        catalogue: Catalogue,
        history: History,
        *,
        prices: PriceStreams,
        tickers: TickerStreams,
        books: BookStreams,
        trades: TradeStreams,
        candles: CandleStreams,
    ) -> None:
        self._catalogue = catalogue
        self._history = history
        self.prices = prices
        self.tickers = tickers
        self.books = books
        self.trades = trades
        self.candles = candles

    def on_entry(self, applied: Applied) -> None:
        """A log entry was applied."""
        self.books.publish(applied)
        self.trades.publish(applied.trades)
        self.tickers.publish(applied)
        self._history.add(applied.trades, applied.candles)
        self.candles.publish(applied.candles)

    def on_candles(self, candles: Sequence[Candle]) -> None:
        """Candles were closed by time alone."""
        self._history.add((), candles)
        self.candles.publish(candles)

    def on_prices(self, prices: Sequence[IndexPrice]) -> None:
        """External prices changed."""
        self.prices.publish(prices)
        self.tickers.publish_prices(prices)

    def on_feed_trades(self, feed: Feed, trades: Sequence[FeedTrade], until_ns: int) -> None:
        """The feed's market traded, or its time moved on."""
        self.on_candles(
            self._catalogue.add_feed_trades(trades, simulated=feed.simulated, until_ns=until_ns)
        )
