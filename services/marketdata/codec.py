"""From what the domain knows to the public messages, and the few things the other way."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from tidebook.engine.v1 import types_pb2
from tidebook.marketdata.v1 import marketdata_pb2 as pb

from kernel.clock import NS_PER_SECOND
from kernel.markets import Market
from kernel.money import format_units
from services.marketdata.domain.book import BookOrder, Level
from services.marketdata.domain.candles import Candle, CandleSource
from services.marketdata.domain.depth import checksum
from services.marketdata.domain.marks import Marks
from services.marketdata.domain.prices import FEED_DECIMALS, IndexPrice, SourcePrice
from services.marketdata.domain.ticker import DayFigures
from services.marketdata.domain.trades import PublicTrade
from services.marketdata.feeds.desk import FeedSnapshot
from services.marketdata.projection import MarketState


def timestamp(time_ns: int) -> Timestamp:
    """Unix nanoseconds -> Timestamp."""
    seconds, nanos = divmod(time_ns, NS_PER_SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def nanoseconds(time: Timestamp) -> int:
    """Timestamp -> Unix nanoseconds."""
    return time.seconds * NS_PER_SECOND + time.nanos


def feed_decimal(units: int) -> str:
    """A feed's price -> decimal string; 0 (unknown) -> empty."""
    return format_units(units, FEED_DECIMALS) if units else ""


def price_to_proto(name: str, price: IndexPrice, prev_seq: int) -> pb.Price:
    """The price of the market `name`; `prev_seq` is the seq before it on the stream it is for."""
    return pb.Price(
        market=name,
        price=feed_decimal(price.price),
        bid=feed_decimal(price.bid),
        ask=feed_decimal(price.ask),
        last=feed_decimal(price.last),
        source=pb.FeedKind.ValueType(price.kind),
        simulated=price.simulated,
        source_time=timestamp(price.source_time_ns),
        receive_time=timestamp(price.receive_time_ns),
        stale=price.stale,
        seq=price.seq,
        prev_seq=prev_seq,
    )


def price_with_inputs(name: str, price: IndexPrice) -> pb.Price:
    """The price of the market `name`, and what each source says."""
    message = price_to_proto(name, price, 0)
    message.inputs.extend(_input_to_proto(one, one in price.used) for one in price.inputs)
    return message


def _input_to_proto(price: SourcePrice, used: bool) -> pb.PriceInput:
    return pb.PriceInput(
        source=price.source.name,
        kind=pb.FeedKind.ValueType(price.source.kind),
        simulated=price.source.simulated,
        price=feed_decimal(price.price),
        bid=feed_decimal(price.bid),
        ask=feed_decimal(price.ask),
        last=feed_decimal(price.last),
        source_time=timestamp(price.source_time_ns),
        receive_time=timestamp(price.receive_time_ns),
        stale=price.stale,
        used=used,
    )


def feed_to_proto(feed: FeedSnapshot) -> pb.FeedStatus:
    """How the external feed is."""
    return pb.FeedStatus(
        name=feed.name,
        source=pb.FeedKind.ValueType(feed.kind),
        simulated=feed.simulated,
        healthy=feed.healthy,
        detail=feed.detail,
        bad_frames=feed.bad_frames,
        reconnects=feed.reconnects,
    )


def levels_to_proto(market: Market, levels: Sequence[Level]) -> list[pb.Level]:
    """Levels as decimal strings; 0 lots (removed) are "0"."""
    return [
        pb.Level(price=market.format_price(price), quantity=market.format_quantity(lots))
        for price, lots in levels
    ]


def book_to_proto(
    market: Market, bids: Sequence[Level], asks: Sequence[Level], time_ns: int
) -> pb.BookUpdate:
    """The levels of an update; what kind of update it is the caller adds."""
    return pb.BookUpdate(
        market=market.name,
        bids=levels_to_proto(market, bids),
        asks=levels_to_proto(market, asks),
        time=timestamp(time_ns),
    )


def book_checksum(market: Market, bids: Sequence[Level], asks: Sequence[Level]) -> int:
    """The checksum of a book in the texts that are sent."""
    texts = [
        [(market.format_price(price), market.format_quantity(lots)) for price, lots in side]
        for side in (bids, asks)
    ]
    return checksum(*texts)


def book_order_to_proto(market: Market, order: BookOrder, lots: int) -> pb.BookOrder:
    """An order of the book showing `lots` (0: it leaves)."""
    return pb.BookOrder(
        order_id=order.order_id,
        side=types_pb2.Side.ValueType(order.side),
        price=market.format_price(order.price_ticks),
        quantity=market.format_quantity(lots),
    )


def trade_to_proto(market: Market, trade: PublicTrade) -> pb.Trade:
    """A public trade."""
    return pb.Trade(
        market=trade.market,
        trade_id=trade.trade_id,
        price=market.format_price(trade.price_ticks),
        quantity=market.format_quantity(trade.quantity_lots),
        taker_side=types_pb2.Side.ValueType(trade.taker_side),
        time=timestamp(trade.time_ns),
        seq=trade.seq,
    )


def candle_to_proto(market: Market, candle: Candle) -> pb.Candle:
    """A candle as one of `market`; those of the feed are in its units, not in ticks and lots."""
    if candle.source is CandleSource.INDEX:
        prices = [feed_decimal(p) for p in (candle.open, candle.high, candle.low, candle.close)]
        volume = format_units(candle.volume, FEED_DECIMALS)
        quote_volume = format_units(candle.quote_volume, 2 * FEED_DECIMALS)
    else:
        prices = [
            market.format_price(p) for p in (candle.open, candle.high, candle.low, candle.close)
        ]
        volume = market.format_quantity(candle.volume)
        quote_volume = market.quote.format(candle.quote_volume)
    return pb.Candle(
        market=market.name,
        interval=pb.CandleInterval.ValueType(candle.interval),
        source=pb.CandleSource.ValueType(candle.source),
        open_time=Timestamp(seconds=candle.open_s),
        open=prices[0],
        high=prices[1],
        low=prices[2],
        close=prices[3],
        volume=volume,
        quote_volume=quote_volume,
        trades=candle.trades,
        closed=candle.closed,
        simulated=candle.simulated,
    )


def ticker_to_proto(
    state: MarketState, figures: DayFigures, price: IndexPrice | None, time_ns: int
) -> pb.Ticker:
    """A market at a glance."""
    market = state.market
    message = pb.Ticker(
        market=market.name,
        volume=market.format_quantity(figures.volume),
        quote_volume=market.quote.format(figures.quote_volume),
        trades=figures.trades,
        change=market.format_price(figures.change),
        change_bps=figures.change_bps,
        time=timestamp(time_ns),
        status=types_pb2.MarketStatus.ValueType(state.status),
    )
    if figures.trades:
        message.open = market.format_price(figures.open)
        message.high = market.format_price(figures.high)
        message.low = market.format_price(figures.low)
        message.last = market.format_price(figures.last)
    if bid := state.book.bids.best():
        message.best_bid = market.format_price(bid[0])
        message.best_bid_quantity = market.format_quantity(bid[1])
    if ask := state.book.asks.best():
        message.best_ask = market.format_price(ask[0])
        message.best_ask_quantity = market.format_quantity(ask[1])
    if price is not None:
        message.index_price = feed_decimal(price.price)
        message.simulated = price.simulated
    message.mark_price = tick_decimal(market, state.marks(price).mark)
    return message


def tick_decimal(market: Market, ticks: int) -> str:
    """A price in ticks -> decimal string; 0 (unknown) -> empty."""
    return market.format_price(ticks) if ticks else ""


def market_prices_to_proto(
    state: MarketState, marks: Marks, price: IndexPrice | None, seq: int, time_ns: int
) -> pb.MarketPrices:
    """A market's prices with what they are made of; `seq` is the log position of book and trade."""
    market, last = state.market, state.trades.last
    return pb.MarketPrices(
        market=market.name,
        index_price=tick_decimal(market, marks.index),
        mark_price=tick_decimal(market, marks.mark),
        last_price=tick_decimal(market, marks.last),
        mid_price=tick_decimal(market, marks.mid),
        best_bid=tick_decimal(market, marks.bid),
        best_ask=tick_decimal(market, marks.ask),
        index=price_with_inputs(market.name, price) if price is not None else None,
        last_trade=trade_to_proto(market, last) if last is not None else None,
        seq=seq,
        time=timestamp(time_ns),
    )
