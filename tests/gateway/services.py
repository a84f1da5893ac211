"""Small real services for the gateway to stand in front of: right contracts, little behind them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tidebook.auth.v1 import auth_pb2, auth_pb2_grpc
from tidebook.engine.v1 import (
    internal_pb2,
    internal_pb2_grpc,
    market_pb2,
    market_pb2_grpc,
    order_pb2,
    order_pb2_grpc,
    position_pb2_grpc,
)
from tidebook.marketdata.v1 import marketdata_pb2, marketdata_pb2_grpc
from tidebook.settlement.v1 import history_pb2, history_pb2_grpc, ledger_pb2_grpc

from kernel.reasons import Reason, Refused
from mesh.identity import require
from mesh.streams import renew_stream
from mesh.tokens import TokenSigner, encode_key


class AuthService(auth_pb2_grpc.AuthServiceServicer):
    """One user, one password; refresh tokens are `refresh-N`."""

    def __init__(self) -> None:
        self.signer = TokenSigner(Ed25519PrivateKey.generate(), "test")
        self.refreshes = 0
        self.signed_out = 0
        self.metadata: dict[str, Any] = {}

    def token(
        self,
        account_id: int = 7,
        scopes: Iterable[str] = ("read", "trade"),
        ttl_seconds: int = 600,
        networks: Iterable[str] = (),
    ) -> str:
        return self.signer.sign(
            user_id=f"user-{account_id}",
            account_id=account_id,
            session_id="session",
            scopes=scopes,
            ttl_seconds=ttl_seconds,
            networks=networks,
        )

    def _tokens(self) -> auth_pb2.Tokens:
        tokens = auth_pb2.Tokens(
            access_token=self.token(), refresh_token=f"refresh-{self.refreshes}"
        )
        tokens.access_expire_time.FromSeconds(int(time.time()) + 600)
        tokens.refresh_expire_time.FromSeconds(int(time.time()) + 86_400)
        return tokens

    async def SignIn(self, request: auth_pb2.SignInRequest, context: Any) -> Any:
        self.metadata = dict(context.invocation_metadata())
        if request.password != "correct horse":
            raise Refused(Reason.BAD_CREDENTIALS)
        return auth_pb2.SignInResponse(tokens=self._tokens(), user=auth_pb2.User(account_id=7))

    async def RefreshToken(self, request: auth_pb2.RefreshTokenRequest, context: Any) -> Any:
        if request.refresh_token != f"refresh-{self.refreshes}":
            raise Refused(Reason.SESSION_REVOKED)
        self.refreshes += 1
        return auth_pb2.RefreshTokenResponse(tokens=self._tokens())

    async def SignOut(self, request: auth_pb2.SignOutRequest, context: Any) -> Any:
        require("read")
        self.signed_out += 1
        return auth_pb2.SignOutResponse()

    async def GetMe(self, request: auth_pb2.GetMeRequest, context: Any) -> Any:
        caller = require("read")
        return auth_pb2.GetMeResponse(user=auth_pb2.User(account_id=caller.account_id))

    async def GetSigningKeys(self, request: auth_pb2.GetSigningKeysRequest, context: Any) -> Any:
        key = auth_pb2.SigningKey(kid=self.signer.kid, kty="OKP", crv="Ed25519", alg="EdDSA")
        key.x = encode_key(self.signer.public_key)
        return auth_pb2.GetSigningKeysResponse(keys=[key])


@dataclass
class EngineService(
    internal_pb2_grpc.EngineInternalServiceServicer,
    order_pb2_grpc.OrderServiceServicer,
    market_pb2_grpc.MarketServiceServicer,
    position_pb2_grpc.PositionServiceServicer,
):
    """Takes every order, gives it the next id; remembers how its streams ended."""

    order_ids: int = 0
    metadata: dict[str, Any] = field(default_factory=dict)
    submitted: list[internal_pb2.SubmittedCommand] = field(default_factory=list)
    # Messages of all `TradeStream`s.
    trade_messages: int = 0
    # How often `SubmitCommands` was opened, and whether it breaks at its next message.
    streams: int = 0
    breaks: bool = False
    placed: list[order_pb2.PlaceOrderRequest] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    account_updates: asyncio.Queue[order_pb2.WatchAccountResponse | Exception] = field(
        default_factory=asyncio.Queue
    )
    resumed_from: list[int] = field(default_factory=list)
    delay_seconds: float = 0.0

    async def ListMarkets(self, request: market_pb2.ListMarketsRequest, context: Any) -> Any:
        await context.send_initial_metadata((("x-shard", "0"),))
        return market_pb2.ListMarketsResponse(markets=[market_pb2.Market(market="BTC_USDC")])

    async def GetMarket(self, request: market_pb2.GetMarketRequest, context: Any) -> Any:
        raise Refused(Reason.MARKET_NOT_FOUND, market=request.market)

    async def GetServerTime(self, request: market_pb2.GetServerTimeRequest, context: Any) -> Any:
        await asyncio.sleep(self.delay_seconds)
        context.set_trailing_metadata((("x-trailer", "end"),))
        return market_pb2.GetServerTimeResponse()

    async def PlaceOrder(self, request: order_pb2.PlaceOrderRequest, context: Any) -> Any:
        require("trade")
        self.metadata = dict(context.invocation_metadata())
        return self._place(request)

    async def SubmitCommands(
        self, request_iterator: AsyncIterator[internal_pb2.SubmitCommandsRequest], context: Any
    ) -> AsyncIterator[internal_pb2.SubmitCommandsResponse]:
        self.streams += 1
        await context.send_initial_metadata(())
        async for request in request_iterator:
            await asyncio.sleep(self.delay_seconds)
            if self.breaks:
                raise Refused(Reason.UNAVAILABLE, "broken")
            self.submitted += request.commands
            yield internal_pb2.SubmitCommandsResponse(
                results=[self._result(one.command) for one in request.commands]
            )

    def _result(self, command: order_pb2.TradeCommand) -> order_pb2.TradeResult:
        result = order_pb2.TradeResult(request_id=command.request_id)
        try:
            if command.HasField("place"):
                result.placed.CopyFrom(self._place(command.place))
            elif command.HasField("amend"):
                result.amended.SetInParent()
            elif command.HasField("cancel"):
                result.cancelled.order.order_id = command.cancel.order_id
            elif command.HasField("cancel_all"):
                result.all_cancelled.cancelled = 2
        except Refused as refused:
            result.error.reason = refused.reason.value  # type: ignore[assignment]
            result.error.message = refused.message
            result.error.field = refused.field
            result.error.details.update(refused.details)
        return result

    def _place(self, request: order_pb2.PlaceOrderRequest) -> order_pb2.PlaceOrderResponse:
        if request.price == "0.001":
            raise Refused(Reason.PRICE_NOT_ON_TICK, "wrong tick", field="price", tick_size="0.01")
        self.placed.append(request)
        self.order_ids += 1
        return order_pb2.PlaceOrderResponse(
            order=order_pb2.Order(order_id=self.order_ids, market=request.market, side=request.side)
        )

    async def TradeStream(
        self, request_iterator: AsyncIterator[order_pb2.TradeStreamRequest], context: Any
    ) -> AsyncIterator[order_pb2.TradeStreamResponse]:
        caller = require("trade")
        on_disconnect = False
        try:
            async for request in request_iterator:
                self.trade_messages += 1
                await asyncio.sleep(self.delay_seconds)
                if request.access_token:
                    await renew_stream(request.access_token)
                on_disconnect = on_disconnect or request.cancel_on_disconnect
                results = [self._result(command) for command in request.commands]
                yield order_pb2.TradeStreamResponse(results=results)
        finally:
            self.ended.append(f"trade stream of {caller.account_id}, cancel {on_disconnect}")

    async def WatchAccount(
        self, request: order_pb2.WatchAccountRequest, context: Any
    ) -> AsyncIterator[order_pb2.WatchAccountResponse]:
        caller = require("read")
        self.resumed_from.append(request.resume_from_seq)
        try:
            if not request.resume_from_seq:
                yield order_pb2.WatchAccountResponse(seq=10, snapshot=True)
            while True:
                update = await self.account_updates.get()
                if isinstance(update, Exception):
                    raise update
                yield update
        finally:
            self.ended.append(f"account stream of {caller.account_id}")


class MarketDataService(marketdata_pb2_grpc.MarketDataServiceServicer):
    """Streams that send what a test puts into `publish`; remembers who listens."""

    def __init__(self) -> None:
        self.listeners: dict[str, list[asyncio.Queue[Any]]] = {}
        self.opened: list[str] = []
        self.book_snapshots: dict[str, marketdata_pb2.BookUpdate] = {}
        self.trade_resumes: list[int] = []
        self.candles_asked: list[tuple[int, int]] = []

    def publish(self, channel: str, message: Any) -> None:
        for queue in self.listeners.get(channel, ()):
            queue.put_nowait(message)

    def listening(self, channel: str) -> int:
        return len(self.listeners.get(channel, ()))

    async def _watch(self, channel: str, first: Any = None) -> AsyncIterator[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.listeners.setdefault(channel, []).append(queue)
        self.opened.append(channel)
        try:
            if first is not None:
                yield first
            while True:
                message = await queue.get()
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            self.listeners[channel].remove(queue)

    async def ListTickers(self, request: marketdata_pb2.ListTickersRequest, context: Any) -> Any:
        return marketdata_pb2.ListTickersResponse(
            tickers=[marketdata_pb2.Ticker(market=market) for market in request.markets]
        )

    async def WatchBook(
        self, request: marketdata_pb2.WatchBookRequest, context: Any
    ) -> AsyncIterator[marketdata_pb2.WatchBookResponse]:
        market = request.markets[0]
        snapshot = self.book_snapshots.get(market)
        if snapshot is None:
            raise Refused(Reason.MARKET_NOT_FOUND, market=market)
        first = marketdata_pb2.WatchBookResponse(books=[snapshot])
        async for message in self._watch(f"book {market}", first):
            yield message

    async def WatchTrades(
        self, request: marketdata_pb2.WatchTradesRequest, context: Any
    ) -> AsyncIterator[marketdata_pb2.WatchTradesResponse]:
        self.trade_resumes.append(request.resume_from_seq)
        async for message in self._watch("trades"):
            yield message

    async def WatchPrices(
        self, request: marketdata_pb2.WatchPricesRequest, context: Any
    ) -> AsyncIterator[marketdata_pb2.WatchPricesResponse]:
        async for message in self._watch("prices"):
            yield message

    async def WatchTickers(
        self, request: marketdata_pb2.WatchTickersRequest, context: Any
    ) -> AsyncIterator[marketdata_pb2.WatchTickersResponse]:
        async for message in self._watch("tickers"):
            yield message

    async def WatchCandles(
        self, request: marketdata_pb2.WatchCandlesRequest, context: Any
    ) -> AsyncIterator[marketdata_pb2.WatchCandlesResponse]:
        self.candles_asked.append((request.interval, request.source))
        async for message in self._watch("candles"):
            yield message

    async def Subscribe(
        self, request_iterator: AsyncIterator[marketdata_pb2.SubscribeRequest], context: Any
    ) -> AsyncIterator[marketdata_pb2.SubscribeResponse]:
        async for request in request_iterator:
            yield marketdata_pb2.SubscribeResponse(acknowledged=request.request_id)


class HistoryService(history_pb2_grpc.HistoryServiceServicer):
    """A history of `pieces` pieces, then maybe an error."""

    def __init__(self) -> None:
        self.pieces = 3
        self.breaks = False

    async def ExportHistory(
        self, request: history_pb2.ExportHistoryRequest, context: Any
    ) -> AsyncIterator[history_pb2.ExportHistoryResponse]:
        require("read")
        for number in range(self.pieces):
            yield history_pb2.ExportHistoryResponse(csv=f"line {number}\n")
        if self.breaks:
            raise Refused(Reason.SLOW_READER)


class LedgerService(ledger_pb2_grpc.LedgerServiceServicer):
    """Says UNIMPLEMENTED to everything."""


Context = grpc.aio.ServicerContext[Any, Any]
