"""Pairs of orders of which one cancels the other: a good price, and a stop at a bad one.

The money is held once, by the first order, for the dearer of the two. Trading, firing, expiring or
cancelling either ends the other; see `State.end_partner`.
"""

from __future__ import annotations

from typing import Final

from kernel.reasons import Reason, Refused
from services.engine.domain.accounts import Account
from services.engine.domain.bands import check_band
from services.engine.domain.book import Book, Condition, Order
from services.engine.domain.commands import PlaceOco, PlaceOrder
from services.engine.domain.constants import (
    ORDER_TYPE_LIMIT,
    ORDER_TYPE_STOP_LIMIT,
    ORDER_TYPE_STOP_MARKET,
    ORDER_TYPE_TAKE_PROFIT_LIMIT,
    ORDER_TYPE_TAKE_PROFIT_MARKET,
    SIDE_BUY,
    TIME_IN_FORCE_FOK,
    TIME_IN_FORCE_IOC,
)
from services.engine.domain.events import CommandRepeated, Event, OrderPlaced
from services.engine.domain.matching import match
from services.engine.domain.placing import (
    admit,
    check_limits,
    check_open_orders,
    repeated,
    settle_rest,
)
from services.engine.domain.positions import check_reduces, own_hold
from services.engine.domain.state import State
from services.engine.domain.stops import placed_event, plan, wait
from services.engine.domain.trading import EXHAUSTED

_FIRST: Final = "first."
_SECOND: Final = "second."


def place(state: State, command: PlaceOco, now_ns: int) -> list[Event]:
    """Place a pair, both orders or none. Raises `Refused`; its field begins with the order's."""
    first, second = command.first, command.second
    known = _repeated(state, command, now_ns)
    if known:
        return [CommandRepeated(known, 0)]
    book = _admit(state, first, command.deadline_ns, now_ns, _FIRST)
    _admit(state, second, command.deadline_ns, now_ns, _SECOND)
    _check_pair(first, second)
    account = state.accounts.get(command.account_id)
    if account is None:
        raise Refused(Reason.INSUFFICIENT_BALANCE, field="account_id")
    first_price, first_condition = _plan(book, account, first, now_ns, _FIRST)
    second_price, second_condition = _plan(book, account, second, now_ns, _SECOND)
    _check_prices(first, second, first_condition)
    check_reduces(account, book, first)
    check_open_orders(book, account, 2)
    side, lots = first.side, first.quantity_lots
    opposite = book.opposite(side)
    if first.post_only and opposite.reaches(first_price):
        raise Refused(Reason.POST_ONLY_WOULD_TRADE, field=_FIRST + "price_ticks")
    hold_per_lot = max(first_condition.own_hold, second_condition.own_hold)
    balance = account.balances.get(book.hold_asset_id(side))
    if balance is None or balance.free < lots * hold_per_lot:
        raise Refused(Reason.INSUFFICIENT_BALANCE, field=_FIRST + "quantity_lots")

    # Nothing can refuse it from here on.
    balance.free -= lots * hold_per_lot
    balance.held += lots * hold_per_lot
    one = _order(state, account, book, first, first_price, hold_per_lot, first_condition, now_ns)
    two = _order(state, account, book, second, second_price, 0, second_condition, now_ns)
    first_condition.partner = two
    second_condition.partner = one
    if first_condition.waits:
        wait(state, one)
    wait(state, two)
    placed_one = placed_event(one)
    placed_two = placed_event(two)
    placed_one.oco_order_id = two.order_id
    placed_two.oco_order_id = one.order_id
    events: list[Event] = [placed_one, placed_two]
    if not first_condition.waits:
        _rest(state, one, placed_one, now_ns, events)
    return events


def _rest(
    state: State, order: Order, placed: OrderPlaced, now_ns: int, events: list[Event]
) -> None:
    """The LIMIT order of a pair trades as far as it can, like any other, and rests."""
    stopped = EXHAUSTED
    if order.book.opposite(order.side).reaches(order.price_ticks):
        stopped = match(state, order, now_ns, events)
    placed.rested_lots = settle_rest(state, order, stopped, now_ns, events)


def _order(
    state: State,
    account: Account,
    book: Book,
    request: PlaceOrder,
    price_ticks: int,
    hold_per_lot: int,
    condition: Condition,
    now_ns: int,
) -> Order:
    state.last_order_id += 1
    order = Order(
        state.last_order_id,
        account,
        book,
        request,
        account.balance(book.hold_asset_id(request.side)),
        price_ticks,
        request.quantity_lots,
        hold_per_lot,
        now_ns,
    )
    order.condition = condition
    if request.reduce_only:
        order.uncovered = order.remaining
    if request.client_order_id:
        state.remember(order, now_ns)
    return order


# ---------------------------------------------------------------- checks


def _repeated(state: State, command: PlaceOco, now_ns: int) -> int:
    """The first order of the pair that this command placed before; 0 for a new one."""
    first_id = _known(state, command.account_id, command.first, now_ns, _FIRST)
    second_id = _known(state, command.account_id, command.second, now_ns, _SECOND)
    if command.first.client_order_id and command.second.client_order_id:
        if command.first.client_order_id == command.second.client_order_id:
            raise Refused(Reason.DUPLICATE_CLIENT_ORDER_ID, field=_SECOND + "client_order_id")
        if (first_id > 0) != (second_id > 0) or (first_id and second_id != first_id + 1):
            raise Refused(Reason.DUPLICATE_CLIENT_ORDER_ID, field=_FIRST + "client_order_id")
    # The two have consecutive ids.
    return first_id or max(second_id - 1, 0)


def _known(state: State, account_id: int, order: PlaceOrder, now_ns: int, prefix: str) -> int:
    if not order.client_order_id:
        return 0
    try:
        return repeated(state, account_id, order, now_ns)
    except Refused as refused:
        raise Refused(refused.reason, field=prefix + refused.field) from refused


def _admit(state: State, order: PlaceOrder, deadline_ns: int, now_ns: int, prefix: str) -> Book:
    try:
        return admit(state, order, deadline_ns, now_ns)
    except Refused as refused:
        if refused.reason == Reason.DEADLINE_PASSED:
            raise
        raise Refused(refused.reason, field=prefix + refused.field) from refused


def _plan(
    book: Book, account: Account, order: PlaceOrder, now_ns: int, prefix: str
) -> tuple[int, Condition]:
    try:
        if order.type != ORDER_TYPE_LIMIT:
            return plan(book, account, order, now_ns)
        price_ticks = order.price_ticks
        check_limits(book, price_ticks, order.quantity_lots, order.reduce_only)
        check_band(book, price_ticks, now_ns)
        own = own_hold(account, book, order, price_ticks)
        return price_ticks, Condition(0, 0, own, waits=False)
    except Refused as refused:
        raise Refused(refused.reason, field=prefix + refused.field) from refused


def _check_pair(first: PlaceOrder, second: PlaceOrder) -> None:
    if first.type not in (
        ORDER_TYPE_LIMIT,
        ORDER_TYPE_TAKE_PROFIT_LIMIT,
        ORDER_TYPE_TAKE_PROFIT_MARKET,
    ):
        raise Refused(Reason.ORDER_TYPE_NOT_SUPPORTED, field=_FIRST + "type")
    if second.type not in (ORDER_TYPE_STOP_LIMIT, ORDER_TYPE_STOP_MARKET):
        raise Refused(Reason.ORDER_TYPE_NOT_SUPPORTED, field=_SECOND + "type")
    if first.type == ORDER_TYPE_LIMIT and first.time_in_force in (
        TIME_IN_FORCE_IOC,
        TIME_IN_FORCE_FOK,
    ):
        raise Refused(Reason.TIME_IN_FORCE_NOT_SUPPORTED, field=_FIRST + "time_in_force")
    if first.reduce_only != second.reduce_only:
        raise Refused(Reason.INVALID_ARGUMENT, field=_SECOND + "reduce_only")
    if first.market_id != second.market_id:
        raise Refused(Reason.INVALID_ARGUMENT, "differs", field=_SECOND + "market_id")
    if first.side != second.side:
        raise Refused(Reason.INVALID_ARGUMENT, "differs", field=_SECOND + "side")
    if first.quantity_lots != second.quantity_lots:
        raise Refused(Reason.INVALID_ARGUMENT, "differs", field=_SECOND + "quantity_lots")


def _check_prices(first: PlaceOrder, second: PlaceOrder, condition: Condition) -> None:
    """The price of the first is the better one, or the second would be reached before it."""
    good = condition.trigger_ticks if condition.waits else first.price_ticks
    bad = second.trigger_price_ticks
    if (good >= bad) if first.side == SIDE_BUY else (good <= bad):
        raise Refused(Reason.TRIGGER_ON_WRONG_SIDE, field=_SECOND + "trigger_price_ticks")
