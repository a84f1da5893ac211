"""What can be read from the exchange: copies, so that a reader cannot change its state."""

from __future__ import annotations

from dataclasses import dataclass

from services.engine.domain.commands import MarketConfig, PlaceOrder
from services.engine.domain.position_events import CfdOpened


@dataclass(frozen=True, slots=True)
class OrderView:
    """A live order. Lots, ticks and units; times in nanoseconds since 1970 UTC."""

    order_id: int
    account_id: int
    market_id: int
    side: int
    status: int
    price_ticks: int
    quantity_lots: int  # total, filled part included, after amendments
    filled_lots: int
    hold_asset_id: int
    hold_units: int
    filled_notional_units: int
    fees_units: int
    created_ns: int
    updated_ns: int
    trigger_price_ticks: int  # of a stop that waits, as it is now; else 0
    oco_order_id: int  # the other order of a pair; 0 without one
    request: PlaceOrder  # as it was asked for; never to be changed

    @property
    def client_order_id(self) -> str:
        return self.request.client_order_id

    @property
    def remaining_lots(self) -> int:
        return self.quantity_lots - self.filled_lots


@dataclass(frozen=True, slots=True)
class CfdView:
    """An open contract: as it would have been opened with the triggers it has now, and when it was,
    in nanoseconds since 1970 UTC.
    """

    opened: CfdOpened
    opened_ns: int


@dataclass(frozen=True, slots=True)
class BalanceView:
    """Units of one asset that an account has."""

    free_units: int
    held_units: int


@dataclass(frozen=True, slots=True)
class RestingView:
    """An order in the book, as the book shows it."""

    order_id: int
    account_id: int
    quantity_lots: int


@dataclass(frozen=True, slots=True)
class PositionView:
    """An open margin position: lots (negative for short), quote units, ticks.

    `liquidation_ticks` is the mark at or beyond which it is liquidated, 0 for never; `leverage` is
    that of later orders.
    """

    account_id: int
    market_id: int
    quantity_lots: int
    entry_notional_units: int
    margin_units: int
    leverage: int
    liquidation_ticks: int
    realised_pnl_units: int
    fees_units: int
    opened_ns: int


@dataclass(frozen=True, slots=True)
class PositionRisk:
    """A margin position at a price (0: there is none); quote units. `liquidated` says that this
    price reaches its liquidation price."""

    market_id: int
    mark_ticks: int
    margin_units: int
    unrealised_pnl_units: int
    maintenance_units: int
    liquidated: bool


@dataclass(frozen=True, slots=True)
class CfdRisk:
    """A contract at the price at which it would close; quote units."""

    cfd_id: int
    exit_ticks: int
    margin_units: int
    unrealised_pnl_units: int
    maintenance_units: int
    liquidated: bool


@dataclass(frozen=True, slots=True)
class RiskView:
    """Everything an account has open in one quote asset, and its money of that, held included."""

    asset_id: int
    money_units: int
    positions: tuple[PositionRisk, ...]
    cfds: tuple[CfdRisk, ...]


@dataclass(frozen=True, slots=True)
class Outlook:
    """A margin position as an order would leave it: lots, quote units, ticks (0: none)."""

    quantity_lots: int
    margin_units: int
    liquidation_ticks: int


@dataclass(frozen=True, slots=True)
class LevelView:
    """A price level: its total and its queue, oldest first."""

    price_ticks: int
    quantity_lots: int
    orders: tuple[RestingView, ...]


@dataclass(frozen=True, slots=True)
class BookView:
    """Both sides of a market's book, best price first."""

    market_id: int
    bids: tuple[LevelView, ...]
    asks: tuple[LevelView, ...]


@dataclass(frozen=True, slots=True)
class MarketView:
    """A market's rules and where it stands. `last_*` are 0 before the first trade."""

    config: MarketConfig
    status: int
    last_trade_id: int
    last_price_ticks: int
