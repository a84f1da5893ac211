"""Stops and pairs of the second exchange, in lists that are searched after every price."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.engine_core.naive import (
    BUY,
    NaiveExchange,
    NaiveOrder,
    NaiveTrade,
    ceil_bps,
)

FOK, IOC = 3, 2


@dataclass(eq=False)
class NaiveStop:
    """A stop, and the order that it becomes; `limit` is 0 for those without a limit price."""

    order: NaiveOrder
    rises: bool
    trigger: int
    mark: bool
    limit: int
    slippage: int = 0
    trailing: int = 0
    extreme: int = 0
    time_in_force: int = 0
    post_only: bool = False
    due: bool = False

    def protection(self) -> int:
        """Where the order's price ends up when it fires now."""
        return self.limit or protection(self.order.side, self.trigger, self.slippage)


@dataclass(eq=False)
class NaivePair:
    """`first` holds for both while they are a pair."""

    first: NaiveOrder
    quantity: int
    second: NaiveStop


@dataclass
class NaiveWithStops(NaiveExchange):
    """The naive exchange with everything that waits for a price."""

    stops: list[NaiveStop] = field(default_factory=list)
    pairs: list[NaivePair] = field(default_factory=list)
    last: int = 0
    index: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def held(self, account_id: int) -> tuple[int, int]:
        usd, btc = super().held(account_id)
        seconds = [pair.second for pair in self.pairs]
        for stop in self.stops:
            order = stop.order
            if order.account_id != account_id or stop in seconds:
                continue
            if order.side == BUY:
                usd += order.remaining * (order.per_lot or per_lot(order.price))
            else:
                btc += order.remaining
        return usd, btc

    def mark(self) -> int:
        """Median of index, middle and last, of those there are."""
        bids, asks = self.book.side(BUY), self.book.side(3 - BUY)
        middle = (bids[0].price + asks[0].price) // 2 if bids and asks else 0
        known = sorted(price for price in (self.index, middle, self.last) if price)
        if not known:
            return 0
        return (known[(len(known) - 1) // 2] + known[len(known) // 2]) // 2

    def watched(self, mark: bool) -> int:
        """The price that a stop looks at."""
        return self.mark() if mark else self.last

    # ------------------------------------------------------------ firing

    def follow(
        self, trades: list[NaiveTrade], owners: dict[int, int], *, priced: bool = False
    ) -> list[NaiveTrade]:
        """What fires after some trades, or after new prices; the trades of all of it."""
        self.end_pairs()
        done: list[NaiveTrade] = []
        due: list[NaiveStop] = []
        while True:
            for trade in trades:
                self.last = trade.price
                due += self.reached(False, trade.price)
            if trades or priced:
                due += self.reached(True, self.mark())
            priced = False
            due = [stop for stop in due if stop in self.stops]
            if not due:
                return done
            trades = self.fire(due.pop(0), owners)
            done += trades

    def reached(self, mark: bool, price: int) -> list[NaiveStop]:
        """What a price reaches, nearest first; trailing stops that it moves have moved."""
        if not price:
            return []
        mine = [stop for stop in self.stops if stop.mark == mark and not stop.due]
        for stop in mine:
            buys = stop.order.side == BUY
            if stop.trailing and (price < stop.extreme if buys else price > stop.extreme):
                stop.extreme = price
                stop.trigger = trailed(stop.order.side, price, stop.trailing)
        rising = [stop for stop in mine if stop.rises and price >= stop.trigger]
        falling = [stop for stop in mine if not stop.rises and price <= stop.trigger]
        rising.sort(key=lambda stop: (stop.trigger, stop.order.order_id))
        falling.sort(key=lambda stop: (-stop.trigger, stop.order.order_id))
        for stop in rising + falling:
            stop.due = True
        return rising + falling

    def fire(self, stop: NaiveStop, owners: dict[int, int]) -> list[NaiveTrade]:
        """A stop becomes an order; its trades."""
        order = stop.order
        self.stops.remove(stop)
        for pair in [pair for pair in self.pairs if order in (pair.first, pair.second.order)]:
            self.pairs.remove(pair)
            if pair.second is stop:
                self.end(pair.first)
            else:
                self.stops.remove(pair.second)
        order.price, order.per_lot = stop.protection(), 0
        if stop.post_only and self.book.crossing(order):
            return []
        if stop.time_in_force == FOK and not self.book.fillable(order):
            return []
        trades, prevented = self.book.trade(order)
        self.settle(trades, order, owners)
        self.end_pairs()
        if order.remaining and not prevented and stop.limit and stop.time_in_force != IOC:
            self.book.rest(order)
        return trades

    # ------------------------------------------------------------ pairs

    def live(self) -> list[NaiveOrder]:
        return self.book.orders + [stop.order for stop in self.stops]

    def cancel(self, order_id: int) -> None:
        for order in self.live():
            if order.order_id == order_id:
                self.end(order)
        self.end_pairs()

    def hold_per_lot(self, order: NaiveOrder, price: int) -> tuple[int, bool]:
        for pair in self.pairs:
            if pair.first is order:
                return max(per_lot(price), per_lot(pair.second.order.price)), True
        return per_lot(price), False

    def is_live(self, order: NaiveOrder) -> bool:
        """In the book, or waiting."""
        return order in self.book.orders or any(stop.order is order for stop in self.stops)

    def end(self, order: NaiveOrder) -> None:
        """An order goes, wherever it is."""
        self.book.orders = [other for other in self.book.orders if other is not order]
        self.stops = [stop for stop in self.stops if stop.order is not order]

    def end_pairs(self) -> None:
        """Of pairs that are none any more, end the other order."""
        for pair in list(self.pairs):
            first, second = pair.first, pair.second
            if not self.is_live(first) or first.filled or first.remaining != pair.quantity:
                first.per_lot = 0
                self.end(second.order)
                self.pairs.remove(pair)
            elif second not in self.stops:
                self.end(first)
                self.pairs.remove(pair)


def per_lot(price: int) -> int:
    return price + ceil_bps(price, 20)


def trailed(side: int, extreme: int, bps: int) -> int:
    if side == BUY:
        return (extreme * (10_000 + bps) + 9_999) // 10_000
    return extreme * (10_000 - bps) // 10_000


def protection(side: int, best: int, slippage: int) -> int:
    bps = slippage or 500
    if side == BUY:
        return best * (10_000 + bps) // 10_000
    return -(-best * (10_000 - bps) // 10_000)
