"""Placing an order: every check first, then the hold, then matching, then rest or close."""

from __future__ import annotations

from typing import Final

from kernel.reasons import Reason, Refused
from services.engine.domain.accounts import Account
from services.engine.domain.bands import check_band, drawn_in
from services.engine.domain.book import Book, Order
from services.engine.domain.commands import PlaceOrder
from services.engine.domain.constants import (
    MARKET_KIND_CFD,
    MARKET_STATUS_CANCEL_ONLY,
    MARKET_STATUS_HALTED,
    MARKET_STATUS_POST_ONLY,
    MARKET_STATUS_TRADING,
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_FILLED,
    ORDER_TYPE_LIMIT,
    ORDER_TYPE_MARKET,
    ORDER_TYPE_STOP_LIMIT,
    ORDER_TYPE_TAKE_PROFIT_LIMIT,
    ORDER_TYPE_TRAILING_STOP,
    SELF_TRADE_PREVENTION_DECREMENT_AND_CANCEL,
    SIDE_BUY,
    SIDE_SELL,
    TIME_IN_FORCE_FOK,
    TIME_IN_FORCE_GTD,
    TIME_IN_FORCE_IOC,
    TIME_IN_FORCE_UNSPECIFIED,
    TRIGGER_SOURCE_MARK,
)
from services.engine.domain.events import CommandRepeated, Event, OrderPlaced
from services.engine.domain.margin_matching import can_fill_margin
from services.engine.domain.matching import can_fill, match
from services.engine.domain.positions import margin_terms
from services.engine.domain.state import State
from services.engine.domain.trading import AMOUNT_USED, EXHAUSTED, NOT_PAYABLE, PREVENTED

DEFAULT_SLIPPAGE_BPS: Final = 500
MAX_CLIENT_ID_LENGTH: Final = 36
# Most slices of an iceberg, so that one order never means more fills than that.
MAX_SLICES: Final = 100

_SELF_TRADE: Final = int(Reason.SELF_TRADE_PREVENTED)
_SLIPPAGE: Final = int(Reason.SLIPPAGE_LIMIT_REACHED)
_NO_LIQUIDITY: Final = int(Reason.NO_LIQUIDITY)
_IOC_REMAINDER: Final = int(Reason.IOC_REMAINDER)
_INSUFFICIENT: Final = int(Reason.INSUFFICIENT_BALANCE)
_NOT_PAYABLE: Final = int(Reason.INSUFFICIENT_MARGIN)
_NONE: Final[dict[int, Order]] = {}


def place(state: State, command: PlaceOrder, now_ns: int) -> list[Event]:
    """Place an order. Raises `Refused`, and then nothing has changed."""
    client_order_id = command.client_order_id
    if client_order_id:
        known = repeated(state, command.account_id, command, now_ns)
        if known:
            return [CommandRepeated(known, 0)]
    book = admit(state, command, command.deadline_ns, now_ns)
    account = state.accounts.get(command.account_id)
    if account is None:
        # Never credited: it cannot hold anything.
        raise Refused(Reason.INSUFFICIENT_BALANCE, field="account_id")
    side = command.side
    opposite = book.asks if side == SIDE_BUY else book.bids
    lots = command.quantity_lots
    amount = command.quote_amount_units
    if command.type == ORDER_TYPE_LIMIT:
        price_ticks = command.price_ticks
        check_limits(book, price_ticks, lots, command.reduce_only)
        if book.config.price_band_bps:
            check_band(book, price_ticks, now_ns)
        if (
            command.time_in_force != TIME_IN_FORCE_IOC
            and command.time_in_force != TIME_IN_FORCE_FOK
        ):
            check_open_orders(book, account, 1)
        if command.post_only and opposite.reaches(price_ticks):
            raise Refused(Reason.POST_ONLY_WOULD_TRADE, field="price_ticks")
    else:
        best_ticks = opposite.best_price()
        if best_ticks == 0:
            raise Refused(Reason.NO_LIQUIDITY)
        price_ticks = protection_price(book, side, best_ticks, command.max_slippage_bps)
        if book.config.price_band_bps:
            price_ticks = drawn_in(book, side, price_ticks, now_ns)
            if not opposite.reaches(price_ticks):
                raise Refused(Reason.PRICE_OUTSIDE_BAND)
        if amount:
            base = account.balances.get(book.base_asset_id)
            free_base = base.free if base is not None else 0
            lots = _lots_of_amount(book, side, amount, best_ticks, price_ticks, free_base)
        else:
            check_market_limits(book, lots, best_ticks, price_ticks, command.reduce_only)
    uncovered = 0
    if book.is_margin:
        lots, hold_per_lot, uncovered = margin_terms(
            account, book, side, price_ticks, lots, command.reduce_only, now_ns
        )
        hold_units = (lots - uncovered) * hold_per_lot
    elif command.time_in_force == TIME_IN_FORCE_FOK and not can_fill(
        book, side, price_ticks, lots, command.account_id, command.self_trade_prevention
    ):
        raise Refused(Reason.FOK_NOT_FILLABLE, field="quantity_lots")
    elif amount and side == SIDE_BUY:
        hold_per_lot = 0
        hold_units = amount
    else:
        hold_per_lot = book.hold_per_lot(side, price_ticks)
        hold_units = lots * hold_per_lot
    hold_asset_id = book.hold_asset_id(side)
    balance = account.balances.get(hold_asset_id)
    if balance is None or balance.free < hold_units:
        raise Refused(
            Reason.INSUFFICIENT_BALANCE,
            field="quote_amount_units" if amount else "quantity_lots",
        )

    order_id = state.last_order_id + 1
    order = Order(
        order_id, account, book, command, balance, price_ticks, lots, hold_per_lot, now_ns
    )
    order.amount_left = amount
    order.uncovered = uncovered
    if (
        book.is_margin
        and command.time_in_force == TIME_IN_FORCE_FOK
        and not can_fill_margin(order, hold_units, now_ns)
    ):
        raise Refused(Reason.FOK_NOT_FILLABLE, field="quantity_lots")

    # Nothing can refuse it from here on.
    balance.free -= hold_units
    balance.held += hold_units
    state.last_order_id = order_id
    if client_order_id:
        state.remember(order, now_ns)
    placed = OrderPlaced(
        order_id,
        account.account_id,
        book.market_id,
        hold_asset_id,
        hold_units,
        0,
        price_ticks,
        side,
        # Less than asked for when it only reduces; 0 when it is by quote amount.
        0 if amount else lots,
    )
    events: list[Event] = [placed]
    stopped = EXHAUSTED
    if opposite.reaches(price_ticks):
        stopped = match(state, order, now_ns, events)
    placed.rested_lots = settle_rest(state, order, stopped, now_ns, events)
    return events


def settle_rest(state: State, order: Order, stopped: int, now_ns: int, events: list[Event]) -> int:
    """After matching: close what is done or may not rest, put the rest into the book.

    Returns the lots that the book shows of it then.
    """
    request = order.request
    if stopped == PREVENTED:
        reason = _SELF_TRADE
    elif stopped == AMOUNT_USED:
        reason = _amount_shortfall(order)
    elif stopped == NOT_PAYABLE:
        reason = _NOT_PAYABLE
    elif order.remaining == 0:
        reason = 0
    elif request.price_ticks == 0:
        reason = _SLIPPAGE if order.book.opposite(order.side).keys else _NO_LIQUIDITY
    elif request.time_in_force == TIME_IN_FORCE_IOC:
        reason = _IOC_REMAINDER
    else:
        if order.order_id not in state.orders:
            state.register(order)
        if request.display_quantity_lots:
            order.show_slice()
        if order.side == SIDE_BUY:
            order.book.bids.add(order)
        else:
            order.book.asks.add(order)
        return order.remaining - order.hidden
    status = ORDER_STATUS_CANCELLED if reason else ORDER_STATUS_FILLED
    state.close(order, status, reason, now_ns, events)
    return 0


def _amount_shortfall(order: Order) -> int:
    """Why an order by quote amount ended early, if it did.

    Only a sell can: its lots are bounded by the base that was free, and at falling prices those
    may earn less than was asked.
    """
    last_lot = order.price_ticks * order.book.units_per_tick_lot
    if order.side == SIDE_SELL and order.remaining == 0 and order.amount_left >= last_lot:
        return _INSUFFICIENT
    return 0


# ---------------------------------------------------------------- checks


def repeated(state: State, account_id: int, command: PlaceOrder, now_ns: int) -> int:
    """The order that this client id was given before, with the same payload; 0 for a new one.

    Raises `Refused`: DUPLICATE_CLIENT_ORDER_ID, INVALID_ARGUMENT.
    """
    known = state.remembered(account_id, command.client_order_id, now_ns)
    if known is not None:
        # Before any other check: the first answer stands, whatever has happened since.
        if same_payload(known.request, command):
            return known.order_id
        raise Refused(Reason.DUPLICATE_CLIENT_ORDER_ID, field="client_order_id")
    if len(command.client_order_id) > MAX_CLIENT_ID_LENGTH:
        raise Refused(Reason.INVALID_ARGUMENT, "is too long", field="client_order_id")
    return 0


def admit(state: State, command: PlaceOrder, deadline_ns: int, now_ns: int) -> Book:
    """The book of an order that is in time and valid in itself, where orders are taken now."""
    if 0 < deadline_ns < now_ns:
        raise Refused(Reason.DEADLINE_PASSED, field="deadline_ns")
    book = state.books.get(command.market_id)
    if book is None:
        raise Refused(Reason.MARKET_NOT_FOUND, field="market_id")
    if book.status != MARKET_STATUS_TRADING:
        check_open_for_orders(book, command.post_only)
    _check_shape(command, book, now_ns)
    return book


def check_open_orders(book: Book, account: Account, more: int) -> None:
    """Refuse orders beyond those that an account may have open in a market."""
    if len(account.orders.get(book.market_id, _NONE)) + more > book.config.max_open_orders:
        raise Refused(Reason.TOO_MANY_OPEN_ORDERS)


def same_payload(first: PlaceOrder, second: PlaceOrder) -> bool:
    """Whether two commands ask for the same order. Deadline and stream are not part of the order:
    a retry has a later deadline and may come on another stream.
    """
    return (
        first.market_id == second.market_id
        and first.side == second.side
        and first.type == second.type
        and first.time_in_force == second.time_in_force
        and first.price_ticks == second.price_ticks
        and first.quantity_lots == second.quantity_lots
        and first.quote_amount_units == second.quote_amount_units
        and first.post_only == second.post_only
        and first.reduce_only == second.reduce_only
        and first.display_quantity_lots == second.display_quantity_lots
        and first.self_trade_prevention == second.self_trade_prevention
        and first.max_slippage_bps == second.max_slippage_bps
        and first.expire_ns == second.expire_ns
        and first.trigger_price_ticks == second.trigger_price_ticks
        and first.trigger_source == second.trigger_source
        and first.trailing_bps == second.trailing_bps
    )


def check_open_for_orders(book: Book, post_only: bool) -> None:
    """Refuse a new or changed order that the market's status does not allow."""
    status = book.status
    if status == MARKET_STATUS_TRADING:
        return
    if status == MARKET_STATUS_HALTED:
        raise Refused(Reason.MARKET_HALTED, field="market_id")
    if status == MARKET_STATUS_CANCEL_ONLY:
        raise Refused(Reason.MARKET_CANCEL_ONLY, field="market_id")
    if status == MARKET_STATUS_POST_ONLY and not post_only:
        raise Refused(Reason.MARKET_POST_ONLY, field="post_only")


def check_limits(book: Book, price_ticks: int, lots: int, reduces: bool) -> None:
    """Refuse a limit price, quantity or notional outside the market's limits.

    What only reduces a position may be as small as the position.
    """
    config = book.config
    if price_ticks <= 0 or price_ticks > config.max_price_ticks:
        raise Refused(Reason.PRICE_OUT_OF_RANGE, field="price_ticks")
    _check_quantity(book, lots, reduces)
    notional = price_ticks * lots * book.units_per_tick_lot
    if notional < config.min_notional_units and not reduces:
        raise Refused(Reason.NOTIONAL_TOO_SMALL, field="quantity_lots")
    if notional > config.max_notional_units:
        raise Refused(Reason.NOTIONAL_TOO_LARGE, field="quantity_lots")


def protection_price(book: Book, side: int, best_ticks: int, max_slippage_bps: int) -> int:
    """The worst price a market order may trade at, rounded towards the best opposite price."""
    bps = max_slippage_bps or DEFAULT_SLIPPAGE_BPS
    if side == SIDE_BUY:
        return min(best_ticks * (10_000 + bps) // 10_000, book.config.max_price_ticks)
    return max(-(-best_ticks * (10_000 - bps) // 10_000), 1)


def _check_shape(command: PlaceOrder, book: Book, now_ns: int) -> None:
    """Refuse what no state of the book would make a valid order."""
    if book.config.kind == MARKET_KIND_CFD:
        raise Refused(Reason.UNSUPPORTED, "has no order book", field="market_id")
    side = command.side
    if side != SIDE_BUY and side != SIDE_SELL:
        raise Refused(Reason.INVALID_ARGUMENT, field="side")
    if not 0 <= command.self_trade_prevention <= SELF_TRADE_PREVENTION_DECREMENT_AND_CANCEL:
        raise Refused(Reason.INVALID_ARGUMENT, field="self_trade_prevention")
    if command.reduce_only and not book.is_margin:
        raise Refused(Reason.UNSUPPORTED, "is for MARGIN markets", field="reduce_only")
    if command.quote_amount_units and book.is_margin:
        raise Refused(Reason.UNSUPPORTED, "is for SPOT markets", field="quote_amount_units")
    if command.display_quantity_lots:
        _check_iceberg(command, book)
    kind = command.type
    time_in_force = command.time_in_force
    if kind == ORDER_TYPE_LIMIT:
        if not 0 <= time_in_force <= TIME_IN_FORCE_GTD:
            raise Refused(Reason.TIME_IN_FORCE_NOT_SUPPORTED, field="time_in_force")
        if command.price_ticks == 0:
            raise Refused(Reason.PRICE_REQUIRED, field="price_ticks")
        if command.quantity_lots == 0:
            raise Refused(Reason.QUANTITY_REQUIRED, field="quantity_lots")
        _check_limit_only(command)
        _check_no_trigger(command)
    elif kind == ORDER_TYPE_MARKET:
        _check_market_shape(command)
        _check_no_trigger(command)
    elif ORDER_TYPE_MARKET < kind <= ORDER_TYPE_TRAILING_STOP:
        _check_stop_shape(command)
    else:
        raise Refused(Reason.INVALID_ARGUMENT, field="type")
    if time_in_force == TIME_IN_FORCE_GTD:
        if command.expire_ns <= 0:
            raise Refused(Reason.INVALID_ARGUMENT, "is required for GTD", field="expire_ns")
        if command.expire_ns <= now_ns:
            raise Refused(Reason.EXPIRED, field="expire_ns")
    elif command.expire_ns:
        raise Refused(Reason.INVALID_ARGUMENT, "is for GTD", field="expire_ns")


def _check_limit_only(command: PlaceOrder) -> None:
    """Refuse what only orders without a limit price have, and post-only where nothing rests."""
    if command.quote_amount_units:
        raise Refused(Reason.INVALID_ARGUMENT, "is for MARKET", field="quote_amount_units")
    if command.max_slippage_bps:
        raise Refused(Reason.INVALID_ARGUMENT, "is for MARKET", field="max_slippage_bps")
    if command.post_only and command.time_in_force in (TIME_IN_FORCE_IOC, TIME_IN_FORCE_FOK):
        raise Refused(Reason.INVALID_ARGUMENT, "cannot rest", field="post_only")


def _check_no_trigger(command: PlaceOrder) -> None:
    if command.trigger_price_ticks:
        raise Refused(Reason.INVALID_ARGUMENT, "is for stops", field="trigger_price_ticks")
    if command.trigger_source:
        raise Refused(Reason.INVALID_ARGUMENT, "is for stops", field="trigger_source")
    if command.trailing_bps:
        raise Refused(Reason.INVALID_ARGUMENT, "is for TRAILING_STOP", field="trailing_bps")


def _check_stop_shape(command: PlaceOrder) -> None:
    """A stop is what it will be once it fires, and a trigger."""
    kind = command.type
    if not 0 <= command.time_in_force <= TIME_IN_FORCE_GTD:
        raise Refused(Reason.TIME_IN_FORCE_NOT_SUPPORTED, field="time_in_force")
    if not 0 <= command.trigger_source <= TRIGGER_SOURCE_MARK:
        raise Refused(Reason.INVALID_ARGUMENT, field="trigger_source")
    if kind in (ORDER_TYPE_STOP_LIMIT, ORDER_TYPE_TAKE_PROFIT_LIMIT):
        if command.price_ticks == 0:
            raise Refused(Reason.PRICE_REQUIRED, field="price_ticks")
        _check_limit_only(command)
    else:
        if command.price_ticks:
            raise Refused(Reason.PRICE_NOT_ALLOWED, field="price_ticks")
        if command.quote_amount_units:
            raise Refused(Reason.INVALID_ARGUMENT, "is for MARKET", field="quote_amount_units")
        if command.post_only:
            raise Refused(Reason.INVALID_ARGUMENT, "cannot rest", field="post_only")
        if not 0 <= command.max_slippage_bps <= 10_000:
            raise Refused(Reason.INVALID_ARGUMENT, field="max_slippage_bps")
    if command.quantity_lots == 0:
        raise Refused(Reason.QUANTITY_REQUIRED, field="quantity_lots")
    if kind == ORDER_TYPE_TRAILING_STOP:
        if command.trigger_price_ticks:
            raise Refused(Reason.INVALID_ARGUMENT, "follows the price", field="trigger_price_ticks")
        if not 0 < command.trailing_bps <= 10_000:
            raise Refused(Reason.INVALID_ARGUMENT, field="trailing_bps")
    else:
        if command.trailing_bps:
            raise Refused(Reason.INVALID_ARGUMENT, "is for TRAILING_STOP", field="trailing_bps")
        if command.trigger_price_ticks == 0:
            raise Refused(Reason.TRIGGER_PRICE_REQUIRED, field="trigger_price_ticks")


def _check_iceberg(command: PlaceOrder, book: Book) -> None:
    field = "display_quantity_lots"
    if command.price_ticks == 0 or command.time_in_force in (
        TIME_IN_FORCE_IOC,
        TIME_IN_FORCE_FOK,
    ):
        raise Refused(Reason.INVALID_ARGUMENT, "is for orders that rest", field=field)
    if command.display_quantity_lots < book.config.min_quantity_lots:
        raise Refused(Reason.QUANTITY_TOO_SMALL, field=field)
    check_slices(command.display_quantity_lots, command.quantity_lots)


def check_slices(display_lots: int, lots: int) -> None:
    """Refuse an iceberg (`display_lots` above 0) that shows too small a part of itself."""
    if 0 < display_lots * MAX_SLICES < lots:
        raise Refused(
            Reason.QUANTITY_TOO_SMALL,
            f"must be at least 1/{MAX_SLICES} of the quantity",
            field="display_quantity_lots",
        )


def _check_market_shape(command: PlaceOrder) -> None:
    time_in_force = command.time_in_force
    amount = command.quote_amount_units
    # A quote amount is spent as far as whole lots go, so it is never filled "whole".
    if time_in_force not in (TIME_IN_FORCE_UNSPECIFIED, TIME_IN_FORCE_IOC) and (
        time_in_force != TIME_IN_FORCE_FOK or amount
    ):
        raise Refused(Reason.TIME_IN_FORCE_NOT_SUPPORTED, field="time_in_force")
    if command.post_only:
        raise Refused(Reason.INVALID_ARGUMENT, "cannot rest", field="post_only")
    if command.price_ticks:
        raise Refused(Reason.PRICE_NOT_ALLOWED, field="price_ticks")
    if not 0 <= command.max_slippage_bps <= 10_000:
        raise Refused(Reason.INVALID_ARGUMENT, field="max_slippage_bps")
    if amount and command.quantity_lots:
        raise Refused(
            Reason.INVALID_ARGUMENT, "is either this or a quantity", field="quote_amount_units"
        )
    if not amount and not command.quantity_lots:
        raise Refused(Reason.QUANTITY_REQUIRED, field="quantity_lots")


def _check_quantity(book: Book, lots: int, reduces: bool) -> None:
    if lots < book.config.min_quantity_lots and not reduces:
        raise Refused(Reason.QUANTITY_TOO_SMALL, field="quantity_lots")
    if lots > book.config.max_quantity_lots:
        raise Refused(Reason.QUANTITY_TOO_LARGE, field="quantity_lots")


def check_market_limits(
    book: Book, lots: int, best_ticks: int, worst_ticks: int, reduces: bool
) -> None:
    """Limits of a market order: the least it can be worth is at the lower price, the most at the
    higher."""
    _check_quantity(book, lots, reduces)
    lots_units = lots * book.units_per_tick_lot
    if best_ticks * lots_units < book.config.min_notional_units and not reduces:
        raise Refused(Reason.NOTIONAL_TOO_SMALL, field="quantity_lots")
    if max(best_ticks, worst_ticks) * lots_units > book.config.max_notional_units:
        raise Refused(Reason.NOTIONAL_TOO_LARGE, field="quantity_lots")


def _lots_of_amount(
    book: Book, side: int, amount: int, best_ticks: int, worst_ticks: int, free_base: int
) -> int:
    """The most lots an order by quote amount can trade.

    A buy can never get more than at the best price. A sell may need as many as at the protection
    price, but holds no more than are free; if those cannot earn the amount even at the best price,
    it is refused.
    """
    config = book.config
    if amount < max(config.min_notional_units, 1):
        raise Refused(Reason.NOTIONAL_TOO_SMALL, field="quote_amount_units")
    if amount > config.max_notional_units:
        raise Refused(Reason.NOTIONAL_TOO_LARGE, field="quote_amount_units")
    best_lot = best_ticks * book.units_per_tick_lot
    if side == SIDE_BUY:
        lots = at_best = amount * 10_000 // (best_lot * (10_000 + book.taker_fee_bps))
    else:
        at_best = amount // best_lot
        free_lots = free_base // book.lot_size_units
        if free_lots < at_best:
            raise Refused(Reason.INSUFFICIENT_BALANCE, field="quote_amount_units")
        lots = min(amount // (worst_ticks * book.units_per_tick_lot), free_lots)
    if at_best < config.min_quantity_lots or at_best == 0:
        raise Refused(Reason.QUANTITY_TOO_SMALL, field="quote_amount_units")
    if lots > config.max_quantity_lots:
        raise Refused(Reason.QUANTITY_TOO_LARGE, field="quote_amount_units")
    return lots
