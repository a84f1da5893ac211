"""The CFD half of PositionService: decode, submit, encode. The account is always the token's."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from tidebook.engine.v1 import position_pb2

from kernel.reasons import Reason, Refused
from mesh.identity import require
from services.engine.service import Engine

Context = grpc.aio.ServicerContext[Any, Any]


def _not_offered(scope: str) -> NoReturn:
    require(scope)
    raise Refused(Reason.UNSUPPORTED, "CFDs are not offered yet")


class CfdMethods:
    """What PositionService can do with CFDs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
