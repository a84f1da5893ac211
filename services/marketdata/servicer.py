"""The RPC methods: decode, call, encode."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from tidebook.marketdata.v1 import marketdata_pb2 as pb
from tidebook.marketdata.v1 import marketdata_pb2_grpc as rpc

from services.marketdata.hub import Mailbox, Subscription
from services.marketdata.service import MarketData

Context = grpc.aio.ServicerContext[Any, Any]


class MarketDataServicer(rpc.MarketDataServiceServicer):
    """`tidebook.marketdata.v1.MarketDataService`."""

    def __init__(self, market_data: MarketData) -> None:
        self._data = market_data

    async def ListPrices(
        self, request: pb.ListPricesRequest, context: Context
    ) -> pb.ListPricesResponse:
        return self._data.list_prices(request)

    async def WatchPrices(
        self, request: pb.WatchPricesRequest, context: Context
    ) -> AsyncIterator[pb.WatchPricesResponse]:
        mailbox = Mailbox()
        async for response in responses_of(mailbox, self._data.watch_prices(request, mailbox)):
            yield response


async def responses_of(mailbox: Mailbox, subscription: Subscription) -> AsyncIterator[Any]:
    """The responses of a stream with one subscription, until it is cancelled or fails."""
    with contextlib.closing(subscription):
        while True:
            for _, message in await mailbox.take():
                yield message
