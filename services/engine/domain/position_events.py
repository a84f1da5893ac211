"""Events of margin positions, CFDs and liquidations, as plain records; see `events`."""

# ruff: noqa: RUF023 - fields stand in the order of their numbers in the proto

from __future__ import annotations

from services.engine.domain.events import Event
from services.engine.domain.record import Record


class PositionChanged(Event):
    """A margin position after a change, with all the money it moved.

    free += hold_released + realised_pnl - margin_delta - fee; held += margin_delta - hold_released;
    fees += fee; clearing -= realised_pnl.
    """

    __slots__ = (
        "account_id",
        "market_id",
        "quantity_lots",
        "entry_notional_units",
        "margin_units",
        "realised_pnl_units",
        "margin_delta_units",
        "trade_id",
        "order_id",
        "fee_units",
        "hold_released",
        "delta_lots",
        "price_ticks",
        "liquidation_ticks",
        "cause",
    )

    def __init__(
        self,
        account_id: int,
        market_id: int,
        quantity_lots: int,
        entry_notional_units: int,
        margin_units: int,
        realised_pnl_units: int,
        margin_delta_units: int,
        trade_id: int,
        order_id: int,
        fee_units: int,
        hold_released: int,
        delta_lots: int,
        price_ticks: int,
        liquidation_ticks: int,
        cause: int,
    ) -> None:
        self.account_id = account_id
        self.market_id = market_id
        self.quantity_lots = quantity_lots
        self.entry_notional_units = entry_notional_units
        self.margin_units = margin_units
        self.realised_pnl_units = realised_pnl_units
        self.margin_delta_units = margin_delta_units
        self.trade_id = trade_id
        self.order_id = order_id
        self.fee_units = fee_units
        self.hold_released = hold_released
        self.delta_lots = delta_lots
        self.price_ticks = price_ticks
        self.liquidation_ticks = liquidation_ticks
        self.cause = cause


class CfdOpened(Event):
    """free -= margin_units + fee_units, held += margin_units, fees += fee_units."""

    __slots__ = (
        "cfd_id",
        "account_id",
        "market_id",
        "side",
        "entry_ticks",
        "margin_units",
        "notional_units",
        "leverage",
        "liquidation_ticks",
        "stop_loss_ticks",
        "take_profit_ticks",
        "fee_units",
        "client_cfd_id",
        "maintenance_bps",
        "fee_bps",
    )

    def __init__(
        self,
        cfd_id: int,
        account_id: int,
        market_id: int,
        side: int,
        entry_ticks: int,
        margin_units: int,
        notional_units: int,
        leverage: int,
        liquidation_ticks: int,
        stop_loss_ticks: int,
        take_profit_ticks: int,
        fee_units: int,
        client_cfd_id: str,
        maintenance_bps: int = 0,
        fee_bps: int = 0,
    ) -> None:
        self.cfd_id = cfd_id
        self.account_id = account_id
        self.market_id = market_id
        self.side = side
        self.entry_ticks = entry_ticks
        self.margin_units = margin_units
        self.notional_units = notional_units
        self.leverage = leverage
        self.liquidation_ticks = liquidation_ticks
        self.stop_loss_ticks = stop_loss_ticks
        self.take_profit_ticks = take_profit_ticks
        self.fee_units = fee_units
        self.client_cfd_id = client_cfd_id
        self.maintenance_bps = maintenance_bps
        self.fee_bps = fee_bps


class CfdClosed(Event):
    """held -= margin_units, free += returned_units, fees += fee_units; the house gets the rest."""

    __slots__ = (
        "cfd_id",
        "account_id",
        "market_id",
        "close_ticks",
        "pnl_units",
        "returned_units",
        "reason",
        "margin_units",
        "fee_units",
    )

    def __init__(
        self,
        cfd_id: int,
        account_id: int,
        market_id: int,
        close_ticks: int,
        pnl_units: int,
        returned_units: int,
        reason: int,
        margin_units: int,
        fee_units: int,
    ) -> None:
        self.cfd_id = cfd_id
        self.account_id = account_id
        self.market_id = market_id
        self.close_ticks = close_ticks
        self.pnl_units = pnl_units
        self.returned_units = returned_units
        self.reason = reason
        self.margin_units = margin_units
        self.fee_units = fee_units


class CfdTriggersChanged(Event):
    """Triggers of a CFD now."""

    __slots__ = ("cfd_id", "account_id", "stop_loss_ticks", "take_profit_ticks")

    def __init__(
        self,
        cfd_id: int,
        account_id: int,
        stop_loss_ticks: int,
        take_profit_ticks: int,
    ) -> None:
        self.cfd_id = cfd_id
        self.account_id = account_id
        self.stop_loss_ticks = stop_loss_ticks
        self.take_profit_ticks = take_profit_ticks


class AutoDeleverage(Record):
    """One counterpart of an auto-deleveraging."""

    __slots__ = ("account_id", "quantity_lots", "price_ticks")

    def __init__(
        self,
        account_id: int = 0,
        quantity_lots: int = 0,
        price_ticks: int = 0,
    ) -> None:
        self.account_id = account_id
        self.quantity_lots = quantity_lots
        self.price_ticks = price_ticks


class Liquidated(Event):
    """Receipt of a liquidation. free -= fund_delta_units, the fund gets it."""

    __slots__ = (
        "liquidation_id",
        "account_id",
        "market_id",
        "cfd_id",
        "formula_version",
        "quantity_lots",
        "entry_notional_units",
        "margin_units",
        "mark_ticks",
        "bankruptcy_ticks",
        "filled_lots",
        "fund_lots",
        "fund_delta_units",
        "auto_deleverages",
        "maintenance_bps",
        "fee_bps",
        "order_id",
        "filled_notional_units",
        "fee_units",
        "returned_units",
        "entry_ticks",
        "side",
    )

    def __init__(
        self,
        liquidation_id: int,
        account_id: int,
        market_id: int,
        cfd_id: int,
        formula_version: int,
        quantity_lots: int,
        entry_notional_units: int,
        margin_units: int,
        mark_ticks: int,
        bankruptcy_ticks: int,
        filled_lots: int,
        fund_lots: int,
        fund_delta_units: int,
        auto_deleverages: tuple[AutoDeleverage, ...],
        maintenance_bps: int,
        fee_bps: int,
        order_id: int,
        filled_notional_units: int,
        fee_units: int,
        returned_units: int,
        entry_ticks: int = 0,
        side: int = 0,
    ) -> None:
        self.liquidation_id = liquidation_id
        self.account_id = account_id
        self.market_id = market_id
        self.cfd_id = cfd_id
        self.formula_version = formula_version
        self.quantity_lots = quantity_lots
        self.entry_notional_units = entry_notional_units
        self.margin_units = margin_units
        self.mark_ticks = mark_ticks
        self.bankruptcy_ticks = bankruptcy_ticks
        self.filled_lots = filled_lots
        self.fund_lots = fund_lots
        self.fund_delta_units = fund_delta_units
        self.auto_deleverages = auto_deleverages
        self.maintenance_bps = maintenance_bps
        self.fee_bps = fee_bps
        self.order_id = order_id
        self.filled_notional_units = filled_notional_units
        self.fee_units = fee_units
        self.returned_units = returned_units
        self.entry_ticks = entry_ticks
        self.side = side


class LeverageChanged(Event):
    """Leverage chosen."""

    __slots__ = ("account_id", "market_id", "leverage")

    def __init__(
        self,
        account_id: int,
        market_id: int,
        leverage: int,
    ) -> None:
        self.account_id = account_id
        self.market_id = market_id
        self.leverage = leverage
