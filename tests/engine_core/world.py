"""A small market whose numbers can be worked out in the head.

One tick and one lot are one unit of USD and BTC, so a notional is price x quantity. Maker 10 bps,
taker 20 bps: at a price of 1000 a lot costs the maker 1 and the taker 2.
"""

from __future__ import annotations

from typing import Any

from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain.exchange import Exchange

USD, BTC = 1, 2
MARKET = 1
ALICE, BOB, CAROL = 11, 12, 13
START_NS = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
MARKET_RULES: dict[str, Any] = {
    "market_id": MARKET,
    "name": "BTC_USD",
    "kind": k.MARKET_KIND_SPOT,
    "base_asset_id": BTC,
    "quote_asset_id": USD,
    "tick_size_units": 1,
    "lot_size_units": 1,
    "units_per_tick_lot": 1,
    "min_quantity_lots": 1,
    "max_quantity_lots": 1_000,
    "min_notional_units": 10,
    "max_notional_units": 1_000_000,
    "max_price_ticks": 10_000,
    "maker_fee_bps": 10,
    "taker_fee_bps": 20,
    "max_open_orders": 5,
}


def configure(**rules: Any) -> c.Configure:
    """The configuration of the small market, with other rules where they are named."""
    return c.Configure(
        assets=(c.AssetConfig(USD, "USD", 0, 0), c.AssetConfig(BTC, "BTC", 0, 0)),
        markets=(c.MarketConfig(**{**MARKET_RULES, **rules}),),
    )


def place(account_id: int, side: str, lots: int, price: int = 0, **fields: Any) -> c.PlaceOrder:
    """LIMIT with a price, MARKET without."""
    values: dict[str, Any] = {
        "market_id": MARKET,
        "side": k.SIDE_BUY if side == "buy" else k.SIDE_SELL,
        "type": k.ORDER_TYPE_LIMIT if price else k.ORDER_TYPE_MARKET,
        "price_ticks": price,
        "quantity_lots": lots,
    }
    return c.PlaceOrder(account_id, **{**values, **fields})


class World:
    """An exchange with its clock; every step is followed by the invariants."""

    def __init__(self, *, window_entries: int = 1_000, money: bool = True, **rules: Any) -> None:
        self.exchange = Exchange(window_entries)
        self.now_ns = START_NS
        self.transfers = 0
        self.do(configure(**rules))
        if money:
            for account_id in (ALICE, BOB, CAROL):
                self.deposit(account_id, USD, 100_000)
                self.deposit(account_id, BTC, 100)

    def do(self, command: c.Command) -> list[e.Event]:
        """Apply a command; nothing may be refused without changing nothing."""
        before = self.exchange.state_hash()
        events = self.exchange.apply(command, self.now_ns)
        self.exchange.check_invariants()
        if isinstance(events[0], (e.CommandRefused, e.CommandRepeated)):
            assert len(events) == 1
            assert self.exchange.state_hash() == before
        return events

    def refusal(self, command: c.Command) -> e.CommandRefused:
        """Apply a command that must be refused."""
        event = self.do(command)[0]
        assert isinstance(event, e.CommandRefused), event
        return event

    def order(self, command: c.PlaceOrder) -> int:
        """Place an order that must be accepted; its id."""
        event = self.do(command)[0]
        assert isinstance(event, e.OrderPlaced), event
        return event.order_id

    def deposit(self, account_id: int, asset_id: int, units: int) -> None:
        self.transfers += 1
        command = c.Transfer(account_id, self.transfers, asset_id, units, k.TRANSFER_KIND_DEPOSIT)
        assert isinstance(self.do(command)[0], e.TransferApplied)

    def money(self, account_id: int, asset_id: int) -> tuple[int, int]:
        """Free and held units."""
        balance = self.exchange.account(account_id).get(asset_id)
        return (balance.free_units, balance.held_units) if balance else (0, 0)

    def restart(self) -> None:
        """Go on with the exchange that a snapshot brings back."""
        data = self.exchange.snapshot()
        again = Exchange.restore(data)
        again.check_invariants()
        assert again.snapshot() == data
        assert again.last_command_seq == self.exchange.last_command_seq
        self.exchange = again
