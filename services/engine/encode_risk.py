"""An account's risk -> its public message."""

from __future__ import annotations

from tidebook.engine.v1 import position_pb2

from services.engine.domain.views import CfdRisk, PositionRisk, RiskView
from services.engine.encode_cfds import CfdEncoder
from services.engine.encode_positions import PositionEncoder
from services.engine.projection import Projection

_BPS = 10_000
# Of a position whose margin is used up: as near to liquidation as it gets.
_WORST_RATIO_BPS = 1_000_000


def risk_report(
    risk: RiskView,
    account_id: int,
    positions: PositionEncoder,
    cfds: CfdEncoder,
    projection: Projection,
) -> position_pb2.GetRiskResponse:
    """All that is open, one by one and in sum."""
    everything: list[PositionRisk | CfdRisk] = [*risk.positions, *risk.cfds]
    unrealised = sum(one.unrealised_pnl_units for one in everything)
    amount = projection.assets[risk.asset_id].format if risk.asset_id else str
    markets = projection.markets
    report = position_pb2.GetRiskResponse(
        equity=amount(risk.money_units + unrealised),
        margin=amount(sum(one.margin_units for one in everything)),
        maintenance_margin=amount(sum(one.maintenance_units for one in everything)),
        margin_ratio_bps=max(
            (
                _ratio_bps(one.maintenance_units, one.margin_units + one.unrealised_pnl_units)
                for one in everything
            ),
            default=0,
        ),
        unrealised_pnl=amount(unrealised),
        liquidated_markets=[
            markets[position.market_id].name for position in risk.positions if position.liquidated
        ],
        liquidated_cfd_ids=[cfd.cfd_id for cfd in risk.cfds if cfd.liquidated],
    )
    for position in risk.positions:
        message = positions.priced(account_id, position)
        if message is not None:
            report.positions.append(message)
    for contract in risk.cfds:
        cfd = projection.cfds.of(account_id, contract.cfd_id)
        if cfd is not None:
            report.cfds.append(cfds.priced(cfd, contract.exit_ticks, contract.unrealised_pnl_units))
    return report


def _ratio_bps(maintenance_units: int, equity_units: int) -> int:
    if maintenance_units == 0:
        return 0
    if equity_units <= 0:
        return _WORST_RATIO_BPS
    return min(_WORST_RATIO_BPS, -(-maintenance_units * _BPS // equity_units))
