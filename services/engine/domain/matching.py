"""Matching: a taker meets the other side of the book, best price first, oldest first.

Of an iceberg it meets the slice that is shown; the next slice waits at the back of the level, so a
taker that goes on comes to it after everybody who stood there.
"""

from __future__ import annotations

from typing import Final

from kernel.reasons import Reason
from services.engine.domain.book import Book, Order
from services.engine.domain.constants import (
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_FILLED,
    SELF_TRADE_PREVENTION_CANCEL_BOTH,
    SELF_TRADE_PREVENTION_CANCEL_MAKER,
    SELF_TRADE_PREVENTION_DECREMENT_AND_CANCEL,
    SIDE_BUY,
)
from services.engine.domain.events import Event, OrderAmended, OrderReplenished, Trade
from services.engine.domain.state import State

# Why `match` stopped.
EXHAUSTED: Final = 0  # nothing left of the taker, or nothing left that it may trade with
PREVENTED: Final = 1  # self-trade prevention ended it
AMOUNT_USED: Final = 2  # what is left of a quote amount is less than one more lot

_SELF_TRADE: Final = int(Reason.SELF_TRADE_PREVENTED)


def match(state: State, taker: Order, now_ns: int, events: list[Event]) -> int:
    """Trade `taker` as far as its price allows; returns why it stopped. It does not rest here."""
    book = taker.book
    makers = book.opposite(taker.side)
    keys = makers.keys
    limit_key = taker.price_ticks * makers.sign
    by_amount = taker.request.quote_amount_units > 0
    while taker.remaining and keys and keys[-1] >= limit_key:
        maker = makers.levels[keys[-1]].head
        assert maker is not None
        wanted = taker.remaining
        if by_amount:
            wanted = min(wanted, lots_for_amount(book, taker, maker.price_ticks))
            if wanted == 0:
                return AMOUNT_USED
        quantity = maker.remaining - maker.hidden
        if quantity > wanted:
            quantity = wanted
        if maker.account is taker.account:
            if _prevent(state, maker, taker, quantity, quantity == wanted, now_ns, events):
                return PREVENTED
            continue
        _trade(state, maker, taker, quantity, now_ns, events)
        if by_amount and quantity == wanted:
            return AMOUNT_USED
    return EXHAUSTED


def lots_for_amount(book: Book, taker: Order, price_ticks: int) -> int:
    """Lots at this price that what is left of a quote amount pays for (buy) or earns (sell).

    A buy pays the fee as well: n + ceil(n * bps / 10_000) <= amount, for whole numbers, is
    n * (10_000 + bps) <= amount * 10_000. A sell counts its proceeds before the fee.
    """
    lot_notional = price_ticks * book.units_per_tick_lot
    if taker.side == SIDE_BUY:
        return taker.amount_left * 10_000 // (lot_notional * (10_000 + book.taker_fee_bps))
    return taker.amount_left // lot_notional


def can_fill(
    book: Book, taker_side: int, price_ticks: int, lots: int, owner: int, mode: int
) -> bool:
    """Whether a FOK order would fill whole.

    Makers of the same account never count; unless they alone are cancelled, meeting one ends the
    taker. Hidden slices count, but are met only after all that the level shows.
    """
    makers = book.opposite(taker_side)
    limit_key = price_ticks * makers.sign
    for key in reversed(makers.keys):
        if key < limit_key:
            return False
        hidden = 0
        maker = makers.levels[key].head
        while maker is not None:
            if maker.account.account_id != owner:
                lots -= maker.remaining - maker.hidden
                hidden += maker.hidden
                if lots <= 0:
                    return True
            elif mode != SELF_TRADE_PREVENTION_CANCEL_MAKER:
                return False
            maker = maker.next
        lots -= hidden
        if lots <= 0:
            return True
    return False


def replenish(order: Order, events: list[Event]) -> None:
    """An iceberg whose slice is used up shows the next one, at the back of its level."""
    side = order.book.side(order.side)
    side.remove(order)
    order.show_slice()
    side.add(order)
    events.append(
        OrderReplenished(
            order.order_id,
            order.book.market_id,
            order.remaining - order.hidden,
            order.price_ticks,
            order.side,
            order.account.account_id,
        )
    )


def _trade(
    state: State, maker: Order, taker: Order, quantity: int, now_ns: int, events: list[Event]
) -> None:
    """One fill at the maker's price: money, quantities, the event; a filled maker is closed."""
    book = taker.book
    price_ticks = maker.price_ticks
    notional = price_ticks * quantity * book.units_per_tick_lot
    base_units = quantity * book.lot_size_units
    # Rounded up: a fee against its payer, a rebate (negative) towards zero.
    maker_fee = -(-notional * maker.maker_fee_bps // 10_000)
    taker_fee = -(-notional * book.taker_fee_bps // 10_000)
    if taker.side == SIDE_BUY:
        buyer = taker
        seller = maker
        buyer_fee = taker_fee
        seller_fee = maker_fee
    else:
        buyer = maker
        seller = taker
        buyer_fee = maker_fee
        seller_fee = taker_fee
    quote_taken = quantity * buyer.hold_per_lot
    if taker.request.quote_amount_units:
        if buyer is taker:
            quote_taken = notional + buyer_fee
            taker.amount_left -= quote_taken
        else:
            taker.amount_left -= notional
    balance = buyer.hold_balance
    balance.held -= quote_taken
    balance.free += quote_taken - notional - buyer_fee
    buyer.account.balance(book.base_asset_id).free += base_units
    seller.hold_balance.held -= base_units
    seller.account.balance(book.quote_asset_id).free += notional - seller_fee
    state.fees[book.quote_asset_id] += maker_fee + taker_fee
    taker.remaining -= quantity
    taker.filled += quantity
    taker.filled_notional += notional
    taker.fees += taker_fee
    maker.remaining -= quantity
    maker.filled += quantity
    maker.filled_notional += notional
    maker.fees += maker_fee
    maker.updated_ns = now_ns
    level = maker.level
    assert level is not None
    level.quantity -= quantity
    book.last_trade_id += 1
    book.last_price_ticks = price_ticks
    events.append(
        Trade(
            book.last_trade_id,
            book.market_id,
            price_ticks,
            quantity,
            taker.side,
            maker.order_id,
            maker.account.account_id,
            taker.order_id,
            taker.account.account_id,
            maker_fee,
            taker_fee,
            quote_taken,
            notional,
            base_units,
        )
    )
    if maker.condition is not None:
        _part(state, maker, now_ns, events)
    if taker.condition is not None:
        _part(state, taker, now_ns, events)
    if not maker.remaining:
        state.close(maker, ORDER_STATUS_FILLED, 0, now_ns, events)
    elif maker.remaining == maker.hidden:
        replenish(maker, events)


def _part(state: State, order: Order, now_ns: int, events: list[Event]) -> None:
    """An order of a pair traded: the other one ends, and what it held for that one is free."""
    condition = order.condition
    assert condition is not None
    if condition.partner is None:
        return
    state.end_partner(order, now_ns, events)
    released = order.remaining * (order.hold_per_lot - condition.own_hold)
    order.hold_per_lot = condition.own_hold
    if released:
        _decremented(order, order.shown(), released, now_ns, events)


def _prevent(
    state: State,
    maker: Order,
    taker: Order,
    quantity: int,
    takes_all: bool,
    now_ns: int,
    events: list[Event],
) -> bool:
    """The taker met an order of its own account; True when that ends the taker.

    `quantity` is what the two would have traded; `takes_all` that nothing of the taker would be
    left then.
    """
    mode = taker.request.self_trade_prevention
    if mode == SELF_TRADE_PREVENTION_CANCEL_MAKER:
        state.close(maker, ORDER_STATUS_CANCELLED, _SELF_TRADE, now_ns, events)
        return False
    if mode == SELF_TRADE_PREVENTION_CANCEL_BOTH:
        state.close(maker, ORDER_STATUS_CANCELLED, _SELF_TRADE, now_ns, events)
        return True
    if mode != SELF_TRADE_PREVENTION_DECREMENT_AND_CANCEL:
        return True  # CANCEL_TAKER, also when no mode was named
    price_ticks = maker.price_ticks
    if maker.remaining == quantity:
        state.close(maker, ORDER_STATUS_CANCELLED, _SELF_TRADE, now_ns, events)
    else:
        maker.remaining -= quantity
        level = maker.level
        assert level is not None
        level.quantity -= quantity
        _decremented(maker, maker.shown() + quantity, quantity * maker.hold_per_lot, now_ns, events)
        if maker.condition is not None:
            _part(state, maker, now_ns, events)
        if maker.remaining == maker.hidden:
            replenish(maker, events)
    if takes_all:
        return True
    released = quantity * taker.hold_per_lot
    if taker.request.quote_amount_units:
        book = taker.book
        notional = price_ticks * quantity * book.units_per_tick_lot
        if taker.side == SIDE_BUY:
            released = notional - (-notional * book.taker_fee_bps // 10_000)
            taker.amount_left -= released
        else:
            taker.amount_left -= notional
    taker.remaining -= quantity
    _decremented(taker, 0, released, now_ns, events)
    if taker.condition is not None:
        _part(state, taker, now_ns, events)
    return False


def _decremented(
    order: Order, rested_before: int, released: int, now_ns: int, events: list[Event]
) -> None:
    """Release what an order no longer needs, and say so.

    A taker is not in the book yet: both rested quantities are 0, what of it rests in the end is in
    the event that brought it.
    """
    order.release(released)
    order.updated_ns = now_ns
    by_amount = order.request.quote_amount_units > 0
    events.append(
        OrderAmended(
            order.order_id,
            order.account.account_id,
            order.book.market_id,
            order.side,
            order.price_ticks,
            rested_before,
            order.price_ticks,
            0 if by_amount else order.filled + order.remaining,
            order.shown(),
            -released,
            order.hold_asset_id(),
            False,
        )
    )
