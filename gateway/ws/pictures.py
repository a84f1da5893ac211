"""What a shared topic knows, so that whoever comes later gets a snapshot that later deltas fit."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Protocol

from google.protobuf.message import Message
from tidebook.marketdata.v1 import marketdata_pb2 as pb


class Picture(Protocol):
    """The state of one topic."""

    def apply(self, message: Any) -> None:
        """Take one message of the stream."""
        ...

    def snapshot(self) -> Message | None:
        """The state as one message of the stream; None when nothing came yet."""
        ...


class Prices:
    """The newest price of each market."""

    def __init__(self) -> None:
        self._latest: dict[str, pb.Price] = {}

    def apply(self, message: pb.WatchPricesResponse) -> None:
        for price in message.prices:
            self._latest[price.market] = price

    def snapshot(self) -> pb.WatchPricesResponse | None:
        if not self._latest:
            return None
        answer = pb.WatchPricesResponse(prices=self._latest.values())
        for price in answer.prices:
            # The first that this reader gets.
            price.prev_seq = 0
        return answer


class Tickers:
    """The newest ticker of each market."""

    def __init__(self) -> None:
        self._latest: dict[str, pb.Ticker] = {}

    def apply(self, message: pb.WatchTickersResponse) -> None:
        for ticker in message.tickers:
            self._latest[ticker.market] = ticker

    def snapshot(self) -> pb.WatchTickersResponse | None:
        return pb.WatchTickersResponse(tickers=self._latest.values()) if self._latest else None


class Candles:
    """The newest candle of each market."""

    def __init__(self) -> None:
        self._latest: dict[str, pb.Candle] = {}

    def apply(self, message: pb.WatchCandlesResponse) -> None:
        for candle in message.candles:
            self._latest[candle.market] = candle

    def snapshot(self) -> pb.WatchCandlesResponse | None:
        return pb.WatchCandlesResponse(candles=self._latest.values()) if self._latest else None


class Trades:
    """Trades have no state: who comes later gets those to come. Knows where to resume."""

    def __init__(self) -> None:
        self.last_seq = 0

    def apply(self, message: pb.WatchTradesResponse) -> None:
        for trade in message.trades:
            self.last_seq = max(self.last_seq, trade.seq)

    def snapshot(self) -> None:
        return None


class Book:
    """One market's book to a depth, from its snapshot and deltas."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._newest: pb.BookUpdate | None = None
        self._bids: dict[str, str] = {}
        self._asks: dict[str, str] = {}

    def apply(self, message: pb.WatchBookResponse) -> None:
        for update in message.books:
            if update.snapshot:
                self._bids.clear()
                self._asks.clear()
            _merge(self._bids, update.bids)
            _merge(self._asks, update.asks)
            self._newest = update

    def snapshot(self) -> pb.WatchBookResponse | None:
        if self._newest is None:
            return None
        update = pb.BookUpdate(
            market=self._newest.market,
            seq=self._newest.seq,
            snapshot=True,
            bids=_levels(self._bids, self._depth, best_is_highest=True),
            asks=_levels(self._asks, self._depth, best_is_highest=False),
            time=self._newest.time,
        )
        return pb.WatchBookResponse(books=[update])


def _merge(side: dict[str, str], levels: Any) -> None:
    for level in levels:
        if Decimal(level.quantity):
            side[level.price] = level.quantity
        else:
            side.pop(level.price, None)


def _levels(side: dict[str, str], depth: int, *, best_is_highest: bool) -> list[pb.Level]:
    prices = sorted(side, key=Decimal, reverse=best_is_highest)[:depth]
    return [pb.Level(price=price, quantity=side[price]) for price in prices]
