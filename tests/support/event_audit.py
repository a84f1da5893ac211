"""Balances worked out from events alone, as the comments of log.proto say; nothing of the core."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from services.engine.domain import events as e
from services.engine.domain import position_events as pe

INSURANCE = 1


class EventAuditor:
    """One asset's books: free and held per account, fees, the house, what came in."""

    def __init__(self) -> None:
        self.free: dict[int, int] = defaultdict(int)
        self.held: dict[int, int] = defaultdict(int)
        self.fees = 0
        self.house = 0
        self.external = 0
        self.margins: dict[int, int] = {}

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
            elif isinstance(event, pe.Liquidated):
                self.free[event.account_id] -= event.fund_delta_units
                self.free[INSURANCE] += event.fund_delta_units
        self.check()

    def check(self) -> None:
        """Nothing is below zero, and nothing came from nowhere."""
        assert min(self.free.values(), default=0) >= 0
        assert sum(self.held.values()) == sum(self.margins.values())
        inside = sum(self.free.values()) + sum(self.held.values()) + self.fees + self.house
        assert inside == self.external
