"""Which markets there are, and what is built of each: from the log, and from the feed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kernel.markets import Market
from kernel.reasons import Reason, Refused
from services.marketdata.domain.candles import Candle, CandleSeries, CandleSource
from services.marketdata.domain.prices import FeedTrade
from services.marketdata.projection import MarketState, Projection


class Catalogue:
    """Looks up markets by name; unknown ones are refused with `MARKET_NOT_FOUND`."""

    def __init__(self, feed_markets: Sequence[Market], projection: Projection) -> None:
        self._feed_markets = {market.name: market for market in feed_markets}
        self._projection = projection
        # One external pair serves every market of it.
        self._of_pair: dict[str, list[Market]] = {}
        for market in feed_markets:
            self._of_pair.setdefault(market.pair, []).append(market)
        self._index = {pair: CandleSeries(pair, CandleSource.INDEX) for pair in self._of_pair}

    def market(self, name: str) -> Market:
        """A market's rules, as the log has them if it does."""
        state = self._projection.markets.get(name)
        market = state.market if state else self._feed_markets.get(name)
        if market is None:
            raise Refused(Reason.MARKET_NOT_FOUND, f"there is no market {name}", field="market")
        return market

    def state(self, name: str) -> MarketState:
        """What the log says of a market; `Refused(UNAVAILABLE)` until the books are in."""
        if not self._projection.loaded:
            raise Refused(Reason.UNAVAILABLE, "the books are not in yet; try again")
        state = self._projection.markets.get(name)
        if state is None:
            raise Refused(Reason.MARKET_NOT_FOUND, f"there is no market {name}", field="market")
        return state

    def states(self, names: Iterable[str], *, all_if_none: bool = False) -> list[MarketState]:
        """Several, each once; with `all_if_none` all of them when no names are given."""
        unique = list(dict.fromkeys(names))
        if not unique and all_if_none:
            unique = list(self._projection.markets)
            if not unique:
                raise Refused(Reason.UNAVAILABLE, "the books are not in yet; try again")
        return [self.state(name) for name in unique]

    def check_feed(self, names: Iterable[str]) -> None:
        """Refuse names that the feed can have no price of."""
        for name in names:
            if name not in self._feed_markets:
                raise Refused(Reason.MARKET_NOT_FOUND, f"no feed has {name}", field="markets")

    def of_pair(self, pair: str) -> Sequence[Market]:
        """The markets that an external pair has the price of."""
        return self._of_pair.get(pair, ())

    def markets_of(self, candle: Candle) -> Sequence[Market]:
        """The markets that a candle is of: index candles are those of a pair."""
        if candle.source is CandleSource.INDEX:
            return self.of_pair(candle.market)
        return (self.market(candle.market),)

    def all_series(self) -> Iterator[tuple[CandleSource, str]]:
        """(source, name) of all candles that are made: markets of the log, pairs of the feed."""
        for name in self._projection.markets:
            yield CandleSource.CLOB, name
        for pair in self._index:
            yield CandleSource.INDEX, pair

    def series(self, source: CandleSource, name: str) -> CandleSeries:
        """A market's candles from one source; those of the index are its pair's."""
        if source is CandleSource.CLOB:
            return self.state(name).candles
        self.check_feed([name])
        return self._index[self._feed_markets[name].pair]

    def restore_index(self, newest: Iterable[Candle]) -> None:
        """Go on with the feed's candles where they ended."""
        for pair, series in self._index.items():
            series.restore(candle for candle in newest if candle.market == pair)

    def add_feed_trades(
        self, trades: Iterable[FeedTrade], *, simulated: bool, until_ns: int
    ) -> list[Candle]:
        """Count trades of the feed; none of before `until_ns` will come. The candles it changed."""
        for trade in trades:
            self._index[trade.pair].add(
                trade.time_ns,
                trade.price,
                trade.quantity,
                trade.price * trade.quantity,
                simulated=simulated,
            )
        changed: list[Candle] = []
        for series in self._index.values():
            series.close_until(until_ns)
            changed += series.take_changed()
        return changed
