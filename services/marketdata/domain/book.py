"""One market's book, order by order, kept up to date from what the log says.

Prices are ticks, quantities lots. Only what the book shows is known here: of an iceberg, its
present slice.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

BUY, SELL = 1, 2

# A price level: (price in ticks, lots there).
Level = tuple[int, int]


class BookDiverged(Exception):
    """The log says something that cannot be true of this book: it is not the engine's any more."""


@dataclass(slots=True)
class BookOrder:
    """An order in the book. With 0 lots it is used up, but has not been closed or refilled yet."""

    order_id: int
    side: int
    price_ticks: int
    lots: int


@dataclass(frozen=True, slots=True)
class OrderChange:
    """An order that changed: was it in the book before, and did it join a queue since?"""

    order: BookOrder
    was_shown: bool
    queued: bool


class BookSide:
    """The levels of one side; in each the orders stand in the order of their queue."""

    __slots__ = ("_prices", "_queues", "_sign", "_totals")

    def __init__(self, side: int) -> None:
        self._sign = -1 if side == BUY else 1
        # Price times sign, so that the best level comes first on both sides.
        self._prices: list[int] = []
        self._queues: dict[int, dict[int, BookOrder]] = {}
        self._totals: dict[int, int] = {}

    def top(self, depth: int) -> list[Level]:
        """The best `depth` levels, best first."""
        sign, totals = self._sign, self._totals
        return [(key * sign, totals[key * sign]) for key in self._prices[:depth]]

    def best(self) -> Level | None:
        """The best level."""
        if not self._prices:
            return None
        price = self._prices[0] * self._sign
        return price, self._totals[price]

    def orders(self) -> Iterator[BookOrder]:
        """All orders, best level first, oldest first."""
        for key in self._prices:
            yield from self._queues[key * self._sign].values()

    def append(self, order: BookOrder) -> None:
        """Put an order at the back of its level."""
        price = order.price_ticks
        queue = self._queues.get(price)
        if queue is None:
            queue = self._queues[price] = {}
            self._totals[price] = 0
            insort(self._prices, price * self._sign)
        queue[order.order_id] = order
        self._totals[price] += order.lots

    def reduce(self, order: BookOrder, lots: int) -> None:
        """Take lots off an order; at 0 it leaves its level."""
        price = order.price_ticks
        order.lots -= lots
        self._totals[price] -= lots
        if order.lots > 0:
            return
        queue = self._queues[price]
        del queue[order.order_id]
        if not queue:
            del self._queues[price], self._totals[price]
            del self._prices[bisect_left(self._prices, price * self._sign)]


class OrderBook:
    """A book that changes one event at a time. Methods raise `BookDiverged`."""

    def __init__(self) -> None:
        self._sides = {BUY: BookSide(BUY), SELL: BookSide(SELL)}
        self._orders: dict[int, BookOrder] = {}
        self._changes: dict[int, OrderChange] = {}

    @property
    def bids(self) -> BookSide:
        return self._sides[BUY]

    @property
    def asks(self) -> BookSide:
        return self._sides[SELL]

    def load(self, side: int, orders: Iterable[tuple[int, int, int]]) -> None:
        """Fill a side of an empty book: (order id, price, lots), oldest of each level first."""
        for order_id, price_ticks, lots in orders:
            self._append(BookOrder(order_id, side, price_ticks, lots))
        self.take_changes()

    def place(self, order_id: int, side: int, price_ticks: int, lots: int) -> None:
        """A new order rests with `lots` (0: it does not)."""
        if lots:
            self._append(BookOrder(order_id, side, price_ticks, lots))

    def trade(self, maker_order_id: int, lots: int) -> None:
        """A resting order traded."""
        self._reduce(self._known(maker_order_id), lots)

    def replenish(self, order_id: int, side: int, price_ticks: int, lots: int) -> None:
        """An iceberg whose slice is used up shows the next one, at the back of its level."""
        self._append(BookOrder(order_id, side, price_ticks, lots))

    def amend(
        self, order_id: int, side: int, old_lots: int, price_ticks: int, lots: int, moved: bool
    ) -> None:
        """An order that showed `old_lots` now shows `lots` at `price_ticks`.

        `moved`: it went to the back of its level. An order that was not in the book and does not
        come into it has no effect.
        """
        if not old_lots and not lots:
            return
        if old_lots:
            order = self._known(order_id)
            if order.lots != old_lots:
                raise BookDiverged(f"order {order_id} shows {order.lots} lots, not {old_lots}")
            if not moved and price_ticks == order.price_ticks and 0 < lots <= old_lots:
                self._reduce(order, old_lots - lots)
                return
            self._reduce(order, old_lots)
        self.place(order_id, side, price_ticks, lots)

    def close(self, order_id: int, removed_lots: int) -> None:
        """An order ended; `removed_lots` of it were in the book until now."""
        order = self._orders.pop(order_id, None)
        shown = order.lots if order else 0
        if shown != removed_lots:
            raise BookDiverged(f"order {order_id} leaves {removed_lots} lots, not {shown}")
        if order is not None and shown:
            self._reduce(order, shown)

    def take_changes(self) -> list[OrderChange]:
        """The orders that changed since the last call; those that joined a queue in that order."""
        changes, self._changes = self._changes, {}
        return list(changes.values())

    def _known(self, order_id: int) -> BookOrder:
        order = self._orders.get(order_id)
        if order is None:
            raise BookDiverged(f"order {order_id} is not in the book")
        return order

    def _append(self, order: BookOrder) -> None:
        order_id = order.order_id
        before = self._orders.get(order_id)
        if before is not None and before.lots:
            raise BookDiverged(f"order {order_id} is in the book already")
        earlier = self._changes.pop(order_id, None)
        was_shown = earlier is not None and earlier.was_shown
        self._changes[order_id] = OrderChange(order, was_shown, queued=True)
        self._orders[order_id] = order
        self._sides[order.side].append(order)

    def _reduce(self, order: BookOrder, lots: int) -> None:
        if lots > order.lots:
            raise BookDiverged(f"order {order.order_id} shows {order.lots} lots, not {lots}")
        if lots:
            if order.order_id not in self._changes:
                self._changes[order.order_id] = OrderChange(order, was_shown=True, queued=False)
            self._sides[order.side].reduce(order, lots)
