"""What readers see of margin positions; the projection keeps it, from events alone."""

from __future__ import annotations

from services.engine.domain import position_events as pe


class PositionState:
    """A margin position, open or just closed. Lots (negative for short), quote units, ticks; times
    in Unix nanoseconds. Profit and fees are those since it opened.
    """

    __slots__ = (
        "account_id",
        "entry_notional_units",
        "fees_units",
        "liquidation_ticks",
        "margin_units",
        "market_id",
        "opened_ns",
        "quantity_lots",
        "realised_pnl_units",
    )

    def __init__(self, account_id: int, market_id: int, opened_ns: int) -> None:
        self.account_id = account_id
        self.market_id = market_id
        self.opened_ns = opened_ns
        self.quantity_lots = 0
        self.entry_notional_units = 0
        self.margin_units = 0
        self.liquidation_ticks = 0
        self.realised_pnl_units = 0
        self.fees_units = 0


class MarginModel:
    """Open positions and chosen leverages, by account and market."""

    def __init__(self) -> None:
        self._positions: dict[int, dict[int, PositionState]] = {}
        self._leverages: dict[int, dict[int, int]] = {}

    def of(self, account_id: int, market_id: int) -> PositionState | None:
        """An open position."""
        owned = self._positions.get(account_id)
        return None if owned is None else owned.get(market_id)

    def open_of(self, account_id: int, market_id: int = 0) -> list[PositionState]:
        """Open positions of an account, by market; of all markets when `market_id` is 0."""
        owned = self._positions.get(account_id)
        if owned is None:
            return []
        return [owned[key] for key in sorted(owned) if market_id in (0, key)]

    def leverage(self, account_id: int, market_id: int) -> int:
        """Leverage for new orders; 1 if the account has chosen none."""
        chosen = self._leverages.get(account_id)
        return 1 if chosen is None else chosen.get(market_id, 1)

    def changed(self, event: pe.PositionChanged, now_ns: int) -> PositionState:
        """A position after a change; one that was turned round is a new one."""
        account_id, market_id = event.account_id, event.market_id
        position = self.of(account_id, market_id)
        if position is None:
            position = self.add(PositionState(account_id, market_id, now_ns))
            position.fees_units = event.fee_units
            position.realised_pnl_units = event.realised_pnl_units
        elif (position.quantity_lots > 0) != (event.quantity_lots > 0) and event.quantity_lots:
            # Profit and fee of this change belong to the one that ended.
            position = self.add(PositionState(account_id, market_id, now_ns))
        else:
            position.fees_units += event.fee_units
            position.realised_pnl_units += event.realised_pnl_units
        position.quantity_lots = event.quantity_lots
        position.entry_notional_units = event.entry_notional_units
        position.margin_units = event.margin_units
        position.liquidation_ticks = event.liquidation_ticks
        if event.quantity_lots == 0:
            owned = self._positions[account_id]
            del owned[market_id]
            if not owned:
                del self._positions[account_id]
        return position

    def leverage_changed(self, event: pe.LeverageChanged) -> None:
        """An account chose its leverage on a market."""
        self._leverages.setdefault(event.account_id, {})[event.market_id] = event.leverage

    def add(self, position: PositionState) -> PositionState:
        """Take an open position, in place of the one known until now."""
        self._positions.setdefault(position.account_id, {})[position.market_id] = position
        return position

    def positions(self) -> list[PositionState]:
        """Open positions of all accounts."""
        return [position for owned in self._positions.values() for position in owned.values()]

    def leverages(self) -> list[tuple[int, int, int]]:
        """(account id, market id, leverage), where one was chosen."""
        return [
            (account_id, market_id, leverage)
            for account_id, chosen in self._leverages.items()
            for market_id, leverage in chosen.items()
        ]
