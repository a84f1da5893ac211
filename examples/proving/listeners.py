"""Every stream there is, listened to in the background: gRPC server streams, and the WebSocket."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import aiohttp
import grpc
from google.protobuf import json_format
from tidebook.engine.v1 import order_pb2, order_pb2_grpc
from tidebook.gateway.v1 import gateway_pb2
from tidebook.marketdata.v1 import marketdata_pb2, marketdata_pb2_grpc

from examples.client import HttpApi, TokenSource, bearer
from examples.proving.checks import AccountMirror, BookMirror, CheckFailed, PriceMirror, TradeMirror


class Listener:
    """Mirrors of one market and one account, filled by whatever transport."""

    def __init__(self, name: str, market: str) -> None:
        self.market = market
        self.account = AccountMirror(f"{name} account")
        self.book = BookMirror(f"{name} book")
        self.prices = PriceMirror(f"{name} prices")
        self.trades = TradeMirror(f"{name} trades")

    @property
    def has_begun(self) -> bool:
        """Account, book and prices have sent their first message."""
        return all(m.messages > 0 for m in (self.account, self.book, self.prices))

    def take_prices(self, message: marketdata_pb2.WatchPricesResponse) -> None:
        for price in message.prices:
            self.prices.take(price)

    def take_books(self, message: marketdata_pb2.WatchBookResponse) -> None:
        for book in message.books:
            self.book.take(book)

    def take_trades(self, message: marketdata_pb2.WatchTradesResponse) -> None:
        for trade in message.trades:
            self.trades.take(trade)


class GrpcListener(Listener):
    """Server streams through the gRPC door."""

    def __init__(self, channel: grpc.aio.Channel, source: TokenSource, market: str) -> None:
        super().__init__("gRPC", market)
        self._channel = channel
        self._source = source

    async def run(self) -> None:
        """Listen until cancelled; raises when a stream ends or is not what it should be."""
        data = marketdata_pb2_grpc.MarketDataServiceStub(self._channel)
        orders = order_pb2_grpc.OrderServiceStub(self._channel)
        async with asyncio.TaskGroup() as group:
            for call, take in (
                (data.WatchPrices(marketdata_pb2.WatchPricesRequest()), self.take_prices),
                (
                    data.WatchBook(
                        marketdata_pb2.WatchBookRequest(
                            markets=[self.market],
                            rate=marketdata_pb2.BOOK_RATE_RAW,
                            depth=1000,
                            checksum=True,
                        )
                    ),
                    self.take_books,
                ),
                (
                    data.WatchTrades(marketdata_pb2.WatchTradesRequest(markets=[self.market])),
                    self.take_trades,
                ),
                (
                    orders.WatchAccount(
                        order_pb2.WatchAccountRequest(), metadata=await bearer(self._source)
                    ),
                    self.account.take,
                ),
            ):
                group.create_task(_follow(call, take))


async def _follow(call: Any, take: Callable[[Any], None]) -> None:
    try:
        async for message in call:
            take(message)
    finally:
        # An abandoned call is never collected.
        call.cancel()
    raise CheckFailed(f"a stream ended by itself: {await call.code()} {await call.details()}")


class SocketListener(Listener):
    """The same through `/ws`, and orders through it too."""

    def __init__(self, http: HttpApi, source: TokenSource, market: str) -> None:
        super().__init__("WebSocket", market)
        self._http = http
        self._source = source
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[gateway_pb2.ServerFrame]] = {}

    async def run(self) -> None:
        """Listen until cancelled; raises when the socket closes or a frame is wrong."""
        async with self._http.websocket() as socket, asyncio.TaskGroup() as group:
            self._socket = socket
            group.create_task(self._subscribe())
            async for message in socket:
                self._take(json_format.Parse(message.data, gateway_pb2.ServerFrame()))
            raise CheckFailed(f"the WebSocket closed: {socket.close_code}")

    async def ask(self, **operation: Any) -> gateway_pb2.ServerFrame:
        """Send a frame with one operation and wait for its answer; a refusal is an answer too."""
        assert self._socket is not None
        frame = gateway_pb2.ClientFrame(id=next(self._ids), **operation)
        answer = self._answers[frame.id] = asyncio.get_running_loop().create_future()
        await self._socket.send_str(json_format.MessageToJson(frame, indent=None))
        return await asyncio.wait_for(answer, 15)

    async def _subscribe(self) -> None:
        token = await self._source.token()
        await self._done(auth=gateway_pb2.Auth(access_token=token))
        await self._done(subscribe=gateway_pb2.Subscription(channel=gateway_pb2.CHANNEL_ACCOUNT))
        for channel in (
            gateway_pb2.CHANNEL_PRICES,
            gateway_pb2.CHANNEL_BOOK,
            gateway_pb2.CHANNEL_TRADES,
        ):
            await self._done(
                subscribe=gateway_pb2.Subscription(channel=channel, markets=[self.market])
            )

    async def _done(self, **operation: Any) -> None:
        answer = await self.ask(**operation)
        if answer.WhichOneof("payload") != "done":
            raise CheckFailed(f"the WebSocket answers {operation} with {answer}")

    def _take(self, frame: gateway_pb2.ServerFrame) -> None:
        if frame.id:
            self._answers.pop(frame.id).set_result(frame)
            return
        match frame.WhichOneof("payload"):
            case "account":
                self.account.take(frame.account)
            case "book":
                self.take_books(frame.book)
            case "prices":
                self.take_prices(frame.prices)
            case "trades":
                self.take_trades(frame.trades)
            case other:
                raise CheckFailed(f"an unasked frame: {other} {frame}")
