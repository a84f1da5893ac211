"""Contracts for difference and receipts of liquidations -> public messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tidebook.engine.v1 import position_pb2, types_pb2

from services.engine.cfd_model import CfdState, Receipt
from services.engine.codec import MarketTexts, set_time
from services.engine.domain import constants as k
from services.engine.domain import events as e
from services.engine.domain import position_events as pe
from services.engine.domain.cfds import profit
from services.engine.projection import Projection
from services.engine.texts import MarketText

_BPS = 10_000


class CfdEncoder:
    """Encodes against one read model."""

    def __init__(self, projection: Projection, texts: MarketTexts) -> None:
        self._projection = projection
        self._texts = texts

    def cfd(self, cfd: CfdState) -> position_pb2.Cfd:
        """A contract as it is now; an open one with its profit at the newest price."""
        message = self._terms(cfd.opened)
        text = self._texts.by_id[cfd.opened.market_id]
        message.stop_loss = text.price(cfd.stop_loss_ticks)
        message.take_profit = text.price(cfd.take_profit_ticks)
        message.fees = text.amount(cfd.fees_units)
        set_time(message.open_time, cfd.opened_ns)
        if cfd.closed_ns:
            message.ClearField("unrealised_pnl")
            set_time(message.close_time, cfd.closed_ns)
            message.close_reason = types_pb2.CfdCloseReason.ValueType(cfd.close_reason)
            message.exit_price = text.price(cfd.close_ticks)
            message.realised_pnl = text.amount(cfd.pnl_units)
        return message

    def cfds(self, cfds: Iterable[CfdState]) -> list[position_pb2.Cfd]:
        """Several contracts."""
        return [self.cfd(cfd) for cfd in cfds]

    def priced(self, cfd: CfdState, exit_ticks: int, pnl_units: int) -> position_pb2.Cfd:
        """An open contract at a price."""
        message = self.cfd(cfd)
        text = self._texts.by_id[cfd.opened.market_id]
        message.exit_price = text.price(exit_ticks)
        message.unrealised_pnl = text.amount(pnl_units)
        return message

    def opened(self, events: Sequence[e.Event]) -> position_pb2.OpenCfdResponse:
        """Answer of an accepted, or repeated, `OpenCfd`."""
        first = events[0]
        repeated = isinstance(first, e.CommandRepeated)
        assert isinstance(first, (e.CommandRepeated, pe.CfdOpened))
        cfd = self._projection.cfds.cfds.get(first.cfd_id)
        return position_pb2.OpenCfdResponse(
            # A very old one is only known by its number here; history has the rest.
            cfd=self.cfd(cfd) if cfd else position_pb2.Cfd(cfd_id=first.cfd_id),
            repeated=repeated,
        )

    def closed(self, events: Sequence[e.Event]) -> position_pb2.CloseCfdResponse:
        """Answer of `CloseCfd`."""
        return position_pb2.CloseCfdResponse(cfd=self._of(events))

    def triggers_changed(self, events: Sequence[e.Event]) -> position_pb2.UpdateCfdTriggersResponse:
        """Answer of `UpdateCfdTriggers`."""
        return position_pb2.UpdateCfdTriggersResponse(cfd=self._of(events))

    def preview(self, opened: pe.CfdOpened) -> position_pb2.PreviewCfdResponse:
        """What opening would come to; the contract has no id yet."""
        message = self._terms(opened)
        message.ClearField("cfd_id")
        text = self._texts.by_id[opened.market_id]
        message.stop_loss = text.price(opened.stop_loss_ticks)
        message.take_profit = text.price(opened.take_profit_ticks)
        message.fees = fee = text.amount(opened.fee_units)
        return position_pb2.PreviewCfdResponse(cfd=message, fee=fee)

    def receipt(self, receipt: Receipt) -> position_pb2.Liquidation:
        """A liquidation, with everything that it followed from."""
        event = receipt.liquidated
        text = self._texts.by_id[event.market_id]
        market = text.market
        deleveraged = sum(abs(counterpart.quantity_lots) for counterpart in event.auto_deleverages)
        message = position_pb2.Liquidation(
            liquidation_id=event.liquidation_id,
            market=market.name,
            cfd_id=event.cfd_id,
            formula_version=event.formula_version,
            quantity=market.format_quantity(event.quantity_lots),
            entry_notional=text.amount(event.entry_notional_units),
            margin=text.amount(event.margin_units),
            mark_price=text.price(event.mark_ticks),
            bankruptcy_price=text.price(event.bankruptcy_ticks),
            filled_quantity=market.format_quantity(event.filled_lots),
            fund_quantity=market.format_quantity(event.fund_lots),
            fund_change=text.amount(event.fund_delta_units),
            log_seq=receipt.seq,
            maintenance_bps=event.maintenance_bps,
            fee_bps=event.fee_bps,
            order_id=event.order_id,
            filled_notional=text.amount(event.filled_notional_units),
            fees=text.amount(event.fee_units),
            returned=text.amount(event.returned_units),
            deleveraged_quantity=market.format_quantity(deleveraged),
            entry_price=text.price(event.entry_ticks),
            side=types_pb2.Side.ValueType(event.side),
        )
        set_time(message.time, receipt.time_ns)
        return message

    def _of(self, events: Sequence[e.Event]) -> position_pb2.Cfd:
        first = events[0]
        assert isinstance(first, (pe.CfdClosed, pe.CfdTriggersChanged))
        return self.cfd(self._projection.cfds.cfds[first.cfd_id])

    def _terms(self, opened: pe.CfdOpened) -> position_pb2.Cfd:
        """What was agreed, and what it is worth at the newest price."""
        text = self._texts.by_id[opened.market_id]
        message = position_pb2.Cfd(
            cfd_id=opened.cfd_id,
            client_cfd_id=opened.client_cfd_id,
            market=text.market.name,
            side=types_pb2.Side.ValueType(opened.side),
            margin=text.amount(opened.margin_units),
            leverage=opened.leverage,
            notional=text.amount(opened.notional_units),
            entry_price=text.price(opened.entry_ticks),
            liquidation_price=liquidation_price(text, opened),
        )
        price = self._projection.cfds.prices.get(opened.market_id)
        if price is not None:
            long = opened.side == k.SIDE_BUY
            exit_ticks = (price.bid_ticks if long else price.ask_ticks) or price.index_ticks
            pnl = profit(opened.side, opened.notional_units, opened.entry_ticks, exit_ticks)
            message.exit_price = text.price(exit_ticks)
            message.unrealised_pnl = text.amount(max(pnl, -opened.margin_units))
        return message


def liquidation_price(text: MarketText, opened: pe.CfdOpened) -> str:
    """Where equity is the maintenance: it is liquidated beyond. Between two ticks as it comes, to
    the unit of the quote asset; empty for a long contract without leverage.
    """
    rate_bps = opened.maintenance_bps + opened.fee_bps
    sign = -1 if opened.side == k.SIDE_BUY else 1
    entry_units = opened.entry_ticks * text.market.tick_size_units
    units = (
        entry_units
        * (opened.leverage + sign)
        * _BPS
        // (opened.leverage * (_BPS + sign * rate_bps))
    )
    return text.amount(units) if units else ""
