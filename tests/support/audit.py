"""Expected balances, worked out only from what the exchange answered and from the trading rules.

Nothing of the code under test is used: decimal amounts, and the rules of fees and holds once more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from tidebook.engine.v1 import order_pb2, types_pb2

UNIT = Decimal("0.00000001")
MAKER_BPS, TAKER_BPS = 10, 20
LOT_SIZES = {"BTC_USDC": Decimal("0.00001"), "SOL_USDC": Decimal("0.001")}
LIVE = (types_pb2.ORDER_STATUS_OPEN, types_pb2.ORDER_STATUS_PARTIALLY_FILLED)


@dataclass(frozen=True, slots=True)
class AccountFill:
    """A trade from one side, as history should show it."""

    market: str
    trade_id: int
    side: int
    maker: bool
    price: Decimal
    quantity: Decimal
    fee: Decimal


def fee(notional: Decimal, bps: int) -> Decimal:
    """A fee: rounded up to the asset's unit."""
    return (notional * bps / 10_000).quantize(UNIT, ROUND_CEILING)


def fill_of(message: order_pb2.Fill) -> AccountFill:
    """A fill as it was told."""
    return AccountFill(
        message.market,
        message.trade_id,
        message.side,
        message.maker,
        Decimal(message.price),
        Decimal(message.quantity),
        Decimal(message.fee),
    )


class Auditor:
    """Keeps the books of two traders who only trade with each other."""

    def __init__(self, deposits: Mapping[str, Mapping[str, str]]) -> None:
        """`deposits`: trader -> asset -> amount."""
        self.totals = {
            trader: defaultdict(Decimal, {asset: Decimal(text) for asset, text in given.items()})
            for trader, given in deposits.items()
        }
        self.fills: dict[str, dict[tuple[str, int], AccountFill]] = {t: {} for t in deposits}

    def taker_fills(self, taker: str, fills: Iterable[order_pb2.Fill]) -> None:
        """Book trades that `taker` was told of, for both sides."""
        (maker,) = self.totals.keys() - {taker}
        for message in fills:
            told = fill_of(message)
            assert not told.maker
            notional = told.price * told.quantity
            assert told.fee == fee(notional, TAKER_BPS)
            assert Decimal(message.notional) == notional
            other = types_pb2.SIDE_SELL if told.side == types_pb2.SIDE_BUY else types_pb2.SIDE_BUY
            self._book(taker, told)
            self._book(
                maker,
                AccountFill(
                    told.market,
                    told.trade_id,
                    other,
                    True,
                    told.price,
                    told.quantity,
                    fee(notional, MAKER_BPS),
                ),
            )

    def _book(self, trader: str, fill: AccountFill) -> None:
        key = fill.market, fill.trade_id
        assert key not in self.fills[trader], f"trade {key} was told twice"
        self.fills[trader][key] = fill
        base, quote = fill.market.split("_")
        sign = 1 if fill.side == types_pb2.SIDE_BUY else -1
        self.totals[trader][base] += sign * fill.quantity
        self.totals[trader][quote] -= sign * fill.price * fill.quantity + fill.fee


def holds(orders: Iterable[order_pb2.Order]) -> dict[str, Decimal]:
    """What live orders hold, by asset: the rest of a sale; notional and worst fee of a purchase."""
    held: dict[str, Decimal] = defaultdict(Decimal)
    for order in orders:
        if order.status not in LIVE:
            continue
        base, quote = order.market.split("_")
        left = Decimal(order.quantity) - Decimal(order.filled_quantity)
        if order.side == types_pb2.SIDE_SELL:
            held[base] += left
            continue
        lot, price = LOT_SIZES[order.market], Decimal(order.price)
        # Each fill's fee is rounded up on its own, so the worst case is one fill per lot.
        held[quote] += left * price + left / lot * fee(lot * price, max(MAKER_BPS, TAKER_BPS))
    return held
