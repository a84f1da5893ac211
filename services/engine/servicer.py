"""OrderService: decode, submit, encode. The account is always the token's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from tidebook.engine.v1 import order_pb2, order_pb2_grpc

from kernel.reasons import Reason, Refused
from mesh.identity import require
from mesh.streams import renew_stream
from mesh.telemetry import TRACEPARENT, current_trace
from services.engine import codec
from services.engine.domain import commands as c
from services.engine.encode import preview
from services.engine.encode_positions import write_position
from services.engine.service import Engine
from services.engine.submission import Outcome
from services.engine.trade_stream import trade

Context = grpc.aio.ServicerContext[Any, Any]
BATCH_MAX = 200


class OrderServicer(order_pb2_grpc.OrderServiceServicer):
    """Orders and the trading balance of the caller's account."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._encoder = engine.encoder

    async def PlaceOrder(
        self, request: order_pb2.PlaceOrderRequest, context: Context
    ) -> order_pb2.PlaceOrderResponse:
        account_id = require("trade").account_id
        command = codec.place_command(request, self._engine.texts, account_id)
        return await self._engine.do("engine.place_order", command, self._encoder.placed)

    async def PreviewOrder(
        self, request: order_pb2.PreviewOrderRequest, context: Context
    ) -> order_pb2.PreviewOrderResponse:
        account_id = require("read").account_id
        engine = self._engine
        command = codec.place_command(request.order, engine.texts, account_id)
        # A repetition is not what the caller wants to look at.
        command.client_order_id = ""
        text = engine.texts.by_id[command.market_id]
        now_ns = max(engine.clock.now_ns(), engine.projection.time_ns)
        try:
            # The same code as the real thing, on a copy of what the order can meet.
            trial = await engine.at_rest(lambda core: core.copy_for(command))
            before = trial.position(account_id, command.market_id)
            response = preview(text, events := trial.apply(command, now_ns))
            if text.market.kind == "MARGIN":
                write_position(response, text, before, trial, events, now_ns)
            return response
        except Refused as refused:
            response = order_pb2.PreviewOrderResponse()
            codec.write_error(response.error, refused)
            return response

    async def AmendOrder(
        self, request: order_pb2.AmendOrderRequest, context: Context
    ) -> order_pb2.AmendOrderResponse:
        account_id = require("trade").account_id
        command = codec.LateAmend(request, self._engine.texts, account_id)
        return await self._engine.do("engine.amend_order", command, self._encoder.amended)

    async def CancelOrder(
        self, request: order_pb2.CancelOrderRequest, context: Context
    ) -> order_pb2.CancelOrderResponse:
        command = codec.cancel_command(request, require("trade").account_id)
        return await self._engine.do("engine.cancel_order", command, self._encoder.cancelled)

    async def CancelAllOrders(
        self, request: order_pb2.CancelAllOrdersRequest, context: Context
    ) -> order_pb2.CancelAllOrdersResponse:
        account_id = require("trade").account_id
        command = codec.cancel_all_command(request, self._engine.texts, account_id)
        return await self._engine.do("engine.cancel_all", command, self._encoder.all_cancelled)

    async def CancelAllAfter(
        self, request: order_pb2.CancelAllAfterRequest, context: Context
    ) -> order_pb2.CancelAllAfterResponse:
        account_id = require("trade").account_id
        command = codec.cancel_all_after_command(request, self._engine.clock.now_ns(), account_id)
        name = "engine.cancel_all_after"
        return await self._engine.do(name, command, self._encoder.cancel_all_after_set)

    async def PlaceOco(
        self, request: order_pb2.PlaceOcoRequest, context: Context
    ) -> order_pb2.PlaceOcoResponse:
        account_id = require("trade").account_id
        command = codec.oco_command(request, self._engine.texts, account_id)
        return await self._engine.do("engine.place_oco", command, self._encoder.pair_placed)

    async def BatchOrders(
        self, request: order_pb2.BatchOrdersRequest, context: Context
    ) -> order_pb2.BatchOrdersResponse:
        account_id = require("trade").account_id
        if not 1 <= len(request.commands) <= BATCH_MAX:
            raise Refused(
                Reason.INVALID_ARGUMENT, f"must be 1 to {BATCH_MAX} commands", field="commands"
            )
        encoder = self._encoder
        response = order_pb2.BatchOrdersResponse()
        request_ids = [command.request_id for command in request.commands]

        def answer(index: int, command: c.Command | None, outcome: Outcome) -> None:
            encoder.write_result(response.results.add(), request_ids[index], command, outcome)

        items = codec.trade_items(request.commands, self._engine.texts, account_id)
        await self._engine.submit("engine.batch_orders", items, answer)
        return response

    async def GetOrder(
        self, request: order_pb2.GetOrderRequest, context: Context
    ) -> order_pb2.GetOrderResponse:
        account_id = require("read").account_id
        order = self._engine.projection.order_of(account_id, request.order_id)
        if order is None:
            raise self._engine.texts.not_found(
                request.order_id, "no such order of yours, or it closed long ago"
            )
        return order_pb2.GetOrderResponse(order=self._encoder.order(order))

    async def ListOpenOrders(
        self, request: order_pb2.ListOpenOrdersRequest, context: Context
    ) -> order_pb2.ListOpenOrdersResponse:
        account_id = require("read").account_id
        engine = self._engine
        orders = engine.projection.open_orders_of(account_id, engine.texts.id_of(request.market))
        return order_pb2.ListOpenOrdersResponse(orders=self._encoder.orders(orders))

    async def GetAccount(
        self, request: order_pb2.GetAccountRequest, context: Context
    ) -> order_pb2.GetAccountResponse:
        account_id = require("read").account_id
        projection = self._engine.projection
        balances = projection.balances_of(account_id)
        return order_pb2.GetAccountResponse(
            account_id=account_id,
            balances=self._encoder.balances(balances, balances),
            log_seq=projection.seq,
        )

    async def TradeStream(
        self, request_iterator: AsyncIterator[order_pb2.TradeStreamRequest], context: Context
    ) -> AsyncIterator[order_pb2.TradeStreamResponse]:
        account_id = require("trade").account_id
        given = any(key == TRACEPARENT for key, _ in context.invocation_metadata() or ())
        trace = current_trace() if given else None
        stream = trade(self._engine, account_id, _renewing(request_iterator), trace)
        async with aclosing(stream) as responses:
            async for response in responses:
                yield response

    async def WatchAccount(
        self, request: order_pb2.WatchAccountRequest, context: Context
    ) -> AsyncIterator[order_pb2.WatchAccountResponse]:
        account_id = require("read").account_id
        messages = self._engine.feeds.watch(account_id, request.resume_from_seq)
        async with aclosing(messages):
            async for message in messages:
                yield message


async def _renewing(
    requests: AsyncIterator[order_pb2.TradeStreamRequest],
) -> AsyncIterator[order_pb2.TradeStreamRequest]:
    """The requests, with the tokens they bring put in force."""
    async for request in requests:
        if request.access_token:
            await renew_stream(request.access_token)
        yield request
