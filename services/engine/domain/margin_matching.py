"""Matching in MARGIN markets: as everywhere, but that positions change hands in place of coins, and
an order whose account cannot pay for its fill any more ends there."""

from __future__ import annotations

from typing import Final

from kernel.reasons import Reason
from services.engine.domain.accounts import Account
from services.engine.domain.book import Book, Order
from services.engine.domain.constants import (
    ORDER_STATUS_CANCELLED,
    SELF_TRADE_PREVENTION_CANCEL_MAKER,
)
from services.engine.domain.events import Event
from services.engine.domain.positions import (
    CAUSE_TRADE,
    Change,
    Position,
    apply_change,
    fill_change,
    fillable,
    position_of,
)
from services.engine.domain.state import State
from services.engine.domain.trading import (
    EXHAUSTED,
    NOT_PAYABLE,
    PREVENTED,
    count_fill,
    end_fill,
    prevent,
)

_INSUFFICIENT_MARGIN: Final = int(Reason.INSUFFICIENT_MARGIN)
_REDUCE_ONLY: Final = int(Reason.REDUCE_ONLY_WOULD_INCREASE)


def match_margin(state: State, taker: Order, now_ns: int, events: list[Event]) -> int:
    """Trade `taker` as far as its price and its account allow; returns why it stopped."""
    book = taker.book
    makers = book.opposite(taker.side)
    keys = makers.keys
    limit_key = taker.price_ticks * makers.sign
    while taker.remaining and keys and keys[-1] >= limit_key:
        maker = makers.levels[keys[-1]].head
        assert maker is not None
        quantity = min(maker.remaining - maker.hidden, taker.remaining)
        if maker.account is taker.account:
            takes_all = quantity == taker.remaining
            if prevent(state, maker, taker, quantity, takes_all, now_ns, events):
                return PREVENTED
            continue
        price_ticks = maker.price_ticks
        making = position_of(maker.account, book, now_ns)
        quantity = fillable(maker, making, price_ticks, quantity, maker.maker_fee_bps)
        if quantity == 0:
            state.close(maker, ORDER_STATUS_CANCELLED, refusal_of(maker), now_ns, events)
            continue
        taking = position_of(taker.account, book, now_ns)
        quantity = fillable(taker, taking, price_ticks, quantity, book.taker_fee_bps)
        if quantity == 0:
            return NOT_PAYABLE
        _trade(state, maker, making, taker, taking, quantity, now_ns, events)
    return EXHAUSTED


def refusal_of(order: Order) -> int:
    """Why a fill of the order is not possible: nothing to reduce, or nothing to pay with."""
    position = order.account.positions.get(order.book.market_id)
    reduces = position is not None and position.closable(order.side) > 0
    return _REDUCE_ONLY if order.request.reduce_only and not reduces else _INSUFFICIENT_MARGIN


def can_fill_margin(taker: Order, hold_units: int, now_ns: int) -> bool:
    """Whether a FOK order, which will hold so much, would fill whole: the steps of `match_margin`,
    on copies."""
    book = taker.book
    makers = book.opposite(taker.side)
    limit_key = taker.price_ticks * makers.sign
    tried: dict[int, _Trial] = {}
    taking = _Trial(taker.account, book, now_ns)
    taking.free -= hold_units
    left = taker.remaining
    mode = taker.request.self_trade_prevention
    for key in reversed(makers.keys):
        if key < limit_key:
            return False
        # Hidden slices are met after all that the level shows.
        waiting: list[tuple[Order, int]] = []
        maker = makers.levels[key].head
        while maker is not None:
            waiting.append((maker, maker.remaining - maker.hidden))
            maker = maker.next
        done: dict[int, int] = {}
        while waiting:
            maker, shown = waiting.pop(0)
            if maker.account is taker.account:
                if mode != SELF_TRADE_PREVENTION_CANCEL_MAKER:
                    return False
                continue
            making = tried.get(maker.account.account_id)
            if making is None:
                making = tried[maker.account.account_id] = _Trial(maker.account, book, now_ns)
            quantity = making.try_fill(maker, key * makers.sign, min(shown, left), False)
            if quantity == 0:
                continue
            if taking.try_fill(taker, key * makers.sign, quantity, True) != quantity:
                return False
            left -= quantity
            if left == 0:
                return True
            done[maker.order_id] = done.get(maker.order_id, 0) + quantity
            rest = maker.remaining - done[maker.order_id]
            if rest and quantity == shown:
                waiting.append((maker, min(rest, maker.request.display_quantity_lots)))
    return False


class _Trial:
    """An account as a row of fills would leave it."""

    __slots__ = ("_left", "_position", "free")

    def __init__(self, account: Account, book: Book, now_ns: int) -> None:
        self._position = position_of(account, book, now_ns).copy()
        self.free = account.balance(book.quote_asset_id).free
        # What its orders have left: lots, and those of them that hold nothing.
        self._left: dict[int, tuple[int, int]] = {}

    def try_fill(self, order: Order, price_ticks: int, lots: int, taker: bool) -> int:
        """Fill an order in thought; returns the lots, 0 when it could not be paid."""
        position = self._position
        if order.request.reduce_only:
            lots = min(lots, position.closable(order.side))
            if lots == 0:
                return 0
        remaining, uncovered = self._left.get(order.order_id, (order.remaining, order.uncovered))
        fee_bps = order.book.taker_fee_bps if taker else order.maker_fee_bps
        change = fill_change(order, position, price_ticks, lots, fee_bps, remaining, uncovered)
        if self.free + change.free_delta() < 0:
            return 0
        self._left[order.order_id] = (remaining - lots, change.uncovered)
        self.free += change.free_delta()
        position.quantity = change.quantity
        position.entry_notional = change.entry_notional
        position.margin = change.margin
        return lots


def _trade(
    state: State,
    maker: Order,
    making: Position,
    taker: Order,
    taking: Position,
    quantity: int,
    now_ns: int,
    events: list[Event],
) -> None:
    """One fill at the maker's price: the trade, then both positions, then what ends by it."""
    book = taker.book
    price_ticks = maker.price_ticks
    made = _change(maker, making, price_ticks, quantity, maker.maker_fee_bps)
    taken = _change(taker, taking, price_ticks, quantity, book.taker_fee_bps)
    notional = price_ticks * quantity * book.units_per_tick_lot
    maker.uncovered = made.uncovered
    taker.uncovered = taken.uncovered
    count_fill(maker, taker, quantity, notional, made.fee, taken.fee, 0, 0, now_ns, events)
    trade_id = book.last_trade_id
    for order, position, change in ((maker, making, made), (taker, taking, taken)):
        apply_change(
            state,
            position,
            change,
            price_ticks,
            CAUSE_TRADE,
            events,
            order=order,
            trade_id=trade_id,
        )
    end_fill(state, maker, taker, now_ns, events)
    for position in (making, taking):
        cancel_reducers(state, position, now_ns, events)


def cancel_reducers(state: State, position: Position, now_ns: int, events: list[Event]) -> None:
    """Cancel reduce-only orders, resting or waiting, that have nothing left to reduce.

    One that has fired or was amended and trades just now is neither: it ends with its own command.
    """
    orders = position.account.orders.get(position.book.market_id)
    if not orders:
        return
    for order in [o for o in orders.values() if o.request.reduce_only]:
        if order.level is None and not order.waits():
            continue
        # The other order of a pair ends with the first.
        if position.closable(order.side) == 0 and order.order_id in state.orders:
            state.close(order, ORDER_STATUS_CANCELLED, _REDUCE_ONLY, now_ns, events)


def _change(order: Order, position: Position, price_ticks: int, lots: int, fee_bps: int) -> Change:
    return fill_change(
        order, position, price_ticks, lots, fee_bps, order.remaining, order.uncovered
    )
