"""A MARGIN market whose numbers can be worked out in the head.

One tick and one lot are one unit. No fees unless said otherwise; 40 bps maintenance, 50 bps
liquidation fee; every account starts with 100,000 USD and a leverage of 10.
"""

from __future__ import annotations

from typing import Any

from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from services.engine.domain.views import PositionView
from tests.engine_core.world import ALICE, BOB, CAROL, MARKET, SECOND, World, place

FUND = 1
MARGIN_RULES: dict[str, Any] = {
    "name": "BTC_USD_MARGIN",
    "kind": k.MARKET_KIND_MARGIN,
    "max_quantity_lots": 10_000,
    "max_notional_units": 10_000_000,
    "maker_fee_bps": 0,
    "taker_fee_bps": 0,
    "max_leverage": 100,
    "margin_tiers": (c.MarginTierConfig(0, 40, 100), c.MarginTierConfig(1_000_000, 500, 10)),
    "liquidation_fee_bps": 50,
    "price_stale_ns": 10 * SECOND,
    "max_open_orders": 20,
}


class MarginWorld(World):
    """A world of one MARGIN market with Alice, Bob and Carol."""

    def __init__(self, *, leverage: int = 10, **rules: Any) -> None:
        super().__init__(**{**MARGIN_RULES, **rules})
        for account_id in (ALICE, BOB, CAROL):
            self.leverage(account_id, leverage)

    def leverage(self, account_id: int, leverage: int) -> None:
        self.do(pc.SetLeverage(account_id, MARKET, leverage))

    def trade(self, buyer: int, seller: int, lots: int, price: int) -> list[e.Event]:
        """The seller rests, the buyer takes."""
        self.order(place(seller, "sell", lots, price))
        return self.do(place(buyer, "buy", lots, price))

    def index(self, ticks: int) -> list[e.Event]:
        """The feed says so, a second later."""
        self.now_ns += SECOND
        return self.do(c.SetPrices(prices=(c.PriceUpdate(MARKET, 0, 0, ticks, self.now_ns),)))

    def position(self, account_id: int) -> PositionView | None:
        """The account's position."""
        return next(iter(self.exchange.positions(account_id)), None)

    def lots(self, account_id: int) -> int:
        position = self.position(account_id)
        return 0 if position is None else position.quantity_lots

    def receipts(self, events: list[e.Event]) -> list[pe.Liquidated]:
        return [event for event in events if isinstance(event, pe.Liquidated)]

    def halt(self) -> None:
        self.do(c.SetMarketStatus(market_id=MARKET, status=k.MARKET_STATUS_HALTED))

    def resume(self) -> None:
        self.do(c.SetMarketStatus(market_id=MARKET, status=k.MARKET_STATUS_TRADING))
