"""Orders that wait for a price: placing them, firing them, changing them while they wait.

A stop fires when the price that it watches reaches its trigger: the price of a trade (LAST), or
the mark price as it stands once a command has traded or set prices in the market (MARK). Only a
market that is TRADING fires; what was reached meanwhile fires when trading goes on, if the price is
still there.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from kernel.reasons import Reason, Refused
from services.engine.domain.accounts import Account
from services.engine.domain.bands import drawn_in, is_outside
from services.engine.domain.book import Book, Condition, Order
from services.engine.domain.commands import AmendOrder, PlaceOrder
from services.engine.domain.constants import (
    MARKET_STATUS_TRADING,
    ORDER_STATUS_CANCELLED,
    ORDER_TYPE_STOP_LIMIT,
    ORDER_TYPE_STOP_MARKET,
    ORDER_TYPE_TRAILING_STOP,
    SIDE_BUY,
    TIME_IN_FORCE_FOK,
    TRIGGER_SOURCE_MARK,
)
from services.engine.domain.events import (
    CommandRepeated,
    Event,
    OrderAmended,
    OrderPlaced,
    OrderTriggered,
    Trade,
)
from services.engine.domain.margin_matching import can_fill_margin
from services.engine.domain.matching import can_fill, match
from services.engine.domain.placing import (
    admit,
    check_limits,
    check_market_limits,
    check_open_orders,
    check_slices,
    protection_price,
    repeated,
    settle_rest,
)
from services.engine.domain.positions import check_reduces, margin_terms, own_hold
from services.engine.domain.state import State
from services.engine.domain.trading import EXHAUSTED
from services.engine.domain.triggers import Watch

_INSUFFICIENT: Final = int(Reason.INSUFFICIENT_BALANCE)
_OUTSIDE_BAND: Final = int(Reason.PRICE_OUTSIDE_BAND)
_POST_ONLY: Final = int(Reason.POST_ONLY_WOULD_TRADE)
_NOT_FILLABLE: Final = int(Reason.FOK_NOT_FILLABLE)


def place(state: State, command: PlaceOrder, now_ns: int) -> list[Event]:
    """Place a stop. Raises `Refused`, and then nothing has changed."""
    if command.client_order_id:
        known = repeated(state, command.account_id, command, now_ns)
        if known:
            return [CommandRepeated(known, 0)]
    book = admit(state, command, command.deadline_ns, now_ns)
    account = state.accounts.get(command.account_id)
    if account is None:
        # Never credited: it cannot hold anything.
        raise Refused(Reason.INSUFFICIENT_BALANCE, field="account_id")
    price_ticks, condition = plan(book, account, command, now_ns)
    check_reduces(account, book, command)
    check_open_orders(book, account, 1)
    hold_units = command.quantity_lots * condition.own_hold
    hold_asset_id = book.hold_asset_id(command.side)
    balance = account.balances.get(hold_asset_id)
    if balance is None or balance.free < hold_units:
        raise Refused(Reason.INSUFFICIENT_BALANCE, field="quantity_lots")

    # Nothing can refuse it from here on.
    balance.free -= hold_units
    balance.held += hold_units
    state.last_order_id += 1
    order = Order(
        state.last_order_id,
        account,
        book,
        command,
        balance,
        price_ticks,
        command.quantity_lots,
        condition.own_hold,
        now_ns,
    )
    order.condition = condition
    if command.reduce_only:
        order.uncovered = order.remaining
    if command.client_order_id:
        state.remember(order, now_ns)
    wait(state, order)
    return [placed_event(order)]


def plan(book: Book, account: Account, command: PlaceOrder, now_ns: int) -> tuple[int, Condition]:
    """The limit or protection price of a stop, and its condition. Raises `Refused`."""
    side = command.side
    lots = command.quantity_lots
    watched = watched_price(book, command.trigger_source, now_ns)
    if command.type == ORDER_TYPE_TRAILING_STOP:
        field = "trailing_bps"
        if watched == 0:
            raise Refused(Reason.PRICE_STALE, "there is no price to follow", field="trigger_source")
        trigger_ticks = trailed(side, watched, command.trailing_bps)
    else:
        field = "trigger_price_ticks"
        trigger_ticks = command.trigger_price_ticks
    if not 0 < trigger_ticks <= book.config.max_price_ticks:
        raise Refused(Reason.PRICE_OUT_OF_RANGE, field=field)
    check_far_side(command, watched, trigger_ticks, field)
    if command.price_ticks:
        price_ticks = command.price_ticks
        check_limits(book, price_ticks, lots, command.reduce_only)
    else:
        price_ticks = protection_price(book, side, trigger_ticks, command.max_slippage_bps)
        check_market_limits(book, lots, trigger_ticks, price_ticks, command.reduce_only)
    return price_ticks, Condition(
        trigger_ticks, watched, own_hold(account, book, command, price_ticks), waits=True
    )


def wait(state: State, order: Order) -> None:
    """A stop begins to wait."""
    state.register(order)
    state.waiting += 1
    watch_price(order)


def watch_price(order: Order) -> None:
    """Index a stop under what fires it, and a trailing one under what moves that."""
    condition = order.condition
    assert condition is not None
    request = order.request
    watch = (
        order.book.mark_stops
        if request.trigger_source == TRIGGER_SOURCE_MARK
        else order.book.last_stops
    )
    by = watch.rising if rises(request) else watch.falling
    by.set(order.order_id, condition.trigger_ticks)
    if request.type == ORDER_TYPE_TRAILING_STOP:
        if request.side == SIDE_BUY:
            watch.lows.set(order.order_id, condition.extreme_ticks - 1)
        else:
            watch.highs.set(order.order_id, condition.extreme_ticks + 1)


def placed_event(order: Order) -> OrderPlaced:
    """What the log says of a stop that begins to wait."""
    return OrderPlaced(
        order.order_id,
        order.account.account_id,
        order.book.market_id,
        order.hold_asset_id(),
        order.hold_units(),
        0,
        order.price_ticks,
        order.side,
        order.remaining,
        order.trigger_ticks(),
    )


def rises(request: PlaceOrder) -> bool:
    """Whether it fires at its trigger or above: stops that buy, take-profits that sell."""
    kind = request.type
    is_stop = kind in (ORDER_TYPE_STOP_MARKET, ORDER_TYPE_STOP_LIMIT, ORDER_TYPE_TRAILING_STOP)
    return is_stop == (request.side == SIDE_BUY)


def watched_price(book: Book, source: int, now_ns: int) -> int:
    """The last trade or the mark price now; 0 while there is none."""
    return book.mark_price(now_ns) if source == TRIGGER_SOURCE_MARK else book.last_price_ticks


def trailed(side: int, extreme_ticks: int, bps: int) -> int:
    """The trigger that far from the best price seen: above it for a buy, below for a sell."""
    if side == SIDE_BUY:
        return -(-extreme_ticks * (10_000 + bps) // 10_000)
    return extreme_ticks * (10_000 - bps) // 10_000


def check_far_side(command: PlaceOrder, watched: int, trigger_ticks: int, field: str) -> None:
    """Refuse a trigger that the watched price has reached already."""
    if watched and (watched >= trigger_ticks if rises(command) else watched <= trigger_ticks):
        raise Refused(Reason.TRIGGER_ON_WRONG_SIDE, field=field)


# ---------------------------------------------------------------- firing


def cascade(
    state: State,
    book: Book,
    events: list[Event],
    now_ns: int,
    *,
    seen: int = 0,
    priced: bool = False,
    resumed: bool = False,
) -> None:
    """Fire what a command's events (but the first `seen`) reached in a market, and what that
    reaches in turn.

    Trades are looked at one by one, then the mark price, also when the command set prices
    (`priced`). What one price reaches fires nearest trigger first, all of it before anything that
    its own trades reach. It ends, because every stop fires once and none is added. `resumed`: the
    market trades again, so both prices count anew.
    """
    if book.status != MARKET_STATUS_TRADING:
        return
    due: deque[Order] = deque()
    if resumed and book.last_price_ticks:
        _reach(state, book.last_stops, book.last_price_ticks, due, now_ns, events)
    look = priced or resumed
    while True:
        for event in events[seen:]:
            if isinstance(event, Trade) and event.market_id == book.market_id:
                look = True
                _reach(state, book.last_stops, event.price_ticks, due, now_ns, events)
        if look and len(book.mark_stops):
            mark = book.mark_price(now_ns)
            if mark:
                _reach(state, book.mark_stops, mark, due, now_ns, events)
        look = False
        seen = len(events)
        while due and not due[0].waits():
            # Its pair ended it while it was due.
            due.popleft()
        if not due:
            return
        _fire(state, due.popleft(), now_ns, events)


def _reach(
    state: State,
    watch: Watch,
    price_ticks: int,
    due: deque[Order],
    now_ns: int,
    events: list[Event],
) -> None:
    """A watched price was seen: move triggers that follow it, take those it reaches as due."""
    for moving in (watch.highs, watch.lows):
        order_id = moving.first_reached(price_ticks)
        while order_id:
            _follow(state.orders[order_id], price_ticks, now_ns, events)
            order_id = moving.first_reached(price_ticks)
    for firing in (watch.rising, watch.falling):
        order_id = firing.first_reached(price_ticks)
        while order_id:
            watch.drop(order_id)
            due.append(state.orders[order_id])
            order_id = firing.first_reached(price_ticks)


def _follow(order: Order, price_ticks: int, now_ns: int, events: list[Event]) -> None:
    """The watched price is better than all before: the trigger of a trailing stop comes along."""
    condition = order.condition
    assert condition is not None
    condition.extreme_ticks = price_ticks
    trigger_ticks = trailed(order.side, price_ticks, order.request.trailing_bps)
    if trigger_ticks != condition.trigger_ticks:
        condition.trigger_ticks = trigger_ticks
        order.updated_ns = now_ns
        events.append(amended_event(order, order.price_ticks, 0))
    watch_price(order)


def _fire(state: State, order: Order, now_ns: int, events: list[Event]) -> None:
    """A stop becomes an ordinary order: hold as for one, match, rest or close."""
    book = order.book
    request = order.request
    side = order.side
    trigger_ticks = order.trigger_ticks()
    state.wait_no_more(order)
    # What the other order of a pair holds is needed now.
    state.end_partner(order, now_ns, events)
    if request.price_ticks == 0:
        worst_ticks = protection_price(book, side, trigger_ticks, request.max_slippage_bps)
        order.price_ticks = drawn_in(book, side, worst_ticks, now_ns)
    price_ticks = order.price_ticks
    reason, hold_delta = _take_hold(order, now_ns)
    order.updated_ns = now_ns
    triggered = OrderTriggered(
        order.order_id,
        order.account.account_id,
        book.market_id,
        trigger_ticks,
        side,
        price_ticks,
        0,
        hold_delta,
        order.hold_asset_id(),
    )
    events.append(triggered)
    crosses = book.opposite(side).reaches(price_ticks)
    if reason == 0:
        if is_outside(book, price_ticks, now_ns):
            reason = _OUTSIDE_BAND
        elif request.post_only and crosses:
            reason = _POST_ONLY
        elif request.time_in_force == TIME_IN_FORCE_FOK and not _can_fill(order, now_ns):
            reason = _NOT_FILLABLE
    if reason:
        state.close(order, ORDER_STATUS_CANCELLED, reason, now_ns, events)
        return
    stopped = match(state, order, now_ns, events) if crosses else EXHAUSTED
    triggered.rested_lots = settle_rest(state, order, stopped, now_ns, events)


def _take_hold(order: Order, now_ns: int) -> tuple[int, int]:
    """Hold for an order that has just fired as for a new one: (why it cannot be, change of hold).

    One that only reduces is cut down to the position that there is now.
    """
    book, request = order.book, order.request
    lots, uncovered = order.remaining, 0
    try:
        if book.is_margin:
            lots, hold_per_lot, uncovered = margin_terms(
                order.account,
                book,
                order.side,
                order.price_ticks,
                lots,
                request.reduce_only,
                now_ns,
                order,
            )
        else:
            hold_per_lot = book.hold_per_lot(order.side, order.price_ticks)
    except Refused as refused:
        return int(refused.reason), 0
    hold_delta = (lots - uncovered) * hold_per_lot - order.hold_units()
    if hold_delta > order.hold_balance.free:
        # Fees have risen since it was placed, or leverage was taken back.
        return _INSUFFICIENT, 0
    order.release(-hold_delta)
    order.remaining = lots
    order.uncovered = uncovered
    order.hold_per_lot = hold_per_lot
    order.maker_fee_bps = book.maker_fee_bps
    return 0, hold_delta


def _can_fill(order: Order, now_ns: int) -> bool:
    if order.book.is_margin:
        return can_fill_margin(order, 0, now_ns)
    return can_fill(
        order.book,
        order.side,
        order.price_ticks,
        order.remaining,
        order.account.account_id,
        order.request.self_trade_prevention,
    )


# ---------------------------------------------------------------- changing


def amend(state: State, order: Order, command: AmendOrder, now_ns: int) -> list[Event]:
    """Change price, trigger or quantity of a stop that waits. Raises `Refused`."""
    book = order.book
    condition = order.condition
    assert condition is not None
    request = order.request
    side = order.side
    old_price = order.price_ticks
    trigger_ticks = command.trigger_price_ticks or condition.trigger_ticks
    lots = command.quantity_lots or order.remaining
    if command.price_ticks and request.price_ticks == 0:
        raise Refused(Reason.PRICE_NOT_ALLOWED, field="price_ticks")
    if command.trigger_price_ticks and request.type == ORDER_TYPE_TRAILING_STOP:
        raise Refused(Reason.INVALID_ARGUMENT, "follows the price", field="trigger_price_ticks")
    if not 0 < trigger_ticks <= book.config.max_price_ticks:
        raise Refused(Reason.PRICE_OUT_OF_RANGE, field="trigger_price_ticks")
    moved = trigger_ticks != condition.trigger_ticks
    if request.price_ticks:
        price_ticks = command.price_ticks or old_price
        check_limits(book, price_ticks, lots, request.reduce_only)
    else:
        price_ticks = old_price
        if moved:
            price_ticks = protection_price(book, side, trigger_ticks, request.max_slippage_bps)
        check_market_limits(book, lots, trigger_ticks, price_ticks, request.reduce_only)
    if price_ticks == old_price and not moved and lots == order.remaining:
        raise Refused(Reason.AMEND_CHANGES_NOTHING)
    check_slices(request.display_quantity_lots, lots)
    if moved:
        watched = watched_price(book, request.trigger_source, now_ns)
        check_far_side(request, watched, trigger_ticks, "trigger_price_ticks")
    hold = condition.own_hold
    if price_ticks != old_price:
        hold = own_hold(order.account, book, request, price_ticks)
    hold_per_lot = hold
    holder = order
    partner = condition.partner
    if partner is not None:
        check_pair_keeps(order, lots)
        hold_per_lot = pair_hold(order, hold)
        if order.hold_per_lot == 0:
            # The second of a pair, whose money the first one holds.
            holder = partner
    hold_delta = lots * hold_per_lot - holder.hold_units()
    if hold_delta > holder.hold_balance.free:
        raise Refused(Reason.INSUFFICIENT_BALANCE, field=_named(command))

    # Nothing can refuse it from here on.
    holder.release(-hold_delta)
    holder.hold_per_lot = hold_per_lot
    condition.own_hold = hold
    condition.trigger_ticks = trigger_ticks
    order.price_ticks = price_ticks
    order.remaining = lots
    if request.reduce_only:
        order.uncovered = lots
    order.updated_ns = now_ns
    watch_price(order)
    if holder is order:
        return [amended_event(order, old_price, hold_delta)]
    events: list[Event] = [amended_event(order, old_price, 0)]
    if hold_delta:
        events.append(amended_event(holder, holder.price_ticks, hold_delta))
    return events


def check_pair_keeps(order: Order, lots: int) -> None:
    """The two orders of a pair have one quantity, and keep it."""
    if lots != order.filled + order.remaining:
        raise Refused(Reason.UNSUPPORTED, "of a pair cannot change", field="quantity_lots")


def pair_hold(order: Order, hold: int) -> int:
    """Hold per lot for the dearer of a pair, when `order` alone would hold `hold`."""
    condition = order.condition
    if condition is None or condition.partner is None:
        return hold
    other = condition.partner.condition
    assert other is not None
    return max(hold, other.own_hold)


def amended_event(order: Order, old_price_ticks: int, hold_delta: int) -> OrderAmended:
    """What the log says of an order that changed where it stands or waits."""
    return OrderAmended(
        order.order_id,
        order.account.account_id,
        order.book.market_id,
        order.side,
        old_price_ticks,
        order.shown(),
        order.price_ticks,
        order.filled + order.remaining,
        order.shown(),
        hold_delta,
        order.hold_asset_id(),
        False,
        order.trigger_ticks(),
    )


def _named(command: AmendOrder) -> str:
    """Which of an amendment's fields asks for more money."""
    if command.price_ticks:
        return "price_ticks"
    return "trigger_price_ticks" if command.trigger_price_ticks else "quantity_lots"
