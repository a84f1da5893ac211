"""What a batch of the log leaves to be written, row by row.

Named tuples, because a busy second makes tens of thousands of them. Units are those of log.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from services.settlement.domain.facts import (
    OrderPlacedFact,
    OrderRequestFact,
    OrderStatus,
    Side,
)
from services.settlement.domain.ledger import Posting, TransactionKind


class AssetRow(NamedTuple):
    """An asset as configured in the log."""

    asset_id: int
    code: str
    decimals: int
    transfer_decimals: int


class MarketKind(IntEnum):
    """`tidebook.engine.v1.MarketKind`; a test holds the numbers together."""

    SPOT = 1
    MARGIN = 2
    CFD = 3


class MarketRow(NamedTuple):
    """A market as configured in the log: what settlement has to know of it."""

    market_id: int
    name: str
    kind: int
    base_asset_id: int
    quote_asset_id: int
    tick_size_units: int
    lot_size_units: int


class Transaction(NamedTuple):
    """A ledger transaction: the event that caused it and its postings."""

    log_seq: int
    event_index: int
    kind: TransactionKind
    order_id: int
    time_ns: int
    postings: list[Posting]


class NewOrder(NamedTuple):
    """An accepted order as it came; what became of it is in its `OrderChange`."""

    placed: OrderPlacedFact
    request: OrderRequestFact
    created_ns: int
    log_seq: int


@dataclass(slots=True)
class OrderChange:
    """What a batch did to an order: sums to add, and new values where they are not None."""

    updated_ns: int = 0
    filled_lots: int = 0
    filled_notional_units: int = 0
    fees_units: int = 0
    status: OrderStatus | None = None
    close_reason: int | None = None
    price_ticks: int | None = None
    quantity_lots: int | None = None
    trigger_price_ticks: int | None = None


class Fill(NamedTuple):
    """One side of a trade."""

    market_id: int
    trade_id: int
    maker: bool
    account_id: int
    order_id: int
    side: Side
    price_ticks: int
    quantity_lots: int
    notional_units: int
    fee_units: int
    time_ns: int
    log_seq: int


class TransferOutcome(NamedTuple):
    """What the engine did with a transfer; `refusal` is 0 when it was applied."""

    engine_transfer_id: int
    refusal: int
    log_seq: int
    time_ns: int


class TracedCommand(NamedTuple):
    """The first command of a log entry with this span, for the span of their settlement. `time_ns`
    is that of the engine when it took up the entry.
    """

    trace_id: bytes
    span_id: bytes
    log_seq: int
    order_id: int
    time_ns: int


class PositionChange(NamedTuple):
    """A margin position after a change, and what the change paid."""

    account_id: int
    market_id: int
    quantity_lots: int
    entry_notional_units: int
    margin_units: int
    realised_pnl_units: int
    fee_units: int
    time_ns: int
    log_seq: int
    event_index: int


class CfdOpening(NamedTuple):
    """A CFD as it opened."""

    cfd_id: int
    account_id: int
    market_id: int
    client_cfd_id: str
    side: int
    margin_units: int
    notional_units: int
    leverage: int
    entry_ticks: int
    liquidation_ticks: int
    stop_loss_ticks: int
    take_profit_ticks: int
    fees_units: int
    opened_ns: int
    log_seq: int


class CfdTriggers(NamedTuple):
    """New triggers of an open CFD."""

    cfd_id: int
    stop_loss_ticks: int
    take_profit_ticks: int


class CfdClosing(NamedTuple):
    """How a CFD ended."""

    cfd_id: int
    close_ticks: int
    pnl_units: int
    returned_units: int
    fee_units: int
    close_reason: int
    closed_ns: int


class LiquidationRow(NamedTuple):
    """The receipt of a liquidation."""

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
    deleveraged_accounts: list[int]
    deleveraged_lots: list[int]
    deleveraged_ticks: list[int]
    time_ns: int
    log_seq: int
    entry_ticks: int
    side: int
