"""The life of margin positions, from the changes that the log tells of. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from services.settlement.domain.rows import PositionChange

# (account id, market id)
Key = tuple[int, int]


@dataclass(slots=True)
class OpenPosition:
    """A position under way. `opened` counts everything that ever made it larger, `closed_notional`
    what was paid or got for what made it smaller again; divided by lots they are average prices.
    """

    account_id: int
    market_id: int
    quantity_lots: int
    entry_notional_units: int
    margin_units: int
    opened_lots: int
    opened_notional_units: int
    closed_notional_units: int
    realised_pnl_units: int
    fees_units: int
    opened_ns: int
    updated_ns: int
    log_seq: int


class ClosedPosition(NamedTuple):
    """A position that has ended; `opened_lots` is negative for a short one."""

    account_id: int
    market_id: int
    opened_lots: int
    opened_notional_units: int
    closed_notional_units: int
    realised_pnl_units: int
    fees_units: int
    liquidated: bool
    opened_ns: int
    closed_ns: int
    log_seq: int
    event_index: int


def follow(
    positions: dict[Key, OpenPosition],
    changes: Iterable[PositionChange],
    liquidated: Collection[tuple[int, int]],
) -> list[ClosedPosition]:
    """Apply changes to the open positions, in place; those that ended, oldest first.

    `liquidated` has (log seq, event index) of those that a liquidation made last. A change that
    turns a position round ends it and opens another; profit and fee belong to the one that ended.
    """
    ended = []
    for change in changes:
        key = (change.account_id, change.market_id)
        before = positions.get(key)
        if before is not None and before.quantity_lots * change.quantity_lots <= 0:
            _reduce(before, change, left_notional=0)
            is_liquidated = (change.log_seq, change.event_index) in liquidated
            ended.append(_end(before, change, is_liquidated))
            del positions[key]
            if change.quantity_lots:
                positions[key] = _open(change, fee_units=0, realised_pnl_units=0)
        elif before is None:
            if change.quantity_lots:
                positions[key] = _open(change, change.fee_units, change.realised_pnl_units)
        elif abs(change.quantity_lots) < abs(before.quantity_lots):
            _reduce(before, change, left_notional=change.entry_notional_units)
            _move(before, change)
        else:
            before.opened_lots += abs(change.quantity_lots) - abs(before.quantity_lots)
            before.opened_notional_units += (
                change.entry_notional_units - before.entry_notional_units
            )
            before.realised_pnl_units += change.realised_pnl_units
            before.fees_units += change.fee_units
            _move(before, change)
    return ended


def _open(change: PositionChange, fee_units: int, realised_pnl_units: int) -> OpenPosition:
    return OpenPosition(
        account_id=change.account_id,
        market_id=change.market_id,
        quantity_lots=change.quantity_lots,
        entry_notional_units=change.entry_notional_units,
        margin_units=change.margin_units,
        opened_lots=abs(change.quantity_lots),
        opened_notional_units=change.entry_notional_units,
        closed_notional_units=0,
        realised_pnl_units=realised_pnl_units,
        fees_units=fee_units,
        opened_ns=change.time_ns,
        updated_ns=change.time_ns,
        log_seq=change.log_seq,
    )


def _reduce(position: OpenPosition, change: PositionChange, *, left_notional: int) -> None:
    """Part of it is closed: what it cost is known, and with the profit what it brought."""
    sign = 1 if position.quantity_lots > 0 else -1
    basis = position.entry_notional_units - left_notional
    position.closed_notional_units += basis + sign * change.realised_pnl_units
    position.realised_pnl_units += change.realised_pnl_units
    position.fees_units += change.fee_units


def _move(position: OpenPosition, change: PositionChange) -> None:
    position.quantity_lots = change.quantity_lots
    position.entry_notional_units = change.entry_notional_units
    position.margin_units = change.margin_units
    position.updated_ns = change.time_ns
    position.log_seq = change.log_seq


def _end(position: OpenPosition, change: PositionChange, liquidated: bool) -> ClosedPosition:
    sign = 1 if position.quantity_lots > 0 else -1
    return ClosedPosition(
        account_id=position.account_id,
        market_id=position.market_id,
        opened_lots=sign * position.opened_lots,
        opened_notional_units=position.opened_notional_units,
        closed_notional_units=position.closed_notional_units,
        realised_pnl_units=position.realised_pnl_units,
        fees_units=position.fees_units,
        liquidated=liquidated,
        opened_ns=position.opened_ns,
        closed_ns=change.time_ns,
        log_seq=change.log_seq,
        event_index=change.event_index,
    )
