"""A log of everything at once: spot, margin and CFDs in small markets, from the real core.

One tick and one lot are one unit, as in the worlds of the core's own tests.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import strategies as st

from mesh.log import LogRecord
from services.engine.domain import commands as c
from services.engine.domain import constants as k
from services.engine.domain import position_commands as pc
from tests.engine_core.cfd_world import CFD_RULES
from tests.engine_core.margin_world import FUND, MARGIN_RULES
from tests.engine_core.world import BTC, MARKET_RULES, USD
from tests.settlement.support import LogMaker

SPOT, MARGIN, CFD = 1, 2, 3
RICH, ALSO_RICH, POOR = ACCOUNTS = (11, 12, 13)
_SIDES = (k.SIDE_BUY, k.SIDE_SELL)
_SECOND = 1_000_000_000

# What happens, to whom (an index), how far from the price, and how much.
Step = tuple[str, int, int, int]
_ACTIONS = (
    *("spot", "spot", "margin", "margin", "margin", "stop", "pair", "prices", "prices", "crash"),
    *("leverage", "add margin", "open", "open", "triggers", "close", "cancel", "amend", "transfer"),
    "time",
)
steps = st.tuples(
    st.sampled_from(_ACTIONS), st.integers(0, 2), st.integers(-60, 60), st.integers(1, 120)
)


def random_step(chance: random.Random) -> Step:
    """The same without Hypothesis, for logs that are written to real stores."""
    return (
        chance.choice(_ACTIONS),
        chance.randrange(3),
        chance.randint(-60, 60),
        chance.randint(1, 120),
    )


class MixedLog(LogMaker):
    """Turns steps into entries. Many of them are refused, as in life."""

    def __init__(self, shard: int = 0) -> None:
        super().__init__(shard)
        rules: tuple[dict[str, Any], ...] = (
            {"market_id": SPOT, "max_open_orders": 50},
            MARGIN_RULES | {"market_id": MARGIN, "maker_fee_bps": -5, "taker_fee_bps": 20},
            CFD_RULES | {"market_id": CFD, "taker_fee_bps": 10},
        )
        self.configuration = c.Configure(
            # Without decimals, so that a tick times a lot is a unit.
            assets=(c.AssetConfig(USD, "USD", 0, 0), c.AssetConfig(BTC, "BTC", 0, 0)),
            markets=tuple(c.MarketConfig(**(MARKET_RULES | changed)) for changed in rules),
        )
        self.price = 1_000

    def begin(self, *accounts: int) -> LogRecord:
        """Configuration, money for everybody and not much of it for the fund, and first prices."""
        funds = [
            self.transfer(account, asset_id, units)
            for account, units in ((RICH, 10**6), (ALSO_RICH, 10**6), (POOR, 8_000))
            for asset_id in (USD, BTC)
        ]
        return self.entry(
            self.configuration,
            c.BeginEpoch(epoch=1, writer="test", shard=self.shard),
            *funds,
            self.transfer(FUND, USD, 500),
            *(pc.SetLeverage(account, MARGIN, 25) for account in ACCOUNTS),
            self._prices(0),
        )

    def record(self, *of: Step) -> LogRecord:
        """An entry with a command for each step."""
        return self.entry(*(self._command(*step) for step in of))

    def _command(self, what: str, who: int, away: int, size: int) -> c.Command:
        account, side, price = ACCOUNTS[who], _SIDES[size % 2], self.price + away
        match what:
            case "spot" | "margin":
                market = SPOT if what == "spot" else MARGIN
                kind = k.ORDER_TYPE_LIMIT if size % 5 else k.ORDER_TYPE_MARKET
                return self._place(
                    account,
                    market,
                    side,
                    size,
                    type=kind,
                    price_ticks=price if size % 5 else 0,
                    self_trade_prevention=size % 4 + 1,
                    display_quantity_lots=size // 3 if size % 7 == 3 else 0,
                )
            case "stop":
                return self._place(
                    account,
                    (SPOT, MARGIN)[away % 2],
                    side,
                    size,
                    type=k.ORDER_TYPE_STOP_MARKET,
                    trigger_price_ticks=price,
                    trigger_source=1,
                )
            case "pair":
                sign = -1 if side == k.SIDE_BUY else 1
                one = self._place(0, SPOT, side, size, price_ticks=self.price + sign * abs(away))
                two = self._place(
                    *(0, SPOT, side, size),
                    type=k.ORDER_TYPE_STOP_MARKET,
                    price_ticks=0,
                    trigger_price_ticks=self.price - sign * (abs(away) + 1),
                )
                return c.PlaceOco(account, one, two)
            case "prices":
                return self._prices(away)
            case "crash":
                return self._prices(4 * away)
            case "leverage":
                return pc.SetLeverage(account, MARGIN, size % 50 + 1)
            case "add margin":
                return pc.AddMargin(account, MARGIN, size, f"m{self.exchange.last_command_seq}")
            case "open":
                return pc.OpenCfd(
                    account,
                    CFD,
                    side=side,
                    margin_units=20 * size,
                    leverage=abs(away) + 1,
                    client_cfd_id=f"c{size}" if size % 2 else "",
                )
            case "triggers":
                return pc.UpdateCfdTriggers(account, size % 9 + 1, stop_loss_ticks=price)
            case "close":
                return pc.CloseCfd(account, size % 9 + 1)
            case "cancel":
                return c.CancelOrder(account, size)
            case "amend":
                return c.AmendOrder(account, size, "", price, abs(away))
            case "transfer":
                return self.transfer(account, (USD, BTC)[size % 2], away * size or 1)
            case _:
                self.now_ns += size * _SECOND
                return c.Tick()

    def _prices(self, move: int) -> c.SetPrices:
        self.price = min(max(100, self.price + move), 4_000)
        self.now_ns += _SECOND
        return c.SetPrices(
            prices=(
                c.PriceUpdate(MARGIN, 0, 0, self.price, self.now_ns),
                c.PriceUpdate(CFD, self.price - 1, self.price + 1, self.price, self.now_ns),
            )
        )

    @staticmethod
    def _place(account: int, market: int, side: int, lots: int, **fields: Any) -> c.PlaceOrder:
        values: dict[str, Any] = {"type": k.ORDER_TYPE_LIMIT, "quantity_lots": lots}
        return c.PlaceOrder(account, market, side=side, **(values | fields))
