"""PositionService: margin positions here, CFDs in `servicer_cfd`, risk of both in `risk_report`.

Decode, submit, encode. The account is always the token's.
"""

from __future__ import annotations

from typing import Any

import grpc
from tidebook.engine.v1 import position_pb2, position_pb2_grpc

from kernel.reasons import Reason, Refused
from mesh.identity import require
from services.engine import codec
from services.engine.encode_positions import PositionEncoder
from services.engine.encode_risk import risk_report
from services.engine.service import Engine
from services.engine.servicer_cfd import CfdMethods

Context = grpc.aio.ServicerContext[Any, Any]


class PositionServicer(CfdMethods, position_pb2_grpc.PositionServiceServicer):
    """Margin positions, CFDs, risk, receipts of liquidations."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._positions = PositionEncoder(engine.encoder.projection, engine.encoder.texts)

    async def SetLeverage(
        self, request: position_pb2.SetLeverageRequest, context: Context
    ) -> position_pb2.SetLeverageResponse:
        account_id = require("trade").account_id
        command = codec.leverage_command(request, self._engine.texts, account_id)
        return await self._engine.do("engine.set_leverage", command, self._positions.leverage_set)

    async def ListPositions(
        self, request: position_pb2.ListPositionsRequest, context: Context
    ) -> position_pb2.ListPositionsResponse:
        account_id = require("read").account_id
        engine = self._engine
        market_id = engine.texts.id_of(request.market)
        now_ns = max(engine.clock.now_ns(), engine.projection.time_ns)
        risk = await engine.at_rest(lambda core: core.risk(account_id, now_ns))
        return position_pb2.ListPositionsResponse(
            positions=[
                message
                for one in risk.positions
                if market_id in (0, one.market_id)
                and (message := self._positions.priced(account_id, one)) is not None
            ]
        )

    async def AddMargin(
        self, request: position_pb2.AddMarginRequest, context: Context
    ) -> position_pb2.AddMarginResponse:
        account_id = require("trade").account_id
        command = codec.add_margin_command(request, self._engine.texts, account_id)
        return await self._engine.do(
            "engine.add_margin",
            command,
            lambda _: position_pb2.AddMarginResponse(
                position=self._positions.now(account_id, command.market_id)
            ),
        )

    async def ClosePosition(
        self, request: position_pb2.ClosePositionRequest, context: Context
    ) -> position_pb2.ClosePositionResponse:
        account_id = require("trade").account_id
        engine = self._engine
        market_id = engine.texts.named(request.market).market.market_id
        command = codec.LateClose(request, engine.texts, account_id, engine.clock.now_ns())
        return await engine.do(
            "engine.close_position",
            command,
            lambda events: position_pb2.ClosePositionResponse(
                position=self._positions.now(account_id, market_id),
                order_id=engine.encoder.placed(events).order.order_id,
            ),
        )

    async def GetRisk(
        self, request: position_pb2.GetRiskRequest, context: Context
    ) -> position_pb2.GetRiskResponse:
        account_id = require("read").account_id
        engine = self._engine
        if bool(request.market) != bool(request.price):
            field = "price" if request.market else "market"
            raise Refused(Reason.INVALID_ARGUMENT, "market and price go together", field=field)
        market_id = engine.texts.id_of(request.market)
        ticks = engine.texts.by_id[market_id].ticks(request.price, "price") if market_id else 0
        now_ns = max(engine.clock.now_ns(), engine.projection.time_ns)
        risk = await engine.at_rest(lambda core: core.risk(account_id, now_ns, market_id, ticks))
        return risk_report(risk, account_id, self._positions, self._cfds, engine.projection)
