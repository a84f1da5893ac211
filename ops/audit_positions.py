"""What the replay says of positions, CFDs and liquidations: the rows that the history must have.

Worked out from the core's events alone, without settlement's code: the columns, too, are written
down once more, or what settlement forgot to write would be left out of the comparison as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from services.engine.domain import events as e
from services.engine.domain import position_events as p
from services.engine.domain.exchange import Exchange


class At(NamedTuple):
    """Where an event is: log entry, number within it, time of the entry (Unix ns)."""

    log_seq: int
    event_index: int
    time_ns: int


class OpenPosition(NamedTuple):
    """A row of `open_positions`, without shard, account and market."""

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
    """A row of `closed_positions`, without shard, log position and event index."""

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


class OpenCfd(NamedTuple):
    """A row of `open_cfds`, without shard and id."""

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


class CfdEnd(NamedTuple):
    """How a CFD ended."""

    close_ticks: int
    pnl_units: int
    returned_units: int
    close_reason: int
    closed_ns: int


class Liquidation(NamedTuple):
    """A row of `liquidations`, without shard and id."""

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


@dataclass
class PositionTrail:
    """All of them so far; call `follow` with every event of the replay."""

    # (account id, market id)
    open_positions: dict[tuple[int, int], OpenPosition] = field(default_factory=dict)
    # (log seq, event index) of the event that ended it
    closed_positions: dict[tuple[int, int], ClosedPosition] = field(default_factory=dict)
    open_cfds: dict[int, OpenCfd] = field(default_factory=dict)
    closed_cfds: dict[int, tuple[OpenCfd, CfdEnd]] = field(default_factory=dict)
    liquidations: dict[int, Liquidation] = field(default_factory=dict)
    # Where the last change of each position was: a receipt comes after what it is about.
    _touched: dict[tuple[int, int], At] = field(default_factory=dict)

    def follow(self, at: At, event: e.Event) -> None:
        """Take one event in. Raises `KeyError` for a CFD that is not open."""
        if isinstance(event, p.PositionChanged):
            self._position(at, event)
        elif isinstance(event, p.CfdOpened):
            self.open_cfds[event.cfd_id] = OpenCfd(
                event.account_id,
                event.market_id,
                event.client_cfd_id,
                event.side,
                event.margin_units,
                event.notional_units,
                event.leverage,
                event.entry_ticks,
                event.liquidation_ticks,
                event.stop_loss_ticks,
                event.take_profit_ticks,
                event.fee_units,
                at.time_ns,
                at.log_seq,
            )
        elif isinstance(event, p.CfdTriggersChanged):
            self.open_cfds[event.cfd_id] = self.open_cfds[event.cfd_id]._replace(
                stop_loss_ticks=event.stop_loss_ticks, take_profit_ticks=event.take_profit_ticks
            )
        elif isinstance(event, p.CfdClosed):
            cfd = self.open_cfds.pop(event.cfd_id)
            self.closed_cfds[event.cfd_id] = (
                cfd._replace(fees_units=cfd.fees_units + event.fee_units),
                CfdEnd(
                    event.close_ticks,
                    event.pnl_units,
                    event.returned_units,
                    event.reason,
                    at.time_ns,
                ),
            )
        elif isinstance(event, p.Liquidated):
            self._liquidated(at, event)

    def against_core(self, core: Exchange) -> Iterator[str]:
        """What is open by the events must be what the core has."""
        positions = {
            (view.account_id, view.market_id): (
                view.quantity_lots,
                view.entry_notional_units,
                view.margin_units,
            )
            for account_id in core.accounts()
            for view in core.positions(account_id)
        }
        cfds = {
            view.opened.cfd_id: (
                view.opened.margin_units,
                view.opened.stop_loss_ticks,
                view.opened.take_profit_ticks,
            )
            for view in core.open_cfds()
        }
        for key in sorted(positions.keys() | self.open_positions.keys()):
            ours = self.open_positions.get(key)
            if positions.get(key) != (ours[:3] if ours else None):
                yield f"position of account {key[0]} in market {key[1]}: events give {ours}"
        for cfd_id in sorted(cfds.keys() | self.open_cfds.keys()):
            cfd = self.open_cfds.get(cfd_id)
            told = (cfd.margin_units, cfd.stop_loss_ticks, cfd.take_profit_ticks) if cfd else None
            if cfds.get(cfd_id) != told:
                yield f"CFD {cfd_id}: events give {cfd}"

    def _position(self, at: At, event: p.PositionChanged) -> None:
        key = (event.account_id, event.market_id)
        self._touched[key] = at
        before = self.open_positions.pop(key, None)
        had = before.quantity_lots if before else 0
        moved = event.quantity_lots - had
        # What goes against the position closes it; only what is left over opens another.
        closed = min(abs(had), abs(moved)) if had * moved < 0 else 0
        opened = abs(moved) - closed
        pnl, fee = event.realised_pnl_units, event.fee_units
        if before is not None and closed:
            left = 0 if opened else event.entry_notional_units
            worth = before.entry_notional_units - left + (pnl if had > 0 else -pnl)
            before = before._replace(
                closed_notional_units=before.closed_notional_units + worth,
                realised_pnl_units=before.realised_pnl_units + pnl,
                fees_units=before.fees_units + fee,
            )
            pnl = fee = 0
            if closed == abs(had):
                self.closed_positions[at.log_seq, at.event_index] = ClosedPosition(
                    *key,
                    before.opened_lots if had > 0 else -before.opened_lots,
                    before.opened_notional_units,
                    before.closed_notional_units,
                    before.realised_pnl_units,
                    before.fees_units,
                    liquidated=False,
                    opened_ns=before.opened_ns,
                    closed_ns=at.time_ns,
                )
                before = None
        if not event.quantity_lots:
            return
        begun = before or OpenPosition(0, 0, 0, 0, 0, 0, 0, 0, at.time_ns, 0, 0)
        added = event.entry_notional_units - begun.entry_notional_units if opened else 0
        self.open_positions[key] = OpenPosition(
            event.quantity_lots,
            event.entry_notional_units,
            event.margin_units,
            begun.opened_lots + opened,
            begun.opened_notional_units + added,
            begun.closed_notional_units,
            begun.realised_pnl_units + pnl,
            begun.fees_units + fee,
            begun.opened_ns,
            at.time_ns,
            at.log_seq,
        )

    def _liquidated(self, at: At, event: p.Liquidated) -> None:
        if not event.cfd_id:
            last = self._touched[event.account_id, event.market_id]
            ended = self.closed_positions.get((last.log_seq, last.event_index))
            if ended is not None:
                self.closed_positions[last.log_seq, last.event_index] = ended._replace(
                    liquidated=True
                )
        self.liquidations[event.liquidation_id] = Liquidation(
            event.account_id,
            event.market_id,
            event.cfd_id,
            event.formula_version,
            event.quantity_lots,
            event.entry_notional_units,
            event.margin_units,
            event.mark_ticks,
            event.bankruptcy_ticks,
            event.filled_lots,
            event.filled_notional_units,
            event.fund_lots,
            event.fund_delta_units,
            event.maintenance_bps,
            event.fee_bps,
            event.fee_units,
            event.returned_units,
            event.order_id,
            [one.account_id for one in event.auto_deleverages],
            [one.quantity_lots for one in event.auto_deleverages],
            [one.price_ticks for one in event.auto_deleverages],
            at.time_ns,
            at.log_seq,
            event.entry_ticks,
            event.side,
        )
