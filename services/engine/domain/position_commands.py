"""Commands about margin positions and CFDs, as plain records; see `commands`."""

# ruff: noqa: RUF023 - fields stand in the order of their numbers in the proto

from __future__ import annotations

from services.engine.domain.commands import Command


class SetLeverage(Command):
    """Leverage of the account on a market."""

    __slots__ = ("market_id", "leverage")

    def __init__(
        self,
        account_id: int = 0,
        market_id: int = 0,
        leverage: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.market_id = market_id
        self.leverage = leverage


class AddMargin(Command):
    """More margin for a position."""

    __slots__ = ("market_id", "amount_units", "request_id")

    def __init__(
        self,
        account_id: int = 0,
        market_id: int = 0,
        amount_units: int = 0,
        request_id: str = "",
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.market_id = market_id
        self.amount_units = amount_units
        self.request_id = request_id


class OpenCfd(Command):
    """A CFD against the house; BUY is long."""

    __slots__ = (
        "market_id",
        "client_cfd_id",
        "side",
        "margin_units",
        "leverage",
        "stop_loss_ticks",
        "take_profit_ticks",
    )

    def __init__(
        self,
        account_id: int = 0,
        market_id: int = 0,
        client_cfd_id: str = "",
        side: int = 0,
        margin_units: int = 0,
        leverage: int = 0,
        stop_loss_ticks: int = 0,
        take_profit_ticks: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.market_id = market_id
        self.client_cfd_id = client_cfd_id
        self.side = side
        self.margin_units = margin_units
        self.leverage = leverage
        self.stop_loss_ticks = stop_loss_ticks
        self.take_profit_ticks = take_profit_ticks


class CloseCfd(Command):
    """Close a CFD, whole."""

    __slots__ = ("cfd_id",)

    def __init__(
        self,
        account_id: int = 0,
        cfd_id: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.cfd_id = cfd_id


class UpdateCfdTriggers(Command):
    """New stop loss and take profit of a CFD; 0 removes one."""

    __slots__ = ("cfd_id", "stop_loss_ticks", "take_profit_ticks")

    def __init__(
        self,
        account_id: int = 0,
        cfd_id: int = 0,
        stop_loss_ticks: int = 0,
        take_profit_ticks: int = 0,
        deadline_ns: int = 0,
    ) -> None:
        self.account_id = account_id
        self.deadline_ns = deadline_ns
        self.cfd_id = cfd_id
        self.stop_loss_ticks = stop_loss_ticks
        self.take_profit_ticks = take_profit_ticks
