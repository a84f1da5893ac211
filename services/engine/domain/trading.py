"""What all matching shares: the bookkeeping of a fill, the slices of icebergs, self-trades."""

from __future__ import annotations

from typing import Final

from kernel.reasons import Reason
from services.engine.domain.book import Order
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

# Why matching stopped.
EXHAUSTED: Final = 0  # nothing left of the taker, or nothing left that it may trade with
PREVENTED: Final = 1  # self-trade prevention ended it
AMOUNT_USED: Final = 2  # what is left of a quote amount is less than one more lot
NOT_PAYABLE: Final = 3  # MARGIN: its account cannot pay for the next fill

_SELF_TRADE: Final = int(Reason.SELF_TRADE_PREVENTED)


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


def count_fill(
    maker: Order,
    taker: Order,
    quantity: int,
    notional: int,
    maker_fee: int,
    taker_fee: int,
    quote_taken: int,
    base_units: int,
    now_ns: int,
    events: list[Event],
) -> None:
    """Count a fill on both orders, the level and the market, and say so; no money moves here."""
    book = taker.book
    price_ticks = maker.price_ticks
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


def end_fill(state: State, maker: Order, taker: Order, now_ns: int, events: list[Event]) -> None:
    """After a fill: end what was paired with either, close a maker that is filled, show the next
    slice of an iceberg."""
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


def prevent(
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
        _decremented(maker, maker.shown() + quantity, maker.drop_hold(quantity), now_ns, events)
        if maker.condition is not None:
            _part(state, maker, now_ns, events)
        if maker.remaining == maker.hidden:
            replenish(maker, events)
    if takes_all:
        return True
    released = taker.drop_hold(quantity)
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
