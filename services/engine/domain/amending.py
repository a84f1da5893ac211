"""Changing and cancelling live orders."""

from __future__ import annotations

from typing import Final

from kernel.reasons import Reason, Refused
from services.engine.domain import stops
from services.engine.domain.bands import check_band
from services.engine.domain.book import Book, Order
from services.engine.domain.commands import AmendOrder, CancelAll, CancelAllAfter, CancelOrder
from services.engine.domain.constants import (
    MARKET_STATUS_HALTED,
    MARKET_STATUS_POST_ONLY,
    ORDER_STATUS_CANCELLED,
    SIDE_SELL,
)
from services.engine.domain.events import (
    CancelAllAfterSet,
    Event,
    OrderAmended,
    OrdersCancelled,
)
from services.engine.domain.matching import match
from services.engine.domain.placing import (
    check_limits,
    check_open_for_orders,
    check_slices,
    settle_rest,
)
from services.engine.domain.positions import margin_terms, own_hold
from services.engine.domain.state import State
from services.engine.domain.trading import EXHAUSTED

_BY_USER: Final = int(Reason.CANCELLED_BY_USER)


def cancel(state: State, command: CancelOrder, now_ns: int) -> list[Event]:
    """Cancel one order. Raises `Refused`: not found, closed already, market halted."""
    order = state.find_order(command.account_id, command.order_id, command.client_order_id, now_ns)
    if order.book.status == MARKET_STATUS_HALTED:
        raise Refused(Reason.MARKET_HALTED)
    events: list[Event] = []
    state.close(order, ORDER_STATUS_CANCELLED, _BY_USER, now_ns, events)
    return events


def cancel_all(state: State, command: CancelAll, now_ns: int) -> list[Event]:
    """Cancel an account's orders that match, oldest first.

    Orders in halted markets stay: refused when that market was named, passed over otherwise.
    """
    market_id = command.market_id
    side = command.side
    stream_id = command.stream_id
    if command.account_id == 0:
        raise Refused(Reason.INVALID_ARGUMENT, field="account_id")
    if not 0 <= side <= SIDE_SELL:
        raise Refused(Reason.INVALID_ARGUMENT, field="side")
    if market_id and state.tradable_book(market_id).status == MARKET_STATUS_HALTED:
        raise Refused(Reason.MARKET_HALTED, field="market_id")
    reason = command.reason or _BY_USER
    events: list[Event] = []
    account = state.accounts.get(command.account_id)
    if account is not None:
        for order in account.live_orders():
            if (
                # Its pair may have ended it.
                order.order_id in state.orders
                and (market_id == 0 or order.book.market_id == market_id)
                and (side == 0 or order.side == side)
                and (stream_id == 0 or order.request.stream_id == stream_id)
                and order.book.status != MARKET_STATUS_HALTED
            ):
                state.close(order, ORDER_STATUS_CANCELLED, reason, now_ns, events)
    events.append(OrdersCancelled(len(events)))
    return events


def cancel_all_after(state: State, command: CancelAllAfter) -> list[Event]:
    """Arm, move or disarm the account's dead man's switch; a `Tick` at or after its time fires it.

    A time that has passed while the command waited is taken as well: the next `Tick` fires it.
    Raises `Refused(INVALID_ARGUMENT)` for a negative time.
    """
    if command.account_id == 0:
        raise Refused(Reason.INVALID_ARGUMENT, field="account_id")
    if command.at_ns < 0:
        raise Refused(Reason.INVALID_ARGUMENT, field="at_ns")
    state.set_switch(command.account_id, command.at_ns)
    return [CancelAllAfterSet(command.account_id, command.at_ns)]


def amend(state: State, command: AmendOrder, now_ns: int) -> list[Event]:
    """Change price or total quantity of a live order.

    Only a smaller quantity at the same price keeps its place. Anything else goes to the back, and
    trades first, as taker, if its new price crosses. Raises `Refused`; nothing has changed then.
    """
    order = state.find_order(command.account_id, command.order_id, command.client_order_id, now_ns)
    book = order.book
    check_open_for_orders(book, True)
    if order.waits():
        return stops.amend(state, order, command, now_ns)
    if command.trigger_price_ticks:
        raise Refused(Reason.UNSUPPORTED, field="trigger_price_ticks")
    old_price = order.price_ticks
    old_rested = order.shown()
    old_quantity = order.filled + order.remaining
    price_ticks = command.price_ticks or old_price
    quantity = command.quantity_lots or old_quantity
    if price_ticks == old_price and quantity == old_quantity:
        raise Refused(Reason.AMEND_CHANGES_NOTHING)
    check_limits(book, price_ticks, quantity, order.request.reduce_only)
    if price_ticks != old_price:
        check_band(book, price_ticks, now_ns)
    check_slices(order.request.display_quantity_lots, quantity)
    if quantity <= order.filled:
        raise Refused(Reason.AMEND_BELOW_FILLED, field="quantity_lots")
    remaining = quantity - order.filled
    keeps_place = price_ticks == old_price and quantity < old_quantity
    paired = order.condition is not None and order.condition.partner is not None
    if paired:
        stops.check_pair_keeps(order, quantity)
    hold_per_lot = own = order.hold_per_lot
    uncovered = min(order.uncovered, remaining)
    if not keeps_place:
        _check_crossing(book, order, price_ticks)
        reduce_only = order.request.reduce_only
        if book.is_margin and not paired:
            lots, own, uncovered = margin_terms(
                order.account, book, order.side, price_ticks, remaining, reduce_only, now_ns, order
            )
            if lots < remaining:
                raise Refused(Reason.REDUCE_ONLY_WOULD_INCREASE, field="quantity_lots")
        else:
            own = own_hold(order.account, book, order.request, price_ticks)
            uncovered = remaining if reduce_only else 0
        hold_per_lot = stops.pair_hold(order, own)
    hold_delta = (remaining - uncovered) * hold_per_lot - order.hold_units()
    if hold_delta > order.hold_balance.free:
        raise Refused(
            Reason.INSUFFICIENT_BALANCE,
            field="price_ticks" if command.price_ticks else "quantity_lots",
        )

    # Nothing can refuse it from here on.
    amended = OrderAmended(
        order.order_id,
        command.account_id,
        book.market_id,
        order.side,
        old_price,
        old_rested,
        price_ticks,
        quantity,
        0,
        hold_delta,
        order.hold_asset_id(),
        not keeps_place,
    )
    events: list[Event] = [amended]
    order.release(-hold_delta)
    order.uncovered = uncovered
    order.updated_ns = now_ns
    if keeps_place:
        level = order.level
        assert level is not None
        # An iceberg gives up what it hides first.
        order.hidden = max(order.hidden - (order.remaining - remaining), 0)
        order.remaining = remaining
        amended.rested_lots = order.shown()
        level.quantity += order.shown() - old_rested
        return events
    book.side(order.side).remove(order)
    order.price_ticks = price_ticks
    order.remaining = remaining
    order.hold_per_lot = hold_per_lot
    if order.condition is not None:
        order.condition.own_hold = own
    order.maker_fee_bps = book.maker_fee_bps
    stopped = EXHAUSTED
    if book.opposite(order.side).reaches(price_ticks):
        stopped = match(state, order, now_ns, events)
    amended.rested_lots = settle_rest(state, order, stopped, now_ns, events)
    return events


def _check_crossing(book: Book, order: Order, price_ticks: int) -> None:
    """Refuse a price that would trade where the order or the market is post-only."""
    if (order.request.post_only or book.status == MARKET_STATUS_POST_ONLY) and book.opposite(
        order.side
    ).reaches(price_ticks):
        raise Refused(Reason.POST_ONLY_WOULD_TRADE, field="price_ticks")
