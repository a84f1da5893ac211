"""Invariants 1 to 3 of the trading rules, checked the slow and obvious way."""

from __future__ import annotations

from services.engine.domain.book import Book, BookSide, Order
from services.engine.domain.constants import SIDE_BUY, SIDE_SELL, TRIGGER_SOURCE_MARK
from services.engine.domain.positions import FUND_ACCOUNT_ID, liquidation_ticks
from services.engine.domain.state import State
from services.engine.domain.stops import rises


def check(state: State) -> None:
    """Raise `AssertionError` that says which invariant is broken, where."""
    _check_money(state)
    _check_holds(state)
    _check_contracts(state)
    _check_positions(state)
    resting = 0
    for book in state.books.values():
        resting += _check_book(state, book)
    waiting = _check_waiting(state)
    _require(
        resting + waiting == len(state.orders),
        f"{len(state.orders)} live orders, {resting} rest, {waiting} wait",
    )


def _require(holds: bool, text: str) -> None:
    # Not `assert`: it must hold under -O as well.
    if not holds:
        raise AssertionError(text)


def _check_money(state: State) -> None:
    """1: clients (with the insurance fund) + fees + house + clearing = deposits - withdrawals."""
    for asset_id in state.assets:
        clients = 0
        for account in state.accounts.values():
            balance = account.balances.get(asset_id)
            if balance is not None:
                clients += balance.free + balance.held
        fees = state.fees[asset_id]
        house = state.house.balances.get(asset_id, 0)
        external = state.external[asset_id]
        clearing = state.clearing[asset_id]
        _require(
            clients + fees + house + clearing == external,
            f"asset {asset_id}: clients {clients} + fees {fees} + house {house} + clearing"
            f" {clearing} is not what came in, {external}",
        )


def _check_holds(state: State) -> None:
    """2: nothing is negative; every account's hold is exactly what its live orders and
    open contracts need."""
    for account in state.accounts.values():
        needed: dict[int, int] = {}
        for order in account.live_orders():
            asset_id = order.hold_asset_id()
            needed[asset_id] = needed.get(asset_id, 0) + order.hold_units()
            _require(
                state.orders.get(order.order_id) is order,
                f"account {account.account_id}: order {order.order_id} is not live",
            )
        for position in account.positions.values():
            asset_id = position.book.quote_asset_id
            needed[asset_id] = needed.get(asset_id, 0) + position.margin
        for cfd in state.house.of_account(account.account_id):
            asset_id = cfd.book.quote_asset_id
            needed[asset_id] = needed.get(asset_id, 0) + cfd.margin_units
        for asset_id, balance in account.balances.items():
            where = f"account {account.account_id}, asset {asset_id}"
            _require(balance.free >= 0, f"{where}: free is {balance.free}")
            _require(
                balance.held == needed.get(asset_id, 0),
                f"{where}: held {balance.held}, its orders and contracts need"
                f" {needed.get(asset_id, 0)}",
            )


def _check_positions(state: State) -> None:
    """Profits paid are the entry notionals of longs minus those of shorts, exactly; as many lots
    are long as short; every position is indexed once, at the price at which it is liquidated."""
    owed = dict.fromkeys(state.assets, 0)
    for book in state.books.values():
        name = book.config.name
        lots = 0
        longs: dict[int, int] = {}
        shorts: dict[int, int] = {}
        for account_id, position in book.positions.items():
            where = f"{name}, position of account {account_id}"
            quantity = position.quantity
            _require(quantity != 0 and not position.liquidating, f"{where}: {quantity} lots")
            _require(
                position.account.account_id == account_id
                and position.account.positions.get(book.market_id) is position,
                f"{where}: not its owner's",
            )
            _require(
                position.entry_notional >= 0 and position.margin >= 0,
                f"{where}: entry {position.entry_notional}, margin {position.margin}",
            )
            _require(
                account_id != FUND_ACCOUNT_ID or position.margin == 0,
                f"{where}: the fund has margin {position.margin}",
            )
            lots += quantity
            sign = 1 if quantity > 0 else -1
            owed[book.quote_asset_id] += position.entry_notional * sign
            if position.liquidation_ticks:
                index = longs if quantity > 0 else shorts
                index[account_id] = position.liquidation_ticks
                _require(
                    position.liquidation_ticks == liquidation_ticks(position),
                    f"{where}: its liquidation price is wrong",
                )
        _require(lots == 0, f"{name}: {lots} lots more are long than short")
        _require(book.long_liquidations.prices == longs, f"{name}: liquidations of longs")
        _require(book.short_liquidations.prices == shorts, f"{name}: liquidations of shorts")
    for asset_id, units in owed.items():
        _require(
            state.clearing[asset_id] == -units,
            f"asset {asset_id}: clearing {state.clearing[asset_id]}, open positions {units}",
        )


def _check_contracts(state: State) -> None:
    """Every contract is indexed once, with the triggers it has; the exposure is what they are."""
    house = state.house
    nets: dict[int, int] = {}
    triggers: dict[tuple[int, int, str], dict[int, int]] = {}
    for cfd in house.cfds.values():
        market_id = cfd.book.market_id
        owned = house.by_account[cfd.account.account_id]
        _require(owned[cfd.cfd_id] is cfd, f"contract {cfd.cfd_id}: not its owner's")
        _require(cfd.margin_units > 0, f"contract {cfd.cfd_id}: margin {cfd.margin_units}")
        long = cfd.side == SIDE_BUY
        nets[market_id] = nets.get(market_id, 0) + cfd.notional_units * (1 if long else -1)
        for name, ticks in (
            ("liquidations", cfd.liquidation_ticks),
            ("stop_losses", cfd.stop_loss_ticks),
            ("take_profits", cfd.take_profit_ticks),
        ):
            if ticks:
                triggers.setdefault((market_id, cfd.side, name), {})[cfd.cfd_id] = ticks
    owned_count = sum(len(owned) for owned in house.by_account.values())
    _require(owned_count == len(house.cfds), "contracts of accounts are not all contracts")
    for market_id, desk in house.desks.items():
        where = f"desk of market {market_id}"
        _require(desk.net_units == nets.get(market_id, 0), f"{where}: net is {desk.net_units}")
        counted = sum(desk.counts.values())
        open_here = sum(cfd.book.market_id == market_id for cfd in house.cfds.values())
        _require(counted == open_here, f"{where}: counts {counted} of {open_here}")
        for side in (SIDE_BUY, SIDE_SELL):
            for name, index in (
                ("liquidations", desk.side(side).liquidations),
                ("stop_losses", desk.side(side).stop_losses),
                ("take_profits", desk.side(side).take_profits),
            ):
                wanted = triggers.get((market_id, side, name), {})
                _require(index.prices == wanted, f"{where}: {name} of side {side} are wrong")


def _check_waiting(state: State) -> int:
    """Every stop is indexed under its trigger; pairs name each other. Returns how many wait."""
    count = 0
    for order in state.orders.values():
        condition = order.condition
        if condition is None:
            continue
        where = f"order {order.order_id}"
        watch = order.book.last_stops
        if order.request.trigger_source == TRIGGER_SOURCE_MARK:
            watch = order.book.mark_stops
        by = watch.rising if rises(order.request) else watch.falling
        _require(
            by.prices.get(order.order_id, 0) == order.trigger_ticks(), f"{where}: wrong trigger"
        )
        if condition.waits:
            count += 1
            _require(order.level is None and not order.filled, f"{where}: waits and rests")
        partner = condition.partner
        if partner is not None:
            _require(state.orders.get(partner.order_id) is partner, f"{where}: half a pair")
            _require(
                partner.condition is not None and partner.condition.partner is order,
                f"{where}: of a pair that does not know it",
            )
    _require(count == state.waiting, f"{count} stops wait, {state.waiting} are counted")
    indexed = sum(len(book.last_stops) + len(book.mark_stops) for book in state.books.values())
    _require(count == indexed, f"{count} stops wait, {indexed} are indexed")
    return count


def _check_book(state: State, book: Book) -> int:
    """3: not crossed, levels in order, totals equal to their orders. Returns the resting orders."""
    name = book.config.name
    bid = book.bids.best_price()
    ask = book.asks.best_price()
    _require(not (bid and ask and bid >= ask), f"{name}: crossed, bid {bid}, ask {ask}")
    return _check_side(state, book, book.bids) + _check_side(state, book, book.asks)


def _check_side(state: State, book: Book, side: BookSide) -> int:
    name = f"{book.config.name} {'bids' if side is book.bids else 'asks'}"
    _require(side.keys == sorted(side.levels), f"{name}: levels are not in order")
    count = 0
    for key, level in side.levels.items():
        total = 0
        before: Order | None = None
        order = level.head
        _require(order is not None, f"{name} at {key * side.sign}: empty level")
        while order is not None:
            where = f"{name}, order {order.order_id}"
            _require(order.remaining > 0, f"{where}: rests with {order.remaining} lots")
            _require(order.price_ticks * side.sign == key, f"{where}: at another price")
            _require(order.level is level and order.prev is before, f"{where}: wrong links")
            _require(book.side(order.side) is side, f"{where}: on the wrong side")
            _require(state.orders.get(order.order_id) is order, f"{where}: not a live order")
            display = order.request.display_quantity_lots or order.remaining
            _require(
                0 < order.shown() <= display and order.hidden >= 0,
                f"{where}: shows {order.shown()} of {order.remaining} lots",
            )
            total += order.shown()
            count += 1
            before = order
            order = order.next
        _require(level.tail is before, f"{name} at {key * side.sign}: wrong tail")
        _require(
            level.quantity == total,
            f"{name} at {key * side.sign}: total {level.quantity}, its orders {total}",
        )
    return count
