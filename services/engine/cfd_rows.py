"""The read model of CFDs as JSON, in the header of a snapshot.

Open contracts and prices are those of the core's own snapshot, so only what is over is written.
"""

from __future__ import annotations

from typing import Any

from tidebook.engine.v1 import log_pb2

from services.engine import logcodec
from services.engine.cfd_model import CfdModel, CfdState
from services.engine.domain import position_events as pe
from services.engine.domain.exchange import Exchange


def dump(model: CfdModel) -> dict[str, Any]:
    """What has closed, and the receipts."""
    return {
        "cfds": [
            [
                _hex(cfd.opened),
                cfd.opened_ns,
                cfd.stop_loss_ticks,
                cfd.take_profit_ticks,
                cfd.fees_units,
                cfd.closed_ns,
                cfd.close_ticks,
                cfd.close_reason,
                cfd.pnl_units,
            ]
            for cfd in model.closed_cfds()
        ],
        "receipts": [
            [_hex(receipt.liquidated), receipt.seq, receipt.time_ns] for receipt in model.receipts()
        ],
    }


def load(dumped: dict[str, Any], exchange: Exchange, model: CfdModel) -> None:
    """Fill an empty model with what `dump` gave, and with what is open in the core."""
    for opened, opened_ns, *fields in dumped["cfds"]:
        event = _event(opened)
        assert isinstance(event, pe.CfdOpened)
        cfd = CfdState(event, opened_ns)
        cfd.stop_loss_ticks, cfd.take_profit_ticks, cfd.fees_units = fields[:3]
        cfd.closed_ns, cfd.close_ticks, cfd.close_reason, cfd.pnl_units = fields[3:]
        model.add_closed(cfd)
    for liquidated, seq, time_ns in dumped["receipts"]:
        event = _event(liquidated)
        assert isinstance(event, pe.Liquidated)
        model.liquidated(event, seq, time_ns)
    for view in exchange.open_cfds():
        model.opened(view.opened, view.opened_ns)
    model.prices.update({price.market_id: price for price in exchange.external_prices()})


def _hex(event: pe.CfdOpened | pe.Liquidated) -> str:
    logged = log_pb2.LoggedCommand()
    logcodec.add_events(logged, [event])
    return logged.SerializeToString(deterministic=True).hex()


def _event(text: str) -> Any:
    return logcodec.decode_events(log_pb2.LoggedCommand.FromString(bytes.fromhex(text)))[0]
