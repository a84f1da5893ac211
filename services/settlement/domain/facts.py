"""The facts of the log that settlement follows, as it wants to read them.

The generated messages of `log.proto` have these attributes, so they are read as they are: a copy of
every event would cost more than all the rest of applying it. Units are those of log.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Protocol


class Side(IntEnum):
    """`tidebook.engine.v1.Side`; a test holds the numbers together."""

    BUY = 1
    SELL = 2


class OrderStatus(IntEnum):
    """`tidebook.engine.v1.OrderStatus`; a test holds the numbers together."""

    OPEN = 2
    PARTIALLY_FILLED = 3
    FILLED = 4
    CANCELLED = 5
    EXPIRED = 6
    UNTRIGGERED = 8


class TransferKind(IntEnum):
    """`tidebook.engine.v1.TransferKind`; a test holds the numbers together."""

    DEPOSIT = 1
    WITHDRAWAL = 2
    WITHDRAWAL_CANCELLED = 3
    SHARD = 4


class TransferFact(Protocol):
    """TransferApplied."""

    transfer_id: int
    account_id: int
    asset_id: int
    amount_units: int

    @property
    def kind(self) -> int: ...


class OrderRequestFact(Protocol):
    """PlaceOrderCommand: what was asked for."""

    client_order_id: str
    quote_amount_units: int
    post_only: bool
    reduce_only: bool
    display_quantity_lots: int
    expire_ns: int
    trailing_bps: int

    @property
    def type(self) -> int: ...
    @property
    def time_in_force(self) -> int: ...
    @property
    def self_trade_prevention(self) -> int: ...
    @property
    def trigger_source(self) -> int: ...


class OrderPlacedFact(Protocol):
    """OrderPlaced."""

    order_id: int
    account_id: int
    market_id: int
    hold_asset_id: int
    hold_units: int
    price_ticks: int
    quantity_lots: int
    trigger_price_ticks: int
    oco_order_id: int

    @property
    def side(self) -> int: ...


class TradeFact(Protocol):
    """Trade."""

    trade_id: int
    market_id: int
    price_ticks: int
    quantity_lots: int
    maker_order_id: int
    maker_account_id: int
    taker_order_id: int
    taker_account_id: int
    maker_fee_units: int
    taker_fee_units: int
    quote_hold_taken: int
    notional_units: int
    base_units: int

    @property
    def taker_side(self) -> int: ...


class OrderClosedFact(Protocol):
    """OrderClosed."""

    order_id: int
    account_id: int
    hold_released: int
    hold_asset_id: int

    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> int: ...


class OrderAmendedFact(Protocol):
    """OrderAmended."""

    order_id: int
    account_id: int
    price_ticks: int
    quantity_lots: int
    hold_delta: int
    hold_asset_id: int
    trigger_price_ticks: int


class OrderTriggeredFact(Protocol):
    """OrderTriggered."""

    order_id: int
    account_id: int
    hold_delta: int
    hold_asset_id: int


class PositionFact(Protocol):
    """PositionChanged."""

    account_id: int
    market_id: int
    quantity_lots: int
    entry_notional_units: int
    margin_units: int
    realised_pnl_units: int
    margin_delta_units: int
    order_id: int
    fee_units: int
    hold_released: int


class CfdOpenedFact(Protocol):
    """CfdOpened."""

    cfd_id: int
    account_id: int
    market_id: int
    client_cfd_id: str
    entry_ticks: int
    margin_units: int
    notional_units: int
    leverage: int
    liquidation_ticks: int
    stop_loss_ticks: int
    take_profit_ticks: int
    fee_units: int

    @property
    def side(self) -> int: ...


class CfdTriggersFact(Protocol):
    """CfdTriggersChanged."""

    cfd_id: int
    stop_loss_ticks: int
    take_profit_ticks: int


class CfdClosedFact(Protocol):
    """CfdClosed."""

    cfd_id: int
    account_id: int
    market_id: int
    close_ticks: int
    pnl_units: int
    returned_units: int
    margin_units: int
    fee_units: int

    @property
    def reason(self) -> int: ...


class DeleverageFact(Protocol):
    """AutoDeleverage."""

    account_id: int
    quantity_lots: int
    price_ticks: int


class LiquidatedFact(Protocol):
    """Liquidated."""

    liquidation_id: int
    account_id: int
    market_id: int
    cfd_id: int
    formula_version: int
    quantity_lots: int
    entry_notional_units: int
    margin_units: int
    mark_ticks: int
    bankruptcy_ticks: int
    filled_lots: int
    filled_notional_units: int
    fund_lots: int
    fund_delta_units: int
    maintenance_bps: int
    fee_bps: int
    fee_units: int
    returned_units: int
    order_id: int
    entry_ticks: int

    @property
    def side(self) -> int: ...

    @property
    def auto_deleverages(self) -> Iterable[DeleverageFact]: ...
