"""Liquidation: what happens when a position's equity falls below its maintenance margin.

In one command: the account's orders in the market are cancelled; an IOC order offers the position
at the bankruptcy price; what nobody took goes to the insurance fund at exactly the sum at which the
position is worth nothing; if the fund cannot carry it, the most profitable opposite positions are
closed against it at that sum. What even then is left stays open with its part of the margin, and is
tried again at the next price. No step takes more than the position's own margin.
"""

from __future__ import annotations

from typing import Final

from kernel.reasons import Reason
from services.engine.domain.book import Book, Order
from services.engine.domain.commands import PlaceOrder
from services.engine.domain.constants import (
    MARKET_STATUS_HALTED,
    ORDER_STATUS_CANCELLED,
    ORDER_STATUS_FILLED,
    ORDER_TYPE_LIMIT,
    SIDE_BUY,
    SIDE_SELL,
    TIME_IN_FORCE_IOC,
)
from services.engine.domain.events import Event, OrderPlaced
from services.engine.domain.margin_matching import match_margin
from services.engine.domain.position_events import AutoDeleverage, Liquidated
from services.engine.domain.positions import (
    CAUSE_AUTO_DELEVERAGE,
    CAUSE_FUND_TAKEOVER,
    FUND_ACCOUNT_ID,
    Position,
    apply_change,
    bankruptcy_ticks,
    close_and_open,
    closing_side,
    ignore,
    leverage_of,
    position_of,
    tier_of,
    watch,
)
from services.engine.domain.state import State

FORMULA_VERSION: Final = 1

_LIQUIDATION: Final = int(Reason.LIQUIDATION)
_IOC_REMAINDER: Final = int(Reason.IOC_REMAINDER)


def sweep(state: State, book: Book, now_ns: int, events: list[Event]) -> None:
    """Liquidate every position of the market that its mark price reaches.

    Longs first, the first reached first, then the lowest account. Each liquidation may move the
    mark; each closes a position or leaves it for the next time, so this ends. A halted market, and
    one whose index has gone stale, liquidates nothing.
    """
    postponed: list[Position] = []
    ranking = Ranking(book)
    while True:
        mark = _mark(book, now_ns)
        account_id = 0
        if mark:
            account_id = book.long_liquidations.first_reached(
                mark
            ) or book.short_liquidations.first_reached(mark)
        if account_id == 0:
            break
        position = book.positions[account_id]
        _liquidate(state, position, mark, ranking, now_ns, events)
        if position.quantity:
            ignore(position)
            postponed.append(position)
    for position in postponed:
        if position.quantity:
            watch(position)


def unwind_fund(state: State, book: Book, now_ns: int, events: list[Event]) -> None:
    """After new prices: what the fund carries is offered at the mark, as IOC.

    What it can no longer carry is closed against the most profitable opposite positions, at the sum
    that leaves the fund with nothing.
    """
    fund = state.accounts.get(FUND_ACCOUNT_ID)
    position = fund.positions.get(book.market_id) if fund is not None else None
    mark = _mark(book, now_ns)
    if position is None or mark == 0:
        return
    _offer(state, position, mark, now_ns, events)
    if position.quantity == 0 or _fund_equity(state, book.quote_asset_id, now_ns) >= 0:
        return
    free = position.account.balance(book.quote_asset_id).free
    total = _worthless_at(position, free)
    lots = abs(position.quantity)
    _deleverage(state, position, lots, total, mark, Ranking(book), events)


def _mark(book: Book, now_ns: int) -> int:
    """The mark to liquidate by; 0 for not now."""
    if book.status == MARKET_STATUS_HALTED:
        return 0
    if book.index_ticks and not book.has_fresh_price(now_ns):
        return 0
    return book.mark_price(now_ns)


def _liquidate(
    state: State,
    position: Position,
    mark: int,
    ranking: Ranking,
    now_ns: int,
    events: list[Event],
) -> None:
    account, book = position.account, position.book
    balance = account.balance(book.quote_asset_id)
    orders = account.orders.get(book.market_id)
    for order in list(orders.values()) if orders else ():
        # The other order of a pair ends with the first.
        if order.order_id in state.orders:
            state.close(order, ORDER_STATUS_CANCELLED, _LIQUIDATION, now_ns, events)
    quantity, entry, margin = position.quantity, position.entry_notional, position.margin
    maintenance = tier_of(book, entry).maintenance_bps
    free_before = balance.free
    limit = bankruptcy_ticks(position)
    position.liquidating = True
    sold = _offer(state, position, limit, now_ns, events)
    left = abs(position.quantity)
    fund_lots = 0
    deleveraged: list[AutoDeleverage] = []
    if left:
        total = _worthless_at(position, position.margin)
        if _hand_over(state, position, total, limit, now_ns, events):
            fund_lots = left
        else:
            deleveraged = _deleverage(state, position, left, total, mark, ranking, events)
    position.liquidating = False
    if position.quantity == quantity:
        # Nobody to take it, not even a part.
        return
    surplus = balance.free - free_before
    fee_most = -(-sold.filled_notional * book.config.liquidation_fee_bps // 10_000)
    to_fund = max(0, min(surplus, fee_most))
    balance.free -= to_fund
    state.account(FUND_ACCOUNT_ID).balance(book.quote_asset_id).free += to_fund
    state.last_liquidation_id += 1
    events.append(
        Liquidated(
            state.last_liquidation_id,
            account.account_id,
            book.market_id,
            0,
            FORMULA_VERSION,
            quantity,
            entry,
            margin,
            mark,
            limit,
            sold.filled,
            fund_lots,
            to_fund,
            tuple(deleveraged),
            maintenance,
            book.taker_fee_bps,
            sold.order_id,
            sold.filled_notional,
            sold.fees,
            surplus - to_fund,
        )
    )


def _offer(
    state: State, position: Position, limit_ticks: int, now_ns: int, events: list[Event]
) -> Order:
    """An IOC order that closes the whole position, down or up to this price.

    With nobody there to meet it is not placed, and has no id.
    """
    account, book = position.account, position.book
    lots, side = abs(position.quantity), closing_side(position)
    request = PlaceOrder(
        account.account_id,
        book.market_id,
        side=side,
        type=ORDER_TYPE_LIMIT,
        time_in_force=TIME_IN_FORCE_IOC,
        price_ticks=limit_ticks,
        quantity_lots=lots,
        reduce_only=True,
    )
    balance = account.balance(book.quote_asset_id)
    order = Order(
        state.last_order_id + 1, account, book, request, balance, limit_ticks, lots, 0, now_ns
    )
    order.uncovered = lots
    if not book.opposite(side).reaches(limit_ticks):
        order.order_id = 0
        return order
    state.last_order_id += 1
    events.append(
        OrderPlaced(
            order.order_id,
            account.account_id,
            book.market_id,
            book.quote_asset_id,
            0,
            0,
            limit_ticks,
            side,
            lots,
        )
    )
    match_margin(state, order, now_ns, events)
    if order.remaining:
        state.close(order, ORDER_STATUS_CANCELLED, _IOC_REMAINDER, now_ns, events)
    else:
        state.close(order, ORDER_STATUS_FILLED, 0, now_ns, events)
    return order


def _worthless_at(position: Position, margin: int) -> int:
    """The sum for all of it at which this margin is just used up; never negative."""
    if position.quantity > 0:
        return max(0, position.entry_notional - margin)
    return position.entry_notional + margin


def _hand_over(
    state: State,
    position: Position,
    total: int,
    price_ticks: int,
    now_ns: int,
    events: list[Event],
) -> bool:
    """The fund takes what is left, at this sum; False when it cannot pay or carry that."""
    book = position.book
    lots, side = abs(position.quantity), closing_side(position)
    fund = state.account(FUND_ACCOUNT_ID)
    taken = position_of(fund, book, now_ns)
    change = close_and_open(taken, _other(side), total, lots, 0, 0)
    if fund.balance(book.quote_asset_id).free + change.free_delta() < 0:
        return False
    value = _mark(book, now_ns) * lots * book.units_per_tick_lot
    gain = value - total if position.quantity > 0 else total - value
    if _fund_equity(state, book.quote_asset_id, now_ns) + gain < 0:
        return False
    own = close_and_open(position, side, total, lots, 0, 0)
    apply_change(state, position, own, price_ticks, CAUSE_FUND_TAKEOVER, events)
    apply_change(state, taken, change, price_ticks, CAUSE_FUND_TAKEOVER, events)
    return True


def _deleverage(
    state: State,
    position: Position,
    lots: int,
    total: int,
    mark: int,
    ranking: Ranking,
    events: list[Event],
) -> list[AutoDeleverage]:
    """Close `lots` of a position for `total`, against opposite ones that gain by it: whose."""
    book = position.book
    side = closing_side(position)
    price_ticks = max(1, total // (lots * book.units_per_tick_lot))
    counterparts: list[AutoDeleverage] = []
    for other in reversed(ranking.opposite(position, mark)):
        if lots == 0:
            break
        if other.closable(_other(side)) == 0:
            # Closed or turned since it was ranked.
            continue
        taken = min(lots, abs(other.quantity))
        share = total * taken // lots
        change = close_and_open(other, _other(side), share, taken, 0, 0)
        if change.pnl < 0:
            continue
        own = close_and_open(position, side, share, taken, 0, 0)
        if position.account.balance(book.quote_asset_id).free + own.free_delta() < 0:
            # A share rounded down, and nothing to pay the missing unit with.
            continue
        apply_change(state, position, own, price_ticks, CAUSE_AUTO_DELEVERAGE, events)
        apply_change(state, other, change, price_ticks, CAUSE_AUTO_DELEVERAGE, events)
        counterparts.append(AutoDeleverage(other.account.account_id, taken, price_ticks))
        lots -= taken
        total -= share
    return counterparts


class Ranking:
    """Who is deleveraged first: the highest product of profit at the mark and leverage, then the
    lowest account. Made when it is first needed, and then good for the whole sweep.
    """

    __slots__ = ("_book", "_ranked")

    def __init__(self, book: Book) -> None:
        self._book = book
        # Shorts and longs, the first to be deleveraged last.
        self._ranked: dict[bool, list[Position]] = {}

    def opposite(self, position: Position, mark: int) -> list[Position]:
        """Positions against this one, the first to be deleveraged last; some may have closed."""
        longs = position.quantity < 0
        ranked = self._ranked.get(longs)
        if ranked is None:
            ranked = self._ranked[longs] = self._rank(longs, mark)
        while ranked and ranked[-1].quantity == 0:
            ranked.pop()
        return ranked

    def _rank(self, longs: bool, mark: int) -> list[Position]:
        market_id = self._book.market_id
        rows = [
            (
                other.unrealised_pnl(mark) * leverage_of(other.account, market_id),
                -other.account.account_id,
                other,
            )
            for other in self._book.positions.values()
            if (other.quantity > 0) == longs and other.account.account_id != FUND_ACCOUNT_ID
        ]
        # No two are of one account, so positions themselves are never compared.
        rows.sort()
        return [row[2] for row in rows]


def _fund_equity(state: State, quote_asset_id: int, now_ns: int) -> int:
    """The fund's money of an asset, with what its positions would bring at their marks."""
    fund = state.account(FUND_ACCOUNT_ID)
    equity = fund.balance(quote_asset_id).free
    for held in fund.positions.values():
        if held.book.quote_asset_id == quote_asset_id:
            equity += held.unrealised_pnl(held.book.mark_price(now_ns))
    return equity


def _other(side: int) -> int:
    return SIDE_SELL if side == SIDE_BUY else SIDE_BUY
