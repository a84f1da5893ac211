"""Margin positions: what a fill does to one, what an order must hold, where it is liquidated.

A position is netted per account and market. It keeps the sum that was paid for it, so no average
price is ever rounded; closing a part takes its share of that sum and of the margin, rounded down,
and the last part takes what is left.
"""

from __future__ import annotations

from typing import Final

from kernel.reasons import Reason, Refused
from services.engine.domain.accounts import Account
from services.engine.domain.book import Book, Order
from services.engine.domain.commands import MarginTierConfig, PlaceOrder
from services.engine.domain.constants import SIDE_BUY, SIDE_SELL
from services.engine.domain.events import Event
from services.engine.domain.position_events import PositionChanged
from services.engine.domain.state import State

# The insurance fund is an account of its own: it carries positions without margin or fees.
FUND_ACCOUNT_ID: Final = 1

CAUSE_TRADE: Final = 1
CAUSE_MARGIN_ADDED: Final = 2
CAUSE_FUND_TAKEOVER: Final = 3
CAUSE_AUTO_DELEVERAGE: Final = 4

_BPS: Final = 10_000


class Position:
    """An open position. `quantity` is in lots, negative for short; the rest in quote units."""

    __slots__ = (
        "account",
        "book",
        "entry_notional",
        "fees",
        "liquidating",
        "liquidation_ticks",
        "margin",
        "opened_ns",
        "quantity",
        "realised_pnl",
    )

    def __init__(self, account: Account, book: Book, now_ns: int) -> None:
        self.account = account
        self.book = book
        self.quantity = 0
        self.entry_notional = 0
        self.margin = 0
        self.realised_pnl = 0
        self.fees = 0
        self.opened_ns = now_ns
        # Mark price at or beyond which it is liquidated; 0 for never.
        self.liquidation_ticks = 0
        # Only while its liquidation is under way, within one command.
        self.liquidating = False

    def copy(self) -> Position:
        """The same, to try something on."""
        other = Position(self.account, self.book, self.opened_ns)
        other.quantity = self.quantity
        other.entry_notional = self.entry_notional
        other.margin = self.margin
        other.liquidating = self.liquidating
        return other

    def closable(self, side: int) -> int:
        """Lots of it that an order of this side closes."""
        if side == SIDE_BUY:
            return -self.quantity if self.quantity < 0 else 0
        return self.quantity if self.quantity > 0 else 0

    def unrealised_pnl(self, mark_ticks: int) -> int:
        """Profit at a price, in quote units."""
        value = mark_ticks * abs(self.quantity) * self.book.units_per_tick_lot
        return value - self.entry_notional if self.quantity > 0 else self.entry_notional - value


class Change:
    """What closing and opening lots of a position does; all in quote units but the lots.

    free += hold_released + pnl - margin_delta - fee.
    """

    __slots__ = (
        "entry_notional",
        "fee",
        "hold_released",
        "margin",
        "margin_delta",
        "pnl",
        "quantity",
        "uncovered",
    )

    def __init__(
        self,
        quantity: int,
        entry_notional: int,
        margin: int,
        margin_delta: int,
        pnl: int,
        fee: int,
        hold_released: int = 0,
        uncovered: int = 0,
    ) -> None:
        self.quantity = quantity
        self.entry_notional = entry_notional
        self.margin = margin
        self.margin_delta = margin_delta
        self.pnl = pnl
        self.fee = fee
        self.hold_released = hold_released
        self.uncovered = uncovered

    def free_delta(self) -> int:
        """Change of the free balance."""
        return self.hold_released + self.pnl - self.margin_delta - self.fee


def leverage_of(account: Account, market_id: int) -> int:
    """Leverage that the account has chosen on a market; 1 if it has not."""
    return account.leverages.get(market_id, 1)


def position_of(account: Account, book: Book, now_ns: int) -> Position:
    """The account's position, or a new one, which nobody knows of before it has changed."""
    return account.positions.get(book.market_id) or Position(account, book, now_ns)


# ---------------------------------------------------------------- what an order needs


def hold_price(book: Book, side: int, price_ticks: int) -> int:
    """Price that the hold of an order is worked out at: the dearest it can trade at.

    A sell above its limit opens a larger notional, and the best bid is the most it can get.
    """
    if side == SIDE_BUY:
        return price_ticks
    return max(price_ticks, book.bids.best_price())


def margin_hold_per_lot(account: Account, book: Book, price_ticks: int) -> int:
    """Margin and worst fee of one lot, each rounded up."""
    notional = price_ticks * book.units_per_tick_lot
    leverage = leverage_of(account, book.market_id)
    return -(-notional // leverage) - (-notional * book.worst_fee_bps // _BPS)


def own_hold(account: Account, book: Book, request: PlaceOrder, price_ticks: int) -> int:
    """What a lot of an order holds that waits for a price, in any market.

    One that only reduces holds nothing; any other is held whole, whether it closes or opens.
    """
    if not book.is_margin:
        return book.hold_per_lot(request.side, price_ticks)
    if request.reduce_only:
        return 0
    return margin_hold_per_lot(account, book, hold_price(book, request.side, price_ticks))


def check_reduces(account: Account, book: Book, request: PlaceOrder) -> None:
    """Refuse a reduce-only order that has no position to reduce."""
    if request.reduce_only:
        position = account.positions.get(book.market_id)
        if position is None or position.closable(request.side) == 0:
            raise Refused(Reason.REDUCE_ONLY_WOULD_INCREASE, field="reduce_only")


def uncovered_lots(account: Account, book: Book, side: int, lots: int, but: Order | None) -> int:
    """How many of an order's lots close the position and so hold nothing.

    Lots that other live orders (all `but` one) claim already are not claimed twice.
    """
    position = account.positions.get(book.market_id)
    if position is None:
        return 0
    closable = position.closable(side)
    if closable == 0:
        return 0
    orders = account.orders.get(book.market_id)
    if orders is not None:
        for order in orders.values():
            if order.side == side and order is not but:
                closable -= order.uncovered
    return max(0, min(lots, closable))


def margin_terms(
    account: Account,
    book: Book,
    side: int,
    price_ticks: int,
    lots: int,
    reduce_only: bool,
    now_ns: int,
    but: Order | None = None,
) -> tuple[int, int, int]:
    """What an order in a MARGIN market comes to: (lots, hold per lot, lots that hold nothing).

    Raises `Refused`: REDUCE_ONLY_WOULD_INCREASE with nothing to reduce, LEVERAGE_OUT_OF_RANGE,
    WOULD_BE_LIQUIDATED.
    """
    if reduce_only:
        position = account.positions.get(book.market_id)
        lots = min(lots, position.closable(side)) if position is not None else 0
        if lots == 0:
            raise Refused(Reason.REDUCE_ONLY_WOULD_INCREASE, field="reduce_only")
        return lots, 0, lots
    dearest = hold_price(book, side, price_ticks)
    check_risk(account, book, side, price_ticks, lots, now_ns)
    uncovered = uncovered_lots(account, book, side, lots, but)
    return lots, margin_hold_per_lot(account, book, dearest), uncovered


def check_risk(
    account: Account, book: Book, side: int, price_ticks: int, lots: int, now_ns: int
) -> None:
    """Refuse an order whose position would be liquidatable the moment it opens.

    Raises `Refused`: LEVERAGE_OUT_OF_RANGE for the size it would have, WOULD_BE_LIQUIDATED.
    """
    position = position_of(account, book, now_ns).copy()
    opening = lots - position.closable(side)
    if opening <= 0:
        return
    leverage = leverage_of(account, book.market_id)
    notional = expected_notional(book, side, price_ticks, lots)
    change = close_and_open(position, side, notional, lots, leverage, 0)
    tier = tier_of(book, change.entry_notional)
    if leverage > tier.max_leverage:
        raise Refused(Reason.LEVERAGE_OUT_OF_RANGE, field="quantity_lots")
    position.quantity = change.quantity
    position.entry_notional = change.entry_notional
    position.margin = change.margin
    if is_liquidatable(position, book.mark_price(now_ns) or price_ticks):
        raise Refused(Reason.WOULD_BE_LIQUIDATED, field="quantity_lots")


def expected_notional(book: Book, side: int, price_ticks: int, lots: int) -> int:
    """Quote units of an order that takes what the book shows up to its limit, and rests there."""
    makers = book.opposite(side)
    limit_key = price_ticks * makers.sign
    value = 0
    for key in reversed(makers.keys):
        if lots == 0 or key < limit_key:
            break
        taken = min(lots, makers.levels[key].quantity)
        value += taken * key * makers.sign
        lots -= taken
    return (value + lots * price_ticks) * book.units_per_tick_lot


# ---------------------------------------------------------------- what a fill does


def work_out(
    position: Position, side: int, price_ticks: int, lots: int, leverage: int, fee_bps: int
) -> Change:
    """The change that a fill makes, but for the hold of its order."""
    notional = price_ticks * lots * position.book.units_per_tick_lot
    fee = -(-notional * fee_bps // _BPS)
    return close_and_open(position, side, notional, lots, leverage, fee)


def close_and_open(
    position: Position, side: int, notional: int, lots: int, leverage: int, fee: int
) -> Change:
    """Close what the lots close, open the rest the other way. `leverage` 0 opens without margin."""
    held = abs(position.quantity)
    closing = min(lots, position.closable(side))
    sign = 1 if side == SIDE_BUY else -1
    pnl = freed = basis = closing_notional = 0
    if closing:
        closing_notional = notional * closing // lots
        basis = position.entry_notional * closing // held
        freed = position.margin * closing // held
        pnl = (basis - closing_notional) * sign
        if position.liquidating:
            # The whole margin stands for every part of the loss, and the fee comes last.
            freed = min(position.margin, max(freed, fee - pnl))
            fee = max(0, min(fee, freed + pnl))
    opened = notional - closing_notional
    margin = -(-opened // leverage) if leverage else 0
    return Change(
        position.quantity + lots * sign,
        position.entry_notional - basis + opened,
        position.margin - freed + margin,
        margin - freed,
        pnl,
        fee,
    )


def fill_change(
    order: Order,
    position: Position,
    price_ticks: int,
    lots: int,
    fee_bps: int,
    remaining: int,
    uncovered: int,
) -> Change:
    """What a fill of an order does that has `remaining` lots, `uncovered` of them without a hold.

    `uncovered` of the change is how many of those it has left then.
    """
    account = order.account
    if account.account_id == FUND_ACCOUNT_ID:
        leverage = fee_bps = 0
    else:
        leverage = leverage_of(account, order.book.market_id)
    change = work_out(position, order.side, price_ticks, lots, leverage, fee_bps)
    # Lots that hold nothing are for closing; others are taken first for what opens.
    bare = min(uncovered, min(lots, position.closable(order.side)))
    covered = min(lots - bare, remaining - uncovered)
    change.hold_released = covered * order.hold_per_lot
    change.uncovered = uncovered - (lots - covered)
    return change


def fillable(order: Order, position: Position, price_ticks: int, lots: int, fee_bps: int) -> int:
    """How many of these lots an order may trade: no more than it may close if it only reduces, and
    none if its account could not pay for them."""
    if order.request.reduce_only:
        lots = min(lots, position.closable(order.side))
        if lots == 0:
            return 0
    change = fill_change(
        order, position, price_ticks, lots, fee_bps, order.remaining, order.uncovered
    )
    return lots if order.hold_balance.free + change.free_delta() >= 0 else 0


def apply_change(
    state: State,
    position: Position,
    change: Change,
    price_ticks: int,
    cause: int,
    events: list[Event],
    *,
    order: Order | None = None,
    trade_id: int = 0,
) -> None:
    """Move the money of a change and say so."""
    account, book = position.account, position.book
    account.positions[book.market_id] = position
    book.positions[account.account_id] = position
    quote = book.quote_asset_id
    balance = account.balance(quote)
    balance.free += change.free_delta()
    balance.held += change.margin_delta - change.hold_released
    state.fees[quote] += change.fee
    state.clearing[quote] -= change.pnl
    delta = change.quantity - position.quantity
    position.quantity = change.quantity
    position.entry_notional = change.entry_notional
    position.margin = change.margin
    position.realised_pnl += change.pnl
    position.fees += change.fee
    watch(position)
    events.append(
        PositionChanged(
            account.account_id,
            book.market_id,
            change.quantity,
            change.entry_notional,
            change.margin,
            change.pnl,
            change.margin_delta,
            trade_id,
            0 if order is None else order.order_id,
            change.fee,
            change.hold_released,
            delta,
            price_ticks,
            position.liquidation_ticks,
            cause,
        )
    )
    if change.quantity == 0:
        del account.positions[book.market_id]
        del book.positions[account.account_id]


# ---------------------------------------------------------------- liquidation


def tier_of(book: Book, entry_notional: int) -> MarginTierConfig:
    """The maintenance tier of an entry notional."""
    tiers = book.config.margin_tiers
    found = tiers[0]
    for tier in tiers:
        if tier.from_notional_units > entry_notional:
            break
        found = tier
    return found


def maintenance_bps(book: Book, entry_notional: int) -> int:
    """Maintenance rate and taker fee together, in basis points."""
    return tier_of(book, entry_notional).maintenance_bps + book.taker_fee_bps


def maintenance_units(position: Position, mark_ticks: int) -> int:
    """Maintenance margin at a price, in quote units, rounded up."""
    value = mark_ticks * abs(position.quantity) * position.book.units_per_tick_lot
    return -(-value * maintenance_bps(position.book, position.entry_notional) // _BPS)


def is_liquidatable(position: Position, mark_ticks: int) -> bool:
    """Whether equity at this price is below maintenance."""
    ticks = liquidation_ticks(position)
    if ticks == 0:
        return False
    return mark_ticks <= ticks if position.quantity > 0 else mark_ticks >= ticks


def liquidation_ticks(position: Position) -> int:
    """The first mark price at which equity is below maintenance; 0 when there is none.

    Long: margin + value - entry < value * rate; short: margin + entry - value < value * rate.
    """
    size = abs(position.quantity) * position.book.units_per_tick_lot
    if size == 0:
        return 0
    rate = maintenance_bps(position.book, position.entry_notional)
    if position.quantity > 0:
        owed = (position.entry_notional - position.margin) * _BPS
        return max(0, (owed - 1) // (size * (_BPS - rate)))
    return (position.entry_notional + position.margin) * _BPS // (size * (_BPS + rate)) + 1


def bankruptcy_ticks(position: Position) -> int:
    """The worst price at which closing all of it still pays the loss and the fee.

    Long: the lowest tick with margin + value - entry >= fee; short: the highest with margin + entry
    - value >= fee. At least 1.
    """
    size = abs(position.quantity) * position.book.units_per_tick_lot
    fee = position.book.taker_fee_bps
    if position.quantity > 0:
        owed = (position.entry_notional - position.margin) * _BPS
        return max(1, -(-owed // (size * (_BPS - fee))))
    return max(1, (position.entry_notional + position.margin) * _BPS // (size * (_BPS + fee)))


def watch(position: Position) -> None:
    """Put the position's liquidation price into the market's index, or take it out."""
    book, account_id = position.book, position.account.account_id
    ticks = 0
    if account_id != FUND_ACCOUNT_ID:
        ticks = liquidation_ticks(position)
    position.liquidation_ticks = ticks
    ignore(position)
    if ticks:
        index = book.long_liquidations if position.quantity > 0 else book.short_liquidations
        index.set(account_id, ticks)


def ignore(position: Position) -> None:
    """Take the position out of the market's index of liquidation prices."""
    account_id = position.account.account_id
    position.book.long_liquidations.drop(account_id)
    position.book.short_liquidations.drop(account_id)


def closing_side(position: Position) -> int:
    """The side of an order that closes it."""
    return SIDE_SELL if position.quantity > 0 else SIDE_BUY
