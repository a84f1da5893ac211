"""Invariants 1 to 3 of the trading rules, checked the slow and obvious way."""

from __future__ import annotations

from services.engine.domain.book import Book, BookSide, Order
from services.engine.domain.state import State


def check(state: State) -> None:
    """Raise `AssertionError` that says which invariant is broken, where."""
    _check_money(state)
    _check_holds(state)
    resting = 0
    for book in state.books.values():
        resting += _check_book(state, book)
    _require(resting == len(state.orders), f"{len(state.orders)} live orders, {resting} rest")


def _require(holds: bool, text: str) -> None:
    # Not `assert`: it must hold under -O as well.
    if not holds:
        raise AssertionError(text)


def _check_money(state: State) -> None:
    """1: clients + fees = deposits - withdrawals, per asset."""
    for asset_id in state.assets:
        clients = 0
        for account in state.accounts.values():
            balance = account.balances.get(asset_id)
            if balance is not None:
                clients += balance.free + balance.held
        fees = state.fees[asset_id]
        external = state.external[asset_id]
        _require(
            clients + fees == external,
            f"asset {asset_id}: clients {clients} + fees {fees} is not what came in, {external}",
        )


def _check_holds(state: State) -> None:
    """2: nothing is negative; every account's hold is exactly what its live orders need."""
    for account in state.accounts.values():
        needed: dict[int, int] = {}
        for order in account.live_orders():
            asset_id = order.hold_asset_id()
            needed[asset_id] = needed.get(asset_id, 0) + order.hold_units()
            _require(
                state.orders.get(order.order_id) is order,
                f"account {account.account_id}: order {order.order_id} is not live",
            )
        for asset_id, balance in account.balances.items():
            where = f"account {account.account_id}, asset {asset_id}"
            _require(balance.free >= 0, f"{where}: free is {balance.free}")
            _require(
                balance.held == needed.get(asset_id, 0),
                f"{where}: held {balance.held}, its orders need {needed.get(asset_id, 0)}",
            )


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
