"""How near an account is to liquidation, at the prices of now or at an assumed one, and what an
order would make of a position. Only reads."""

from __future__ import annotations

from services.engine.domain.book import Book
from services.engine.domain.cfds import profit
from services.engine.domain.constants import MARKET_KIND_SPOT, SIDE_BUY
from services.engine.domain.house import Cfd
from services.engine.domain.positions import (
    Position,
    is_liquidatable,
    leverage_of,
    liquidation_ticks,
    maintenance_units,
    work_out,
)
from services.engine.domain.state import State
from services.engine.domain.views import CfdRisk, Outlook, PositionRisk, RiskView

_BPS = 10_000


def risk(
    state: State, account_id: int, now_ns: int, market_id: int = 0, price_ticks: int = 0
) -> RiskView:
    """Everything an account has open, each at its mark (CFDs: at what closing them would bring).

    In market `market_id`, if one is named, `price_ticks` is assumed in place of the real prices.
    """
    account = state.accounts.get(account_id)
    asset_id = _quote_asset_id(state, market_id)
    if account is None:
        return RiskView(asset_id, 0, (), ())
    positions = tuple(
        _position_risk(
            position, price_ticks if number == market_id else position.book.mark_price(now_ns)
        )
        for number, position in sorted(account.positions.items())
        if position.book.quote_asset_id == asset_id
    )
    contracts = tuple(
        _cfd_risk(cfd, price_ticks if cfd.book.market_id == market_id else _exit_ticks(cfd))
        for cfd in state.house.of_account(account_id)
        if cfd.book.quote_asset_id == asset_id
    )
    balance = account.balances.get(asset_id)
    money = 0 if balance is None else balance.free + balance.held
    return RiskView(asset_id, money, positions, contracts)


def outlook(state: State, account_id: int, book: Book, order_id: int, now_ns: int) -> Outlook:
    """The position with what is left of a live order filled at its price."""
    account = state.account(account_id)
    position = account.positions.get(book.market_id)
    after = Position(account, book, now_ns) if position is None else position.copy()
    order = state.orders.get(order_id)
    if order is not None and order.price_ticks:
        leverage = leverage_of(account, book.market_id)
        lots = order.remaining
        if order.request.reduce_only:
            lots = min(lots, after.closable(order.side))
        if lots:
            change = work_out(after, order.side, order.price_ticks, lots, leverage, 0)
            after.quantity = change.quantity
            after.entry_notional = change.entry_notional
            after.margin = change.margin
    return Outlook(after.quantity, after.margin, liquidation_ticks(after))


def _quote_asset_id(state: State, market_id: int) -> int:
    """The asset that risk is told in: that of the market, or of the first one with leverage."""
    book = state.books.get(market_id)
    if book is not None:
        return book.quote_asset_id
    for _, book in sorted(state.books.items()):
        if book.config.kind != MARKET_KIND_SPOT:
            return book.quote_asset_id
    return 0


def _position_risk(position: Position, mark_ticks: int) -> PositionRisk:
    # Without any price it is worth what was paid for it.
    size = abs(position.quantity) * position.book.units_per_tick_lot
    pnl = position.unrealised_pnl(mark_ticks) if mark_ticks else 0
    maintenance = maintenance_units(position, mark_ticks or position.entry_notional // size)
    return PositionRisk(
        position.book.market_id,
        mark_ticks,
        position.margin,
        pnl,
        maintenance,
        mark_ticks > 0 and is_liquidatable(position, mark_ticks),
    )


def _exit_ticks(cfd: Cfd) -> int:
    book = cfd.book
    ticks = book.external_bid_ticks if cfd.side == SIDE_BUY else book.external_ask_ticks
    return ticks or book.index_ticks


def _cfd_risk(cfd: Cfd, exit_ticks: int) -> CfdRisk:
    long = cfd.side == SIDE_BUY
    price = exit_ticks or cfd.entry_ticks
    pnl = max(profit(cfd.side, cfd.notional_units, cfd.entry_ticks, price), -cfd.margin_units)
    rate = cfd.maintenance_bps + cfd.fee_bps
    limit = cfd.liquidation_ticks
    reached = price <= limit if long else price >= limit
    return CfdRisk(
        cfd.cfd_id,
        price,
        cfd.margin_units,
        pnl,
        -(-cfd.notional_units * price * rate // (cfd.entry_ticks * _BPS)),
        limit > 0 and reached,
    )
