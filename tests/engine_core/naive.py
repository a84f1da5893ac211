"""A second book, written as simply as possible: two plain lists, sorted after every change.

It knows prices, quantities, time priority and self-trade prevention; nothing of money.
"""

from __future__ import annotations

from copy import copy, deepcopy
from dataclasses import dataclass

BUY, SELL = 1, 2
CANCEL_TAKER, CANCEL_MAKER, CANCEL_BOTH, DECREMENT = 1, 2, 3, 4


@dataclass
class NaiveOrder:
    order_id: int
    account_id: int
    side: int
    price: int
    remaining: int
    arrival: int = 0
    filled: int = 0
    mode: int = CANCEL_TAKER
    # Icebergs: how much a slice shows; 0 shows all. `shown` is what is left of the slice.
    display: int = 0
    shown: int = 0
    # What a lot of a buy holds, when that is more than its own price asks for; else 0.
    per_lot: int = 0


@dataclass(frozen=True)
class NaiveTrade:
    price: int
    quantity: int
    maker_id: int
    taker_id: int


class NaiveBook:
    def __init__(self) -> None:
        self.orders: list[NaiveOrder] = []
        self.arrivals = 0

    def side(self, side: int) -> list[NaiveOrder]:
        """Best price first, then oldest first."""
        sign = -1 if side == BUY else 1
        return sorted(
            (order for order in self.orders if order.side == side),
            key=lambda order: (sign * order.price, order.arrival),
        )

    def crossing(self, order: NaiveOrder) -> list[NaiveOrder]:
        """Orders that this one would meet, in the order in which it meets them."""
        if order.side == BUY:
            return [maker for maker in self.side(SELL) if maker.price <= order.price]
        return [maker for maker in self.side(BUY) if maker.price >= order.price]

    def fillable(self, order: NaiveOrder) -> bool:
        """Whether a FOK would fill whole."""
        trial, taker = deepcopy(self), copy(order)
        if taker.mode != CANCEL_MAKER:
            taker.mode = CANCEL_TAKER
        trial.trade(taker)
        return taker.remaining == 0

    def trade(self, taker: NaiveOrder) -> tuple[list[NaiveTrade], bool]:
        """Trade a taker; its trades, and whether self-trade prevention ended it."""
        trades: list[NaiveTrade] = []
        makers = self.crossing(taker)
        while makers and taker.remaining:
            maker = makers.pop(0)
            quantity = min(maker.shown, taker.remaining)
            if maker.account_id == taker.account_id:
                if taker.mode == CANCEL_TAKER:
                    return trades, True
                if taker.mode in (CANCEL_MAKER, CANCEL_BOTH):
                    self.orders.remove(maker)
                    if taker.mode == CANCEL_BOTH:
                        return trades, True
                    continue
                again = self.reduce(maker, quantity)
                if taker.remaining == quantity:
                    return trades, True
                taker.remaining -= quantity
            else:
                trades.append(NaiveTrade(maker.price, quantity, maker.order_id, taker.order_id))
                taker.remaining -= quantity
                taker.filled += quantity
                maker.filled += quantity
                again = self.reduce(maker, quantity)
            if again:
                makers = self.crossing(taker)
        return trades, False

    def reduce(self, maker: NaiveOrder, quantity: int) -> bool:
        """Take lots off a resting order; True when it then stands at the back with a new slice."""
        maker.remaining -= quantity
        maker.shown -= quantity
        if maker.shown:
            return False
        self.orders.remove(maker)
        if maker.remaining:
            self.rest(maker)
        return maker.remaining > 0

    def rest(self, order: NaiveOrder) -> None:
        self.arrivals += 1
        order.arrival = self.arrivals
        order.shown = min(order.display or order.remaining, order.remaining)
        self.orders.append(order)

    def find(self, order_id: int) -> NaiveOrder | None:
        return next((order for order in self.orders if order.order_id == order_id), None)

    def cancel(self, order_id: int) -> bool:
        order = self.find(order_id)
        if order is None:
            return False
        self.orders.remove(order)
        return True


class NaiveExchange:
    """The naive book with money: what an account has in all, and what its orders hold, summed up
    anew for every question. Prices are USD per BTC, one lot is one BTC, fees 10 and 20 bps.
    """

    def __init__(self) -> None:
        self.book = NaiveBook()
        self.usd: dict[int, int] = {}
        self.btc: dict[int, int] = {}
        self.fees = 0

    def held(self, account_id: int) -> tuple[int, int]:
        """USD and BTC held by the account's orders."""
        mine = [order for order in self.book.orders if order.account_id == account_id]
        usd = sum(
            order.remaining * order.per_lot or hold(order.price, order.remaining)
            for order in mine
            if order.side == BUY
        )
        return usd, sum(order.remaining for order in mine if order.side == SELL)

    def free(self, account_id: int) -> tuple[int, int]:
        """USD and BTC that nothing holds."""
        usd, btc = self.held(account_id)
        return self.usd.get(account_id, 0) - usd, self.btc.get(account_id, 0) - btc

    def settle(self, trades: list[NaiveTrade], taker: NaiveOrder, owners: dict[int, int]) -> None:
        """Move the money of some trades."""
        for trade in trades:
            notional = trade.price * trade.quantity
            maker_fee, taker_fee = ceil_bps(notional, 10), ceil_bps(notional, 20)
            maker_id = owners[trade.maker_id]
            sign = 1 if taker.side == BUY else -1
            self.btc[taker.account_id] += sign * trade.quantity
            self.btc[maker_id] -= sign * trade.quantity
            self.usd[taker.account_id] -= sign * notional + taker_fee
            self.usd[maker_id] += sign * notional - maker_fee
            self.fees += maker_fee + taker_fee

    def follow(
        self, trades: list[NaiveTrade], owners: dict[int, int], *, priced: bool = False
    ) -> list[NaiveTrade]:
        """The trades that some trades lead to: none, where nothing waits for a price."""
        return []

    def end_pairs(self) -> None:
        """Nothing to do: there are none."""

    def live(self) -> list[NaiveOrder]:
        """Every order that is open."""
        return self.book.orders

    def cancel(self, order_id: int) -> None:
        """An open order ends."""
        self.book.cancel(order_id)

    def hold_per_lot(self, order: NaiveOrder, price: int) -> tuple[int, bool]:
        """What a lot of an order at a price holds, and whether it holds for another one too."""
        return hold(price, 1), False

    def trade_amount(self, taker: NaiveOrder, amount: int, most: int) -> list[NaiveTrade]:
        """Trade an order by quote amount, of at most so many lots, one lot after the other."""
        trades: list[NaiveTrade] = []
        makers = self.book.crossing(taker)
        while makers:
            maker = makers.pop(0)
            if maker.account_id == taker.account_id:
                break
            shown = maker.shown
            lots = 0
            while lots < shown and lots < most and cost(taker, maker, lots + 1) <= amount:
                lots += 1
            if lots:
                trades.append(NaiveTrade(maker.price, lots, maker.order_id, taker.order_id))
                amount -= cost(taker, maker, lots)
                most -= lots
                maker.filled += lots
                if self.book.reduce(maker, lots):
                    makers = self.book.crossing(taker)
            if lots < shown:
                break
        return trades


def ceil_bps(amount: int, bps: int) -> int:
    return (amount * bps + 9_999) // 10_000


def hold(price: int, lots: int) -> int:
    return lots * (price + ceil_bps(price, 20))


def cost(taker: NaiveOrder, maker: NaiveOrder, lots: int) -> int:
    """What some lots take from a quote amount: a buy pays the fee out of it as well."""
    notional = maker.price * lots
    return notional + (ceil_bps(notional, 20) if taker.side == BUY else 0)
