"""Positions, CFDs and liquidations: the money that moves with them, and their history. Pure.

Everything is in the quote asset of the market; which way money moves is said at each event in
log.proto.
"""

from __future__ import annotations

from services.settlement.domain import ledger
from services.settlement.domain.batch import Batch
from services.settlement.domain.facts import (
    CfdClosedFact,
    CfdOpenedFact,
    CfdTriggersFact,
    LiquidatedFact,
    PositionFact,
)
from services.settlement.domain.ledger import Move, TransactionKind
from services.settlement.domain.rows import (
    CfdClosing,
    CfdOpening,
    CfdTriggers,
    LiquidationRow,
    PositionChange,
)

INSURANCE_FUND = 1


def position_changed(batch: Batch, event: PositionFact) -> None:
    """A position grew, shrank, turned round or got more margin; fee and profit are paid."""
    asset_id = batch.market(event.market_id).quote_asset_id
    free, held = ledger.free(event.account_id, asset_id), ledger.held(event.account_id, asset_id)
    order_id = event.order_id
    batch.post(
        TransactionKind.POSITION,
        order_id,
        (
            Move(held, free, event.hold_released - event.margin_delta_units, order_id, order_id),
            Move(ledger.clearing(asset_id), free, event.realised_pnl_units, 0, order_id),
            Move(free, ledger.fees(asset_id), event.fee_units, order_id),
        ),
    )
    batch.position_changes.append(
        PositionChange(
            account_id=event.account_id,
            market_id=event.market_id,
            quantity_lots=event.quantity_lots,
            entry_notional_units=event.entry_notional_units,
            margin_units=event.margin_units,
            realised_pnl_units=event.realised_pnl_units,
            fee_units=event.fee_units,
            time_ns=batch.time_ns,
            log_seq=batch.log_seq,
            event_index=batch.event_index,
        )
    )


def cfd_opened(batch: Batch, event: CfdOpenedFact) -> None:
    """A client took a contract against the house."""
    asset_id = batch.market(event.market_id).quote_asset_id
    free, held = ledger.free(event.account_id, asset_id), ledger.held(event.account_id, asset_id)
    batch.post(
        TransactionKind.CFD_OPEN,
        0,
        (
            Move(free, held, event.margin_units),
            Move(free, ledger.fees(asset_id), event.fee_units),
        ),
    )
    batch.cfds.append(
        CfdOpening(
            cfd_id=event.cfd_id,
            account_id=event.account_id,
            market_id=event.market_id,
            client_cfd_id=event.client_cfd_id,
            side=event.side,
            margin_units=event.margin_units,
            notional_units=event.notional_units,
            leverage=event.leverage,
            entry_ticks=event.entry_ticks,
            liquidation_ticks=event.liquidation_ticks,
            stop_loss_ticks=event.stop_loss_ticks,
            take_profit_ticks=event.take_profit_ticks,
            fees_units=event.fee_units,
            opened_ns=batch.time_ns,
            log_seq=batch.log_seq,
        )
    )


def cfd_triggers_changed(batch: Batch, event: CfdTriggersFact) -> None:
    """Stop loss or take profit of a contract are others now."""
    batch.cfds.append(CfdTriggers(event.cfd_id, event.stop_loss_ticks, event.take_profit_ticks))


def cfd_closed(batch: Batch, event: CfdClosedFact) -> None:
    """A contract ended: what the client does not get back is fee, or the house's."""
    asset_id = batch.market(event.market_id).quote_asset_id
    held = ledger.held(event.account_id, asset_id)
    lost = event.margin_units - event.returned_units - event.fee_units
    batch.post(
        TransactionKind.CFD_CLOSE,
        0,
        (
            Move(held, ledger.free(event.account_id, asset_id), event.returned_units),
            Move(held, ledger.fees(asset_id), event.fee_units),
            Move(held, ledger.house(asset_id), lost),
        ),
    )
    batch.cfds.append(
        CfdClosing(
            cfd_id=event.cfd_id,
            close_ticks=event.close_ticks,
            pnl_units=event.pnl_units,
            returned_units=event.returned_units,
            fee_units=event.fee_units,
            close_reason=event.reason,
            closed_ns=batch.time_ns,
        )
    )


def liquidated(batch: Batch, event: LiquidatedFact) -> None:
    """The receipt of a liquidation; what is left of the surplus goes to the insurance fund."""
    asset_id = batch.market(event.market_id).quote_asset_id
    fund = ledger.free(INSURANCE_FUND, asset_id)
    move = Move(ledger.free(event.account_id, asset_id), fund, event.fund_delta_units)
    batch.post(TransactionKind.LIQUIDATION, event.order_id, (move,))
    if not event.cfd_id:
        # The receipt comes after all that was done to the position, in the same command.
        key = (event.account_id, event.market_id)
        last = next(
            (c for c in reversed(batch.position_changes) if (c.account_id, c.market_id) == key),
            None,
        )
        if last is not None:
            batch.liquidated.add((last.log_seq, last.event_index))
    batch.liquidations.append(
        LiquidationRow(
            liquidation_id=event.liquidation_id,
            account_id=event.account_id,
            market_id=event.market_id,
            cfd_id=event.cfd_id,
            formula_version=event.formula_version,
            quantity_lots=event.quantity_lots,
            entry_notional_units=event.entry_notional_units,
            margin_units=event.margin_units,
            mark_ticks=event.mark_ticks,
            bankruptcy_ticks=event.bankruptcy_ticks,
            filled_lots=event.filled_lots,
            filled_notional_units=event.filled_notional_units,
            fund_lots=event.fund_lots,
            fund_delta_units=event.fund_delta_units,
            maintenance_bps=event.maintenance_bps,
            fee_bps=event.fee_bps,
            fee_units=event.fee_units,
            returned_units=event.returned_units,
            order_id=event.order_id,
            deleveraged_accounts=[one.account_id for one in event.auto_deleverages],
            deleveraged_lots=[one.quantity_lots for one in event.auto_deleverages],
            deleveraged_ticks=[one.price_ticks for one in event.auto_deleverages],
            time_ns=batch.time_ns,
            log_seq=batch.log_seq,
            entry_ticks=event.entry_ticks,
            side=event.side,
        )
    )
