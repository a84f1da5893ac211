"""Where the liquidity bot wants its orders, and what to do to get there. Pure and exact."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal
from typing import TypeAlias

from tidebook.engine.v1 import market_pb2, order_pb2, types_pb2

BUY, SELL = types_pb2.SIDE_BUY, types_pb2.SIDE_SELL
# Distance of each level from the feed's price, in basis points, and its size compared to the first.
OFFSETS_BPS = (6, 12, 20, 32, 50, 80)
WEIGHTS = (1, 1, 2, 2, 3, 4)
# A level stays where it is while its price is off by less than this part of its distance: levels
# close to the price follow it closely, those far away hardly ever move.
_TOLERANCE = 4
_BPS = 10_000

Side: TypeAlias = types_pb2.Side.ValueType


@dataclass(frozen=True, slots=True)
class Rules:
    """A market's name and steps; `margin` says that positions are traded there, not coins."""

    market: str
    base: str
    quote: str
    tick: Decimal
    lot: Decimal
    min_notional: Decimal
    margin: bool = False

    @property
    def pair(self) -> str:
        """The market whose price is that of the coin."""
        return f"{self.base}_{self.quote}"

    @classmethod
    def of(cls, market: market_pb2.Market) -> Rules:
        return cls(
            market.market,
            market.base_asset,
            market.quote_asset,
            Decimal(market.tick_size),
            Decimal(market.lot_size),
            Decimal(market.min_notional),
            market.kind == types_pb2.MARKET_KIND_MARGIN,
        )

    def quantity_for(self, notional: Decimal, price: Decimal) -> Decimal:
        """As many lots as `notional` buys at `price`; 0 when the market does not take so few."""
        lots = (notional / price / self.lot).to_integral_value(ROUND_DOWN)
        quantity = lots * self.lot
        return quantity if quantity * price >= self.min_notional else Decimal(0)


@dataclass(frozen=True, slots=True)
class Slot:
    """A place on the ladder: side and level, 0 nearest to the price."""

    side: Side
    level: int


@dataclass(slots=True)
class Quote:
    """An order of the bot in a slot. `order_id` is 0 until the exchange has answered."""

    price: Decimal
    quantity: Decimal
    order_id: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """Orders to cancel, and orders to place in slots."""

    cancel: Sequence[Slot]
    place: Mapping[Slot, Quote]


@dataclass
class Ladder:
    """The bot's orders in one market."""

    rules: Rules
    quotes: dict[Slot, Quote] = field(default_factory=dict)

    def changes(
        self, price: Decimal, *, bid_funds: Decimal, ask_funds: Decimal, rng: random.Random
    ) -> Changes:
        """What brings the ladder to `price`, at most `bid_funds` and `ask_funds` (both in the quote
        asset) on the two sides. Nothing is changed yet.
        """
        cancel: list[Slot] = []
        place: dict[Slot, Quote] = {}
        for side, funds in ((BUY, bid_funds), (SELL, ask_funds)):
            for level, (offset, weight) in enumerate(zip(OFFSETS_BPS, WEIGHTS, strict=True)):
                slot = Slot(side, level)
                distance = price * offset / _BPS
                target = self._on_tick(price - distance if side == BUY else price + distance)
                there = self.quotes.get(slot)
                if there is not None:
                    if abs(there.price - target) <= max(distance / _TOLERANCE, self.rules.tick):
                        continue
                    cancel.append(slot)
                # A little noise, as people would make.
                notional = funds * weight / sum(WEIGHTS) * rng.randrange(70, 100) / 100
                quantity = self.rules.quantity_for(notional, target) if target > 0 else Decimal(0)
                if quantity:
                    place[slot] = Quote(target, quantity)
        return Changes(cancel, place)

    def _on_tick(self, price: Decimal) -> Decimal:
        return (price / self.rules.tick).to_integral_value(ROUND_HALF_EVEN) * self.rules.tick


def place_command(
    request_id: int, rules: Rules, slot: Slot, quote: Quote
) -> order_pb2.TradeCommand:
    """The order of a slot. Post-only: a maker that takes has mispriced."""
    return order_pb2.TradeCommand(
        request_id=request_id,
        place=order_pb2.PlaceOrderRequest(
            market=rules.market,
            side=slot.side,
            type=types_pb2.ORDER_TYPE_LIMIT,
            time_in_force=types_pb2.TIME_IN_FORCE_GTC,
            price=format(quote.price, "f"),
            quantity=format(quote.quantity, "f"),
            post_only=True,
        ),
    )


def cancel_command(request_id: int, order_id: int) -> order_pb2.TradeCommand:
    """Take an order back."""
    return order_pb2.TradeCommand(
        request_id=request_id, cancel=order_pb2.CancelOrderRequest(order_id=order_id)
    )
