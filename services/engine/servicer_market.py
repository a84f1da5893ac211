"""MarketService: what can be traded, by which rules. Open to everyone."""

from __future__ import annotations

from typing import Any

import grpc
from tidebook.engine.v1 import market_pb2, market_pb2_grpc

from services.engine.codec import set_time
from services.engine.service import Engine

Context = grpc.aio.ServicerContext[Any, Any]


class MarketServicer(market_pb2_grpc.MarketServiceServicer):
    """The markets as the log has them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ListMarkets(
        self, request: market_pb2.ListMarketsRequest, context: Context
    ) -> market_pb2.ListMarketsResponse:
        projection, encoder = self._engine.projection, self._engine.encoder
        return market_pb2.ListMarketsResponse(
            markets=[encoder.market(m) for _, m in sorted(projection.markets.items())],
            assets=[encoder.asset(a) for _, a in sorted(projection.assets.items())],
        )

    async def GetMarket(
        self, request: market_pb2.GetMarketRequest, context: Context
    ) -> market_pb2.GetMarketResponse:
        market = self._engine.texts.named(request.market).market
        return market_pb2.GetMarketResponse(market=self._engine.encoder.market(market))

    async def GetServerTime(
        self, request: market_pb2.GetServerTimeRequest, context: Context
    ) -> market_pb2.GetServerTimeResponse:
        response = market_pb2.GetServerTimeResponse()
        set_time(response.time, self._engine.clock.now_ns())
        return response
