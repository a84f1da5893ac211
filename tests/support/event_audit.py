"""Balances worked out from events alone, as the comments of log.proto say; nothing of the core."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from services.engine.domain import events as e
from services.engine.domain import position_events as pe

INSURANCE = 1


class EventAuditor:
    """One asset's books: free and held per account, fees, the house, clearing, what came in.

    All orders must be of MARGIN markets, whose trades move no money of their own.
    """

    def __init__(self) -> None:
        self.free: dict[int, int] = defaultdict(int)
        self.held: dict[int, int] = defaultdict(int)
        self.fees = 0
        self.house = 0
        self.external = 0
        self.margins: dict[int, int] = {}
        self.clearing = 0
        # What live orders hold, and the margin of open positions by account and market.
        self.holds: dict[int, int] = defaultdict(int)
        self.positions: dict[tuple[int, int], pe.PositionChanged] = {}

    def take(self, events: Iterable[e.Event]) -> None:
        """Book the events of one command."""
        for event in events:
            if isinstance(event, e.TransferApplied):
                self.free[event.account_id] += event.amount_units
                self.external += event.amount_units
            elif isinstance(event, pe.CfdOpened):
                self.free[event.account_id] -= event.margin_units + event.fee_units
                self.held[event.account_id] += event.margin_units
                self.fees += event.fee_units
                assert event.cfd_id not in self.margins
                self.margins[event.cfd_id] = event.margin_units
            elif isinstance(event, pe.CfdClosed):
                assert self.margins.pop(event.cfd_id) == event.margin_units
                self.held[event.account_id] -= event.margin_units
                self.free[event.account_id] += event.returned_units
                self.fees += event.fee_units
                self.house += event.margin_units - event.returned_units - event.fee_units
            elif isinstance(event, e.OrderPlaced):
                self._hold(event.account_id, event.order_id, event.hold_units)
            elif isinstance(event, e.OrderAmended | e.OrderTriggered):
                self._hold(event.account_id, event.order_id, event.hold_delta)
            elif isinstance(event, e.OrderClosed):
                self._hold(event.account_id, event.order_id, -event.hold_released)
                assert self.holds.pop(event.order_id) == 0
            elif isinstance(event, pe.PositionChanged):
                self._position(event)
            elif isinstance(event, pe.Liquidated):
                self.free[event.account_id] -= event.fund_delta_units
                self.free[INSURANCE] += event.fund_delta_units
        self.check()

    def check(self) -> None:
        """Nothing is below zero, and nothing came from nowhere."""
        assert min(self.free.values(), default=0) >= 0
        assert min(self.holds.values(), default=0) >= 0
        margins = sum(position.margin_units for position in self.positions.values())
        needed = sum(self.margins.values()) + sum(self.holds.values()) + margins
        assert sum(self.held.values()) == needed
        inside = sum(self.free.values()) + sum(self.held.values()) + self.fees + self.house
        assert inside + self.clearing == self.external
        # Profits paid are the entry notionals of longs minus those of shorts.
        entries = sum(
            position.entry_notional_units * (1 if position.quantity_lots > 0 else -1)
            for position in self.positions.values()
        )
        assert self.clearing == -entries

    def _hold(self, account_id: int, order_id: int, units: int) -> None:
        self.free[account_id] -= units
        self.held[account_id] += units
        self.holds[order_id] += units

    def _position(self, event: pe.PositionChanged) -> None:
        key = event.account_id, event.market_id
        before = self.positions.pop(key, None)
        lots, margin = (before.quantity_lots, before.margin_units) if before else (0, 0)
        assert event.quantity_lots == lots + event.delta_lots
        assert event.margin_units == margin + event.margin_delta_units
        if event.quantity_lots:
            self.positions[key] = event
        else:
            assert (event.entry_notional_units, event.margin_units) == (0, 0)
        if event.order_id:
            self.holds[event.order_id] -= event.hold_released
        self.free[event.account_id] += (
            event.hold_released
            + event.realised_pnl_units
            - event.margin_delta_units
            - event.fee_units
        )
        self.held[event.account_id] += event.margin_delta_units - event.hold_released
        self.fees += event.fee_units
        self.clearing -= event.realised_pnl_units
