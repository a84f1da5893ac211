"""PositionService: margin positions are not traded here yet, and each method says so."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from tidebook.engine.v1 import position_pb2, position_pb2_grpc

from kernel.reasons import Reason, Refused
from mesh.identity import require
from services.engine.servicer_cfd import CfdMethods

Context = grpc.aio.ServicerContext[Any, Any]


def _not_offered(scope: str) -> NoReturn:
    require(scope)
    raise Refused(Reason.UNSUPPORTED, "margin positions are not offered yet")


class PositionServicer(CfdMethods, position_pb2_grpc.PositionServiceServicer):
    """CFDs; margin positions are refused with `UNSUPPORTED`."""

    async def SetLeverage(
        self, request: position_pb2.SetLeverageRequest, context: Context
    ) -> position_pb2.SetLeverageResponse:
        _not_offered("trade")

    async def ListPositions(
        self, request: position_pb2.ListPositionsRequest, context: Context
    ) -> position_pb2.ListPositionsResponse:
        _not_offered("read")

    async def AddMargin(
        self, request: position_pb2.AddMarginRequest, context: Context
    ) -> position_pb2.AddMarginResponse:
        _not_offered("trade")

    async def ClosePosition(
        self, request: position_pb2.ClosePositionRequest, context: Context
    ) -> position_pb2.ClosePositionResponse:
        _not_offered("trade")

    async def GetRisk(
        self, request: position_pb2.GetRiskRequest, context: Context
    ) -> position_pb2.GetRiskResponse:
        _not_offered("read")
