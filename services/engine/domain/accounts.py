"""Accounts: what they have, which orders they have open, which client ids they used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.engine.domain.commands import PlaceOrder

if TYPE_CHECKING:
    from services.engine.domain.book import Order
    from services.engine.domain.positions import Position


# `Remembered.closed_ns` while the order lives.
LIVE: Final = -1


class Balance:
    """Units of one asset: free for orders and withdrawals, or held by open orders."""

    __slots__ = ("free", "held")

    def __init__(self, free: int = 0, held: int = 0) -> None:
        self.free = free
        self.held = held


class Remembered:
    """A client order id that was used: for which order, and with which payload."""

    __slots__ = ("account", "closed_ns", "order_id", "request")

    def __init__(self, account: Account, order_id: int, request: PlaceOrder) -> None:
        self.account = account
        self.order_id = order_id
        self.request = request
        self.closed_ns: int = LIVE


class Account:
    """One account of the shard."""

    __slots__ = (
        "account_id",
        "balances",
        "client_ids",
        "leverages",
        "margin_requests",
        "orders",
        "positions",
    )

    def __init__(self, account_id: int) -> None:
        self.account_id = account_id
        self.balances: dict[int, Balance] = {}
        # Live orders by market id, then by order id.
        self.orders: dict[int, dict[int, Order]] = {}
        self.client_ids: dict[str, Remembered] = {}
        # By market id: the leverage chosen, where it is not 1, and the open positions.
        self.leverages: dict[int, int] = {}
        self.positions: dict[int, Position] = {}
        # Ids of the last requests to add margin -> (market id, units).
        self.margin_requests: dict[str, tuple[int, int]] = {}

    def live_orders(self) -> list[Order]:
        """Live orders of all markets, oldest first."""
        found = [order for orders in self.orders.values() for order in orders.values()]
        found.sort(key=lambda order: order.order_id)
        return found

    def balance(self, asset_id: int) -> Balance:
        """The balance of an asset, made when it is first needed."""
        balance = self.balances.get(asset_id)
        if balance is None:
            balance = self.balances[asset_id] = Balance()
        return balance
