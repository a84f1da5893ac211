"""Margin positions -> public messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tidebook.engine.v1 import order_pb2, position_pb2

from services.engine.codec import MarketTexts, set_time
from services.engine.domain import events as e
from services.engine.domain import position_events as pe
from services.engine.domain.exchange import Exchange
from services.engine.domain.views import PositionRisk, PositionView
from services.engine.margin_model import PositionState
from services.engine.projection import Projection
from services.engine.texts import MarketText


class PositionEncoder:
    """Encodes against one read model."""

    def __init__(self, projection: Projection, texts: MarketTexts) -> None:
        self._projection = projection
        self._texts = texts

    def position(self, position: PositionState) -> position_pb2.Position:
        """A position as it is now, without what moves with the mark price."""
        text = self._texts.by_id[position.market_id]
        message = position_pb2.Position(
            market=text.market.name,
            quantity=text.market.format_quantity(position.quantity_lots),
            entry_notional=text.amount(position.entry_notional_units),
            margin=text.amount(position.margin_units),
            leverage=self._projection.margin.leverage(position.account_id, position.market_id),
            realised_pnl=text.amount(position.realised_pnl_units),
            liquidation_price=text.price(position.liquidation_ticks),
            fees=text.amount(position.fees_units),
        )
        set_time(message.open_time, position.opened_ns)
        return message

    def positions(self, positions: Iterable[PositionState]) -> list[position_pb2.Position]:
        """Several positions."""
        return [self.position(position) for position in positions]

    def priced(self, account_id: int, risk: PositionRisk) -> position_pb2.Position | None:
        """An open position at a price; None if it has closed since."""
        position = self._projection.margin.of(account_id, risk.market_id)
        if position is None:
            return None
        message = self.position(position)
        text = self._texts.by_id[risk.market_id]
        message.mark_price = text.price(risk.mark_ticks)
        message.unrealised_pnl = text.amount(risk.unrealised_pnl_units)
        message.maintenance_margin = text.amount(risk.maintenance_units)
        return message

    def leverage_set(self, events: Sequence[e.Event]) -> position_pb2.SetLeverageResponse:
        """Answer of `SetLeverage`."""
        event = events[0]
        assert isinstance(event, pe.LeverageChanged)
        return position_pb2.SetLeverageResponse(leverage=event.leverage)

    def now(self, account_id: int, market_id: int) -> position_pb2.Position:
        """The account's position in a market, of no quantity when there is none."""
        position = self._projection.margin.of(account_id, market_id)
        if position is not None:
            return self.position(position)
        text = self._texts.by_id[market_id]
        return position_pb2.Position(
            market=text.market.name,
            quantity="0",
            leverage=self._projection.margin.leverage(account_id, market_id),
        )


def write_position(
    response: order_pb2.PreviewOrderResponse,
    text: MarketText,
    before: PositionView | None,
    trial: Exchange,
    events: Sequence[e.Event],
    now_ns: int,
) -> None:
    """What an order, once all of it is filled, makes of a position; `trial` has taken it."""
    placed = events[0]
    assert isinstance(placed, e.OrderPlaced)
    after = trial.outlook(placed.account_id, placed.market_id, placed.order_id, now_ns)
    response.margin = text.amount(after.margin_units - (before.margin_units if before else 0))
    response.position_quantity = text.market.format_quantity(after.quantity_lots)
    response.liquidation_price = text.price(after.liquidation_ticks)
