"""What the log says, as books, trades, candles and tickers.

Two positions are kept apart: books begin at the engine's snapshot, trades and candles where the
history store ended. An entry counts for each only after its own position.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tidebook.engine.v1 import internal_pb2, log_pb2, types_pb2

from kernel.markets import Asset, Market
from services.marketdata.domain.book import BUY, SELL, OrderBook, OrderChange
from services.marketdata.domain.candles import Candle, CandleSeries, CandleSource
from services.marketdata.domain.intervals import Interval
from services.marketdata.domain.marks import Marks, marks_of
from services.marketdata.domain.prices import IndexPrice
from services.marketdata.domain.ticker import DayWindow
from services.marketdata.domain.trades import PublicTrade, RecentTrades


class MarketState:
    """Everything known of one market from the log."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.status: int = types_pb2.MARKET_STATUS_TRADING
        self.book = OrderBook()
        self.trades = RecentTrades()
        self.candles = CandleSeries(market.name, CandleSource.CLOB)
        self.day = DayWindow()

    def marks(self, index: IndexPrice | None) -> Marks:
        """Its mark price and what that is made of."""
        last = self.trades.last
        return marks_of(self.market, self.book, last.price_ticks if last else 0, index)


@dataclass(slots=True)
class Applied:
    """What one log entry changed."""

    seq: int
    time_ns: int
    # Market name -> the orders that changed in its book.
    books: dict[str, list[OrderChange]] = field(default_factory=dict)
    trades: list[PublicTrade] = field(default_factory=list)
    candles: list[Candle] = field(default_factory=list)
    # Markets whose status changed, and new ones.
    statuses: set[str] = field(default_factory=set)


class Projection:
    """All markets, entry by entry."""

    def __init__(self) -> None:
        # Until the engine has been heard there are no markets.
        self.loaded = False
        self.markets: dict[str, MarketState] = {}
        # The books are true at this position; trades and candles at that one.
        self.book_seq = 0
        self.book_time_ns = 0
        self.history_seq = 0
        self._by_id: dict[int, MarketState] = {}

    def load_books(self, snapshot: internal_pb2.GetBookSnapshotResponse) -> None:
        """Begin with the engine's books."""
        self._configure(snapshot.configuration)
        self.book_seq = snapshot.log_seq
        for market_book in snapshot.books:
            state = self._by_id[market_book.market_id]
            state.status = market_book.status
            for side, orders in ((BUY, market_book.bids), (SELL, market_book.asks)):
                state.book.load(
                    side, ((o.order_id, o.price_ticks, o.quantity_lots) for o in orders)
                )
        self.loaded = True

    def apply(self, entry: log_pb2.LogEntry) -> Applied:
        """Take the next entry. Raises `BookDiverged` when it does not fit what is known."""
        applied = Applied(entry.seq, entry.time_ns)
        history = entry.seq > self.history_seq
        books = entry.seq > self.book_seq
        for command in entry.commands:
            if command.HasField("configure") and not command.events[0].HasField("command_refused"):
                applied.statuses |= self._configure(command.configure)
            for event in command.events:
                what = event.WhichOneof("event")
                if what == "trade":
                    if history:
                        self._trade(event.trade, entry, applied)
                    if books:
                        book = self._by_id[event.trade.market_id].book
                        book.trade(event.trade.maker_order_id, event.trade.quantity_lots)
                elif books:
                    self._book_event(what, event, applied)
        if books:
            self.book_seq = entry.seq
            self.book_time_ns = entry.time_ns
            for name, state in self.markets.items():
                if changes := state.book.take_changes():
                    applied.books[name] = changes
        if history:
            self.history_seq = entry.seq
            self._close_candles(applied, entry.time_ns)
        return applied

    def close_candles(self, time_ns: int) -> list[Candle]:
        """No trade from before `time_ns` will come: close what ended by then."""
        applied = Applied(self.history_seq, time_ns)
        self._close_candles(applied, time_ns)
        return applied.candles

    def _close_candles(self, applied: Applied, time_ns: int) -> None:
        for state in self.markets.values():
            state.candles.close_until(time_ns)
            for candle in state.candles.take_changed():
                applied.candles.append(candle)
                if candle.interval is Interval.M1:
                    state.day.take(candle)

    def _trade(self, trade: log_pb2.Trade, entry: log_pb2.LogEntry, applied: Applied) -> None:
        state = self._by_id[trade.market_id]
        public = PublicTrade(
            state.market.name,
            trade.trade_id,
            trade.price_ticks,
            trade.quantity_lots,
            trade.notional_units,
            trade.taker_side,
            entry.time_ns,
            entry.seq,
        )
        if state.trades.add(public):
            applied.trades.append(public)
            state.candles.add(
                entry.time_ns, trade.price_ticks, trade.quantity_lots, trade.notional_units
            )

    def _book_event(self, what: str | None, event: log_pb2.Event, applied: Applied) -> None:
        if what == "order_placed":
            placed = event.order_placed
            self._by_id[placed.market_id].book.place(
                placed.order_id, placed.side, placed.price_ticks, placed.rested_lots
            )
        elif what == "order_closed":
            closed = event.order_closed
            self._by_id[closed.market_id].book.close(closed.order_id, closed.removed_lots)
        elif what == "order_amended":
            amended = event.order_amended
            self._by_id[amended.market_id].book.amend(
                amended.order_id,
                amended.side,
                amended.old_rested_lots,
                amended.price_ticks,
                amended.rested_lots,
                amended.lost_priority,
            )
        elif what == "order_replenished":
            filled = event.order_replenished
            self._by_id[filled.market_id].book.replenish(
                filled.order_id, filled.side, filled.price_ticks, filled.displayed_lots
            )
        elif what == "order_triggered":
            fired = event.order_triggered
            self._by_id[fired.market_id].book.place(
                fired.order_id, fired.side, fired.price_ticks, fired.rested_lots
            )
        elif what == "market_status_changed":
            state = self._by_id[event.market_status_changed.market_id]
            state.status = event.market_status_changed.status
            applied.statuses.add(state.market.name)

    def _configure(self, configuration: log_pb2.ConfigureCommand) -> set[str]:
        for market_id, market in markets_of(configuration).items():
            state = self._by_id.get(market_id)
            if state is None:
                state = self._by_id[market_id] = self.markets[market.name] = MarketState(market)
            state.market = market
        return set(self.markets)


def markets_of(configuration: log_pb2.ConfigureCommand) -> dict[int, Market]:
    """The log's configuration -> market id -> market."""
    assets = {
        asset.asset_id: Asset(asset.asset_id, asset.code, asset.decimals, asset.transfer_decimals)
        for asset in configuration.assets
    }
    return {
        config.market_id: Market(
            market_id=config.market_id,
            name=config.name,
            kind=types_pb2.MarketKind.Name(config.kind).removeprefix("MARKET_KIND_"),
            base=assets[config.base_asset_id],
            quote=assets[config.quote_asset_id],
            tick_size_units=config.tick_size_units,
            lot_size_units=config.lot_size_units,
        )
        for config in configuration.markets
    }
