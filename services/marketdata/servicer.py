"""The RPC methods: decode, call, encode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import grpc
from tidebook.marketdata.v1 import marketdata_pb2 as pb
from tidebook.marketdata.v1 import marketdata_pb2_grpc as rpc

from mesh.aio import cancel_and_wait
from services.marketdata.hub import Mailbox
from services.marketdata.service import MarketData
from services.marketdata.subscribe import SubscribeSession, as_subscribe_response

Context = grpc.aio.ServicerContext[Any, Any]


class MarketDataServicer(rpc.MarketDataServiceServicer):
    """`tidebook.marketdata.v1.MarketDataService`."""

    def __init__(self, market_data: MarketData) -> None:
        self._data = market_data

    async def GetTicker(
        self, request: pb.GetTickerRequest, context: Context
    ) -> pb.GetTickerResponse:
        return self._data.get_ticker(request)

    async def ListTickers(
        self, request: pb.ListTickersRequest, context: Context
    ) -> pb.ListTickersResponse:
        return self._data.list_tickers(request)

    async def GetBook(self, request: pb.GetBookRequest, context: Context) -> pb.GetBookResponse:
        return self._data.get_book(request)

    async def ListTrades(
        self, request: pb.ListTradesRequest, context: Context
    ) -> pb.ListTradesResponse:
        return await self._data.list_trades(request)

    async def ListCandles(
        self, request: pb.ListCandlesRequest, context: Context
    ) -> pb.ListCandlesResponse:
        return await self._data.list_candles(request)

    async def GetMarketPrices(
        self, request: pb.GetMarketPricesRequest, context: Context
    ) -> pb.GetMarketPricesResponse:
        return self._data.get_market_prices(request)

    async def ListPrices(
        self, request: pb.ListPricesRequest, context: Context
    ) -> pb.ListPricesResponse:
        return self._data.list_prices(request)

    async def WatchPrices(
        self, request: pb.WatchPricesRequest, context: Context
    ) -> AsyncIterator[pb.WatchPricesResponse]:
        mailbox = Mailbox()
        with closing(self._data.watch_prices(request, mailbox)):
            await _confirm(context)
            async for response in mailbox:
                yield response

    async def WatchTickers(
        self, request: pb.WatchTickersRequest, context: Context
    ) -> AsyncIterator[pb.WatchTickersResponse]:
        mailbox = Mailbox()
        with closing(self._data.watch_tickers(request, mailbox)):
            await _confirm(context)
            async for response in mailbox:
                yield response

    async def WatchBook(
        self, request: pb.WatchBookRequest, context: Context
    ) -> AsyncIterator[pb.WatchBookResponse]:
        mailbox = Mailbox()
        with closing(self._data.watch_book(request, mailbox)):
            await _confirm(context)
            async for response in mailbox:
                yield response

    async def WatchOrderBook(
        self, request: pb.WatchOrderBookRequest, context: Context
    ) -> AsyncIterator[pb.WatchOrderBookResponse]:
        mailbox = Mailbox()
        with closing(self._data.watch_order_book(request, mailbox)):
            await _confirm(context)
            async for response in mailbox:
                yield response

    async def WatchTrades(
        self, request: pb.WatchTradesRequest, context: Context
    ) -> AsyncIterator[pb.WatchTradesResponse]:
        mailbox = Mailbox()
        with closing(self._data.watch_trades(request, mailbox)):
            await _confirm(context)
            async for response in mailbox:
                yield response

    async def WatchCandles(
        self, request: pb.WatchCandlesRequest, context: Context
    ) -> AsyncIterator[pb.WatchCandlesResponse]:
        mailbox = Mailbox()
        with closing(self._data.watch_candles(request, mailbox)):
            await _confirm(context)
            async for response in mailbox:
                yield response

    async def Subscribe(
        self, requests: AsyncIterator[pb.SubscribeRequest], context: Context
    ) -> AsyncIterator[pb.SubscribeResponse]:
        mailbox = Mailbox()
        with closing(SubscribeSession(self._data, mailbox)) as session:
            await _confirm(context)
            reading = asyncio.create_task(session.read(requests))
            try:
                async for response in mailbox:
                    yield as_subscribe_response(response)
                # Raises what ended the requests, such as one that breaks its rules.
                await reading
            finally:
                await cancel_and_wait(reading)


async def _confirm(context: Context) -> None:
    """Tell the client that its stream is in force, though there may be nothing to send yet."""
    await context.send_initial_metadata(())
