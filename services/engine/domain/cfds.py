"""Contracts for difference against the house: opening, closing, triggers.

A long contract opens at the ask and watches and closes at the bid, a short one the other way round;
a feed without bid and ask trades at its index. With q = notional / entry, M the margin and r the
maintenance rate plus the taker fee a contract is liquidated when

    M + s q (price - entry) < price q r

which is below `entry (1 - 1/leverage) / (1 - r)` for a long and above
`entry (1 + 1/leverage) / (1 + r)` for a short contract.
"""

from __future__ import annotations

from typing import Final

from kernel.money import INT64_MAX, ceil_div
from kernel.reasons import Reason, Refused
from services.engine.domain.accounts import LIVE
from services.engine.domain.book import Book
from services.engine.domain.commands import MarginTierConfig
from services.engine.domain.constants import (
    MARKET_KIND_CFD,
    MARKET_STATUS_HALTED,
    SIDE_BUY,
    SIDE_SELL,
)
from services.engine.domain.events import CommandRepeated, Event
from services.engine.domain.house import Cfd, RememberedCfd, SideTriggers
from services.engine.domain.placing import MAX_CLIENT_ID_LENGTH, check_open_for_orders
from services.engine.domain.position_commands import CloseCfd, OpenCfd, UpdateCfdTriggers
from services.engine.domain.position_events import (
    CfdClosed,
    CfdOpened,
    CfdTriggersChanged,
    Liquidated,
)
from services.engine.domain.state import WINDOW_NS, State
from services.engine.domain.triggers import Triggers

# Of the formulas above and of what a liquidation costs; part of every receipt.
FORMULA_VERSION: Final = 1
INSURANCE_ACCOUNT: Final = 1

CLOSED_BY_USER: Final = 1
CLOSED_BY_STOP_LOSS: Final = 2
CLOSED_BY_TAKE_PROFIT: Final = 3
CLOSED_BY_LIQUIDATION: Final = 4
_BPS: Final = 10_000


def open_cfd(state: State, command: OpenCfd, now_ns: int) -> list[Event]:
    """Open a contract at the feed's price. Raises `Refused`, and then nothing has changed."""
    house = state.house
    client_cfd_id = command.client_cfd_id
    if client_cfd_id:
        known = house.client_ids.get((command.account_id, client_cfd_id))
        if known is not None and (known.closed_ns == LIVE or known.closed_ns + WINDOW_NS > now_ns):
            # Before any other check: the first answer stands, whatever has happened since.
            if _same_payload(known.request, command):
                return [CommandRepeated(0, 0, known.cfd_id)]
            raise Refused(Reason.DUPLICATE_CLIENT_ORDER_ID, field="client_cfd_id")
        if len(client_cfd_id) > MAX_CLIENT_ID_LENGTH:
            raise Refused(Reason.INVALID_ARGUMENT, "is too long", field="client_cfd_id")
    if 0 < command.deadline_ns < now_ns:
        raise Refused(Reason.DEADLINE_PASSED, field="deadline_ns")
    opened = terms(state, command, now_ns)

    # Nothing can refuse it from here on.
    book = state.books[command.market_id]
    account = state.accounts[command.account_id]
    cfd = Cfd(
        opened.cfd_id,
        account,
        book,
        opened.side,
        opened.entry_ticks,
        opened.margin_units,
        opened.leverage,
        opened.liquidation_ticks,
        opened.stop_loss_ticks,
        opened.take_profit_ticks,
        opened.maintenance_bps,
        opened.fee_bps,
        now_ns,
    )
    cfd.balance.free -= opened.margin_units + opened.fee_units
    cfd.balance.held += opened.margin_units
    state.fees[book.quote_asset_id] += opened.fee_units
    house.last_cfd_id = opened.cfd_id
    house.add(cfd)
    if client_cfd_id:
        house.forget(now_ns - WINDOW_NS, state.window_entries)
        cfd.remembered = RememberedCfd(cfd.cfd_id, command)
        house.remember(cfd.remembered)
    return [opened]


def terms(state: State, command: OpenCfd, now_ns: int) -> CfdOpened:
    """What opening would come to, every check included; changes nothing. Raises `Refused`."""
    book = state.tradable_book(command.market_id)
    config = book.config
    side = command.side
    leverage = command.leverage
    margin = command.margin_units
    if config.kind != MARKET_KIND_CFD:
        raise Refused(Reason.UNSUPPORTED, "is no CFD market", field="market_id")
    check_open_for_orders(book, False)
    if side != SIDE_BUY and side != SIDE_SELL:
        raise Refused(Reason.INVALID_ARGUMENT, field="side")
    if margin <= 0:
        raise Refused(Reason.AMOUNT_INVALID, field="margin_units")
    if not 1 <= leverage <= config.max_leverage:
        raise Refused(Reason.LEVERAGE_OUT_OF_RANGE, field="leverage")
    notional = margin * leverage
    if notional < config.min_notional_units:
        raise Refused(Reason.NOTIONAL_TOO_SMALL, field="margin_units")
    if notional > config.max_notional_units:
        raise Refused(Reason.NOTIONAL_TOO_LARGE, field="margin_units")
    tier = _tier(book, notional)
    if leverage > tier.max_leverage:
        raise Refused(Reason.LEVERAGE_OUT_OF_RANGE, field="leverage")
    if not book.has_fresh_price(now_ns):
        raise Refused(Reason.PRICE_STALE, field="market_id")
    account = state.accounts.get(command.account_id)
    if account is None:
        # Never credited: it has no margin to give.
        raise Refused(Reason.INSUFFICIENT_BALANCE, field="account_id")
    desk = state.house.desks.get(book.market_id)
    if desk is not None and desk.counts.get(command.account_id, 0) >= config.max_open_orders:
        raise Refused(Reason.TOO_MANY_OPEN_ORDERS, field="market_id")
    net = desk.net_units if desk is not None else 0
    carried = abs(net + notional if side == SIDE_BUY else net - notional)
    if 0 < config.max_exposure_units < carried and carried >= abs(net):
        raise Refused(Reason.EXPOSURE_LIMIT_REACHED, field="margin_units")
    check_triggers(book, side, command.stop_loss_ticks, command.take_profit_ticks)
    entry_ticks = _price(book, SIDE_SELL if side == SIDE_BUY else SIDE_BUY)
    rate_bps = tier.maintenance_bps + book.taker_fee_bps
    liquidation = liquidation_ticks(entry_ticks, leverage, side, rate_bps)
    if _reached(liquidation, _price(book, side), side == SIDE_BUY):
        raise Refused(Reason.WOULD_BE_LIQUIDATED, field="leverage")
    fee = ceil_div(notional * book.taker_fee_bps, _BPS)
    balance = account.balances.get(book.quote_asset_id)
    if balance is None or balance.free < margin + fee:
        raise Refused(Reason.INSUFFICIENT_BALANCE, field="margin_units")
    return CfdOpened(
        state.house.last_cfd_id + 1,
        command.account_id,
        book.market_id,
        side,
        entry_ticks,
        margin,
        notional,
        leverage,
        liquidation,
        command.stop_loss_ticks,
        command.take_profit_ticks,
        fee,
        command.client_cfd_id,
        tier.maintenance_bps,
        book.taker_fee_bps,
    )


def as_opened(cfd: Cfd) -> CfdOpened:
    """The event that would open a contract as it is now."""
    known = cfd.remembered
    return CfdOpened(
        cfd.cfd_id,
        cfd.account.account_id,
        cfd.book.market_id,
        cfd.side,
        cfd.entry_ticks,
        cfd.margin_units,
        cfd.notional_units,
        cfd.leverage,
        cfd.liquidation_ticks,
        cfd.stop_loss_ticks,
        cfd.take_profit_ticks,
        ceil_div(cfd.notional_units * cfd.fee_bps, _BPS),
        known.request.client_cfd_id if known is not None else "",
        cfd.maintenance_bps,
        cfd.fee_bps,
    )


def close_cfd(state: State, command: CloseCfd, now_ns: int) -> list[Event]:
    """Close a contract at the feed's price; a stale price would be a free choice for its owner.

    Raises `Refused`: CFD_NOT_FOUND, MARKET_HALTED, PRICE_STALE.
    """
    cfd = _find(state, command.account_id, command.cfd_id)
    if not cfd.book.has_fresh_price(now_ns):
        raise Refused(Reason.PRICE_STALE, field="cfd_id")
    events: list[Event] = []
    _close(state, cfd, _price(cfd.book, cfd.side), CLOSED_BY_USER, now_ns, events)
    return events


def update_triggers(state: State, command: UpdateCfdTriggers) -> list[Event]:
    """Set or remove stop loss and take profit, judged by the newest price, stale or not.

    Raises `Refused`: CFD_NOT_FOUND, MARKET_HALTED, PRICE_OUT_OF_RANGE, TRIGGER_ON_WRONG_SIDE.
    """
    cfd = _find(state, command.account_id, command.cfd_id)
    stop_loss, take_profit = command.stop_loss_ticks, command.take_profit_ticks
    check_triggers(cfd.book, cfd.side, stop_loss, take_profit)
    cfd.stop_loss_ticks = stop_loss
    cfd.take_profit_ticks = take_profit
    state.house.desk(cfd.book.market_id).side(cfd.side).set_exits(cfd)
    return [CfdTriggersChanged(cfd.cfd_id, command.account_id, stop_loss, take_profit)]


def fire(state: State, book: Book, now_ns: int, events: list[Event]) -> None:
    """Close what the market's new price reaches, at that price, however far beyond the trigger.

    Long contracts, then short ones; of each side the liquidations, then the stop losses, then the
    take profits; of each of these by trigger price, the first reached first, then by id. A stale
    price fires nothing, and in a halted market nothing fires until a price comes after the halt.
    """
    desk = state.house.desks.get(book.market_id)
    if desk is None or book.status == MARKET_STATUS_HALTED or not book.has_fresh_price(now_ns):
        return
    _fire_side(state, desk.longs, _price(book, SIDE_BUY), now_ns, events)
    _fire_side(state, desk.shorts, _price(book, SIDE_SELL), now_ns, events)


def liquidation_ticks(entry_ticks: int, leverage: int, side: int, rate_bps: int) -> int:
    """The first price, on its way against the contract, at which it is liquidated; 0 for none."""
    if side == SIDE_BUY:
        above = entry_ticks * (leverage - 1) * _BPS
        return max(ceil_div(above, leverage * (_BPS - rate_bps)) - 1, 0)
    below = entry_ticks * (leverage + 1) * _BPS
    return below // (leverage * (_BPS + rate_bps)) + 1


def profit(side: int, notional_units: int, entry_ticks: int, close_ticks: int) -> int:
    """Profit at a price, negative for a loss, rounded down; never capped."""
    move = close_ticks - entry_ticks if side == SIDE_BUY else entry_ticks - close_ticks
    return notional_units * move // entry_ticks


def check_triggers(book: Book, side: int, stop_loss_ticks: int, take_profit_ticks: int) -> None:
    """Refuse a trigger that the price it watches has reached already. Raises `Refused`:
    PRICE_OUT_OF_RANGE, TRIGGER_ON_WRONG_SIDE.
    """
    most = book.config.max_price_ticks
    if not 0 <= stop_loss_ticks <= most:
        raise Refused(Reason.PRICE_OUT_OF_RANGE, field="stop_loss_ticks")
    if not 0 <= take_profit_ticks <= most:
        raise Refused(Reason.PRICE_OUT_OF_RANGE, field="take_profit_ticks")
    price = _price(book, side)
    long = side == SIDE_BUY
    if _reached(stop_loss_ticks, price, long):
        raise Refused(Reason.TRIGGER_ON_WRONG_SIDE, field="stop_loss_ticks")
    if _reached(take_profit_ticks, price, not long):
        raise Refused(Reason.TRIGGER_ON_WRONG_SIDE, field="take_profit_ticks")


def _price(book: Book, side: int) -> int:
    """Where contracts of a side close, and what their triggers watch: the bid for long ones."""
    ticks = book.external_bid_ticks if side == SIDE_BUY else book.external_ask_ticks
    return ticks or book.index_ticks


def _reached(trigger_ticks: int, price_ticks: int, falling: bool) -> bool:
    if trigger_ticks == 0:
        return False
    return price_ticks <= trigger_ticks if falling else price_ticks >= trigger_ticks


def _tier(book: Book, notional_units: int) -> MarginTierConfig:
    """The last tier that begins at or below a notional; the first begins at 0."""
    tiers = book.config.margin_tiers
    found = tiers[0]
    for tier in tiers:
        if tier.from_notional_units <= notional_units:
            found = tier
    return found


def _find(state: State, account_id: int, cfd_id: int) -> Cfd:
    """An open contract of the account that may be changed now. Raises `Refused`."""
    cfd = state.house.cfds.get(cfd_id)
    if cfd is None or cfd.account.account_id != account_id:
        raise Refused(Reason.CFD_NOT_FOUND, field="cfd_id")
    if cfd.book.status == MARKET_STATUS_HALTED:
        raise Refused(Reason.MARKET_HALTED, field="cfd_id")
    return cfd


def _same_payload(first: OpenCfd, second: OpenCfd) -> bool:
    """Whether two commands ask for the same contract; a retry has a later deadline."""
    return (
        first.market_id == second.market_id
        and first.side == second.side
        and first.margin_units == second.margin_units
        and first.leverage == second.leverage
        and first.stop_loss_ticks == second.stop_loss_ticks
        and first.take_profit_ticks == second.take_profit_ticks
    )


def _fire_side(
    state: State, side: SideTriggers, price_ticks: int, now_ns: int, events: list[Event]
) -> None:
    _fire(state, side.liquidations, price_ticks, CLOSED_BY_LIQUIDATION, now_ns, events)
    _fire(state, side.stop_losses, price_ticks, CLOSED_BY_STOP_LOSS, now_ns, events)
    _fire(state, side.take_profits, price_ticks, CLOSED_BY_TAKE_PROFIT, now_ns, events)


def _fire(
    state: State,
    triggers: Triggers,
    price_ticks: int,
    reason: int,
    now_ns: int,
    events: list[Event],
) -> None:
    while True:
        cfd_id = triggers.first_reached(price_ticks)
        if cfd_id == 0:
            return
        _close(state, state.house.cfds[cfd_id], price_ticks, reason, now_ns, events)


def _close(
    state: State, cfd: Cfd, close_ticks: int, reason: int, now_ns: int, events: list[Event]
) -> None:
    """Settle a contract: the loss is at most its margin, and so is what the fee can take."""
    house = state.house
    book = cfd.book
    asset_id = book.quote_asset_id
    margin = cfd.margin_units
    house_units = house.balances.get(asset_id, 0)
    pnl = profit(cfd.side, cfd.notional_units, cfd.entry_ticks, close_ticks)
    if pnl > 0:
        # However wrong a feed is: all balances of an asset together stay inside an int64.
        outside = state.fees[asset_id] + house_units + state.clearing[asset_id]
        clients = state.external[asset_id] - outside
        pnl = min(pnl, max(INT64_MAX // 2 - clients, 0))
    pnl = max(pnl, -margin)
    worth = margin + pnl
    fee = min(
        ceil_div(cfd.notional_units * close_ticks * cfd.fee_bps, cfd.entry_ticks * _BPS), worth
    )
    returned = worth - fee
    cfd.balance.held -= margin
    cfd.balance.free += returned
    state.fees[asset_id] += fee
    house.balances[asset_id] = house_units + margin - worth
    house.remove(cfd)
    if cfd.remembered is not None:
        cfd.remembered.closed_ns = now_ns
        house.window.append(cfd.remembered)
    events.append(
        CfdClosed(
            cfd.cfd_id,
            cfd.account.account_id,
            book.market_id,
            close_ticks,
            pnl,
            returned,
            reason,
            margin,
            fee,
        )
    )
    if reason == CLOSED_BY_LIQUIDATION:
        _write_receipt(state, cfd, close_ticks, returned, fee, events)


def _write_receipt(
    state: State, cfd: Cfd, close_ticks: int, rest: int, fee: int, events: list[Event]
) -> None:
    """What the liquidation costs goes to the insurance fund, out of what is left; the receipt."""
    book = cfd.book
    surplus = min(rest, ceil_div(cfd.notional_units * book.config.liquidation_fee_bps, _BPS))
    cfd.balance.free -= surplus
    state.account(INSURANCE_ACCOUNT).balance(book.quote_asset_id).free += surplus
    state.last_liquidation_id += 1
    events.append(
        Liquidated(
            liquidation_id=state.last_liquidation_id,
            account_id=cfd.account.account_id,
            market_id=book.market_id,
            cfd_id=cfd.cfd_id,
            formula_version=FORMULA_VERSION,
            quantity_lots=0,
            entry_notional_units=cfd.notional_units,
            margin_units=cfd.margin_units,
            mark_ticks=close_ticks,
            bankruptcy_ticks=_bankruptcy_ticks(cfd),
            filled_lots=0,
            fund_lots=0,
            fund_delta_units=surplus,
            auto_deleverages=(),
            maintenance_bps=cfd.maintenance_bps,
            fee_bps=cfd.fee_bps,
            order_id=0,
            filled_notional_units=0,
            fee_units=fee,
            returned_units=rest - surplus,
            entry_ticks=cfd.entry_ticks,
            side=cfd.side,
        )
    )


def _bankruptcy_ticks(cfd: Cfd) -> int:
    """The last price at which the margin covers loss and closing fee."""
    if cfd.side == SIDE_BUY:
        above = cfd.entry_ticks * (cfd.leverage - 1) * _BPS
        return ceil_div(above, cfd.leverage * (_BPS - cfd.fee_bps))
    below = cfd.entry_ticks * (cfd.leverage + 1) * _BPS
    return below // (cfd.leverage * (_BPS + cfd.fee_bps))
