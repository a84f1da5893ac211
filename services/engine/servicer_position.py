"""PositionService: margin positions and CFDs are not traded here yet, and each method says so."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from tidebook.engine.v1 import position_pb2, position_pb2_grpc

from kernel.reasons import Reason, Refused
from mesh.identity import require

Context = grpc.aio.ServicerContext[Any, Any]


def _not_offered(scope: str) -> NoReturn:
    require(scope)
    raise Refused(Reason.UNSUPPORTED, "margin positions and CFDs are not offered yet")


class PositionServicer(position_pb2_grpc.PositionServiceServicer):
    """Refuses everything with `UNSUPPORTED`."""

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

    async def OpenCfd(
        self, request: position_pb2.OpenCfdRequest, context: Context
    ) -> position_pb2.OpenCfdResponse:
        _not_offered("trade")

    async def CloseCfd(
        self, request: position_pb2.CloseCfdRequest, context: Context
    ) -> position_pb2.CloseCfdResponse:
        _not_offered("trade")

    async def UpdateCfdTriggers(
        self, request: position_pb2.UpdateCfdTriggersRequest, context: Context
    ) -> position_pb2.UpdateCfdTriggersResponse:
        _not_offered("trade")

    async def ListCfds(
        self, request: position_pb2.ListCfdsRequest, context: Context
    ) -> position_pb2.ListCfdsResponse:
        _not_offered("read")

    async def PreviewCfd(
        self, request: position_pb2.PreviewCfdRequest, context: Context
    ) -> position_pb2.PreviewCfdResponse:
        _not_offered("read")

    async def GetRisk(
        self, request: position_pb2.GetRiskRequest, context: Context
    ) -> position_pb2.GetRiskResponse:
        _not_offered("read")

    async def ListLiquidations(
        self, request: position_pb2.ListLiquidationsRequest, context: Context
    ) -> position_pb2.ListLiquidationsResponse:
        _not_offered("read")
