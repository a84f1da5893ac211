"""A CFD market whose numbers can be worked out in the head, and one with the default rules.

One tick is one unit of USD. 40 bps maintenance, no fee, 50 bps liquidation fee: opened at 1000
with leverage 10, a long contract is liquidated below 900 / 0.996, a short one above 1100 / 1.004.
"""

from __future__ import annotations

from typing import Any

from kernel.reasons import Reason
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_commands as pc
from services.engine.domain import position_events as pe
from tests.engine_core.world import ALICE, MARKET, SECOND, USD, World

STALE_NS = 10 * SECOND
CFD_RULES: dict[str, Any] = {
    "name": "BTC_USD_CFD",
    "kind": k.MARKET_KIND_CFD,
    "min_notional_units": 10,
    "max_notional_units": 100_000_000,
    "maker_fee_bps": 0,
    "taker_fee_bps": 0,
    "max_leverage": 100,
    "margin_tiers": (
        c.MarginTierConfig(0, 40, 100),
        c.MarginTierConfig(1_000_000, 100, 20),
    ),
    "liquidation_fee_bps": 50,
    "price_stale_ns": STALE_NS,
    "max_exposure_units": 50_000_000,
}


def open_cfd(
    account_id: int, side: str, margin: int, leverage: int = 10, **fields: Any
) -> pc.OpenCfd:
    """A contract in the small market."""
    values: dict[str, Any] = {
        "market_id": MARKET,
        "side": k.SIDE_BUY if side == "long" else k.SIDE_SELL,
        "margin_units": margin,
        "leverage": leverage,
    }
    return pc.OpenCfd(account_id, **{**values, **fields})


class CfdWorld(World):
    """A world of one CFD market, quoted 999 / 1000 at first unless said otherwise."""

    def __init__(self, *, quote: tuple[int, int] = (999, 1000), **rules: Any) -> None:
        super().__init__(**{**CFD_RULES, **rules})
        self.prices(*quote)

    def prices(self, bid: int, ask: int, *, after_ns: int = SECOND) -> list[e.Event]:
        """The feed's next price, some time later; what it caused."""
        self.now_ns += after_ns
        return self.tick(bid, ask)

    def tick(self, bid: int, ask: int, *, time_ns: int = 0) -> list[e.Event]:
        """A price said at `time_ns`, else now; what it caused."""
        update = c.PriceUpdate(MARKET, bid, ask, (bid + ask) // 2, time_ns or self.now_ns)
        events = self.do(c.SetPrices(prices=(update,)))
        assert isinstance(events[0], e.PricesSet), events
        return events[1:]

    def open(self, side: str, margin: int, leverage: int = 10, **fields: Any) -> pe.CfdOpened:
        """Open a contract of Alice's that must be accepted."""
        account_id = fields.pop("account_id", ALICE)
        (event,) = self.do(open_cfd(account_id, side, margin, leverage, **fields))
        assert isinstance(event, pe.CfdOpened), event
        return event

    def close(self, cfd_id: int, account_id: int = ALICE) -> pe.CfdClosed:
        """Close a contract that can be closed."""
        (event,) = self.do(pc.CloseCfd(account_id, cfd_id))
        assert isinstance(event, pe.CfdClosed), event
        return event

    def house(self) -> int:
        """What the house has won."""
        return self.exchange.house().get(USD, 0)


def refusal_of(world: CfdWorld, command: c.Command) -> Reason:
    """Why the world does not take it."""
    return Reason(world.refusal(command).reason)
