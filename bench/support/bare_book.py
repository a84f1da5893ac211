"""The book alone, to compare with books that know neither accounts nor money.

Orders, levels and sides are the core's own; what is left out is what the core does beyond them:
checks, holds, fees, client ids, who may cancel what, and events with money in them.
"""

from __future__ import annotations

from services.engine.domain.accounts import Account, Balance
from services.engine.domain.book import Book, Order
from services.engine.domain.commands import MarketConfig, PlaceOrder
from services.engine.domain.constants import SIDE_BUY, SIDE_SELL


class Fill:
    """A maker was met: how much, and at which price."""

    __slots__ = ("maker_order_id", "price_ticks", "quantity_lots", "taker_order_id")

    def __init__(
        self, taker_order_id: int, maker_order_id: int, price_ticks: int, quantity_lots: int
    ) -> None:
        self.taker_order_id = taker_order_id
        self.maker_order_id = maker_order_id
        self.price_ticks = price_ticks
        self.quantity_lots = quantity_lots


class BareBook:
    """One market's book."""

    def __init__(self) -> None:
        self.book = Book(MarketConfig(market_id=1))
        self.orders: dict[int, Order] = {}
        self._account = Account(1)
        self._balance = Balance()
        self._buy = PlaceOrder(side=SIDE_BUY)
        self._sell = PlaceOrder(side=SIDE_SELL)

    def place(
        self, order_id: int, side: int, price_ticks: int, quantity_lots: int, rests: bool
    ) -> list[Fill]:
        """Trade an order as far as its price allows; what is left rests if it may."""
        book = self.book
        request = self._buy if side == SIDE_BUY else self._sell
        order = Order(
            order_id, self._account, book, request, self._balance, price_ticks, quantity_lots, 0, 0
        )
        fills: list[Fill] = []
        makers = book.opposite(side)
        keys = makers.keys
        limit_key = price_ticks * makers.sign
        while order.remaining and keys and keys[-1] >= limit_key:
            level = makers.levels[keys[-1]]
            maker = level.head
            assert maker is not None
            quantity = min(order.remaining, maker.remaining)
            order.remaining -= quantity
            maker.remaining -= quantity
            level.quantity -= quantity
            fills.append(Fill(order_id, maker.order_id, maker.price_ticks, quantity))
            if not maker.remaining:
                makers.remove(maker)
                del self.orders[maker.order_id]
        if rests and order.remaining:
            if side == SIDE_BUY:
                book.bids.add(order)
            else:
                book.asks.add(order)
            self.orders[order_id] = order
        return fills

    def cancel(self, order_id: int) -> bool:
        """Take an order out; False if it is not there."""
        order = self.orders.pop(order_id, None)
        if order is None:
            return False
        if order.side == SIDE_BUY:
            self.book.bids.remove(order)
        else:
            self.book.asks.remove(order)
        return True
